"""Rooms that nobody is subscribed to: which of them a broker may forget, and when."""

from __future__ import annotations

from collections import OrderedDict

from realtime.core.contracts import Clock
from realtime.ids import RoomId


class IdleRooms:
    """Rooms by when they were last used, longest ago first; at most `rooms_max` for at most `window_s`."""

    __slots__ = ("_clock", "_rooms_max", "_used_at", "_window_s")

    def __init__(self, clock: Clock, window_s: float, rooms_max: int) -> None:
        self._clock = clock
        self._window_s = window_s
        self._rooms_max = rooms_max
        self._used_at: OrderedDict[RoomId, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used_at)

    def rest(self, room: RoomId) -> None:
        """Count a room as just used."""
        self._used_at[room] = self._clock.monotonic()
        self._used_at.move_to_end(room)

    def used_at(self, room: RoomId) -> float | None:
        """Return when a room was last used, in monotonic seconds; None of one that somebody subscribes to."""
        return self._used_at.get(room)

    def adopt(self, room: RoomId, used_at: float) -> None:
        """Count a room as used when another process said so; those used earlier come first."""
        self._used_at[room] = used_at

    def in_order(self) -> list[RoomId]:
        """Return the rooms, longest ago first."""
        return list(self._used_at)

    def wake(self, room: RoomId) -> None:
        """Take out a room that somebody subscribes to."""
        self._used_at.pop(room, None)

    def pop(self) -> RoomId:
        """Take out the room that has been unused for longest."""
        return self._used_at.popitem(last=False)[0]

    @property
    def too_many(self) -> bool:
        """Whether there are more than `rooms_max`."""
        return len(self._used_at) > self._rooms_max

    @property
    def due(self) -> bool:
        """Whether there is one that has been unused for longer than the window."""
        if not self._used_at:
            return False
        return next(iter(self._used_at.values())) < self._clock.monotonic() - self._window_s
