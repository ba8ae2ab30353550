"""The broker of one process whose durable rooms outlive it: their order stands in a `Store`.

Durable kinds get a `DurableStream` on the store, all others are the memory broker's as before. Here is which
rooms are loaded, and what they may hold together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterator, Mapping
from typing import Final

from realtime.backends.broker_memory import KB, MB, MemoryBroker
from realtime.backends.durable_stream import DurableStream
from realtime.backends.idle import IdleRooms
from realtime.backends.storage_usage import StorageMeter
from realtime.core.contracts import (
    Clock,
    Deliver,
    Lost,
    Others,
    Position,
    Receipt,
    Stamp,
    Store,
    Stream,
    StreamState,
    Terms,
)
from realtime.core.kinds import RoomKind
from realtime.ids import RoomId

LOOK_AGAIN_S: Final = 1.0  # how often a room of which nobody knows what is kept asks the store by itself
# Publications that wait for their rooms to be loaded, of all rooms together, and their contents.
WAITING_MAX: Final = 10_000
WAITING_BYTES: Final = 32 * MB


class DurableBroker:
    """Streams of durable kinds stand on `store`, all others are those of `memory`.

    How much of a durable room is in memory is as `memory` says, out of the same budget; the rest is in the
    store. Not much more than `answer_bytes` is read for one answer: a page of history ends there, a larger
    recovery is refused. Of rooms without a subscriber at most `idle_rooms` stay loaded, for
    `recovery_window_s` after their last use; they lose nothing by being forgotten. An idempotency key is good
    for `recovery_window_s`, over restarts too.
    """

    def __init__(
        self,
        memory: MemoryBroker,
        store: Store,
        clock: Clock,
        stamp: Stamp,
        *,
        recovery_window_s: float = 300.0,
        idle_rooms: int = 10_000,
        answer_bytes: int = 512 * KB,
    ) -> None:
        self.memory = memory
        self.store = store
        self.clock = clock
        self.stamp = stamp
        self.recovery_window_s = recovery_window_s
        self.answer_bytes = answer_bytes
        self.storage: StorageMeter | None = None  # whom tenants' storage is counted by
        self.in_flight = 0  # rows that the store has not told of
        self.waiting = 0  # publications whose rooms are being loaded
        self.waiting_bytes = 0
        self.failures = 0  # times that a room had to look what is kept
        self.unknown: set[DurableStream] = set()  # rooms that have still to find out
        self._look_again_at = 0.0
        self._streams: dict[RoomId, DurableStream] = {}
        self._idle = IdleRooms(clock, recovery_window_s, idle_rooms)

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> Stream:
        """Subscribe to `room`, as `Broker.open`. The store is asked when there is something to ask."""
        if not kind.durable:
            return self.memory.open(room, kind, deliver)
        stream = self._stream(room, kind)
        stream.subscribe(deliver)
        self._idle.wake(room)
        return stream

    def publish(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Receipt | Awaitable[Receipt]:
        """Publish to a room whether or not anybody is in it, as `Broker.publish`."""
        if not kind.durable:
            return self.memory.publish(room, kind, type, sender, content, terms)
        stream = self._stream(room, kind)
        try:
            return stream.publish(type, sender, content, terms)
        finally:
            # Only now, when it is busy: were it forgotten before, a second one would give the same offsets.
            if stream.deliver is None:
                self.rest(stream)

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        """Deliver without a place in the order, as `Broker.signal`."""
        stream = self._streams.get(room)
        if not kind.durable:
            self.memory.signal(room, kind, push)
        elif stream is not None:
            stream.signal(push)

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        """There is no memory but this process', as `Broker.expunge`."""

    def drop_history(self, room: RoomId) -> None:
        """Have the next answers from the store, as `Broker.drop_history`."""
        stream = self._streams.get(room)
        if stream is not None:
            stream.drop_history()

    @property
    def busy(self) -> int:
        """What is on its way to the store, or waits for it, as `Broker.busy`."""
        return self.in_flight + self.waiting + sum(1 for each in self._streams.values() if each.busy)

    def export(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return what is not in the store, as `Broker.export`: the rooms that are not durable."""
        return self.memory.export(known)

    def adopt(self, state: StreamState, kind: RoomKind) -> None:
        """Take over a room, as `Broker.adopt`. One that has become durable begins anew, in the store."""
        if not kind.durable:
            self.memory.adopt(state, kind)

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget the others, as `Broker.keep_only`."""
        self.memory.keep_only(rooms)

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """Those that are not durable, as `Broker.kept_rooms`."""
        return self.memory.kept_rooms

    def rest(self, stream: DurableStream) -> None:
        """Count a stream without a subscriber as just used."""
        self._idle.rest(stream.room)
        if self._idle.too_many:
            self._forget_oldest()

    @property
    def full(self) -> bool:
        """Whether no more publications may wait for their rooms."""
        return self.waiting >= WAITING_MAX or self.waiting_bytes >= WAITING_BYTES

    def tick(self) -> None:
        """Forget streams unused for longer than the recovery window, and earlier where memory runs short.

        What is forgotten here is in the store, so these go before the memory broker's.
        """
        for _ in range(len(self._idle)):
            if not (self._idle.due or self.memory.short):
                break
            self._forget_oldest()
        now = self.clock.monotonic()
        if self.unknown and now >= self._look_again_at:
            self._look_again_at = now + LOOK_AGAIN_S
            for stream in tuple(self.unknown):
                stream.look()
        self.memory.tick()

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics: those of both brokers and of the store."""
        memory = self.memory.stats()
        return {
            **self.store.stats(),
            **memory,
            **({} if self.storage is None else self.storage.stats()),
            "broker_rooms": memory["broker_rooms"] + len(self._streams),
            "broker_idle_rooms": memory["broker_idle_rooms"] + len(self._idle),
            "broker_durable_rooms": len(self._streams),
            "broker_in_flight": self.in_flight,
            "broker_waiting": self.waiting,
            "broker_unknown_rooms": len(self.unknown),
            "broker_failures_total": self.failures,
        }

    def _stream(self, room: RoomId, kind: RoomKind) -> DurableStream:
        stream = self._streams.get(room)
        if stream is None:
            stream = self._streams[room] = DurableStream(self, room, kind)
        return stream

    def _forget_oldest(self) -> None:
        room = self._idle.pop()
        if self._streams[room].busy:
            self._idle.rest(room)
        else:
            self._streams.pop(room).forget()
