"""Reading a message as people do: one form for all the ways in which a word can be written.

Folding takes compatibility forms (NFKC), case, diacritics, zero-width and combining characters away, and
keeps where each character stood. What is read is candidates: each word as it stands, and what it can be read
as where it is written in odd signs, in digits, with a letter repeated, or letter by letter. A word list is a
look-up in them, so what a message costs hardly grows with the lists.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

# Marks that are written over letters, and vowel points that are left out at will. Those of Indic scripts and
# of Thai are letters of the word.
_MARKS: Final = re.compile(
    "[\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f\U000e0100-\U000e01ef\u034f\u115f\u1160\u3164\uffa0\u2800]"
)
# Scripts that put no spaces between words, or tie particles to them: there a word may begin anywhere.
UNSPACED: Final = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\U00020000-\U0003ffff]"
)
_CHUNK: Final = re.compile(r"\S+")
_WORD: Final = re.compile(r"[^\W_]+")
_TRIPLE: Final = re.compile(r"(.)\1\1+")
_ODD: Final = re.compile(r"[^a-z]")
_EDGES: Final = ".,;:?\"'()[]{}<>«»“”„‘’…-_/\\*~#&"  # noqa: RUF001 - all of these are meant
_SIGNS: Final = str.maketrans(dict.fromkeys(_EDGES + "!"))
_LEET: Final = {"0": "o", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g", "@": "a"} | {
    "$": "s",
    "+": "t",
    "€": "e",
}
_LEET_I: Final = str.maketrans(_LEET | {"1": "i", "!": "i", "|": "i"})
_LEET_L: Final = str.maketrans(_LEET | {"1": "l", "!": "l", "|": "l"})
_LEET_SIGN: Final = re.compile(r"[0-9@$!|+€]")
WORD_CHARS_MAX: Final = 64
CACHED_MAX: Final = 20_000
SQUEEZED_RUNS_MAX: Final = 4


class Candidate(NamedTuple):
    """What some of the message can be read as, and where it stands in the message."""

    key: str
    start: int
    end: int


class _Folds(dict[str, str]):
    """The folded form of each character, made when it is first seen."""

    def __missing__(self, char: str) -> str:
        folded = _folded_char(char)
        if len(self) < CACHED_MAX:
            self[char] = folded
        return folded


class Reading:
    """One message, read once for all rules. `words` are its words in their order; `candidates` are those and
    all else that words of it can be read as; `mixed` has the readings of words that mix scripts.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.folded, self._places = fold(text)
        self.words: list[Candidate] = []
        self.candidates: list[Candidate] = []
        self.mixed: list[Candidate] = []
        self._read()

    @property
    def unspaced(self) -> bool:
        """Whether it has scripts in which words have no bounds that can be seen."""
        return not self.folded.isascii() and UNSPACED.search(self.folded) is not None

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return where a part of `folded` stands in the message."""
        if self._places is None:
            return start, end
        return self._places[start], self._places[end - 1] + 1

    def _add(self, key: str, start: int, end: int) -> None:
        start, end = self.place(start, end)
        self.candidates.append(Candidate(key, start, end))
        for squeezed in _squeezed(key):
            self.candidates.append(Candidate(squeezed, start, end))

    def _read(self) -> None:
        letters: list[tuple[str, int, int]] = []  # that stand alone, one after the other
        for chunk in _CHUNK.finditer(self.folded):
            said, at = chunk[0], chunk.start()
            if said.isalpha():
                words = [(said, at, at + len(said))]
            else:
                words = [(each[0], at + each.start(), at + each.end()) for each in _WORD.finditer(said)]
                self._read_odd(said, at, words)
            for word, start, end in words:
                self._read_word(word, start, end)
            if len(words) == 1 and len(words[0][0]) == 1 and words[0][0].isalpha():
                letters.append(words[0])
            else:
                self._spell(letters)
                letters = []
        self._spell(letters)

    def _read_word(self, word: str, start: int, end: int) -> None:
        self.words.append(Candidate(word, *self.place(start, end)))
        self._add(word, start, end)
        if word.isascii():
            return
        skeleton = word.translate(_lookalikes)
        if skeleton == word:
            return
        if skeleton.isascii():
            self._add(skeleton, start, end)
        elif any(map(str.isascii, word)):
            self.mixed.append(Candidate(skeleton, *self.place(start, end)))

    def _read_odd(self, said: str, at: int, words: list[tuple[str, int, int]]) -> None:
        """Read a chunk that is more than letters: what its signs separate, and what its digits stand for."""
        if len(words) > 1 and "'" not in said:
            joined = "".join(word for word, _, _ in words)
            if len(joined) <= WORD_CHARS_MAX:
                self._add(joined, words[0][1], words[-1][2])
        start = len(said) - len(said.lstrip(_EDGES))
        core = said.strip(_EDGES)
        if len(core) > WORD_CHARS_MAX or not _LEET_SIGN.search(core):
            return
        for whole in {core, core.rstrip("!")}:
            plain = skeleton_of(whole)
            if not any(map(str.isalpha, plain)):
                continue  # a number
            for table in (_LEET_I, _LEET_L):
                key = plain.translate(table).translate(_SIGNS)
                if key.isascii() and key.isalpha():
                    self._add(key, at + start, at + start + len(whole))

    def _spell(self, letters: Sequence[tuple[str, int, int]]) -> None:
        if 3 <= len(letters) <= WORD_CHARS_MAX:
            self._add("".join(letter for letter, _, _ in letters), letters[0][1], letters[-1][2])


def fold(text: str) -> tuple[str, list[int] | None]:
    """Return the folded form of a text, and where in the text each of its characters stands; None for the
    same places.
    """
    if text.isascii():
        return text.lower(), None
    pieces = [_folds[char] for char in text]
    folded = "".join(pieces)
    if len(folded) == len(text) and all(pieces):
        return folded, None
    return folded, [place for place, piece in enumerate(pieces) for _ in piece]


def key_of(word: str) -> str:
    """Return what a word of a list is looked up by."""
    return fold(word.strip())[0]


def skeleton_of(key: str) -> str:
    """Return a folded word as it looks: in letters of ASCII where there are some that look alike."""
    return key if key.isascii() else key.translate(_lookalikes)


def _squeezed(key: str) -> Iterator[str]:
    """Yield a word with each letter that stands there three times or more written once, and twice."""
    runs = list(_TRIPLE.finditer(key))
    if not runs or len(runs[0][0]) == len(key) or len(runs) > SQUEEZED_RUNS_MAX:
        return
    pieces, last = [], 0
    for run in runs:
        pieces.append(key[last : run.start()])
        last = run.end()
    for times in product((1, 2), repeat=len(runs)):
        written = (piece + run[1] * count for piece, run, count in zip(pieces, runs, times, strict=True))
        yield "".join(written) + key[last:]


def _folded_char(char: str) -> str:
    if unicodedata.category(char) in ("Cf", "Cc", "Cs") and not char.isspace():
        return ""
    once = unicodedata.normalize("NFKD", char).casefold()
    folded = _MARKS.sub("", unicodedata.normalize("NFKD", once))
    return _REGIONAL.get(folded, folded)


def _read_lookalikes() -> dict[int, str]:
    lines = Path(__file__).with_name("lookalikes.txt").read_text(encoding="utf-8").splitlines()
    said = (line.split(" ") for line in lines if not line.startswith("#"))
    return {ord(char): letters for letters, chars in said for char in chars}


# Letters in boxes and discs, which have no decomposition.
_REGIONAL: Final = {
    chr(first + number): chr(ord("a") + number)
    for first in (0x1F1E6, 0x1F150, 0x1F170)
    for number in range(26)
}
_lookalikes: Final = _read_lookalikes()
_folds: Final = _Folds()
