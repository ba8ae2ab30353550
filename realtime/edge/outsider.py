"""A back-end's way to users and rooms without a WebSocket, by whatever way it reaches the workers.

Everything here is asked of workers, who do it. `publisher` reaches them through Redis, and does there by
itself what needs none of them; `lone` reaches the one there is through its control socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.audit import NO_AUDITOR, OPERATOR, Action, Auditor, Event, Outcome
from realtime.core.catalog import Catalog
from realtime.core.cluster import NotServed, WorkerId, room_slot
from realtime.core.contracts import Clock
from realtime.core.control import KEEP_S, Orders, Workers, ask_all
from realtime.core.notifications import NOTIFY, Letter, Sent, encode_letter, make_notification, pack
from realtime.core.operations import SIGNAL
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
from realtime.edge.audit_relay import RelayedAudit
from realtime.edge.shared_penalties import Penalty, list_penalties, pardon
from realtime.edge.shed import SHED, Order, read_load
from realtime.errors import BadMessage, CloseCode, TooLarge, Unavailable
from realtime.features import discover
from realtime.ids import DEFAULT_TENANT, RoomId, TenantId, parse_room, parse_tenant, parse_user
from realtime.policy import Policy, load_policy
from realtime.protocol.priority import Priority
from realtime.settings import Settings

NODE: Final = "outside"
HISTORY_LIMIT: Final = 100


class Receipt(NamedTuple):
    """A publication's place in its room; `duplicate`: its key was used before, this is the first one's."""

    offset: int
    epoch: str
    duplicate: bool


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


class Shares(NamedTuple):
    """How many connections each worker has, and how many are on their way from one to another."""

    connections: dict[WorkerId, int]
    away: int


class Outsider:
    """Reaches workers. What makes one has to set `reach`, `_orders` and `_audit` when it has connected.

    Each call may raise Unavailable, with `retry_after_s`: whether it was done, a repeat with a `key` tells.
    Names that are none are BadMessage.
    """

    reach: Workers
    _orders: Orders
    _audit: Auditor

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError: the policy file holds none."""
        self._settings = settings
        self.catalog = Catalog(discover())
        policy = load_policy(Path(settings.policy_path)) if settings.policy_path else Policy()
        self.rules = RoomRules(policy.rooms)
        self._content_bytes = settings.max_message_bytes
        self._timeout_s = settings.redis_timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def only_type(self, room: str) -> str:
        """Return the type that is published to rooms of this kind, where that is one.

        Raises:
            BadMessage: it is no room's name, or there are several types.
        """
        kind = self.catalog.kind_of(room)
        types = [name for name in sorted(self.catalog.types_by_kind[kind.name]) if self._is_published(name)]
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
        offset, epoch, duplicate = await self._publish(asked)
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
        check_publication(self.catalog, self.rules, asked, ephemeral=True)
        await self._signal(asked)
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
        reached = await self._deliver(letter)
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
        await self.workers()
        return await list_penalties(self.reach)

    async def pardon(self, address: str) -> int:
        """Let an address in again and forget what it did; return how many workers knew of it."""
        await self.workers()
        return await pardon(self.reach, address)

    async def presence(self, room: str, *, tenant: str = DEFAULT_TENANT) -> Presence:
        """Return who is in a room, in no order."""
        self.catalog.kind_of(room)
        look = Look(parse_tenant(tenant), parse_room(room))
        await self.workers()
        answers = await ask_all(self.reach, MEMBERS, msgspec.msgpack.encode(look))
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
        self.catalog.kind_of(room)
        look = Look(parse_tenant(tenant), parse_room(room), before, after, limit)
        name = RoomId(look.tenant, look.room)
        answer = await self._ask_one(name, HISTORY, msgspec.msgpack.encode(look), again=True)
        found = msgspec.msgpack.decode(answer, type=Pages)
        messages = [msgspec.json.decode(each) for each in found.messages]
        return History(messages, found.more, found.offset, found.epoch.decode())

    def record(self, event: Event) -> None:
        """Put on record what an operator did or tried."""
        self._audit.record(event)

    async def recorded(self) -> None:
        """Wait until what was done is with a worker's audit log, or could not be told now."""
        if isinstance(self._audit, RelayedAudit):
            await self._audit.flush()

    async def shed(self, ratio: float = 0.0, among: Collection[WorkerId] = ()) -> Shares:
        """Have each worker that has more than `ratio` times the mean close what it has beyond that, and let
        it come back elsewhere; return how many each has now. 0 only asks. Where some are named, only those
        `among` them are asked, and to be even.

        Raises:
            BadMessage: no ratio that can be reached.
            Unavailable: not all workers gave an answer, or not all that are named are there.
        """
        workers = [each for each in await self.workers() if not among or each in among]
        if among and len(workers) < len(among):
            raise Unavailable(f"{len(workers)} of {len(among)} workers are in the ring", retry_after_s=1.0)
        body = msgspec.msgpack.encode(Order(ratio, list(among)))
        answers = await asyncio.gather(*(self.reach.ask(worker, SHED, body) for worker in workers))
        loads = [read_load(answer) for answer in answers]
        return Shares(
            {worker: load[0] for worker, load in zip(workers, loads, strict=True)},
            sum(away for _, away in loads),
        )

    async def workers(self) -> list[WorkerId]:
        """Return all workers there are.

        Raises:
            Unavailable: there are none, as far as is known in time.
        """
        return sorted(self.reach.workers)

    def owner(self, room: RoomId) -> WorkerId | None:
        """Return the likeliest to know a room, None where nobody is."""
        return None

    async def find(self, tenant: TenantId, user: str) -> list[WorkerId]:
        """Return the workers that a user may be connected to."""
        return await self.workers()

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

    async def _end(self) -> None:
        """Put on record what still waits for it, and end the tasks; the way to workers is closed later."""
        if isinstance(self._audit, RelayedAudit):
            await self._audit.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _open_audit(self, clock: Clock) -> Auditor:
        if not self._settings.audit_path:
            return NO_AUDITOR
        return RelayedAudit(self.reach.ask, self.workers, clock)

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

    async def _publish(self, asked: Publication) -> tuple[int, bytes, bool]:
        """Have a worker publish: the room's owner, or another one where it is not there."""
        check_publication(self.catalog, self.rules, asked)
        name = RoomId(asked.tenant, asked.room)
        answer = await self._ask_one(name, PUBLISH, msgspec.msgpack.encode(asked), again=False)
        found = msgspec.msgpack.decode(answer, type=Published)
        return found.offset, found.epoch, found.duplicate

    async def _signal(self, asked: Publication) -> None:
        """Have a worker send a signal that has been looked at."""
        name = RoomId(asked.tenant, asked.room)
        await self._ask_one(name, SIGNAL, msgspec.msgpack.encode(asked), again=True)

    async def _deliver(self, letter: Letter) -> int:
        """Have those workers that the user is on push it; return how many connections took it."""
        body = encode_letter(letter)
        found = await self.find(letter.tenant, letter.user)
        answers = await asyncio.gather(
            *(self.reach.ask(worker, NOTIFY, body) for worker in found), return_exceptions=True
        )
        failed = [each for each in answers if isinstance(each, BaseException)]
        if failed and len(failed) == len(answers):
            raise failed[0]
        return sum(int(each) for each in answers if isinstance(each, bytes))

    # -- asking workers -------------------------------------------------------------------------------------

    async def _ask_one(self, room: RoomId, verb: str, body: bytes, *, again: bool) -> bytes:
        """Return the answer of the room's owner, or of another worker where it is not there.

        Any of them can; the owner is the likeliest to know the room. `again`: even if it may have done it.
        """
        workers = await self.workers()
        first = self.owner(room) or workers[room_slot(room) % len(workers)]
        try:
            return await self.reach.ask(first, verb, body)
        except Unavailable as error:
            others = [each for each in workers if each != first]
            if not others or not (again or isinstance(error, NotServed)):
                raise
            return await self.reach.ask(others[room_slot(room) % len(others)], verb, body)

    def _is_published(self, type: str) -> bool:
        message = self.catalog.messages[type]
        return not message.ephemeral and message.owner is None

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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
