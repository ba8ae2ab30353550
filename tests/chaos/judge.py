"""The books of a run: what was sent, acked and received, and every way in which that may not be so.

The judge is told what happens, in the order in which one process saw it happen. It knows nothing of sockets
or of time. A fault is a sentence in `faults`; the first one ends a run.

Rooms of a durable kind have one order for ever. Any other room has one order, with an epoch of its own, for
each life of the server: what is lost with a life shows as a new epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Raw

from tests.chaos.wire import Said, decoded


class Place(NamedTuple):
    """A place in a room's order."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}/{self.offset}"


@dataclass(eq=False)
class Attempt:
    """One publication that a client wants. No other has its content, whose first words name it."""

    client: str
    number: int  # of the client's attempts, over all rooms
    room: str
    key: str | None
    content: dict[str, Any]
    sends: int = 0
    connection: str = ""  # over which it was sent first; empty where only our SDK knows
    answers: list[tuple[Place, int | None]] = field(default_factory=list)  # with the server's life
    places: set[Place] = field(default_factory=set)  # where anybody has seen it

    def __str__(self) -> str:
        return f"{self.client}'s no. {self.number} to {self.room}"


@dataclass
class Publication:
    """What stands at a place: its bytes in each codec, and what they say."""

    value: dict[str, Any]
    raw: dict[str, bytes]


class Judge:
    """Everything that is known about all rooms. `durable` are the kinds that outlive the server.

    `keys_last` is how many publications of a room that is not durable a key is remembered for at least.
    Whoever is at most `recovers` publications behind, and in the same epoch, is not refused.
    """

    def __init__(self, durable: Iterable[str], *, keys_last: int = 1000, recovers: int = 0) -> None:
        self.faults: list[str] = []
        self.life = 0
        self.attempts: dict[tuple[str, int], Attempt] = {}
        self.keys_last = keys_last
        self.recovers = recovers
        self._durable = frozenset(durable)
        self._rooms: dict[str, Books] = {}
        self._stays: list[Stay] = []
        self._answered: dict[tuple[str, str], tuple[int, Place]] = {}  # by connection and room: the last

    def fault(self, what: str) -> None:
        """Say that something is not as it has to be."""
        self.faults.append(what)

    def expect(self, holds: bool, what: str) -> bool:
        """Note the fault `what` unless it holds; return whether it does."""
        if not holds:
            self.fault(what)
        return holds

    def room(self, name: str) -> Books:
        """Return the books of a room."""
        if name not in self._rooms:
            self._rooms[name] = self._books(name, durable=name.partition(":")[0] in self._durable)
        return self._rooms[name]

    def rooms(self) -> list[Books]:
        """Return the books of all rooms."""
        return list(self._rooms.values())

    def stay(self, client: str, room: str) -> Stay:
        """Return a new member's account of one room."""
        stay = self._stay(self.room(room), client)
        self._stays.append(stay)
        return stay

    def died(self) -> None:
        """The server has ended: connections made from now on are of its next life."""
        self.life += 1

    def sending(self, attempt: Attempt) -> None:
        """An attempt goes out, for the first time or again."""
        attempt.sends += 1
        self.attempts[attempt.client, attempt.number] = attempt

    def acked(
        self, attempt: Attempt, place: Place, life: int | None, connection: str, *, duplicate: bool = False
    ) -> None:
        """The server says, on a connection, that it keeps the attempt at `place`. `life`: as far as known."""
        books = self.room(attempt.room)
        said = f"ack of {attempt} at {place}"
        self.expect(not duplicate or attempt.sends > 1, f"{said} is a duplicate, and it was sent once")
        for first, its_life in attempt.answers:
            if books.remembers(place, first) and (books.durable or its_life == life):
                self.expect(first == place, f"{said}, after one at {first}")
                self.expect(duplicate, f"{said} again, without `duplicate`")
        attempt.answers.append((place, life))
        if attempt.sends == 1:
            number, before = self._answered.get((connection, books.name), (0, place))
            anew = before is place or before.epoch != place.epoch
            in_order = number < attempt.number and (anew or before.offset < place.offset)
            self.expect(in_order, f"{said}, after the one of no. {number} at {before}")
            self._answered[connection, books.name] = (attempt.number, place)
        books.at_epoch(place.epoch, life, said)
        books.acked(attempt, place, said)

    def close(self) -> None:
        """The end, after everybody has had time to catch up and a reader has paged all durable rooms."""
        for stay in self._stays:
            stay.close()
        for books in self._rooms.values():
            books.close()
        self._check_senders()

    def _books(self, name: str, *, durable: bool) -> Books:
        """Open the books of a room; a judge of other promises keeps others."""
        return Books(self, name, durable=durable)

    def _stay(self, books: Books, client: str) -> Stay:
        return Stay(books, client)

    def _check_senders(self) -> None:
        """What a client sent to a room once each stands there in the order in which it was sent."""
        last: dict[tuple[str, str, str], tuple[int, Attempt]] = {}
        for attempt in sorted(self.attempts.values(), key=lambda one: one.number):
            for place in attempt.places if attempt.sends == 1 else ():
                whose = (attempt.client, attempt.room, place.epoch)
                before = last.get(whose)
                if before is not None:
                    self.expect(before[0] < place.offset, f"{attempt} at {place}, but {before[1]} behind it")
                last[whose] = (place.offset, attempt)


