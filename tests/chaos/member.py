"""One chaotic client: it publishes, repeats, stops reading, vanishes, comes back and pages what it missed.

What it decides comes from its own `random.Random`; when it may go on, from what it hears. It waits for
events and never for time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.attacks.wire import DOCUMENTED_CLOSE_CODES
from tests.chaos.judge import Attempt, Place, Stay
from tests.chaos.wire import (
    JSON,
    MSGPACK,
    Acked,
    EndedError,
    Gap,
    Joined,
    Paged,
    Refused,
    Said,
    Wire,
    decoded,
)
from tests.chaos.world import World

PENDING_MAX = 48  # publishes without an answer, above which a client waits
BURST_MAX = 12
FRAME_CHARS_MAX = 10_000  # of the contents that share a frame
PAGE = 100
EPHEMERAL = "chat_typing"
ACTIONS = {
    "publish": 60,
    "repeat": 4,
    "page": 4,
    "leave": 3,
    "passive": 3,
    "type": 3,
    "stall": 3,
    "close": 1,
    "fin": 2,
    "rst": 2,
}
# A client's bytes are no server's fault, and nobody here breaks a rule or meets a limit but the slow reader.
CLOSE_CODES = DOCUMENTED_CLOSE_CODES & {1000, 1001, 1012, 1013, 4001}


@dataclass
class Seat:
    """A room that the member wants to be in."""

    stay: Stay
    asked: bool = False  # a join or leave is under way
    said_goodbye: bool = False
    unanswered: list[Attempt] = field(default_factory=list)


class Member:
    """A client of its own user. `live` runs until the world is over and this member has everything."""

    def __init__(self, world: World, name: str, rooms: list[str], seed: str) -> None:
        self.name = name
        self.rooms = rooms
        self.wire: Wire | None = None
        self._world = world
        self._judge = world.judge
        self._random = random.Random(seed)
        self._seats = {room: Seat(world.judge.stay(name, room)) for room in rooms}
        self._numbers = 0
        self._answered: list[Attempt] = []
        self._waiting: dict[int, Callable[[Said], None]] = {}  # by the id of what is under way
        self._pending = 0  # of those: publishes
        self._ids = 0
        self._life = 0
        self._connections = 0
        self._greeted = False
        self._news = asyncio.Event()

    def __str__(self) -> str:
        up = "online" if self.online else "offline"
        seats = "; ".join(
            f"{seat.stay}{'' if seat.stay.joined_now else ' (out)'}, {len(seat.unanswered)} unanswered, "
            f"holes {seat.stay.holes}"
            for seat in self._seats.values()
        )
        return f"{self.name} is {up}, {self._pending} pending: {seats}"

    @property
    def online(self) -> bool:
        return self.wire is not None and self.wire.open

    @property
    def is_settled(self) -> bool:
        """Whether it is in all its rooms and nothing of its own is under way."""
        return self.online and not self._waiting and all(map(_is_settled, self._seats.values()))

    @property
    def has_all(self) -> bool:
        """Whether it has received up to the last publication that anybody knows of."""
        stays = [seat.stay for seat in self._seats.values()]
        return all(stay.here == (stay.here and stay.books.end(stay.here.epoch)) for stay in stays)

    async def live(self) -> None:
        """Come and go until the world is over and everything is there."""
        while not self._world.is_over:
            await self._world.wait_until_up()
            try:
                await self._connect()
            except (EndedError, OSError):
                continue
            while self.online and not self._world.is_over:
                await self._world.turn(self.name)
                if not self.online:
                    break
                await (self._settle() if self._world.is_ending else self._act())
                await asyncio.sleep(0)  # what it did may have let nobody else run
        if self.wire is not None:
            self.wire.cut("close")

    # -- what it does -------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        rng = self._random
        codec = rng.choice((JSON, MSGPACK))
        self._life = self._judge.life
        self._connections += 1
        self._waiting.clear()
        self._pending = 0
        self.wire = Wire(codec, self.name, self, self._world.token(self.name))
        # A small buffer makes a reader that stops a slow one at once.
        host, port = self._world.address
        await self.wire.connect(host, port, rng.choice((0, 4096)))
        await self._until(lambda: self._greeted)
        if self.online and not self._world.is_ending:
            for seat in rng.sample(list(self._seats.values()), len(self._seats)):
                self._join(seat)

    async def _act(self) -> None:
        """Do one thing."""
        await self._until(lambda: self._pending < PENDING_MAX and any(map(_is_in, self._seats.values())))
        if not self.online or self._world.is_ending:
            return
        rng = self._random
        (action,) = rng.choices(list(ACTIONS), list(ACTIONS.values()))
        seat = rng.choice([seat for seat in self._seats.values() if _is_in(seat)])
        match action:
            case "publish":
                self._publish(seat, rng.randint(1, BURST_MAX))
            case "repeat":
                self._repeat_answered()
            case "page":
                self._page(
                    seat, rng.choice([0, max(0, _offset(seat) - 20), _offset(seat)]), rng.randint(1, 40)
                )
            case "type":
                self._type(seat)
            case "leave" | "passive":
                await self._withdraw(seat, action)
            case "stall":
                await self._stall(seat)
            case _:
                assert self.wire is not None
                self.wire.cut(action)

    async def _settle(self) -> None:
        """Bring everything to its end: rooms joined, holes paged, publishes answered."""
        for seat in self._seats.values():
            if not seat.stay.joined_now and not seat.asked:
                self._join(seat)
            if not _is_in(seat) or self._waiting:
                continue
            if seat.unanswered:
                self._repeat_unanswered(seat)
            elif seat.stay.holes:
                self._page(seat, seat.stay.holes[0][0] - 1, PAGE)
            elif not seat.said_goodbye:
                # Behind it stands nothing that it sent before without waiting for an answer.
                seat.said_goodbye = True
                self._publish(seat, 1)
        self._news.clear()
        await self._news.wait()

    def _publish(self, seat: Seat, many: int) -> None:
        rng = self._random
        burst = []
        for _ in range(many):
            self._numbers += 1
            # Most with a key and an id; some without a key, and some that nobody waits for.
            key = f"k{self._numbers}" if rng.random() < 0.85 or seat.said_goodbye else None
            burst.append(draw_attempt(rng, self.name, self._numbers, seat.stay.books.name, key))
        is_small = sum(len(attempt.content["pad"]) for attempt in burst) < FRAME_CHARS_MAX
        asks = [attempt.key is not None or rng.random() < 0.7 for attempt in burst]
        self._send_attempts(seat, burst, asks, one_frame=is_small and rng.random() < 0.3)

    def _type(self, seat: Seat) -> None:
        """Send what is for those who are there now, and is not kept."""
        self._numbers += 1
        message = {"type": EPHEMERAL, "room": seat.stay.books.name, "content": self._numbers}
        assert self.wire is not None
        self.wire.send([message])

    def _send_attempts(
        self, seat: Seat, attempts: list[Attempt], asks: list[bool], *, one_frame: bool = False
    ) -> None:
        """Send publishes; those that ask for an answer, and have a key, are repeated until they get it."""
        messages = []
        for attempt, ask in zip(attempts, asks, strict=True):
            self._judge.sending(attempt)
            message: dict[str, object] = {"type": type_for(attempt), "room": attempt.room}
            message["content"] = attempt.content
            if attempt.key is not None:
                message["key"] = attempt.key
                if attempt not in seat.unanswered:
                    seat.unanswered.append(attempt)
            if ask:
                message["id"] = self._expect(lambda said, attempt=attempt: self._on_ack(seat, attempt, said))
                self._pending += 1
            messages.append(message)
        assert self.wire is not None
        for frame in [messages] if one_frame else [[message] for message in messages]:
            self.wire.send(frame)
        for _ in messages:
            self._world.happened("sent")

    def _repeat_unanswered(self, seat: Seat) -> None:
        self._send_attempts(seat, list(seat.unanswered), [True] * len(seat.unanswered))

    def _repeat_answered(self) -> None:
        """Publish again what was acked: the key gets the first answer."""
        again = [one for one in self._answered[-50:] if _is_in(self._seats[one.room])]
        if again:
            attempt = self._random.choice(again)
            self._send_attempts(self._seats[attempt.room], [attempt], [True])

    def _join(self, seat: Seat) -> None:
        """Join since where it was; sometimes as somebody new."""
        stay = seat.stay
        if self._random.random() < 0.1 and not self._world.is_ending:
            stay.forget()
        message: dict[str, object] = {"type": "join", "room": stay.books.name}
        if stay.here is not None:
            message["content"] = {"since": {"offset": stay.here.offset, "epoch": stay.here.epoch}}
        floor = stay.books.floor()
        seat.asked = True
        message["id"] = self._expect(lambda said: self._on_joined(seat, floor, said))
        assert self.wire is not None
        self.wire.send([message])
        self._world.happened("join")

    async def _withdraw(self, seat: Seat, how: str) -> None:
        """Leave or turn passive, and come back at once or after others have published."""
        seat.asked = True
        message: dict[str, object] = {"type": how, "room": seat.stay.books.name}
        message["id"] = self._expect(lambda said: self._on_withdrawn(seat, how, said))
        assert self.wire is not None
        self.wire.send([message])
        await self._until(lambda: not seat.asked)
        if self._random.random() < 0.5 and self._world.may_rest():
            await self._world.rest(self._random.randint(1, 300))
        if self.online and not seat.asked and not seat.stay.joined_now:
            self._join(seat)

    async def _stall(self, seat: Seat) -> None:
        """Stop reading for as long as others receive so and so much."""
        wire = self.wire
        if wire is None or not self._world.may_rest():
            return
        wire.stop_reading()
        self._publish(seat, 2)
        await self._world.rest(self._random.choice((50, 500, 8000)))
        wire.read_on()

    def _page(self, seat: Seat, after: int, limit: int) -> None:
        floor = seat.stay.books.floor()
        number = self._expect(lambda said: self._on_page(seat, after, limit, floor, said))
        asked = {"after": after, "limit": limit}
        assert self.wire is not None
        self.wire.send([{"type": "history", "room": seat.stay.books.name, "id": number, "content": asked}])

    # -- what it hears ------------------------------------------------------------------------------------

    def hear(self, said: Said, raw: bytes) -> None:
        """Take one message of the server."""
        if said.id is not None:
            answer = self._waiting.pop(said.id, None)
            if self._judge.expect(answer is not None, f"{self.name}: an answer to nothing: {raw[:200]!r}"):
                assert answer is not None
                answer(said)
        elif said.type == "connected":
            self._greeted = True
        elif said.type == "error":
            self._on_refused(said)  # of a message without an id
        elif said.type != "presence":
            self._on_push(said, raw)
        self._news.set()

    def ended(self) -> None:
        """The connection is over: what was under way is not known, and is repeated where it has a key."""
        assert self.wire is not None
        self._judge.expect(
            self.wire.code is None or self.wire.code in CLOSE_CODES,
            f"{self.name}: closed with {self.wire.code}",
        )
        self._world.happened("end" if self.wire.code is None else f"close {self.wire.code}")
        self._greeted = False
        for seat in self._seats.values():
            seat.asked = False
            seat.stay.offline()
        self._news.set()

    def fail(self, error: Exception) -> None:
        """What was heard cannot be read."""
        self._world.fail(error)

    def _on_push(self, said: Said, raw: bytes) -> None:
        seat = self._seats.get(said.room or "")
        if seat is None:
            self._judge.fault(f"{self.name}: a push of no room of its: {raw[:200]!r}")
        elif said.type == "gap":
            told = self._content(said, Gap)
            seat.stay.gap(told.first, told.last)
            self._world.happened("gap")
        elif said.type == "unread":
            self._on_unread(seat.stay, self._content(said, Acked))
        elif said.type == EPHEMERAL:
            seat.stay.signalled(said, self._content(said, int))
            self._world.happened("signal")
        else:
            seat.stay.pushed(self._codec, raw)
            self._world.happened("push")

    def _on_unread(self, stay: Stay, told: Acked) -> None:
        here = stay.here
        is_ahead = here is not None and here.epoch == told.epoch and here.offset < (told.offset or 0)
        self._judge.expect(is_ahead, f"{stay} hears of unread messages up to {told}")
        self._judge.expect(not stay.joined_now, f"{stay} is active, and hears of {told}")
        self._world.happened("unread")

    def _on_joined(self, seat: Seat, floor: dict[str, int], said: Said) -> None:
        seat.asked = False
        if said.type == "error":
            self._on_refused(said)
            self._join(seat)
            return
        told = self._content(said, Joined)
        stay = seat.stay
        at = Place(told.epoch, told.offset)
        before = stay.here
        stay.joined(self._codec, at, told.recovered, told.messages, floor, self._life)
        self._world.happened(_outcome(before, at, told))
        if stay.holes:
            self._page(seat, stay.holes[0][0] - 1, PAGE)
        if seat.unanswered and (self._world.is_ending or self._random.random() < 0.8):
            self._repeat_unanswered(seat)

    def _on_withdrawn(self, seat: Seat, how: str, said: Said) -> None:
        """Left, or passive: then all pushes up to the place in the ack have come, and none comes after it."""
        seat.asked = False
        stay = seat.stay
        self._judge.expect(said.type == "ack", f"{self.name}: {how} answered by {said}")
        if how == "passive":
            told = self._content(said, Acked)
            at = (told.epoch, told.offset)
            self._judge.expect(stay.here == at, f"{stay} is passive from {at} on")
        stay.offline()
        self._world.happened(how)

    def _on_page(self, seat: Seat, after: int, limit: int, floor: dict[str, int], said: Said) -> None:
        if said.type == "error":
            self._on_refused(said)
            return
        told = self._content(said, Paged)
        stay = seat.stay
        if stay.here is None:  # it left meanwhile, and came back as somebody new
            return
        stay.paged(self._codec, after, limit, told.messages, told.more, floor)
        self._world.happened("page")
        if stay.holes and _is_in(seat) and stay.holes[0][0] - 1 > after:
            self._page(seat, stay.holes[0][0] - 1, PAGE)

    def _on_ack(self, seat: Seat, attempt: Attempt, said: Said) -> None:
        self._pending -= 1
        if said.type == "error":
            self._on_refused(said)
            return
        told = self._content(said, Acked)
        if told.epoch is None or told.offset is None:
            self._judge.fault(f"{attempt}: acked without a place")
            return
        place = Place(told.epoch, told.offset)
        self._judge.acked(
            attempt, place, self._life, f"{self.name}/{self._connections}", duplicate=told.duplicate
        )
        if attempt in seat.unanswered:
            seat.unanswered.remove(attempt)
            self._answered.append(attempt)
        self._world.happened("duplicate" if told.duplicate else "ack")

    def _on_refused(self, said: Said) -> None:
        told = self._content(said, Refused)
        is_expected = told.temporary and told.name == "unavailable"
        self._judge.expect(is_expected, f"{self.name}: {said.room} answers {told}")
        self._world.happened("unavailable")

    # -- helpers ------------------------------------------------------------------------------------------

    @property
    def _codec(self) -> str:
        assert self.wire is not None
        return self.wire.codec

    def _content(self, said: Said, type_: Any) -> Any:
        return decoded(self._codec, said.content, type_)

    def _expect(self, answered: Callable[[Said], None]) -> int:
        self._ids += 1
        self._waiting[self._ids] = answered
        return self._ids

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds, or the connection has ended, or the world comes to its end."""
        while self.online and not self._world.is_ending and not holds():
            self._news.clear()
            await self._news.wait()

    def end(self) -> None:
        """The world comes to its end: from here on it stays, and is to have everything."""
        for seat in self._seats.values():
            seat.stay.is_final = True
        self._news.set()


def draw_attempt(rng: random.Random, client: str, number: int, room: str, key: str | None) -> Attempt:
    """Return a publication of some length."""
    pad = "é😀\n" * rng.randint(0, 4) + "x" * rng.choice((0, 30, 300, 1500, 5000))
    return Attempt(client, number, room, key, {"by": client, "n": number, "pad": pad})


def type_for(attempt: Attempt) -> str:
    """Return as what an attempt is published: rooms of the kind `session` drop by type."""
    kind = attempt.room.partition(":")[0]
    if kind == "session":
        return "music_seek" if attempt.number % 4 else "music_play"
    return "publish" if kind == "events" else "chat_message"


def _outcome(since: Place | None, at: Place, told: Joined) -> str:
    if since is None:
        return "joined"
    if told.recovered:
        return "recovered"
    return "refused" if since.epoch == at.epoch else "another epoch"


def _is_in(seat: Seat) -> bool:
    return seat.stay.joined_now and not seat.asked


def _is_settled(seat: Seat) -> bool:
    return _is_in(seat) and seat.said_goodbye and not seat.unanswered and not seat.stay.holes


def _offset(seat: Seat) -> int:
    return seat.stay.here.offset if seat.stay.here is not None else 0
