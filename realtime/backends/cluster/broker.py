"""The broker of many workers: rooms' order, history and idempotency keys in Redis.

What is kept there outlives every worker, and a Redis master's death as far as its replica had it: then the
room goes on in a new epoch, and everybody is told. Redis keeps a room for the recovery window after its last
use.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, TypeVar

from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.ordering import Deepen, Need, Open, Ordered
from realtime.backends.cluster.pacer import Pacer
from realtime.backends.cluster.reader import Place, RoomReader
from realtime.backends.cluster.shares import Shares
from realtime.backends.cluster.stream import RedisStream
from realtime.backends.cluster.writer import RETRY_S, Writer
from realtime.backends.redis_client.contract import Argument, Redis, RedisError
from realtime.backends.sealing.rooms import RoomSeal, RoomSeals
from realtime.core.contracts import (
    Clock,
    Deliver,
    Lost,
    Others,
    Position,
    Receipt,
    Stamp,
    StreamState,
    Terms,
)
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable
from realtime.ids import RoomId
from realtime.native.encode import json_string
from realtime.native.sequence import Budget, Sequence

Item = TypeVar("Item")

log: Final = logging.getLogger("realtime.broker")

KB: Final = 1024
MB: Final = 1024 * KB
GAP_MESSAGES: Final = (
    64  # Redis keeps so many at least: a worker may miss some even of a kind that keeps none
)
IDLE_WRITERS: Final = 1000
GONE_MAX: Final = 1000  # workers that are gone, of which a late word is no sign of life
DOUBT_S: Final = 0.5  # how long what there is may be on its way
SHARED_A_TICK: Final = 500
QUIET_S: Final = 5.0
JUDGE_S: Final = 5.0  # how long a worker may share before it is known to be alive


class RedisBroker:
    """Streams by room, in Redis.

    `worker` is this one's id; `history_messages`, `history_bytes`, `recovery_window_s` and `memory_bytes` are
    as of the memory broker, the latter for what is kept here besides. At most `waiting_messages` publications
    of `waiting_bytes` wait for Redis. `opening` asks the store before an epoch of a durable room is opened,
    and `deepen` adds to its history what the store has. `alive` says whether a worker is in the ring. `seals`
    seal what encrypted rooms publish; without them there are none, and what is sealed is not readable.
    """

    def __init__(
        self,
        redis: Redis,
        clock: Clock,
        stamp: Stamp,
        *,
        worker: str,
        prefix: str = "rt",
        history_messages: int = 1000,
        history_bytes: int = 1 * MB,
        recovery_window_s: float = 300.0,
        memory_bytes: int = 256 * MB,
        answer_bytes: int = 1 * MB,
        timeout_s: float = 2.0,
        waiting_messages: int = 100_000,
        waiting_bytes: int = 32 * MB,
        at_once: int = 256,
        opening: Open | None = None,
        deepen: Deepen | None = None,
        alive: Callable[[str], bool] | None = None,
        seals: RoomSeals | None = None,
    ) -> None:
        self.redis = redis
        self.stamp = stamp
        self.worker = worker
        self.prefix = prefix
        self.answer_bytes = answer_bytes
        self.window_ms = round(recovery_window_s * 1000)
        self.pacer = Pacer(at_once)
        self.budget = Budget(memory_bytes)
        self.opening = opening
        self.deepen = deepen
        self.alive = alive
        self.seals = seals
        self.gaps = 0  # how often a stream had to stop and ask
        self._clock = clock
        self._history = (history_messages, history_bytes)
        self._timeout_s = timeout_s
        self._waiting_messages, self._waiting_bytes = waiting_messages, waiting_bytes
        self._waits = self._waits_bytes = 0
        self._writers: dict[RoomId, Writer] = {}
        self._idle: OrderedDict[RoomId, Writer] = OrderedDict()
        self._dirty: list[Writer] = []
        self._streams: dict[RoomId, RedisStream] = {}
        self._sharing: dict[str, set[RedisStream]] = {}  # by worker: where it shares something
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._refused = self._strange = self._lost = 0
        self._quiet_until = 0.0
        self._adopted: dict[RoomId, StreamState] = {}  # where rooms are that are about to be opened
        # What is due at a time; each has one delay, so the oldest is the first.
        self._timeouts: deque[tuple[float, tuple[RedisStream, Pending[bool]]]] = deque()
        self._doubts: deque[tuple[float, RedisStream]] = deque()
        self._retries: deque[tuple[float, RedisStream]] = deque()
        self._refreshes: deque[tuple[float, RedisStream]] = deque()
        self._judgements: deque[tuple[float, Shares]] = deque()
        self._drops: deque[tuple[float, RedisStream]] = deque()
        self._unshared: deque[tuple[float, tuple[RoomId, Shares]]] = deque()
        self._untold: deque[RedisStream] = deque()  # whose shares are to be told anew

    # -- the contract ---------------------------------------------------------------------------------------

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> RedisStream:
        """Subscribe this worker to `room`, as `Broker.open`."""
        assert room not in self._streams, f"{room} is subscribed to already"
        stream = RedisStream(self, room, kind, self._writer(room, kind), deliver, lost, others)
        self._streams[room] = stream
        adopted = self._adopted.pop(room, None)
        if adopted is not None:
            stream.begin(int(adopted.epoch), adopted.fence, adopted.offset)
        self._refreshes.append((self._clock.monotonic() + self.window_ms / 2000, stream))
        return stream

    def publish(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Pending[Receipt]:
        """Publish to a room whether or not anybody here is in it, as `Broker.publish`."""
        return self._writer(room, kind).publish(type, sender, content, terms)

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        """Give one push to who is there now, whether or not anybody here is, as `Broker.signal`."""
        writer = self._writer(room, kind)
        writer.signal(push)
        self.rest(writer)

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        """Without a store Redis has all that there is, and keeps it; `KeepingBroker` has one."""

    def drop_history(self, room: RoomId) -> None:
        """Have nothing of what was published in memory, as `Broker.drop_history`; once more after a moment,
        where this worker was behind and fetching what is to go.
        """
        stream = self._streams.get(room)
        if stream is not None:
            stream.drop_history()
            self._drops.append((self._clock.monotonic() + DOUBT_S, stream))

    def order(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
        then: Callable[[Ordered | Exception], None],
    ) -> None:
        """Publish to a room whether or not anybody here is in it, as `Writer.order`."""
        self._writer(room, kind).order(type, sender, content, terms, then)

    @property
    def busy(self) -> int:
        """What waits for Redis, as `Broker.busy`."""
        return self._waits

    def export(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return how far the members of each room are, as `Broker.export`: all else is in Redis."""
        for room, stream in self._streams.items():
            place = stream.place()
            if place.epoch:  # as `fence` goes where the epoch starts: both are numbers of ours here
                yield StreamState(*room, b"%d" % place.epoch, place.offset, [], place.start, [], None)

    def adopt(self, state: StreamState, kind: RoomKind) -> None:
        """Go on in a room from there, as `Broker.adopt`, once it is opened: what is missing is fetched."""
        self._adopted[RoomId(state.tenant, state.room)] = state

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget the others, as `Broker.keep_only`."""
        self._adopted = {room: self._adopted[room] for room in rooms if room in self._adopted}

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """Those with members, as `Broker.kept_rooms`."""
        return self._streams.keys()

    def tick(self) -> None:
        """Do what is due. Called about ten times a second."""
        now = self._clock.monotonic()
        for stream, waiting in _due(self._timeouts, now):
            stream.give_up(waiting)
        for stream in _due(self._doubts, now):
            stream.look_again()
        for stream in _due(self._drops, now):
            stream.drop_history()
        for stream in _due(self._retries, now):
            stream.retry()
        for shares in _due(self._judgements, now):
            shares.judge()
        for room, shares in _due(self._unshared, now):
            # A room that was closed and opened again has its newer word.
            (self._streams[room].shares if room in self._streams else shares).again()
        for _ in range(min(len(self._untold), SHARED_A_TICK)):
            self._untold.popleft().shares.refresh()
        for stream in _due(self._refreshes, now):
            if self._streams.get(stream.room) is stream:
                stream.refresh()
                self._refreshes.append((now + self.window_ms / 2000, stream))

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics."""
        return {
            "broker_rooms": len(self._streams),
            "broker_rooms_behind": sum(not stream.live for stream in self._streams.values()),
            "broker_history_bytes": self.budget.used,
            "broker_waiting": self._waits,
            "broker_waiting_bytes": self._waits_bytes,
            "broker_questions": len(self.pacer) + self.pacer.running,
            "broker_gaps_total": self.gaps,
            "broker_lost_total": self._lost,
            "broker_refused_total": self._refused,
            "broker_strange_total": self._strange,
        }

    # -- the wiring's ---------------------------------------------------------------------------------------

    def forget_worker(self, worker: str) -> None:
        """Take a worker for gone, until it is welcome: what it shared goes, here and in Redis."""
        self._gone[worker] = None
        if len(self._gone) > GONE_MAX:
            self._gone.popitem(last=False)
        for stream in tuple(self._sharing.get(worker, ())):
            stream.shares.drop(worker)

    def welcome_worker(self, worker: str) -> None:
        """Take a worker for alive, that was taken for gone and has come back."""
        self._gone.pop(worker, None)

    def share_again(self) -> None:
        """Tell the others anew what this worker shares: they took it for gone. A slice a tick."""
        self._untold = deque(self._streams.values())

    async def close(self) -> None:
        """Ask nothing more."""
        await self.pacer.close()

    # -- what kinds say -------------------------------------------------------------------------------------

    def keep_of(self, kind: RoomKind) -> tuple[int, int]:
        """Return how many publications, and bytes of them, rooms of a kind keep."""
        messages, size = self._history
        return (
            messages if kind.history_messages is None else kind.history_messages,
            size if kind.history_bytes is None else kind.history_bytes,
        )

    def terms_of(self, kind: RoomKind) -> tuple[Argument, ...]:
        """Return what `rt1_publish` is told with every blob of a kind."""
        messages, size = self.keep_of(kind)
        if not messages or not size:
            messages, size = GAP_MESSAGES, 64 * KB
        return (self.window_ms, max(messages, GAP_MESSAGES), size, int(self.is_lasting(kind)))

    def reader(self, room: RoomId, kind: RoomKind) -> RoomReader:
        """Return what reads the entries of a room that nobody here need be in."""
        names = RoomNames(self.prefix, room)
        return RoomReader(self, room, names, self.keep_of(kind), _nowhere, self.seal_of(room))

    def seal_of(self, room: RoomId) -> RoomSeal | None:
        """Return what seals and opens a room's records; None where no worker does."""
        return None if self.seals is None else self.seals.of(room)

    def is_lasting(self, kind: RoomKind) -> bool:
        """Whether a store has what rooms of the kind have published."""
        return kind.durable and self.opening is not None

    def sequence(self, room: RoomId, kind: RoomKind, epoch: bytes, offset: int = 0) -> Sequence:
        """Return an empty order that keeps as much as the kind says, or else the settings."""
        messages, size = self.keep_of(kind)
        return Sequence(json_string(room.room), epoch, messages, size, self.budget, offset)

    # -- asking Redis ---------------------------------------------------------------------------------------

    async def ask(self, slot: int, *command: Argument) -> Any:
        """Return Redis' answer.

        Raises:
            Unavailable: none, or a refusal.
            RedisError: NOFLOOR.
        """
        try:
            return await self.redis.ask(slot, *command)
        except RedisError as error:
            if error.code == "NOFLOOR":
                raise
            self._complain("Redis refuses %s: %s", command[:2], error)
            raise Unavailable("Redis refuses a question", retry_after_s=RETRY_S) from error

    async def position(self, room: RoomId, kind: RoomKind, names: RoomNames) -> tuple[int, int, int]:
        """Return where a room is: epoch, offset, and the offset before the epoch's first.

        Raises:
            Unavailable: no answer.
        """
        lasting = int(self.is_lasting(kind))
        try:
            reply = await self.ask(
                names.slot, b"FCALL", b"rt1_position", 2, names.meta, names.stream, self.window_ms, lasting
            )
        except RedisError as error:
            return await self.open_epoch(room, names, error)
        return int(reply[0]), reply[1], reply[2]

    async def open_epoch(self, room: RoomId, names: RoomNames, needed: RedisError) -> tuple[int, int, int]:
        """Begin a durable room's epoch as the store says, unless another worker has; as `position`.

        `needed` is the NOFLOOR that Redis has answered.

        Raises:
            Unavailable: the store or Redis gives no answer.
        """
        assert self.opening is not None
        offset, epoch, nonce = needed.message.split()
        opening = await self.opening(Need(room, int(offset), int(epoch), nonce))
        reply = await self.ask(
            names.slot,
            *(b"FCALL", b"rt1_open", 2, names.meta, names.stream),
            *(self.window_ms, opening.offset, opening.epoch),
        )
        return int(reply[0]), reply[1], reply[2]

    # -- the writers' and the streams' ----------------------------------------------------------------------

    def admit(self, size: int) -> None:
        """Count one more publication that waits.

        Raises:
            Unavailable: too much waits for Redis.
        """
        if self._waits >= self._waiting_messages or self._waits_bytes + size > self._waiting_bytes:
            self._refused += 1
            raise Unavailable("too much waits for Redis", retry_after_s=RETRY_S)
        self._waits += 1
        self._waits_bytes += size

    def dismiss(self, size: int) -> None:
        """Count one less."""
        self._waits -= 1
        self._waits_bytes -= size

    def flush_soon(self, writer: Writer) -> None:
        """Flush `writer` at the end of this turn of the event loop."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(writer)

    def rest(self, writer: Writer) -> None:
        """Forget a writer that has nothing to do, once there are too many of them."""
        if writer.stream is not None or writer.busy:
            return
        self._idle[writer.room] = writer
        self._idle.move_to_end(writer.room)
        while len(self._idle) > IDLE_WRITERS:
            room, oldest = self._idle.popitem(last=False)
            if oldest.stream is None and not oldest.busy:
                del self._writers[room]

    def forget(self, stream: RedisStream, writer: Writer) -> None:
        """Forget a stream that was closed."""
        del self._streams[stream.room]
        self.rest(writer)

    def time_out(self, stream: RedisStream, waiting: Pending[bool]) -> None:
        """Refuse those that wait for `stream` after `timeout_s`."""
        self._timeouts.append((self._clock.monotonic() + self._timeout_s, (stream, waiting)))

    def doubt(self, stream: RedisStream) -> None:
        """Look after a while whether what there is has come to `stream`."""
        self._doubts.append((self._clock.monotonic() + DOUBT_S, stream))

    def retry_later(self, stream: RedisStream) -> None:
        """Let `stream` ask again after a while."""
        self._retries.append((self._clock.monotonic() + RETRY_S, stream))

    def judge_later(self, shares: Shares) -> None:
        """Decide after a while on workers that are not known to be alive."""
        self._judgements.append((self._clock.monotonic() + JUDGE_S, shares))

    def share_later(self, room: RoomId, shares: Shares) -> None:
        """Write after a while what could not be written."""
        self._unshared.append((self._clock.monotonic() + RETRY_S, (room, shares)))

    def note_shared(self, worker: str, stream: RedisStream, *, shares: bool) -> None:
        """Know where a worker shares something."""
        if shares:
            self._sharing.setdefault(worker, set()).add(stream)
        elif worker in self._sharing:
            self._sharing[worker].discard(stream)
            if not self._sharing[worker]:
                del self._sharing[worker]

    def is_gone(self, worker: str) -> bool:
        """Whether a worker is known to be gone."""
        return worker in self._gone

    def is_alive(self, worker: str) -> bool:
        """Whether a worker is known to be alive, or cannot be known not to be."""
        return self.alive is None or self.alive(worker)

    def note_refusal(self, room: RoomId, error: Exception) -> None:
        """Tell that Redis refused publications."""
        self._refused += 1
        self._complain("%s: Redis refuses publications: %s", room.room, error)

    def note_strange(self, room: RoomId) -> None:
        """Tell that what came over a room's channel is none of ours."""
        if not self._strange:
            log.error("%s: somebody else publishes on our channel", room.room)
        self._strange += 1

    def count_lost(self, count: int) -> None:
        """Count publications that could not be fetched."""
        self._lost += count

    def _complain(self, message: str, *words: object) -> None:
        """Log an error, but no more than one in a while: all rooms may have it at once."""
        now = self._clock.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            log.error(message, *words)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for writer in dirty:
            writer.flush()

    def _writer(self, room: RoomId, kind: RoomKind) -> Writer:
        writer = self._writers.get(room)
        if writer is None:
            writer = self._writers[room] = Writer(self, room, kind)
        self._idle.pop(room, None)
        return writer


def _nowhere() -> Place:
    return Place(0, 0, 0)


def _due(queue: deque[tuple[float, Item]], now: float) -> list[Item]:
    """Take out what is due."""
    due = []
    while queue and queue[0][0] <= now:
        due.append(queue.popleft()[1])
    return due
