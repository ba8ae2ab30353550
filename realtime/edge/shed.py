"""Sharing connections out between workers: one that has too many closes some, which come back anywhere.

The kernel deals new connections out evenly and never moves old ones, so after a rolling restart the worker
that was restarted first has the most. Told to, or by itself after others have come (`shed_ratio`), a worker
asks the others how many they have, and closes what it has beyond the mean: never more, so that it does not
swing, and those below only wait. Of those it closes some come back to it, so it asks again when they are
back, until nobody has more than the ratio times the mean.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec

from realtime.core.cluster import Change, Cluster, WorkerId
from realtime.core.contracts import Clock, Connection
from realtime.core.router import Spawn
from realtime.core.session import Session
from realtime.core.users import identity_of
from realtime.errors import BadMessage, CloseCode, RealtimeError
from realtime.protocol.closing import close_reason

log: Final = logging.getLogger("realtime.edge")

LOAD: Final = "load"
SHED: Final = "shed"
ASK_EVERY_S: Final = 0.5
HEARD_WITHIN_S: Final = 3.0
SLICE_S: Final = 0.1  # the worker's tick
SPREAD_MS: Final = 1000  # of who comes back, at least
SETTLE_S: Final = 1.5  # after the last of them: until all know what that has made of the counts
RUN_S: Final = 300.0
ORDERED: Final = "shed_order"
JOINED: Final = "shed_join"
"""Why connections are asked to leave: somebody ordered it, or another worker has come."""
CHOICE: Final = 4  # as many of the longest silent are looked at for each that is closed
RATIO_MIN: Final = 1.01
RATIO_MAX: Final = 10.0
# What one worker may have of the mean, when somebody asks to share connections out and no setting says.
SHED_RATIO: Final = 1.1
AMONG_MAX: Final = 1024


class Load(NamedTuple):
    """What a worker says: how many it has, how many it has closed that are on their way back; and when."""

    connections: int
    away: int
    at: float


class Order(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is asked: to come down to `ratio` times the mean; 0 only asks how many it has.

    The mean is that of the workers `among`, of all where they are empty: those of one host have one port.
    """

    ratio: float
    among: Annotated[list[str], msgspec.Meta(max_length=AMONG_MAX)] = []


class Connections(Protocol):
    """The part of the hub that shedding needs."""

    def connections(self) -> Sequence[Connection]: ...
    def stats(self) -> Mapping[str, int]: ...


def read_load(body: bytes) -> tuple[int, int]:
    """Read how many connections a worker has, and how many it has closed that are not back yet.

    Raises:
        BadMessage: that is not what `body` says.
    """
    numbers = body.split(b" ")
    if len(numbers) != 2 or not all(each.isdigit() and len(each) < 10 for each in numbers):
        raise BadMessage(f"{LOAD}: not two numbers")
    return int(numbers[0]), int(numbers[1])


def surplus(worker: WorkerId, counts: Mapping[WorkerId, int], ratio: float, away: int = 0) -> int:
    """Return how many connections `worker` has beyond the mean; 0 where the ratio allows that.

    `away` are those that were closed and are not back yet: they count for the mean, or two workers that shed
    at once would each close too many.
    """
    own, mean = counts.get(worker, 0), _mean(counts, away)
    return int(own - mean) if own > allowed(counts, ratio, away) else 0


def allowed(counts: Mapping[WorkerId, int], ratio: float, away: int = 0) -> int:
    """Return how many one worker may have: a whole number, or few connections would never be even."""
    return math.ceil(_mean(counts, away) * ratio - 1e-9)  # 100 times 1.1 is 110, and a little


def balanced(counts: Mapping[WorkerId, int], ratio: float) -> bool:
    """Whether nobody has more than is allowed."""
    return max(counts.values(), default=0) <= allowed(counts, ratio)


def _mean(counts: Mapping[WorkerId, int], away: int) -> float:
    return (sum(counts.values()) + away) / max(1, len(counts))


