"""A PostgreSQL database of ours: dialling it, its schema brought up to date, the epoch of its rooms.

Our tables lie in a schema of their own, `realtime`: the database may be an application's too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg

from realtime.backends import migrations
from realtime.backends.broker_memory import new_epoch
from realtime.backends.migrations import Applied, Migration
from realtime.errors import StartupError
from realtime.settings import mask

DIALECT: Final = "postgres"
DIAL_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 10.0
LOCKS: Final = 0x7274  # "rt": the first key of our advisory locks; the second says which
MIGRATION_LOCK: Final = -1

Synchronous = Literal["normal", "full"]

FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
"""What the driver raises where the world is to blame."""

_SETTINGS: Final = {
    "application_name": "realtime",
    "search_path": "realtime, public",
    # A peer that vanished without a word, ours or theirs, is found out in 25 s and its locks are free.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # To compile a question takes longer than any of ours.
    "jit": "off",
}
# Both wait until the server has flushed to its own disk, so either outlives kill -9 of any one process, the
# server's included; "on" waits for synchronous standbys too, where it has such. Less would not be kept.
_COMMIT: Final[dict[Synchronous, str]] = {"normal": "local", "full": "on"}

_WITHOUT_SECRETS = re.compile(r"(?<=://)[^@/]*@")


def session_settings(synchronous: Synchronous) -> dict[str, str]:
    """What every session of ours sets."""
    return _SETTINGS | {"synchronous_commit": _COMMIT[synchronous]}


async def dial(url: str, settings: dict[str, str]) -> Any:
    """Return a new connection to a server that takes writes. Raises FAILURES, or ValueError for a bad URL."""
    return await asyncpg.connect(url, **_how(settings))


async def dial_readers(url: str, settings: dict[str, str], connections_max: int) -> Any:
    """Return a pool of such connections, which dials when it is asked for one."""
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=connections_max,
        command_timeout=ANSWER_TIMEOUT_S,
        reset=_reset,
        **_how(settings),
    )


async def _reset(connection: Any) -> None:
    """Make a reader's connection ready for the next: nobody sets anything in its session, and to reset that
    costs each question a round trip.
    """
    if connection.is_in_transaction():
        await connection.reset()


def _how(settings: dict[str, str]) -> dict[str, Any]:
    # read-write: of several hosts only the primary will do; a standby may be behind what was acked.
    return {
        "timeout": DIAL_TIMEOUT_S,
        "server_settings": settings,
        "target_session_attrs": "read-write",
    }


async def lock(connection: Any, family: int, number: int, wait_s: float, *, shared: bool = False) -> None:
    """Take an advisory lock for as long as this session lives, alone or `shared` with who takes it so too.

    Raises:
        asyncpg.LockNotAvailableError: another session has it and did not end within `wait_s`.
    """
    take = "pg_advisory_lock_shared" if shared else "pg_advisory_lock"
    await connection.execute(f"SET lock_timeout = {max(1, round(wait_s * 1000))}")
    await connection.execute(f"SELECT {take}($1, $2)", family, number)
    await connection.execute("RESET lock_timeout")


async def prepare(connection: Any) -> None:
    """Make the schema and the table of migrations where there are none."""
    # IF NOT EXISTS does not help two that do it at once: one would fail.
    async with _migrating(connection):
        await _prepare(connection)


async def _prepare(connection: Any) -> None:
    # Asked first: who may not create a schema may still use one that is there.
    if await connection.fetchval("SELECT to_regnamespace('realtime')") is None:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS realtime")
    if await connection.fetchval("SELECT to_regclass('realtime.migrations')") is None:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS realtime.migrations (feature text NOT NULL, number integer NOT NULL, "
            "name text NOT NULL, sha256 text NOT NULL, applied_at bigint NOT NULL, "
            "PRIMARY KEY (feature, number))"
        )


async def migrate(connection: Any, feature: str, folder: Path, now_s: int) -> list[str]:
    """As `Store.migrate`."""
    available = migrations.files(feature, folder, DIALECT)
    done = []
    async with _migrating(connection):  # each file with its row in one transaction
        for migration in migrations.due(feature, available, await _applied(connection)):
            await _apply(connection, feature, migration, now_s)
            done.append(migration.name)
    return done


async def epoch_of(connection: Any) -> bytes:
    """Return the epoch: made with the store, and a new one where the server's timeline is another.

    A commit is on disk when it is told of, so a crash takes nothing back. A restored backup does, and so
    does a standby that took over without the last of it; either shows as a new timeline. Offsets go on.
    """
    timeline = await _timeline(connection)
    async with connection.transaction():
        await connection.execute("LOCK TABLE store IN EXCLUSIVE MODE")
        known = dict(await connection.fetch("SELECT name, value FROM store"))
        epoch: str | None = known.get("epoch")
        if epoch is None or known.get("timeline") != timeline:
            epoch = new_epoch().decode()
            for name, value in (("epoch", epoch), ("timeline", timeline)):
                await connection.execute(
                    "INSERT INTO store (name, value) VALUES ($1, $2) "
                    "ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value",
                    name,
                    value,
                )
    return epoch.encode()


async def applied(url: str) -> list[Applied]:
    """Return what the database has had, by feature and number, changing nothing.

    Raises:
        StartupError: it does not answer, or lets us not in.
    """
    with startup_errors(url):
        connection = await dial(url, session_settings("normal"))
        try:
            return await _applied(connection)
        finally:
            await connection.close()


@contextmanager
def startup_errors(url: str) -> Iterator[None]:
    """Turn what the driver says into StartupErrors that name the database."""
    try:
        yield
    except asyncpg.LockNotAvailableError as error:
        raise StartupError(
            f"{mask(url)} is in use by another server; stop that one, or use another database by POSTGRES_URL"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise StartupError(
            f"cannot use {mask(url)}: {error}; let this user create a schema (GRANT CREATE ON DATABASE), "
            f"or create the schema realtime for it (CREATE SCHEMA realtime AUTHORIZATION …)"
        ) from error
    except (*FAILURES, ValueError) as error:
        said = _WITHOUT_SECRETS.sub("***@", str(error) or type(error).__name__)
        raise StartupError(
            f"cannot use {mask(url)}: {said}; start PostgreSQL, or correct POSTGRES_URL"
        ) from error


@asynccontextmanager
async def _migrating(connection: Any) -> AsyncIterator[None]:
    """One server at a time."""
    await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCKS, MIGRATION_LOCK)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", LOCKS, MIGRATION_LOCK)


async def _timeline(connection: Any) -> str:
    try:
        found: str = await connection.fetchval("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
    except asyncpg.PostgresError:
        return "unknown"  # a server that is PostgreSQL by its protocol only: nothing can be told from it
    return found


async def _applied(connection: Any) -> list[Applied]:
    if await connection.fetchval("SELECT to_regclass('realtime.migrations')") is None:
        return []
    rows = await connection.fetch(
        "SELECT feature, number, name, sha256, applied_at FROM realtime.migrations ORDER BY feature, number"
    )
    return [Applied(*row) for row in rows]


async def _apply(connection: Any, feature: str, migration: Migration, now_s: int) -> None:
    try:
        async with connection.transaction():
            # What ends it, for a file that has comments alone: asyncpg 0.32 fails over an empty query.
            await connection.execute(f"{migration.sql}\n;SELECT 1")
            await connection.execute(
                "INSERT INTO realtime.migrations (feature, number, name, sha256, applied_at) "
                "VALUES ($1, $2, $3, $4, $5)",
                feature,
                migration.number,
                migration.name,
                migration.sha256,
                now_s,
            )
    except asyncpg.PostgresError as error:
        raise StartupError(f"migrations of {feature}: {migration.name} failed: {error}") from error