class Books:
    """One room: which publication stands where."""

    def __init__(self, judge: Judge, name: str, *, durable: bool) -> None:
        self.judge = judge
        self.name = name
        self.durable = durable
        self.known: dict[Place, Publication] = {}
        self.kept: dict[Place, Attempt] = {}  # by acks
        self.last: dict[str, int] = {}  # by epoch: the highest offset that anybody knows of
        self.read: set[Place] = set()  # by the reader that pages everything at the end
        self.was_read = False
        self._lives: dict[str, int] = {}  # by epoch, of what is not durable
        self._epochs: dict[int, str] = {}

    def at_epoch(self, epoch: str, life: int | None, said: str) -> None:
        """Check that the room may have this epoch in this life of the server, where that is known."""
        if self.durable:
            first = next(iter(self.last), epoch)
            self.judge.expect(epoch == first, f"{said}: the durable {self.name} had epoch {first}")
            self.last.setdefault(epoch, 0)
        if self.durable or life is None:
            return
        expect = self.judge.expect
        before = self._lives.setdefault(epoch, life)
        expect(before == life, f"{said}: epoch of the server's life {before}, now {life}, which lost it")
        other = self._epochs.setdefault(life, epoch)
        expect(other == epoch, f"{said}: {self.name} had epoch {other} in this life of the server")

    def acked(self, attempt: Attempt, place: Place, said: str) -> None:
        """Enter an ack."""
        holder = self.kept.setdefault(place, attempt)
        self.judge.expect(holder is attempt, f"{said}, where {holder} is")
        self._reaches(place)
        self._stands(attempt, place, said)
        known = self.known.get(place)
        if known is not None:
            here = known.value.get("content") == attempt.content
            self.judge.expect(here, f"{said}, where {known.value.get('content')} was received")

    def seen(self, codec: str, raw: bytes | Raw, said: str) -> Place | None:
        """Enter a publication that somebody received; return its place, None where it has none."""
        raw = bytes(raw)
        head = decoded(codec, raw, Said)
        if head.offset is None or head.epoch is None:
            self.judge.fault(f"{said}: a publication without a place: {raw[:200]!r}")
            return None
        place = Place(head.epoch, head.offset)
        known = self.known.get(place)
        if known is not None and known.raw.get(codec) == raw:
            return place
        value = decoded(codec, raw)
        if known is None:
            self.known[place] = Publication(value, {codec: raw})
            self._check_content(place, value, f"{said} at {place}")
        else:
            same = known.value == value and known.raw.setdefault(codec, raw) == raw
            self.judge.expect(same, f"{said} at {place}: {raw[:300]!r}, others received {known.raw}")
        self._reaches(place)
        return place

    def remembers(self, place: Place, other: Place) -> bool:
        """Whether the key of what stands at one place was still known at the other."""
        # Elsewhere a key lives as long as what it names, and a repeat after that is another publication.
        return self.durable or abs(place.offset - other.offset) < self.judge.keys_last

    def floor(self) -> dict[str, int]:
        """Return by epoch the offset that the room has reached at least."""
        return dict(self.last)

    def end(self, epoch: str) -> Place:
        """Return the last place of an epoch that anybody knows of."""
        return Place(epoch, self.last.get(epoch, 0))

    def read_page(self, places: list[Place]) -> None:
        """The last reader has read these."""
        self.was_read = True
        for place in places:
            self.judge.expect(place not in self.read, f"{self.name}: history has {place} twice")
            self.read.add(place)

    def close(self) -> None:
        """Check that everything acked or seen of a durable room was found by the last reader."""
        if not self.durable:
            return
        self.judge.expect(self.was_read, f"nobody has read the history of {self.name}")
        for place, attempt in self.kept.items():
            self.judge.expect(place in self.read, f"{attempt} was acked at {place} and is lost")
        for place in self.known.keys() - self.read:
            self.judge.fault(f"{self.name}: {place} was received and is lost")

    def _reaches(self, place: Place) -> None:
        if self.durable and place.epoch not in self.last:
            self.at_epoch(place.epoch, None, f"{place}")
        self.last[place.epoch] = max(place.offset, self.last.get(place.epoch, 0))

    def _check_content(self, place: Place, value: dict[str, Any], said: str) -> None:
        """A publication is what somebody sent to this room, and at the place where it was acked."""
        expect = self.judge.expect
        content = value.get("content")
        name = (content.get("by"), content.get("n")) if isinstance(content, dict) else (None, None)
        attempt = self.judge.attempts.get(name)
        if attempt is None or not expect(content == attempt.content, f"{said}: {content} was never sent"):
            self.judge.fault(f"{said}: {str(content)[:200]} was never sent")
            return
        expect(value.get("room") == self.name == attempt.room, f"{said}: {attempt} in {value.get('room')}")
        expect(value.get("from") == attempt.client, f"{said}: {attempt} from {value.get('from')}")
        holder = self.kept.get(place, attempt)
        expect(holder is attempt, f"{said}: {attempt}, where {holder} was acked")
        self._stands(attempt, place, said)

    def _stands(self, attempt: Attempt, place: Place, said: str) -> None:
        """Enter that an attempt stands at `place`: once in a durable room, once an epoch elsewhere."""
        for other in attempt.places:
            if other == place or (not self.durable and other.epoch != place.epoch):
                continue
            self.judge.expect(not self.remembers(place, other), f"{said}: {attempt} stands at {other}, too")
        attempt.places.add(place)


