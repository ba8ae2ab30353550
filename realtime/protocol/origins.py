"""Origins: from whose pages a browser may connect (RFC 6455, 10.2; RFC 6454).

Scheme, host and port are compared, so `https://app.example` is `https://app.example:443` and nothing else.
`https://*.example.com` is every name below example.com and not that itself. A page of no origin (a file, a
sandboxed frame) says `null`, which is let in where the list says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

DEFAULT_PORTS: Final = {"https": 443, "http": 80, "wss": 443, "ws": 80}

Origin = tuple[str, str, int]
"""(scheme, host, port), 0 for the port of a scheme that has none."""

# WHATWG URL: an origin's host is in ASCII and in lower case by the time that a browser says it.
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_WILDCARD: Final = "*."


class OriginRules:
    """A list of origins. It is true where there is one, and `in` says whether an origin is on it.

    Raises:
        ValueError: an entry is no origin; it is named.
    """

    __slots__ = ("_below", "_exact", "_missing", "_null")

    def __init__(self, entries: Iterable[str] = (), *, missing: bool = False) -> None:
        exact: set[Origin] = set()
        below: set[Origin] = set()
        self._null = False
        self._missing = missing
        for entry in entries:
            scheme, starred, rest = entry.partition(f"://{_WILDCARD}")
            found = _parse(f"{scheme}://{rest}" if starred else entry)
            if entry == "null":
                self._null = True
            elif found is None or (starred and found[1].startswith("[")):
                raise ValueError(f"{entry!r} is not scheme://host[:port], scheme://*.host[:port] or null")
            else:
                (below if starred else exact).add(found)
        self._exact, self._below = frozenset(exact), frozenset(below)

    def __bool__(self) -> bool:
        return bool(self._exact or self._below or self._null)

    def __contains__(self, origin: str) -> bool:
        if origin == "null":
            return self._null
        found = _parse(origin)
        return found is not None and (
            found in self._exact or (bool(self._below) and _is_below(found, self._below))
        )

    def allow(self, origin: str | None) -> bool:
        """Whether who says `origin` may connect; where nobody says one, `missing` decides."""
        return self._missing if origin is None else origin in self


def _parse(text: str) -> Origin | None:
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        return None
    scheme = found["scheme"]
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS.get(scheme, 0)
    return (scheme, found["host"], port) if port <= 65535 else None


def _is_below(origin: Origin, suffixes: frozenset[Origin]) -> bool:
    """Is the host a name below one of those? A label at least is left of it."""
    scheme, host, port = origin
    at = host.find(".", 1)
    while at > 0:
        if (scheme, host[at + 1 :], port) in suffixes:
            return True
        at = host.find(".", at + 1)
    return False
