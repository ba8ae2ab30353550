"""The databases that the tests hold audit logs in: opened as a server does, changed as a thief would."""

import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from realtime.backends import audit_postgres, audit_sqlite
from realtime.core.audit import Action, Event, Outcome
from realtime.core.audit_chain import Entry
from realtime.core.audit_notes import Note
from realtime.core.audit_store import EVERYTHING, AuditReader, AuditStore, Filter
from realtime.core.audit_verify import Verdict, Verifier
from realtime.core.clock import SystemClock
from realtime.ids import TenantId

ACME, OTHER = TenantId("acme"), TenantId("other")
DAY_US = 86_400_000_000
UNGUARD = {
    "sqlite": "DROP TRIGGER IF EXISTS audit_entries_stay; DROP TRIGGER IF EXISTS audit_entries_hold",
    "postgres": "ALTER TABLE audit_entries DISABLE TRIGGER USER",
}


class AuditPlace(Protocol):
    """One database with an audit log."""

    dialect: str
    arguments: list[str]

    async def open(self, key: bytes = b"") -> AuditStore: ...

    async def read(self) -> AuditReader: ...

    async def execute(self, *statements: str) -> None:
        """Run statements beside the log, one after another."""
        ...


class SqliteAuditPlace:
    """A file."""

    dialect = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.sqlite"
        self.arguments = ["sqlite", str(self.path)]

    async def open(self, key: bytes = b"") -> AuditStore:
        return await audit_sqlite.open_audit(self.path, synchronous="normal", clock=SystemClock(), key=key)

    async def read(self) -> AuditReader:
        return audit_sqlite.SqliteAuditReader(self.path)

    async def execute(self, *statements: str) -> None:
        db = sqlite3.connect(self.path, isolation_level=None)
        try:
            for statement in statements:
                db.executescript(statement)
        finally:
            db.close()


class PostgresAuditPlace:
    """A database of a running server."""

    dialect = "postgres"

    def __init__(self, url: str) -> None:
        self.url = url
        self.arguments = ["postgres", url]

    async def open(self, key: bytes = b"") -> AuditStore:
        return await audit_postgres.open_audit(self.url, synchronous="normal", clock=SystemClock(), key=key)

    async def read(self) -> AuditReader:
        return await audit_postgres.open_reader(self.url)

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.url, server_settings={"search_path": "realtime"})
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def an_event(actor: str = "alice", tenant: TenantId = ACME, **given: Any) -> Event:
    fields = {"action": Action.JOIN, "outcome": Outcome.DENIED, "source": "192.0.2.7", "target": "chat:lobby"}
    return Event(**{"tenant": tenant, "actor": actor, **fields, **given})


def notes(*events: Event, at_us: int = 1_700_000_000_000_000) -> list[Note]:
    """Return notes of these events, a microsecond apart."""
    return [Note(event, 1, at_us + place, at_us + place) for place, event in enumerate(events)]


@asynccontextmanager
async def opened(place: AuditPlace, key: bytes = b"") -> AsyncIterator[AuditStore]:
    """The log for writing."""
    store = await place.open(key)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def reading(place: AuditPlace) -> AsyncIterator[AuditReader]:
    """The log for reading, as it is now."""
    reader = await place.read()
    try:
        yield reader
    finally:
        await reader.close()


async def entries(place: AuditPlace, tenant: TenantId = ACME, wanted: Filter = EVERYTHING) -> list[Entry]:
    async with reading(place) as reader:
        return [entry async for entry in reader.entries(tenant, wanted)]


async def verdict(
    place: AuditPlace, tenant: TenantId = ACME, *, key: bytes = b"", expected: dict[int, bytes] | None = None
) -> Verdict:
    """Verify a chain."""
    async with reading(place) as reader:
        verifier = Verifier(tenant, key=key, expected=expected)
        async for entry in reader.entries(tenant):
            verifier.take(entry)
        heads = {head.tenant: head for head in await reader.heads()}
        return verifier.finish(heads.get(tenant))


async def fill(place: AuditPlace, actors: Sequence[str] = ("alice", "bob", "carol", "dave", "erin")) -> None:
    """Keep an entry of each of them, and one of another tenant's."""
    async with opened(place) as store:
        await store.append(notes(*map(an_event, actors), an_event("zoe", OTHER)))
