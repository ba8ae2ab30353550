"""Few at a time: what 100,000 rooms have to ask Redis at once, when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

log: Final = logging.getLogger("realtime.broker")

Job = Callable[[], Coroutine[Any, Any, None]]


class Pacer:
    """Runs jobs, at most `at_once` at the same time; those that somebody waits for go first."""

    def __init__(self, at_once: int = 256) -> None:
        self._at_once = at_once
        self._urgent: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._urgent) + len(self._waiting)

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._tasks)

    def add(self, job: Job, *, urgent: bool = False) -> None:
        """Run `job` when its turn comes. What it raises is logged."""
        (self._urgent if urgent else self._waiting).append(job)
        if len(self._tasks) < self._at_once:
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        """Run jobs until none wait."""
        while self._urgent or self._waiting:
            job = self._urgent.popleft() if self._urgent else self._waiting.popleft()
            try:
                await job()
            except Exception:
                log.exception("a question to Redis failed")

    async def close(self) -> None:
        """Forget what waits, and end what runs."""
        self._urgent.clear()
        self._waiting.clear()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
