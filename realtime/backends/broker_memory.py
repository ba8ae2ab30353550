"""The broker of one process: rooms' order, history and idempotency keys in its memory.

It answers at once. What it keeps is lost with the process: a new one gives each room a new epoch, which tells
clients so. Durable kinds need a broker that stands on a store.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable

from realtime.core.contracts import (
    Clock,
    Deliver,
    Page,
    Position,
    Receipt,
    Recovery,
    RoomKey,
    Stamp,
    Terms,
)
from realtime.core.history import missed, page
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict
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
        self._clock = clock
        self._history_messages = history_messages
        self._history_bytes = history_bytes
        self._recovery_window_s = recovery_window_s
        self._idle_rooms = idle_rooms
        self._epochs = epochs
        self._streams: dict[RoomKey, MemoryStream] = {}
        self._budget = Budget(memory_bytes)
        # Since when nobody is subscribed to a stream or has published to it, longest first.
        self._idle: OrderedDict[RoomKey, float] = OrderedDict()

    def open(self, room: RoomKey, kind: RoomKind, deliver: Deliver) -> MemoryStream:
        """Subscribe to `room`, as `Broker.open`."""
        stream = self._stream(room, kind)
        assert stream.sequence.deliver is None, f"{room} is subscribed to already"
        stream.sequence.deliver = deliver
        self._idle.pop(room, None)
        return stream

    def publish(
        self,
        room: RoomKey,
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

    def rest(self, stream: MemoryStream) -> None:
        """Count a stream without a subscriber as just used."""
        self._idle[stream.room] = self._clock.monotonic()
        self._idle.move_to_end(stream.room)
        if len(self._idle) > self._idle_rooms:
            self._forget_oldest()

    def tick(self) -> None:
        """Forget streams unused for longer than the recovery window, and earlier where memory runs short."""
        oldest = self._clock.monotonic() - self._recovery_window_s
        short = self._budget.limit * MEMORY_SHORT
        while self._idle and (next(iter(self._idle.values())) < oldest or self._budget.used > short):
            self._forget_oldest()

    def stats(self) -> dict[str, int]:
        """Gauges for /metrics."""
        return {
            "broker_rooms": len(self._streams),
            "broker_idle_rooms": len(self._idle),
            "broker_history_bytes": self._budget.used,
        }

    def _stream(self, room: RoomKey, kind: RoomKind) -> MemoryStream:
        stream = self._streams.get(room)
        if stream is None:
            messages = self._history_messages if kind.history_messages is None else kind.history_messages
            size = self._history_bytes if kind.history_bytes is None else kind.history_bytes
            sequence = Sequence(json_string(room.room), self._epochs(), messages, size, self._budget)
            stream = self._streams[room] = MemoryStream(self, room, sequence)
        return stream

    def _forget_oldest(self) -> None:
        room, _ = self._idle.popitem(last=False)
        del self._streams[room]


class MemoryStream:
    """One room's order and recent history."""

    __slots__ = ("_broker", "_taken", "fence", "room", "sequence")

    def __init__(self, broker: MemoryBroker, room: RoomKey, sequence: Sequence) -> None:
        self.room = room
        self.sequence = sequence
        self.fence = 0  # the highest ring version that has written
        self._broker = broker
        # Offsets by (sender, key), oldest first; those whose publications are not kept any more go with them.
        self._taken: OrderedDict[tuple[bytes | None, str], int] = OrderedDict()

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

    def close(self) -> None:
        """End the subscription; position and history stay for the recovery window."""
        self.sequence.deliver = None
        self._broker.rest(self)

    def _weigh(self, sender: bytes | None, terms: Terms) -> int | None:
        """Return the offset of the publication that this one repeats, None if it may go ahead.

        A key is its sender's own: nobody can take another's words away by guessing it.
        """
        sequence = self.sequence
        taken = self._taken
        if terms.key is not None:
            while taken and next(iter(taken.values())) < sequence.first:
                taken.popitem(last=False)
            first = taken.get((sender, terms.key))
            if first is not None:
                return first
        if terms.fence is not None and terms.fence < self.fence:
            raise Conflict(f"the room has a newer owner: ring version {self.fence}, not {terms.fence}")
        if terms.expect is not None and terms.expect != sequence.offset:
            raise Conflict(f"the room is at offset {sequence.offset}, not {terms.expect}")
        if terms.fence is not None:
            self.fence = terms.fence
        if terms.key is not None:
            taken[sender, terms.key] = sequence.offset + 1
        return None
