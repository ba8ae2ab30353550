"""What is written to PostgreSQL and read from it: statements, and rows to and from their columns.

Raises what asyncpg raises.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from realtime.backends.groups import Entry
from realtime.core.contracts import Page, Position, Remembered, Row
from realtime.ids import RoomId, TenantId

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
_KEEP: Final = (
    "SELECT * FROM keep($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bytea[], $6::bytea[], "
    "$7::bytea[], $8::bigint[])"
)
_CLAIM: Final = (
    "SELECT last, epoch FROM claim($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) ORDER BY n"
)
_ROOM: Final = "(SELECT id FROM rooms WHERE tenant = $1 AND name = $2)"
_PUBLICATIONS: Final = f'SELECT "offset", epoch, push FROM publications WHERE room = {_ROOM} AND "offset" '


async def usage(connection: Any, tenants: list[TenantId] | None) -> dict[TenantId, int]:
    """As `Store.usage`."""
    whose = "" if tenants is None else "WHERE tenant = ANY ($1::text[]) "
    query = f"SELECT tenant, sum(bytes)::bigint FROM usage {whose}GROUP BY tenant"
    found = await (connection.fetch(query) if tenants is None else connection.fetch(query, tenants))
    return {TenantId(tenant): size for tenant, size in found}


class RowWriter:
    """Commits groups over one connection after another."""

    def __init__(self, rooms_cached: int = ROOMS_CACHED) -> None:
        self._ids: dict[RoomId, int] = {}  # least recently used first
        self._rooms_cached = rooms_cached

    async def commit(self, connection: Any, group: Sequence[Entry]) -> Collection[int]:
        """Commit all rows of a group or none; those that are there already stay.

        Return the indices of those that are refused all the same: they can never be kept.
        """
        rooms = dict.fromkeys(row.room for row, _ in group)
        strangers = [room for room in rooms if room not in self._ids]
        ids = {room: self._ids[room] for room in rooms if room in self._ids}
        if not strangers:
            await self._insert(connection, group, ids)  # one statement is one transaction
        else:
            async with connection.transaction():
                ids |= await room_ids(connection, strangers)
                await self._insert(connection, group, ids)
        self._remember(ids)
        return ()

    def _remember(self, ids: dict[RoomId, int]) -> None:
        for room, number in ids.items():
            self._ids.pop(room, None)
            self._ids[room] = number
        while len(self._ids) > self._rooms_cached:
            del self._ids[next(iter(self._ids))]

    async def _insert(self, connection: Any, group: Sequence[Entry], ids: dict[RoomId, int]) -> None:
        rows = [row for row, _ in group]
        await connection.execute(_INSERT, *_places(rows, ids), *_contents(rows))


class SharedWriter(RowWriter):
    """Commits groups of rooms that others write too: rows of an epoch that has ended there are refused."""

    async def commit(self, connection: Any, group: Sequence[Entry]) -> Collection[int]:
        """As `RowWriter.commit`. The epochs' names are numbers, as `epoch_number` reads them."""
        rooms = dict.fromkeys(row.room for row, _ in group)
        ids = {room: self._ids[room] for room in rooms if room in self._ids}
        # In a transaction of its own: new rooms stay locked to its end, and whoever opens an epoch waits for
        # them with the lock that this group waits for.
        ids |= await room_ids(connection, [room for room in rooms if room not in ids])
        rows = [row for row, _ in group]
        numbers = [epoch_number(row.position.epoch) for row in rows]
        places = _places(rows, ids)
        found = await connection.fetch(_KEEP, places[0], places[1], numbers, places[2], *_contents(rows))
        self._remember(ids)
        return {number - 1 for (number,) in found}


def epoch_number(epoch: bytes) -> int:
    """Return the number that a cluster's epoch is the name of (base 36); 0 for what is no such name.

    A server alone makes other names; its epochs were before those of the cluster on its database.
    """
    try:
        return int(epoch, 36) if epoch.isalnum() else 0
    except ValueError:
        return 0


