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
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.library import source
from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.redis_ring import RedisRing, new_worker_id
from realtime.backends.cluster.revocations import RedisRevocations
from realtime.backends.cluster.whereabouts import find_connections
from realtime.backends.cluster.writer import SIGNAL
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import RedisError
from realtime.core.audit import NO_AUDITOR, OPERATOR, Action, Auditor, Event, Outcome
from realtime.core.catalog import Catalog
from realtime.core.clock import SystemClock
from realtime.core.cluster import NotServed, WorkerId, room_slot
from realtime.core.contracts import Clock, Terms
from realtime.core.control import KEEP_S, Orders, ask_all
from realtime.core.notifications import NOTIFY, Sent, encode_letter, make_notification, pack
from realtime.core.outside import (
    HISTORY,
    MEMBERS,
    PUBLISH,
    Look,
    Members,
    Pages,
    Publication,
    Published,
    check_publication,
)
from realtime.core.room_rules import RoomRules
from realtime.core.token_audit import TokenAudit
from realtime.edge.audit_relay import RelayedAudit
from realtime.edge.shared_penalties import Penalty, list_penalties, pardon
from realtime.edge.shed import SHED, Order, read_load
from realtime.errors import BadMessage, CloseCode, SettingsError, TooLarge, Unavailable
from realtime.features import discover
from realtime.ids import DEFAULT_TENANT, RoomId, TenantId, parse_room, parse_tenant, parse_user
from realtime.loading import load
from realtime.native.encode import json_string
from realtime.policy import Policy, load_policy
from realtime.protocol.priority import Priority
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

NODE: Final = "outside"
TICK_S: Final = 0.05
HISTORY_LIMIT: Final = 100


class Receipt(NamedTuple):
    """A publication's place in its room; `duplicate`: its key was used before, this is the first one's."""

    offset: int
    epoch: str
    duplicate: bool


class Shares(NamedTuple):
    """How many connections each worker has, and how many are on their way from one to another."""

    connections: dict[WorkerId, int]
    away: int


class Presence(msgspec.Struct, frozen=True):
    """Who is in a room: `members`, as many as are named, and `count`, how many there are."""

    members: list[str]
    count: int


class History(NamedTuple):
    """Messages as clients get them, oldest first; `more`: there are more. `offset`, `epoch`: its last."""

    messages: list[dict[str, Any]]
    more: bool
    offset: int
    epoch: str


