"""What is written to PostgreSQL and read from it: statements, and rows to and from their columns.

Raises what asyncpg raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from realtime.backends.groups import Entry
from realtime.core.contracts import Page, Position, Remembered, RoomKey

ROOMS_CACHED: Final = 50_000

_INSERT: Final = (
    'INSERT INTO publications (room, "offset", epoch, push, sender, key, at_ms) '
    "SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bytea[], $5::bytea[], $6::bytea[], "
    "$7::bigint[]) ON CONFLICT DO NOTHING"
)
# Only rooms that are not there are inserted: an upsert of all would write each again, and use up its id.
# The conflict is with another server that makes the same room now.
_NAME: Final = (
    "WITH given AS (SELECT * FROM unnest($1::text[], $2::text[]) AS g (tenant, name)), "
    "made AS (INSERT INTO rooms (tenant, name) SELECT tenant, name FROM given "
    "WHERE NOT EXISTS (SELECT FROM rooms WHERE rooms.tenant = given.tenant AND rooms.name = given.name) "
    "ORDER BY tenant, name ON CONFLICT (tenant, name) DO UPDATE SET name = EXCLUDED.name "
    "RETURNING tenant, name, id) "
    "SELECT tenant, name, id FROM made UNION ALL SELECT tenant, name, id FROM rooms JOIN given "
    "USING (tenant, name)"
)
_ROOM: Final = "(SELECT id FROM rooms WHERE tenant = $1 AND name = $2)"
_PUBLICATIONS: Final = f'SELECT "offset", epoch, push FROM publications WHERE room = {_ROOM} AND "offset" '


class RowWriter:
    """Commits groups over one connection after another."""

    def __init__(self, rooms_cached: int = ROOMS_CACHED) -> None:
        self._ids: dict[RoomKey, int] = {}  # least recently used first
        self._rooms_cached = rooms_cached

    async def commit(self, connection: Any, group: Sequence[Entry]) -> None:
        """Commit all rows of a group or none; those that are there already stay."""
        rooms = dict.fromkeys(row.room for row, _ in group)
        strangers = [room for room in rooms if room not in self._ids]
        ids = {room: self._ids[room] for room in rooms if room in self._ids}
        if not strangers:
            await self._insert(connection, group, ids)  # one statement is one transaction
        else:
            async with connection.transaction():
                tenants = [room.tenant for room in strangers]
                names = [room.room for room in strangers]
                for tenant, name, number in await connection.fetch(_NAME, tenants, names):
                    ids[RoomKey(tenant, name)] = number
                await self._insert(connection, group, ids)
        for room, number in ids.items():
            self._ids.pop(room, None)
            self._ids[room] = number
        while len(self._ids) > self._rooms_cached:
            del self._ids[next(iter(self._ids))]

    async def _insert(self, connection: Any, group: Sequence[Entry], ids: dict[RoomKey, int]) -> None:
        rows = [row for row, _ in group]
        await connection.execute(
            _INSERT,
            [ids[row.room] for row in rows],
            [row.position.offset for row in rows],
            [row.position.epoch.decode() for row in rows],
            [row.push for row in rows],
            [row.sender for row in rows],
            [None if row.key is None else row.key.encode() for row in rows],
            [row.at_ms for row in rows],
        )


async def remembered(connection: Any, room: RoomKey, since_ms: int) -> Remembered:
    """As `Store.remembered`."""
    # One statement sees one moment: the last offset is never older than the keys.
    rows = await connection.fetch(
        f'SELECT NULL AS sender, NULL AS key, coalesce(max("offset"), 0) AS "offset", NULL AS at_ms '
        f"FROM publications WHERE room = {_ROOM} "
        f'UNION ALL (SELECT sender, key, "offset", at_ms FROM publications '
        f"WHERE room = {_ROOM} AND key IS NOT NULL AND at_ms >= $3)",
        *room,
        since_ms,
    )
    keys = sorted(
        ((sender, key.decode(), offset, at_ms) for sender, key, offset, at_ms in rows if key is not None),
        key=lambda used: used[2],
    )
    return Remembered(next(offset for _, key, offset, _ in rows if key is None), keys)


async def read(connection: Any, room: RoomKey, after: int, limit: int) -> list[tuple[Position, bytes]]:
    """As `Store.read`."""
    rows = await connection.fetch(
        f'{_PUBLICATIONS} > $3 ORDER BY "offset", epoch LIMIT $4', *room, after, limit
    )
    return [(Position(offset, epoch.encode()), push) for offset, epoch, push in rows]


async def page(connection: Any, room: RoomKey, before: int | None, after: int | None, limit: int) -> Page:
    """As `Store.page`."""
    if after is not None:
        where, bound = '> $3 ORDER BY "offset", epoch LIMIT $4', after
    else:
        where = '< $3 ORDER BY "offset" DESC, epoch DESC LIMIT $4'
        bound = NO_OFFSET if before is None else before
    rows = await connection.fetch(_PUBLICATIONS + where, *room, bound, limit + 1)
    pushes = [push for _, _, push in rows[:limit]]
    if after is None:
        pushes.reverse()
    return Page(pushes, len(rows) > limit)


NO_OFFSET: Final = 2**63 - 1
"""Above every offset."""
