"""Stems: which words of a language are forms of one word. Snowball's, of the words as they are folded."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Final

import snowballstemmer

from realtime.features.chat.search.language import STOP_WORDS
from realtime.features.chat.search.letters import fold

_NAMES: Final = {
    "en": "english",
    "de": "german",
    "fr": "french",
    "es": "spanish",
    "it": "italian",
    "pt": "portuguese",
    "nl": "dutch",
    "sv": "swedish",
    "da": "danish",
    "no": "norwegian",
    "fi": "finnish",
    "ru": "russian",
}
STEM_CHARS_MIN: Final = 3
WORD_CHARS_MAX: Final = 40
_UNSTABLE: Final = "ei"
"""Last letters of stems that stand for others: `happi` for happy, `hope` for hoping."""


def stem(word: str, lang: str) -> str:
    """Return the stem of a folded word, empty where it has none: the language is not one of `_NAMES`, or the
    word is one of its small ones, has a digit or another sign in it, or is shorter than three letters.
    """
    if lang not in _NAMES or not STEM_CHARS_MIN <= len(word) <= WORD_CHARS_MAX or not word.isalpha():
        return ""
    return _stem(word, lang)


def root(stem: str) -> str:
    """Return what all forms of a stem begin with: what does not is none."""
    return stem[:-1] if len(stem) > STEM_CHARS_MIN and stem[-1] in _UNSTABLE else stem


@lru_cache(maxsize=65_536)
def _stem(word: str, lang: str) -> str:
    if word in _stop_words(lang):
        return ""
    found = str(_stemmer(lang).stemWord(word))
    return found if len(found) >= STEM_CHARS_MIN else ""


@cache
def _stemmer(lang: str) -> Any:
    return snowballstemmer.stemmer(_NAMES[lang])


@cache
def _stop_words(lang: str) -> frozenset[str]:
    return frozenset(map(fold, STOP_WORDS.get(lang, ())))
