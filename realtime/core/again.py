"""What all workers are to do, and some could not be reached for: tried again until they have done it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic, TypeVar

from realtime.core.contracts import Clock
from realtime.core.router import Spawn
from realtime.errors import Unavailable

log: Final = logging.getLogger("realtime.core")

AGAIN_S: Final = 2.0
AGAIN_MAX: Final = 10_000  # things that are tried again; of more the oldest are given up

Thing = TypeVar("Thing", bound=Hashable)


class Again(Generic[Thing]):
    """Does `work` with things, and again every AGAIN_S where it was Unavailable."""

    def __init__(self, work: Callable[[Thing], Awaitable[Any]], clock: Clock, spawn: Spawn) -> None:
        self._work = work
        self._clock = clock
        self._spawn = spawn
        self._again: dict[Thing, None] = {}
        self._due = 0.0

    def __len__(self) -> int:
        """How many things have still to be done."""
        return len(self._again)

    def note(self, thing: Thing) -> None:
        """Try this again."""
        if not self._again:
            self._due = self._clock.monotonic() + AGAIN_S
        self._again[thing] = None
        if len(self._again) > AGAIN_MAX:
            del self._again[next(iter(self._again))]

    def tick(self) -> None:
        """Do what is due."""
        if self._again and self._clock.monotonic() >= self._due:
            again, self._again = self._again, {}
            for thing in again:
                self._spawn(self._do(thing))

    async def _do(self, thing: Thing) -> None:
        try:
            with contextlib.suppress(Unavailable):  # whoever does it has noted it
                await self._work(thing)
        except Exception:
            log.exception("%r is given up", thing)
