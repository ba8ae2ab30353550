"""Idempotency keys: which publication a sender has used a key for, for as long as it may be repeated.

A key is remembered for `window_s`, whether or not its publication is still in memory. The number is bounded,
for a room and for all together: above that the oldest are forgotten before their time, and a repeat of one of
them is published again.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import Final

from realtime.core.contracts import Clock

KEYS_PER_ROOM: Final = 100_000
KEYS_TOGETHER: Final = 400_000  # about 250 bytes each
# A room that has fewer does not pay when there are too many together: the largest of the next few does.
KEYS_SPARED: Final = 1_000
ROOMS_COMPARED: Final = 8
# Rooms looked at in one tick, in turn: keys past their time in rooms that nobody publishes to.
ROOMS_PER_TICK: Final = 100


class KeyRing:
    """The keys of all rooms of a broker, counted."""

    def __init__(
        self,
        clock: Clock,
        window_s: float,
        *,
        per_room: int = KEYS_PER_ROOM,
        together: int = KEYS_TOGETHER,
    ) -> None:
        self.clock = clock
        self.window_s = window_s
        self.per_room = per_room
        self.together = together
        self.count = 0
        self.rooms: OrderedDict[RoomKeys, None] = OrderedDict()  # those that have any, by whose turn it is

    def tick(self) -> None:
        """Forget what is past its time, in some rooms after others."""
        for _ in range(min(len(self.rooms), ROOMS_PER_TICK)):
            room = next(iter(self.rooms))
            self.rooms.move_to_end(room)
            room.expire()

    def make_place(self, room: RoomKeys) -> None:
        """Forget one key, so that `room` may add one."""
        if len(room) < KEYS_SPARED:
            room = max(islice(self.rooms, ROOMS_COMPARED), key=len)
            self.rooms.move_to_end(room)
        room.forget_oldest()


class RoomKeys:
    """The keys used in one room, each its sender's own: nobody takes another's words away by guessing it."""

    __slots__ = ("_ring", "_used")

    def __init__(self, ring: KeyRing) -> None:
        self._ring = ring
        # (offset, when) by (sender, key), oldest first.
        self._used: OrderedDict[tuple[bytes | None, str], tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def find(self, sender: bytes | None, key: str) -> int | None:
        """Return the offset of the publication that `sender` has used `key` for; None where it is free."""
        self.expire()
        found = self._used.get((sender, key))
        return None if found is None else found[0]

    def add(self, sender: bytes | None, key: str, offset: int, age_s: float = 0.0) -> None:
        """Remember a key that was used `age_s` ago, unless it is known; keys are added by offset."""
        ring, used = self._ring, self._used
        if (sender, key) in used:
            return
        if len(used) >= ring.per_room:
            self.forget_oldest()
        elif ring.count >= ring.together:
            ring.make_place(self)
        if not used:
            ring.rooms[self] = None
        used[sender, key] = (offset, ring.clock.monotonic() - age_s)
        ring.count += 1

    def export(self, after: int) -> list[tuple[bytes | None, str, int, float]]:
        """Return (sender, key, offset, when) of those used above offset `after`, for another process."""
        found = []
        for (sender, key), (offset, when) in reversed(self._used.items()):
            if offset <= after:
                break
            found.append((sender, key, offset, when))
        return found[::-1]

    def expire(self) -> None:
        """Forget what is past its time."""
        used = self._used
        oldest = self._ring.clock.monotonic() - self._ring.window_s
        while used and next(iter(used.values()))[1] < oldest:
            self.forget_oldest()

    def clear(self) -> None:
        """Forget all."""
        while self._used:
            self.forget_oldest()

    def forget_oldest(self) -> None:
        """Forget one key before its time."""
        self._used.popitem(last=False)
        self._ring.count -= 1
        if not self._used:
            del self._ring.rooms[self]
