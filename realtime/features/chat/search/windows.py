"""Windows of time in PostgreSQL's index, from the newest on, as wide as it takes, it seems.

The index gathers all that it has in a window before the newest of that are known, and to read a row costs 1
to 8 us: so a window is to have a page of hits and not many more. When a message was is one of its terms, in
slices of several lengths; each of them in a question costs all that are looked at, so there are few.
"""

from __future__ import annotations

from typing import Final

from realtime.core.contracts import Clock
from realtime.core.database import Database
from realtime.features.chat.search.narrow import Match, Token, lexemes
from realtime.features.chat.search.shares import KNOWN, Shares

SLICE_BITS: Final = (38, 41, 44, 47, 50, 53)
"""Bits of an id below a slice: 2 minutes, 17 minutes, 2 hours, 19 hours, 6 days, 50 days."""
SLICES_MAX: Final = 5
"""Slices of a window: of 17,000 messages GIN gave those with one word in 1 ms in 4 slices, in 64 in 2.3 ms;
of 34,000 in 8 and 128 slices in 4 and 33 ms.
"""
ENOUGH: Final = 64
"""Rows that a window is made to have."""
GROWTH_MAX: Final = 64
"""How many times wider, at most, each window is than the one before it."""
WHOLE: Final = 600
"""Where no more rows are expected, all are taken: slices that are longer than the lists of words cost more
than they save (106 rows of 1,000,000: 0.8 ms, with a slice of half of all 15 ms).
"""
FIRST_MESSAGES: Final = 2_000
"""Messages of the first window where nothing is known of what is looked for."""
BROAD: Final = 0.01
"""Beginnings of words that more messages have are not asked for: GIN gathers these of all times first, which
took 41 to 71 ms with two letters. The rows themselves are looked at then.
"""
LAYOUT_S: Final = 1.0
SHARES_S: Final = 600.0

_LAYOUT: Final = f"""SELECT max(id) AS newest, min(id) AS low, count(*) AS messages,
    (SELECT min(id) FROM chat_messages) AS oldest,
    (SELECT reltuples::bigint FROM pg_class WHERE oid = 'chat_messages'::regclass) AS known FROM (
    SELECT id FROM chat_messages ORDER BY id DESC LIMIT {FIRST_MESSAGES}) newest"""


class Layout:
    """How messages lie in time, and how common terms are; one for all searches of a worker."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._layout_due = 0.0
        self._shares_due = 0.0
        self.shares = Shares({})
        self.newest = 0
        """The id of a message so new that few are newer."""
        self.oldest = 0
        """The id of one so old that few are older."""
        self.messages = 0
        """How many there are, about."""
        self._span_of_one = 1.0

    async def look(self) -> None:
        """Look again, where that was long ago."""
        now = self._clock.monotonic()
        if now >= self._shares_due:
            self._shares_due = now + SHARES_S
            rows = await self._database.read(KNOWN)
            self.shares = Shares({term: share for term, share in rows if share > 0})
        if now >= self._layout_due:
            self._layout_due = now + LAYOUT_S
            ((newest, low, messages, oldest, known),) = await self._database.read(_LAYOUT)
            self.newest, self.oldest = newest or 0, oldest or 0
            self.messages = max(known, messages)
            self._span_of_one = (newest - low) / messages if messages else 1.0

    def span(self, messages: float) -> float:
        """Return how far apart ids are that have so many messages between them, by the newest."""
        return max(1.0, messages * self._span_of_one)


class Windows:
    """The windows of one search: `low` is where it now looks from."""

    def __init__(self, layout: Layout, match: Match, low: int, high: int) -> None:
        shares = layout.shares
        self._newest = layout.newest
        self._oldest = max(low, layout.oldest)
        self._floor = low
        self._found = 0
        share = shares.of(match) if shares else 0.0
        self._span = layout.span(ENOUGH / share if share else FIRST_MESSAGES)
        self._match = _without_broad(match, shares)
        self._question = ""
        self.low = low
        self._open(high, whole=bool(share) and share * layout.messages <= WHOLE)

    @property
    def question(self) -> str:
        """What the index is asked in this window; it may have what lies beside it."""
        return self._question

    def took(self, rows: int, high: int) -> None:
        """Go on to the next window where this one, which has had so many rows more, has been looked through:
        `high` is the id below which nothing has been given yet.
        """
        self._found += rows
        if high > self.low or high <= self._floor:
            return
        density = (self._found + 1) / self._span
        self._span = min(self._span * GROWTH_MAX, max(self._span, ENOUGH / density))
        self._found = 0
        self._open(high, whole=density * (high - self._oldest) <= WHOLE)

    def _open(self, high: int, *, whole: bool) -> None:
        top = min(high - 1, self._newest)
        target = top - int(min(self._span, float(1 << 62)))
        self.low, slices = self._floor, ""
        if target > self._oldest and not whole:
            for level, bits in enumerate(SLICE_BITS):
                first, last = target >> bits, top >> bits
                if last - first < SLICES_MAX:
                    self.low = max(self._floor, first << bits)
                    slices = " | ".join(f"'#{level}{number}'" for number in range(first, last + 1))
                    break
        self._span = max(1.0, float(top - self.low))
        parts = [self._match.said("postgres"), f"({slices})" if slices else ""]
        self._question = " & ".join(filter(None, parts))


def _without_broad(match: Match, shares: Shares) -> Match:
    """Return what is asked of the index: all but beginnings of words that are too common."""

    def is_broad(token: Token) -> bool:
        return any(each.prefix and shares.of_lexeme(each) > BROAD for each in lexemes(token))

    return Match(tuple(one_of for one_of in match.wanted if not any(map(is_broad, one_of))))
