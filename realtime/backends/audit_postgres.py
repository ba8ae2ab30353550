"""The audit log in a PostgreSQL database: one connection a worker, the chains' ends as locks.

A group of entries locks the ends of its chains, by tenant, so that no two workers wait for each other; then
it goes on from there, and all of it commits or none. Whether a group whose connection broke was committed
stands in the database, so it is not written twice.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from realtime.backends.audit_rows import (
    COLUMNS,
    FEATURE,
    FOLDER,
    PAGE,
    SELECT,
    SLICE,
    TENANTS,
    entry_of,
    matching,
    values_of,
    with_entries,
)
from realtime.backends.postgres_database import (
    ANSWER_TIMEOUT_S,
    FAILURES,
    LOCKS,
    Synchronous,
    dial,
    migrate,
    prepare,
    session_settings,
    startup_errors,
)
from realtime.core import audit_chain
from realtime.core.audit import Event
from realtime.core.audit_chain import Entry, Head
from realtime.core.audit_notes import Note
from realtime.core.audit_store import EVERYTHING, Filter
from realtime.core.contracts import Clock
from realtime.errors import StartupError, Unavailable
from realtime.ids import TenantId
from realtime.settings import mask

RETENTION_LOCK: Final = 128  # of LOCKS; below are the lanes, above the epochs' buckets
WRITERS_KEPT_US: Final = 86_400_000_000  # a group is asked for within seconds
_TYPES: Final = {
    "bigint": ("seq", "at_us", "until_us", "events"),
    "bytea": ("proofs", "prev", "hash"),
}
_INSERT: Final = "INSERT INTO audit_entries ({}) SELECT * FROM unnest({})".format(
    ", ".join(COLUMNS),
    ", ".join(
        f"${number}::{next((type for type, names in _TYPES.items() if name in names), 'text')}[]"
        for number, name in enumerate(COLUMNS, start=1)
    ),
)
_LOCK_HEADS: Final = (
    "SELECT tenant, seq, hash, seal FROM audit_chains WHERE tenant = ANY($1::text[]) "
    "ORDER BY tenant FOR UPDATE"
)
_MAKE_HEADS: Final = (
    "INSERT INTO audit_chains (tenant, seq, hash) SELECT t, 0, $2 FROM unnest($1::text[]) AS t "
    "ORDER BY t ON CONFLICT DO NOTHING"
)
_MOVE_HEADS: Final = (
    "UPDATE audit_chains c SET seq = g.seq, hash = g.hash, seal = g.seal "
    "FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[]) AS g (tenant, seq, hash, seal) "
    "WHERE c.tenant = g.tenant"
)
_MARK_GROUP: Final = (
    'INSERT INTO audit_writers (writer, "group", at_us) VALUES ($1, $2, $3) '
    'ON CONFLICT (writer) DO UPDATE SET "group" = EXCLUDED."group", at_us = EXCLUDED.at_us'
)
# Where another session's group of this writer is not settled yet, this waits until it is.
_LAST_GROUP: Final = (
    'INSERT INTO audit_writers (writer, "group", at_us) VALUES ($1, 0, $2) '
    'ON CONFLICT (writer) DO UPDATE SET at_us = EXCLUDED.at_us RETURNING "group"'
)
_TAKE: Final = "SELECT pg_try_advisory_xact_lock($1, $2)"
_OLD: Final = (
    "SELECT c.tenant FROM audit_chains c JOIN audit_entries e ON e.tenant = c.tenant AND e.seq = "
    "(SELECT min(f.seq) FROM audit_entries f WHERE f.tenant = c.tenant) "
    "WHERE e.until_us < $1 AND e.seq < c.seq ORDER BY c.tenant LIMIT 1"
)
_NAMING: Final = (
    SELECT + "tenant = $1 AND seq > $2 AND (actor = $3 OR target IN ($3, $4) OR position($5 in detail) > 0) "
    "ORDER BY seq LIMIT $6"
)
_ERASE: Final = (
    "UPDATE audit_entries e SET actor = g.actor, source = g.source, target = g.target, detail = g.detail, "
    "proofs = g.proofs, erased = g.erased FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[], "
    "$6::text[], $7::bytea[], $8::text[]) AS g (seq, actor, source, target, detail, proofs, erased) "
    "WHERE e.tenant = $1 AND e.seq = g.seq"
)

T = TypeVar("T")


async def open_audit(url: str, *, synchronous: Synchronous, clock: Clock, key: bytes) -> PostgresAudit:
    """Open the log in the database `url`, its tables made or brought up to date. `key` seals the chains.

    Raises:
        StartupError: it does not answer, lets us not in, or is newer than we are.
    """
    audit = PostgresAudit(url, session_settings(synchronous), clock, key)
    with startup_errors(url):
        await audit.start()
    return audit


class PostgresAudit:
    """An `AuditStore` on a database. `open_audit` makes it."""

    def __init__(self, url: str, settings: dict[str, str], clock: Clock, key: bytes) -> None:
        self._url = url
        self._settings = settings
        self._clock = clock
        self._key = key
        self._writer = secrets.token_hex(8)
        self._group = 0  # number of the last one that is settled
        self._doubt = False  # the one after it may be in
        self._turn = asyncio.Lock()
        self._connection: Any | None = None

    async def start(self) -> None:
        """Connect. Raises FAILURES, ValueError or StartupError."""
        connection = await dial(self._url, self._settings)
        try:
            await prepare(connection)
            await migrate(connection, FEATURE, FOLDER, int(self._clock.time()))
            await connection.execute(
                "DELETE FROM audit_writers WHERE at_us < $1", self._now_us() - WRITERS_KEPT_US
            )
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection

    async def append(self, notes: Sequence[Note]) -> None:
        """See `AuditStore`."""
        await self._do(self._append, notes)

    async def retain(self, before_us: int) -> int:
        """See `AuditStore`. While another worker does so, nothing is left to do here."""
        return await self._do(self._retain, before_us)

    async def erase(self, tenant: TenantId, user: str, told: Event) -> int:
        """See `AuditStore`."""
        return await self._do(self._erase, tenant, user, told)

    async def close(self) -> None:
        """See `AuditStore`."""
        async with self._turn:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            try:
                await connection.execute("DELETE FROM audit_writers WHERE writer = $1", self._writer)
                await connection.close(timeout=ANSWER_TIMEOUT_S)
            except FAILURES:
                connection.terminate()  # its row goes with the next start, a day later

    async def _do(self, work: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    if self._connection is None or self._connection.is_closed():
                        self._connection = await dial(self._url, self._settings)
                    return await work(self._connection, *arguments)
            except FAILURES as error:
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.terminate()  # nobody knows what the session will still do
                raise Unavailable(
                    f"{mask(self._url)}: the audit log cannot be written: {error or type(error).__name__}",
                    retry_after_s=1.0,
                ) from error

    async def _append(self, connection: Any, notes: Sequence[Note]) -> None:
        group = self._group + 1
        if self._doubt and await self._settled(connection) == group:
            self._group, self._doubt = group, False
            return
        self._doubt = True
        async with connection.transaction():
            heads = await self._heads(connection, {note.event.tenant for note in notes})
            await self._extend(connection, heads, notes)
            await connection.execute(_MARK_GROUP, self._writer, group, self._now_us())
        self._group, self._doubt = group, False

    async def _settled(self, connection: Any) -> int:
        number: int = await connection.fetchval(_LAST_GROUP, self._writer, self._now_us())
        return number

    async def _extend(self, connection: Any, heads: dict[TenantId, Head], notes: Iterable[Note]) -> None:
        entries, ends = audit_chain.extend(heads, notes, self._key, self._now_us())
        await connection.execute(_INSERT, *_columns(map(values_of, entries)))
        await connection.execute(
            _MOVE_HEADS,
            [end.tenant for end in ends],
            [end.seq for end in ends],
            [end.hash for end in ends],
            [end.seal for end in ends],
        )

    async def _heads(self, connection: Any, tenants: Iterable[TenantId]) -> dict[TenantId, Head]:
        """The ends of the chains, made where there are none, and nobody else's until the transaction ends."""
        wanted = sorted(tenants)
        found = await connection.fetch(_LOCK_HEADS, wanted)
        if len(found) < len(wanted):
            await connection.execute(_MAKE_HEADS, wanted, audit_chain.BEGINNING)
            found = await connection.fetch(_LOCK_HEADS, wanted)
        return {row[0]: _head(row) for row in found}

    async def _retain(self, connection: Any, before_us: int) -> int:
        async with connection.transaction():
            taken = await connection.fetchval(_TAKE, LOCKS, RETENTION_LOCK)
            found = await connection.fetchval(_OLD, before_us) if taken else None
            if found is None:
                return 0
            tenant = TenantId(found)
            heads = await self._heads(connection, [tenant])
            rows = await connection.fetch(f"{SELECT} tenant = $1 ORDER BY seq LIMIT $2", tenant, SLICE)
            last = audit_chain.leading([entry_of(row) for row in rows], before_us, heads[tenant].seq)
            if last is None:
                return 0
            await connection.execute("SELECT set_config('realtime.audit', 'retention', true)")
            done = await connection.execute(
                "DELETE FROM audit_entries WHERE tenant = $1 AND seq <= $2", tenant, last.seq
            )
            gone = int(done.rpartition(" ")[2])
            await self._extend(connection, heads, [self._note(audit_chain.dropped(last, gone))])
        return gone

    async def _erase(self, connection: Any, tenant: TenantId, user: str, told: Event) -> int:
        async with connection.transaction():
            head = (await self._heads(connection, [tenant]))[tenant]
            by = head.seq + 1 + audit_chain.is_unsealed(head, self._key)  # that is said first
            without = [
                audit_chain.erase(entry, fields, by)
                for entry, fields in await self._about(connection, tenant, user)
            ]
            if not without:
                return 0
            rows = [(each.seq, *each.personal, each.proofs, each.erased) for each in without]
            await connection.execute("SELECT set_config('realtime.audit', 'erase', true)")
            await connection.execute(_ERASE, tenant, *_columns(rows))
            await self._extend(connection, {tenant: head}, [self._note(with_entries(told, len(without)))])
        return len(without)

    async def _about(self, connection: Any, tenant: TenantId, user: str) -> list[tuple[Entry, set[str]]]:
        """The first entries that still say something of a user, at most a slice, and which fields do."""
        found: list[tuple[Entry, set[str]]] = []
        after = 0
        quoted = audit_chain.quoted(user)
        while len(found) < SLICE:
            rows = await connection.fetch(_NAMING, tenant, after, user, f"user:{user}", quoted, PAGE)
            page = [entry_of(row) for row in rows]
            named = [(entry, audit_chain.naming(entry, user)) for entry in page]
            found += [each for each in named if each[1]]
            if len(page) < PAGE:
                break
            after = page[-1].seq
        return found[:SLICE]

    def _note(self, event: Event) -> Note:
        now_us = self._now_us()
        return Note(event, 1, now_us, now_us)

    def _now_us(self) -> int:
        return int(self._clock.time() * 1e6)


