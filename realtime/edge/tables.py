"""The tables of the store that the settings name, for commands: beside the servers that use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from realtime.backends.tables_apart import PostgresApart, SqliteApart, open_postgres_apart
from realtime.errors import StartupError
from realtime.settings import Settings


@asynccontextmanager
async def tables(
    settings: Settings, *, writes: bool = False, alone: bool = False
) -> AsyncIterator[SqliteApart | PostgresApart]:
    """Give the tables for as long as it lasts. With `alone` no server may have a file meanwhile.

    Raises:
        StartupError: there is no store, it cannot be opened, or a server has it.
    """
    if settings.postgres_url:
        opened: SqliteApart | PostgresApart = await open_postgres_apart(settings.postgres_url)
    elif settings.sqlite_path and not settings.redis_url:
        opened = SqliteApart(Path(settings.sqlite_path), writes=writes, alone=alone)
    else:
        raise StartupError("there is no store: set sqlite_path (REALTIME_SQLITE_PATH) or POSTGRES_URL")
    try:
        yield opened
    finally:
        await opened.close()
