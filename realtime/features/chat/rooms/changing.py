"""How a room's owner changes it: decided in the room's turn, written at once, then known, then told.

What is told (a notice in the room's log, sessions that are looked at again) is kept with the change until
it is done: by this worker, or, where it ends before, by the next owner of the room.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from realtime.core.access import JOIN
from realtime.core.auth import Identity
from realtime.core.cluster import NotServed
from realtime.core.command import Command
from realtime.core.contracts import Receipt
from realtime.errors import Forbidden, RealtimeError, Unavailable
from realtime.features.chat.acts import record
from realtime.features.chat.rooms import changes
from realtime.features.chat.rooms.changes import Change, Notice
from realtime.features.chat.rooms.state import GONE
from realtime.features.chat.rules import NOTICE
from realtime.ids import RoomId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.rooms.rooms import Owned, Rooms

log: Final = logging.getLogger("realtime.chat")

MAKE: Final = "chat_room_make"
"""The type of what only the server asks of a room's owner."""
ATTEMPTS: Final = 3
AGAIN_S: Final = 1.0
OWING_MAX: Final = 10_000

Decide = Callable[["Owned"], Awaitable[Change | None]]
"""Takes the room as it is and says what is to be different, None for nothing. Raises RealtimeError."""


class Changes:
    """Changes rooms that this worker owns. `owing` are those that have not told all yet, also elsewhere."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.owing: dict[RoomId, float] = {}  # when to try again, by the monotonic clock

    async def make(self, command: Command, decide: Decide, *, stranger: bool = False) -> Owned:
        """Change the command's room as `decide` says, and return it as it is then.

        A `stranger` need not be one who may be in the room.

        Raises:
            Forbidden: its sender may not be in the room.
            Unavailable: the tables give no answer; it may have been done.
            RealtimeError: what `decide` raises.
        """
        if not stranger:
            await self._knock(command)
        room = command.room
        async with self._rooms.turn(room) as owned:
            receipts: list[tuple[Notice, Receipt | Awaitable[Receipt]]] = []
            change, owned = await self._write(command, owned, decide)
            if change is not None:
                self._apply(owned, change)
                receipts = self._tell(command, owned)
        await self._finish(room, owned, receipts)
        return owned

    async def look_again(self, command: Command) -> int:
        """Read the command's room anew and tell what is still to be told; return how much remains."""
        async with self._rooms.turn(command.room):
            self._rooms.forget(command.room)
            owned = await self._rooms.own(command.room)
            receipts = self._tell(command, owned)
        await self._finish(command.room, owned, receipts)
        return len(owned.notices)

    def owe(self, room: RoomId) -> None:
        """See to it that the room's owner tells what is still to be told."""
        if len(self.owing) < OWING_MAX:
            self.owing.setdefault(room, self._rooms.clock.monotonic())

    def tick(self) -> None:
        """Ask the owners of rooms that have not told all."""
        now = self._rooms.clock.monotonic()
        for room in [room for room, at in self.owing.items() if at <= now][:100]:
            self.owing[room] = now + AGAIN_S
            self._rooms.chat.services.spawn(self._remind(room))

    async def _remind(self, room: RoomId) -> None:
        nobody = Identity(UserId(""), room.tenant)
        try:
            outcome = self._rooms.chat.core.order(room, MAKE, b"{}", nobody, trusted=True)
            left = outcome if isinstance(outcome, bytes) else await outcome
        except RealtimeError as error:
            log.warning("a change has still to be told: %s", error.message, extra={"room": room.room})
            return
        if left == b'{"left":0}':
            self.owing.pop(room, None)

    async def _knock(self, command: Command) -> None:
        """Raise Forbidden unless the sender may be in the room, by the tables: whether the room is known here
        makes no difference, not even in how long it takes.
        """
        rooms, identity, name = self._rooms, command.identity, command.room.room
        if command.trusted:
            return
        found, standing = await rooms.read(command.room, identity.user)
        allowed = rooms.chat.core.access.allows(identity, JOIN, name)
        by_policy = rooms.role_of(identity, name, found, standing) > standing.role
        if not allowed or not (by_policy or rooms.enters(command.room, found, standing)):
            record(rooms.chat.core, identity, command.type, name, denied=True)
            raise Forbidden(GONE)

    async def _write(self, command: Command, owned: Owned, decide: Decide) -> tuple[Change | None, Owned]:
        room, rooms = command.room, self._rooms
        for _ in range(ATTEMPTS):
            change = await decide(owned)
            if change is None:
                return None, owned
            if command.over or rooms.chat.core.cluster.fence(room) is None:
                raise NotServed("this worker does not own the room any more")
            try:
                notices = await changes.write(rooms.database, room, owned.room, change, rooms.now_ms)
            except Unavailable:
                rooms.forget(room)  # it may have been written
                self.owe(room)
                raise
            if notices is not None:
                owned.notices += notices
                return change, owned
            rooms.forget(room)  # another owner has changed it
            owned = await rooms.own(room)
        raise Unavailable("the room is changed from elsewhere at this moment", retry_after_s=AGAIN_S)

    def _apply(self, owned: Owned, change: Change) -> None:
        for user, standing in change.standings.items():
            known = owned.standings.get(user)
            if known is not None:
                standing.sent_ms = known.sent_ms
                owned.standings[user] = standing

    def _tell(self, command: Command, owned: Owned) -> list[tuple[Notice, Receipt | Awaitable[Receipt]]]:
        """Publish what is still to be told, in its order; return what becomes of it."""
        receipts: list[tuple[Notice, Receipt | Awaitable[Receipt]]] = []
        sealed = self._rooms.chat.core.rules.of(command.room).end_to_end  # nobody is told what is not sealed
        for notice in owned.notices:
            if notice.told:
                continue
            if not notice.content or sealed:
                receipts.append((notice, (0, b"", False)))
                continue
            try:
                receipt = command.publish(NOTICE, notice.content, key=notice.key, as_server=True)
            except RealtimeError as error:
                log.warning("a change is not told yet: %s", error.message, extra={"room": command.room.room})
                self.owe(command.room)
                break
            receipts.append((notice, receipt))
        for notice, _ in receipts:
            notice.told = True
        if command.over or self._rooms.chat.core.cluster.fence(command.room) is None:
            self.owe(command.room)  # whoever owns it now may have read it before this change
        return receipts

    async def _finish(
        self, room: RoomId, owned: Owned, receipts: list[tuple[Notice, Receipt | Awaitable[Receipt]]]
    ) -> None:
        """Wait until it is told and everybody who has to go is gone, and note that."""
        done: list[Notice] = []
        for notice, receipt in receipts:
            try:
                if not isinstance(receipt, tuple):
                    await receipt
                for user in notice.review:
                    await self._rooms.chat.core.admission.review(room, user)
            except RealtimeError as error:
                log.warning("a change is not told yet: %s", error.message, extra={"room": room.room})
                notice.told = False
                self.owe(room)
                continue
            done.append(notice)
        if not done:
            return
        try:
            await self._rooms.database.write(*changes.told(owned.room.number, done))
        except Unavailable:
            self.owe(room)
            return
        owned.notices = [notice for notice in owned.notices if notice not in done]
