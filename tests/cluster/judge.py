"""The books of a run over many workers and Redis nodes: `tests.chaos`' judge, with a cluster's promises.

Within one epoch a room has one order for everybody, as anywhere. An epoch ends when Redis may have lost
something: what was acked in it and is gone then has to be at each member behind an epoch change that it saw.
Epochs are numbers (base 36) that only rise; each new one needs a trouble of Redis as its cause, and what is
lost with it a trouble that may lose something. Of a durable kind nothing that was acked may be lost at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

from msgspec import Raw

from tests.chaos.judge import Attempt, Books, Judge, Place, Stay
from tests.chaos.wire import Said

# What is acked so shortly before a master's death may not have reached its replica.
TAIL_S = 2.0


@dataclass
class Trouble:
    """Something that was done to the cluster. Times are the run's clock, in seconds."""

    kind: str
    begin_s: float
    end_s: float = inf
    opens_epochs: bool = False
    loses: bool = False  # what was acked and is kept by Redis alone


class ClusterJudge(Judge):
    """Everything that is known about all rooms. `now` is the run's clock."""

    def __init__(
        self, durable: Iterable[str], *, now: Callable[[], float], keys_last: int = 1000, recovers: int = 0
    ) -> None:
        super().__init__(durable, keys_last=keys_last, recovers=recovers)
        self.now = now
        self.troubles: list[Trouble] = []
        self._sent_s: dict[Attempt, float] = {}  # the last time
        self.lost = 0  # acked, and gone with an epoch
        self.echoes = 0  # signals that came twice
        self.doubled = 0  # stand in two epochs: the first was thought lost, or its key was

    def sending(self, attempt: Attempt) -> None:
        super().sending(attempt)
        self._sent_s[attempt] = self.now()

    def acked(
        self, attempt: Attempt, place: Place, life: int | None, connection: str, *, duplicate: bool = False
    ) -> None:
        super().acked(attempt, place, life, connection, duplicate=duplicate)
        # A client that had stopped reading hears of it late.
        self.ledger(attempt.room).acked_s.setdefault(place, (self._sent_s[attempt], self.now()))

    def ledger(self, name: str) -> ClusterBooks:
        """Return the books of a room."""
        books = self.room(name)
        assert isinstance(books, ClusterBooks)
        return books

    def ledgers(self) -> list[ClusterBooks]:
        """Return the books of all rooms."""
        return [self.ledger(books.name) for books in self.rooms()]

    def age(self, epoch: str) -> int:
        """Return the number of an epoch: a later one has a greater; -1 where it has none."""
        try:
            return int(epoch, 36)
        except ValueError:
            return -1

    def in_trouble(self) -> bool:
        """Whether Redis is in trouble now, or was a moment ago."""
        return self._in_trouble_at(self.now())

    def turns(self) -> int:
        """Return how often all members together have been told of a new epoch."""
        return sum(stay.turns for stay in self._stays if isinstance(stay, ClusterStay))

    def _in_trouble_at(self, at_s: float) -> bool:
        causes = [one for one in self.troubles if one.opens_epochs]
        return any(one.begin_s - TAIL_S <= at_s <= one.end_s + TAIL_S for one in causes)

    def _books(self, name: str, *, durable: bool) -> ClusterBooks:
        return ClusterBooks(self, name, durable=durable)

    def _stay(self, books: Books, client: str) -> ClusterStay:
        assert isinstance(books, ClusterBooks)
        return ClusterStay(books, client)

    def _check_senders(self) -> None:
        """What was sent over one connection to a room stands there in the order in which it was sent.

        Over two connections there is no order: a worker that was stopped may publish what it had taken when
        it wakes up, long after its client has gone on elsewhere. Nor is there one for what was
        never acked while Redis was in trouble: a node that stood still may do it later, whatever its sender
        was told.
        """
        last: dict[tuple[str, str, str], tuple[int, Attempt]] = {}
        for attempt in sorted(self.attempts.values(), key=lambda one: one.number):
            sure = attempt.answers or not self._in_trouble_at(self._sent_s[attempt])
            for place in attempt.places if sure and attempt.sends == 1 and attempt.connection else ():
                whose = (attempt.connection, attempt.room, place.epoch)
                before = last.get(whose)
                if before is not None:
                    self.expect(before[0] < place.offset, f"{attempt} at {place}, but {before[1]} behind it")
                last[whose] = (place.offset, attempt)


