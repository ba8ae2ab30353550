"""Rows that an index has for a search, newest first, with what the asker may see of them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from realtime.core.database import Database
from realtime.features.chat.rooms.readable import readable
from realtime.features.chat.search.narrow import within

WINDOW_ROWS: Final = 4_000
"""Messages that PostgreSQL looks through one by one, newest first, before it asks its index. What is common
is found among them at once, where the index would first gather all there is; what is not costs 3 ms there.
"""
GROWTH: Final = 12
"""How many times wider each window of time is than the one before it."""


FEW_ROOMS: Final = 64
"""Where most of what is found is in rooms that the asker may not read, and those that it may are so few, the
index is asked for these alone.
"""


class Asker(NamedTuple):
    """Who asks, as `readable` takes it: values $1 to $4."""

    tenant: str
    user: str
    now_ms: int
    open_rooms: int


class Candidate(NamedTuple):
    """One row. Without a `room` the asker may not see it, and nothing else is said of it."""

    id: int
    room: str | None
    text: str
    lang: str


_COLUMNS: Final = """SELECT f.id AS id, r.name AS room,
    CASE WHEN r.id IS NULL THEN '' ELSE m.text END AS text,
    CASE WHEN r.id IS NULL THEN '' ELSE m.lang END AS lang"""
_SEEN: Final = f"""LEFT JOIN rooms r ON r.id = m.room AND {readable("m.room")}
    AND (m.expires_ms IS NULL OR m.expires_ms > $3) ORDER BY f.id DESC LIMIT $8"""
_SQLITE: Final = f"""{_COLUMNS} FROM (
    SELECT rowid AS id FROM chat_found WHERE chat_found MATCH $5 AND rowid >= $6 AND rowid < $7
    ORDER BY rowid DESC LIMIT $8
) f LEFT JOIN chat_messages m ON m.id = f.id {_SEEN}"""
_NEWEST: Final = f"""{_COLUMNS} FROM (
    SELECT * FROM (SELECT id, room, text, lang, expires_ms, terms FROM chat_messages
        WHERE id >= $6 AND id < $7 ORDER BY id DESC LIMIT {WINDOW_ROWS}) newest
    WHERE terms @@ $5::text::tsquery LIMIT $8
) f JOIN LATERAL (SELECT f.room, f.text, f.lang, f.expires_ms) m ON true {_SEEN}"""
# By the index of terms alone: for words that are rarer than it thinks the planner would look through all.
_INDEXED: Final = f"""WITH f AS MATERIALIZED (
    SELECT id, room, text, lang, expires_ms FROM chat_messages
    WHERE terms @@ $5::text::tsquery AND id + 0 >= $6 AND id + 0 < $7 ORDER BY id + 0 DESC LIMIT $8
) {_COLUMNS} FROM f JOIN LATERAL (SELECT f.room, f.text, f.lang, f.expires_ms) m ON true {_SEEN}"""
_ROOMS: Final = f"""SELECT r.id AS id FROM rooms r WHERE r.tenant = $1 AND {readable("r.id")}
    LIMIT {FEW_ROOMS + 1}"""
_WINDOW: Final = f"""SELECT min(id) AS low FROM (SELECT id FROM chat_messages WHERE id >= $1 AND id < $2
    ORDER BY id DESC LIMIT {WINDOW_ROWS}) newest"""


class Finding:
    """What the index has for `match` between two ids, given part by part, newest first."""

    def __init__(self, database: Database, asker: Asker, match: str, low: int, high: int) -> None:
        self._database = database
        self._asker = asker
        self._match = match
        self._low = low
        self._high = high  # what is above has been given
        self._window: int | None = None  # from which id on PostgreSQL looks now
        self._span = 0
        self._alone = False  # whether it was looked whether the asker reads few rooms

    @property
    def left(self) -> bool:
        """Whether there may be more."""
        return self._high > self._low

    @property
    def high(self) -> int:
        """The id below which nothing has been given yet."""
        return self._high

    async def more(self, count: int) -> list[Candidate]:
        """Return the next, at most `count`; none does not mean that none are `left`."""
        if self._database.dialect == "sqlite":
            return await self._take(_SQLITE, self._low, count)
        if self._window is None:
            return await self._newest(count)
        return await self._take(_INDEXED, self._window, count)

    async def _newest(self, count: int) -> list[Candidate]:
        """Look through the newest; after them in windows, each wider than the last."""
        if not self._span:
            (low,) = (await self._database.read(_WINDOW, self._low, self._high))[0]
            if low is None:
                self._high = self._low
                return []
            self._span = self._high - low
            self._first = low
        return await self._take(_NEWEST, self._first, count)

    async def _take(self, sql: str, low: int, count: int) -> list[Candidate]:
        values: tuple[Any, ...] = (*self._asker, self._match, low, self._high, count)
        found = [Candidate(*row) for row in await self._database.read(sql, *values)]
        if not self._alone and sum(row.room is None for row in found) * 4 > len(found) * 3:
            await self._look_alone()
        if len(found) == count:
            self._high = found[-1].id
        else:
            self._high = low
            self._span *= GROWTH
            self._window = max(self._low, low - self._span)
        return found

    async def _look_alone(self) -> None:
        self._alone = True
        rooms = [int(id) for (id,) in await self._database.read(_ROOMS, *self._asker)]
        if not rooms:
            self._low = self._high  # there is nothing for them
        elif len(rooms) <= FEW_ROOMS:
            self._match = within(self._match, rooms, self._database.dialect)
