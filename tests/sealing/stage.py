"""Encryption at rest without a server: master keys of this run, a table in memory, stores that seal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from realtime.backends.redis_client.client import RedisClient
from realtime.backends.sealing.keyring import Keyring
from realtime.backends.sealing.masters import Masters
from realtime.backends.sealing.rooms import RoomSeals
from realtime.backends.sealing.store import Rows, SealedSharedStore, SealedStore
from realtime.backends.sealing.table import FEATURE, FOLDER, WrappedKey
from realtime.backends.sealing.tables import PostgresKeys, RedisKeys, SqliteKeys
from realtime.backends.store_postgres import PostgresStore
from realtime.backends.store_sqlite import SqliteStore
from realtime.core.contracts import Clock
from realtime.core.room_rules import RoomRules
from realtime.errors import Unavailable
from realtime.ids import DEFAULT_TENANT, TenantId
from realtime.policy import RoomRule

# Of this run, and of the processes that it starts.
MASTER = bytes.fromhex(os.environ.setdefault("TESTS_MASTER_KEY", os.urandom(32).hex()))
ALL = RoomRules([RoomRule(rooms=("*",), encrypted=True)])


def masters(*names: str) -> Masters:
    """Master keys of this run: each name has one."""
    return Masters({name: master(name) for name in names or ("m1",)})


def master(name: str) -> bytes:
    """The key of that name."""
    return bytes(a ^ b for a, b in zip(MASTER, name.encode().ljust(32, b"\0"), strict=True))


async def sealing(store: SqliteStore | PostgresStore, clock: Clock, rules: RoomRules = ALL) -> SealedStore:
    """Return `store`, sealing all rooms (or those of `rules`) under the master key `m1`."""
    await store.migrate(FEATURE, FOLDER)
    table = SqliteKeys(store) if isinstance(store, SqliteStore) else PostgresKeys(store)
    keyring = Keyring(masters(), table, clock)
    for tenant in (DEFAULT_TENANT, TenantId("acme")):
        await keyring.ensure(tenant)
    made = SealedStore if isinstance(store, SqliteStore) else SealedSharedStore
    return made(store, Rows(keyring, rules))


def room_seals(
    redis: RedisClient, prefix: str, clock: Clock, store: object = None, rules: RoomRules = ALL
) -> RoomSeals:
    """Return what seals all rooms (or those of `rules`) in Redis; data keys are there, or in the store."""
    if isinstance(store, SealedStore):
        return RoomSeals(store.rows.keyring, rules)
    return RoomSeals(Keyring(masters(), RedisKeys(redis, prefix), clock), rules)


class MemoryTable:
    """A `KeyTable`. `away` is what it raises instead of an answer; `asked` how often it was."""

    def __init__(self) -> None:
        self.keys: dict[tuple[TenantId, int], WrappedKey] = {}
        self.used: dict[tuple[TenantId, int], int] = {}
        self.away = False
        self.asked = 0

    async def keys_of(self, tenant: TenantId) -> Sequence[WrappedKey]:
        self._ask()
        return [self.keys[at] for at in sorted(self.keys) if at[0] == tenant]

    async def all_keys(self) -> Sequence[WrappedKey]:
        self._ask()
        return [self.keys[at] for at in sorted(self.keys)]

    async def add(self, key: WrappedKey) -> bool:
        self._ask()
        return self.keys.setdefault((key.tenant, key.number), key) is key

    async def replace(self, key: WrappedKey, wrapped: str) -> bool:
        self._ask()
        at = key.tenant, key.number
        if self.keys.get(at) != key:
            return False
        self.keys[at] = key._replace(wrapped=wrapped)
        return True

    async def use(self, key: WrappedKey, times: int) -> int:
        self._ask()
        at = key.tenant, key.number
        self.used[at] = self.used.get(at, 0) + times
        return self.used[at]

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the table is away", retry_after_s=1.0)
