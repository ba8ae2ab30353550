"""What features let members know beside their rooms' order: signals of the server's own, and of presence.

A signal reaches who is there now, on all workers, and is not kept. News of who is here goes to each worker
once for many rooms, and there only to members who may see who is here.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Final

import msgspec

from realtime.core.catalog import Catalog
from realtime.core.cluster import BODY_BYTES_MAX, Cluster, Whereabouts, WorkerId
from realtime.core.contracts import Broker, Stamp
from realtime.core.membership import Membership
from realtime.core.users import Users
from realtime.errors import BadMessage
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.native.encode import json_string

log: Final = logging.getLogger("realtime.core")

TELL: Final = "presence_news"
ROOMS_BYTES_MAX: Final = BODY_BYTES_MAX - 16 * 1024
"""Names of rooms in one message between workers; the rest is for what is told."""


class News(msgspec.Struct, frozen=True, array_like=True):
    """Tell the members of these rooms; not where more than `members_max` are."""

    tenant: TenantId
    rooms: list[RoomName]
    members_max: int
    type: str
    content: bytes
    timestamp: bytes


_decode = msgspec.msgpack.Decoder(News).decode


class Signals:
    """Sends both, and knows where users are."""

    def __init__(
        self,
        broker: Broker,
        stamp: Stamp,
        catalog: Catalog,
        membership: Membership,
        users: Users,
        cluster: Cluster,
        whereabouts: Whereabouts | None,
    ) -> None:
        self._broker = broker
        self._stamp = stamp
        self._catalog = catalog
        self._membership = membership
        self._users = users
        self._cluster = cluster
        self._whereabouts = whereabouts
        cluster.answer(TELL, self._on_news)

    def send(self, room: RoomId, type: str, content: bytes, sender: bytes | None = None) -> None:
        """Tell the members of `room` who are there now, on all workers, whether or not anybody here is.

        `content` is JSON, `sender` a user id as JSON, None for the server itself.

        Raises:
            BadMessage: it is no room's name.
        """
        push = self.push(room.room, type, content, sender)
        live = self._membership.find(room)
        if live is not None:
            live.stream.signal(push)
        else:
            self._broker.signal(room, self._catalog.kind_of(room.room), push)

    def push(self, room: RoomName, type: str, content: bytes, sender: bytes | None = None) -> bytes:
        """Return what members get."""
        whose = b"" if sender is None else b'"from":%b,' % sender
        return b'{"type":%b,"room":%b,%b"content":%b,"timestamp":"%b"}' % (
            json_string(type),
            json_string(room),
            whose,
            content,
            self._stamp.timestamp,
        )

    def tell_presence(
        self, tenant: TenantId, rooms: Collection[RoomName], type: str, content: bytes, *, members_max: int
    ) -> None:
        """Tell the members of many rooms who may see who is here; none of one with over `members_max`."""
        if not rooms:
            return
        stamp, told, size = self._stamp.timestamp, list[RoomName](), 0
        for room in rooms:
            size += len(room.encode()) + 5
            if size > ROOMS_BYTES_MAX:
                self._tell(News(tenant, told, members_max, type, content, stamp))
                told, size = [], len(room.encode()) + 5
            told.append(room)
        self._tell(News(tenant, told, members_max, type, content, stamp))

    async def is_connected(self, tenant: TenantId, user: UserId) -> bool:
        """Whether a user has a connection to any worker.

        Raises:
            Unavailable: nobody can say it now.
        """
        return self.is_here(tenant, user) or await self.is_elsewhere(tenant, user)

    async def is_elsewhere(self, tenant: TenantId, user: UserId) -> bool:
        """Whether a user has a connection to another worker. Raises as `is_connected`."""
        if self._whereabouts is None:
            return False
        found = await self._whereabouts.find(tenant, user)
        return any(count for worker, count in found.items() if worker != self._cluster.worker)

    def is_here(self, tenant: TenantId, user: UserId) -> bool:
        """Whether a user has an open connection to this worker."""
        return any(each.open for each in self._users.connections(tenant, user))

    def rooms_here(self, tenant: TenantId, user: UserId) -> list[RoomName]:
        """Return the rooms that a user is in on this worker."""
        sessions = self._users.sessions_of(tenant, user)
        return list(dict.fromkeys(room.key.room for each in sessions for room in each.rooms))

    def _tell(self, news: News) -> None:
        self._cluster.tell(TELL, msgspec.msgpack.encode(news))

    def _on_news(self, teller: WorkerId, body: bytes) -> None:
        try:
            news = _decode(body)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{TELL}: {error}") from error
        for name in news.rooms:
            room = self._membership.find(RoomId(news.tenant, name))
            if room is not None and len(room.roster) <= news.members_max:
                room.tell_presence(
                    b'{"type":%b,"room":%b,"content":%b,"timestamp":"%b"}'
                    % (json_string(news.type), room.json, news.content, news.timestamp)
                )
