"""From a message to its place in a room: who may publish what where, and the ack."""

from __future__ import annotations

from collections.abc import Awaitable

from realtime.core import audit
from realtime.core.access import JOIN, sending
from realtime.core.catalog import Catalog
from realtime.core.contracts import Broker, Receipt, Stamp, Terms
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits, rate_limited
from realtime.core.membership import MAY_NOT_JOIN, Membership
from realtime.core.pending import Owed, Pending
from realtime.core.room import Room
from realtime.core.sealed import check_sealed, refuse_reader
from realtime.core.session import Session
from realtime.errors import BadMessage, Forbidden, NotJoined, TooLarge, Unauthorized
from realtime.ids import RoomId, RoomName, id_in_kind
from realtime.native.encode import encode_ack, encode_reply, json_string
from realtime.native.message import Envelope


class Publisher:
    """Publishes what sessions send, and acknowledges it."""

    __slots__ = ("_broker", "_catalog", "_content_bytes", "_membership", "_stamp")

    def __init__(
        self, catalog: Catalog, broker: Broker, stamp: Stamp, limits: Limits, membership: Membership
    ) -> None:
        self._catalog = catalog
        self._broker = broker
        self._stamp = stamp
        self._content_bytes = limits.content_bytes
        self._membership = membership

    def publish(self, session: Session, message: Envelope) -> Awaitable[None] | None:
        """Publish `message` as it stands to the room it names; the handler of all types without one.

        The relay does the same by itself where there is nothing to look up or to ask. The ack is sent at
        once where the broker knows the answer; else the awaitable returned sends it.

        Raises:
            BadMessage: it names no room, or one that is sealed end to end, and the content is not.
            NotJoined, Forbidden: this session may not publish this there.
            TooLarge: the content is over `content_bytes`.
            RateLimited: its user or tenant may not cause as many deliveries now.
            Conflict, Unavailable: the broker refuses.
        """
        content = self._content(message)
        name = self._membership.room_name(message)
        terms = None if message.key is None else Terms(key=message.key)
        room = session.live.get(name)
        if room is None or room not in session.rooms:
            kind = self._catalog.kind_of(name)
            self._check(session, message, kind, name, joined=False)
            charge(session, 1 if room is None else room.members)
            key = RoomId(session.tenant.id, RoomName(name))
            receipt = self._broker.publish(key, kind, message.type, session.user_json, content, terms)
            return acknowledge(session, message.id, json_string(name), receipt)
        if message.type not in room.types or is_limited(session, room):
            self._check(session, message, room.kind, name, joined=True)
        charge(session, room.members)
        receipt = room.stream.publish(message.type, session.user_json, content, terms)
        return acknowledge(session, message.id, room.json, receipt)

    def permit(self, session: Session, message: Envelope) -> RoomId:
        """Return the room that a command is for, which its session may send there; it is charged for it.

        Raises:
            BadMessage, NotJoined, Forbidden, TooLarge, RateLimited: as `publish`.
        """
        self._content(message)
        name = self._membership.room_name(message)
        room = session.live.get(name)
        joined = room is not None and room in session.rooms
        if room is None or not joined or message.type not in room.types or is_limited(session, room):
            self._check(session, message, self._catalog.kind_of(name), name, joined=joined)
        charge(session, 1 if room is None else room.members)
        return RoomId(session.tenant.id, RoomName(name))

    def publish_to(
        self, room: RoomId, type: str, sender: bytes | None, content: bytes, terms: Terms
    ) -> Receipt | Awaitable[Receipt]:
        """Publish for the server, which may do so; whether or not anybody here is in the room.

        Raises (the awaitable too):
            BadMessage: it is no room's name, or the room is sealed end to end and the content is not.
            TooLarge: the content is over `content_bytes`.
            Conflict, Unavailable: as `Broker.publish`.
        """
        self._check_size(content)
        if self._membership.rules.of(room).end_to_end:
            check_sealed(content)
        live = self._membership.find(room)
        if live is not None:
            return live.stream.publish(type, sender, content, terms)
        return self._broker.publish(room, self._catalog.kind_of(room.room), type, sender, content, terms)

    def signal(self, session: Session, message: Envelope) -> None:
        """Tell the members of the room who are there now, and nobody later: the handler of ephemeral types.

        It gets no place in the room's order, is not kept, and is no part of history or recovery; the ack says
        no more than that it was sent.

        Raises:
            BadMessage: it names no room, or has a `key`: there is nothing that a repeat could find.
            NotJoined, Forbidden: this session may not publish this there.
            TooLarge: the content is over `content_bytes`.
            RateLimited: its user or tenant may not cause as many deliveries now.
        """
        content = self._content(message)
        if message.key is not None:
            raise BadMessage(f"{message.type!r} is not kept, so it takes no `key`")
        room = self._membership.joined_room(session, message)
        if message.type not in room.types or is_limited(session, room):
            self._check(session, message, room.kind, room.key.room, joined=True)
        charge(session, room.members)
        room.stream.signal(
            b'{"type":%b,"room":%b,"from":%b,"content":%b,"timestamp":"%b"}'
            % (json_string(message.type), room.json, session.user_json, content, self._stamp.timestamp)
        )
        if message.id is not None:
            session.send(encode_reply("ack", message.id, room.json, b"{}"))

    def _check_end_to_end(self, message: Envelope) -> None:
        """Raise BadMessage where a message to an end-to-end room is not sealed, or is to be read there."""
        known = self._catalog.messages[message.type]
        if known.owner is not None and not known.plain:  # what is plain goes on as it stands, sealed
            raise refuse_reader(f"{message.type!r}")
        check_sealed(message.content or b"null")

    def _content(self, message: Envelope) -> bytes:
        """Return the content of a publication."""
        content = message.content or b"null"
        self._check_size(content)
        return content

    def _check_size(self, content: bytes) -> None:
        if len(content) > self._content_bytes:
            raise TooLarge(
                f"content has {len(content)} bytes; at most {self._content_bytes} are taken",
                limit="max_message_bytes",
                allowed=self._content_bytes,
            )

    def _check(self, session: Session, message: Envelope, kind: RoomKind, name: str, *, joined: bool) -> None:
        """Raise unless the session may publish the message to this room."""
        identity = session.identity
        if identity is None:
            raise Unauthorized
        id = id_in_kind(RoomName(name))
        if message.type not in self._catalog.types_by_kind[kind.name]:
            raise Forbidden(f"rooms of kind {kind.name!r} take no {message.type!r}")
        access = self._membership.access
        allowed = kind.may_publish is None or kind.may_publish(identity, id, message.type)
        if not allowed or message.type not in self._membership.rights_in(session, kind, name).types:
            said = f"you may not publish {message.type!r} here"
            access.refuse(session, audit.Action.PUBLISH, name, sending(self._catalog, message.type), said)
        if self._membership.rules.of(RoomId(session.tenant.id, RoomName(name))).end_to_end:
            self._check_end_to_end(message)
        if self._catalog.messages[message.type].from_outside:
            return  # its owner decides, and says the same of a room that there is not
        if not joined and not kind.open_to_publish:
            # Whoever may not join is told just that, so that nobody learns here which rooms exist.
            if not self._membership.may_join(identity, kind, name):
                access.refuse(session, audit.Action.JOIN, name, JOIN, MAY_NOT_JOIN)
            raise NotJoined


def is_limited(session: Session, room: Room) -> bool:
    """Whether the rules let the session, which is in the room, send less there than a member may."""
    return session.limited is not None and room in session.limited


def charge(session: Session, members: int) -> None:
    """Take what a publication to so many members costs from what the session's user and tenant may send.

    Raises:
        RateLimited: it is more than they may send now; nothing is taken.
    """
    if session.allowance is None:
        return
    over = session.allowance.take(0, 0, max(1, members))
    if over is not None:
        raise rate_limited(*over)


def acknowledge(
    session: Session, id: bytes | None, room_json: bytes, receipt: Receipt | Awaitable[Receipt]
) -> Awaitable[None] | None:
    """Send the ack of a receipt, now or when it is there. Without an id nobody waits for one."""
    if isinstance(receipt, Pending):
        return Owed(session, id, room_json, receipt)
    if not isinstance(receipt, tuple):
        return _acknowledge_later(session, id, room_json, receipt)
    if id is not None:
        session.send(encode_ack(id, room_json, receipt[0], receipt[1], receipt[2]))
    return None


async def _acknowledge_later(
    session: Session, id: bytes | None, room_json: bytes, receipt: Awaitable[Receipt]
) -> None:
    acknowledge(session, id, room_json, await receipt)
