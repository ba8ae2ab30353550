"""Rows that lie in a store, sealed anew: those under older keys, and plain ones of rooms now encrypted.

What has been done is seen in the rows themselves, so that a run may end anywhere and the next one goes on,
and a server may write beside it: a row is changed only while it is what was read, a batch is a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from realtime.backends.postgres_database import (
    FAILURES,
    dial,
    migrate,
    prepare,
    session_settings,
    startup_errors,
)
from realtime.backends.store_sqlite import SqliteStore
from realtime.core.contracts import Position
from realtime.errors import Unavailable
from realtime.ids import RoomId, RoomName, TenantId

BATCH_ROWS: Final = 500
_SELECT: Final = 'SELECT "offset", epoch, push, key FROM publications'
START: Final = Position(-1, b"")

T = TypeVar("T")


class Stored(NamedTuple):
    """A row as it lies there: `push` and `key` are boxes, or plain."""

    position: Position
    push: bytes
    key: bytes | None


class Change(NamedTuple):
    """What one row is to be, where its push is still what was read."""

    before: Stored
    push: bytes
    key: bytes | None


class Due(NamedTuple):
    """Which rows are due: those sealed with another key than `key_id`, and with `plain` those not sealed."""

    key_id: bytes
    plain: bool


class StoredRows(Protocol):
    """The rows of a store. Every call may raise Unavailable."""

    async def rooms(self) -> list[tuple[int, RoomId]]:
        """Return all rooms, by number."""
        ...

    async def count(self, room: int, due: Due) -> int:
        """Return how many rows of a room are due."""
        ...

    async def batch(self, room: int, after: Position, due: Due) -> list[Stored]:
        """Return the first rows after a position that are due, at most BATCH_ROWS."""
        ...

    async def change(self, room: int, changes: Sequence[Change]) -> int:
        """Change rows, all in one transaction; return how many still were what was read."""
        ...

    async def wipe(self) -> str:
        """Let what was there before lie in no free space, as far as the store can; return what is left to do
        for whoever runs it.
        """
        ...


class SqliteRows:
    """`StoredRows` in a file that no server has open."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def rooms(self) -> list[tuple[int, RoomId]]:
        """See `StoredRows`."""
        found = await self._ask("SELECT id, tenant, name FROM rooms ORDER BY id")
        return [(id, RoomId(TenantId(tenant), RoomName(name))) for id, tenant, name in found]

    async def count(self, room: int, due: Due) -> int:
        """See `StoredRows`."""
        found = await self._ask(
            f"SELECT count(*) FROM publications WHERE room = ? AND {_SQLITE_DUE}", room, *due
        )
        return int(found[0][0])

    async def batch(self, room: int, after: Position, due: Due) -> list[Stored]:
        """See `StoredRows`."""
        found = await self._ask(
            f'{_SELECT} WHERE room = ? AND ("offset", epoch) > (?, ?) '
            f'AND {_SQLITE_DUE} ORDER BY "offset", epoch LIMIT {BATCH_ROWS}',
            *(room, after.offset, after.epoch.decode(), *due),
        )
        return [_stored(*row) for row in found]

    async def change(self, room: int, changes: Sequence[Change]) -> int:
        """See `StoredRows`."""

        def work(db: sqlite3.Connection) -> int:
            db.execute("BEGIN IMMEDIATE")
            changed = db.executemany(
                'UPDATE publications SET push = ?, key = ? WHERE room = ? AND "offset" = ? AND epoch = ? '
                "AND push = ?",
                [
                    (each.push, each.key, room, at.offset, at.epoch.decode(), each.before.push)
                    for each in changes
                    for at in [each.before.position]
                ],
            ).rowcount
            db.execute("COMMIT")
            return changed

        return await self._store.run(work)

    async def wipe(self) -> str:
        """See `StoredRows`. The file is written anew and its log cut."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        await self._store.run(work)
        return (
            "the file was written anew; backups, and blocks that its disk has freed, still hold what it held"
        )

    async def _ask(self, question: str, *values: object) -> list[Any]:
        return await self._store.run(lambda db: db.execute(question, values).fetchall())


_SQLITE_DUE: Final = (
    "((substr(push, 1, 1) = x'f9' AND substr(push, 2, 8) <> ?) OR (substr(push, 1, 1) <> x'f9' AND ?))"
)


class PostgresAccess:
    """A connection beside the server's own: it takes none of their locks. An async context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    async def __aenter__(self) -> Self:
        """Connect. Raises StartupError."""
        with startup_errors(self._url):
            self._connection = await dial(self._url, session_settings("normal"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.terminate()

    async def migrate(self, feature: str, folder: Path, now_s: int) -> None:
        """As `Store.migrate`. Raises StartupError."""
        with startup_errors(self._url):
            await prepare(self._connection)
            await migrate(self._connection, feature, folder, now_s)

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """As `PostgresStore.run`."""
        try:
            return await work(self._connection)
        except FAILURES as error:
            raise Unavailable(f"the database failed: {error or type(error).__name__}") from error


class PostgresRows:
    """`StoredRows` in a database, beside the servers that use it."""

    def __init__(self, access: PostgresAccess) -> None:
        self._access = access

    async def rooms(self) -> list[tuple[int, RoomId]]:
        """See `StoredRows`."""
        found = await self._ask("SELECT id, tenant, name FROM rooms ORDER BY id")
        return [(id, RoomId(TenantId(tenant), RoomName(name))) for id, tenant, name in found]

    async def count(self, room: int, due: Due) -> int:
        """See `StoredRows`."""
        found = await self._ask(
            f"SELECT count(*) FROM publications WHERE room = $3 AND {_POSTGRES_DUE}", *due, room
        )
        return int(found[0][0])

    async def batch(self, room: int, after: Position, due: Due) -> list[Stored]:
        """See `StoredRows`."""
        found = await self._ask(
            f'{_SELECT} WHERE room = $3 AND ("offset", epoch) > ($4, $5) '
            f'AND {_POSTGRES_DUE} ORDER BY "offset", epoch LIMIT {BATCH_ROWS}',
            *(*due, room, after.offset, after.epoch.decode()),
        )
        return [_stored(*row) for row in found]

    async def change(self, room: int, changes: Sequence[Change]) -> int:
        """See `StoredRows`."""
        places = [each.before.position for each in changes]
        found = await self._ask(
            "UPDATE publications p SET push = g.push, key = g.key FROM unnest($2::bigint[], $3::text[], "
            "$4::bytea[], $5::bytea[], $6::bytea[]) AS g (place, epoch, was, push, key) "
            'WHERE p.room = $1 AND p."offset" = g.place AND p.epoch = g.epoch AND p.push = g.was RETURNING 1',
            room,
            [at.offset for at in places],
            [at.epoch.decode() for at in places],
            [each.before.push for each in changes],
            [each.push for each in changes],
            [each.key for each in changes],
        )
        return len(found)

    async def wipe(self) -> str:
        """See `StoredRows`. It would lock the table, so that is left to whoever knows when."""
        return (
            "dead rows still hold what they held until VACUUM FULL realtime.publications, which locks the "
            "table while it runs; backups and archived logs do for longer"
        )

    async def _ask(self, question: str, *values: object) -> list[Any]:
        found: list[Any] = await self._access.run(lambda connection: connection.fetch(question, *values))
        return found


_POSTGRES_DUE: Final = (
    r"((substring(push FROM 1 FOR 1) = '\xf9' AND substring(push FROM 2 FOR 8) <> $1::bytea) "
    r"OR (substring(push FROM 1 FOR 1) <> '\xf9' AND $2::boolean))"
)


def _stored(offset: int, epoch: str, push: bytes, key: bytes | None) -> Stored:
    return Stored(Position(offset, epoch.encode()), push, key)
