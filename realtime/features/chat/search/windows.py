"""How PostgreSQL is asked: from the newest on, in windows of time, and each in the way that costs least, it
seems.

The index gathers all that it has in a window before the newest of that are known, and so costs most for what
is common; rows that are read one by one, newest first, cost most for what is rare. So what it takes is
estimated, by the statistics of terms and by what was found so far, and windows are as wide as a page of hits
is likely to take. When a message was is one of its terms, in slices of several lengths.
"""

from __future__ import annotations

import logging
from typing import Final, Literal, NamedTuple

from realtime.core.contracts import Clock
from realtime.core.database import Database
from realtime.errors import RealtimeError
from realtime.features.chat.search.narrow import Match, Token, lexemes
from realtime.features.chat.search.shares import KNOWN, Shares

log: Final = logging.getLogger("realtime.chat")

How = Literal["walk", "room", "index"]
"""Rows by time; rows of one room by time; rows that the index has."""

SLICE_BITS: Final = (38, 41, 44, 47, 50, 53)
"""Bits of an id below a slice: 2 minutes, 17 minutes, 2 hours, 19 hours, 6 days, 50 days."""
SLICES_MAX: Final = 5
"""Slices of a window: of 17,000 messages GIN gave those with one word in 1 ms in 4 slices, in 64 in 2.3 ms;
of 34,000 in 8 and 128 slices in 4 and 33 ms.
"""
ENOUGH: Final = 40
"""Rows that a window is made to have: a page of hits, where one in three rooms may not be read."""
ROWS_MAX: Final = 20_000
"""Rows that are read one by one in a window, at most."""
GROWTH_MAX: Final = 64
"""How many times wider, at most, each window is than the one before it."""
# What it costs, in us, where most pages are not in PostgreSQL's own memory but in the machine's.
ROW_US: Final = 6.0
NEXT_ROW_US: Final = 1.0  # the next by time lies on the same page
ITEM_US: Final = 0.05  # of an index's list, for each term that is asked for
GATHER_US: Final = 1.5  # of all terms with the same beginning
TERMS_FEW: Final = 3
LAYOUT_S: Final = 1.0
SHARES_S: Final = 600.0

_LAYOUT: Final = """SELECT max(id) AS newest, min(id) AS low, count(*) AS messages,
    (SELECT min(id) FROM chat_messages) AS oldest,
    (SELECT reltuples::bigint FROM pg_class WHERE oid = 'chat_messages'::regclass) AS known
    FROM (SELECT id FROM chat_messages ORDER BY id DESC LIMIT 2000) newest"""


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
        self.messages = 1
        """How many there are, about."""
        self.span_of_one = 1.0
        """How far ids are apart, by the newest."""

    def tick(self) -> bool:
        """Whether it is time to `learn` how common terms are."""
        if self._database.dialect != "postgres" or self._clock.monotonic() < self._shares_due:
            return False
        self._shares_due = self._clock.monotonic() + SHARES_S
        return True

    async def learn(self) -> None:
        """Read how common terms are. It takes some ms, so only the very first question waits for it."""
        try:
            rows = await self._database.read(KNOWN)
        except RealtimeError as error:
            log.warning("searches may take longer, it is not known which words are common: %s", error)
        else:
            self.shares = Shares({term: share for term, share in rows if share > 0})

    async def look(self) -> None:
        """Look again how messages lie in time, where that was long ago."""
        if not self._shares_due and self.tick():
            await self.learn()
        now = self._clock.monotonic()
        if now >= self._layout_due:
            self._layout_due = now + LAYOUT_S
            ((newest, low, messages, oldest, known),) = await self._database.read(_LAYOUT)
            self.newest, self.oldest = newest or 0, oldest or 0
            self.messages = max(known, messages, 1)
            self.span_of_one = max(1.0, (newest - low) / messages) if messages else 1.0


class Cost(NamedTuple):
    """What a way to look is thought to cost, in us; `match` is what the index is asked, `sliced` or whole."""

    us: float
    how: How
    match: Match
    sliced: bool = False


