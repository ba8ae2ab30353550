"""What a word is, and when two words are the same: the one definition that both stores' indexes follow.

A text is folded: lower case, without the diacritics of Latin letters (é e, ß ss, ø o), without Arabic vowel
marks and with one alef. Its words are what lies between separators. Scripts that are written without spaces
(Chinese, Japanese, Korean, Thai, Lao, Burmese, Khmer) have no words here but runs, which are looked into.

The migrations `004_search.sql` say the same in SQL, and `tests/features/chat/test_search_letters.py` holds
all of Unicode against both: nothing here changes without them.
"""

# ruff: noqa: RUF001 - letters of other languages are meant here.

from __future__ import annotations

import re
import unicodedata
from typing import Final, NamedTuple

# Letters that SQLite's tokenizer does not fold, so its triggers do, and every other place with them. What
# becomes nothing is dropped: soft hyphens, joiners, Arabic vowel marks and the stretching tatweel.
REPLACED: Final = {
    "ß": "ss", "ẞ": "ss", "æ": "ae", "Æ": "ae", "œ": "oe", "Œ": "oe", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l",
    "đ": "d", "Đ": "d", "ı": "i", "ё": "е", "Ё": "е", "أ": "ا", "إ": "ا", "آ": "ا", "\u00ad": "",
    "\u200c": "", "\u200d": "", "\u0640": "", "\u064b": "", "\u064c": "", "\u064d": "", "\u064e": "",
    "\u064f": "", "\u0650": "", "\u0651": "", "\u0652": "",
}  # fmt: skip
# Combining marks that SQLite's tokenizer passes over within a word.
MARKS: Final = "".join(
    map(chr, [*range(0x300, 0x305), *range(0x306, 0x30D), 0x30F, 0x311, 0x31B, *range(0x323, 0x329),
              0x32D, 0x32E, 0x330, 0x331])
)  # fmt: skip
# Between words, beside what is neither letter nor digit in ASCII.
_SEPARATORS: Final = (
    "\u0080-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7\u02c2-\u02c5\u02d2-\u02df\u0375"
    "\u037e\u0384\u0385\u0387\u055a-\u055f\u0589-\u058f\u05be\u05c0\u05c3\u05c6\u05f3-\u060f\u061b-\u061f"
    "\u066a-\u066d\u06d4\u06dd\u06de\u06e9\u06fd\u06fe\u0700-\u070f\u07f6-\u07f9\u0964\u0965\u0970\u0df4\u0e3f\u0e4f"
    "\u0e5a\u0e5b\u0f01-\u0f17\u0f3a-\u0f3d\u104a-\u104f\u10fb\u1360-\u1368\u1680\u17d4-\u17d6\u17d8-\u17db"
    "\u1800-\u180a\u180e\u1fbd\u1fbf-\u1fc1\u1fcd-\u1fcf\u1fdd-\u1fdf\u1fed-\u1fef\u1ffd-\u206f\u207a-\u207e"
    "\u208a-\u208e\u20a0-\u20ff\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2190-\u245f"
    "\u249c-\u24e9\u2500-\u2775\u2794-\u2bff\u2e00-\u2e2e\u2e30-\u3004\u3008-\u3020\u3030\u3036\u3037\u303d-\u303f"
    "\u309b\u309c\u30a0\u30fb\u3200-\u321e\u322a-\u3247\u3250\u3260-\u327f\u328a-\u32b0\u32c0-\u33ff\u4dc0-\u4dff"
    "\ufd3e\ufd3f\ufdfc\ufdfd\ufe00-\ufe19\ufe30-\ufe6b\ufeff-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0-\ufffd"
    "\U0001f000-\U0001f0ff\U0001f110-\U0001faff\U000e0000-\U000e01ef"
)
JOINED: Final = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u1000-\u103f\u1050-\u109d\u1100-\u11ff\u1780-\u17d3\u17d7"
    "\u3005-\u3007\u3031-\u3035\u303b\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u312f\u3131-\u318e\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Scripts without spaces, as a character class: the only place beside the migrations that names them."""
