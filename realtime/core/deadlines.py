"""What is due at some second: found without looking at what is not due yet."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Deadlines(Generic[Item]):
    """Items by the whole second by which they are due. Nothing is due early, and all of it within a second;
    what is due at a whole second, as tokens are, with the first look from then on.

    An item may wait for several times; a pair of item and time is in it once.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, set[Item]] = {}
        self._looked = 0  # everything that was due by this second has been taken

    def __len__(self) -> int:
        """How many different seconds there are."""
        return len(self._waiting)

    def waits(self, at: float, item: Item) -> bool:
        """Whether it is there, and was not taken."""
        seconds = {math.ceil(at), self._looked + 1}
        return any(item in self._waiting.get(second, ()) for second in seconds)

    def add(self, at: float, item: Item) -> None:
        """Have `item` taken once `at` (Unix seconds) has passed; with the next look where it has already."""
        self._waiting.setdefault(max(math.ceil(at), self._looked + 1), set()).add(item)

    def discard(self, at: float, item: Item) -> None:
        """Forget it, if it is there."""
        for second in {math.ceil(at), self._looked + 1}:
            items = self._waiting.get(second)
            if items is not None:
                items.discard(item)
                if not items:
                    del self._waiting[second]

    def take(self, now: float) -> list[Item]:
        """Return and forget what is due by `now`."""
        second = int(now)
        passed = second - self._looked
        if passed <= 0:  # a clock that was set back: what waits goes on waiting for it
            return []
        # One look a second is the rule. After a leap of the clock what waits is fewer than the seconds.
        few = passed <= len(self._waiting)
        seconds = range(self._looked + 1, second + 1) if few else list(self._waiting)
        self._looked = second
        due: list[Item] = []
        for each in seconds:
            if each <= second and each in self._waiting:
                due += self._waiting.pop(each)
        return due
