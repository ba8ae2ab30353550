"""Whether a message is what is looked for, where in it, and how well: the rule itself, without any index.

Both stores' indexes only narrow down what is looked at; who is found is decided here, so both find the same.
"""

from __future__ import annotations

from typing import Any, Final

from realtime.features.chat.search.letters import Piece, fold, is_joined, pieces_of
from realtime.features.chat.search.query import Query, Term
from realtime.features.chat.search.stems import root, stem

SNIPPET_CHARS: Final = 160
BEFORE_CHARS: Final = 40
_LENGTH_USUAL: Final = 12  # words of a message


def has_link(text: str) -> bool:
    """Whether a text has an address in it."""
    lower = text.lower()
    return "http://" in lower or "https://" in lower or "www." in lower


class Matcher:
    """Looks for one query's words; `lang` is the language that they are in, empty: none."""

    def __init__(self, query: Query, lang: str) -> None:
        self._terms = [_Sought(term, lang) for term in query.terms]
        self._without = [_Sought(term, lang) for term in query.without]

    def find(self, text: str, lang: str) -> list[list[tuple[int, int]]] | None:
        """Return the places in a text of language `lang` of each term, or None where it is not looked for."""
        folded = fold(text)
        if not all(term.may_be_in(folded) for term in self._terms):
            return None
        pieces = pieces_of(text)
        found: list[list[tuple[int, int]]] = []
        for term in self._terms:
            places = term.places(pieces, lang)
            if not places:
                return None
            found.append(places)
        return None if any(term.places(pieces, lang) for term in self._without) else found


class _Sought:
    """One term."""

    def __init__(self, term: Term, lang: str) -> None:
        self._words = term.words
        self._prefix = term.prefix
        self._joined = [is_joined(word) for word in term.words]
        self._lang = lang
        self._stem = stem(term.words[0], lang) if term.stemmed else ""
        self._root = root(self._stem)

    def may_be_in(self, folded: str) -> bool:
        """Whether its letters are there at all: most of what is not looked for is known by that."""
        return all(word in folded for word in self._words) or bool(self._root and self._root in folded)

    def places(self, pieces: list[Piece], lang: str) -> list[tuple[int, int]]:
        """Return where it is."""
        if len(self._words) > 1:
            return self._phrases(pieces)
        word = self._words[0]
        if self._joined[0]:
            return [place for piece in pieces if word in piece.text for place in piece.parts(word)]
        if self._prefix:
            return [(piece.start, piece.end) for piece in pieces if piece.text.startswith(word)]
        stemmed = self._stem if lang.partition("-")[0] == self._lang else ""
        return [
            (piece.start, piece.end)
            for piece in pieces
            if piece.text == word
            or (stemmed and piece.text.startswith(self._root) and stem(piece.text, self._lang) == stemmed)
        ]

    def _phrases(self, pieces: list[Piece]) -> list[tuple[int, int]]:
        length = len(self._words)
        found = []
        for at in range(len(pieces) - length + 1):
            if all(self._fits(number, pieces[at + number].text) for number in range(length)):
                first, last = pieces[at], pieces[at + length - 1]
                start = first.parts(self._words[0])[-1][0] if self._joined[0] else first.start
                end = last.parts(self._words[-1])[0][1] if self._joined[-1] else last.end
                found.append((start, end))
        return found

    def _fits(self, number: int, text: str) -> bool:
        """Whether a piece of a text is the word with this number: of a run without spaces the first may be
        an end of it and the last a beginning.
        """
        word = self._words[number]
        last = number == len(self._words) - 1
        if self._joined[number]:
            if last:
                return text.startswith(word)
            return text.endswith(word) if number == 0 else text == word
        return text.startswith(word) if last and self._prefix else text == word


def score(places: list[list[tuple[int, int]]], words: int) -> int:
    """Return how well a message of so many words fits, the more the better: 0 to 1000 for each term. A term
    that is there often counts for more, but ever less so, and in a short message for more than in a long one.
    """
    weight = 0.3 + 0.9 * words / _LENGTH_USUAL
    return sum(round(1000 * len(each) / (len(each) + weight)) for each in places)


def snippet(text: str, places: list[list[tuple[int, int]]]) -> list[dict[str, Any]]:
    """Return the part of a text where it is found first, cut into what is marked and what is not."""
    spans = _merged(sorted(place for each in places for place in each))
    begin = max(0, spans[0][0] - BEFORE_CHARS) if spans and len(text) > SNIPPET_CHARS else 0
    if begin:
        space = text.find(" ", begin, spans[0][0])
        begin = space + 1 if space >= 0 else begin
    end = min(len(text), begin + SNIPPET_CHARS)
    parts = [("…", False)] if begin else []
    at = begin
    for start, stop in spans:
        if start >= end:
            break
        parts += [(text[at:start], False), (text[start : min(stop, end)], True)]
        at = min(stop, end)
    parts += [(text[at:end], False), ("…" if end < len(text) else "", False)]
    return [{"text": part, "mark": mark} for part, mark in parts if part]


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
