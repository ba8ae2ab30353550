"""The ring as one worker knows it: who is in it, whose the slots are, and for how long that may be relied on.

No I/O and no clock: `redis_ring` beats and tells it the answers and the time. The lease runs from the moment
that a beat was sent, and ends before Redis can have given up the worker: whoever cannot beat owns nothing any
more by its own clock, before anybody else takes over.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from realtime.core.cluster import Change, WorkerId, room_slot
from realtime.ids import RoomId
from realtime.native.rendezvous import owners

# Of the TTL: what two clocks may drift apart within it, and a write needs from here to Redis.
MARGIN: Final = 0.1


class News(NamedTuple):
    """The ring at `version`: what Redis answers and publishes. `before` is the version before it."""

    version: int
    before: int
    workers: tuple[WorkerId, ...]


class RingState(msgspec.Struct, array_like=True):
    """A `Ring`, handed over: times in monotonic seconds."""

    version: int
    workers: list[WorkerId]
    has_place: bool
    lease_until: float


class Ring:
    """One worker's view. Each of its methods that moves slots returns the Change, None where nothing moved.

    A worker has its place from `placed` on, until it hears that it was removed or its lease has ended: then
    it owns nothing, and takes another place.
    """

    def __init__(self, worker: WorkerId, ttl_s: float) -> None:
        self.worker = worker
        self.version = 0
        self.workers: tuple[WorkerId, ...] = ()
        self.has_place = False
        self._lease_s = ttl_s * (1 - MARGIN)
        self._lease_until = float("-inf")
        self._table: array[int] = array("H")
        self._place = -1  # this worker's in `workers`, -1 while it owns nothing

    def export(self) -> RingState:
        """Return all of it, for another process of this worker."""
        return RingState(self.version, list(self.workers), self.has_place, self._lease_until)

    def adopt(self, state: RingState) -> Change:
        """Take over what another process of this worker knew, its place and its lease included."""
        self.version, self.workers = state.version, tuple(state.workers)
        self._table = owners([each.encode() for each in state.workers]) if state.workers else array("H")
        self.has_place, self._lease_until = state.has_place, state.lease_until
        self._find_place()
        return Change(self.version, self.workers, (), self.owned_slots(), ())

    def owns(self, room: RoomId, now: float) -> bool:
        """Return whether the room is this worker's, and its lease still runs."""
        return self._place >= 0 and now < self._lease_until and self._table[room_slot(room)] == self._place

    def owner(self, room: RoomId) -> WorkerId | None:
        """Return whose the room is as far as is known."""
        return self.workers[self._table[room_slot(room)]] if self.workers else None

    def leased(self, now: float) -> bool:
        """Return whether this worker is in the ring and may own."""
        return self._place >= 0 and now < self._lease_until

    def owned_slots(self) -> list[int]:
        """Return the slots that are this worker's, in order."""
        return sorted(_slots(self._table, self._place))

    def beaten(self, sent: float, now: float, news: News | None, *, placed: bool) -> Change | None:
        """Take the answer, come at `now`, to a beat that was sent at `sent`: this worker is in the ring.

        `placed` is what the beat said: that it has its place, or else that it takes one. A place that was let
        go of while the beat was under way does not come back with its answer, and an answer that comes too
        late gives none.
        """
        until = sent + self._lease_s
        if placed != self.has_place or until <= now:
            return None if news is None else self.heard(news)
        self._lease_until = until
        self.has_place = True
        change = None if news is None else self._turn(news)
        if placed or change is not None:
            return change
        return self._take_place()

    def heard(self, news: News) -> Change | None:
        """Take what was published, or asked for. What is older than what is known says nothing."""
        return self._turn(news)

    def removed(self) -> Change | None:
        """Let go of everything: this worker is not in the ring, or leaves it."""
        self.has_place = False
        self._lease_until = float("-inf")
        if self._place < 0:
            return None
        lost, self._place = _slots(self._table, self._place), -1
        return Change(self.version, (), (), (), sorted(lost))

    def expire(self, now: float) -> Change | None:
        """Let go of everything where the lease has ended; the next beat takes another place."""
        if not self.has_place or now < self._lease_until:
            return None
        return self.removed()

    def _turn(self, news: News) -> Change | None:
        """Go on to a newer ring.

        Where a version was missed, slots that stay this worker's count as lost and won: they may have been
        another's in between.
        """
        if news.version <= self.version:
            return None
        continued = news.before == self.version
        lost = _slots(self._table, self._place)
        left, joined = set(self.workers) - set(news.workers), set(news.workers) - set(self.workers)
        self.version, self.workers = news.version, news.workers
        self._table = owners([each.encode() for each in news.workers]) if news.workers else array("H")
        self._find_place()
        won = _slots(self._table, self._place)
        if continued:
            lost, won = lost - won, won - lost
        return Change(self.version, _sorted(joined), _sorted(left), sorted(won), sorted(lost))

    def _take_place(self) -> Change | None:
        """Own what is this worker's in a ring that was published before the answer was here."""
        self._find_place()
        if self._place < 0:
            return None
        return Change(self.version, (), (), sorted(_slots(self._table, self._place)), ())

    def _find_place(self) -> None:
        """Note where this worker stands; who had a place and is not listed any more has none."""
        self.has_place = self.has_place and self.worker in self.workers
        self._place = self.workers.index(self.worker) if self.has_place else -1


def _slots(table: array[int], place: int) -> set[int]:
    return {slot for slot, owner in enumerate(table) if owner == place}


def _sorted(workers: Iterable[WorkerId]) -> tuple[WorkerId, ...]:
    return tuple(sorted(workers))
