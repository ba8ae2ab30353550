"""Which of many rules speak of a name: each rule is a bit, and an answer is a number with the bits of all.

So a thousand rules cost a room a few lookups and no walk over them: a pattern is found by the letters before
its first `*`, and those behind it, of one length, are one dict. One with several `*` between the same first
letters is looked at by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from realtime.core.patterns import matcher
from realtime.policy.access import OWN, sides

Bits = int
"""One bit a rule, by its place in the policy."""


class Names:
    """Finds the rules that speak of a role, or of a tenant."""

    def __init__(self, patterns_by_rule: Iterable[Iterable[str]]) -> None:
        self._all: Bits = 0
        self._exact: dict[str, Bits] = {}
        starred: dict[str, Bits] = {}
        for place, patterns in enumerate(patterns_by_rule):
            for pattern in patterns:
                if pattern == "*":
                    self._all |= 1 << place
                else:
                    where = starred if "*" in pattern else self._exact
                    where[pattern] = where.get(pattern, 0) | 1 << place
        self._starred = [(matcher([pattern]), bits) for pattern, bits in starred.items()]

    def find(self, names: Iterable[str]) -> Bits:
        """Return the rules that speak of one of `names`; those that speak of all are among them."""
        bits = self._all
        for name in names:
            bits |= self._exact.get(name, 0)
            for matches, theirs in self._starred:
                if matches(name):
                    bits |= theirs
        return bits


class OwnRooms:
    """A pattern with `{user}`: the rooms of whoever asks."""

    __slots__ = ("_apart", "_pieces", "bits")

    def __init__(self, pattern: str, bits: Bits) -> None:
        self.bits = bits
        # Split before a user's id is put in, so that a `*` in it means itself.
        self._pieces = pattern.split("*")
        # What must not be in an id whose rooms these are. In `doc:{user}:*` that is the colon: `doc:a:b:x`
        # would else be the room of both `a` and `a:b`.
        self._apart = frozenset(
            sign
            for left, right in sides(pattern)
            for sign in (left[-1:] if "*" in left else "", right[:1] if "*" in right else "")
            if sign
        )

    def fits(self, user: str, room: str) -> bool:
        """Whether `room` is called as the pattern is with `user` in it."""
        head, *rest = (piece.replace(OWN, user) for piece in self._pieces)
        if not rest:
            return room == head
        *middle, tail = rest
        at, end = len(head), len(room) - len(tail)
        if not (at <= end and room.startswith(head) and room.endswith(tail)):
            return False
        for piece in middle:
            at = room.find(piece, at, end) + len(piece)
            if at < len(piece):
                return False
        return True

    def is_whole(self, user: str) -> bool:
        """Whether a room that fits is this user's and cannot be meant for another."""
        return not any(sign in user for sign in self._apart)


class _Head:
    """The patterns that begin with the same letters."""

    __slots__ = ("others", "own", "tails")

    def __init__(self) -> None:
        self.tails: dict[str, Bits] = {}  # with one `*` behind the letters, by what follows it
        self.others: dict[str, Bits] = {}
        self.own: dict[str, Bits] = {}


class _Found(NamedTuple):
    """The same, ready to be asked."""

    plain: Bits  # nothing follows the `*`
    tails: tuple[tuple[int, dict[str, Bits]], ...]  # by their lengths
    others: tuple[tuple[Callable[[str], bool], Bits], ...]
    own: tuple[OwnRooms, ...]


class Rooms:
    """Finds the rules that speak of a room."""

    def __init__(self, patterns_by_rule: Iterable[Iterable[str]]) -> None:
        self._exact: dict[str, Bits] = {}
        heads: dict[str, _Head] = {}
        for place, patterns in enumerate(patterns_by_rule):
            for pattern in patterns:
                self._add(heads, pattern, 1 << place)
        self._by_length = [
            (length, {head: _ready(each) for head, each in heads.items() if len(head) == length})
            for length in sorted({len(head) for head in heads})
        ]

    def find(self, room: str) -> tuple[Bits, tuple[OwnRooms, ...]]:
        """Return the rules that speak of `room`, and the patterns that depend on who asks."""
        bits = self._exact.get(room, 0)
        own: tuple[OwnRooms, ...] = ()
        for length, heads in self._by_length:
            found = heads.get(room[:length])
            if found is None:
                continue
            bits |= found.plain
            for tail_length, tails in found.tails:
                if length + tail_length <= len(room):
                    bits |= tails.get(room[-tail_length:], 0)
            for matches, theirs in found.others:
                if matches(room):
                    bits |= theirs
            own += found.own
        return bits, own

    def _add(self, heads: dict[str, _Head], pattern: str, bit: Bits) -> None:
        literal = pattern.partition(OWN)[0].partition("*")[0]
        if OWN in pattern:
            own = heads.setdefault(literal, _Head()).own
            own[pattern] = own.get(pattern, 0) | bit
        elif "*" not in pattern:
            self._exact[pattern] = self._exact.get(pattern, 0) | bit
        elif "*" not in (tail := pattern[len(literal) :].lstrip("*")):
            tails = heads.setdefault(literal, _Head()).tails
            tails[tail] = tails.get(tail, 0) | bit
        else:
            others = heads.setdefault(literal, _Head()).others
            others[pattern] = others.get(pattern, 0) | bit


def _ready(head: _Head) -> _Found:
    lengths = sorted({len(tail) for tail in head.tails if tail})
    return _Found(
        head.tails.get("", 0),
        tuple((n, {tail: bits for tail, bits in head.tails.items() if len(tail) == n}) for n in lengths),
        tuple((matcher([pattern]), bits) for pattern, bits in head.others.items()),
        tuple(OwnRooms(pattern, bits) for pattern, bits in head.own.items()),
    )
