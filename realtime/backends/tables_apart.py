"""Features' tables for a command, beside the servers that use them: over a connection of its own.

It blocks where it reads a file: nobody else waits in a command's process.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from realtime.backends import postgres_database, sqlite_database
from realtime.backends.postgres_database import FAILURES, dial, session_settings
from realtime.backends.sqlite_database import Lock, transaction
from realtime.core.database import Cells, Dialect, Statement
from realtime.errors import StartupError, Unavailable
from realtime.settings import mask

_PLACE: Final = re.compile(r"\$(\d+)")


class SqliteApart:
    """A `Database` on a file. With `alone` no server may have it; else one may be writing it."""

    dialect: Final[Dialect] = "sqlite"

    def __init__(self, path: Path, *, writes: bool, alone: bool = False) -> None:
        """Open it.

        Raises:
            StartupError: it is not there, cannot be opened, or a server has it.
        """
        self._path = path.resolve()
        if not path.exists():
            raise StartupError(f"nothing is kept here: there is no file {path}")
        self._lock = Lock(self._path) if alone else None
        with sqlite_database.startup_errors(path):
            self._db = sqlite_database.connect(path) if writes else sqlite_database.connect_reading(path)
            if writes:
                # What is written over is not left in free space.
                self._db.execute("PRAGMA secure_delete = ON")

    async def read(self, sql: str, *values: Any) -> list[Cells]:
        """As `Database.read`."""
        with self._failures():
            return self._db.execute(_PLACE.sub(r"?\1", sql), values).fetchall()

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """As `Database.write`."""
        with self._failures(), transaction(self._db):
            return [
                self._db.execute(_PLACE.sub(r"?\1", sql), values).fetchall() for sql, values in statements
            ]

    async def scrub(self) -> None:
        """Leave nothing of what was deleted in the file or its log."""
        with self._failures():
            # What was deleted is still in the segments of full-text indexes until they are merged.
            for (name,) in self._db.execute(
                "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%fts5%'"
            ).fetchall():
                self._db.execute(f"INSERT INTO {name} ({name}) VALUES ('optimize')")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    async def close(self) -> None:
        """Let go of it."""
        self._db.close()
        if self._lock is not None:
            self._lock.release()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path}: {error}", retry_after_s=1.0) from error


class PostgresApart:
    """A `Database` on a connection to a server, which others may be writing."""

    dialect: Final[Dialect] = "postgres"

    def __init__(self, url: str, connection: Any) -> None:
        self._url = url
        self._connection = connection

    async def read(self, sql: str, *values: Any) -> list[Cells]:
        """As `Database.read`."""
        try:
            return [tuple(row) for row in await self._connection.fetch(sql, *values)]
        except FAILURES as error:
            raise self._away(error) from error

    async def write(self, *statements: Statement) -> list[list[Cells]]:
        """As `Database.write`."""
        try:
            async with self._connection.transaction():
                return [
                    [tuple(row) for row in await self._connection.fetch(sql, *values)]
                    for sql, values in statements
                ]
        except FAILURES as error:
            raise self._away(error) from error

    async def scrub(self) -> None:
        """Nothing: autovacuum writes over what is dead."""

    async def close(self) -> None:
        """Let go of it."""
        await self._connection.close()

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(f"{mask(self._url)}: {error or type(error).__name__}", retry_after_s=1.0)


async def open_postgres_apart(url: str) -> PostgresApart:
    """Connect. Raises StartupError: nobody is there, or lets us in."""
    with postgres_database.startup_errors(url):
        return PostgresApart(url, await dial(url, session_settings("full")))
