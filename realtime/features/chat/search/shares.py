"""How many of all messages have what is looked for, as PostgreSQL's own statistics tell: so that a search
looks at as wide a window of time as it takes, at once. An estimate: what is found does not hang on it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Final

from realtime.features.chat.search.narrow import Lexeme, Match, Token, lexemes

KNOWN: Final = """SELECT elem AS term, freq AS share FROM pg_stats
    CROSS JOIN unnest(most_common_elems::text::text[], most_common_elem_freqs) AS common (elem, freq)
    WHERE schemaname = current_schema() AND tablename = 'chat_messages' AND attname = 'terms'
    AND elem IS NOT NULL LIMIT 10000"""


class Shares:
    """The share of messages that a term is in, of the most common ones; all others are in fewer than that of
    `least`.
    """

    def __init__(self, known: Mapping[str, float]) -> None:
        self._known = known
        self._sorted = sorted(known)
        self.least = min(known.values(), default=0.0)

    def __bool__(self) -> bool:
        """Whether anything is known: not before the tables have been analysed."""
        return bool(self._known)

    def of(self, match: Match) -> float:
        """Return the share of messages that have all of it, 0 to 1, rather too high than too low."""
        words, found = [], 1.0
        for one_of in match.wanted:
            share = min(1.0, sum(map(self._of_token, one_of)))
            if one_of[0].kind == "about":
                found *= share
            else:
                words.append(share)
        return found * _together(words)

    def of_lexeme(self, lexeme: Lexeme) -> float:
        """Return the share of messages that have a term, at least `least`."""
        if not lexeme.prefix:
            return self._known.get(lexeme.text, self.least)
        begin = bisect_left(self._sorted, lexeme.text)
        begins = takewhile(lambda term: term.startswith(lexeme.text), self._sorted[begin:])
        return min(1.0, self.least + sum(map(self._known.__getitem__, begins)))

    def _of_token(self, token: Token) -> float:
        return min(map(self.of_lexeme, lexemes(token)))


def _together(shares: Iterable[float]) -> float:
    """Words that are together in a message are so more often than by chance."""
    found, power = 1.0, 1.0
    for share in sorted(shares):
        found *= share**power
        power /= 2
    return found
