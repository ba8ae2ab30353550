"""A worker that is alone: the memory broker, and for durable rooms a store that is its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

from realtime.backends.audit_keeper import AuditKeeper
from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.backends.storage_usage import StorageMeter
from realtime.backends.store_postgres import PostgresStore
from realtime.backends.store_sqlite import SqliteStore
from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.contracts import Broker, Clock, Stamp, Store
from realtime.core.core import Core
from realtime.core.database import Database
from realtime.core.quotas import QuotaBook
from realtime.core.room_rules import RoomRules
from realtime.edge.control_socket import ControlSocket, open_control
from realtime.edge.process import node_name
from realtime.edge.sealing import Sealing
from realtime.native.histogram import Histogram
from realtime.policy import Policy
from realtime.settings import Settings

STORE_LOCK: Final = "store_lock"
"""What a process is given that takes over an SQLite file."""


class Embedded:
    """A `Foundation` in one process: rooms in memory, durable ones on `store`. It closes what it is given."""

    worker: Final = ""
    cluster: Final = None
    whereabouts: Final = None
    revocations: Final = None
    headcount: Final = None

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        store: Store | None,
        sealing: Sealing,
        keeper: AuditKeeper | None = None,
        *,
        node: str | None = None,
    ) -> None:
        self._sealing = sealing
        self._settings = settings
        self._clock = clock
        self._store = store
        self._keeping: DurableBroker | None = None
        self._keeper = keeper
        self._control: ControlSocket | None = None
        self.audit: Auditor = keeper or NO_AUDITOR
        self.node = node or node_name(settings)
        self.database: Database | None = None
        if isinstance(store, SqliteStore | PostgresStore):
            self.database = store.tables

    def broker(self, stamp: Stamp, rules: RoomRules) -> Broker:
        """See `Foundation`."""
        settings = self._settings
        memory = MemoryBroker(
            self._clock,
            stamp,
            history_messages=settings.history_messages,
            history_bytes=settings.history_bytes,
            recovery_window_s=settings.recovery_window_s,
            idle_rooms=settings.idle_rooms,
            memory_bytes=settings.memory_bytes,
        )
        if self._store is None:
            return memory
        self._keeping = DurableBroker(
            memory,
            self._sealing.store(self._store, rules),
            self._clock,
            stamp,
            recovery_window_s=settings.recovery_window_s,
            idle_rooms=settings.idle_rooms,
            answer_bytes=settings.answer_bytes,
        )
        return self._keeping

    def start(self, core: Core) -> None:
        """See `Foundation`."""
        self._control = open_control(self._settings, core.cluster)
        core.quotas.watch(partial(self._count_storage, core.quotas))
        self._count_storage(core.quotas)

    def tick(self) -> None:
        """See `Foundation`."""
        self._sealing.tick()
        if self._keeping is not None and self._keeping.storage is not None:
            self._keeping.storage.tick()
        if self._keeper is not None:
            self._keeper.tick()

    def _count_storage(self, quotas: QuotaBook) -> None:
        """Count what tenants keep, from the day on that this is limited."""
        if self._keeping is not None and self._keeping.storage is None and quotas.limits_storage:
            self._keeping.storage = StorageMeter(self._keeping.store, quotas, self._clock, shared=False)

    def checks(self) -> dict[str, str]:
        """See `Foundation`. The broker is in this process: it answers as long as we do."""
        checks = {"broker": "ok"}
        if self._store is not None:
            checks["store"] = "ok" if self._store.ok else "failing"
        if self._keeping is not None and (meter := self._keeping.storage) is not None:
            checks["storage quotas"] = "ok" if meter.ready else "being counted"
        if self._keeper is not None:
            checks["audit"] = "ok" if self._keeper.ok else "failing"
        return checks | self._sealing.checks()

    def stats(self) -> Mapping[str, int]:
        """See `Foundation`."""
        kept = {} if self._keeper is None else self._keeper.stats()
        return {**self._sealing.stats(), **kept}

    def timings(self) -> Mapping[str, Histogram]:
        """See `Foundation`."""
        store = self._store
        return store.timings() if isinstance(store, SqliteStore | PostgresStore) else {}

    def check_policy(self, policy: Policy) -> None:
        """See `Foundation`."""
        self._sealing.check_policy(policy)

    def files(self) -> dict[str, int]:
        """See `Foundation`."""
        return {STORE_LOCK: self._store.lock_fd} if isinstance(self._store, SqliteStore) else {}

    busy: Final = 0

    def export(self) -> bytes:
        """See `Foundation`."""
        return b""

    def adopt(self, state: bytes) -> None:
        """See `Foundation`."""

    def hand_over(self) -> None:
        """See `Foundation`."""
        if isinstance(self._store, SqliteStore | PostgresStore):
            self._store.hand_over()

    def take_over(self) -> None:
        """See `Foundation`."""
        if isinstance(self._store, SqliteStore | PostgresStore):
            self._store.take_over()

    async def leave(self) -> None:
        """See `Foundation`."""

    async def close(self) -> None:
        """See `Foundation`."""
        if self._control is not None:
            await self._control.close()
        if self._keeping is not None and self._keeping.storage is not None:
            await self._keeping.storage.close()
        if self._store is not None:
            await self._store.close()
        await self._sealing.close()
        if self._keeper is not None:  # last: the others may still have something to tell
            await self._keeper.close()
