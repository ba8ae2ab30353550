"""What an operator's process asks of a worker beside `outside`: who and what is here, and to act on it.

It may ask because it reaches the workers at all; whom it lets ask is its own matter. Walks over all
connections or rooms are made in slices, between which the worker's other work goes on.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from realtime.core.cluster import BODY_BYTES_MAX
from realtime.core.outside import Publication, check_publication
from realtime.core.session import Session
from realtime.core.users import identity_of
from realtime.errors import BadMessage
from realtime.ids import RoomId, RoomName, TenantId, UserId, room_kind
from realtime.native.encode import json_string
from realtime.protocol.closing import close_reason, may_be_sent

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.catalog import Catalog
    from realtime.core.cluster import Cluster, WorkerId
    from realtime.core.contracts import Connection, Registry
    from realtime.core.control import Control
    from realtime.core.membership import Membership
    from realtime.core.signals import Signals
    from realtime.core.tenant import Tenants
    from realtime.core.users import Users

SIGNAL: Final = "signal"
ROOMS: Final = "rooms"
CONNECTIONS: Final = "connections"
CLOSE: Final = "close"
PUT_OUT: Final = "put_out"
REVOKED: Final = "revoked"

REMOVED: Final = "removed"
"""The reason in `left` of who was put out by an operator."""
SLICE: Final = 2000  # of a walk: 1 ms at most
PAGE_MAX: Final = 1000
ROOMS_NAMED_MAX: Final = 20
"""Rooms of one connection that are named; the others are counted."""
ANSWER_BYTES: Final = BODY_BYTES_MAX - 8 * 1024

Asked = TypeVar("Asked")
Item = TypeVar("Item")


class RoomsAsked(msgspec.Struct, frozen=True, array_like=True):
    """The tenant's rooms that have members here, by name: at most `limit` above the name `after`."""

    tenant: TenantId
    kind: str = ""  # empty: of all kinds
    after: str = ""
    limit: int = 100


class RoomHere(msgspec.Struct, frozen=True, array_like=True):
    """A room on one worker: connections in it here, and how many users the worker knows it to have."""

    room: RoomName
    here: int
    count: int


class RoomsHere(msgspec.Struct, frozen=True, array_like=True):
    """The answer of one worker."""

    rooms: list[RoomHere]
    more: bool


class ConnectionsAsked(msgspec.Struct, frozen=True, array_like=True):
    """Connections of a tenant, or of one user of it, by number: at most `limit` above the number `after`."""

    tenant: TenantId
    user: UserId | None = None
    after: int = 0
    limit: int = 100


class ConnectionHere(msgspec.Struct, frozen=True, array_like=True):
    """A connection of this worker. `rooms` are at most `ROOMS_NAMED_MAX`, `in_rooms` is how many it is in."""

    number: int
    user: UserId
    address: str
    binary: bool
    rooms: list[RoomName]
    in_rooms: int


class ConnectionsHere(msgspec.Struct, frozen=True, array_like=True):
    """The answer of one worker."""

    connections: list[ConnectionHere]
    more: bool


class Close(msgspec.Struct, frozen=True, array_like=True):
    """Close connection `number` of this worker, where it is of the tenant. Answered with 1 or 0."""

    tenant: TenantId
    number: int
    code: int
    reason: str


class PutOut(msgspec.Struct, frozen=True, array_like=True):
    """Put a user out of a room; they may come back. Answered with how many connections were in it."""

    tenant: TenantId
    room: RoomName
    user: UserId


class Bearer(msgspec.Struct, frozen=True, array_like=True):
    """Is the token revoked that said this? Answered with 1 or 0."""

    tenant: TenantId
    user: UserId
    token_id: str = ""
    issued_at: float | None = None


