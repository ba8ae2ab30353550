"""What the indexes are asked for: in their own languages, and never less than what is looked for.

What comes back is a little more at times (words of the same root that are another's forms, words of a phrase
that do not stand side by side): `matching` decides. All that was typed goes in quoted, so nothing is syntax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from realtime.core.database import Dialect
from realtime.features.chat.search.letters import GRAM, is_joined
from realtime.features.chat.search.query import Query, Term
from realtime.features.chat.search.stems import root, stem

Kind = Literal["words", "grams", "about"]
CHARS_MAX: Final = 250  # of a word or a name, in PostgreSQL's index
PAIR_CHARS: Final = 4
"""Letters of each of two words side by side in PostgreSQL's index, which has no places of words: 5,131 of
1,000,000 messages have `so` and `ubuntu`.
"""


class Token(NamedTuple):
    """One thing to be there: words side by side, characters side by side, or a mark of `about`."""

    kind: Kind
    words: tuple[str, ...]
    prefix: bool = False


class Lexeme(NamedTuple):
    """A term of PostgreSQL's index, or what some of them begin with."""

    text: str
    prefix: bool = False


class Match(NamedTuple):
    """What has to be there: all of `wanted`, of each one. Empty: nothing that an index has."""

    wanted: tuple[tuple[Token, ...], ...]

    def within(self, rooms: Sequence[int]) -> Match:
        """Return the same of some rooms alone."""
        one_of = tuple(Token("about", (f"r{room}",)) for room in rooms)
        return Match((*self.wanted, one_of)) if one_of not in self.wanted else self

    def room(self) -> tuple[Token, ...]:
        """Return what says that it is one room alone; nothing where it is not."""
        for one_of in self.wanted:
            if len(one_of) == 1 and one_of[0].kind == "about" and one_of[0].words[0][0] == "r":
                return one_of
        return ()

    def said(self, dialect: Dialect) -> str:
        """Return it in the index's language."""
        if dialect == "sqlite":
            return " AND ".join(f"({' OR '.join(map(_fts5, each))})" for each in self.wanted)
        return " & ".join(f"({' | '.join(map(_tsquery, each))})" for each in self.wanted)


def narrowing(query: Query, lang: str, forms: Mapping[str, Sequence[str]], rooms: Sequence[int]) -> Match:
    """Return what to ask the index of a store for; `forms` are of words, as `Forms.of` gives them, and
    `rooms` the numbers of those that are looked into, none for all.
    """
    match = Match(tuple(map(tuple, _wanted(query, lang, forms))))
    return match.within(rooms) if rooms else match


def lexemes(token: Token) -> list[Lexeme]:
    """Return the terms of PostgreSQL's index that all are there where the token is."""
    if token.kind == "about":
        return [Lexeme("#" + token.words[0] + "".join(token.words[1:])[:CHARS_MAX])]
    if token.kind == "grams":
        return [Lexeme(token.words[0], token.prefix)]
    last = len(token.words) - 1
    if not last:
        return [Lexeme(token.words[0][:CHARS_MAX], token.prefix)]
    # Not the words: what is common costs where it is asked for, and pairs that are there have them.
    found = []
    for n, word in enumerate(token.words[:-1], 1):
        following = token.words[n]
        begins = token.prefix and n == last and len(following) < PAIR_CHARS
        found.append(Lexeme(f"{word[:PAIR_CHARS]} {following[:PAIR_CHARS]}", begins))
    return found


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
    *others, last = (_quoted(each.text) + ":*" * each.prefix for each in lexemes(token))
    return f"({' & '.join([*others, last])})" if others else last


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"
