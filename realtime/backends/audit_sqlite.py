"""The audit log in an SQLite file: appended to by one thread, read by whoever may, while that goes on.

The processes of one machine may share the file: each group of entries takes the write lock, reads where the
chains end, and goes on from there. Why statements are so few: see `backends/sqlite_rows`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

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
from realtime.backends.sqlite_database import (
    Synchronous,
    connect,
    connect_reading,
    migrate,
    startup_errors,
    transaction,
)
from realtime.core import audit_chain
from realtime.core.audit import Event
from realtime.core.audit_chain import Entry, Head
from realtime.core.audit_notes import Note
from realtime.core.audit_store import EVERYTHING, Filter
from realtime.core.contracts import Clock
from realtime.errors import StartupError, Unavailable
from realtime.ids import TenantId

OPTION: Final = "--audit-path"
_HEADS: Final = (
    "SELECT json_group_array(json_array(tenant, seq, hex(hash), hex(seal))) FROM audit_chains "
    "WHERE tenant IN (SELECT value FROM json_each(?))"
)
_OLD: Final = (
    "SELECT c.tenant FROM audit_chains c JOIN audit_entries e ON e.tenant = c.tenant AND e.seq = "
    "(SELECT min(seq) FROM audit_entries WHERE tenant = c.tenant) "
    "WHERE e.until_us < ? AND e.seq < c.seq LIMIT 1"
)
_NAMING: Final = (
    SELECT + "tenant = ? AND seq > ? AND (actor = ? OR target IN (?, ?) OR instr(detail, ?) > 0) "
    "ORDER BY seq LIMIT ?"
)
_UPDATE: Final = (
    "UPDATE audit_entries SET actor = ?, source = ?, target = ?, detail = ?, proofs = ?, erased = ? "
    "WHERE tenant = ? AND seq = ?"
)

_encode = msgspec.json.Encoder().encode
_decode_heads = msgspec.json.Decoder(list[tuple[str, int, str, str]]).decode

T = TypeVar("T")


async def open_audit(path: Path, *, synchronous: Synchronous, clock: Clock, key: bytes) -> SqliteAudit:
    """Open the log in the file `path`, made if absent. `key` seals the chains; empty: they bear no seal.

    Raises:
        StartupError: it cannot be written, is not ours or is newer than we are.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="realtime-audit")
    try:
        loop = asyncio.get_running_loop()
        db = await loop.run_in_executor(thread, _open, path, synchronous, int(clock.time()))
    except BaseException:
        thread.shutdown(wait=False)
        raise
    return SqliteAudit(db, path, thread, clock, key)