class Stay:
    """One member's account of one room, over any number of connections: what it has, up to `here`.

    `holes` are spans of offsets (both included) that a refused recovery left to be paged.
    """

    def __init__(self, books: Books, client: str) -> None:
        self.books = books
        self.client = client
        self.here: Place | None = None
        self.holes: list[tuple[int, int]] = []
        self.joined_now = False
        self.received = 0
        self.lost = 0  # told of: by gaps, and by holes that history did not fill
        self._signals: set[tuple[str | None, int]] = set()
        self.is_final = False  # it stays to the end, and has to have everything then

    def __str__(self) -> str:
        return f"{self.client} in {self.books.name} at {self.here}"

    def forget(self) -> None:
        """It is to join as one who has never been there."""
        self.here, self.holes = None, []

    def begin(self, here: Place) -> None:
        """It is in the room, and what is behind `here` is to come."""
        self.here, self.joined_now = here, True

    def offline(self) -> None:
        """Its connection has ended, or it has left."""
        self.joined_now = False

    def joined(
        self, codec: str, at: Place, recovered: bool, messages: list[Raw], floor: dict[str, int], life: int
    ) -> None:
        """The answer to a join with `since` = `here`. `floor`: the room's, when the join was sent."""
        expect = self.books.judge.expect
        self.books.at_epoch(at.epoch, life, f"{self} joined")
        reached = floor.get(at.epoch, 0)
        expect(at.offset >= reached, f"{self} joined at {at}: the room was at {reached} before")
        since, self.here, self.joined_now = self.here, at, True
        if not recovered:
            expect(not messages, f"{self} joined, not recovered, with {len(messages)} messages")
            self._refused(since, at)
            return
        if not expect(since is not None and since.epoch == at.epoch, f"{self} recovered since {since}"):
            return
        assert since is not None
        places = [self.books.seen(codec, raw, f"{self} recovered") for raw in messages]
        wanted = [Place(at.epoch, offset) for offset in range(since.offset + 1, at.offset + 1)]
        expect(places == wanted, f"{self} recovered {_spans(places)} since {since}, not {_spans(wanted)}")
        self.received += len(places)

    def pushed(self, codec: str, raw: bytes) -> None:
        """A publication."""
        expect = self.books.judge.expect
        place = self.books.seen(codec, raw, f"{self} received")
        if place is None or not expect(self.joined_now, f"{self} received {place}, and is not in the room"):
            return
        here = self.here
        assert here is not None
        if not expect(place.epoch == here.epoch, f"{self} received {place}: another epoch without a join"):
            return
        if expect(place.offset == here.offset + 1, f"{self} received {place}: {_how(place, here)}"):
            self.here = place
            self.received += 1

    def signalled(self, said: Said, content: Any) -> None:
        """A message of an ephemeral type: outside of the order, for who is there now, and once."""
        expect = self.books.judge.expect
        expect(self.joined_now, f"{self} received {content}, and is not in the room")
        expect(said.offset is None and said.epoch is None, f"{self}: {content} has a place: {said.offset}")
        expect((said.sender, content) not in self._signals, f"{self} received {content} twice")
        self._signals.add((said.sender, content))

    def gap(self, first: int, last: int) -> None:
        """The server says that these offsets will not come, both included."""
        expect = self.books.judge.expect
        said = f"{self} was told of a gap {first} to {last}"
        here = self.here
        if here is None or not expect(self.joined_now, f"{said}, and is not in the room"):
            return
        if expect(first == here.offset + 1 and last >= first, f"{said}"):
            self.lost += last - first + 1
            self.here = Place(here.epoch, last)

    def paged(
        self, codec: str, after: int, limit: int, messages: list[Raw], more: bool, floor: dict[str, int]
    ) -> list[Place]:
        """The answer to `history {after, limit}`; it fills the hole that begins there. Return the places."""
        expect = self.books.judge.expect
        assert self.here is not None
        epoch = self.here.epoch
        said = f"{self} paged after {after}"
        found = [self.books.seen(codec, raw, said) for raw in messages]
        places = [place for place in found if place is not None]
        first = places[0].offset if places else after + 1
        wanted = [Place(epoch, first + number) for number in range(len(messages))]
        expect(places == wanted and first > after, f"{said}: {_spans(places)}")
        expect(first == after + 1 or not self.books.durable, f"{said}: begins at {first}")
        expect(len(messages) <= limit, f"{said}: {len(messages)} messages, at most {limit} were asked for")
        expect(bool(messages) or not more, f"{said}: nothing, and more of it")
        reached = first + len(messages) - 1
        least = floor.get(epoch, 0)
        expect(more or reached >= least, f"{said}: {_spans(places)} is all, but the room was at {least}")
        self._fill(after, reached, [place.offset for place in places])
        return places

    def close(self) -> None:
        """The end: whoever is in the room has everything, or was told what it has not."""
        if not self.is_final or self.here is None:
            return
        last = self.books.last.get(self.here.epoch, 0)
        self.books.judge.expect(self.here.offset == last, f"{self} has not received up to {last}")
        self.books.judge.expect(not self.holes, f"{self} never filled {self.holes}")

    def _refused(self, since: Place | None, at: Place) -> None:
        if since is None:
            return
        if since.epoch != at.epoch:
            self.holes = []  # another order: the epoch tells of the loss
            return
        expect = self.books.judge.expect
        expect(since.offset <= at.offset, f"{self}: it had {since}, which the room has lost")
        behind = at.offset - since.offset
        expect(behind > self.books.judge.recovers, f"{self} is refused, {behind} behind {since}")
        if since.offset < at.offset:
            self.holes.append((since.offset + 1, at.offset))

    def _fill(self, after: int, reached: int, offsets: list[int]) -> None:
        """Take what the page has out of the hole that it was asked for, and what is not kept any more."""
        if not self.holes or self.holes[0][0] != after + 1:
            return
        first, last = self.holes.pop(0)
        found = sum(first <= offset <= last for offset in offsets)
        self.received += found
        self.lost += min(reached, last) - first + 1 - found
        if reached < last:
            self.holes.insert(0, (reached + 1, last))


def _how(place: Place, here: Place) -> str:
    return "twice, or out of order" if place.offset <= here.offset else "without a gap for what is between"


def _spans(places: Iterable[Place | None]) -> str:
    """Say which offsets these are, in short: 1-7 9."""
    said: list[str] = []
    first = last = -1
    for offset in [*(-1 if place is None else place.offset for place in places), -2]:
        if offset != last + 1 or first < 0:
            if first >= 0:
                said.append(f"{first}" if first == last else f"{first}-{last}")
            first = offset
        last = offset
    return " ".join(said) or "nothing"
