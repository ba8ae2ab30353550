"""What becomes of a room that was deleted: all that was said there and who was in it goes, piece by piece.

The room's last publication stays, which is the notice of its deletion: offsets go on from it and are never
given again. So does its name, which nobody is given again. While it is on legal hold nothing goes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from realtime.core.database import Statement
from realtime.errors import RealtimeError
from realtime.ids import RoomId, RoomName, TenantId

if TYPE_CHECKING:
    from realtime.features.chat.rooms.rooms import Rooms

log: Final = logging.getLogger("realtime.chat")

ROWS: Final = 1000  # a transaction: others write between
LOOK_EVERY_S: Final = 60.0

# Only what has told of its end: before, the last publication is something that was said.
_DELETED: Final = (
    "SELECT r.id AS number, r.tenant AS tenant, r.name AS name FROM chat_rooms c "
    "JOIN rooms r ON r.id = c.room WHERE c.visibility = 'deleted' AND c.erased_ms = 0 AND c.hold = 0 "
    "AND NOT EXISTS (SELECT 1 FROM chat_notices n WHERE n.room = c.room) ORDER BY r.id LIMIT 100"
)
_LAST: Final = 'SELECT max("offset") AS last FROM publications WHERE room = $1'
_PUBLICATIONS: Final = (
    'DELETE FROM publications WHERE room = $1 AND "offset" IN (SELECT "offset" FROM publications WHERE '
    'room = $1 AND "offset" < (SELECT max("offset") FROM publications WHERE room = $1) '
    f'ORDER BY "offset" LIMIT {ROWS}) RETURNING "offset"'
)
# Fewer: each is counted in the room's row.
_MEMBERS: Final = (
    "DELETE FROM chat_members WHERE room = $1 AND user_id IN "
    "(SELECT user_id FROM chat_members WHERE room = $1 LIMIT 200) RETURNING user_id"
)
_INVITES: Final = (
    "DELETE FROM chat_invites WHERE room = $1 AND user_id IN "
    f"(SELECT user_id FROM chat_invites WHERE room = $1 LIMIT {ROWS}) RETURNING user_id"
)
_ERASED: Final = (
    "UPDATE chat_rooms SET erased_ms = $2, title = '', topic = '', found = '', created_by = '' "
    "WHERE room = $1 AND visibility = 'deleted'"
)


class Erasing:
    """Erases what is left of deleted rooms, those that this worker owns."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._look_at = rooms.clock.monotonic()
        self._running = False

    def soon(self) -> None:
        """Look at the next tick."""
        self._look_at = self._rooms.clock.monotonic()

    def tick(self) -> None:
        """Look for deleted rooms where that is due."""
        now = self._rooms.clock.monotonic()
        if now >= self._look_at and not self._running:
            self._look_at = now + LOOK_EVERY_S
            self._running = True
            self._rooms.chat.services.spawn(self._erase_all())

    async def _erase_all(self) -> None:
        try:
            for number, tenant, name in await self._rooms.database.read(_DELETED):
                room = RoomId(TenantId(tenant), RoomName(name))
                if self._rooms.chat.core.cluster.fence(room) is not None:
                    await self._erase(room, number)
        except RealtimeError as error:
            log.warning("deleted rooms are not erased yet: %s", error.message)
        finally:
            self._running = False

    async def _erase(self, room: RoomId, number: int) -> None:
        database = self._rooms.database
        theirs = [each for part in self._rooms.chat.parts for each in part.erasure(number)]
        ours = [Statement(sql, (number,)) for sql in (_PUBLICATIONS, _MEMBERS, _INVITES)]
        await self._forget(room, number)
        for statement in (*theirs, *ours):
            while (await database.write(statement))[0]:
                pass
        await self._forget(room, number)
        await database.write(Statement(_ERASED, (number, self._rooms.now_ms)))

    async def _forget(self, room: RoomId, number: int) -> None:
        """Have what is to go forgotten in memory, everywhere."""
        ((last,),) = await self._rooms.database.read(_LAST, number)
        if last is not None and last > 1:
            await self._rooms.chat.core.forget_history(room, last - 1)
