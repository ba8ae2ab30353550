"""The numbers of one user's connections: those that there are, and those that Redis has not been told of."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice


class Untold:
    """What Redis has not been told yet of one user: connection numbers."""

    __slots__ = ("came", "gone")

    def __init__(self) -> None:
        self.came: dict[int, None] = {}  # in order of coming
        self.gone: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.came or self.gone)

    def take(self, most: int) -> Untold:
        """Take out at most so many of each."""
        taken = Untold()
        taken.came = dict.fromkeys(islice(self.came, most))
        taken.gone = set(islice(self.gone, most))
        for number in taken.came:
            del self.came[number]
        self.gone -= taken.gone
        return taken


def with_number(numbers: Collection[int], number: int) -> Collection[int]:
    """Return `numbers` and one more. Few are a tuple, of 40 bytes and 8 a number; a set of one has 216."""
    if isinstance(numbers, set):
        numbers.add(number)
        return numbers
    return (*numbers, number) if len(numbers) < 8 else {*numbers, number}


def without_number(numbers: Collection[int], number: int) -> Collection[int]:
    """Return `numbers` without one of them."""
    if isinstance(numbers, set):
        numbers.discard(number)
        return numbers
    return tuple(each for each in numbers if each != number)
