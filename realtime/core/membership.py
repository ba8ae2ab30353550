"""Joining and leaving: the only place where sessions and rooms get to know each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

from realtime.core.catalog import Catalog
from realtime.core.contents import decode_join
from realtime.core.contracts import Broker, Clock, Fanout, Page, Position, Recovery, RoomKey
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.core.passive import Passives
from realtime.core.room import Room
from realtime.core.router import Router
from realtime.core.session import Handlers, Session
from realtime.core.tenant import Tenant, Tenants
from realtime.errors import BadMessage, Forbidden, NotJoined, RoomLimit
from realtime.ids import RoomId, room_name
from realtime.native.encode import encode_ack, encode_reply
from realtime.native.message import Envelope
from realtime.protocol.messages import Join
from realtime.protocol.session import State

Then = Callable[[Session, Envelope, Room, Recovery], None]
"""What is done when the broker has said where the room is."""


class Membership:
    """Lets sessions in and out of rooms, makes rooms and drops them, and tells members of each other."""

    def __init__(
        self,
        catalog: Catalog,
        tenants: Tenants,
        broker: Broker,
        fanout: Fanout,
        clock: Clock,
        limits: Limits,
        router: Router,
    ) -> None:
        self._catalog = catalog
        self._tenants = tenants
        self._broker = broker
        self._fanout = fanout
        self._clock = clock
        self._limits = limits
        self._router = router
        self._passives = Passives(clock)
        self._changed: set[Room] = set()  # whose members have not been told yet who came and went
        self.rooms = 0  # live ones

    def join(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Let the session into the room and answer `joined`; again, when it is in already.

        A passive member is active from then on.

        Raises:
            BadMessage: no room, or a content that is not a join's.
            Forbidden, RoomLimit: it may not, or is in as many rooms as it may be.
            Unavailable: the broker gives no answer.
        """
        content = decode_join(message.content)
        room = self._room_to_join(session, self.room_name(message))
        try:
            recovery = room.stream.recover(_position(content))
            if not isinstance(recovery, tuple):
                return self._wait(session, message, room, recovery, self._let_in)
            self._let_in(session, message, room, recovery)
        finally:
            self._drop_if_empty(session.tenant, room)
        return None

    def passive(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Send the session only the count of what is published, and acknowledge it with the position.

        Raises:
            BadMessage, NotJoined: as `joined_room`.
            Unavailable: the broker gives no answer.
        """
        room = self.joined_room(session, message)
        recovery = room.stream.recover(None)
        if not isinstance(recovery, tuple):
            return self._wait(session, message, room, recovery, self._let_rest)
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
        self._let_out(session, room)
        if message.id is not None:
            session.send(encode_reply("ack", message.id, room.json, b"{}"))

    def leave_all(self, session: Session) -> None:
        """Let a session whose connection is gone out of all its rooms."""
        rooms, session.rooms = session.rooms, ()
        for room in rooms:
            self._let_out(session, room)

    def tell_changes(self) -> None:
        """Push to the members of each room who has come and gone, where that is due."""
        now = self._clock.monotonic()
        limits = self._limits
        for room in tuple(self._changed):
            roster = room.roster
            if now >= roster.due(limits.presence_interval_s, limits.presence_count_interval_s):
                self._changed.discard(room)
                room.broadcast(encode_reply("presence", None, room.json, roster.tell(now)))

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

    def find(self, room: RoomKey) -> Room | None:
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

    async def visit(self, key: RoomKey, limit: int) -> tuple[Position, Collection[bytes]]:
        """Return where a room is, and its last `limit` (1 or more) publications, oldest first.

        Raises:
            BadMessage, Unavailable: as `page`.
        """
        position, page = await self.page(key, None, None, limit)
        return position, page.messages

    async def page(
        self, key: RoomKey, before: int | None, after: int | None, limit: int
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

    def _room_to_join(self, session: Session, name: str) -> Room:
        """Return the live room `name` if the session may join it; made when it is not there yet."""
        tenant = session.tenant
        room = tenant.rooms.get(name)
        if room is not None and room in session.rooms:
            return room
        kind = self._catalog.kind_of(name) if room is None else room.kind
        identity = session.identity
        assert identity is not None  # nobody's sessions have no join
        if kind.may_join is not None and not kind.may_join(identity, room_name(RoomId(name))):
            raise Forbidden("you may not join this room")
        if len(session.rooms) >= self._limits.rooms_per_connection:
            allowed = self._limits.rooms_per_connection
            message = f"a connection may be in {allowed} rooms; leave one first"
            raise RoomLimit(message, limit="max_rooms_per_connection", allowed=allowed)
        return self._make(tenant, name, kind) if room is None else room

    def _make(self, tenant: Tenant, name: str, kind: RoomKind) -> Room:
        """Return a new live room."""
        members_named = self._limits.presence_members
        if kind.presence_members is not None:
            members_named = kind.presence_members
        key = RoomKey(tenant.id, RoomId(name))
        types = self._catalog.types_by_kind[kind.name]
        named = members_named if kind.presence else 0
        newest_bytes = self._limits.answer_bytes // 2
        room = Room(key, kind, types, self._broker, self._fanout, named, newest_bytes)
        tenant.rooms[name] = room
        self.rooms += 1
        return room

    def _let_in(self, session: Session, message: Envelope, room: Room, recovery: Recovery) -> None:
        """Answer `joined`, then let the session in: in this order, or a push could overtake the answer.

        Nothing is delivered in between, so its first push is the one after `offset`.
        """
        is_new = room not in session.rooms
        if is_new:
            self._note_change(room, room.roster.join(session.user_json))
        if message.id is not None:
            content = _joined(room, _fitted(recovery, self._limits.answer_bytes))
            session.send(encode_reply("joined", message.id, room.json, content))
        if is_new:
            room.enter(session)
            session.add_room(room)
        elif session in room.passive:
            self._passives.forget(session, room)
            room.wake(session)

    def _let_rest(self, session: Session, message: Envelope, room: Room, recovery: Recovery) -> None:
        """Make the session passive, then acknowledge: all that was delivered by now comes before it."""
        if session not in room.passive:
            self._passives.add(session, room, recovery.offset, recovery.epoch)
        if message.id is not None:
            session.send(encode_ack(message.id, room.json, recovery.offset, recovery.epoch))

    def _let_out(self, session: Session, room: Room) -> None:
        self._passives.forget(session, room)
        room.exit(session)
        self._note_change(room, room.roster.leave(session.user_json))
        self._drop_if_empty(session.tenant, room)

    def _wait(
        self, session: Session, message: Envelope, room: Room, pending: Awaitable[Recovery], then: Then
    ) -> Awaitable[None]:
        """Hold the session's messages, and keep what the room is delivered, until the broker answers."""
        room.arriving += 1
        handlers = session.handlers
        self._router.hold(session, State.JOINING)
        return self._go_on(session, message, room, pending, handlers, then)

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
        finally:
            self._arrived(session.tenant, room)
            self._router.resume(session, State.READY, handlers)

    def _arrived(self, tenant: Tenant, room: Room) -> None:
        """Count one less of those for whom the room is kept while the broker answers."""
        room.arriving -= 1
        if not room.arriving:
            room.recent.clear()
        self._drop_if_empty(tenant, room)

    def _note_change(self, room: Room, changed: bool) -> None:
        if changed and room.kind.presence:
            self._changed.add(room)

    def _drop_if_empty(self, tenant: Tenant, room: Room) -> None:
        """Forget a room that nobody is in. Its order and history live on at the broker."""
        if room.empty and tenant.rooms.get(room.key.room) is room:
            del tenant.rooms[room.key.room]
            self.rooms -= 1
            self._changed.discard(room)
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


def _joined(room: Room, recovery: Recovery) -> bytes:
    """Encode the content of `joined`."""
    return b'{"members":%b,"count":%d,"offset":%d,"epoch":"%b","recovered":%b,"messages":[%b]}' % (
        room.roster.listed(),
        len(room.roster),
        recovery.offset,
        recovery.epoch,
        b"true" if recovery.recovered else b"false",
        b",".join(recovery.messages),
    )


def _continued(recovery: Recovery, recent: list[tuple[int, bytes]]) -> Recovery:
    """Return the recovery, continued by what was delivered while the broker made it."""
    later = [(offset, push) for offset, push in recent if offset > recovery.offset]
    if not later:
        return recovery
    messages = [*recovery.messages, *(push for _, push in later)] if recovery.recovered else []
    return recovery._replace(offset=later[-1][0], messages=messages)
