"""What a search finds, by looking at all messages: specification and oracle of features/chat/search.

It shares nothing with the search but Snowball. What a letter is it takes from Unicode's own tables, so it
speaks of ordinary text: letters, digits, marks and signs in use.
"""

# ruff: noqa: RUF001 - letters of other languages are meant here.

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cache

import snowballstemmer

_NAMES = {
    "en": "english", "de": "german", "fr": "french", "es": "spanish", "it": "italian", "pt": "portuguese",
    "nl": "dutch", "sv": "swedish", "da": "danish", "no": "norwegian", "fi": "finnish", "ru": "russian",
}  # fmt: skip
_STEMMERS = {lang: snowballstemmer.stemmer(name) for lang, name in _NAMES.items()}
_WITHOUT_SPACES = ("CJK ", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "MYANMAR", "KHMER", "IDEOGRAPHIC")
_LIGATURES = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ı": "i", "ё": "е"}
_ALEFS = "أإآ"


@dataclass
class Message:
    """One message that is there to be found."""

    id: int
    room: str
    sender: str
    text: str
    lang: str
    attachments: bool = False


@dataclass
class Question:
    """What is looked for: all of `words`, `phrases` and `prefixes`, none of `without`."""

    words: list[str] = field(default_factory=list)
    phrases: list[list[str]] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    rooms: list[str] = field(default_factory=list)
    has: list[str] = field(default_factory=list)
    after_id: int = 0
    before_id: int = 1 << 63


def find(messages: Iterable[Message], asked: Question, lang: str, rooms: Collection[str], stops) -> list[int]:
    """Return the ids of what is found in `rooms`, which the asker may read, newest first. `lang` is of the
    words, `stops` by language the words that have no stem.
    """
    found = [each.id for each in messages if each.room in rooms and _is(each, asked, lang, stops)]
    return sorted(found, reverse=True)


@cache
def cut(text: str) -> list[str]:
    """Return the words of a text, folded, and its runs of scripts without spaces."""
    pieces, joined = [""], False
    for letter in unicodedata.normalize("NFC", text):
        if letter in "\u00ad\u200c\u200d\u0640" or "\u064b" <= letter <= "\u0652":
            continue
        same = _fold(letter)
        kind = unicodedata.category(letter)[0]
        if kind not in "LNM" or 0xFE00 <= ord(letter) <= 0xFE0F:
            pieces.append("")
            continue
        runs = _without_spaces(letter)
        if runs != joined:
            pieces.append("")
        joined = runs
        pieces[-1] += same
    return [piece for piece in pieces if piece]


def _is(message: Message, asked: Question, lang: str, stops) -> bool:
    if not asked.after_id <= message.id < asked.before_id:
        return False
    if (asked.senders and message.sender not in asked.senders) or (
        asked.rooms and message.room not in asked.rooms
    ):
        return False
    lower = message.text.lower()
    if "link" in asked.has and not any(sign in lower for sign in ("http://", "https://", "www.")):
        return False
    if "attachment" in asked.has and not message.attachments:
        return False
    pieces = cut(message.text)
    return (
        all(_has_word(pieces, word, lang if message.lang == lang else "", stops) for word in asked.words)
        and not any(
            _has_word(pieces, word, lang if message.lang == lang else "", stops) for word in asked.without
        )
        and all(_has_phrase(pieces, phrase) for phrase in asked.phrases)
        and all(any(_begins(piece, prefix) for piece in pieces) for prefix in asked.prefixes)
    )


def _has_word(pieces: list[str], word: str, lang: str, stops) -> bool:
    parts = cut(word)
    if len(parts) > 1:
        return _has_phrase(pieces, [word])
    (same,) = parts
    if _without_spaces(same[0]):
        return any(same in piece for piece in pieces)
    return same in pieces or any(_are_forms(same, piece, lang, stops) for piece in pieces)


def _begins(piece: str, prefix: str) -> bool:
    (same,) = cut(prefix)
    return same in piece if _without_spaces(same[0]) else piece.startswith(same)


def _has_phrase(pieces: list[str], phrase: list[str]) -> bool:
    parts = [part for word in phrase for part in cut(word)]
    if len(parts) == 1 and _without_spaces(parts[0][0]):
        return any(parts[0] in piece for piece in pieces)
    last = len(parts) - 1
    for at in range(len(pieces) - last):
        beside = pieces[at : at + len(parts)]
        if all(
            _stands(part, piece, n == 0, n == last)
            for n, (part, piece) in enumerate(zip(parts, beside, strict=True))
        ):
            return True
    return False


def _stands(part: str, piece: str, first: bool, last: bool) -> bool:
    if not _without_spaces(part[0]):
        return part == piece
    if last:
        return piece.startswith(part)
    return piece.endswith(part) if first else piece == part


def _are_forms(one: str, other: str, lang: str, stops) -> bool:
    """Whether two words have one stem of three letters at least, and both begin as it does: but for a last
    `e` or `i` of it, which stand for other letters.
    """
    if lang not in _STEMMERS or not (one.isalpha() and other.isalpha()) or min(len(one), len(other)) < 3:
        return False
    small = _small(frozenset(stops.get(lang, ())))
    stem = _stem(one, lang)
    if one in small or other in small or len(stem) < 3 or max(len(one), len(other)) > 40:
        return False
    begins = stem[:-1] if len(stem) > 3 and stem[-1] in "ei" else stem
    return other.startswith(begins) and _stem(other, lang) == stem


@cache
def _small(words: frozenset[str]) -> set[str]:
    return {"".join(map(_fold, word)) for word in words}


@cache
def _stem(word: str, lang: str) -> str:
    return _STEMMERS[lang].stemWord(word)


def _fold(letter: str) -> str:
    lower = letter.lower() if len(letter.lower()) == 1 else letter
    lower = {"ς": "σ", "ſ": "s", "ẞ": "ß"}.get(lower, lower)
    if lower in _LIGATURES:
        return _LIGATURES[lower]
    if letter in _ALEFS:
        return "ا"
    base, *marks = list(unicodedata.normalize("NFD", lower))
    return base if marks and base.isascii() else lower


@cache
def _without_spaces(letter: str) -> bool:
    name = unicodedata.name(letter, "")
    return name.startswith(_WITHOUT_SPACES) and not unicodedata.category(letter).startswith("N")
