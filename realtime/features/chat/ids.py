"""Message ids: decimal text of 19 digits that sorts by time, everywhere.

42 bits of milliseconds (Unix time) above 21 random ones; one process never gives two that are the same, nor
one that is lower than another of the same millisecond that it gave before.
"""

from __future__ import annotations

import random
import secrets
from typing import Final

from realtime.errors import BadMessage

RANDOM_BITS: Final = 21
DIGITS: Final = 19
AT_MS_MIN: Final = 10**18 >> RANDOM_BITS  # in 1985: from here on an id has its 19 digits
LAST: Final = str(2**63 - 1)
AT_MS_MAX: Final = (1 << 63 - RANDOM_BITS) - 1  # in 2109


class Ids:
    """Gives ids."""

    def __init__(self) -> None:
        # An id need not be hard to guess, and random bits of the kernel may cost a syscall each.
        self._bits = random.Random(secrets.randbits(128)).getrandbits
        self._last: dict[int, int] = {}  # by millisecond, of the newest few

    def new(self, at_ms: int) -> int:
        """Return the id of something that is of `at_ms` (AT_MS_MIN to AT_MS_MAX)."""
        id = self._last.get(at_ms)
        id = (at_ms << RANDOM_BITS | self._bits(RANDOM_BITS - 1)) if id is None else id + 1
        if len(self._last) >= 10_000:
            del self._last[next(iter(self._last))]
        self._last[at_ms] = id
        return id


def text_of(id: int) -> str:
    """Return an id as it is on the wire: numbers of JavaScript do not hold it."""
    return f"{id:0{DIGITS}}"


def read_id(text: str) -> int:
    """Return an id of the wire.

    Raises:
        BadMessage: it is none.
    """
    if len(text) != DIGITS or not text.isascii() or not text.isdigit() or text > LAST:
        raise BadMessage(f"{text[:32]!r} is no message id: those are {DIGITS} digits")
    return int(text)


def at_ms(id: int) -> int:
    """Return the time of an id."""
    return id >> RANDOM_BITS


def first_id(at_ms: int) -> int:
    """Return the lowest id of a millisecond."""
    return max(0, at_ms) << RANDOM_BITS