class Operations:
    """Answers it."""

    def __init__(
        self,
        catalog: Catalog,
        membership: Membership,
        tenants: Tenants,
        users: Users,
        registry: Registry,
        signals: Signals,
        control: Control,
        cluster: Cluster,
    ) -> None:
        self._catalog = catalog
        self._membership = membership
        self._tenants = tenants
        self._users = users
        self._registry = registry
        self._signals = signals
        self._control = control
        cluster.answer(SIGNAL, self._on_signal)
        cluster.answer(ROOMS, self._on_rooms)
        cluster.answer(CONNECTIONS, self._on_connections)
        cluster.answer(CLOSE, self._on_close)
        cluster.answer(PUT_OUT, self._on_put_out)
        cluster.answer(REVOKED, self._on_revoked)

    def _on_signal(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(Publication, body)
        check_publication(self._catalog, self._membership.rules, asked, ephemeral=True)
        sender = None if asked.user is None else json_string(asked.user)
        self._signals.send(RoomId(asked.tenant, asked.room), asked.type, asked.content, sender)
        return b""

    async def _on_rooms(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(RoomsAsked, body)
        tenant = self._tenants.find(asked.tenant)
        names = [] if tenant is None else list(tenant.rooms)

        def wanted(name: str) -> bool:
            return name > asked.after and asked.kind in ("", room_kind(RoomName(name)))

        limit = _page(asked.limit)
        page, size, more = list[RoomHere](), 0, False
        for name in await _least(names, wanted, lambda name: name, limit + 1):
            room = self._membership.find(RoomId(asked.tenant, RoomName(name)))
            if room is None:
                continue  # meanwhile
            size += len(name.encode()) + 24
            if len(page) == limit or size > ANSWER_BYTES:
                more = True
                break
            page.append(RoomHere(room.key.room, room.members, max(len(room.roster), room.members and 1)))
        return msgspec.msgpack.encode(RoomsHere(page, more))

    async def _on_connections(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(ConnectionsAsked, body)
        found: Sequence[Connection]
        if asked.user is not None:
            found = self._users.connections(asked.tenant, asked.user)
        else:
            found = list(self._registry.connections())

        def wanted(connection: Connection) -> bool:
            identity = identity_of(connection)
            of_tenant = identity is not None and identity.tenant == asked.tenant
            return of_tenant and connection.open and connection.id > asked.after

        limit = _page(asked.limit)
        page, size, more = list[ConnectionHere](), 0, False
        for connection in await _least(found, wanted, lambda each: each.id, limit + 1):
            identity = identity_of(connection)
            if identity is None:
                continue  # closed meanwhile
            shown = _shown(connection, identity)
            size += len(msgspec.msgpack.encode(shown))
            if len(page) == limit or size > ANSWER_BYTES:
                more = True
                break
            page.append(shown)
        return msgspec.msgpack.encode(ConnectionsHere(page, more))

    async def _on_close(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(Close, body)
        if not (may_be_sent(asked.code) and asked.code >= 1000):
            raise BadMessage(f"{asked.code} is no close code that may be sent")
        try:
            reason = close_reason(asked.reason)
        except ValueError as error:
            raise BadMessage(f"the reason is no text: {error}") from None
        async for some in _slices(list(self._registry.connections())):
            for connection in some:
                identity = identity_of(connection)
                if connection.id != asked.number or identity is None or identity.tenant != asked.tenant:
                    continue
                if not connection.open:
                    return b"0"
                self._control.close(connection, asked.code, reason)
                return b"1"
        return b"0"

    def _on_put_out(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(PutOut, body)
        room = self._membership.find(RoomId(asked.tenant, asked.room))
        if room is None:
            return b"0"
        inside = [each for each in self._users.sessions_of(asked.tenant, asked.user) if room in each.rooms]
        for session in inside:
            self._membership.put_out(session, room, REMOVED)
        return b"%d" % len(inside)

    def _on_revoked(self, asker: WorkerId, body: bytes) -> bytes:
        asked = _read(Bearer, body)
        return (
            b"1" if self._control.refuses(asked.tenant, asked.user, asked.token_id, asked.issued_at) else b"0"
        )


def _shown(connection: Connection, identity: Identity) -> ConnectionHere:
    state = connection.state
    rooms = [room.key.room for room in state.rooms] if isinstance(state, Session) else []
    named = rooms[:ROOMS_NAMED_MAX]
    return ConnectionHere(
        connection.id, identity.user, connection.address, connection.binary, named, len(rooms)
    )


def _page(limit: int) -> int:
    return max(1, min(limit, PAGE_MAX))


async def _least(
    found: Sequence[Item],
    wanted: Callable[[Item], bool],
    key: Callable[[Item], str | int],
    limit: int,
) -> list[Item]:
    """Return the first `limit` that are wanted, by `key`."""
    least: list[Item] = []
    async for some in _slices(found):
        theirs: Iterable[Item] = filter(wanted, some)
        least = heapq.nsmallest(limit, (*least, *theirs), key=key)
    return least


async def _slices(found: Sequence[Item]) -> AsyncIterator[Sequence[Item]]:
    for start in range(0, len(found), SLICE):
        if start:
            await asyncio.sleep(0)
        yield found[start : start + SLICE]


def _read(type: type[Asked], body: bytes) -> Asked:
    try:
        return msgspec.msgpack.decode(body, type=type)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a process of another version asks: {error}") from error
