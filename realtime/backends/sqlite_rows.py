"""What is written to an SQLite file and read from it, in as few steps as can be.

Why few steps: sqlite3 lets go of the interpreter's lock for every step of a statement and has to wait for it
after. Beside an event loop that never idles the wait is the switch interval, 5 ms: `executemany` of 500 rows
took 2341 ms so, one INSERT of 500 rows 6.6 ms (1.7 and 1.3 ms beside an idle loop); fetching 500 rows took
1685 ms, fetching them as one JSON text 12 ms (0.3 and 1.3 ms). So a group is one statement, and an answer is
one row, of JSON with bytes in hexadecimal.

Everything here blocks and belongs to one thread a connection. Raises sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec

from realtime.backends.groups import Entry
from realtime.core.contracts import Page, Position, Remembered
from realtime.ids import RoomId, TenantId

GROUP_ROWS: Final = 4096
"""Most rows a statement: with 7 values each it stays below SQLite's 32,766 variables. A quarter of it, so
that writer and loop take turns, went at 0.8 of the rate with 4096 rows on their way (bench/store.py).
"""
ROOMS_CACHED: Final = 50_000

_COLUMNS: Final = 7
_INSERT: Final = (
    'INSERT OR IGNORE INTO publications (room, "offset", epoch, push, sender, key, at_ms) VALUES '
)
_ROOM: Final = "(SELECT id FROM rooms WHERE tenant = ? AND name = ?)"

_encode = msgspec.json.Encoder().encode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_decode_rows = msgspec.json.Decoder(list[tuple[int, str, str]]).decode
_decode_usage = msgspec.json.Decoder(dict[TenantId, int]).decode
_decode_keys = msgspec.json.Decoder(list[tuple[str | None, str, int, int]]).decode


class RowWriter:
    """Commits groups. `db` is in autocommit mode: a statement alone is a transaction."""

    def __init__(self, db: sqlite3.Connection, rooms_cached: int = ROOMS_CACHED) -> None:
        self._db = db
        self._ids: dict[RoomId, int] = {}  # least recently used first
        self._rooms_cached = rooms_cached

    def commit(self, group: Sequence[Entry]) -> None:
        """Commit all rows of a group, of at most GROUP_ROWS, or none; those that are there already stay.

        Raises:
            sqlite3.Error: none is committed.
        """
        rooms = dict.fromkeys(row.room for row, _ in group)
        strangers = [room for room in rooms if room not in self._ids]
        if not strangers:
            ids = {room: self._ids[room] for room in rooms}
            self._insert(group, ids)
        else:
            ids = self._commit_with_rooms(group, list(rooms))
        for room, number in ids.items():
            self._ids.pop(room, None)
            self._ids[room] = number
        while len(self._ids) > self._rooms_cached:
            del self._ids[next(iter(self._ids))]

    def _commit_with_rooms(self, group: Sequence[Entry], rooms: list[RoomId]) -> dict[RoomId, int]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            ids = self._named(rooms)
            self._insert(group, ids)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        return ids

    def _insert(self, group: Sequence[Entry], ids: dict[RoomId, int]) -> None:
        shape = 1 << (len(group) - 1).bit_length()
        values: list[Any] = []
        for (room, position, push, sender, key, at_ms), _ in group:
            values += (
                ids[room],
                position.offset,
                position.epoch.decode(),
                push,
                sender,
                None if key is None else key.encode(),
                at_ms,
            )
        # One prepared statement a power of two: the row places left over hold NULL, and IGNORE skips them.
        values += [None] * (_COLUMNS * (shape - len(group)))
        self._db.execute(_insert_of(shape), values)

    def _named(self, rooms: list[RoomId]) -> dict[RoomId, int]:
        """Return the ids of `rooms`, made now where there are none."""
        wanted = _encode(rooms).decode()
        self._db.execute(
            "INSERT OR IGNORE INTO rooms (tenant, name) "
            "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)",
            (wanted,),
        )
        answer = self._db.execute(
            "SELECT json_group_array((SELECT id FROM rooms "
            "WHERE tenant = json_extract(value, '$[0]') AND name = json_extract(value, '$[1]'))) "
            "FROM json_each(?)",
            (wanted,),
        )
        return dict(zip(rooms, _decode_ids(answer.fetchone()[0]), strict=True))


@cache
def _insert_of(rows: int) -> str:
    """The statement for so many rows. The same string each time: sqlite3 keeps statements by their text."""
    return _INSERT + ",".join(["(?,?,?,?,?,?,?)"] * rows)


class RowReader:
    """Answers questions from a connection of its own: what is committed, as of one moment."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def usage(self) -> dict[TenantId, int]:
        """Return how many bytes are kept of each tenant."""
        (found,) = self._db.execute("SELECT json_group_object(tenant, bytes) FROM usage").fetchone()
        return _decode_usage(found)

    def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        """As `Store.remembered`."""
        offset, keys = self._row(
            f'SELECT coalesce((SELECT max("offset") FROM publications WHERE room = {_ROOM}), 0), '
            f"(SELECT json_group_array(json_array("
            f'CASE WHEN sender IS NULL THEN NULL ELSE hex(sender) END, hex(key), "offset", at_ms)) '
            f'FROM (SELECT sender, key, "offset", at_ms FROM publications '
            f'WHERE room = {_ROOM} AND key IS NOT NULL AND at_ms >= ? ORDER BY "offset" LIMIT -1))',
            (*room, *room, since_ms),
        )
        return Remembered(
            offset,
            [
                (None if sender is None else bytes.fromhex(sender), bytes.fromhex(key).decode(), at, at_ms)
                for sender, key, at, at_ms in _decode_keys(keys)
            ],
        )

    def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        """As `Store.read`."""
        found = self._publications(room, '"offset" > ? ORDER BY "offset", epoch LIMIT ?', after, limit)
        return [(Position(offset, epoch.encode()), bytes.fromhex(push)) for offset, epoch, push in found]

    def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """As `Store.page`."""
        if after is not None:
            order, bound = '"offset" > ? ORDER BY "offset", epoch LIMIT ?', after
        else:
            order = '"offset" < ? ORDER BY "offset" DESC, epoch DESC LIMIT ?'
            bound = NO_OFFSET if before is None else before
        found = self._publications(room, order, bound, limit + 1)
        pushes = [bytes.fromhex(push) for _, _, push in found[:limit]]
        if after is None:
            pushes.reverse()
        return Page(pushes, len(found) > limit)

    def _publications(self, room: RoomId, where: str, bound: int, limit: int) -> list[tuple[int, str, str]]:
        # The LIMIT keeps SQLite from leaving out the inner order as one that nobody sees.
        (found,) = self._row(
            f'SELECT json_group_array(json_array("offset", epoch, hex(push))) FROM ('
            f'SELECT "offset", epoch, push FROM publications WHERE room = {_ROOM} AND {where})',
            (*room, bound, limit),
        )
        return _decode_rows(found)

    def _row(self, question: str, values: Sequence[Any]) -> Any:
        return self._db.execute(question, values).fetchone()


NO_OFFSET: Final = 2**63 - 1
"""Above every offset."""