class ClusterBooks(Books):
    """One room. Its epochs are known in the order of their numbers."""

    judge: ClusterJudge

    def __init__(self, judge: ClusterJudge, name: str, *, durable: bool) -> None:
        super().__init__(judge, name, durable=durable)
        self.acked_s: dict[Place, tuple[float, float]] = {}  # between these two
        self.first: dict[str, int] = {}  # by epoch: the lowest offset that anybody knows of
        self.began_s: dict[str, float] = {}  # by epoch: when it was first heard of
        self._readings: list[list[Place]] = []

    @property
    def epochs(self) -> list[str]:
        """All that anybody has heard of, oldest first."""
        return sorted(self.last, key=self.judge.age)

    @property
    def newest(self) -> str | None:
        """The epoch in which the room is; None where nobody knows anything."""
        return max(self.last, key=self.judge.age, default=None)

    def at_epoch(self, epoch: str, life: int | None, said: str) -> None:
        """Note an epoch: the lives of workers have nothing to do with it."""
        if epoch not in self.last:
            self.judge.expect(self.judge.age(epoch) >= 0, f"{said}: {epoch!r} is no number in base 36")
            self.last[epoch] = 0
            self.began_s[epoch] = self.judge.now()

    def is_at(self, place: Place) -> None:
        """The server says that the room is there."""
        self.at_epoch(place.epoch, None, f"{self.name} is at {place}")
        self.last[place.epoch] = max(place.offset, self.last[place.epoch])

    def floor(self) -> dict[str, int]:
        """Return nothing: a worker may be a moment behind what another worker's members have."""
        return {}

    def remembers(self, place: Place, other: Place) -> bool:
        """Whether the key of what stands at one place was still known at the other."""
        near = self.durable or abs(place.offset - other.offset) < self.judge.keys_last
        return near and place.epoch == other.epoch

    def read_page(self, places: list[Place]) -> None:
        """A last reader has read these; whoever has less has the end of it."""
        self.was_read = True
        self.judge.expect(len(set(places)) == len(places), f"{self.name}: history has some twice: {places}")
        for other in self._readings:
            short, long = sorted((places, other), key=len)
            same = not short or long[-len(short) :] == short
            self.judge.expect(same, f"{self.name}: history ends {long[-3:]} here and {short[-3:]} there")
        self._readings.append(places)
        self.read.update(places)

    def lost(self) -> list[Place]:
        """Return what was acked and is gone: a later epoch has taken its place."""
        found, least = [], inf
        for epoch in reversed(self.epochs):
            found += [place for place in self.kept if place.epoch == epoch and place.offset >= least]
            least = min(least, self.first.get(epoch, inf))
        return found

    def story(self) -> str:
        """Say through which epochs the room has gone, and what troubles there were."""
        epochs = ", ".join(
            f"{epoch} from {self.began_s[epoch]:.2f} s, {self.first.get(epoch, '?')} to {self.last[epoch]}"
            for epoch in self.epochs
        )
        troubles = ", ".join(
            f"{one.kind} {one.begin_s:.2f} to {one.end_s:.2f} s"
            for one in self.judge.troubles
            if one.opens_epochs
        )
        return f"epochs {epochs}; {troubles}"

    def swallowed(self) -> list[Place]:
        """Return what was acked and is not where the last readers have found all around it."""
        oldest = min(self.read, key=self._order, default=None)
        if oldest is None:
            return []
        gone = set(self.lost()) | self.read
        since = self._order(oldest)
        return [place for place in self.kept if self._order(place) > since and place not in gone]

    def _order(self, place: Place) -> tuple[int, int]:
        return self.judge.age(place.epoch), place.offset

    def close(self) -> None:
        """Check that what is gone may be gone, and that each epoch has a cause."""
        self._check_epochs()
        if self.durable:
            self._check_history()
            return
        for place in self.lost():
            said = f"{self.kept[place]} was acked at {place} and is lost"
            self.judge.lost += 1
            sent_s, heard_s = self.acked_s[place]
            causes = [one for one in self.judge.troubles if one.loses]
            why = any(one.begin_s - TAIL_S <= heard_s and sent_s <= one.end_s for one in causes)
            when = f"acked from {sent_s:.2f} to {heard_s:.2f} s; {self.story()}"
            self.judge.expect(why, f"{said}, and nothing that may lose it happened: {when}")

        for place in self.swallowed():
            self.judge.fault(f"{self.kept[place]} was acked at {place}, and the history lacks it")

    def _check_history(self) -> None:
        self.judge.expect(self.was_read, f"nobody has read the history of {self.name}")
        for place, attempt in self.kept.items():
            self.judge.expect(place in self.read, f"{attempt} was acked at {place} and is lost")

    def _check_epochs(self) -> None:
        epochs = self.epochs
        causes = [one for one in self.judge.troubles if one.opens_epochs]
        for before, epoch in pairwise(epochs):
            span = sorted((self.began_s[before], self.began_s[epoch]))
            why = any(one.begin_s <= span[1] and one.end_s >= span[0] for one in causes)
            said = f"{self.name} went from epoch {before} to {epoch} without a cause: {self.story()}"
            self.judge.expect(why, said)

    def _reaches(self, place: Place) -> None:
        self.is_at(place)
        self.first[place.epoch] = min(place.offset, self.first.get(place.epoch, place.offset))

    def _stands(self, attempt: Attempt, place: Place, said: str) -> None:
        if attempt.key is not None and place not in attempt.places:
            self.judge.doubled += any(other.epoch != place.epoch for other in attempt.places)
        super()._stands(attempt, place, said)


