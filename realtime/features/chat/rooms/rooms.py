"""Rooms and their members: who may be where, and do what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from realtime.core.access import JOIN
from realtime.core.auth import Identity
from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.session import Session
from realtime.errors import Forbidden
from realtime.features.chat.acts import record
from realtime.features.chat.asking import identity_of
from realtime.features.chat.part import Part
from realtime.features.chat.rooms import tables
from realtime.features.chat.rooms.changes import Notice, pending
from realtime.features.chat.rooms.changing import Changes
from realtime.features.chat.rooms.erasing import Erasing
from realtime.features.chat.rooms.lists import Lists
from realtime.features.chat.rooms.powers import MODERATE
from realtime.features.chat.rooms.state import DELETED, DIRECT, GONE, Role, RoomState, Standing, may_enter
from realtime.features.chat.rules import KIND, is_hidden
from realtime.ids import RoomId, RoomName, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

ROOMS_MAX: Final = 20_000
"""Rooms that an owner has in memory; above it the one that was used longest ago is read anew."""
STANDINGS_MAX: Final = 100_000
"""The same of what users are in them, over all rooms."""
LOOKED_AT: Final = 64
"""Rooms that are looked at for one that no command has in hand."""
_NOBODY: Final = UserId("")


class Owned:
    """A room that this worker owns, as it is: whatever changes it goes through here."""

    def __init__(self, room: RoomState) -> None:
        self.room = room
        self.standings: dict[UserId, Standing] = {}
        self.notices: list[Notice] = []  # that the tables have, and whose telling is not done


class Look(NamedTuple):
    """What somebody sees who may be in a room. `role` is what they count as there, by the policy too."""

    room: RoomState
    standing: Standing
    role: Role


class Rooms(Part):
    """Answers who may be in which room, from the tables; and for rooms that are owned here from memory."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self._owned: dict[RoomId, Owned] = {}  # least recently used first
        self._standings = 0  # of all that are owned
        self._disowned = 0  # times that others took rooms over
        self._turns: WeakValueDictionary[RoomId, asyncio.Lock] = WeakValueDictionary()
        self.changes = Changes(self)
        self.erasing = Erasing(self)
        self.lists = Lists(chat)

    @property
    def now_ms(self) -> int:
        """Unix time in ms."""
        return int(self.clock.time() * 1000)

    # -- wherever it is asked -------------------------------------------------------------------------------

    async def admits(self, identity: Identity, room: RoomId) -> bool:
        """Whether somebody may be in a room, which another worker may own: the gate. It asks the tables."""
        return self.enters(room, *await tables.look(self.database, room, identity.user))

    async def look(self, session: Session, room: RoomId) -> Look:
        """Return a room, which another worker may own, to a session that may be in it: for questions.

        Raises:
            Forbidden: it may not, by the policy or by what is kept; the same for a room that there is not.
        """
        identity = identity_of(session)
        kind = self.chat.core.catalog.kinds[KIND]
        found, standing = await tables.look(self.database, room, identity.user)
        allowed = self.chat.core.membership.rights_in(session, kind, room.room).join
        if not allowed or not self.enters(room, found, standing):
            raise Forbidden(GONE)
        return Look(found, standing, self.role_of(identity, room.room, found, standing))

    async def find(self, room: RoomId) -> RoomState | None:
        """Return a room as the tables have it; None where nobody has created it."""
        found, _ = await tables.look(self.database, room, _NOBODY)
        return None if tables.is_implicit(found) else found

    async def read_standing(self, room: RoomId, user: UserId) -> Standing:
        """Return what somebody is in a room, as the tables have it."""
        return (await tables.look(self.database, room, user))[1]

    def role_of(self, identity: Identity, name: RoomName, room: RoomState, standing: Standing) -> Role:
        """Return what somebody counts as in a room: a moderator too where the policy says so, by name, and
        the room is not just some users' own.
        """
        if room.visibility in (DIRECT, DELETED) or standing.role >= Role.MODERATOR:
            return standing.role
        granted = self.chat.core.access.grants(identity, MODERATE, name)
        return Role.MODERATOR if granted else standing.role

    async def read(self, room: RoomId, user: UserId) -> tuple[RoomState, Standing]:
        """Return a room and what somebody is in it, as the tables have both. Raises Unavailable."""
        return await tables.look(self.database, room, user)

    def enters(self, room: RoomId, found: RoomState, standing: Standing) -> bool:
        """Whether somebody may be in a room, by what is kept."""
        hidden, open_rooms = is_hidden(room.room), self.settings.chat_open_rooms
        return may_enter(found, standing, self.now_ms, open_rooms=open_rooms, hidden=hidden)

    # -- at the owner ---------------------------------------------------------------------------------------

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

    def at_once(self, room: RoomId, user: UserId) -> tuple[Owned, Standing] | None:
        """Return what `turn` and `standing` would give without waiting: nobody has the room's turn or waits
        for it, and both are in memory; None where they are not. It holds until something else runs.
        """
        owned = self._owned.get(room)
        if owned is None or not owned.room.number or room in self._turns:
            return None
        standing = owned.standings.get(user)
        return None if standing is None else (owned, standing)

    async def own(self, room: RoomId) -> Owned:
        """Return a room that this worker owns. Only from commands: their worker is its owner."""
        owned = self._owned.pop(room, None)
        if owned is not None:
            self._owned[room] = owned  # most recently used
            if owned.room.number:
                return owned
        while True:
            disowned = self._disowned
            found, _ = await tables.look(self.database, room, _NOBODY)
            notices = await pending(self.database, found.number) if found.version else []
            if disowned == self._disowned:  # else the next owner may have written since
                break
        owned = self._owned.get(room)
        if owned is None:
            owned = self._owned[room] = Owned(found)
            owned.notices = notices
            if notices:
                self.changes.owe(room)
            self._trim()
        elif not owned.room.number:
            owned.room = found
        return owned

    async def standing(self, room: RoomId, user: UserId) -> Standing:
        """Return what somebody is in a room that this worker owns. Whoever changes it writes it too."""
        owned = await self.own(room)
        standing = owned.standings.get(user)
        if standing is None:
            read = await self.read_standing(room, user)
            standing = owned.standings.setdefault(user, read)
            if standing is read and self._owned.get(room) is owned:
                self._standings += 1
                self._trim()
        return standing

    async def require(self, command: Command, least: Role = Role.NONE) -> Role:
        """Return what the sender of a command counts as in its room, in the command's turn. What is trusted
        counts as an owner's.

        Raises:
            Forbidden: they may not be in the room (the same for one that there is not), or are less than
                `least` in it.
        """
        room, identity = command.room, command.identity
        if command.trusted:
            return Role.OWNER
        owned = await self.own(room)
        standing = await self.standing(room, identity.user)
        role = self.role_of(identity, room.room, owned.room, standing)
        by_policy = role > standing.role
        allowed = self.chat.core.access.allows(identity, JOIN, room.room)
        if not allowed or not (by_policy or self.enters(room, owned.room, standing)):
            record(self.chat.core, identity, command.type, room.room, denied=True)
            raise Forbidden(GONE)
        if role < least:
            record(self.chat.core, identity, command.type, room.room, denied=True)
            raise Forbidden(f"{command.type!r} takes {least.word} of this room; you are {role.word}")
        return role

    def forget(self, room: RoomId) -> None:
        """Drop what is known of a room: what the tables say of it may be otherwise."""
        owned = self._owned.pop(room, None)
        if owned is not None:
            self._standings -= len(owned.standings)

    def disown(self, slots: Collection[int]) -> None:
        """As `Part.disown`."""
        gone = frozenset(slots)
        self._disowned += 1
        for room in [each for each in self._owned if room_slot(each) in gone]:
            self.forget(room)

    def tick(self) -> None:
        """As `Part.tick`."""
        self.changes.tick()
        self.erasing.tick()

    def stats(self) -> dict[str, int]:
        """As `Part.stats`."""
        return {
            "chat_rooms_owned": len(self._owned),
            "chat_standings_known": self._standings,
            "chat_rooms_owing": len(self.changes.owing),
        }

    def _trim(self) -> None:
        """Forget rooms used longest ago while too much is known; but none that a command looks at now."""
        while self._is_over:
            oldest = (room for room in islice(self._owned, LOOKED_AT) if room not in self._turns)
            room = next(oldest, None)
            if room is None:
                break
            self.forget(room)
        for owned in self._owned.values() if self._is_over else ():
            # One room alone has as many; who wrote longest ago may write again at once where it is slow.
            for user in [*owned.standings][: len(owned.standings) // 2]:
                del owned.standings[user]
                self._standings -= 1

    @property
    def _is_over(self) -> bool:
        return len(self._owned) > ROOMS_MAX or self._standings > STANDINGS_MAX