# Separators that SQLite's tokenizer takes for letters, being of an older Unicode; its triggers see to them.
GLUED: Final = (
    "\u058b-\u058e\u05f5-\u0605\u061c\u061d\u070e\u1fff\u2065-\u2069\u20ba-\u20ff\u23f4-\u23ff\u2427-\u245f\u2700"
    "\u2b4d-\u2bff\u2e3c-\u2fff\u32ff\ufe53\ufe67\uff00\uffe7-\ufff8\U0001f02c-\U0001f0ff\U0001f12f-\U0001faff"
)
SEPARATORS: Final = "\\x00-/:-@\\[-`{-\\x7f" + _SEPARATORS
GRAM: Final = 3  # characters of a run that are indexed together, from each of its places on


def _folded() -> dict[int, str]:
    """By code point: what a letter is the same as. Nothing but what the tokenizer of SQLite (Unicode 6.1)
    takes for the same too, and what stands in `REPLACED`.
    """
    table: dict[int, str] = {}
    for point in [*range(0x41, 0x5B), *range(0xC0, 0x528), *range(0x1E00, 0x1F00), *range(0xFF21, 0xFF3B)]:
        letter = chr(point)
        base, *rest = list(unicodedata.normalize("NFD", letter))
        plain = base.isascii() and base.isalpha() and all(map(unicodedata.combining, rest))
        same = base.lower() if plain and rest else letter.lower()
        if same != letter and len(same) == 1 and point not in _UNLIKE:
            table[point] = same
    table |= {ord("ς"): "σ", ord("µ"): "μ", ord("ſ"): "s"}
    return table | dict.fromkeys(map(ord, MARKS), "") | {ord(one): other for one, other in REPLACED.items()}


_UNLIKE: Final = frozenset({0x130, 0x1E0, 0x1E1, 0x37F, 0x1E9B, 0x1E9E})
FOLDED: Final = _folded()
_WORD: Final = re.compile(f"[{JOINED}]+|[^{SEPARATORS}{JOINED}]+")
_JOINED: Final = re.compile(f"[{JOINED}]")


class Piece(NamedTuple):
    """A word, or a run of a script without spaces, and where it is in the text (`end` is behind it).

    `places` says where each of its letters begins, None where they are one behind the other.
    """

    text: str
    start: int
    end: int
    places: list[int] | None = None

    def parts(self, part: str) -> list[tuple[int, int]]:
        """Return where in the text a part of it is, all that do not overlap."""
        found: list[tuple[int, int]] = []
        at = self.text.find(part)
        while at >= 0:
            found.append((self._place(at), self._place(at + len(part) - 1) + 1))
            at = self.text.find(part, at + len(part))
        return found

    def _place(self, letter: int) -> int:
        return self.start + letter if self.places is None else self.places[letter]


def fold(text: str) -> str:
    """Return a text in which what is the same is written the same."""
    return text.lower() if text.isascii() else text.translate(FOLDED)


def words_of(folded: str) -> list[str]:
    """Return the words and runs of a folded text."""
    return _WORD.findall(folded)


def is_joined(word: str) -> bool:
    """Whether it is a run of a script without spaces; what `words_of` gives is one or has nothing of any."""
    return not word.isascii() and _JOINED.match(word) is not None


def pieces_of(text: str) -> list[Piece]:
    """Return the words and runs of a text as it was written, folded, and where they are in it."""
    if text.isascii():
        return [Piece(found[0], *found.span()) for found in _WORD.finditer(text.lower())]
    folded = text.translate(FOLDED)
    if not _moves(text):
        return [Piece(found[0], *found.span()) for found in _WORD.finditer(folded)]
    places: list[int] = []
    for place, letter in enumerate(text):
        places += [place] * len(FOLDED.get(ord(letter), letter))
    return [
        Piece(found[0], places[found.start()], places[found.end() - 1] + 1, places[slice(*found.span())])
        for found in _WORD.finditer(folded)
    ]


_moves: Final = re.compile(
    f"[{''.join(chr(point) for point, same in FOLDED.items() if len(same) != 1)}]"
).search
