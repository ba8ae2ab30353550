"""Joining and leaving: the only place where sessions and rooms get to know each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

from realtime.core import audit
from realtime.core.access import JOIN, Access, Rights
from realtime.core.auth import Grant, Identity
from realtime.core.catalog import Catalog
from realtime.core.contents import decode_join
from realtime.core.contracts import Broker, Clock, Fanout, Page, Position, Recovery
from realtime.core.doors import Doors
from realtime.core.gates import Gates, Passage
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.core.passive import Passives
from realtime.core.quotas import ROOMS
from realtime.core.room import Room, RoomState
from realtime.core.room_rules import RoomRules
from realtime.core.rosters import Rosters
from realtime.core.router import Router
from realtime.core.session import Handlers, Session
from realtime.core.tenant import Tenant, Tenants
from realtime.errors import BadMessage, NotJoined, RoomLimit
from realtime.ids import RoomId, RoomName, id_in_kind
from realtime.native.encode import encode_ack, encode_reply, json_string
from realtime.native.message import Envelope
from realtime.protocol.messages import Join
from realtime.protocol.session import State

FORBIDDEN: Final = "forbidden"  # in `left`
MAY_NOT_JOIN: Final = "you may not join this room"

Then = Callable[[Session, Envelope, Room, Recovery], None]
"""What is done when the broker has said where the room is."""


class Membership:
    """Lets sessions in and out of rooms, makes rooms and drops them. `rosters` knows who is in them."""

    def __init__(
        self,
        catalog: Catalog,
        tenants: Tenants,
        broker: Broker,
        fanout: Fanout,
        clock: Clock,
        limits: Limits,
        router: Router,
        access: Access,
        rules: RoomRules,
        doors: Doors,
    ) -> None:
        self._catalog = catalog
        self._tenants = tenants
        self._broker = broker
        self._fanout = fanout
        self._limits = limits
        self._router = router
        self.access = access
        self.rules = rules
        self.doors = doors
        self.gates = Gates()
        self._passives = Passives(clock)
        self.rosters = Rosters(clock, limits, self._on_idle)
        self.rooms = 0  # live ones

    def join(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Let the session into the room and answer `joined`; again, when it is in already.

        A passive member is active from then on. A private room is entered with the token in the content, and
        a newer one takes the place of the one before.

        Raises:
            BadMessage: no room, or a content that is not a join's.
            Forbidden, RoomLimit: it may not, or it or its tenant is in as many rooms as it may be.
            Unavailable: the broker gives no answer, or the issuer of a room token does not.
        """
        content = decode_join(message.content)
        name = self.room_name(message)
        if self.rules.any and self.doors.is_private(key := RoomId(session.tenant.id, RoomName(name))):
            self._catalog.kind_of(name)  # a name that can be no room's is a BadMessage
            grant = self.doors.knock(session, key, content.token)
            if self.gates.has(name) or not isinstance(grant, Grant | None):
                return self._hold(session, message, _position(content), key, grant)
            if grant is not None:
                self.doors.admit(session, key, grant)
        elif self.gates.has(name):
            self._catalog.kind_of(name)
            key = RoomId(session.tenant.id, RoomName(name))
            return self._hold(session, message, _position(content), key, None)
        return self._join(session, message, name, _position(content))

    def _hold(
        self,
        session: Session,
        message: Envelope,
        since: Position | None,
        key: RoomId,
        grant: Grant | Awaitable[Grant] | None,
    ) -> Awaitable[None]:
        """Let what the session sends wait until it is known whether it may join."""
        handlers = session.handlers
        self._router.hold(session, State.JOINING)
        return self._join_later(session, message, since, key, grant, handlers)

    def _join(
        self, session: Session, message: Envelope, name: str, since: Position | None
    ) -> Awaitable[None] | None:
        room = self._room_to_join(session, name)
        try:
            recovery = room.stream.recover(since)
            if not isinstance(recovery, tuple):
                return self._wait(session, message, room, since, recovery, self._let_in)
            self._let_in(session, message, room, recovery)
        finally:
            self._drop_if_empty(session.tenant, room)
        return None

    async def _join_later(
        self,
        session: Session,
        message: Envelope,
        since: Position | None,
        key: RoomId,
        pending: Grant | Awaitable[Grant] | None,
        handlers: Handlers,
    ) -> None:
        """Join when the room token is judged, and the room's gate has been asked. What the session sent
        meanwhile waits for all of it, the answer included.
        """
        try:
            grant = await pending if isinstance(pending, Awaitable) else pending
            if self.gates.has(key.room):
                await self._join_by_gate(session, message, since, key, grant)
            else:
                await self._enter(session, message, since, key, grant)
        except Exception as error:  # whatever it is, it is this message's alone
            self._router.fail(session, message, error, taken=True)
        finally:
            self._router.resume(session, State.READY, handlers)

    async def _join_by_gate(
        self, session: Session, message: Envelope, since: Position | None, key: RoomId, grant: Grant | None
    ) -> None:
        """Let the session in where the policy and the room's gate do; the latter until it is in."""
        identity = session.identity
        assert identity is not None  # nobody's sessions have no join
        self._check_join(session, identity, self._catalog.kind_of(key.room), key.room)
        with self.gates.passage(identity, key) as passage:
            await self._pass(session, passage)
            await self._enter(session, message, since, key, grant, passage)

    async def _pass(self, session: Session, passage: Passage) -> None:
        """Raise Forbidden unless the gate lets the session in."""
        if not await passage.admits():
            self.access.refuse(session, audit.Action.JOIN, passage.room.room, JOIN, MAY_NOT_JOIN)

    async def _enter(
        self,
        session: Session,
        message: Envelope,
        since: Position | None,
        key: RoomId,
        grant: Grant | None,
        passage: Passage | None = None,
    ) -> None:
        """Let the session in when the broker has said where the room is, while the passage's answer holds."""
        if not session.connection.open:
            return
        if grant is not None:
            self.doors.admit(session, key, grant)
        room = self._room_to_join(session, key.room)
        room.arriving += 1
        try:
            recovery = await _recovered(room, since, room.stream.recover(since), room.turns)
            while passage is not None and passage.old:
                await self._pass(session, passage)
                recovery = await _recovered(room, since, room.stream.recover(since), room.turns)
            if session.connection.open:
                self._let_in(session, message, room, _continued(recovery, room.recent))
        finally:
            self._arrived(session.tenant, room)

    def tell_doors(self) -> None:
        """Let out of private rooms those whose room tokens have ended."""
        self.doors.tick(self._put_out_of)

    def _put_out_of(self, session: Session, name: RoomName, reason: str) -> None:
        room = session.tenant.rooms.get(name)
        if room is not None and room in session.rooms:
            self.put_out(session, room, reason)

    def passive(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Send the session only the count of what is published, and acknowledge it with the position.

        Raises:
            BadMessage, NotJoined: as `joined_room`.
            Unavailable: the broker gives no answer.
        """
        room = self.joined_room(session, message)
        recovery = room.stream.recover(None)
        if not isinstance(recovery, tuple):
            return self._wait(session, message, room, None, recovery, self._let_rest)
        self._let_rest(session, message, room, recovery)
        return None

    def leave(self, session: Session, message: Envelope) -> None:
        """Let the session out of the room and acknowledge it.

        Raises:
            BadMessage: no room.
            NotJoined: it is not in it.
        """
        room = self.joined_room(session, message)
        session.drop_room(room)
        self._let_out(session, room, lingers=False)
        if message.id is not None:
            session.send(encode_reply("ack", message.id, room.json, b"{}"))

    def leave_all(self, session: Session, *, lingers: bool) -> None:
        """Let a session whose connection is gone out of all its rooms.

        `lingers`: its user may come back, and counts as present for the grace period.
        """
        rooms, session.rooms = session.rooms, ()
        for room in rooms:
            self._let_out(session, room, lingers=lingers)
        if self.doors:
            self.doors.gone(session)

    def rights(self, session: Session, room: Room) -> Rights:
        """Return what the rules, and a room token where one is needed, let a session do in a room."""
        return self.rights_in(session, room.kind, room.key.room)

    def rights_in(self, session: Session, kind: RoomKind, name: str) -> Rights:
        """Return the same for a room by its name, whether or not anybody is there."""
        identity = session.identity
        assert identity is not None  # nobody's sessions are in no rooms
        rights = self.access.rights(identity, kind, name)
        if not self.rules.any:
            return rights
        return self.doors.narrowed(session, RoomId(session.tenant.id, RoomName(name)), rights)

    def review(self, session: Session) -> None:
        """Let hold in all its rooms what it may do there now: its roles or the rules have changed."""
        identity = session.identity
        for room in tuple(session.rooms):
            assert identity is not None  # nobody's sessions are in no rooms
            rights = self.rights(session, room)
            if rights.join and self.may_join(identity, room.kind, room.key.room):
                room.blindfold(session, blind=not rights.presence)
                session.limit(room, limited=_is_limited(room, rights))
            else:
                self.access.note(session, audit.Action.JOIN, room.key.room, "stay")
                self.put_out(session, room, FORBIDDEN)

    def review_rooms(self) -> None:
        """Let hold for the rooms that are live what the policy says of them now."""
        for room in self._tenants.rooms():
            end_to_end = self.rules.of(room.key).end_to_end
            if end_to_end != room.end_to_end:
                room.seal(end_to_end)

    def put_out(self, session: Session, room: Room, reason: str) -> None:
        """Let a session out of a room that it may be in no longer, and tell it why.

        `reason` is a stable word of ours, such as `forbidden`. What the room delivered before comes first.
        """
        session.drop_room(room)
        self._let_out(session, room, lingers=False)
        session.send(encode_reply("left", None, room.json, b'{"reason":%b}' % json_string(reason)))

    @property
    def passive_members(self) -> int:
        """How many there are, counted in each room."""
        return len(self._passives)

    def tell_unread(self) -> None:
        """Push to passive members how much was published, where that is due."""
        self._passives.tell()

    def room_name(self, message: Envelope) -> str:
        """Return the room that a message speaks of, by its envelope or else its content.

        Raises:
            BadMessage: it names none.
        """
        name = message.room or self._catalog.room_in(message.content)
        if name is None:
            raise BadMessage("no room: give `room`, or a content with a key that names one")
        return name

    def is_end_to_end(self, session: Session, message: Envelope) -> bool:
        """Whether a message is for a room that is sealed end to end, by its envelope."""
        if not self.rules.any or message.room is None:
            return False
        return self.rules.of(RoomId(session.tenant.id, RoomName(message.room))).end_to_end

    def find(self, room: RoomId) -> Room | None:
        """Return a room that is live here, None where it is not."""
        return self._tenants.room(room)

    def joined_room(self, session: Session, message: Envelope) -> Room:
        """Return the room that a message speaks of.

        Raises:
            BadMessage: it names none.
            NotJoined: the session is not in it.
        """
        name = self.room_name(message)
        room = session.tenant.rooms.get(name)
        if room is None or room not in session.rooms:
            self._catalog.kind_of(name)  # a name that can be no room's is a BadMessage
            raise NotJoined
        return room

    async def visit(self, key: RoomId, limit: int) -> tuple[Position, Collection[bytes]]:
        """Return where a room is, and its last `limit` (1 or more) publications, oldest first.

        Raises:
            BadMessage, Unavailable: as `page`.
        """
        position, page = await self.page(key, None, None, limit)
        return position, page.messages

    async def page(
        self, key: RoomId, before: int | None, after: int | None, limit: int
    ) -> tuple[Position, Page]:
        """Return where a room is, and a page of its history as `Stream.history`, whoever is in it.

        Raises:
            BadMessage: it is no room's name.
            Unavailable: the broker gives no answer.
        """
        tenant = self._tenants.enter(key.tenant)
        room = None
        try:
            room = tenant.rooms.get(key.room) or self._make(tenant, key.room, self._catalog.kind_of(key.room))
            room.arriving += 1  # it is not to be dropped, whoever else comes and goes
            recovery = room.stream.recover(None)
            if not isinstance(recovery, tuple):
                recovery = await recovery
            page = room.stream.history(before, after, limit)
            if not isinstance(page, tuple):
                page = await page
            return Position(recovery.offset, recovery.epoch), page
        finally:
            if room is not None:
                self._arrived(tenant, room)
            self._tenants.forget_if_idle(tenant)

    def adopt(self, state: RoomState, sessions: Mapping[int, Session]) -> Room:
        """Make a live room that another process had, with its members: `sessions` by connection.

        Raises:
            BadMessage: there are no such rooms here.
            ValueError: a log of it is none.
        """
        tenant = self._tenants.enter(state.tenant)
        room = self._make(tenant, state.name, self._catalog.kind_of(state.name))
        self._passives.adopt(room.adopt(state, sessions))
        return room

    def strand(self, room: Room, users: Iterable[bytes]) -> None:
        """Let users linger in an adopted room whose connections did not come along."""
        for user in users:
            self.rosters.went(room, user, lingers=True)
        self._drop_if_empty(self._tenants[room.key.tenant], room)

    def live_rooms(self) -> list[Room]:
        """Return all rooms that are live here."""
        return self._tenants.rooms()

    def _room_to_join(self, session: Session, name: str) -> Room:
        """Return the live room `name` if the session may join it; made when it is not there yet."""
        tenant = session.tenant
        room = tenant.rooms.get(name)
        if room is not None and room in session.rooms:
            return room
        kind = self._catalog.kind_of(name) if room is None else room.kind
        identity = session.identity
        assert identity is not None  # nobody's sessions have no join
        if kind.may_join is not None or not self.access.open:
            self._check_join(session, identity, kind, name)
        if len(session.rooms) >= self._limits.rooms_per_connection:
            allowed = self._limits.rooms_per_connection
            message = f"a connection may be in {allowed} rooms; leave one first"
            raise RoomLimit(message, limit="max_rooms_per_connection", allowed=allowed)
        if room is not None:
            return room
        allowed = tenant.quota.rooms
        if allowed and len(tenant.rooms) >= allowed:
            message = f"this tenant has {allowed} rooms with members already"
            raise RoomLimit(message, limit=ROOMS, allowed=allowed)
        return self._make(tenant, name, kind)

    def _check_join(self, session: Session, identity: Identity, kind: RoomKind, name: str) -> None:
        """Raise Forbidden unless the session may join; the same whether or not there is such a room."""
        if not self.may_join(identity, kind, name):
            self.access.refuse(session, audit.Action.JOIN, name, JOIN, MAY_NOT_JOIN)

    def may_join(self, identity: Identity, kind: RoomKind, name: str) -> bool:
        """Whether both the room's kind and the rules let `identity` in."""
        if kind.may_join is not None and not kind.may_join(identity, id_in_kind(RoomName(name))):
            return False
        return self.access.rights(identity, kind, name).join

    def _is_let_in(self, session: Session, room: Room) -> bool:
        identity = session.identity
        return identity is not None and self.may_join(identity, room.kind, room.key.room)

    def _make(self, tenant: Tenant, name: str, kind: RoomKind) -> Room:
        """Return a new live room."""
        members_named = self._limits.presence_members
        if kind.presence_members is not None:
            members_named = kind.presence_members
        key = RoomId(tenant.id, RoomName(name))
        types = self._catalog.types_by_kind[kind.name]
        named = members_named if kind.presence else 0
        newest_bytes = self._limits.answer_bytes // 2
        room = Room(
            key,
            kind,
            types,
            self._broker,
            self._fanout,
            named,
            self.rosters.hear,
            newest_bytes,
            end_to_end=self.rules.of(key).end_to_end,
        )
        tenant.rooms[name] = room
        self.rooms += 1
        return room

    def _let_in(self, session: Session, message: Envelope, room: Room, recovery: Recovery) -> None:
        """Answer `joined`, then let the session in: in this order, or a push could overtake the answer.

        Nothing is delivered in between, so its first push is the one after `offset`. Who may not read the
        history gets none of it by recovery either.

        Raises:
            Forbidden: it may not any more, since it asked.
        """
        is_new = room not in session.rooms
        rights = self.rights(session, room)
        if not rights.join or (room.kind.may_join is not None and not self._is_let_in(session, room)):
            self.access.refuse(session, audit.Action.JOIN, room.key.room, JOIN, MAY_NOT_JOIN)
        if not rights.history and recovery.messages:
            recovery = recovery._replace(recovered=False, messages=())
        if is_new:
            self.rosters.came(room, session.user_json)
        if message.id is not None:
            fitted = _fitted(recovery, self._limits.answer_bytes)
            content = _joined(room, fitted, told=rights.presence)
            session.send(encode_reply("joined", message.id, room.json, content))
        if is_new:
            room.enter(session, blind=not rights.presence)
            session.add_room(room)
            if _is_limited(room, rights):
                session.limit(room, limited=True)
        elif session in room.passive:
            self._passives.forget(session, room)
            room.wake(session)

    def _let_rest(self, session: Session, message: Envelope, room: Room, recovery: Recovery) -> None:
        """Make the session passive, then acknowledge: all that was delivered by now comes before it."""
        if session not in room.passive:
            self._passives.add(session, room, recovery.offset, recovery.epoch)
        if message.id is not None:
            session.send(encode_ack(message.id, room.json, recovery.offset, recovery.epoch))

    def _let_out(self, session: Session, room: Room, *, lingers: bool) -> None:
        self._passives.forget(session, room)
        if self.doors:
            self.doors.left(session, room.key.room)
        room.exit(session)
        self.rosters.went(room, session.user_json, lingers=lingers)
        self._drop_if_empty(session.tenant, room)

    def _wait(
        self,
        session: Session,
        message: Envelope,
        room: Room,
        since: Position | None,
        pending: Awaitable[Recovery],
        then: Then,
    ) -> Awaitable[None]:
        """Hold the session's messages, and keep what the room is delivered, until the broker answers."""
        room.arriving += 1
        handlers = session.handlers
        self._router.hold(session, State.JOINING)
        found = _recovered(room, since, pending, room.turns)
        return self._go_on(session, message, room, found, handlers, then)

    async def _go_on(
        self,
        session: Session,
        message: Envelope,
        room: Room,
        pending: Awaitable[Recovery],
        handlers: Handlers,
        then: Then,
    ) -> None:
        """Do the rest when the broker has answered."""
        try:
            recovery = await pending
            if session.connection.open:
                then(session, message, room, _continued(recovery, room.recent))
        except Exception as error:  # it is this message's alone, and answered before those that waited
            self._router.fail(session, message, error, taken=True)
        finally:
            self._arrived(session.tenant, room)
            self._router.resume(session, State.READY, handlers)

    def _arrived(self, tenant: Tenant, room: Room) -> None:
        """Count one less of those for whom the room is kept while the broker answers."""
        room.arriving -= 1
        if not room.arriving:
            room.recent.clear()
        self._drop_if_empty(tenant, room)

    def _on_idle(self, room: Room) -> None:
        self._drop_if_empty(self._tenants[room.key.tenant], room)

    def _drop_if_empty(self, tenant: Tenant, room: Room) -> None:
        """Forget a room that is empty. Its order and history live on at the broker."""
        if room.empty and tenant.rooms.get(room.key.room) is room:
            del tenant.rooms[room.key.room]
            self.rooms -= 1
            self.rosters.drop(room)
            room.close()
            self._tenants.forget_if_idle(tenant)


def _position(content: Join) -> Position | None:
    """Return where the client says it was; None where it says nothing.

    Half a position names no place in any order: it is one of no epoch, and is refused as such.
    """
    since = content.since
    if since is None:
        return None
    if since.offset is None or since.epoch is None:
        return Position(0, b"")
    return Position(since.offset, since.epoch.encode("utf-8", "replace"))


def _fitted(recovery: Recovery, answer_bytes: int) -> Recovery:
    """Return the recovery; refused where its messages have more than `answer_bytes`."""
    if sum(map(len, recovery.messages)) <= answer_bytes:
        return recovery
    return recovery._replace(recovered=False, messages=())


def _is_limited(room: Room, rights: Rights) -> bool:
    """Whether these rights are less than what the room takes of any member without another look."""
    return rights.types is not room.types and not room.types <= rights.types


def _joined(room: Room, recovery: Recovery, *, told: bool) -> bytes:
    """Encode the content of `joined`; `told`: with who is there."""
    return b'{"members":%b,"count":%d,"offset":%d,"epoch":"%b","recovered":%b,%b"messages":[%b]}' % (
        room.roster.listed() if told else b"[]",
        len(room.roster) if told else 0,
        recovery.offset,
        recovery.epoch,
        b"true" if recovery.recovered else b"false",
        b'"end_to_end":true,' if room.end_to_end else b"",
        b",".join(recovery.messages),
    )


async def _recovered(
    room: Room, since: Position | None, pending: Recovery | Awaitable[Recovery], turns: int
) -> Recovery:
    """Return where the room is, asked again while it went from one epoch to another in between.

    `turns` is how many had ended when it was asked: the answer may be of before, of after, or of neither.
    """
    recovery = pending if isinstance(pending, tuple) else await pending
    while room.turns != turns:
        turns = room.turns
        again = room.stream.recover(since)
        recovery = again if isinstance(again, tuple) else await again
    return recovery


def _continued(recovery: Recovery, recent: list[tuple[int, bytes]]) -> Recovery:
    """Return the recovery, continued by what was delivered while the broker made it; refused over a gap."""
    later = [(offset, push) for offset, push in recent if offset > recovery.offset]
    if not later:
        return recovery
    whole = recovery.recovered and all(push for _, push in later)
    messages = [*recovery.messages, *(push for _, push in later)] if whole else []
    return recovery._replace(offset=later[-1][0], recovered=whole, messages=messages)
