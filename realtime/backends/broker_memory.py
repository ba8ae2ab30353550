"""The broker of one process: rooms' order, history and idempotency keys in its memory.

It answers at once. What it keeps is lost with the process: a new one gives each room a new epoch, which tells
clients so. What must outlive it is `broker_durable`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping

from realtime.backends.idle import IdleRooms
from realtime.backends.keys import KeyRing, RoomKeys
from realtime.core.contracts import (
    STATE_BYTES,
    Clock,
    Deliver,
    Lost,
    Others,
    Page,
    Position,
    Receipt,
    Recovery,
    Stamp,
    StreamState,
    Terms,
)
from realtime.core.history import missed, page
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict
from realtime.ids import RoomId
from realtime.native.encode import json_string
from realtime.native.sequence import Budget, Sequence

KB = 1024
MB = 1024 * KB
MEMORY_SHORT = 0.9  # of `memory_bytes`: from here on, unused rooms go before their time


def new_epoch() -> bytes:
    """Return a name no other order has: 8 characters, 48 random bits."""
    return secrets.token_urlsafe(6).encode()


class MemoryBroker:
    """Streams by room. One without a subscriber is kept for `recovery_window_s` after its last use.

    `history_messages` and `history_bytes` bound each room of a kind that says nothing itself. All rooms
    together keep at most `memory_bytes`, and at most `idle_rooms` without a subscriber: those unused for
    longest go first, and when there are none left to go, a room that publishes gives up history of its own.
    Idempotency keys are remembered for the recovery window, whatever is still kept.
    """

    def __init__(
        self,
        clock: Clock,
        stamp: Stamp,
        *,
        history_messages: int = 1000,
        history_bytes: int = 1 * MB,
        recovery_window_s: float = 300.0,
        idle_rooms: int = 10_000,
        memory_bytes: int = 256 * MB,
        epochs: Callable[[], bytes] = new_epoch,
    ) -> None:
        self.stamp = stamp
        self._history_messages = history_messages
        self._history_bytes = history_bytes
        self._epochs = epochs
        self._streams: dict[RoomId, MemoryStream] = {}
        self._idle = IdleRooms(clock, recovery_window_s, idle_rooms)
        # A broker around this one shares both, so that they hold for all rooms together.
        self.budget = Budget(memory_bytes)
        self.keys = KeyRing(clock, recovery_window_s)

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> MemoryStream:
        """Subscribe to `room`, as `Broker.open`. Nothing is lost here, and there is no other worker."""
        stream = self._stream(room, kind)
        assert stream.sequence.deliver is None, f"{room} is subscribed to already"
        stream.sequence.deliver = deliver
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
    ) -> Receipt:
        """Publish to a room whether or not anybody is in it, as `Broker.publish`."""
        stream = self._stream(room, kind)
        receipt = stream.publish(type, sender, content, terms)
        if stream.sequence.deliver is None:
            self.rest(stream)
        return receipt

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        """Deliver without a place in the order, as `Broker.signal`."""
        stream = self._streams.get(room)
        if stream is not None:
            stream.signal(push)

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        """No room here is durable, or has anything but this memory."""

    def drop_history(self, room: RoomId) -> None:
        """As `expunge`."""

    def rest(self, stream: MemoryStream) -> None:
        """Count a stream without a subscriber as just used."""
        self._idle.rest(stream.room)
        if self._idle.too_many:
            self._forget_oldest()

    def tick(self) -> None:
        """Forget streams unused for longer than the recovery window, and earlier where memory runs short."""
        while self._idle and (self._idle.due or self.short):
            self._forget_oldest()
        self.keys.tick()

    @property
    def busy(self) -> int:
        """Nothing is ever on its way here, as `Broker.busy`."""
        return 0

    def export(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return what is kept, as `Broker.export`: idle rooms in the order in which they go."""
        idle = self._idle.in_order()
        live = self._streams.keys() - set(idle)
        for room in (*idle, *live):
            stream = self._streams.get(room)  # it may have gone between two slices
            if stream is not None:
                yield from stream.export(known.get(room), self._idle.used_at(room))

    def adopt(self, state: StreamState, kind: RoomKind) -> None:
        """Take over a room, as `Broker.adopt`."""
        room = RoomId(state.tenant, state.room)
        stream = self._streams.get(room)
        if stream is not None and stream.sequence.epoch != state.epoch:
            self._streams.pop(room).keys.clear()
            stream = None
        if stream is None:
            order = self.sequence(room, kind, state.epoch, state.offset)
            stream = self._streams[room] = MemoryStream(self, room, order)
        elif state.offset > stream.sequence.offset:  # what lies between is not kept any more
            stream.sequence = self.sequence(room, kind, state.epoch, state.offset)
        stream.adopt(state)
        if state.used_at is None:
            self._idle.wake(room)
        else:
            self._idle.adopt(room, state.used_at)

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget the others, as `Broker.keep_only`."""
        for room in self._streams.keys() - set(rooms):
            self._streams.pop(room).keys.clear()
            self._idle.wake(room)

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """All that there are, as `Broker.kept_rooms`."""
        return self._streams.keys()

    @property
    def short(self) -> bool:
        """Whether memory runs short."""
        return self.budget.used > self.budget.limit * MEMORY_SHORT

    def sequence(self, room: RoomId, kind: RoomKind, epoch: bytes, offset: int = 0) -> Sequence:
        """Return an empty order that keeps as much as the kind says, or else the settings."""
        messages = self._history_messages if kind.history_messages is None else kind.history_messages
        size = self._history_bytes if kind.history_bytes is None else kind.history_bytes
        return Sequence(json_string(room.room), epoch, messages, size, self.budget, offset)

    def stats(self) -> dict[str, int]:
        """Gauges for /metrics."""
        return {
            "broker_rooms": len(self._streams),
            "broker_idle_rooms": len(self._idle),
            "broker_history_bytes": self.budget.used,
            "broker_keys": self.keys.count,
        }

    def _stream(self, room: RoomId, kind: RoomKind) -> MemoryStream:
        stream = self._streams.get(room)
        if stream is None:
            sequence = self.sequence(room, kind, self._epochs())
            stream = self._streams[room] = MemoryStream(self, room, sequence)
        return stream

    def _forget_oldest(self) -> None:
        self._streams.pop(self._idle.pop()).keys.clear()


class MemoryStream:
    """One room's order and recent history."""

    __slots__ = ("_broker", "fence", "keys", "room", "sequence")

    def __init__(self, broker: MemoryBroker, room: RoomId, sequence: Sequence) -> None:
        self.room = room
        self.sequence = sequence
        self.fence = 0  # the highest ring version that has written
        self.keys = RoomKeys(broker.keys)
        self._broker = broker

    def publish(self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None) -> Receipt:
        """Order, keep and deliver one publication, as `Stream.publish`."""
        sequence = self.sequence
        if terms is not None:
            first = self._weigh(sender, terms)
            if first is not None:
                return first, sequence.epoch, True
        offset = sequence.publish(type, sender, content, self._broker.stamp.timestamp)
        return offset, sequence.epoch, False

    def recover(self, since: Position | None) -> Recovery:
        """Return the position and what was missed, as `Stream.recover`."""
        sequence = self.sequence
        messages = None if since is None else missed(sequence, since)
        return Recovery(sequence.offset, sequence.epoch, messages is not None, messages or ())

    def history(self, before: int | None, after: int | None, limit: int) -> Page:
        """Return a page of what is kept, as `Stream.history`."""
        return page(self.sequence, before, after, limit)

    def signal(self, push: bytes) -> None:
        """Deliver without a place in the order, as `Stream.signal`."""
        if self.sequence.deliver is not None:
            self.sequence.deliver(push, 0)

    def share(self, entry: bytes | None) -> None:
        """There is nobody else."""

    def export(self, known: Position | None, used_at: float | None) -> Iterator[StreamState]:
        """Return what is kept above what is `known`, in slices, as `Broker.export`."""
        order = self.sequence
        after = known.offset if known is not None and known.epoch == order.epoch else 0
        start = max(after, order.first - 1)
        keys = self.keys.export(after)
        for pushes in in_slices(order.between(start + 1, order.offset)):
            yield StreamState(*self.room, order.epoch, start, pushes, self.fence, keys, used_at)
            start += len(pushes)
            keys = []

    def adopt(self, state: StreamState) -> None:
        """Take over a slice. Raises ValueError: it does not follow what is here."""
        order = self.sequence
        if state.offset != order.offset:
            raise ValueError(f"{self.room}: what comes after {state.offset} does not follow {order.offset}")
        for push in state.pushes:
            order.append(push)
        self.fence = max(self.fence, state.fence)
        now = self._broker.keys.clock.monotonic()
        for sender, key, offset, when in state.keys:
            self.keys.add(sender, key, offset, now - when)

    def close(self) -> None:
        """End the subscription; position and history stay for the recovery window."""
        self.sequence.deliver = None
        self._broker.rest(self)

    def _weigh(self, sender: bytes | None, terms: Terms) -> int | None:
        """Return the offset of the publication that this one repeats, None if it may go ahead."""
        offset = self.sequence.offset
        if terms.key is not None:
            first = self.keys.find(sender, terms.key)
            if first is not None:
                return first
        weigh(terms, offset, self.fence)
        if terms.fence is not None:
            self.fence = terms.fence
        if terms.key is not None:
            self.keys.add(sender, terms.key, offset + 1)
        return None


def in_slices(pushes: list[bytes]) -> Iterator[list[bytes]]:
    """Yield them in lists of about `STATE_BYTES`; one, which is empty, of none."""
    some: list[bytes] = []
    size = 0
    for push in pushes:
        some.append(push)
        size += len(push)
        if size > STATE_BYTES:
            yield some
            some, size = [], 0
    if some or not pushes:
        yield some


def weigh(terms: Terms, offset: int, fence: int) -> None:
    """Raise Conflict where a room at `offset`, last written under `fence`, does not meet the terms."""
    if terms.fence is not None and terms.fence < fence:
        raise Conflict(f"the room has a newer owner: ring version {fence}, not {terms.fence}")
    if terms.expect is not None and terms.expect != offset:
        raise Conflict(f"the room is at offset {offset}, not {terms.expect}")
