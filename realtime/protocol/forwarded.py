"""Whose request a proxy forwards: `X-Forwarded-For`, `Forwarded` (RFC 7239), `X-Real-IP`.

A list is read from its end: the last entry is what the nearest proxy has seen, and each one before it what
the proxy of that entry has seen. So it is walked as long as the addresses are trusted ones; the first that is
not is the client's, and what stands before that is the client's own invention. Whose header is read at all is
the caller's to decide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final, Literal

from realtime.native.address import pack

ForwardedHeader = Literal["x-forwarded-for", "forwarded", "x-real-ip"]

UNKNOWN: Final = b""
"""A node that its proxy did not know, or would not name (RFC 7239, 6.2 and 6.3)."""

# RFC 7239, 4. What delimits (, ; and quotes) decides; a value without quotes may hold more than a token, for
# there are proxies that leave the quotes around a port out.
# Possessive throughout: a head of nothing but blanks costs one look at each.
_PAIR: Final = re.compile(
    r"[ \t]*+(?:(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]++)="
    r'(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>[^\s",;=]++))[ \t]*+)?(?P<end>[,;]|\Z)'
)
_NODE: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)|(?P<hidden>unknown|_[0-9A-Za-z._-]+))"
    r"(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?",
    re.IGNORECASE,
)


def client_of(
    header: ForwardedHeader, value: str, proxy: bytes, trusted: Callable[[bytes], bool]
) -> bytes | None:
    """Return the packed address of the client whose request the trusted `proxy` forwards, packed too.

    Where a trusted proxy says that it does not know, that proxy's own address is the last that is known.
    None: what would decide cannot be read, so nothing of it is believed.
    """
    nodes = _forwarded(value) if header == "forwarded" else _listed(value)
    if nodes is None or (header == "x-real-ip" and len(nodes) != 1):
        return None
    client = proxy
    for text in reversed(nodes):
        address = _address(text)
        if address is None:
            return None
        if address == UNKNOWN:
            return client
        client = address
        if not trusted(client):
            return client
    return client


def _address(node: str) -> bytes | None:
    """Return the packed address of a node, UNKNOWN where it has none, None where it is none."""
    found = _NODE.fullmatch(node)
    if found is None:
        return pack(node)  # an IPv6 address without its brackets, as X-Forwarded-For has it
    return UNKNOWN if found["hidden"] else pack(found["v6"] or found["v4"])


def _listed(value: str) -> list[str]:
    """The elements of a list; empty ones are allowed and mean nothing (RFC 9110, 5.6.1)."""
    return [each for each in (part.strip(" \t") for part in value.split(",")) if each]


def _forwarded(value: str) -> list[str] | None:
    """The `for` of each element of Forwarded, `unknown` where it has none; None where it is malformed.

    An open quote, which a client may send for the proxy to append to, makes all of it malformed.
    """
    nodes: list[str] = []
    element: dict[str, str] = {}
    for name, text, ends in _pairs(value):
        if name is None:
            return None
        if name:
            if name in element:
                return None  # RFC 7239, 4: once an element
            element[name] = text
        if ends:
            if element:
                nodes.append(element.get("for", "unknown"))
            element = {}
    return nodes


def _pairs(value: str) -> Iterator[tuple[str | None, str, bool]]:
    """Yield (name in lower case, value, does its element end here).

    The name is "" where nothing stands between two delimiters, and None for nonsense, which ends it.
    """
    at = 0
    while True:
        found = _PAIR.match(value, at)
        if found is None:
            yield None, "", True
            return
        quoted = found["quoted"]
        text = found["plain"] or "" if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        yield (found["name"] or "").lower(), text, found["end"] != ";"
        if found["end"] == "":
            return
        at = found.end()
