"""A user's publications in a store: those that the user sent, and all of the room that is the user's own.

To find them takes a walk over the publications of the tenant: it is asked for by a command, now and then.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from realtime.backends import postgres_database, sqlite_database
from realtime.backends.postgres_database import FAILURES, LOCKS, dial, lock, session_settings
from realtime.backends.sqlite_database import Database, transaction
from realtime.core.clock import SystemClock
from realtime.core.personal import own_room, stamp, tombstone
from realtime.errors import Unavailable
from realtime.ids import RoomName, TenantId, UserId
from realtime.native.encode import json_string
from realtime.settings import mask

PAGE: Final = 500
LANES: Final = 2  # of a server's: who has their locks has the database for itself
LOCK_WAIT_S: Final = 0.5

_SQLITE: Final = (
    'SELECT p.room, p."offset", p.epoch, r.name, p.at_ms, p.push, p.sender FROM rooms r '
    "JOIN publications p ON p.room = r.id WHERE r.tenant = ? AND (p.sender = ? OR r.name = ?) "
    'AND (p.room, p."offset", p.epoch) > (?, ?, ?) ORDER BY p.room, p."offset", p.epoch LIMIT ?'
)
_POSTGRES: Final = (
    'SELECT p.room, p."offset", p.epoch, r.name, p.at_ms, p.push, p.sender FROM rooms r '
    "JOIN publications p ON p.room = r.id WHERE r.tenant = $1 AND (p.sender = $2 OR r.name = $3) "
    'AND (p.room, p."offset", p.epoch) > ($4, $5, $6) ORDER BY p.room, p."offset", p.epoch LIMIT $7'
)


class Sent(NamedTuple):
    """A publication that is a user's, as the store has it."""

    room_id: int
    offset: int
    epoch: str
    room: RoomName
    at_ms: int
    push: bytes
    sender: bytes | None


_FIRST: Final = (0, 0, "")


async def read_sqlite(path: Path, tenant: TenantId, user: UserId) -> AsyncIterator[Sent]:
    """Return a user's publications in a file, which a server may be writing. For a command: it blocks."""
    with sqlite_database.startup_errors(path):
        db = sqlite_database.connect_reading(path)
    try:
        after: tuple[Any, ...] = _FIRST
        while found := _page(db, tenant, user, after):
            for each in found:
                yield each
            after = found[-1][:3]
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be read: {error}") from error
    finally:
        db.close()


async def read_postgres(url: str, tenant: TenantId, user: UserId) -> AsyncIterator[Sent]:
    """Return a user's publications in a database, which servers may be writing."""
    with postgres_database.startup_errors(url):
        connection = await dial(url, session_settings("normal"))
    try:
        after: tuple[Any, ...] = _FIRST
        while found := await _fetch(connection, tenant, user, after):
            for each in found:
                yield each
            after = found[-1][:3]
    except FAILURES as error:
        raise Unavailable(f"{mask(url)} cannot be read: {error or type(error).__name__}") from error
    finally:
        connection.terminate()


async def erase_sqlite(path: Path, tenant: TenantId, user: UserId, pseudonym: str) -> dict[RoomName, int]:
    """Put tombstones where a user's publications are; return how many in which rooms.

    Raises:
        StartupError: a server has the file. It keeps in memory what is to go: it has to be stopped first.
    """
    return await asyncio.to_thread(_erase_sqlite, path, tenant, user, pseudonym)


async def erase_postgres(
    url: str, tenant: TenantId, user: UserId, pseudonym: str, *, shared: bool
) -> dict[RoomName, int]:
    """The same in a database. With `shared` the workers of a cluster may be writing it.

    Raises:
        StartupError: it does not answer, or a server has it for itself.
        Unavailable: it went away; what was done is done, and a repeat does the rest.
    """
    with postgres_database.startup_errors(url):
        connection = await dial(url, session_settings("full"))
    try:
        with postgres_database.startup_errors(url):
            for number in range(LANES):
                await lock(connection, LOCKS, number, LOCK_WAIT_S, shared=shared)
        try:
            return await _erase_postgres(connection, tenant, user, pseudonym)
        except FAILURES as error:
            raise Unavailable(f"{mask(url)} cannot be written: {error or type(error).__name__}") from error
    finally:
        connection.terminate()


