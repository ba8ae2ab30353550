"""The auditor of a process outside of the ring: what it does is told to a worker, which keeps it.

Repeats are counted here as they are there, so that a back-end which publishes all day is an entry now and
then. What no worker has taken is told again with the next tick; what none takes in the end is logged.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, NamedTuple

import msgspec

from realtime.core.audit import Event
from realtime.core.audit_inbox import EVENTS_MAX, TELL, Batch, encode_batch
from realtime.core.audit_notes import Coalescer, Note
from realtime.core.cluster import WorkerId
from realtime.core.contracts import Clock
from realtime.errors import RealtimeError

log: Final = logging.getLogger("realtime.audit")

WINDOW_S: Final = 10.0
QUEUE_EVENTS: Final = 10_000
RETRY_S: Final = 1.0
FLUSH_TIMEOUT_S: Final = 2.0

Ask = Callable[[WorkerId, str, bytes], Awaitable[bytes]]


class Acting(NamedTuple):
    """Who acts through this process, as `by` in the detail, and from which address."""

    by: str
    source: str


ACTING: Final[ContextVar[Acting | None]] = ContextVar("acting", default=None)
"""Set while a request is done, where a process acts for others than who runs it."""


class RelayedAudit:
    """An `Auditor`. `workers` returns those who may be asked; `tick` about ten times a second."""

    def __init__(
        self, ask: Ask, workers: Callable[[], Awaitable[list[WorkerId]]], clock: Clock, by: str = ""
    ) -> None:
        self._ask = ask
        self._workers = workers
        self._clock = clock
        self._by = by or operator()
        # An operator's acts are never summed up, so the budget of strangers does not matter.
        self._coalescer = Coalescer(clock, self._queue_up, window_s=WINDOW_S, notes_per_second=1.0)
        self._queue: deque[Event] = deque()
        self._batch: Batch | None = None  # that is being told, or is to be told again
        self._told = 0
        self._lost = 0
        self._telling: asyncio.Task[None] | None = None
        self._tell_at = 0.0

    def record(self, event: Event) -> None:
        """See `Auditor`."""
        acting = ACTING.get()
        if acting is not None:
            detail = {**event.detail, "by": acting.by}
            event = msgspec.structs.replace(event, source=event.source or acting.source, detail=detail)
        self._coalescer.add(event)

    def tick(self) -> None:
        """Tell a worker what there is to tell, in the background."""
        self._coalescer.tick()
        now = self._clock.monotonic()
        if (self._queue or self._batch) and self._telling is None and now >= self._tell_at:
            self._tell_at = now + RETRY_S
            self._telling = asyncio.create_task(self._tell())

    async def flush(self) -> None:
        """Tell now what there is to tell, before it is too late for it; what fails is told later."""
        self._coalescer.flush()
        if self._telling is not None:
            await self._telling
        await self._tell()

    async def close(self) -> None:
        """Tell the rest, within two seconds; what no worker takes is logged as lost."""
        self._coalescer.flush()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                if self._telling is not None:
                    await self._telling
                await self._tell()
        except TimeoutError:
            log.error("no worker answers in time")
        left = (*self._queue, *(() if self._batch is None else self._batch.events))
        lost = self._lost + sum(event.count for event in left)
        if lost:
            log.error("%d acts are not on record: no worker took them", lost)

    async def _tell(self) -> None:
        try:
            while self._batch is not None or self._queue:
                batch = self._batch = self._batch or self._next_batch()
                # The same one each time, while it is there: it knows what it has been told.
                worker = (await self._workers())[0]
                await self._ask(worker, TELL, encode_batch(batch))
                self._batch = None
        except RealtimeError as error:
            log.warning("no worker has taken what is to go on record: %s", error.message)
        finally:
            self._telling = None

    def _next_batch(self) -> Batch:
        self._told += 1
        return Batch(self._told, [self._queue.popleft() for _ in range(min(len(self._queue), EVENTS_MAX))])

    def _queue_up(self, note: Note) -> None:
        if len(self._queue) >= QUEUE_EVENTS:
            self._lost += note.events
            return
        event = note.event
        self._queue.append(
            Event(
                tenant=event.tenant,
                action=event.action,
                outcome=event.outcome,
                actor=event.actor,
                source=event.source,
                target=event.target,
                detail={"by": self._by, **event.detail},
                count=note.events,
            )
        )


def operator() -> str:
    """Return who runs this process, as `user@host`."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a user without a name, as containers have them
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
