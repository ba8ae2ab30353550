"""A worker of a cluster: Redis between the workers, the ring, and in PostgreSQL what must be found again.

Redis may be away, at the start as later: the worker serves what it can, says so in its log and in /ready, and
goes on by itself when Redis is back. What Redis refuses at the start (credentials, a version before 7.0) ends
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from realtime.backends.audit_keeper import AuditKeeper
from realtime.backends.cluster import library, redis_ring
from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.durable import KeepingBroker, deepen
from realtime.backends.cluster.headcount import RedisHeadcount
from realtime.backends.cluster.opener import Opener
from realtime.backends.cluster.redis_ring import RedisRing, new_worker_id
from realtime.backends.cluster.revocations import RedisRevocations
from realtime.backends.cluster.ring import RingState
from realtime.backends.cluster.whereabouts import RedisWhereabouts
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import RedisError
from realtime.backends.storage_usage import StorageMeter
from realtime.backends.store_postgres import PostgresStore
from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.clock import SystemClock
from realtime.core.cluster import Change, WorkerId
from realtime.core.contracts import Broker, Clock, Stamp
from realtime.core.core import Core
from realtime.core.database import Database
from realtime.core.quotas import QuotaBook
from realtime.core.room_rules import RoomRules
from realtime.edge.audit import open_audit
from realtime.edge.heir import Inheritance
from realtime.edge.process import node_name
from realtime.edge.sealing import Sealing, open_sealing
from realtime.edge.store import open_shared_store
from realtime.errors import StartupError, Unavailable
from realtime.features import discover
from realtime.native.histogram import Histogram
from realtime.policy import Policy
from realtime.settings import Settings, mask

log: Final = logging.getLogger("realtime.edge")


class Clustered:
    """A `Foundation` over Redis. It closes the client, the store and the audit log that it is given."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        node: str,
        worker: WorkerId,
        redis: RedisClient,
        store: PostgresStore | None,
        sealing: Sealing,
        keeper: AuditKeeper | None = None,
    ) -> None:
        self._sealing = sealing
        self.node = node
        self._settings = settings
        self._clock = clock
        self._redis = redis
        self._store = store
        self.database: Database | None = None if store is None else store.tables
        self._keeper = keeper
        self.audit: Auditor = keeper or NO_AUDITOR
        self._tasks: set[asyncio.Task[None]] = set()
        self._ordering: RedisBroker | None = None
        self._keeping: KeepingBroker | None = None
        self._redis_ok = redis.ok
        self._in_ring = False
        prefix = settings.redis_prefix
        self.cluster = RedisRing(
            redis,
            worker,
            clock,
            self._spawn,
            prefix=prefix,
            beat_s=settings.ring_beat_s,
            ttl_s=settings.ring_ttl_s,
            timeout_s=settings.redis_timeout_s,
        )
        self.worker = self.cluster.worker
        self.whereabouts = RedisWhereabouts(
            redis,
            self.cluster,
            asyncio.get_running_loop().call_soon,
            self._spawn,
            prefix=prefix,
            limit=settings.max_connections_per_user,
            policy=settings.connection_limit_policy,
        )
        self.headcount = RedisHeadcount(redis, self.cluster, prefix=prefix)
        self.revocations = RedisRevocations(redis, prefix=prefix, spawn=self._spawn)

    def broker(self, stamp: Stamp, rules: RoomRules) -> Broker:
        """See `Foundation`."""
        settings, clock = self._settings, self._clock
        store = None if self._store is None else self._sealing.shared_store(self._store, rules)
        prefix, window_s = settings.redis_prefix, settings.recovery_window_s
        opener = None
        if store is not None:
            opener = Opener(self._redis, store, clock, prefix=prefix, recovery_window_s=window_s)
        self._ordering = RedisBroker(
            self._redis,
            clock,
            stamp,
            worker=self.worker,
            prefix=prefix,
            history_messages=settings.history_messages,
            history_bytes=settings.history_bytes,
            recovery_window_s=window_s,
            memory_bytes=settings.memory_bytes,
            answer_bytes=settings.answer_bytes,
            timeout_s=settings.redis_timeout_s,
            opening=opener,
            deepen=None if store is None else deepen(store, clock),
            alive=self._is_alive,
            seals=self._sealing.rooms(rules),
        )
        if store is None:
            return self._ordering
        self._keeping = KeepingBroker(self._ordering, store, clock)
        return self._keeping

    def start(self, core: Core) -> None:
        """See `Foundation`."""
        core.quotas.watch(partial(self._count_storage, core.quotas))
        self._count_storage(core.quotas)
        self.cluster.watch(self._on_change)
        self.cluster.start()

    def tick(self) -> None:
        """See `Foundation`."""
        self._sealing.tick()
        if self._keeping is not None and self._keeping.storage is not None:
            self._keeping.storage.tick()
        if self._keeper is not None:
            self._keeper.tick()
        ok = self._redis.ok
        if ok != self._redis_ok:
            self._redis_ok = ok
            if ok:
                log.warning("Redis is there again")
            else:
                log.error("Redis is away: joins and publications are refused where it is needed")

    def checks(self) -> dict[str, str]:
        """See `Foundation`."""
        checks = {
            "redis": "ok" if self._redis.ok else "away",
            "ring": "ok" if self.cluster.ok else "not in it",
        }
        if not self.revocations.loaded:
            checks["revocations"] = "not read yet"
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
        return {"redis_ok": int(self._redis.ok), **self._redis.stats(), **self._sealing.stats(), **kept}

    def timings(self) -> Mapping[str, Histogram]:
        """See `Foundation`."""
        return {**self._redis.timings(), **({} if self._store is None else self._store.timings())}

    def check_policy(self, policy: Policy) -> None:
        """See `Foundation`."""
        self._sealing.check_policy(policy)

    def files(self) -> dict[str, int]:
        """See `Foundation`. Redis and PostgreSQL take as many connections as come."""
        return {}

    @property
    def busy(self) -> int:
        """See `Foundation`."""
        return self.cluster.busy

    def export(self) -> bytes:
        """See `Foundation`: its place in the ring."""
        return msgspec.msgpack.encode(self.cluster.export())

    def adopt(self, state: bytes) -> None:
        """See `Foundation`."""
        self.cluster.adopt(msgspec.msgpack.decode(state, type=RingState))

    def hand_over(self) -> None:
        """See `Foundation`. Who listens under our name from now on is the other one."""
        self.cluster.close()

    def take_over(self) -> None:
        """See `Foundation`."""

    async def leave(self) -> None:
        """See `Foundation`."""
        try:
            await self.cluster.leave()
        except (RedisError, Unavailable) as error:
            log.warning("the others could not be told that this worker leaves: %s", error)

    async def close(self) -> None:
        """See `Foundation`."""
        self.cluster.close()
        if self._keeping is not None:
            await self._keeping.close()
        if self._ordering is not None:
            await self._ordering.close()
        if self._store is not None:
            await self._store.close()
        await self._sealing.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.close()
        if self._keeper is not None:  # last: the others may still have something to tell
            await self._keeper.close()

    def _on_change(self, change: Change) -> None:
        assert self._ordering is not None
        for worker in change.joined:
            self._ordering.welcome_worker(worker)
        for worker in change.left:
            if worker not in self.cluster.workers and worker != self.worker:
                self._ordering.forget_worker(worker)
        if self.cluster.ok and not self._in_ring:
            self._ordering.share_again()
        self._in_ring = self.cluster.ok

    def _count_storage(self, quotas: QuotaBook) -> None:
        """Count what tenants keep, from the day on that this is limited."""
        if self._keeping is not None and self._keeping.storage is None and quotas.limits_storage:
            self._keeping.storage = StorageMeter(self._keeping.store, quotas, self._clock, shared=True)

    def _is_alive(self, worker: str) -> bool:
        return not self.cluster.ok or worker in self.cluster.workers

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def open_clustered(
    settings: Settings, clock: Clock, number: int, heir: Inheritance | None = None
) -> Clustered:
    """Connect to Redis and make what stands on it; `number` is that of a supervised worker. An `heir` goes on
    as the worker that is in the ring.

    Raises:
        SettingsError: the master keys cannot be used.
        StartupError: Redis refuses us, or the store cannot be used.
    """
    node = node_name(settings, number) if heir is None else heir.node
    redis = make_client(settings, clock, node)
    await redis.start(patient=True)
    try:
        if not redis.ok:
            where = mask(settings.redis_url)
            log.error("Redis is not there (%s): this worker listens, and waits for it", where)
        elif not await _has_library(redis):
            log.error("Redis does not answer for all slots: this worker listens, and waits for it")
        store = await open_shared_store(settings, clock, discover())
        keeper = await open_audit(settings, clock)
        sealing = await open_sealing(settings, clock, store, redis, keeper or NO_AUDITOR)
    except BaseException:
        await redis.close()
        raise
    worker = new_worker_id(node) if heir is None else WorkerId(heir.worker)
    return Clustered(settings, clock, node, worker, redis, store, sealing, keeper)


