"""The auditor of a worker: takes events without waiting, and has them kept in groups.

A group is what has queued while the last one was committed. Where the store gives no answer the same group
is tried again until it does, and what comes meanwhile is queued up to a bound; above it events are lost, and
that is counted, logged, and written down as soon as there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from typing import Final

from realtime.backends.groups import Episode
from realtime.core import audit_chain
from realtime.core.audit import NO_TENANT, Action, Event, Outcome
from realtime.core.audit_notes import Coalescer, Note
from realtime.core.audit_store import AuditStore
from realtime.core.contracts import Clock
from realtime.errors import Unavailable
from realtime.ids import TenantId

log: Final = logging.getLogger("realtime.audit")

QUEUE_NOTES: Final = 100_000
"""Notes that wait, at up to 700 bytes each where the event is no window's."""
GROUP_NOTES: Final = 512
# Most entries a second while nobody waits for them. One costs 23 us of CPU (bench/audit.py), so this is a
# tenth of a core however many come at once; in a storm of handshakes the rest waits in the queue.
PACE: Final = 4000.0
LOST_TENANTS_MAX: Final = 1000
"""Tenants whose lost events are counted apart; those of all others together, as nobody's."""
BACK_OFF_MIN_S: Final = 0.1
BACK_OFF_MAX_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
RECENT_MAX: Final = 100
"""Entries that are remembered for whoever watches."""
RETAIN_EVERY_S: Final = 3600.0
RETAIN_FIRST_S: Final = 30.0
RETAIN_REST_S: Final = 0.1  # between two slices: what is new has to be written too
NOTHING: Final = audit_chain.own_entry(Action.LOST, Outcome.FAILED, NO_TENANT)
DAY_US: Final = 86_400_000_000


