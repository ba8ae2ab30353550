"""What is typed into a search: words, "a phrase", pre*, -without, from:user, in:room, before:, after:, has:.

Nothing that is typed is a mistake of syntax: what is not one of these forms is words. What cannot be meant
(a date that is none) is said.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from realtime.errors import BadMessage
from realtime.features.chat.search.letters import fold, is_joined, words_of

QUERY_CHARS_MAX: Final = 256
TERMS_MAX: Final = 16
NAMES_MAX: Final = 8
PREFIX_CHARS_MIN: Final = 2
HAS: Final = ("attachment", "link")

_PART: Final = re.compile(r'(-?)(?:(from|in|before|after|has):)?(?:"([^"]*)"?|(\S+))', re.IGNORECASE)


class Term(msgspec.Struct, frozen=True):
    """Words that stand beside each other in a message, in this order. The last may be the beginning of one,
    where it is a `prefix`. One word that is not `quoted` stands for the others of its stem too.
    """

    words: tuple[str, ...]
    prefix: bool = False
    quoted: bool = False

    @property
    def stemmed(self) -> bool:
        """Whether other forms of its word are meant too."""
        return len(self.words) == 1 and not (self.prefix or self.quoted or is_joined(self.words[0]))


class Query(msgspec.Struct, kw_only=True):
    """What is looked for: `terms` all, `without` none, one of `senders` and one of `rooms` where there are
    any, all of `has`; from `after_ms` on and before `before_ms` (Unix time), None for no bound.
    """

    terms: list[Term] = []
    without: list[Term] = []
    senders: list[str] = []
    rooms: list[str] = []
    has: list[str] = []
    after_ms: int | None = None
    before_ms: int | None = None

    @property
    def text(self) -> str:
        """The words that are looked for."""
        return " ".join(word for term in self.terms for word in term.words)


def parse(text: str) -> Query:
    """Return what is typed as what is looked for.

    Raises:
        BadMessage: it is too long or has too many parts, or a date, a prefix or a `has:` that is none.
    """
    if len(text) > QUERY_CHARS_MAX:
        raise BadMessage(f"a search has {len(text)} characters; {QUERY_CHARS_MAX} are taken")
    query = Query()
    for minus, key, quoted, bare in _PART.findall(text):
        if key and (quoted or bare) and not minus:
            add_filter(query, key.lower(), quoted or bare)
        else:
            _add_words(query, quoted or f"{key and key + ':'}{bare}", bool(minus), bool(quoted))
    if len(query.terms) + len(query.without) > TERMS_MAX:
        raise BadMessage(f"a search may have {TERMS_MAX} words and phrases")
    return query


def add_filter(query: Query, key: str, value: str) -> None:
    """Add what `key`:`value` says. Raises BadMessage where it says nothing that can be."""
    match key:
        case "from":
            _add_name(query.senders, value.removeprefix("@"), key)
        case "in":
            _add_name(query.rooms, value.removeprefix("#"), key)
        case "before":
            query.before_ms = min(read_date(key, value), query.before_ms or _FOREVER_MS)
        case "after":
            query.after_ms = max(read_date(key, value), query.after_ms or 0)
        case _:
            if value not in HAS:
                raise BadMessage(f"has:{value[:32]} is not known; there are has:{', has:'.join(HAS)}")
            if value not in query.has:
                query.has.append(value)


_FOREVER_MS: Final = 1 << 42


def read_date(key: str, value: str) -> int:
    """Return the Unix time in ms of a date, which is its beginning (UTC), or of a time."""
    try:
        at = datetime.fromisoformat(value)
        moment = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max(0, min(int(moment.timestamp() * 1000), _FOREVER_MS))
    except (ValueError, OverflowError) as error:
        raise BadMessage(
            f"{key}:{value[:32]} is no date: those are 2025-07-15 or 2025-07-15T10:30Z"
        ) from error


def _add_name(names: list[str], name: str, key: str) -> None:
    if not name:
        raise BadMessage(f"{key}: needs a name behind it")
    if name not in names:
        names.append(name)
    if len(names) > NAMES_MAX:
        raise BadMessage(f"a search may have {NAMES_MAX} {key}:")


def _add_words(query: Query, text: str, minus: bool, quoted: bool) -> None:
    prefix = not quoted and text.endswith("*")
    # A word has a letter or a digit; marks that stand by themselves are none.
    words = tuple(word for word in words_of(fold(text)) if any(map(str.isalnum, word)))
    if not words:
        return
    if prefix and not is_joined(words[-1]) and len(words[-1]) < PREFIX_CHARS_MIN:
        raise BadMessage(f"{text[:32]!r}: the beginning of a word needs {PREFIX_CHARS_MIN} letters")
    term = Term(words, prefix, quoted)
    (query.without if minus else query.terms).append(term)