def choose(connections: Iterable[Connection], count: int) -> list[Connection]:
    """Return `count` connections to close: of the longest silent ones, and no more of one user or one room
    than its part, as far as that goes.
    """
    there = [each for each in connections if each.open]
    count = min(count, len(there))
    longest = heapq.nlargest(count * CHOICE, there, key=_silent_s)
    parts = Counter(room for each in there for room in _rooms(each))
    may = {room: math.ceil(count * members / max(1, len(there))) for room, members in parts.items()}
    chosen: dict[Connection, None] = {}
    users: Counter[object] = Counter()
    rooms: Counter[object] = Counter()
    for fair in (True, False):  # what fairness leaves open is filled by silence alone
        for each in longest:
            if len(chosen) == count:
                break
            user, within = _user(each), _rooms(each)
            if each in chosen or (fair and (users[user] or any(rooms[room] >= may[room] for room in within))):
                continue
            chosen[each] = None
            users[user] += user is not None
            rooms.update(within)
    return list(chosen)


def _silent_s(connection: Connection) -> float:
    return float(getattr(connection, "silent_s", 0.0))  # one that is no hub's says nothing of it


def _user(connection: Connection) -> object:
    identity = identity_of(connection)
    return None if identity is None else (identity.tenant, identity.user)


def _rooms(connection: Connection) -> tuple[object, ...]:
    state = connection.state
    return tuple(state.rooms) if isinstance(state, Session) else ()


