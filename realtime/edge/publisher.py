"""A back-end's way to users and rooms without a WebSocket: publish, notify, kick, revoke, over Redis alone.

    async with realtime.Publisher("redis://127.0.0.1:6379") as publisher:
        await publisher.publish("chat:lobby", "chat_message", {"text": "hello"}, key="order-17")

What is not kept by a store is ordered by the same function that the workers use, and needs no worker to run.
All else is asked of workers. The settings of rooms and sizes have to be theirs, and so the policy:
they are read from the same environment, unless given; the policy once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Final, Self

from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.library import source
from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.redis_ring import RedisRing, new_worker_id
from realtime.backends.cluster.revocations import RedisRevocations
from realtime.backends.cluster.whereabouts import find_connections
from realtime.backends.cluster.writer import SIGNAL
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import RedisError
from realtime.core.clock import SystemClock
from realtime.core.cluster import WorkerId
from realtime.core.contracts import Terms
from realtime.core.control import Orders
from realtime.core.outside import Publication, check_publication
from realtime.core.token_audit import TokenAudit
from realtime.edge.audit_relay import RelayedAudit
from realtime.edge.outsider import NODE, History, Outsider, Presence, Receipt, WallStamp
from realtime.errors import SettingsError, Unavailable
from realtime.ids import RoomId, TenantId, UserId
from realtime.loading import load
from realtime.native.encode import json_string
from realtime.settings import Settings

__all__ = ["History", "Presence", "Publisher", "Receipt"]

log: Final = logging.getLogger("realtime.edge")

TICK_S: Final = 0.05


class Publisher(Outsider):
    """Reaches the workers that share a Redis. An async context manager; of one event loop.

    Each call may raise Unavailable, with `retry_after_s`: whether it was done, a repeat with a `key` tells.
    Names that are none are BadMessage. One that is `patient` waits for a Redis that is not there yet.
    """

    patient = False

    def __init__(
        self, redis_url: str | None = None, *, prefix: str | None = None, settings: Settings | None = None
    ) -> None:
        """Take what is None from `settings`, which are the environment's unless given.

        Raises:
            SettingsError: there is no redis_url, or the policy file holds none.
        """
        settings = settings or load(environ=os.environ).settings
        self._url = redis_url or settings.redis_url
        if not self._url:
            raise SettingsError("this needs Redis: set REDIS_URL, or redis_url in the config file")
        super().__init__(settings)
        self._prefix = prefix or settings.redis_prefix

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            SettingsError: the redis_url is none.
            StartupError: Redis is not there, or will not have us.
        """
        settings, prefix, clock = self._settings, self._prefix, SystemClock()
        worker = new_worker_id(NODE)
        self._redis = RedisClient(
            self._url,
            name=worker,
            timeout_s=settings.redis_timeout_s,
            ping_interval_s=settings.redis_ping_interval_s,
            queue_bytes=settings.redis_queue_bytes,
            on_missing_function=source,
        )
        self._broker = RedisBroker(
            self._redis,
            clock,
            WallStamp(),
            worker=worker,
            prefix=prefix,
            history_messages=settings.history_messages,
            history_bytes=settings.history_bytes,
            recovery_window_s=settings.recovery_window_s,
            timeout_s=settings.redis_timeout_s,
        )
        self.reach = self._ring = RedisRing(
            self._redis,
            worker,
            clock,
            self._spawn,
            prefix=prefix,
            timeout_s=settings.redis_timeout_s,
            member=False,
        )
        revocations = RedisRevocations(self._redis, prefix=prefix)
        self._audit = self._open_audit(clock)
        self._orders = Orders(self._ring, clock, revocations, self.workers, TokenAudit(self._audit))
        self._known = asyncio.Event()  # some workers are
        await self._redis.start(patient=self.patient)
        self._ring.start()
        self._ring.watch(lambda change: self._known.set())
        self._spawn(self._keep_ticking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()
        self._ring.close()
        await self._broker.close()
        await self._redis.close()

    async def workers(self) -> list[WorkerId]:
        """Return all workers there are.

        Raises:
            Unavailable: there are none, as far as Redis has said in time.
        """
        if not self._ring.workers:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._known.wait()
            except TimeoutError:
                raise Unavailable("no worker is known to run", retry_after_s=1.0) from None
        workers = sorted(self._ring.workers)
        if not workers:
            raise Unavailable("no worker is known to run", retry_after_s=1.0)
        return workers

    def owner(self, room: RoomId) -> WorkerId | None:
        """See `Outsider`."""
        return self._ring.owner(room)

    async def find(self, tenant: TenantId, user: str) -> list[WorkerId]:
        """See `Outsider`."""
        found = await find_connections(self._redis, self._prefix, tenant, UserId(user))
        alive = await self.workers()
        return [worker for worker in found if worker in alive]

    async def _publish(self, asked: Publication) -> tuple[int, bytes, bool]:
        kind = check_publication(self.catalog, self.rules, asked)
        name = RoomId(asked.tenant, asked.room)
        # Who seals has the keys: the workers. What they are sent for it rests nowhere.
        if kind.durable or self.rules.of(name).encrypted:
            return await super()._publish(asked)
        sender = None if asked.user is None else json_string(asked.user)
        terms = None if asked.key is None else Terms(key=asked.key)
        return await self._broker.publish(name, kind, asked.type, sender, asked.content, terms)

    async def _signal(self, asked: Publication) -> None:
        sender = b"" if asked.user is None else b'"from":%b,' % json_string(asked.user)
        push = b'{"type":%b,"room":%b,%b"content":%b,"timestamp":"%b"}' % (
            json_string(asked.type),
            json_string(asked.room),
            sender,
            asked.content,
            WallStamp().timestamp,
        )
        names = RoomNames(self._prefix, RoomId(asked.tenant, asked.room))
        try:
            await self._redis.ask(names.slot, "SPUBLISH", names.channel, bytes((SIGNAL,)) + push)
        except RedisError as error:
            raise Unavailable(f"Redis does not publish: {error.code}", retry_after_s=1.0) from error

    async def _keep_ticking(self) -> None:
        while True:
            try:
                self._ring.tick()
                self._broker.tick()
                if isinstance(self._audit, RelayedAudit):
                    self._audit.tick()
            except Exception:
                log.exception("a tick failed")
            await asyncio.sleep(TICK_S)
