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


LEAST: Final = 0.0025
"""The share of what is not among the most common, while it is not known which these are."""


class Shares:
    """The share of messages that a term is in, of the most common ones; all others are in fewer."""

    def __init__(self, known: Mapping[str, float]) -> None:
        self._known = known
        self._sorted = sorted(known)
        self.unknown = min(known.values(), default=LEAST) / 2
        """What is taken for the share of what is less common than those."""

    def of(self, match: Match) -> float:
        """Return the share of messages that have all of it, up to 1, rather too high than too low."""
        words, found = [], 1.0
        for one_of in match.wanted:
            if one_of[0].kind == "about":
                found *= self.of_one(one_of)
            else:
                words.append(self.of_one(one_of))
        return found * _together(words)

    def of_one(self, one_of: Iterable[Token]) -> float:
        """Return the share of messages that have one of these."""
        found = sorted(map(self._of_token, one_of), reverse=True)
        # Of a word's forms most are rare.
        return min(1.0, found[0] + sum(share if share > self.unknown else share / 4 for share in found[1:]))

    def of_lexeme(self, lexeme: Lexeme) -> float:
        """Return the share of messages that have a term."""
        if not lexeme.prefix:
            return self._known.get(lexeme.text, self.unknown)
        begin = bisect_left(self._sorted, lexeme.text)
        begins = takewhile(lambda term: term.startswith(lexeme.text), self._sorted[begin:])
        # As much again of words that are less common.
        return min(1.0, self.unknown + 1.5 * sum(map(self._known.__getitem__, begins)))

    def _of_token(self, token: Token) -> float:
        return min(map(self.of_lexeme, lexemes(token)))


def _together(shares: Iterable[float]) -> float:
    """Words that are together in a message are so more often than by chance."""
    found, power = 1.0, 1.0
    for share in sorted(shares):
        found *= share**power
        power /= 2
    return found
