"""One peer, as the core knows it: who it is, how far it has come, which rooms it is in, how to answer it.

10,000 of them are held, so a session shares what it can and stores nothing that follows from the rest. Its
fields are those of `SessionBase`, where the relay finds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Final

from realtime.core.auth import Identity
from realtime.core.tenant import NOBODY, Tenant
from realtime.native.encode import json_string
from realtime.native.message import Envelope
from realtime.native.ratelimit import Allowance
from realtime.native.relay import SessionBase
from realtime.protocol.codecs import to_msgpack
from realtime.protocol.session import State

if TYPE_CHECKING:
    from realtime.core.contracts import Connection
    from realtime.core.room import Room

# A tuple of rooms costs 56 bytes and 8 a room, a set 216 at once; its search is linear. The tuple of one room
# is the room's own, shared by all who are in that one only.
ROOMS_IN_TUPLE = 8

Handle = Callable[["Session", Envelope], Awaitable[None] | None]
"""Handles one message; what has to wait is in the awaitable."""
Handlers = dict[str, Handle]
"""By message type."""

NO_HANDLERS: Final[Handlers] = {}


class Session(SessionBase):
    """A connection's session. Until `identity` is set it is nobody's and may only `connect`.

    `state` says how far it has come, and `handlers` what it may send there: `move` changes both, so that a
    message need not look at the state. `rooms` are those it has joined; `credit` counts the messages it may
    send before the limiter is asked again, `allowance` what its user and tenant may send, None where that is
    not limited; `backlog` holds the messages that wait for one before them to be
    done, None where they need not.
    """

    __slots__ = ("state",)

    connection: Connection
    identity: Identity | None
    tenant: Tenant
    rooms: Collection[Room]
    backlog: list[Envelope] | None
    allowance: Allowance | None
    state: State

    def __init__(self, connection: Connection, entrance: Handlers) -> None:
        """`entrance` takes what nobody may send."""
        super().__init__(connection, entrance)
        self.state = State.NEW
        self.tenant = NOBODY
        self.live = NOBODY.rooms
        self.rooms = ()

    def authenticate(self, identity: Identity, tenant: Tenant) -> None:
        """Make it the session of `identity`; again, when the identity is renewed."""
        self.identity = identity
        self.tenant = tenant
        self.live = tenant.rooms
        self.user_json = json_string(identity.user)  # `from` of all it publishes

    def draw_on(self, allowance: Allowance | None, tenants: Allowance | None) -> None:
        """Let it draw on `allowance` from here on, which has been held for it; part of it is the tenant's."""
        if allowance is not self.allowance:  # most have none, before and after
            self.allowance = allowance
            self.connection.draw_on(tenants)

    def move(self, state: State, handlers: Handlers = NO_HANDLERS) -> None:
        """Go on to `state`, where it may send what `handlers` takes."""
        self.state = self.state.to(state)
        self.handlers = handlers

    def send(self, payload: bytes) -> None:
        """Send one message, given as JSON. To a closed connection it does nothing."""
        self.connection.send(to_msgpack(payload) if self.binary else payload)

    def close(self, code: int, reason: bytes = b"") -> None:
        """Begin to close the connection; `reason` is JSON of at most 123 bytes.

        What it has sent and still sends is not looked at any more. The first code stands.
        """
        if not self.state.over:
            self.move(State.CLOSING)
        self.connection.close(code, reason)

    def add_room(self, room: Room) -> None:
        """Note that it has joined `room`."""
        rooms = self.rooms
        if not rooms:
            self.rooms = room.alone
        elif isinstance(rooms, set):
            rooms.add(room)
        elif len(rooms) < ROOMS_IN_TUPLE:
            self.rooms = (*rooms, room)
        else:
            self.rooms = {*rooms, room}

    def drop_room(self, room: Room) -> None:
        """Note that it has left `room`."""
        rooms = self.rooms
        if isinstance(rooms, set):
            rooms.discard(room)
        else:
            self.rooms = tuple(each for each in rooms if each is not room)