def _erase_sqlite(path: Path, tenant: TenantId, user: UserId, pseudonym: str) -> dict[RoomName, int]:
    database = Database(path, "full", SystemClock().time)
    rooms: dict[RoomName, int] = {}
    try:
        # What is written over is not left in free space, and then the log is not either.
        database.db.execute("PRAGMA secure_delete = ON")
        after: tuple[Any, ...] = _FIRST
        while found := _page(database.db, tenant, user, after):
            with transaction(database.db):
                for each in found:
                    database.db.execute(
                        "UPDATE publications SET push = ?, sender = ?, key = NULL "
                        'WHERE room = ? AND "offset" = ? AND epoch = ?',
                        (*_left(each, user, pseudonym), *each[:3]),
                    )
            _count(rooms, found)
            after = found[-1][:3]
        database.db.execute(
            "UPDATE rooms SET name = ? WHERE tenant = ? AND name = ?",
            (own_room(pseudonym), tenant, own_room(user)),
        )
        database.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise Unavailable(f"{path} cannot be written: {error}") from error
    finally:
        database.close()
    return rooms


async def _erase_postgres(
    connection: Any, tenant: TenantId, user: UserId, pseudonym: str
) -> dict[RoomName, int]:
    rooms: dict[RoomName, int] = {}
    after: tuple[Any, ...] = _FIRST
    while found := await _fetch(connection, tenant, user, after):
        left = [_left(each, user, pseudonym) for each in found]
        await connection.execute(
            "UPDATE publications p SET push = g.push, sender = g.sender, key = NULL FROM "
            "unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::text[]) "
            'AS g (push, sender, room, place, epoch) WHERE p.room = g.room AND p."offset" = g.place '
            "AND p.epoch = g.epoch",
            [push for push, _ in left],
            [sender for _, sender in left],
            [each.room_id for each in found],
            [each.offset for each in found],
            [each.epoch for each in found],
        )
        _count(rooms, found)
        after = found[-1][:3]
    await connection.execute(
        "UPDATE rooms SET name = $1 WHERE tenant = $2 AND name = $3",
        own_room(pseudonym),
        tenant,
        own_room(user),
    )
    return rooms


def _page(db: sqlite3.Connection, tenant: TenantId, user: UserId, after: Sequence[Any]) -> list[Sent]:
    values = (tenant, json_string(user), own_room(user), *after, PAGE)
    return [Sent(*row) for row in db.execute(_SQLITE, values).fetchall()]


async def _fetch(connection: Any, tenant: TenantId, user: UserId, after: Sequence[Any]) -> list[Sent]:
    rows = await connection.fetch(_POSTGRES, tenant, json_string(user), own_room(user), *after, PAGE)
    return [Sent(*row) for row in rows]


def _left(sent: Sent, user: UserId, pseudonym: str) -> tuple[bytes, bytes | None]:
    """The push and the sender that are left of a publication."""
    sender = json_string(pseudonym) if sent.sender == json_string(user) else sent.sender
    known: dict[str, object] = {"room": sent.room}
    if sent.sender is not None:
        known["from"] = msgspec.json.decode(sent.sender)
    known |= {"timestamp": stamp(sent.at_ms), "offset": sent.offset, "epoch": sent.epoch}
    return tombstone(sent.push, user, pseudonym, known), sender


def _count(rooms: dict[RoomName, int], found: Sequence[Sent]) -> None:
    for each in found:
        rooms[each.room] = rooms.get(each.room, 0) + 1