class ClusterStay(Stay):
    """One member's account of one room, over any number of connections to any worker."""

    books: ClusterBooks

    def __init__(self, books: ClusterBooks, client: str) -> None:
        super().__init__(books, client)
        self.turns = 0  # into a new epoch that it was told of
        self.is_passive = False
        self._newest: str | None = None  # the newest epoch that it has been in
        self._told = False  # of a new epoch, of which nothing has come yet

    def forget(self) -> None:
        super().forget()
        self._told = False

    def offline(self) -> None:
        super().offline()
        self.is_passive = False
        self.reconnects()

    def reconnects(self) -> None:
        """What comes now comes over another connection, perhaps from another worker.

        That one may have stood still, and hand on what a member has had elsewhere: signals are told once only
        over one connection.
        """
        self._signals.clear()

    def begin(self, here: Place) -> None:
        if self._turn(here.epoch, f"{self} begins at {here}"):
            super().begin(here)

    def turned(self) -> None:
        """The server says that a new epoch begins, and nobody knows what is lost between."""
        said = f"{self} was told of a new epoch"
        if self.is_passive:  # it is told, too, and joins since where it was
            return
        if self.books.judge.expect(self.joined_now, f"{said}, and is not in the room"):
            self.here, self.holes, self._told = None, [], True

    def joined(
        self, codec: str, at: Place, recovered: bool, messages: list[Raw], floor: dict[str, int], life: int
    ) -> None:
        self._told = self.is_passive = False  # whoever joins is told where the room is
        self._turn(at.epoch, f"{self} joined at {at}")
        since = self.here
        if recovered and since is not None and since.epoch == at.epoch:
            said = f"{self} joined at {at}, and has been farther"
            self.books.judge.expect(since.offset <= at.offset, said)
        self.books.is_at(at)
        super().joined(codec, at, recovered, messages, floor, life)

    def pushed(self, codec: str, raw: bytes) -> None:
        expect = self.books.judge.expect
        place = self.books.seen(codec, raw, f"{self} received")
        if place is None or not expect(self.joined_now, f"{self} received {place}, and is not in the room"):
            return
        here = self.here
        if here is None or place.epoch != here.epoch:
            if not self._turn(place.epoch, f"{self} received {place}"):
                return
            self.holes = []
        elif not expect(place.offset == here.offset + 1, f"{self} received {place}: {_how(place, here)}"):
            return
        self.here = place
        self.received += 1

    def signalled(self, said: Said, content: Any) -> None:
        """As ever, but that one may come twice while Redis is in trouble.

        A master hands what is published to its replicas, over their own connections. One that takes over may
        have it only then, and whoever has gone there with its subscription gets it again.
        """
        if (said.sender, content) in self._signals and self.books.judge.in_trouble():
            self.books.judge.echoes += 1
            return
        super().signalled(said, content)

    def paged(
        self, codec: str, after: int, limit: int, messages: list[Raw], more: bool, floor: dict[str, int]
    ) -> list[Place]:
        """The answer to `history {after, limit}`, which may reach over epochs. Return the places."""
        expect, age = self.books.judge.expect, self.books.judge.age
        assert self.here is not None
        epoch = self.here.epoch
        said = f"{self} paged after {after}"
        found = [self.books.seen(codec, raw, said) for raw in messages]
        places = [place for place in found if place is not None]
        for place, following in pairwise(places):
            step = following.offset - place.offset
            inside = step == 1 or (step > 1 and self.books.durable)
            rises = inside if following.epoch == place.epoch else age(following.epoch) > age(place.epoch)
            expect(rises, f"{said}: {following} behind {place}")
        expect(not places or places[0].offset > after, f"{said}: begins at {places[:1]}")
        expect(len(messages) <= limit, f"{said}: {len(messages)} messages, at most {limit} were asked for")
        expect(bool(messages) or not more, f"{said}: nothing, and more of it")
        ours = [place.offset for place in places if place.epoch == epoch]
        if ours or not more:
            self._fill(after, max(ours) if more else self.here.offset, ours)
        return places

    def close(self) -> None:
        """The end: whoever is in the room is where it ends, in its newest epoch."""
        newest = self.books.newest
        if not self.is_final or newest is None:
            return
        end = self.books.end(newest)
        self.books.judge.expect(self.here == end, f"{self} has not received up to {end}")
        self.books.judge.expect(not self.holes, f"{self} never filled {self.holes}")

    def _turn(self, epoch: str, said: str) -> bool:
        """Enter an epoch that the member was told of; return whether it may be."""
        before, expect, age = self._newest, self.books.judge.expect, self.books.judge.age
        if before is not None and epoch != before:
            if not expect(age(epoch) > age(before), f"{said}: it has been in {before}"):
                return False
            self.turns += 1
        elif not expect(not self._told, f"{said}: the epoch that was said to be over"):
            return False
        self._newest, self._told = epoch, False
        return True


def _how(place: Place, here: Place) -> str:
    return "twice, or out of order" if place.offset <= here.offset else "without a gap for what is between"