class Shedder:
    """One worker's part. `tick` about ten times a second.

    `returns_per_second` is what one worker can take back; `ratio` above 0 lets it begin by itself `delay_s`
    after another worker has come. It takes no part any more once `stopping` says so.
    """

    def __init__(
        self,
        hub: Connections,
        cluster: Cluster,
        clock: Clock,
        *,
        spawn: Spawn,
        returns_per_second: Callable[[], float],
        stopping: Callable[[], bool],
        least_ms: int,
        ratio: float = 0.0,
        delay_s: float = 10.0,
    ) -> None:
        self.asked = {ORDERED: 0, JOINED: 0}
        self._hub = hub
        self._cluster = cluster
        self._clock = clock
        self._spawn = spawn
        self._returns_per_second = returns_per_second
        self._stopping = stopping
        self._least_ms = least_ms
        self._own_ratio, self._delay_s = ratio, delay_s
        self._heard: dict[WorkerId, Load] = {}
        self._away: deque[tuple[float, int]] = deque()  # until when, how many
        self._ask_at = 0.0
        self._asking = False
        self._begin_at = math.inf
        self._ratio = 0.0  # while it is at it
        self._why = ORDERED
        self._among: frozenset[str] = frozenset()
        self._until = self._look_at = 0.0
        self._due: list[Connection] = []
        self._reason = b""
        self._a_slice = 0
        self._back_s = 0.0
        cluster.answer(LOAD, self._on_load)
        cluster.answer(SHED, self._on_order)
        cluster.watch(self._on_change)

    @property
    def counts(self) -> dict[WorkerId, int]:
        """How many connections each worker has, of those that were heard lately; this one's are of now."""
        return {each: load.connections for each, load in self._loads().items()} | {
            self._cluster.worker: self._count()
        }

    def begin(self, ratio: float, why: str = ORDERED, among: Iterable[str] = ()) -> None:
        """See to it that this worker has at most `ratio` times the mean of those `among`; else of all."""
        now = self._clock.monotonic()
        self._why = why
        self._ratio, self._until = ratio, now + RUN_S
        self._among = frozenset(among)
        self._look_at = now + SETTLE_S
        self._begin_at = math.inf

    def tick(self) -> None:
        """Ask the others how many they have, while that matters, and close what is due."""
        now = self._clock.monotonic()
        if self._ratio and now >= self._ask_at and not self._asking:
            self._ask_at = now + ASK_EVERY_S
            self._asking = True
            self._spawn(self._ask_others())
        if now >= self._begin_at:
            self.begin(self._own_ratio, JOINED)
        if self._due:
            self._close_slice(now)
        elif self._ratio and now >= self._look_at:
            self._look(now)

    # -- what others say ------------------------------------------------------------------------------------

    async def _ask_others(self) -> None:
        others = [each for each in self._group() if each != self._cluster.worker]
        try:
            await asyncio.gather(*map(self._ask, others))
        finally:
            self._asking = False

    async def _ask(self, worker: WorkerId) -> None:
        try:
            connections, away = read_load(await self._cluster.ask(worker, LOAD, b""))
        except RealtimeError as error:  # it is gone, or of a version that does not know the question
            log.debug("%s does not say how many connections it has: %s", worker, error.message)
        else:
            self._heard[worker] = Load(connections, away, self._clock.monotonic())

    def _on_load(self, worker: WorkerId, body: bytes) -> bytes:
        return self._said()

    def _on_order(self, worker: WorkerId, body: bytes) -> bytes:
        try:
            order = msgspec.msgpack.decode(body, type=Order)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{SHED}: {error}") from error
        if order.ratio and not RATIO_MIN <= order.ratio <= RATIO_MAX:
            raise BadMessage(
                f"{SHED}: the ratio is {order.ratio:g}; it has to be {RATIO_MIN:g} to {RATIO_MAX:g}"
            )
        if order.ratio:
            self.begin(order.ratio, among=order.among)
        return self._said()

    def _on_change(self, change: Change) -> None:
        for worker in change.left:
            self._heard.pop(worker, None)
        if self._own_ratio and any(worker != self._cluster.worker for worker in change.joined):
            self._begin_at = self._clock.monotonic() + self._delay_s

    # -- closing --------------------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        counts = self.counts
        away = self._own_away(now) + sum(load.away for load in self._loads().values())
        even = not away and balanced(counts, self._ratio) and len(counts) >= len(self._group())
        # A worker that says nothing, of an older version perhaps, is left out; it is waited for till the end.
        if even or self._stopping() or now >= self._until:
            self._ratio = 0.0
            return
        self._look_at = now + ASK_EVERY_S
        count = surplus(self._cluster.worker, counts, self._ratio, away)
        if count:
            self._prepare(count, len(counts))

    def _prepare(self, count: int, workers: int) -> None:
        """Choose whom to close, at the pace at which all workers together can take them back."""
        rate = max(1.0, self._returns_per_second() * workers)
        most_ms = self._least_ms + max(SPREAD_MS, math.ceil(count * 1000 / rate))
        self._reason = close_reason("rebalance", min_ms=self._least_ms, max_ms=most_ms)
        self._a_slice = max(1, int(rate * SLICE_S))
        self._due = choose(self._hub.connections(), count)
        self._back_s = most_ms / 1000
        log.info("%d connections go to other workers, within %d ms", len(self._due), most_ms)

    def _close_slice(self, now: float) -> None:
        closing, self._due = self._due[: self._a_slice], self._due[self._a_slice :]
        for connection in closing:
            if connection.open:
                connection.close(CloseCode.REBALANCE, self._reason)
                self.asked[self._why] += 1
        self._look_at = now + self._back_s + SETTLE_S
        self._away.append((self._look_at, len(closing)))

    def _loads(self) -> dict[WorkerId, Load]:
        """What was heard lately of those who are alive, and to be even with."""
        since, alive = self._clock.monotonic() - HEARD_WITHIN_S, set(self._group())
        return {each: load for each, load in self._heard.items() if load.at >= since and each in alive}

    def _group(self) -> list[WorkerId]:
        return [each for each in self._cluster.workers if not self._among or each in self._among]

    def _own_away(self, now: float) -> int:
        while self._away and self._away[0][0] <= now:
            self._away.popleft()
        return sum(count for _, count in self._away)

    def _said(self) -> bytes:
        return b"%d %d" % (self._count(), self._own_away(self._clock.monotonic()))

    def _count(self) -> int:
        return self._hub.stats()["connections"]
