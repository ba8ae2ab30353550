"""Features' own tables in the SQLite file: read by two threads of their own, written between two groups.

Its readers are not the store's: a search must not hold up a page of history. Answers come as one row of JSON,
for the reason that `sqlite_rows` gives.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from realtime.backends.sqlite_database import BUSY_TIMEOUT_S, CACHE_KB, connect, transaction
from realtime.core.database import Cells, Dialect, Statement, check_values
from realtime.errors import Unavailable

if TYPE_CHECKING:
    from realtime.backends.store_sqlite import SqliteStore

log: Final = logging.getLogger("realtime.store")

READERS: Final = 2
RETRY_S: Final = 1.0
STATEMENTS_CACHED: Final = 1000

_decode = msgspec.json.Decoder(list[tuple[Any, ...]]).decode
_PLACE: Final = re.compile(r"\$(\d+)")


class SqliteTables:
    """A `Database` on an open store, which closes it first."""

    dialect: Final[Dialect] = "sqlite"

    def __init__(self, store: SqliteStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="realtime-tables-reader")
        self._free: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._opened: list[sqlite3.Connection] = []
        self._columns: dict[str, str] = {}
        self._closing = False

    async def read(self, sql: str, *values: Any) -> list[Cells]:
        """As `Database.read`."""
        check_values(values)
        if self._closing:
            raise Unavailable("the store is closing")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._read, _numbered(sql), values)
        except sqlite3.Error as error:
            log.error("%s cannot be read: %s", self._path, error)
            raise Unavailable("the store cannot be read; try again", retry_after_s=RETRY_S) from error

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """As `Database.write`."""
        for statement in statements:
            check_values(statement.values)

        def work(db: sqlite3.Connection) -> list[list[Cells]]:
            with transaction(db):
                return [db.execute(_numbered(sql), values).fetchall() for sql, values in statements]

        return await self._store.run(work)

    async def scrub(self) -> None:
        """As `Database.scrub`."""

        def work(db: sqlite3.Connection) -> bool:
            # Nobody's commit waits for who reads: then it is for later.
            db.execute("PRAGMA busy_timeout = 0")
            try:
                ((busy, _, _),) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                db.execute(f"PRAGMA busy_timeout = {round(BUSY_TIMEOUT_S * 1000)}")
            return not busy

        if not await self._store.run(work):
            raise Unavailable("the store's log is being read; try again", retry_after_s=RETRY_S)

    async def close(self) -> None:
        """Wait for what is being read, then close. Nothing can be asked any more."""
        self._closing = True
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for db in self._opened:
            db.close()

    # -- on a reader's thread -------------------------------------------------------------------------------

    def _read(self, sql: str, values: tuple[Any, ...]) -> list[Cells]:
        db = self._connection()
        try:
            columns = self._columns.get(sql)
            if columns is None:
                columns = self._named(db, sql, values)
            (found,) = db.execute(
                f"SELECT json_group_array(json_array({columns})) FROM ({sql}\n)", values
            ).fetchone()
        finally:
            self._free.put(db)
        return _decode(found)

    def _named(self, db: sqlite3.Connection, sql: str, values: tuple[Any, ...]) -> str:
        described = db.execute(f"SELECT * FROM ({sql}\n) LIMIT 0", values).description
        columns = ", ".join('"' + name.replace('"', '""') + '"' for name, *_ in described)
        if len(self._columns) < STATEMENTS_CACHED:
            self._columns[sql] = columns
        return columns

    def _connection(self) -> sqlite3.Connection:
        """Return a connection that no other thread uses; there are as many as threads."""
        if self._free.empty() and len(self._opened) < READERS:
            db = connect(self._path)
            db.execute("PRAGMA query_only = ON")
            db.execute(f"PRAGMA cache_size = -{CACHE_KB}")
            self._opened.append(db)
            return db
        return self._free.get()


@lru_cache(maxsize=STATEMENTS_CACHED)
def _numbered(sql: str) -> str:
    """SQLite's own way to say which value: `?1`."""
    return _PLACE.sub(r"?\1", sql)
