"""Lists of words, found in a message whatever way they are written (`folding`), at the bounds of words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from realtime.features.chat.order.folding import UNSPACED, Reading, fold, key_of, skeleton_of

ANY: Final = "*"
Span = tuple[int, int]


class WordList:
    """Words, and those that pass though they are (or look like) one of them.

    A word is found as a whole word, so that Scunthorpe passes; `word*`, `*word` and `*word*` are found as the
    beginning, the end and any part of one. Words of scripts without spaces are found anywhere, unless they
    are one character.
    """

    def __init__(self, words: Iterable[str], allow: Iterable[str] = ()) -> None:
        self._whole: set[str] = set()
        self._looks: set[str] = set()  # how words that are not ASCII look
        self._phrases: dict[str, list[tuple[str, ...]]] = {}
        self._beginnings: set[str] = set()
        self._endings: set[str] = set()
        self._parts: set[str] = set()
        self._unspaced: dict[str, list[str]] = {}  # by their first character
        self._allow = {" ".join(key_of(each).split()) for each in allow}
        for word in words:
            self._add(word)
        self._beginning_lengths = sorted({len(each) for each in self._beginnings})
        self._ending_lengths = sorted({len(each) for each in self._endings})

    def find(self, reading: Reading) -> list[Span]:
        """Return where words of the list stand in a message: spans of it, in order, none within another's."""
        found = [
            (start, end) for key, start, end in reading.candidates if key in self._whole and self._counts(key)
        ]
        if self._looks:
            found += [(start, end) for key, start, end in reading.mixed if key in self._looks]
        if self._beginnings or self._endings or self._parts:
            found += self._find_parts(reading)
        if self._phrases:
            found += self._find_phrases(reading)
        if self._unspaced and reading.unspaced:
            found += self._find_unspaced(reading)
        return merged(found)

    def _counts(self, key: str) -> bool:
        return key not in self._allow

    def _add(self, word: str) -> None:
        bare = word.strip().strip(ANY)
        key = key_of(bare)
        words = tuple(each.key for each in Reading(bare).words)
        if not words:
            return
        if UNSPACED.search(key):
            if len(bare) > 1:
                self._unspaced.setdefault(key[0], []).append(key)
            else:
                self._whole.add(key)
        elif len(words) > 1:
            self._phrases.setdefault(words[0], []).append(words)
            if len("".join(words)) == len(key) - key.count("-") - key.count("'"):
                self._whole.add("".join(words))  # one word that is written with hyphens
        elif word.strip().startswith(ANY) or word.strip().endswith(ANY):
            self._kind(word.strip()).add(key)
        else:
            self._whole.add(key)
            if not key.isascii():
                self._looks.add(skeleton_of(key))

    def _kind(self, word: str) -> set[str]:
        if word.startswith(ANY):
            return self._parts if word.endswith(ANY) else self._endings
        return self._beginnings

    def _find_parts(self, reading: Reading) -> Iterator[Span]:
        for key, start, end in reading.candidates:
            if key in self._allow:
                continue
            if (
                any(key[:length] in self._beginnings for length in self._beginning_lengths)
                or any(key[-length:] in self._endings for length in self._ending_lengths)
                or any(part in key for part in self._parts)
            ):
                yield start, end

    def _find_phrases(self, reading: Reading) -> Iterator[Span]:
        words = reading.words
        for number, word in enumerate(words):
            for phrase in self._phrases.get(word.key, ()):
                said = words[number : number + len(phrase)]
                if tuple(each.key for each in said) == phrase and " ".join(phrase) not in self._allow:
                    yield word.start, said[-1].end

    def _find_unspaced(self, reading: Reading) -> Iterator[Span]:
        folded = reading.folded
        for at, char in enumerate(folded):
            for key in self._unspaced.get(char, ()):
                if folded.startswith(key, at) and not self._passes(folded, at, key):
                    yield reading.place(at, at + len(key))

    def _passes(self, folded: str, at: int, key: str) -> bool:
        """Whether a word that passes covers what was found."""
        return any(
            key in each and folded.find(each, max(0, at - len(each)), at + len(each)) >= 0
            for each in self._allow
        )


def merged(spans: Collection[Span]) -> list[Span]:
    """Return spans in order, those that overlap as one."""
    whole: list[Span] = []
    for start, end in sorted(spans):
        if whole and start < whole[-1][1]:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((start, end))
    return whole


def masked(text: str, spans: Iterable[Span]) -> str:
    """Return a text with asterisks where `spans` are, one for each character."""
    pieces, last = [], 0
    for start, end in spans:
        pieces += [text[last:start], "*" * (end - start)]
        last = end
    return "".join([*pieces, text[last:]])


def words_in(lines: str) -> list[str]:
    """Return the words of a file: one a line; `#` begins a comment."""
    said = (line.partition("#")[0].strip() for line in lines.splitlines())
    return [line for line in said if line and fold(line)[0].strip(ANY)]
