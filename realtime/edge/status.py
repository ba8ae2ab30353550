"""How a worker is, for whoever administers it: its numbers, and what it may be told to do.

Nothing is computed until somebody asks, and what has to be walked over is walked in slices, once a second at
most. Orders are what a process can do about itself; what does them is offered by whoever can (`offer`).
"""

from __future__ import annotations

import asyncio
import heapq
import resource
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from realtime import __version__
from realtime.backends.audit_keeper import AuditKeeper
from realtime.core.audit import Auditor
from realtime.core.audit_notes import Note
from realtime.core.cluster import WorkerId
from realtime.core.core import Core
from realtime.edge.telemetry import Taken
from realtime.errors import BadMessage
from realtime.ids import TenantId
from realtime.native.histogram import BOUNDS_S
from realtime.protocol.admin import Busy, Occurrence, WorkerStatus

if TYPE_CHECKING:
    from realtime.native.hub import Hub

STATUS: Final = "status"
EVENTS: Final = "events"
ORDER: Final = "order/"
"""Before the name of an order in its verb."""

DRAIN: Final = "drain"
SHED: Final = "shed"
ORDERS: Final = (DRAIN, SHED)

BUSIEST: Final = 10
BUSIEST_EVERY_S: Final = 1.0
SLICE: Final = 2000
ORDER_DELAY_S: Final = 0.05  # the answer goes out first
EVENTS_MAX: Final = 50
HUB_COUNTERS: Final[tuple[str, ...]] = (
    *("accepted", "closed", "handshakes", "refused", "messages_in", "bytes_in", "bytes_out", "sends"),
    *("appended", "deliveries", "slow_consumers", "dropped", "rate_limited", "heartbeat_timeouts"),
)
CORE_COUNTERS: Final[tuple[str, ...]] = ("errors", "failures", "denied", "kicked_total")


class Since(msgspec.Struct, frozen=True, array_like=True):
    """The audit entries that were remembered after that one."""

    number: int


class Recent(msgspec.Struct, frozen=True, array_like=True):
    """The answer: the newest ones, oldest first, and the number of the last."""

    number: int
    events: list[Occurrence]


class Reports:
    """Answers `status` and `events`, and takes orders."""

    def __init__(
        self,
        core: Core,
        hub: Hub,
        node: str,
        timings: Callable[[], Mapping[str, Taken]],
        audit: Auditor,
        checks: Callable[[], Mapping[str, str]],
        draining: Callable[[], bool],
    ) -> None:
        self._core = core
        self._hub = hub
        self._node = node
        self._timings = timings
        self._audit = audit
        self._checks = checks
        self._draining = draining
        self._began = time.monotonic()
        self._orders: list[str] = []
        self._busiest: tuple[list[Busy], list[Busy]] = ([], [])
        self._busiest_at = float("-inf")
        core.cluster.answer(STATUS, self._on_status)
        core.cluster.answer(EVENTS, self._on_events)

    def offer(self, order: str, obey: Callable[[], object]) -> None:
        """Let `obey` be called, once the order is confirmed, whenever it is given."""

        def take(asker: WorkerId, body: bytes) -> bytes:
            asyncio.get_running_loop().call_later(ORDER_DELAY_S, obey)
            return b""

        self._orders.append(order)
        self._core.cluster.answer(ORDER + order, take)

    async def _on_status(self, asker: WorkerId, body: bytes) -> bytes:
        rooms, tenants = await self._most()
        hub, core, timings = self._hub.stats(), self._core.stats(), self._timings()
        usage = resource.getrusage(resource.RUSAGE_SELF)
        counters: dict[str, int] = {name: hub[name] for name in HUB_COUNTERS if name in hub}
        counters.update((name, core[name]) for name in CORE_COUNTERS if name in core)
        return msgspec.msgpack.encode(
            WorkerStatus(
                worker=self._core.cluster.worker,
                node=self._node,
                version=__version__,
                uptime_s=round(time.monotonic() - self._began, 3),
                draining=self._draining(),
                checks=dict(self._checks()),
                connections=hub["connections"],
                rooms=core["rooms"],
                tenants=core["tenants"],
                counters=counters,
                cpu_s=usage.ru_utime + usage.ru_stime,
                memory_bytes=_memory_bytes(),
                bounds_s=list(BOUNDS_S),
                lag_counts=list(timings["loop_lag"][0]),
                latency_counts=list(timings["deliveries"][0]),
                busiest_rooms=rooms,
                busiest_tenants=tenants,
                orders=self._orders,
            )
        )

    def _on_events(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            since = msgspec.msgpack.decode(body, type=Since)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{EVENTS}: {error}") from error
        if not isinstance(self._audit, AuditKeeper):
            return msgspec.msgpack.encode(Recent(0, []))
        number, notes = self._audit.recent(since.number)
        return msgspec.msgpack.encode(Recent(number, [_occurrence(note) for note in notes[-EVENTS_MAX:]]))

    async def _most(self) -> tuple[list[Busy], list[Busy]]:
        """The rooms and tenants with most connections here, as they were within the last second."""
        now = time.monotonic()
        if now >= self._busiest_at + BUSIEST_EVERY_S:
            self._busiest_at = now
            self._busiest = await self._walk()
        return self._busiest

    async def _walk(self) -> tuple[list[Busy], list[Busy]]:
        rooms: list[tuple[int, str, TenantId]] = []
        tenants: list[tuple[int, TenantId]] = []
        walked = 0
        for tenant in self._core.tenants_here():
            tenants.append((tenant.connections, tenant.id))
            everywhere = list(tenant.rooms.values())
            for start in range(0, len(everywhere), SLICE):
                some = everywhere[start : start + SLICE]
                theirs = [(room.members, room.key.room, tenant.id) for room in some]
                rooms = heapq.nlargest(BUSIEST, (*rooms, *theirs))
                walked += len(some)
                if walked >= SLICE:
                    walked = 0
                    await asyncio.sleep(0)
            if len(tenants) >= SLICE:
                tenants = heapq.nlargest(BUSIEST, tenants)
                await asyncio.sleep(0)
        return (
            [Busy(name=name, connections=count, tenant=id) for count, name, id in rooms],
            [Busy(name=id, connections=count) for count, id in heapq.nlargest(BUSIEST, tenants)],
        )


def _occurrence(note: Note) -> Occurrence:
    event = note.event
    at = datetime.fromtimestamp(note.until_us / 1e6, UTC).isoformat(timespec="milliseconds")
    return Occurrence(
        at=at.replace("+00:00", "Z"),
        tenant=event.tenant,
        action=event.action.value,
        outcome=event.outcome.value,
        actor=event.actor,
        source=event.source,
        target=event.target,
        count=note.events,
        detail=dict(event.detail),
    )


def _memory_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