class Publisher:
    """Reaches the workers that share a Redis. An async context manager; of one event loop.

    Each call may raise Unavailable, with `retry_after_s`: whether it was done, a repeat with a `key` tells.
    Names that are none are BadMessage.
    """

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
        self._settings = settings
        self._prefix = prefix or settings.redis_prefix
        self._catalog = Catalog(discover())
        policy = load_policy(Path(settings.policy_path)) if settings.policy_path else Policy()
        self._rules = RoomRules(policy.rooms)
        self._content_bytes = settings.max_message_bytes
        self._timeout_s = settings.redis_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

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
        self._ring = RedisRing(
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
        self._orders = Orders(self._ring, clock, revocations, self._workers, TokenAudit(self._audit))
        self._known = asyncio.Event()  # some workers are
        await self._redis.start()
        self._ring.start()
        self._ring.watch(lambda change: self._known.set())
        self._spawn(self._keep_ticking())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(self._audit, RelayedAudit):
            await self._audit.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ring.close()
        await self._broker.close()
        await self._redis.close()

    def only_type(self, room: str) -> str:
        """Return the type that is published to rooms of this kind, where that is one.

        Raises:
            BadMessage: it is no room's name, or there are several types.
        """
        kind = self._catalog.kind_of(room)
        types = [name for name in sorted(self._catalog.types_by_kind[kind.name]) if self._is_published(name)]
        if len(types) != 1:
            raise BadMessage(f"rooms of kind {kind.name!r} take several types: {', '.join(types)}")
        return types[0]

    async def publish(
        self,
        room: str,
        type: str,
        content: Any = None,
        *,
        tenant: str = DEFAULT_TENANT,
        user: str | None = None,
        key: str | None = None,
    ) -> Receipt:
        """Publish for `user`, or as the server. Nobody's permissions are asked.

        A repeat with the same `key` within the recovery window is not published again. What a store keeps is
        in it when this returns.

        Raises:
            BadMessage: a name that is none, or content that JSON cannot say or that is not the type's.
            Forbidden: rooms of this kind take no such type.
            TooLarge: the content is over `max_message_bytes`.
        """
        asked = self._publication(room, type, content, tenant, user, key)
        kind = check_publication(self._catalog, self._rules, asked)
        name = RoomId(asked.tenant, asked.room)
        # Who seals has the keys: the workers. What they are sent for it rests nowhere.
        if kind.durable or self._rules.of(name).encrypted:
            answer = await self._ask_one(name, PUBLISH, msgspec.msgpack.encode(asked), again=False)
            offset, epoch, duplicate = msgspec.structs.astuple(msgspec.msgpack.decode(answer, type=Published))
        else:
            sender = None if asked.user is None else json_string(asked.user)
            terms = None if key is None else Terms(key=key)
            offset, epoch, duplicate = await self._broker.publish(
                name, kind, type, sender, asked.content, terms
            )
        self._record(Action.ADMIN_PUBLISH, asked.tenant, asked.room, type=type, sender=user or "")
        return Receipt(offset, epoch.decode(), duplicate)

    async def signal(
        self,
        room: str,
        type: str,
        content: Any = None,
        *,
        tenant: str = DEFAULT_TENANT,
        user: str | None = None,
    ) -> None:
        """Tell the members who are there now, by a type that is not kept, such as `chat_typing`.

        Raises:
            BadMessage, Forbidden, TooLarge: as `publish`.
        """
        asked = self._publication(room, type, content, tenant, user, None)
        check_publication(self._catalog, self._rules, asked, ephemeral=True)
        sender = b"" if asked.user is None else b'"from":%b,' % json_string(asked.user)
        push = b'{"type":%b,"room":%b,%b"content":%b,"timestamp":"%b"}' % (
            json_string(type),
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
        self._record(Action.ADMIN_PUBLISH, asked.tenant, asked.room, type=type, sender=user or "")

    async def notify(
        self,
        user: str,
        title: str,
        content: str,
        *,
        priority: Priority | int = Priority.NORMAL,
        data: Mapping[str, Any] | None = None,
        tenant: str = DEFAULT_TENANT,
        id: str | None = None,
    ) -> Sent:
        """Push a notification to all connections of a user, as `NotificationManager.send_notification`."""
        whose, within = parse_user(user), parse_tenant(tenant)
        notification = make_notification(id, title, content, priority, data)
        letter = pack(within, whose, notification, WallStamp().timestamp, self._content_bytes)
        body = encode_letter(letter)
        found = await find_connections(self._redis, self._prefix, within, whose)
        alive = await self._workers()
        there = [self._ring.ask(worker, NOTIFY, body) for worker in found if worker in alive]
        answers = await asyncio.gather(*there, return_exceptions=True)
        failed = [each for each in answers if isinstance(each, BaseException)]
        if failed and len(failed) == len(answers):
            raise failed[0]
        reached = sum(int(each) for each in answers if isinstance(each, bytes))
        self._record(Action.NOTIFY, within, whose, connections=reached)
        return Sent(notification.id, reached)

    async def kick(
        self,
        user: str,
        *,
        tenant: str = DEFAULT_TENANT,
        reason: str = "kicked",
        code: int = CloseCode.DISCONNECTED_BY_SERVER,
    ) -> int:
        """Close all connections of a user; return how many there were, as `Orders.kick`."""
        return await self._orders.kick(user, tenant=tenant, reason=reason, code=code)

    async def kick_tenant(
        self, tenant: str, *, reason: str = "kicked", code: int = CloseCode.DISCONNECTED_BY_SERVER
    ) -> int:
        """Close all connections of all users of a tenant; return how many there were."""
        return await self._orders.kick_tenant(tenant, reason=reason, code=code)

    async def revoke(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        user: str | None = None,
        token_id: str | None = None,
        everybody: bool = False,
        issued_before: float | None = None,
        keep_s: float = KEEP_S,
    ) -> float:
        """Refuse tokens and close their connections; return until when (Unix seconds), as `Orders.revoke`.

        It needs no worker: each one learns it when it is there.
        """
        return await self._orders.revoke(
            tenant=tenant,
            user=user,
            token_id=token_id,
            everybody=everybody,
            issued_before=issued_before,
            keep_s=keep_s,
        )

    async def penalties(self) -> list[Penalty]:
        """Return which addresses are kept out, for how long still and for which time, longest first."""
        await self._workers()
        return await list_penalties(self._ring)

    async def pardon(self, address: str) -> int:
        """Let an address in again and forget what it did; return how many workers knew of it."""
        await self._workers()
        return await pardon(self._ring, address)

    async def presence(self, room: str, *, tenant: str = DEFAULT_TENANT) -> Presence:
        """Return who is in a room, in no order."""
        self._catalog.kind_of(room)
        look = Look(parse_tenant(tenant), parse_room(room))
        await self._workers()
        answers = await ask_all(self._ring, MEMBERS, msgspec.msgpack.encode(look))
        found = [msgspec.msgpack.decode(each, type=Members) for each in answers]
        users = dict.fromkeys(
            user for each in found for user in msgspec.json.decode(each.users, type=list[str])
        )
        return Presence(list(users), max(len(users), *(each.count for each in found)))

    async def history(
        self,
        room: str,
        *,
        tenant: str = DEFAULT_TENANT,
        before: int | None = None,
        after: int | None = None,
        limit: int = HISTORY_LIMIT,
    ) -> History:
        """Return the last publications below offset `before`, or the first above `after`, or the newest ones.

        At most `limit` (1 or more), and no more than a worker answers at once.

        Raises:
            TooLarge: a single publication is more than that.
        """
        if limit < 1 or (before is not None and after is not None):
            raise BadMessage("history: limit is 1 or more, and `before` and `after` exclude each other")
        self._catalog.kind_of(room)
        look = Look(parse_tenant(tenant), parse_room(room), before, after, limit)
        name = RoomId(look.tenant, look.room)
        answer = await self._ask_one(name, HISTORY, msgspec.msgpack.encode(look), again=True)
        found = msgspec.msgpack.decode(answer, type=Pages)
        messages = [msgspec.json.decode(each) for each in found.messages]
        return History(messages, found.more, found.offset, found.epoch.decode())

    def _publication(
        self, room: str, type: str, content: Any, tenant: str, user: str | None, key: str | None
    ) -> Publication:
        encoded = _encode(content)
        if len(encoded) > self._content_bytes:
            raise TooLarge(
                f"content has {len(encoded)} bytes; at most {self._content_bytes} are taken",
                limit="max_message_bytes",
                allowed=self._content_bytes,
            )
        sender = None if user is None else parse_user(user)
        return Publication(parse_tenant(tenant), parse_room(room), type, sender, encoded, key)

    def _open_audit(self, clock: Clock) -> Auditor:
        if not self._settings.audit_path:
            return NO_AUDITOR
        return RelayedAudit(self._ring.ask, self._workers, clock)

    def _record(self, action: Action, tenant: TenantId, target: str, **detail: str | int) -> None:
        said = {name: value for name, value in detail.items() if value != ""}
        self._audit.record(
            Event(
                tenant=tenant,
                action=action,
                outcome=Outcome.ALLOWED,
                actor=OPERATOR,
                target=target,
                detail=said,
            )
        )

    async def shed(self, ratio: float = 0.0) -> Shares:
        """Have each worker that has more than `ratio` times the mean close what it has beyond that, and let
        it come back elsewhere; return how many each has now. 0 only asks.

        Raises:
            BadMessage: no ratio that can be reached.
            Unavailable: not all workers gave an answer.
        """
        workers, body = await self._workers(), msgspec.msgpack.encode(Order(ratio))
        answers = await asyncio.gather(*(self._ring.ask(worker, SHED, body) for worker in workers))
        loads = [read_load(answer) for answer in answers]
        return Shares(
            {worker: load[0] for worker, load in zip(workers, loads, strict=True)},
            sum(away for _, away in loads),
        )

    # -- asking workers -------------------------------------------------------------------------------------

    async def _ask_one(self, room: RoomId, verb: str, body: bytes, *, again: bool) -> bytes:
        """Return the answer of the room's owner, or of another worker where it is not there.

        Any of them can; the owner is the likeliest to know the room. `again`: even if it may have done it.
        """
        workers = await self._workers()
        first = self._ring.owner(room) or workers[room_slot(room) % len(workers)]
        try:
            return await self._ring.ask(first, verb, body)
        except Unavailable as error:
            others = [each for each in workers if each != first]
            if not others or not (again or isinstance(error, NotServed)):
                raise
            return await self._ring.ask(others[room_slot(room) % len(others)], verb, body)

    def _is_published(self, type: str) -> bool:
        message = self._catalog.messages[type]
        return not message.ephemeral and message.owner is None

    async def _workers(self) -> list[WorkerId]:
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

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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


class WallStamp:
    """The time of now, as messages carry it."""

    @property
    def timestamp(self) -> bytes:
        """RFC 3339 UTC with milliseconds."""
        return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _encode(content: Any) -> bytes:
    try:
        return msgspec.json.encode(content)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise BadMessage(f"content: JSON cannot say it: {error}") from error
