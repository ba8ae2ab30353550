"""Rooms and their members: who may be where, and do what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from realtime.core.auth import Identity
from realtime.core.cluster import room_slot
from realtime.features.chat.part import Part
from realtime.features.chat.rooms.state import Role, RoomState, Standing, may_enter
from realtime.features.chat.rules import is_hidden
from realtime.ids import RoomId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

_ROOM = (
    "SELECT r.id AS number, c.visibility AS visibility, c.title AS title, c.topic AS topic, "
    "c.created_ms AS created_ms, c.archived_ms AS archived_ms, c.slow_s AS slow_s, "
    "c.retention_s AS retention_s, c.hold AS hold "
    "FROM rooms r LEFT JOIN chat_rooms c ON c.room = r.id WHERE r.tenant = $1 AND r.name = $2"
)
_STANDING = (
    "SELECT m.role AS role, m.banned_until_ms AS banned, m.muted_until_ms AS muted FROM rooms r "
    "JOIN chat_members m ON m.room = r.id WHERE r.tenant = $1 AND r.name = $2 AND m.user_id = $3"
)


class Owned:
    """A room that this worker owns, as it is: whatever changes it goes through here."""

    def __init__(self, room: RoomState) -> None:
        self.room = room
        self.standings: dict[UserId, Standing] = {}


class Rooms(Part):
    """Answers who may be in which room, from the tables; and for rooms that are owned here from memory."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self._owned: dict[RoomId, Owned] = {}
        self._turns: WeakValueDictionary[RoomId, asyncio.Lock] = WeakValueDictionary()

    async def admits(self, identity: Identity, room: RoomId) -> bool:
        """Whether somebody may be in a room, which another worker may own: the gate. It asks the tables."""
        found = await self.find(room)
        standing = await self.read_standing(room, identity.user)
        return may_enter(
            found,
            standing,
            self.now_ms,
            open_rooms=self.settings.chat_open_rooms,
            hidden=is_hidden(room.room),
        )

    @property
    def now_ms(self) -> int:
        """Unix time in ms."""
        return int(self.clock.time() * 1000)

    async def find(self, room: RoomId) -> RoomState | None:
        """Return a room as the tables have it; None where nobody has created it."""
        rows = await self.database.read(_ROOM, room.tenant, room.room)
        if not rows or rows[0][1] is None:
            return None
        number, visibility, title, topic, created, archived, slow_s, retention_s, hold = rows[0]
        return RoomState(
            number=number,
            visibility=visibility,
            title=title,
            topic=topic,
            created_ms=created,
            archived_ms=archived,
            slow_s=slow_s,
            retention_s=retention_s,
            hold=bool(hold),
        )

    async def read_standing(self, room: RoomId, user: UserId) -> Standing:
        """Return what somebody is in a room, as the tables have it."""
        rows = await self.database.read(_STANDING, room.tenant, room.room, user)
        if not rows:
            return Standing()
        role, banned, muted = rows[0]
        return Standing(role=Role(role), banned_until_ms=banned, muted_until_ms=muted)

    @asynccontextmanager
    async def turn(self, room: RoomId) -> AsyncIterator[Owned]:
        """Give a command its turn with a room, in the order in which commands came, and the room as it is.

        It lasts from the first look until what the command publishes has been given to the room: what is
        ordered is what was looked at, and two messages of one sender stay in their order. Receipts are
        awaited after it.
        """
        lock = self._turns.get(room)
        if lock is None:
            lock = self._turns[room] = asyncio.Lock()
        async with lock:
            yield await self.own(room)

    async def own(self, room: RoomId) -> Owned:
        """Return a room that this worker owns. Only from commands: their worker is its owner."""
        owned = self._owned.get(room)
        if owned is None:
            found = await self.find(room)
            owned = self._owned.setdefault(room, Owned(found or RoomState(number=0)))
        return owned

    async def standing(self, room: RoomId, user: UserId) -> Standing:
        """Return what somebody is in a room that this worker owns. Whoever changes it writes it too."""
        owned = await self.own(room)
        standing = owned.standings.get(user)
        if standing is None:
            standing = owned.standings.setdefault(user, await self.read_standing(room, user))
        return standing

    def disown(self, slots: Collection[int]) -> None:
        """As `Part.disown`."""
        gone = frozenset(slots)
        for room in [each for each in self._owned if room_slot(each) in gone]:
            del self._owned[room]