class PostgresAuditReader:
    """An `AuditReader` on a database. `open_reader` makes it."""

    def __init__(self, connection: Any, transaction: Any) -> None:
        self._connection = connection
        self._transaction = transaction

    async def heads(self) -> list[Head]:
        """See `AuditReader`."""
        async with _reading():
            rows = await self._connection.fetch(
                "SELECT tenant, seq, hash, seal FROM audit_chains ORDER BY tenant"
            )
        return [_head(row) for row in rows if row[1]]

    async def tenants(self) -> list[TenantId]:
        """See `AuditReader`."""
        async with _reading():
            rows = await self._connection.fetch(TENANTS)
        return [TenantId(row[0]) for row in rows]

    async def entries(self, tenant: TenantId, wanted: Filter = EVERYTHING) -> AsyncIterator[Entry]:
        """See `AuditReader`."""
        condition, values = matching(tenant, wanted, _place)
        async with _reading():
            rows = self._connection.cursor(f"{SELECT} {condition} ORDER BY seq", *values, prefetch=PAGE)
            async for row in rows:
                yield entry_of(row)

    async def newest(self, tenant: TenantId, wanted: Filter, limit: int) -> list[Entry]:
        """See `AuditReader`."""
        condition, values = matching(tenant, wanted, _place)
        async with _reading():
            rows = await self._connection.fetch(
                f"{SELECT} {condition} ORDER BY seq DESC LIMIT {limit:d}", *values
            )
        return [entry_of(row) for row in rows]

    async def close(self) -> None:
        """See `AuditReader`."""
        self._connection.terminate()


