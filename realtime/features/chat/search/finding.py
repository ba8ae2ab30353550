"""Rows that an index has for a search, newest first, with what the asker may see of them."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from realtime.core.database import Database
from realtime.features.chat.rooms.readable import may_enter
from realtime.features.chat.search.narrow import Match
from realtime.features.chat.search.windows import How, Layout, Windows

FEW_FOUND: Final = 32
"""Below so many rows it does not matter which of them the asker may read."""
FEW_ROOMS: Final = 64
"""Where most of what is found is in rooms that the asker may not read, and those that they may are so few,
the index is asked for these alone.
"""


class Asker(NamedTuple):
    """Who asks, as `may_enter` takes it: values $1 to $4."""

    tenant: str
    user: str
    now_ms: int
    open_rooms: int


class Candidate(NamedTuple):
    """One row; `number` is its room's. Without a `room` the asker may not see it, and nothing else is said
    of it.
    """

    id: int
    number: int
    room: str | None
    text: str
    lang: str


# The tables are joined: as a condition of its own (EXISTS) PostgreSQL would look at all rooms first.
_JOINED: Final = """LEFT JOIN chat_rooms about ON about.room = r.id
    LEFT JOIN chat_members own ON own.room = r.id AND own.user_id = $2"""
_SEEN: Final = f"""LEFT JOIN (SELECT 1 AS yes) seen ON {may_enter("r", "about", "own")}
    AND (m.expires_ms IS NULL OR m.expires_ms > $3)"""
_COLUMNS: Final = """SELECT f.id AS id, coalesce(r.id, 0) AS number,
    CASE WHEN seen.yes = 1 THEN r.name END AS room,
    CASE WHEN seen.yes = 1 THEN m.text ELSE '' END AS text,
    CASE WHEN seen.yes = 1 THEN m.lang ELSE '' END AS lang"""
_SQLITE: Final = f"""{_COLUMNS} FROM (
    SELECT rowid AS id FROM chat_found WHERE chat_found MATCH $5 AND rowid >= $6 AND rowid < $7
    ORDER BY rowid DESC LIMIT $8
) f LEFT JOIN chat_messages m ON m.id = f.id LEFT JOIN rooms r ON r.id = m.room {_JOINED} {_SEEN}
ORDER BY f.id DESC LIMIT $8"""
_ROW: Final = "SELECT id, room, text, lang, expires_ms FROM chat_messages"
# ts_match_vq: what no index knows of, where rows are to be gone through by time. id + 0: by the index of
# terms alone, which the planner would leave for words that are rarer than it thinks.
_BY_TIME: Final = f"""{_ROW} WHERE id >= $6 AND id < $7 AND ts_match_vq(terms, $9::text::tsquery)
    ORDER BY id DESC LIMIT $8"""
_WAYS: Final[dict[How, str]] = {
    "walk": _BY_TIME.replace("$9", "$5"),
    # Pairs are compared, as only the key's own index can: by id alone the planner would go through all rooms.
    "room": f"""{_ROW} WHERE (room, id) >= ($9, $6) AND (room, id) < ($9, $7)
        AND ts_match_vq(terms, $5::text::tsquery) ORDER BY room DESC, id DESC LIMIT $8""",
    # Beside what the index has up to the newest that was known, what came since, which is little.
    "index": f"""SELECT * FROM (
        ({_BY_TIME.replace("WHERE", "WHERE id > $10 AND")})
        UNION ALL
        ({_ROW} WHERE terms @@ $5::text::tsquery AND ts_match_vq(terms, $9::text::tsquery)
        AND id + 0 >= $6 AND id + 0 < $7 AND id + 0 <= $10 ORDER BY id + 0 DESC LIMIT $8)
    ) found ORDER BY id DESC LIMIT $8""",
}
_POSTGRES: Final[dict[How, str]] = {
    how: f"""WITH f AS MATERIALIZED ({sql})
    {_COLUMNS} FROM f JOIN LATERAL (SELECT f.room, f.text, f.lang, f.expires_ms) m ON true
    LEFT JOIN rooms r ON r.id = m.room {_JOINED} {_SEEN} ORDER BY f.id DESC LIMIT $8"""
    for how, sql in _WAYS.items()
}
# Rooms that one is a member of, and those that are there for everybody: one may read no others.
_ROOMS: Final = f"""SELECT r.id AS id FROM (
    SELECT mine.room AS room FROM chat_members mine WHERE mine.user_id = $2
    UNION ALL SELECT named.id FROM rooms named
        WHERE named.tenant = $1 AND named.name LIKE 'chat:%' AND named.name NOT LIKE 'chat:~%'
    UNION ALL SELECT given.room FROM chat_rooms given WHERE given.given = 1 AND given.visibility = 'public'
) one JOIN rooms r ON r.id = one.room {_JOINED} WHERE {may_enter("r", "about", "own")}
LIMIT {FEW_ROOMS * 2 + 1}"""


class Finding:
    """What the index has for `match` between two ids, given part by part, newest first.

    `alone` says whether to look from the beginning which rooms the asker reads.
    """

    def __init__(
        self,
        database: Database,
        layout: Layout,
        asker: Asker,
        match: Match,
        low: int,
        high: int,
        *,
        alone: bool,
    ) -> None:
        self._database = database
        self._layout = layout
        self._asker = asker
        self._match = match
        self._low = low
        self._high = high  # what is above has been given
        self._windows: Windows | None = None
        self._newest = 0
        self._ask_rooms = alone
        self._looked = False
        self._given = 0
        self._unseen = 0
        self.alone = False
        """Whether the asker reads so few rooms that the index was asked for these alone."""

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
        if self._ask_rooms:
            await self._look_alone()
            if not self.left:
                return []
        if self._database.dialect == "sqlite":
            found = await self._take(_SQLITE, self._low, self._match.said("sqlite"), count)
        else:
            found = await self._in_windows(count)
        self._given += len(found)
        self._unseen += sum(row.room is None for row in found)
        if not self._looked and self._given >= FEW_FOUND and self._unseen * 4 > self._given * 3:
            self._ask_rooms = True
        return found

    async def _in_windows(self, count: int) -> list[Candidate]:
        if self._windows is None:
            await self._layout.look()
            self._windows = Windows(self._layout, self._match, self._low, self._high)
            self._newest = self._layout.newest
        windows, all_of = self._windows, self._match.said("postgres")
        values: tuple[Any, ...] = ()
        if windows.how == "room":
            values = (int(windows.room[0].words[0][1:]),)
        elif windows.how == "index":
            values = (all_of, self._newest)
        question = windows.question if windows.how == "index" else all_of
        found = await self._take(_POSTGRES[windows.how], windows.low, question or all_of, count, *values)
        windows.took(len(found), self._high)
        return found

    async def _take(self, sql: str, low: int, question: str, count: int, *values: Any) -> list[Candidate]:
        rows = await self._database.read(sql, *self._asker, question, low, self._high, count, *values)
        found = [Candidate(*row) for row in rows]
        self._high = found[-1].id if len(found) == count else low
        return found

    async def _look_alone(self) -> None:
        self._ask_rooms, self._looked = False, True
        rows = await self._database.read(_ROOMS, *self._asker)
        rooms = sorted({int(id) for (id,) in rows})
        if not rooms:
            self._low = self._high  # there is nothing for them
        elif len(rooms) <= FEW_ROOMS and len(rows) <= FEW_ROOMS * 2:
            self.alone = True
            self._match = self._match.within(rooms)
            self._windows = None