class AuditKeeper:
    """An `Auditor` on a store, which it closes. `tick` about ten times a second.

    Without `admissions` those who are let in are not on record, only those who are refused.
    """

    def __init__(
        self,
        store: AuditStore,
        clock: Clock,
        *,
        window_s: float,
        notes_per_second: float,
        admissions: bool = True,
        retention_days: int = 0,
        queue_notes: int = QUEUE_NOTES,
        pace: float = PACE,
    ) -> None:
        self._store = store
        self._admissions = admissions
        self._clock = clock
        self._coalescer = Coalescer(clock, self._take, window_s=window_s, notes_per_second=notes_per_second)
        self._queue: deque[Note] = deque()
        self._queue_notes = queue_notes
        self._recent: deque[tuple[int, Note]] = deque(maxlen=RECENT_MAX)
        self._noted = 0
        self._lost: dict[TenantId, Note] = {}
        self._losing = False
        self._pace = pace
        self._hurry = asyncio.Event()  # somebody waits until all is kept
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._trouble = Episode("the audit log", clock)
        self._retention_us = retention_days * DAY_US
        self._retain_at = clock.monotonic() + RETAIN_FIRST_S * random.uniform(1, 2)  # not all workers at once
        self._retaining: asyncio.Task[None] | None = None
        self._events = 0
        self._entries = 0
        self._groups = 0
        self._lost_events = 0
        self._dropped = 0
        self._task = asyncio.create_task(self._run())

    def record(self, event: Event) -> None:
        """See `Auditor`."""
        if not self._admissions and event.action is Action.CONNECT and event.outcome is Outcome.ALLOWED:
            return
        self._events += 1
        try:
            self._coalescer.add(event)
        except Exception:  # an event that is none is a mistake of ours, and no reason to fail who decided
            log.exception("an event is not on record")
            self._lost_events += 1

    def tick(self) -> None:
        """Note repeats whose window has ended; drop what is too old, now and then."""
        self._coalescer.tick()
        now = self._clock.monotonic()
        if self._retention_us and now >= self._retain_at and self._retaining is None:
            self._retain_at = now + RETAIN_EVERY_S
            self._retaining = asyncio.create_task(self._retain())

    async def flush(self) -> None:
        """Wait until all that was recorded by now is kept, repeats included."""
        self._coalescer.flush()
        self._hurry.set()
        await self._idle.wait()

    async def retained(self) -> None:
        """Wait until what is being dropped for its age is dropped."""
        if self._retaining is not None:
            await self._retaining

    @property
    def ok(self) -> bool:
        """Whether the last group was kept."""
        return self._trouble.over

    async def close(self) -> None:
        """Keep what is queued, if the store answers in time, then close the store."""
        if self._closing:
            return
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.flush()
        except TimeoutError:
            lost = sum(note.events for note in (*self._queue, *self._lost.values()))
            log.error("the audit log gives no answer: %d events and those under way are not kept", lost)
        tasks = [task for task in (self._task, self._retaining) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._store.close()

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "audit_ok": int(self.ok),
            "audit_queued_entries": len(self._queue),
            "audit_events_total": self._events,
            "audit_coalesced_total": self._coalescer.coalesced,
            "audit_entries_total": self._entries,
            "audit_groups_total": self._groups,
            "audit_lost_total": self._lost_events,
            "audit_dropped_total": self._dropped,
        }

    def recent(self, since: int) -> tuple[int, list[Note]]:
        """Return the newest notes after number `since`, oldest first, and the number of the last there is."""
        return self._noted, [note for number, note in self._recent if number > since]

    def _take(self, note: Note) -> None:
        self._noted += 1
        self._recent.append((self._noted, note))
        if len(self._queue) < self._queue_notes:
            self._queue.append(note)
        else:
            self._lose(note)
        self._idle.clear()
        self._news.set()

    def _lose(self, note: Note) -> None:
        """Count what there is no room for; it becomes an entry of its own in the chain that it was for."""
        self._lost_events += note.events
        if not self._losing:
            self._losing = True
            log.error("audit events are LOST; how many is written down as soon as there is room")
        tenant = note.event.tenant
        if tenant not in self._lost and len(self._lost) >= LOST_TENANTS_MAX:
            tenant = NO_TENANT
        known = self._lost.get(tenant)
        if known is None:
            event = audit_chain.own_entry(Action.LOST, Outcome.FAILED, tenant)
            self._lost[tenant] = note._replace(event=event)
        else:
            self._lost[tenant] = known._replace(events=known.events + note.events, until_us=note.until_us)

    async def _run(self) -> None:
        while True:
            group = self._next_group()
            if group:
                began = self._clock.monotonic()
                await self._keep(group)
                await self._rest(began + len(group) / self._pace)
            else:
                self._hurry.clear()
                self._idle.set()
                self._news.clear()
                await self._news.wait()

    async def _rest(self, until: float) -> None:
        left_s = until - self._clock.monotonic()
        if left_s > 0 and self._queue and not self._hurry.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._hurry.wait()

    async def _keep(self, group: list[Note]) -> None:
        """Have a group kept, however long that takes. What cannot be kept at all is counted as lost."""
        back_off_s = BACK_OFF_MIN_S
        while True:
            try:
                await self._store.append(group)
            except Unavailable as error:
                self._trouble.begin(error)
                await asyncio.sleep(back_off_s * random.uniform(0.5, 1.0))
                back_off_s = min(2 * back_off_s, BACK_OFF_MAX_S)
            except Exception:  # an event that is none, by a mistake of ours: the others must not go with it
                if len(group) == 1:
                    log.exception("an event cannot be kept")
                    self._lose(group[0]._replace(event=NOTHING))
                    return
                for note in group:
                    await self._keep([note])
                return
            else:
                self._trouble.end()
                self._entries += len(group)
                self._groups += 1
                return

    def _next_group(self) -> list[Note]:
        """Take the next notes; with them, as there is room from now on, what was lost."""
        queue = self._queue
        group = [queue.popleft() for _ in range(min(len(queue), GROUP_NOTES))]
        if self._lost:
            group += self._lost.values()
            log.error("audit events were lost: %d", sum(note.events for note in self._lost.values()))
            self._lost = {}
            self._losing = False
        return group

    async def _retain(self) -> None:
        """Drop what is too old, a slice at a time. What fails is tried again an hour later."""
        before_us = int(self._clock.time() * 1e6) - self._retention_us
        try:
            while dropped := await self._store.retain(before_us):
                self._dropped += dropped
                await asyncio.sleep(RETAIN_REST_S)
        except Unavailable as error:
            log.error("old audit entries could not be dropped: %s", error)
        finally:
            self._retaining = None