class SqliteAudit:
    """An `AuditStore` on an open file. `open_audit` makes it."""

    def __init__(
        self, db: sqlite3.Connection, path: Path, thread: ThreadPoolExecutor, clock: Clock, key: bytes
    ) -> None:
        self._db = db
        self._path = path
        self._thread = thread
        self._clock = clock
        self._key = key

    async def append(self, notes: Sequence[Note]) -> None:
        """See `AuditStore`. What failed was not kept: a file tells."""
        await self._do(self._append, notes)

    async def retain(self, before_us: int) -> int:
        """See `AuditStore`."""
        return await self._do(self._retain, before_us)

    async def erase(self, tenant: TenantId, user: str, told: Event) -> int:
        """See `AuditStore`."""
        erased = await self._do(self._erase, tenant, user, told)
        await self._do(self._checkpoint)
        return erased

    async def close(self) -> None:
        """See `AuditStore`."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path} cannot be written: {error}", retry_after_s=1.0) from error

    # -- on its thread --------------------------------------------------------------------------------------

    def _append(self, notes: Sequence[Note]) -> None:
        with transaction(self._db):
            self._extend(self._heads({note.event.tenant for note in notes}), notes)

    def _extend(self, heads: dict[TenantId, Head], notes: Iterable[Note]) -> None:
        entries, ends = audit_chain.extend(heads, notes, self._key, self._now_us())
        for chunk in _powers_of_two(entries):
            values = [value for entry in chunk for value in values_of(entry)]
            self._db.execute(_insert(len(chunk)), values)
        for group in _powers_of_two(ends):
            values = [value for end in group for value in (end.tenant, end.seq, end.hash, end.seal)]
            self._db.execute(_upsert(len(group)), values)

    def _retain(self, before_us: int) -> int:
        with transaction(self._db), self._permit("retention"):
            found = self._db.execute(_OLD, (before_us,)).fetchone()
            if found is None:
                return 0
            tenant = TenantId(found[0])
            heads = self._heads({tenant})
            rows = self._db.execute(f"{SELECT} tenant = ? ORDER BY seq LIMIT ?", (tenant, SLICE)).fetchall()
            entries = [entry_of(row) for row in rows]
            last = audit_chain.leading(entries, before_us, heads[tenant].seq)
            if last is None:
                return 0
            gone = self._db.execute(
                "DELETE FROM audit_entries WHERE tenant = ? AND seq <= ?", (tenant, last.seq)
            ).rowcount
            told = audit_chain.dropped(last, gone)
            self._extend(heads, [self._note(told)])
            return gone

    def _erase(self, tenant: TenantId, user: str, told: Event) -> int:
        with transaction(self._db), self._permit("erase"):
            heads = self._heads({tenant})
            by = heads[tenant].seq + 1 if tenant in heads else 0
            by += audit_chain.is_unsealed(heads.get(tenant), self._key)  # which is said first
            erased = 0
            for entry, fields in self._about(tenant, user):
                without = audit_chain.erase(entry, fields, by)
                kept = (*without.personal, without.proofs, without.erased)
                self._db.execute(_UPDATE, (*kept, tenant, entry.seq))
                erased += 1
            if erased:
                self._extend(heads, [self._note(with_entries(told, erased))])
            return erased

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the file: what was erased is not left there either.

        A reader in another process may keep it from that; the next one does it then.
        """
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _about(self, tenant: TenantId, user: str) -> list[tuple[Entry, set[str]]]:
        """The first entries that still say something of a user, at most a slice, and which fields do."""
        found: list[tuple[Entry, set[str]]] = []
        after = 0
        quoted = audit_chain.quoted(user)
        while len(found) < SLICE:
            values = (tenant, after, user, user, f"user:{user}", quoted, PAGE)
            page = [entry_of(row) for row in self._db.execute(_NAMING, values).fetchall()]
            named = [(entry, audit_chain.naming(entry, user)) for entry in page]
            found += [each for each in named if each[1]]
            if len(page) < PAGE:
                break
            after = page[-1].seq
        return found[:SLICE]

    def _heads(self, tenants: Iterable[TenantId]) -> dict[TenantId, Head]:
        (found,) = self._db.execute(_HEADS, (_encode(list(tenants)).decode(),)).fetchone()
        heads = {}
        for tenant, seq, hash, seal in _decode_heads(found):
            whose = TenantId(tenant)
            heads[whose] = Head(
                tenant=whose, seq=seq, hash=bytes.fromhex(hash), seal=bytes.fromhex(seal) or None
            )
        return heads

    @contextmanager
    def _permit(self, what: str) -> Iterator[None]:
        self._db.execute("INSERT INTO audit_permit (what) VALUES (?)", (what,))
        yield
        self._db.execute("DELETE FROM audit_permit")

    def _note(self, event: Event) -> Note:
        now_us = self._now_us()
        return Note(event, 1, now_us, now_us)

    def _now_us(self) -> int:
        return int(self._clock.time() * 1e6)


