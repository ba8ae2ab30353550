"""Retention: what is older than a room keeps is deleted, by the room's owner, a slice at a time.

Publications go from the beginning of the log on and never the last one, so a room's offsets go on and its log
has no hole but at its beginning: who asks for what was there is told that it cannot be recovered. What hangs
on a publication (message, edits, reactions, pins) goes with it, by triggers. A message that is older than its
publication (it was imported) goes by itself, and its publication is blank. What is held stays, and with it
the log after it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, NamedTuple

from realtime.core.auth import Identity
from realtime.core.database import Statement
from realtime.errors import Unavailable
from realtime.features.chat.acts import record
from realtime.features.chat.ids import first_id
from realtime.ids import RoomId, RoomName, TenantId, UserId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

log: Final = logging.getLogger("realtime.chat")

SLICE: Final = 500
PAGE: Final = 200

_ROOMS = (
    "SELECT r.id AS number, r.tenant AS tenant, r.name AS name, coalesce(c.retention_s, 0) AS retention_s "
    "FROM rooms r LEFT JOIN chat_rooms c ON c.room = r.id "
    "WHERE r.id > $1 AND r.name LIKE 'chat:%' AND (coalesce(c.retention_s, 0) > 0 OR $2 > 0) "
    "AND NOT EXISTS (SELECT 1 FROM chat_holds h WHERE h.tenant = r.tenant AND h.room = r.id) "
    "ORDER BY r.id LIMIT $3"
)
# Of a slice from the beginning: up to the first that is young enough, or held, or the last of all.
_FIRSTS = (
    'SELECT p."offset" AS place, p.at_ms AS at_ms, EXISTS (SELECT 1 FROM chat_messages m '
    "JOIN chat_holds h ON h.room = 0 AND h.user_id = m.sender AND h.tenant = $3 "
    'WHERE m.room = p.room AND m."offset" = p."offset" AND m.epoch = p.epoch) AS held '
    "FROM publications p WHERE p.room = $1 "
    'AND p."offset" < (SELECT max(l."offset") FROM publications l WHERE l.room = $1) '
    'ORDER BY p."offset" LIMIT $2'
)
_ANY_OLD = (
    "SELECT 1 AS old FROM chat_messages m WHERE m.room = $1 AND m.id < $2 AND NOT EXISTS ("
    "SELECT 1 FROM chat_holds h WHERE h.tenant = $3 AND h.room = 0 AND h.user_id = m.sender) LIMIT 1"
)
_DELETE = (
    'DELETE FROM publications WHERE room = $1 AND "offset" <= $2 '
    'AND "offset" < (SELECT max(l."offset") FROM publications l WHERE l.room = $1) RETURNING "offset"'
)
_OLD = (
    "DELETE FROM chat_messages WHERE room = $1 AND id IN (SELECT m.id FROM chat_messages m "
    "WHERE m.room = $1 AND m.id < $2 AND NOT EXISTS (SELECT 1 FROM chat_holds h WHERE h.tenant = $3 "
    'AND h.room = 0 AND h.user_id = m.sender) ORDER BY m.id LIMIT $4) RETURNING "offset"'
)


class Aged(NamedTuple):
    """A room that keeps nothing older than `before_ms`."""

    number: int
    room: RoomId
    before_ms: int


class Retention:
    """Walks over the rooms that this worker owns, again and again."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._database = chat.services.database
        self._clock = chat.services.clock
        self._next = self._clock.monotonic() + chat.services.settings.chat_retention_pause_s
        self._steps: AsyncIterator[None] | None = None
        self._running = False
        self._closing = False
        self.deleted = 0

    def tick(self) -> None:
        """Begin the next slice, if none is under way and it is time."""
        if self._running or self._closing or (self._steps is None and self._clock.monotonic() < self._next):
            return
        self._running = True
        self._chat.services.spawn(self._step())

    async def close(self) -> None:
        """Begin nothing any more."""
        self._closing = True

    async def _step(self) -> None:
        """Do one slice. After the last one there is a pause."""
        try:
            if self._steps is None:
                self._steps = self._walk()
            await anext(self._steps)
        except StopAsyncIteration:
            self._rest()
        except Unavailable as error:
            log.warning("retention waits: %s", error)
            self._rest()
        finally:
            self._running = False

    def _rest(self) -> None:
        self._steps = None
        self._next = self._clock.monotonic() + self._chat.services.settings.chat_retention_pause_s

    async def _walk(self) -> AsyncIterator[None]:
        default_s = self._chat.services.settings.chat_retention_s
        after = 0
        while rows := await self._database.read(_ROOMS, after, default_s, PAGE):
            after = rows[-1][0]
            now_ms = self._chat.rooms.now_ms
            for number, tenant, name, own_s in rows:
                room = RoomId(TenantId(tenant), RoomName(name))
                aged = Aged(number, room, now_ms - (own_s or default_s) * 1000)
                deleted = 0
                while self._owns(room) and (gone := await self.slice(aged)):
                    deleted += gone
                    yield
                if deleted:
                    self.deleted += deleted
                    server = Identity(UserId(""), room.tenant)
                    record(self._chat.core, server, "retention", room.room, deleted=deleted)
            yield

    def _owns(self, room: RoomId) -> bool:
        cluster = self._chat.core.cluster
        return not self._closing and cluster.owner(room) == cluster.worker

    async def slice(self, aged: Aged) -> int:
        """Delete some of what is too old in a room; return how much, 0 when nothing is left."""
        firsts = await self._database.read(_FIRSTS, aged.number, SLICE, aged.room.tenant)
        until = 0
        for place, at_ms, held in firsts:
            if at_ms >= aged.before_ms or held:
                break
            until = place
        old_id, tenant = first_id(aged.before_ms), aged.room.tenant
        if not until and not await self._database.read(_ANY_OLD, aged.number, old_id, tenant):
            return 0
        if until:
            await self._chat.core.forget_history(aged.room, until)
        # The last offset is looked at in the transaction that deletes: what is published meanwhile is above
        # it.
        gone, old = await self._database.write(
            Statement(_DELETE, (aged.number, until)),
            Statement(_OLD, (aged.number, old_id, tenant, SLICE)),
        )
        changed = max((place for (place,) in [*gone, *old]), default=0)
        if changed:
            await self._chat.core.forget_history(aged.room, changed)
        return len(gone) + len(old)