async def room_ids(connection: Any, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
    """Return the ids of rooms, made where they have none."""
    if not rooms:
        return {}
    found = await connection.fetch(_NAME, [room.tenant for room in rooms], [room.room for room in rooms])
    return {RoomId(tenant, name): number for tenant, name, number in found}


def _places(rows: Sequence[Row], ids: dict[RoomId, int]) -> list[Any]:
    return [
        [ids[row.room] for row in rows],
        [row.position.offset for row in rows],
        [row.position.epoch.decode() for row in rows],
    ]


def _contents(rows: Sequence[Row]) -> list[Any]:
    return [
        [row.push for row in rows],
        [row.sender for row in rows],
        [None if row.key is None else row.key.encode() for row in rows],
        [row.at_ms for row in rows],
    ]


class Wish(NamedTuple):
    """A new epoch that is asked for: at least `number`, after the offset that Redis knows of, at `opener`."""

    room: RoomId
    number: int
    known: int
    opener: str


class Claim(NamedTuple):
    """What `claim` gives: the epoch's number, and the offset that it goes on after."""

    last: int
    number: int


class Used(NamedTuple):
    """A key that a sender has used, and for which publication."""

    sender: bytes | None
    key: str
    position: Position
    at_ms: int


async def claim(connection: Any, wishes: Sequence[Wish]) -> list[Claim]:
    """Open an epoch in each of some rooms, and return them in that order.

    From then on no row of an earlier epoch is added above what Redis knows, and all up to `last` are there.
    """
    ids = await room_ids(connection, list(dict.fromkeys(wish.room for wish in wishes)))
    found = await connection.fetch(
        _CLAIM,
        [ids[wish.room] for wish in wishes],
        [wish.number for wish in wishes],
        [wish.known for wish in wishes],
        [wish.opener for wish in wishes],
    )
    return [Claim(*row) for row in found]


async def keys_above(connection: Any, room: RoomId, after: int, since_ms: int, limit: int) -> list[Used]:
    """Return the newest `limit` keys of publications above offset `after`, used from `since_ms` on."""
    rows = await connection.fetch(
        f'SELECT sender, key, "offset", epoch, at_ms FROM publications WHERE room = {_ROOM} '
        f'AND "offset" > $3 AND key IS NOT NULL AND at_ms >= $4 ORDER BY "offset" DESC LIMIT $5',
        *room,
        after,
        since_ms,
        limit,
    )
    return [
        Used(sender, key.decode(), Position(offset, epoch.encode()), at_ms)
        for sender, key, offset, epoch, at_ms in rows
    ]


async def has(connection: Any, room: RoomId, position: Position) -> bool:
    """Return whether the publication at `position` is kept."""
    found: bool = await connection.fetchval(
        f'SELECT EXISTS (SELECT FROM publications WHERE room = {_ROOM} AND "offset" = $3 AND epoch = $4)',
        *room,
        position.offset,
        position.epoch.decode(),
    )
    return found


async def remembered(connection: Any, room: RoomId, since_ms: int) -> Remembered:
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


async def read(connection: Any, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
    """As `Store.read`."""
    rows = await connection.fetch(
        f'{_PUBLICATIONS} > $3 ORDER BY "offset", epoch LIMIT $4', *room, after, limit
    )
    return [(Position(offset, epoch.encode()), push) for offset, epoch, push in rows]


async def read_back(connection: Any, room: RoomId, before: int, limit: int) -> list[tuple[Position, bytes]]:
    """Return the last `limit` pushes below offset `before`, by offset."""
    rows = await connection.fetch(
        f'{_PUBLICATIONS} < $3 ORDER BY "offset" DESC, epoch DESC LIMIT $4', *room, before, limit
    )
    return [(Position(offset, epoch.encode()), push) for offset, epoch, push in reversed(rows)]


async def page(connection: Any, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
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
