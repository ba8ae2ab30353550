"""The store that the settings name: opening it with all its tables; what `migrate` and `check` say of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from realtime.backends import migrations, postgres_database, sqlite_database
from realtime.backends.migrations import Applied
from realtime.backends.sealing import table as sealing
from realtime.backends.store_postgres import PostgresStore, open_postgres
from realtime.backends.store_sqlite import open_sqlite
from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock, Store
from realtime.core.feature import Feature
from realtime.errors import StartupError
from realtime.settings import Settings, mask

OWN_FOLDERS: Final = (
    (migrations.CORE, migrations.CORE_FOLDER),
    (sealing.FEATURE, sealing.FOLDER),
)
"""Migrations that belong to no feature; the stores see to the first of them themselves."""


async def open_store(
    settings: Settings,
    clock: Clock,
    features: Sequence[Feature],
    lock: int | None = None,
    *,
    beside: bool = False,
) -> Store | None:
    """Open the store that the settings name, every feature's tables brought up to date; None: there is none.

    The workers of a cluster share a database; a file is one process's, and none of theirs. The process that
    takes over from another one has the `lock` of its file, a descriptor, and opens a database `beside` it.

    Raises:
        StartupError: it cannot be used; the message says what to do.
    """
    if settings.postgres_url:
        return await _open_postgres(settings, clock, features, beside=beside)
    if not settings.sqlite_path or settings.redis_url:
        return None
    path = Path(settings.sqlite_path)
    store = await open_sqlite(path, synchronous=settings.store_synchronous, clock=clock, inherited=lock)
    await _migrate(store, features)
    return store


async def open_shared_store(
    settings: Settings, clock: Clock, features: Sequence[Feature]
) -> PostgresStore | None:
    """Open the store of all workers of a cluster, as `open_store`."""
    return await _open_postgres(settings, clock, features) if settings.postgres_url else None


def migrate(settings: Settings, features: Sequence[Feature]) -> list[Applied]:
    """Apply every migration that is due; return those that were, in order.

    Raises:
        StartupError: the store cannot be used, or a migration failed; or the settings name no store.
    """

    async def run() -> list[Applied]:
        before = set(await _applied(settings))
        store = await open_store(settings, SystemClock(), features)
        if store is not None:
            await store.close()
        return [row for row in await _applied(settings) if row not in before]

    return asyncio.run(run())


def status(settings: Settings, features: Sequence[Feature]) -> Iterator[str]:
    """One line a migration: feature, file, and when it was applied or that it is due. Changes nothing.

    Raises:
        StartupError: the store cannot be used, or its migrations are not ours; or the settings name no store.
    """
    applied = asyncio.run(_applied(settings))
    dialect = postgres_database.DIALECT if settings.postgres_url else sqlite_database.DIALECT
    width = max(len(name) for name, _ in _folders(features))
    for name, folder in _folders(features):
        files = migrations.files(name, folder, dialect)
        due = {migration.number for migration in migrations.due(name, files, applied)}
        at = {row.number: row.applied_at for row in applied if row.feature == name}
        for migration in files:
            state = "due" if migration.number in due else f"applied {_when(at[migration.number])}"
            yield f"{name:{width}}  {migration.name:<32}  {state}"


def outstanding(settings: Settings, features: Sequence[Feature]) -> list[str]:
    """Return the names of the migrations that the store has not had yet. Changes nothing.

    Raises:
        StartupError: as `status`.
    """
    applied = asyncio.run(_applied(settings))
    dialect = postgres_database.DIALECT if settings.postgres_url else sqlite_database.DIALECT
    return [
        migration.name
        for name, folder in _folders(features)
        for migration in migrations.due(name, migrations.files(name, folder, dialect), applied)
    ]


def finding(settings: Settings, features: Sequence[Feature]) -> str:
    """Open the store and close it, as the server would; say what it is. A file that is absent is not made.

    Raises:
        StartupError: the server would not start.
    """
    if settings.postgres_url:
        asyncio.run(_open_and_close(settings, features))
        return f"{mask(settings.postgres_url)} opens"
    if settings.redis_url:
        return "none: durable rooms are kept in Redis only, for recovery_window_s"
    if not settings.sqlite_path:
        return "none: durable rooms are kept in memory only, and lost with the process"
    path = Path(settings.sqlite_path)
    if path.exists():
        asyncio.run(_open_and_close(settings, features))
        return f"{path} opens"
    if not os.access(path.resolve().parent, os.W_OK):
        raise StartupError(
            f"{path} cannot be made: make its folder and let this user write there, or name another file by "
            f"--sqlite-path (empty: keep nothing)"
        )
    return f"{path} will be made"


async def _open_postgres(
    settings: Settings, clock: Clock, features: Sequence[Feature], *, beside: bool = False
) -> PostgresStore:
    store = await open_postgres(
        settings.postgres_url,
        synchronous=settings.store_synchronous,
        clock=clock,
        exclusive=not settings.redis_url,
        beside=beside,
    )
    await _migrate(store, features)
    return store


async def _migrate(store: Store, features: Sequence[Feature]) -> None:
    """Bring every feature's tables up to date; where that fails the store is closed."""
    try:
        for name, folder in _folders(features)[1:]:  # its own it has seen to
            await store.migrate(name, folder)
    except BaseException:
        await store.close()
        raise


async def _open_and_close(settings: Settings, features: Sequence[Feature]) -> None:
    store = await open_store(settings, SystemClock(), features)
    if store is not None:
        await store.close()


async def _applied(settings: Settings) -> list[Applied]:
    if settings.postgres_url:
        return await postgres_database.applied(settings.postgres_url)
    if settings.sqlite_path:
        return await asyncio.to_thread(sqlite_database.applied, Path(settings.sqlite_path))
    raise StartupError("there is no store to migrate: set REALTIME_SQLITE_PATH or POSTGRES_URL")


def _folders(features: Sequence[Feature]) -> list[tuple[str, Path]]:
    """Whose migrations there are, and where; the stores' own first."""
    given = [(feature.name, feature.migrations) for feature in features]
    return [
        *OWN_FOLDERS,
        *((name, folder) for name, folder in given if folder is not None),
    ]


def _when(applied_at: int) -> str:
    return datetime.fromtimestamp(applied_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