def finding(settings: Settings) -> str:
    """Connect to Redis as a worker would, and say what is there. Nothing is written.

    Raises:
        StartupError: Redis is not there, or refuses us.
    """

    async def look() -> str:
        redis = make_client(settings, SystemClock(), "check")
        await redis.start()
        try:
            masters = len(await redis.ask_all("PING"))
            whole = redis.ok
        except (RedisError, Unavailable) as error:
            raise StartupError(f"{mask(settings.redis_url)}: {error}") from error
        finally:
            await redis.close()
        if not whole:
            raise StartupError(f"{mask(settings.redis_url)} does not answer for all slots")
        return f"{mask(settings.redis_url)} answers: {masters} master{'s' if masters > 1 else ''}"

    return asyncio.run(look())


async def bury(settings: Settings, worker: str) -> None:
    """Tell the others that `worker` has died, so that they need not find out. A failure is logged."""
    redis = make_client(settings, SystemClock(), "supervisor")
    try:
        await redis.start()
        await redis_ring.bury(redis, WorkerId(worker), prefix=settings.redis_prefix)
    except (RedisError, StartupError, Unavailable) as error:
        log.warning("the other workers have to find out by themselves that %s died: %s", worker, error)
    finally:
        await redis.close()


async def _has_library(redis: RedisClient) -> bool:
    """Have our functions on every master; False where one does not answer: it gets them when it is first
    asked for one.

    Raises:
        StartupError: it has no functions, or this user may not load them.
    """
    try:
        await library.ensure(redis)
    except Unavailable:
        return False
    return True


def make_client(settings: Settings, clock: Clock, name: str) -> RedisClient:
    """Return a client that is not connected yet.

    Raises:
        StartupError: `redis_url` is none.
    """
    return RedisClient(
        settings.redis_url,
        name=f"realtime-{name}",
        timeout_s=settings.redis_timeout_s,
        ping_interval_s=settings.redis_ping_interval_s,
        queue_bytes=settings.redis_queue_bytes,
        clock=clock,
        on_missing_function=library.source,
    )
