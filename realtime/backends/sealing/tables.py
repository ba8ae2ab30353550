"""The table of data keys in each of the places where it may lie: SQLite, PostgreSQL, Redis."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from realtime.backends.redis_client.contract import Argument, RedisError, Reply, slot_of
from realtime.backends.sealing.table import WrappedKey
from realtime.errors import Unavailable
from realtime.ids import TenantId

if TYPE_CHECKING:
    from realtime.backends.redis_client.client import RedisClient
    from realtime.backends.store_sqlite import SqliteStore

T = TypeVar("T")

RETRY_S: Final = 1.0
_REPLACE: Final = (
    b"if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end "
    b"redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) return 1"
)
_COLUMNS: Final = "tenant, number, id, wrapped, made_at"


class SqliteKeys:
    """A `KeyTable` in the store's file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def keys_of(self, tenant: TenantId) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        return await self._ask(f"SELECT {_COLUMNS} FROM data_keys WHERE tenant = ? ORDER BY number", tenant)

    async def all_keys(self) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        return await self._ask(f"SELECT {_COLUMNS} FROM data_keys ORDER BY tenant, number")

    async def add(self, key: WrappedKey) -> bool:
        """See `KeyTable`."""
        return await self._change(
            f"INSERT OR IGNORE INTO data_keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?)", *key
        )

    async def replace(self, key: WrappedKey, wrapped: str) -> bool:
        """See `KeyTable`."""
        return await self._change(
            "UPDATE data_keys SET wrapped = ? WHERE tenant = ? AND number = ? AND wrapped = ?",
            *(wrapped, key.tenant, key.number, key.wrapped),
        )

    async def use(self, key: WrappedKey, times: int) -> int:
        """See `KeyTable`."""

        def count(db: sqlite3.Connection) -> int:
            where = "WHERE tenant = ? AND number = ?"
            db.execute(f"UPDATE data_keys SET used = used + ? {where}", (times, key.tenant, key.number))
            found = db.execute(f"SELECT used FROM data_keys {where}", (key.tenant, key.number)).fetchone()
            return int(found[0]) if found else 0

        return await self._store.run(count)

    async def _ask(self, question: str, *values: object) -> list[WrappedKey]:
        rows = await self._store.run(lambda db: db.execute(question, values).fetchall())
        return [WrappedKey(*row) for row in rows]

    async def _change(self, statement: str, *values: object) -> bool:
        return await self._store.run(lambda db: db.execute(statement, values).rowcount) == 1


class Connected(Protocol):
    """What has a connection to PostgreSQL: `PostgresStore`, and who works beside one."""

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """As `PostgresStore.run`."""
        ...


class PostgresKeys:
    """A `KeyTable` in the database that the workers share."""

    def __init__(self, store: Connected) -> None:
        self._store = store

    async def keys_of(self, tenant: TenantId) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        return await self._ask(f"SELECT {_COLUMNS} FROM data_keys WHERE tenant = $1 ORDER BY number", tenant)

    async def all_keys(self) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        return await self._ask(f"SELECT {_COLUMNS} FROM data_keys ORDER BY tenant, number")

    async def add(self, key: WrappedKey) -> bool:
        """See `KeyTable`."""
        return await self._change(
            f"INSERT INTO data_keys ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING", *key
        )

    async def replace(self, key: WrappedKey, wrapped: str) -> bool:
        """See `KeyTable`."""
        return await self._change(
            "UPDATE data_keys SET wrapped = $1 WHERE tenant = $2 AND number = $3 AND wrapped = $4",
            *(wrapped, key.tenant, key.number, key.wrapped),
        )

    async def use(self, key: WrappedKey, times: int) -> int:
        """See `KeyTable`."""

        async def count(connection: Any) -> int:
            found = await connection.fetchval(
                "UPDATE data_keys SET used = used + $1 WHERE tenant = $2 AND number = $3 RETURNING used",
                *(times, key.tenant, key.number),
            )
            return int(found or 0)

        return await self._store.run(count)

    async def _ask(self, question: str, *values: object) -> list[WrappedKey]:
        rows = await self._store.run(lambda connection: connection.fetch(question, *values))
        return [WrappedKey(*row) for row in rows]

    async def _change(self, statement: str, *values: object) -> bool:
        # The answer names the statement and how many rows it was: `INSERT 0 1`, `UPDATE 1`.
        said: str = await self._store.run(lambda connection: connection.execute(statement, *values))
        return said.endswith(" 1")


class RedisKeys:
    """A `KeyTable` in Redis, of workers that share no store: a hash a tenant, and a set of all tenants.

    They do not expire. What they have sealed does, so that a Redis that loses them has lost that too.
    """

    def __init__(self, redis: RedisClient, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._tenants = f"{prefix}:{{keys}}".encode()

    async def keys_of(self, tenant: TenantId) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        found = await self._ask(self._name(tenant), b"HGETALL")
        fields = found if isinstance(found, dict) else {}
        keys = [_unpacked(tenant, int(number), value) for number, value in fields.items() if number.isdigit()]
        return sorted(keys, key=lambda key: key.number)

    async def all_keys(self) -> Sequence[WrappedKey]:
        """See `KeyTable`."""
        found = await self._ask(self._tenants, b"SMEMBERS")
        tenants = sorted(name.decode() for name in found) if isinstance(found, list | set) else []
        return [key for tenant in tenants for key in await self.keys_of(TenantId(tenant))]

    async def add(self, key: WrappedKey) -> bool:
        """See `KeyTable`."""
        # Named first: a tenant without a key costs a look, a key without its tenant is never rewrapped.
        await self._ask(self._tenants, b"SADD", key.tenant)
        return await self._ask(self._name(key.tenant), b"HSETNX", key.number, _packed(key, key.wrapped)) == 1

    async def replace(self, key: WrappedKey, wrapped: str) -> bool:
        """See `KeyTable`."""
        name, before, after = self._name(key.tenant), _packed(key, key.wrapped), _packed(key, wrapped)
        return await self._do(name, b"EVAL", _REPLACE, 1, name, key.number, before, after) == 1

    async def use(self, key: WrappedKey, times: int) -> int:
        """See `KeyTable`."""
        used = await self._ask(self._name(key.tenant), b"HINCRBY", f"used-{key.number}", times)
        assert isinstance(used, int)
        return used

    def _name(self, tenant: TenantId) -> bytes:
        return f"{self._prefix}:{{keys/{tenant}}}".encode()

    async def _ask(self, name: bytes, command: bytes, *rest: Argument) -> Reply:
        return await self._do(name, command, name, *rest)

    async def _do(self, name: bytes, *command: Argument) -> Reply:
        try:
            return await self._redis.ask(slot_of(name), *command)
        except RedisError as error:
            raise Unavailable("Redis refuses a data key", retry_after_s=RETRY_S) from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, str, int]).decode


def _packed(key: WrappedKey, wrapped: str) -> bytes:
    return _encode((key.id, wrapped, key.made_at))


def _unpacked(tenant: TenantId, number: int, value: bytes) -> WrappedKey:
    try:
        id, wrapped, made_at = _decode(value)
    except msgspec.MsgspecError:
        # Somebody has written over it: it is named, and opens nothing.
        id, wrapped, made_at = b"\0" * 8, "", 0
    return WrappedKey(tenant, number, id, wrapped, made_at)
