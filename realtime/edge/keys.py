"""`realtime keys`: what there is of keys, and renewing them, beside running servers where these allow it.

In PostgreSQL and Redis it runs beside them. An SQLite file is one process's, so that its server has to be
stopped meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from realtime.backends.sealing.keyring import Keyring
from realtime.backends.sealing.rotation import Rotation, status
from realtime.backends.sealing.stored import PostgresAccess, PostgresRows, SqliteRows, StoredRows
from realtime.backends.sealing.table import KeyTable
from realtime.backends.sealing.tables import PostgresKeys, RedisKeys, SqliteKeys
from realtime.backends.store_sqlite import open_sqlite
from realtime.core.audit import NO_AUDITOR, OPERATOR
from realtime.core.clock import SystemClock
from realtime.core.room_rules import RoomRules
from realtime.edge.audit import open_audit
from realtime.edge.cluster import make_client
from realtime.edge.sealing import open_masters
from realtime.edge.store import OWN_FOLDERS
from realtime.errors import SettingsError, StartupError
from realtime.ids import TenantId
from realtime.policy import load_policy
from realtime.settings import Settings

Say = Callable[[str], object]

NAME: Final = "keys"


class Place(NamedTuple):
    """Where data keys and rows lie; a cluster without a store has no rows."""

    keyring: Keyring
    rows: StoredRows | None


async def show(settings: Settings, say: Say) -> int:
    """Say which keys there are; return 0 where all of them open what they have sealed."""
    async with _opened(settings) as place:
        lines = await status(place.keyring, place.keyring.masters.names)
    for line in lines or ["there are no keys, and none are configured"]:
        say(line)
    return 0 if all(line.endswith(("; opens", "configured", "seals")) for line in lines) else 1


async def rewrap(settings: Settings, say: Say, tenants: Collection[TenantId] | None) -> int:
    """Have the data keys wrapped by the first master key; return 0 where all of them are."""
    async with _opened(settings) as place:
        progress = await Rotation(place.keyring, SystemClock(), say, tenants).rewrap()
    return 1 if progress.failed else 0


async def rotate(settings: Settings, say: Say, tenants: Collection[TenantId] | None) -> int:
    """Make new data keys, and seal all rows with them; return 0 where all of them are."""
    async with _opened(settings) as place:
        await Rotation(place.keyring, SystemClock(), say, tenants).renew()
        return await _seal(settings, place, say, tenants)


async def seal(settings: Settings, say: Say, tenants: Collection[TenantId] | None) -> int:
    """Seal what is plain in encrypted rooms, and what older keys have sealed; return 0 where it is all."""
    async with _opened(settings) as place:
        return await _seal(settings, place, say, tenants)


async def _seal(settings: Settings, place: Place, say: Say, tenants: Collection[TenantId] | None) -> int:
    if place.rows is None:
        say("there is no store: what Redis holds is sealed with older keys until the recovery window is over")
        return 0
    rules = RoomRules(load_policy(Path(settings.policy_path)).rooms if settings.policy_path else ())
    progress = await Rotation(place.keyring, SystemClock(), say, tenants).seal(place.rows, rules)
    return 1 if progress.failed else 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Place]:
    """Open what the settings name.

    Raises:
        SettingsError: they name nothing that holds keys, or no usable master keys.
        StartupError: it cannot be opened.
    """
    masters, clock = open_masters(settings), SystemClock()
    async with AsyncExitStack() as closing:
        rows: StoredRows | None = None
        table: KeyTable
        if settings.postgres_url:
            access = await closing.enter_async_context(PostgresAccess(settings.postgres_url))
            for feature, folder in OWN_FOLDERS:
                await access.migrate(feature, folder, int(clock.time()))
            table, rows = PostgresKeys(access), PostgresRows(access)
        elif settings.redis_url:
            redis = make_client(settings, clock, NAME)
            closing.push_async_callback(redis.close)
            await redis.start()
            table = RedisKeys(redis, settings.redis_prefix)
        else:
            store = await open_sqlite(_path(settings), synchronous="full", clock=clock)
            closing.push_async_callback(store.close)
            await store.migrate(*OWN_FOLDERS[1])
            table, rows = SqliteKeys(store), SqliteRows(store)
        keeper = await open_audit(settings, clock)
        if keeper is not None:
            closing.push_async_callback(keeper.close)
        keyring = Keyring(masters, table, clock, audit=keeper or NO_AUDITOR, actor=OPERATOR)
        closing.push_async_callback(keyring.close)
        yield Place(keyring, rows)


def _path(settings: Settings) -> Path:
    if not settings.sqlite_path:
        raise SettingsError("there are no keys: name a store (sqlite_path or postgres_url), or a redis_url")
    path = Path(settings.sqlite_path)
    if not path.exists():
        raise StartupError(f"there is no file {path}: the server makes it, or name another by sqlite_path")
    return path
