"""Plays the days of a transcript over raw connections, and keeps the books of every delivery."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from realtime.client.ledger import Arrival, Placed, RoomBooks, Stay
from realtime.client.rawsocket import RawSocket
from realtime.client.transcript import Action, Day, Line, Step
from realtime.errors import RealtimeError

_TICK_S = 0.001
_OPENING_AT_ONCE = 64
_OPENING_S = 30.0
_GOODBYE_S = 5.0
_decode_arrival = msgspec.json.Decoder(Arrival).decode
_decode_placed = msgspec.json.Decoder(Placed).decode
_encode = msgspec.json.encode


class ReplayFailed(RealtimeError):  # noqa: N818 - named like its siblings in realtime.errors
    """The replay could not be played to its end."""

    code = "replay_failed"
    retryable = False


@dataclass(frozen=True, slots=True)
class Due:
    """One step and when it is due, in seconds from the start."""

    at_s: float
    room: int
    step: Step


@dataclass(slots=True)
class Tally:
    """What was done, for the progress bar and the report."""

    asked: int = 0  # requests of any kind
    answered: int = 0
    published: int = 0
    acked: int = 0
    deliveries: int = 0
    joins: int = 0
    leaves: int = 0
    strays: int = 0
    published_s: float = 0.0  # from the first step to the last ack
    finished_s: float = 0.0  # and to the last delivery
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class Stage:
    """One day's room: its books, its members, and the steps that are due but not taken yet.

    A join or leave waits until every line before it is acked and delivered, and the lines after it wait for
    its answer. So who is in the room at each line is known beforehand, and with it the number of deliveries.
    (An ack alone is not enough where a room's members sit on several workers: another one than the sender's
    may have the line a moment later.)
    """

    def __init__(self, day: Day, books: RoomBooks) -> None:
        self.day = day
        self.books = books
        self.members: list[Member] = []
        self.due: deque[Due] = deque()
        self.lines_out = 0  # lines without an ack
        self.moves_out = 0  # joins and leaves without an answer
        self.patient = True  # waits for deliveries, too

    def ready(self) -> bool:
        """Whether the next step may be taken now."""
        if not self.due:
            return False
        if self.due[0].step.action is Action.SAY:
            return not self.moves_out
        return not self.lines_out and not (self.patient and self.books.waiting())


class Member:
    """One connection of one day's room, speaking for many nicks."""

    def __init__(self, number: int, stage: Stage, tally: Tally, clock: Callable[[], float]) -> None:
        books = stage.books
        self.number = number
        self.socket: RawSocket
        self._stage = stage
        self._books = books
        self._known = books.known
        self._tally = tally
        self._clock = clock
        self._stay: Stay | None = None
        self._room_json = _encode(books.name)
        self._last_id = 0
        # id -> what it was: (action, content, when it was due)
        self._waiting: dict[int, tuple[Action, bytes, float]] = {}

    def act(self, step: Step, due_s: float) -> None:
        """Queue one step; the answer settles it."""
        self._last_id += 1
        self._tally.asked += 1
        content = b"{}"
        if step.action is Action.SAY:
            assert step.line is not None
            content = _encode(_content(step.line))
            type_ = "chat_presence" if step.line.entering or step.line.leaving else "chat_message"
            self._tally.published += 1
            self._stage.lines_out += 1
        else:
            type_ = step.action.value
            self._stage.moves_out += 1
            if step.action is Action.LEAVE and self._stay is not None:
                self._books.leaving(self._stay)
        self._waiting[self._last_id] = (step.action, content, due_s)
        head = b'{"type":"%b","id":%d,"room":%b,"content":' % (type_.encode(), self._last_id, self._room_json)
        self.socket.send(head + content + b"}")

    def receive(self, payload: bytes) -> None:
        """Take one message of the server. A push that is known by its bytes needs no decoding."""
        offset = self._known.get(payload)
        if offset is None:
            arrival = _decode_arrival(payload)
            if arrival.id is not None:
                self._on_answer(arrival)
                return
            if arrival.type == "error":
                self._tally.errors[bytes(arrival.content).decode()] += 1
            offset = self._books.first_seen(payload, arrival)
            if offset is None:
                return  # connected, presence: nothing that has a place in the order
        self._tally.deliveries += 1
        if self._stay is None:
            self._tally.strays += 1
        else:
            self._stay.receive(offset)

    def _on_answer(self, arrival: Arrival) -> None:
        assert arrival.id is not None
        action, content, due_s = self._waiting.pop(arrival.id, (None, b"", 0.0))
        self._tally.answered += 1
        if action is None:
            self._tally.errors["an answer to nothing"] += 1
            return
        if action is Action.SAY:
            self._stage.lines_out -= 1
        else:
            self._stage.moves_out -= 1
        if arrival.type == "error":
            self._tally.errors[f"{action.value}: {bytes(arrival.content).decode()}"] += 1
        elif action is Action.SAY:
            self._books.acked(self.number, content, _decode_placed(arrival.content))
            self._tally.acked += 1
            self._tally.published_s = self._clock()
            self._tally.latencies_s.append(self._tally.published_s - due_s)
        elif action is Action.JOIN:
            self._stay = self._books.join(_decode_placed(arrival.content))
            self._tally.joins += 1
        elif self._stay is not None:
            self._books.left(self._stay)
            self._stay = None
            self._tally.leaves += 1


def _content(line: Line) -> dict[str, str]:
    content = {"nick": line.nick, "text": line.text, "kind": line.kind}
    if line.entering:
        content["entering"] = line.entering
    if line.leaving:
        content["leaving"] = line.leaving
    return content


