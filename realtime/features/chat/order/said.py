"""What a message says that a rule may speak of: links, capitals, people."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from realtime.features.chat.order.folding import Reading

# With a scheme, or as people write them without. Possessive, and begun where a word begins: in linear time.
_LINK: Final = re.compile(
    r"(?<![a-z0-9+.-])(?:[a-z][a-z0-9+.-]{1,15}+://|www\.)[^\s<>\"]{1,2000}+"
    r"|(?<![\w@.-])(?P<bare>[\w-]++(?:\.[\w-]++)++)(?P<path>(?::\d{1,5}+)?+(?:/[^\s<>\"]{0,2000}+)?+)"
)
_SUFFIXES: Final = frozenset(
    {
        *("com", "net", "org", "info", "biz", "io", "me", "co", "ru", "cn", "xyz", "top", "de", "uk", "fr"),
        *("app", "dev", "link", "click", "shop", "site", "online", "gg", "ly"),
    }
)
_SUFFIX: Final = re.compile(r"[a-z]{2,24}")
_MENTION: Final = re.compile(r"(?<![\w@])@([\w.-]{1,64})")


class Link(NamedTuple):
    """A link in a message, and the host that it leads to."""

    host: str
    start: int
    end: int


def links_in(reading: Reading) -> list[Link]:
    """Return the links of a message, in order. What is invisible in one does not hide it."""
    if "." not in reading.folded and "://" not in reading.folded:
        return []
    found = []
    for link in _LINK.finditer(reading.folded):
        if link["bare"] is not None and not _leads(link["bare"], link["path"]):
            continue
        found.append(Link(_host(link[0]), *reading.place(*link.span())))
    return found


def within(host: str, domains: frozenset[str]) -> bool:
    """Whether a host is one of `domains`, or below one."""
    parts = host.split(".")
    return any(".".join(parts[first:]) in domains for first in range(len(parts)))


def capitals_percent(text: str, letters_min: int) -> int:
    """Return how many of a text's letters are capitals, in percent; 0 where it has fewer than `letters_min`.
    Letters without case do not count.
    """
    upper = sum(map(str.isupper, text))
    letters = upper + sum(map(str.islower, text))
    return 100 * upper // letters if letters >= letters_min else 0


def mentions_in(text: str) -> int:
    """Return how many different names a text calls."""
    return len(set(_MENTION.findall(text))) if "@" in text else 0


def _leads(host: str, path: str) -> bool:
    """Whether what has dots in it and no scheme is a link: of a suffix that is in use, or with a path."""
    suffix = host.rpartition(".")[2]
    return suffix in _SUFFIXES or ("/" in path and _SUFFIX.fullmatch(suffix) is not None)


def _host(link: str) -> str:
    rest = link.partition("://")[2] or link
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    return authority.rpartition("@")[2].partition(":")[0].strip(".").removeprefix("www.")
