"""A durable room's history: what the store has, and in its holes what Redis still has.

A hole is an offset whose row is still on its way, or whose worker died before it was written. What Redis has
of it is given, and written where nobody else seems to be about to. What nobody has any more is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from realtime.backends.cluster.ordering import Entry
from realtime.backends.kept_order import Placed
from realtime.core.contracts import Clock, Kept, Page, Position, Row
from realtime.errors import Unavailable, Unreadable
from realtime.ids import RoomId

ON_ITS_WAY_MS: Final = 5_000  # a row younger than this is being written by who published it
TAIL: Final = 1000  # rows that may be on their way, of which nobody here has heard
ALL: Final = 2**63 - 1


class Rows(Protocol):
    """The store, as far as it is needed here."""

    def append(self, row: Row, kept: Kept) -> None: ...

    async def read(self, room: RoomId, after: int, limit: int) -> list[Placed]: ...

    async def read_back(self, room: RoomId, before: int, limit: int) -> list[Placed]: ...


class Entries(Protocol):
    """A room's stream in Redis."""

    async def read(self, room: RoomId, after: int, limit: int) -> list[Placed]: ...

    async def entries(self, after: Position, limit: int, until: Position | None = None) -> list[Entry]: ...


class DeepHistory:
    """One room's `Source`: all of it that can be had."""

    __slots__ = ("_clock", "_entries", "_room", "_rows")

    def __init__(self, room: RoomId, rows: Rows, entries: Entries, clock: Clock) -> None:
        self._room = room
        self._rows = rows
        self._entries = entries
        self._clock = clock

    async def read(self, room: RoomId, after: int, limit: int) -> list[Placed]:
        """Return at most `limit` pushes above offset `after`, by offset; what is missing is not to be had.

        Raises:
            Unavailable: the store gives no answer, or Redis none about a hole.
        """
        try:
            recent = await self._entries.read(room, after, limit)
        except Unreadable:
            recent = []  # what Redis has was tampered with, or its key is lost; the rows may be whole
        if recent and recent[0][0].offset == after + 1:
            return recent
        return await self._read(after, limit)

    async def _read(self, after: int, limit: int) -> list[Placed]:
        rows = await self._rows.read(self._room, after, limit)
        last = rows[-1][0].offset if len(rows) == limit else None
        return (await self._mended(rows, after + 1, last, limit + len(rows)))[:limit]

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """Return a page, as `Stream.history`. Raises as `read`."""
        if after is not None:
            found = await self._read(after, limit + 1)
            return Page([push for _, push in found[:limit]], len(found) > limit)
        rows = await self._rows.read_back(self._room, ALL if before is None else before, limit + 1)
        last = None if before is None else before - 1
        end = last if last is not None else rows[-1][0].offset if rows else 0
        # If Redis has what is missing in the last `limit`, these are the page; if not, nothing older either.
        found = await self._mended(rows, max(1, end - limit), last, TAIL + limit)
        return Page([push for _, push in found[-limit:]], len(found) > limit)

    async def _mended(self, rows: list[Placed], first: int, last: int | None, most: int) -> list[Placed]:
        """Return the rows, with what Redis has of the holes from offset `first` to `last` (None: the end).

        One question is asked for all holes, and `most` publications are read.
        """
        had = {at.offset for at, _ in rows}
        low, high = _hole(had, first, last)
        if low is None:
            return rows
        below = [at for at, _ in rows if at.offset < low]
        above = [at for at, _ in rows if high is not None and at.offset > high]
        after = below[-1] if below else await self._before(low)
        until = above[0] if above else None
        found = await self._entries.entries(after, most, until)
        new = [each for each in found if first <= each.position.offset <= (last or ALL)]
        new = [each for each in new if each.position.offset not in had]
        self._keep(new)
        return sorted([*rows, *((each.position, each.push) for each in new)], key=lambda one: one[0].offset)

    async def _before(self, offset: int) -> Position:
        """Return the place before an offset, in the epoch of what is kept next before it."""
        rows = await self._rows.read_back(self._room, offset, 1)
        return Position(offset - 1, rows[0][0].epoch if rows else b"0")

    def _keep(self, entries: Sequence[Entry]) -> None:
        """Write what should have been written long ago. If that fails, whoever reads it next does it."""
        now_ms = self._clock.time() * 1000
        for each in entries:
            if each.at_ms + ON_ITS_WAY_MS < now_ms:
                row = Row(self._room, each.position, each.push, each.sender, each.key, each.at_ms)
                try:
                    self._rows.append(row, _nothing)
                except Unavailable:
                    return


def _hole(had: set[int], first: int, last: int | None) -> tuple[int | None, int | None]:
    """Return the first and the last offset that are missing; with an open end the latter is None."""
    end = max(had, default=first - 1) if last is None else last
    missing = [offset for offset in _between(had, first, end) if offset not in had]
    if last is None:
        return (missing[0] if missing else end + 1), None
    return (missing[0], missing[-1]) if missing else (None, None)


def _between(had: set[int], first: int, last: int) -> list[int]:
    """The offsets beside those that there are: the ends of each hole, however large it is."""
    beside = {first, last, *(offset - 1 for offset in had), *(offset + 1 for offset in had)}
    return sorted(offset for offset in beside if first <= offset <= last)


def _nothing(row: Row, error: Unavailable | None) -> None:
    """Whoever reads next sees what came of it."""
