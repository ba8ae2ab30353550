"""The doorkeeper: who may come in by their address alone, decided before anything is made for a socket.

It asks its judges one after the other; the first that names a reason refuses. Where it has none the hub asks
nobody, and accepting costs what it costs without a doorkeeper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from realtime.core.audit import NO_AUDITOR, Auditor
from realtime.core.contracts import Clock
from realtime.edge.turned_away import TurnedAway

Judge = Callable[[bytes], str | None]
"""Of a packed address (4 bytes IPv4, 16 IPv6): None, or the reason of a refusal, which is a metric's label:
one of a few words in snake case, never made of what a stranger chose."""
Departed = Callable[[bytes], object]


class Guarded(Protocol):
    """The hub, as far as the doorkeeper has to do with it."""

    def guard(
        self, on_arrival: Callable[[bytes], bool] | None, on_departure: Callable[[bytes], object] | None, /
    ) -> None:
        """Ask `on_arrival` about everybody, and tell `on_departure` of those that were let in."""
        ...


class Post(NamedTuple):
    """A judge, and what hears of each departure of those that it let in, if it counts them."""

    judge: Judge
    departed: Departed | None = None


class Doorkeeper:
    """Answers the hub's `on_arrival`. `turned_away` is its record of refusals."""

    def __init__(self, clock: Clock, audit: Auditor = NO_AUDITOR) -> None:
        self.turned_away: Final = TurnedAway(clock, audit)
        self._rules: Judge | None = None
        self._others: tuple[Post, ...] = ()
        self._posts: tuple[Post, ...] = ()
        self._hub: Guarded | None = None

    def serve(self, hub: Guarded) -> None:
        """Guard `hub` from here on."""
        self._hub = hub
        self._take_posts()

    def rule(self, rules: Judge | None) -> None:
        """Let `rules`, what the policy says of addresses, replace those before; None: it says nothing."""
        self._rules = rules
        self._take_posts()

    def add(self, judge: Judge, departed: Departed | None = None) -> None:
        """Ask one more, after the rules and those that were added before.

        A judge that counts whom it lets in gives `departed`, which is told of each of them once: when the
        connection is gone, or at once where a later judge refuses it.
        """
        self._others = (*self._others, Post(judge, departed))
        self._take_posts()

    def arrive(self, address: bytes) -> bool:
        """Whether a client may come in from `address`, packed."""
        for number, (judge, _) in enumerate(self._posts):
            reason = judge(address)
            if reason is not None:
                self.turned_away.note(address, reason)
                self._depart(address, self._posts[:number])
                return False
        return True

    def depart(self, address: bytes) -> None:
        """Tell those that count: one who was let in from `address` is gone."""
        self._depart(address, self._posts)

    def _depart(self, address: bytes, posts: tuple[Post, ...]) -> None:
        for _, departed in posts:
            if departed is not None:
                departed(address)

    def _take_posts(self) -> None:
        rules = () if self._rules is None else (Post(self._rules),)
        self._posts = (*rules, *self._others)
        if self._hub is not None:
            counted = any(post.departed is not None for post in self._posts)
            self._hub.guard(self.arrive if self._posts else None, self.depart if counted else None)
