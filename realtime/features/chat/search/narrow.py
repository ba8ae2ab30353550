"""What the indexes are asked for: in their own languages, and never less than what is looked for.

What comes back is a little more at times (words of the same root that are another's forms, words of a phrase
that do not stand side by side): `matching` decides. All that was typed goes in quoted, so nothing is syntax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from realtime.core.database import Dialect
from realtime.features.chat.search.letters import GRAM, is_joined
from realtime.features.chat.search.query import Query, Term
from realtime.features.chat.search.stems import root, stem

Kind = Literal["words", "grams", "about"]
ABOUT_CHARS_MAX: Final = 250  # of a name, in PostgreSQL's index

SLICE_BITS: Final = (38, 43, 48, 53)
"""Bits of an id below a slice of time in PostgreSQL's index: 2 minutes, 70 minutes, 37 hours, 50 days."""
SLICES_MAX: Final = 40


class Token(NamedTuple):
    """One thing to be there: words side by side, characters side by side, or a mark of `about`."""

    kind: Kind
    words: tuple[str, ...]
    prefix: bool = False


def narrowing(
    query: Query, lang: str, forms: Mapping[str, Sequence[str]], rooms: Sequence[int], dialect: Dialect
) -> str:
    """Return what to ask the index of a store for; `forms` are of words, as `Forms.of` gives them, and
    `rooms` the numbers of those that are looked into, none for all. Empty: the query says nothing that an
    index has.
    """
    match = _all(_wanted(query, lang, forms), dialect)
    return within(match, rooms, dialect) if rooms else match


def within(match: str, rooms: Sequence[int], dialect: Dialect) -> str:
    """Return what asks the same (all, where it is empty) of some rooms alone."""
    alone = _all([[Token("about", (f"r{room}",)) for room in rooms]], dialect)
    return f"{match}{' AND ' if dialect == 'sqlite' else ' & '}{alone}" if match else alone


def between(match: str, low: int, high: int, slices_max: int = SLICES_MAX) -> str:
    """Return what asks PostgreSQL's index the same of a window of ids, in at most so many slices of time;
    what it finds may lie beside it.
    """
    for level, bits in enumerate(SLICE_BITS):
        first, last = low >> bits, (high - 1) >> bits
        if last - first < slices_max:
            slices = " | ".join(f"'#{level}{number}'" for number in range(first, last + 1))
            return f"({match}) & ({slices})"
    return match


def _all(wanted: Iterable[list[Token]], dialect: Dialect) -> str:
    if dialect == "sqlite":
        return " AND ".join(f"({' OR '.join(map(_fts5, each))})" for each in wanted)
    return " & ".join(f"({' | '.join(map(_tsquery, each))})" for each in wanted)


def _wanted(query: Query, lang: str, forms: Mapping[str, Sequence[str]]) -> Iterator[list[Token]]:
    """Give what all has to be there, each as what of it one has to be."""
    for term in query.terms:
        if term.stemmed:
            yield _forms(term.words[0], lang, forms)
        else:
            yield from ([each] for each in _side_by_side(term))
    if query.senders:
        yield [Token("about", ("u", sender)) for sender in query.senders]
    for each in query.has:
        yield [Token("about", (f"h{each}",))]


def _forms(word: str, lang: str, forms: Mapping[str, Sequence[str]]) -> list[Token]:
    if word in forms:
        return [Token("words", (form,)) for form in forms[word]]
    stemmed = stem(word, lang)
    if not stemmed:
        return [Token("words", (word,))]
    begins = Token("words", (root(stemmed),), prefix=True)
    return [begins] if word.startswith(begins.words[0]) else [Token("words", (word,)), begins]


def _side_by_side(term: Term) -> Iterator[Token]:
    group: list[str] = []
    for word in term.words:
        if is_joined(word):
            if group:
                yield Token("words", tuple(group))
                group = []
            if len(word) < GRAM:
                yield Token("grams", (word,), prefix=True)
            else:
                yield from (Token("grams", (word[at : at + GRAM],)) for at in range(len(word) - GRAM + 1))
        else:
            group.append(word)
    if group:
        yield Token("words", tuple(group), prefix=term.prefix)


def _fts5(token: Token) -> str:
    star = " *" if token.prefix else ""
    match token.kind:
        case "words":
            return f'words : "{" ".join(token.words)}"{star}'
        case "grams":
            return f'grams : "{token.words[0].encode().hex()}"{star}'
        case _:
            return f'about : "{token.words[0]}{"".join(map(_hex, token.words[1:]))}"'


def _hex(name: str) -> str:
    return name.encode().hex().upper()


def _tsquery(token: Token) -> str:
    star = ":*" if token.prefix else ""
    if token.kind == "about":
        return _quoted("#" + token.words[0] + "".join(token.words[1:])[:ABOUT_CHARS_MAX])
    *others, last = token.words
    return " & ".join([*map(_quoted, others), _quoted(last) + star])


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
