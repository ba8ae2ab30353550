"""Commands that are tried again later: the slot is on its way, or nobody has it just now."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

from realtime.backends.redis_client.link import Terms, away
from realtime.backends.redis_client.wire import Call

DELAY_MIN_S: Final = 0.01
DELAY_MAX_S: Final = 0.25


class Retries:
    """Bounded in bytes. `again` is called with each command once its time has come, before its deadline."""

    def __init__(self, terms: Terms, again: Callable[[Call], None]) -> None:
        self.queued_bytes = 0
        self.total = 0
        self._terms = terms
        self._again = again
        self._calls: list[tuple[float, int, Call]] = []
        self._numbers = count()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        """Try `call` again after a delay that grows with its tries; the delays are spread."""
        if self.queued_bytes + len(call.data) > self._terms.queue_bytes:
            self._loop.call_soon(call.finish, away("too much waits for Redis; try again"))
            return
        now = self._terms.clock.monotonic()
        delay = min(DELAY_MAX_S, DELAY_MIN_S * 2.0 ** min(call.tries, 10)) * (0.5 + self._terms.random() / 2)
        call.tries += 1
        self.total += 1
        self.queued_bytes += len(call.data)
        heapq.heappush(self._calls, (min(now + delay, call.deadline), next(self._numbers), call))
        if self._timer is not None and self._calls[0][2] is call:
            self._timer.cancel()
            self._timer = None
        self._arm(now)

    def hurry(self) -> None:
        """Try all again now: there is reason to hope."""
        calls, self._calls = sorted(self._calls), []
        self.queued_bytes = 0
        for _, _, call in calls:
            self._retry(call)

    def close(self) -> None:
        """Try nothing any more."""
        calls, self._calls = self._calls, []
        if self._timer is not None:
            self._timer.cancel()
        for _, _, call in calls:
            call.finish(away("Redis is not used any more"))

    def _arm(self, now: float) -> None:
        if self._timer is None and self._calls:
            self._timer = self._loop.call_later(max(0.001, self._calls[0][0] - now), self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._terms.clock.monotonic()
        while self._calls and self._calls[0][0] <= now:
            call = heapq.heappop(self._calls)[2]
            self.queued_bytes -= len(call.data)
            self._retry(call)
        self._arm(now)

    def _retry(self, call: Call) -> None:
        if self._terms.clock.monotonic() >= call.deadline:
            call.finish(away())
        else:
            self._again(call)
