"""The stores that the contract is held against, and what its tests have in common."""

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from realtime.backends.sealing.store import SealedStore
from realtime.backends.store_postgres import PostgresStore, open_postgres
from realtime.backends.store_sqlite import SqliteStore, open_sqlite
from realtime.core.clock import SystemClock
from realtime.core.contracts import Position, Row, Store
from realtime.errors import Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName, TenantId
from tests.sealing.stage import sealing

LOBBY = RoomId(DEFAULT_TENANT, RoomName("chat:lobby"))
OTHER = RoomId(DEFAULT_TENANT, RoomName("chat:other"))
FOREIGN = RoomId(TenantId("acme"), RoomName("chat:lobby"))


class Place(Protocol):
    """One database, which stores may be opened on one after another."""

    dialect: str
    at_once: dict[str, Any]
    """Options for `open` that wait for no other server's end."""

    async def open(self, **options: Any) -> Store:
        """Open a store on it. `synchronous` is "normal" unless given."""
        ...

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement beside the store, on a connection of its own; return its rows."""
        ...

    async def refuse(self, room: RoomId) -> None:
        """Let every statement that inserts into `room` fail, until `accept`."""
        ...

    async def accept(self) -> None:
        """Let statements succeed again."""
        ...

    @property
    def arguments(self) -> list[str]:
        """How tests.contract.writer is told of it."""
        ...


class SqlitePlace:
    """A file."""

    dialect = "sqlite"
    at_once: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.path = folder / "realtime.sqlite"
        self.arguments = ["sqlite", str(self.path)]

    async def open(self, **options: Any) -> SqliteStore:
        return await open_sqlite(self.path, **{"synchronous": "normal", "clock": SystemClock()} | options)

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            return db.execute(statement).fetchall()
        finally:
            db.close()

    async def refuse(self, room: RoomId) -> None:
        await self.execute(
            f"CREATE TRIGGER refuse BEFORE INSERT ON publications WHEN NEW.room = (SELECT id FROM rooms "
            f"WHERE tenant = '{room.tenant}' AND name = '{room.room}') "
            f"BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )

    async def accept(self) -> None:
        await self.execute("DROP TRIGGER refuse")


class PostgresPlace:
    """A database of a running server."""

    dialect = "postgres"
    at_once: dict[str, Any] = {"lock_wait_s": 0.05}  # noqa: RUF012

    def __init__(self, url: str) -> None:
        self.url = url
        self.arguments = ["postgres", url]

    async def open(self, **options: Any) -> PostgresStore:
        return await open_postgres(self.url, **{"synchronous": "normal", "clock": SystemClock()} | options)

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url, server_settings={"search_path": "realtime"})
        try:
            if statement.startswith("SELECT"):
                return [tuple(row) for row in await connection.fetch(statement)]
            await connection.execute(statement)
            return []
        finally:
            await connection.close()

    async def refuse(self, room: RoomId) -> None:
        await self.execute(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.room = (SELECT id FROM realtime.rooms WHERE tenant = '{room.tenant}' "
            f"AND name = '{room.room}') THEN RAISE 'refused by the test'; END IF; RETURN NEW; END $$; "
            f"CREATE TRIGGER refuse BEFORE INSERT ON publications FOR EACH ROW EXECUTE FUNCTION refuse()"
        )

    async def accept(self) -> None:
        await self.execute("DROP FUNCTION refuse CASCADE")


class SealedPlace:
    """Another place, whose rows are all sealed; by what is beside the store when it is opened."""

    def __init__(self, inner: SqlitePlace | PostgresPlace) -> None:
        self.inner = inner
        self.dialect = inner.dialect
        self.at_once = inner.at_once
        self.arguments = [*inner.arguments, "sealed"]

    async def open(self, **options: Any) -> SealedStore:
        store = await self.inner.open(**options)
        return await sealing(store, options.get("clock") or SystemClock())

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        return await self.inner.execute(statement)

    async def refuse(self, room: RoomId) -> None:
        await self.inner.refuse(room)

    async def accept(self) -> None:
        await self.inner.accept()


def a_row(store: Store, offset: int, room: RoomId = LOBBY, **given: Any) -> Row:
    """A publication with this offset; its push names it."""
    fields = {"push": b'{"offset":%d}' % offset, "sender": b'"alice"', "key": None, "at_ms": 1_000 + offset}
    return Row(room, Position(offset, store.epoch), **fields | given)


class Owner:
    """Appends rows and collects what it is told, in order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.told: list[tuple[Row, Unavailable | None]] = []
        self._waiting = 0
        self._all_told = asyncio.Event()
        self._all_told.set()

    def append(self, row: Row) -> None:
        self.store.append(row, self._kept)
        self._waiting += 1
        self._all_told.clear()

    def _kept(self, row: Row, error: Unavailable | None) -> None:
        self.told.append((row, error))
        self._waiting -= 1
        if not self._waiting:
            self._all_told.set()

    async def all_told(self) -> None:
        """Wait until every row that was appended has been answered for."""
        await self._all_told.wait()

    async def keep(self, rows: Iterable[Row]) -> None:
        """Append them, wait, and see that each was kept."""
        before = len(self.told)
        for row in rows:
            self.append(row)
        await self.all_told()
        assert [error for _, error in self.told[before:] if error] == []

    def kept(self, room: RoomId = LOBBY) -> list[int]:
        """Offsets that were kept, as they were told."""
        return [row.position.offset for row, error in self.told if row.room == room and error is None]

    def failed(self, room: RoomId = LOBBY) -> list[int]:
        """Offsets that were not kept, as they were told."""
        return [row.position.offset for row, error in self.told if row.room == room and error]


async def offsets(store: Store, room: RoomId = LOBBY) -> list[int]:
    """All offsets of a room in the store."""
    return [position.offset for position, _ in await store.read(room, 0, 100_000)]