class Player:
    """Opens the connections, plays the steps when they are due, waits for the last delivery."""

    def __init__(
        self, urls: Sequence[str], days: Sequence[Day], token_for: Callable[[str], str | None]
    ) -> None:
        """`urls` are endpoints of one cluster: a room's connections are dealt out to them in turn."""
        self.tally = Tally()
        self.stages = [Stage(day, RoomBooks(f"chat:ubuntu-{day.date}")) for day in days]
        self.failure: str | None = None
        self._urls = [urlsplit(url) for url in urls]
        self._token_for = token_for
        self._loop = asyncio.get_running_loop()
        self._start_s = 0.0

    @property
    def connections(self) -> int:
        """Connections that are or were open."""
        return sum(len(stage.members) for stage in self.stages)

    def clock(self) -> float:
        """Seconds since the first step was due."""
        return self._loop.time() - self._start_s

    async def open(self) -> None:
        """Open all connections.

        Raises:
            ReplayFailed: one of them was refused.
        """
        gate = asyncio.Semaphore(_OPENING_AT_ONCE)
        for stage in self.stages:
            numbers = range(stage.day.connections)
            stage.members = [Member(number, stage, self.tally, self.clock) for number in numbers]
        try:
            async with asyncio.TaskGroup() as group:
                for stage in self.stages:
                    for member in stage.members:
                        name = f"irc-{stage.day.date}-{member.number:03}"
                        group.create_task(self._open_one(name, member, gate))
        except BaseExceptionGroup as failed:
            # Not `except*`: before Python 3.11.4 what is raised in it comes wrapped in a group of its own.
            refused = failed.subgroup(ReplayFailed)
            if refused is None:
                raise
            raise ReplayFailed(str(refused.exceptions[0])) from failed

    async def play(self, schedule: Sequence[Due], window: int, patience_s: float) -> None:
        """Play every step at its time; when `window` answers are outstanding, wait for some first.

        A delivery that does not come holds nothing up for longer than `patience_s`.

        Raises:
            ReplayFailed: a connection was lost.
        """
        self._start_s = self._loop.time()
        steps = deque(schedule)
        waiting: set[Stage] = set()
        last, last_s = self._progress(), self.clock()
        while steps or waiting:
            now_s = self.clock()
            while steps and steps[0].at_s <= now_s:
                due = steps.popleft()
                stage = self.stages[due.room]
                stage.due.append(due)
                waiting.add(stage)
            dirty: set[Member] = set()
            slots = window - self._in_flight()
            for stage in list(waiting):
                slots -= self._take_steps(stage, slots, now_s, dirty)
                if not stage.due:
                    waiting.discard(stage)
            for member in dirty:
                member.socket.flush()
            if last != (last := self._progress()):
                last_s = now_s
            elif now_s - last_s > patience_s:
                for stage in waiting:
                    stage.patient = False
            await self._breathe(_TICK_S)

    async def settle(self, patience_s: float) -> None:
        """Return when every answer and every delivery is there, or nothing has come for `patience_s`.

        Raises:
            ReplayFailed: a connection was lost.
        """
        last, last_s = self._progress(), self.clock()
        while self._in_flight() or any(stage.books.waiting() for stage in self.stages):
            if last != (last := self._progress()):
                last_s = self.clock()
            elif self.clock() - last_s > patience_s:
                break
            await self._breathe(10 * _TICK_S)
        self.tally.finished_s = self.clock()
        for stage in self.stages:
            stage.books.close()

    async def close(self) -> None:
        """Close every connection, and wait until the last one is gone."""
        gone: list[asyncio.Future[None]] = []
        for member in (member for stage in self.stages for member in stage.members):
            if not hasattr(member, "socket"):
                continue
            gone.append(member.socket.gone)
            member.socket.on_lost = lambda why: None
            member.socket.close()
        if gone:
            await asyncio.wait(gone, timeout=_GOODBYE_S)

    def _take_steps(self, stage: Stage, slots: int, now_s: float, dirty: set[Member]) -> int:
        """Take the steps of one room that may be taken, at most `slots`; return how many."""
        taken = 0
        while taken < slots and stage.ready():
            due = stage.due.popleft()
            member = stage.members[due.step.connection]
            # Time runs from when a step was due: one that had to wait here counts as late.
            member.act(due.step, due.at_s or now_s)
            dirty.add(member)
            taken += 1
        return taken

    async def _open_one(self, user: str, member: Member, gate: asyncio.Semaphore) -> None:
        parts = self._urls[member.number % len(self._urls)]
        target = parts._replace(path=f"{parts.path.rstrip('/')}/{quote(user, safe='')}")
        async with gate:
            member.socket = await _connect(target, self._token_for(user), member.receive)
        member.socket.on_lost = lambda why: self._lost(user, why)

    def _lost(self, user: str, why: str) -> None:
        self.failure = self.failure or f"{user}: {why}"

    def _progress(self) -> int:
        return self.tally.deliveries + self.tally.answered

    def _in_flight(self) -> int:
        return self.tally.asked - self.tally.answered

    async def _breathe(self, span_s: float) -> None:
        await asyncio.sleep(span_s)
        if self.failure is not None:
            raise ReplayFailed(self.failure)


async def _connect(target: SplitResult, token: str | None, receive: Callable[[bytes], None]) -> RawSocket:
    port = target.port or (443 if target.scheme == "wss" else 80)
    secure = ssl.create_default_context() if target.scheme == "wss" else None
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_OPENING_S):
            _, socket = await loop.create_connection(
                lambda: RawSocket(target, token, receive), target.hostname or "", port, ssl=secure
            )
            await socket.opened
    except OSError as error:  # a timeout is one, too
        raise ReplayFailed(f"{target.geturl()}: {error or 'no answer'}") from error
    return socket