class Windows:
    """The windows of one search: `low` is where it now looks from, `how` the way, and `question` what the
    index is asked, which may find what lies beside the window.
    """

    def __init__(self, layout: Layout, match: Match, low: int, high: int) -> None:
        self._layout = layout
        self._match = match
        self.room = match.room()
        self._floor = low
        self._oldest = max(low, layout.oldest)
        self._share = layout.shares.of(match)
        self._found = 0
        self.low = low
        self.how: How = "index"
        self.question = ""
        self._open(high)

    def took(self, rows: int, high: int) -> None:
        """Go on to the next window where this one, which has had so many rows more, has been looked through:
        `high` is the id below which nothing has been given yet.
        """
        self._found += rows
        if high > self.low or high <= self._floor:
            return
        share = (self._found + 1) / self._messages
        self._share = min(1.0, max(share, self._share / GROWTH_MAX))
        self._found = 0
        self._open(high)

    def _open(self, high: int) -> None:
        layout = self._layout
        top = min(high - 1, layout.newest)
        least = min(self._ways(), key=lambda cost: cost.us)
        self.how = least.how
        wanted = ENOUGH / self._share
        if least.how == "index":
            self.low, slices = self._slices(top, wanted) if least.sliced else (self._floor, "")
        else:
            # Twice as far as it should take: it ends where there is enough.
            rows_of_one = self._room_share() if least.how == "room" else 1.0
            messages = max(1.0, min(2 * wanted, ROWS_MAX / rows_of_one))
            target = top - int(min(messages * layout.span_of_one, float(1 << 62)))
            self.low, slices = (max(self._floor, target) if target > self._oldest else self._floor), ""
        self._messages = max(1.0, (top - max(self.low, self._oldest)) / layout.span_of_one)
        self.question = " & ".join(filter(None, (least.match.said("postgres"), slices)))

    def _ways(self) -> list[Cost]:
        wanted = ENOUGH / self._share
        ways = [Cost(wanted * NEXT_ROW_US, "walk", self._match)]
        if self.room:
            ways.append(Cost(wanted * self._room_share() * ROW_US, "room", self._match))
        few = Match(tuple(one_of for one_of in self._match.wanted if not _is_complex(one_of)))
        for match in (self._match, few):
            if match.wanted:
                ways += self._by_index(match)
        return ways

    def _by_index(self, match: Match) -> list[Cost]:
        """What it costs to ask the index for `match`, which is what is looked for or a part of it."""
        shares, messages = self._layout.shares, self._layout.messages
        terms = [lexeme for one_of in match.wanted for token in one_of for lexeme in lexemes(token)]
        gathered = sum(shares.of_lexeme(each) for each in terms if each.prefix) * messages * GATHER_US
        items = min(shares.of_one(one_of) for one_of in match.wanted) * messages
        share = self._share if match is self._match else max(self._share, shares.of(match))
        wanted = ENOUGH / self._share
        whole = items * len(terms) * ITEM_US + share * messages * ROW_US
        sliced = min(items, wanted) * (len(terms) + SLICES_MAX) * ITEM_US + 2 * wanted * share * ROW_US
        return [Cost(gathered + whole, "index", match), Cost(gathered + sliced, "index", match, sliced=True)]

    def _room_share(self) -> float:
        shares = self._layout.shares
        return shares.of_one(self.room) if self.room else 1.0

    def _slices(self, top: int, messages: float) -> tuple[int, str]:
        """Return where a window of so many messages begins, and the slices that it is in."""
        target = top - int(min(messages * self._layout.span_of_one, float(1 << 62)))
        if target > self._oldest:
            for level, bits in enumerate(SLICE_BITS):
                first, last = target >> bits, top >> bits
                if last - first < SLICES_MAX:
                    names = " | ".join(f"'#{level}{number}'" for number in range(first, last + 1))
                    return max(self._floor, first << bits), f"({names})"
        return self._floor, ""


def _is_complex(one_of: tuple[Token, ...]) -> bool:
    return len(one_of) > TERMS_FEW or any(token.prefix for token in one_of)
