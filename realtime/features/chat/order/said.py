"""What a message says that a rule may speak of: links, capitals, people."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from realtime.features.chat.order.folding import Reading

# With a scheme, or as people write them without: of the suffixes that are most in use, or with a path behind.
_LINK: Final = re.compile(
    r"(?:[a-z][a-z0-9+.-]{1,15}://|www\.)[^\s<>\"]{1,2000}"
    r"|(?<![\w@.-])(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?:(?:com|net|org|info|biz|io|me|co|ru|cn|xyz|top|de|uk|fr|app|dev|link|click|shop|site|online|gg|ly)\b"
    r"(?:[:/][^\s<>\"]{0,2000})?|[a-z]{2,24}/[^\s<>\"]{0,2000})"
)
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


def _host(link: str) -> str:
    rest = link.partition("://")[2] or link
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    return authority.rpartition("@")[2].partition(":")[0].strip(".").removeprefix("www.")