class SqliteAuditReader:
    """An `AuditReader` on a file, which a server may be writing. For a command: it blocks."""

    def __init__(self, path: Path) -> None:
        """Open it. Raises StartupError: there is none, or it is not ours."""
        if not path.exists():
            raise StartupError(f"there is no audit log {path}: a server makes it; name another by {OPTION}")
        self._path = path
        with startup_errors(path, OPTION):
            self._db = connect_reading(path)
            self._db.execute("BEGIN")  # what it reads first is what it reads until its end
            self._db.execute("SELECT count(*) FROM audit_chains").fetchone()

    async def heads(self) -> list[Head]:
        """See `AuditReader`."""
        rows = self._ask("SELECT tenant, seq, hash, seal FROM audit_chains ORDER BY tenant", ())
        return [Head(tenant=TenantId(row[0]), seq=row[1], hash=row[2], seal=row[3]) for row in rows]

    async def tenants(self) -> list[TenantId]:
        """See `AuditReader`."""
        return [TenantId(row[0]) for row in self._ask(TENANTS, ())]

    async def entries(self, tenant: TenantId, wanted: Filter = EVERYTHING) -> AsyncIterator[Entry]:
        """See `AuditReader`."""
        condition, values = matching(tenant, wanted, _place)
        for row in self._ask(f"{SELECT} {condition} ORDER BY seq", values):
            yield entry_of(row)

    async def newest(self, tenant: TenantId, wanted: Filter, limit: int) -> list[Entry]:
        """See `AuditReader`."""
        condition, values = matching(tenant, wanted, _place)
        rows = self._ask(f"{SELECT} {condition} ORDER BY seq DESC LIMIT ?", (*values, limit))
        return [entry_of(row) for row in rows]

    async def close(self) -> None:
        """See `AuditReader`."""
        self._db.close()

    def _ask(self, question: str, values: Sequence[Any]) -> Iterator[Any]:
        try:
            yield from self._db.execute(question, values)
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path} cannot be read: {error}") from error


def _open(path: Path, synchronous: Synchronous, now_s: int) -> sqlite3.Connection:
    with startup_errors(path, OPTION):
        _make(path)
        db = connect(path)
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StartupError(f"{path} cannot have a write-ahead log ({mode}): {_ELSEWHERE}")
            db.execute(f"PRAGMA synchronous = {synchronous.upper()}")
            db.execute("PRAGMA secure_delete = ON")  # what is erased is not left in free space
            migrate(db, FEATURE, FOLDER, now_s)
        except BaseException:
            db.close()
            raise
    return db


def _make(path: Path) -> None:
    """Make the file where there is none, for its owner and group alone: it says who came from where."""
    with suppress(FileExistsError):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        except FileExistsError:
            raise
        except OSError as error:
            raise StartupError(
                f"cannot make {path}: {error.strerror}; make its folder and let this user write there, or "
                f"name another file by {OPTION} (empty: keep no audit log)"
            ) from error


_ELSEWHERE: Final = f"put it on a local disk, by {OPTION}"


def _place(number: int) -> str:
    return f"?{number}"


def _powers_of_two(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut `items` into pieces of 1, 2, 4, … so that a few prepared statements do for any number."""
    start = 0
    while left := len(items) - start:
        size = min(1 << (left.bit_length() - 1), ROWS_MAX)
        yield items[start : start + size]
        start += size


ROWS_MAX: Final = 1024
"""Rows of a statement: 15 values each stay below SQLite's 32,766 variables."""


@cache
def _insert(rows: int) -> str:
    row = f"({','.join('?' * len(COLUMNS))})"
    return f"INSERT INTO audit_entries ({', '.join(COLUMNS)}) VALUES {','.join([row] * rows)}"


@cache
def _upsert(rows: int) -> str:
    return (
        f"INSERT INTO audit_chains (tenant, seq, hash, seal) VALUES {','.join(['(?,?,?,?)'] * rows)} "
        "ON CONFLICT (tenant) DO UPDATE SET seq = excluded.seq, hash = excluded.hash, seal = excluded.seal"
    )