async def open_reader(url: str) -> PostgresAuditReader:
    """Open the log in the database `url` for reading, as it is now.

    Raises:
        StartupError: it does not answer, lets us not in, or there is no log in it.
    """
    with startup_errors(url):
        connection = await dial(url, session_settings("normal"))
        try:
            if await connection.fetchval("SELECT to_regclass('realtime.audit_chains')") is None:
                raise StartupError(f"there is no audit log in {mask(url)}: a server makes it")
            transaction = connection.transaction(isolation="repeatable_read", readonly=True)
            await transaction.start()
        except BaseException:
            connection.terminate()
            raise
    return PostgresAuditReader(connection, transaction)


@asynccontextmanager
async def _reading() -> AsyncIterator[None]:
    try:
        yield
    except FAILURES as error:
        raise Unavailable(f"the audit log cannot be read: {error or type(error).__name__}") from error


def _head(row: Sequence[Any]) -> Head:
    return Head(tenant=TenantId(row[0]), seq=row[1], hash=row[2], seal=row[3])


def _columns(rows: Iterable[Sequence[Any]]) -> Iterator[list[Any]]:
    """The values of all rows, column by column, as `unnest` takes them."""
    return map(list, zip(*rows, strict=True))


def _place(number: int) -> str:
    return f"${number}"
