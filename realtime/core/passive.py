"""Passive members: they are in a room and get its count instead of its messages, as a hidden tab does.

Such a member is out of the room's logs, so no publication costs anything for it; it costs one look a second.
What it did not get it catches up by its position when it turns active.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.contracts import Clock
from realtime.native.encode import encode_reply

if TYPE_CHECKING:
    from realtime.core.room import Room
    from realtime.core.session import Session

UNREAD_INTERVAL_S: Final = 1.0  # a member is told at most once in it
# Looked at in one tick, of which there are ten a second: 1 to 2 ms, beside which the rest is not held up.
LOOKS_PER_TICK: Final = 1000


class RestState(msgspec.Struct, array_like=True, gc=False):
    """A `Rest`, handed over: `connection` is its member's, `due` in monotonic seconds."""

    connection: int
    since: int
    epoch: bytes | None
    told: int
    before: int
    due: float


class Rest:
    """One member that is passive in one room: from which offset on, and what it was told last.

    `epoch` is None from the end of one to the next publication; `before` counts those of epochs that ended.
    """

    __slots__ = ("before", "due", "epoch", "room", "session", "since", "told")

    def __init__(self, session: Session, room: Room, since: int, epoch: bytes) -> None:
        self.session = session
        self.room = room
        self.since = since
        self.epoch: bytes | None = epoch
        self.told = since
        self.before = 0
        self.due = 0.0

    def export(self) -> RestState:
        """Return it, for another process."""
        number = self.session.connection.id
        return RestState(number, self.since, self.epoch, self.told, self.before, self.due)

    @classmethod
    def adopted(cls, session: Session, room: Room, state: RestState) -> Rest:
        """Make the one that another process had."""
        rest = cls(session, room, state.since, b"")
        rest.epoch, rest.told, rest.before, rest.due = state.epoch, state.told, state.before, state.due
        return rest

    def tell(self) -> None:
        """Push `unread` where there is something new."""
        offset = self.room.offset
        if self.epoch is None or offset <= self.told:
            return
        self.told = offset
        count = self.before + offset - self.since
        content = b'{"count":%d,"offset":%d,"epoch":"%b"}' % (count, offset, self.epoch)
        self.session.send(encode_reply("unread", None, self.room.json, content))

    def end_epoch(self) -> None:
        """Tell what is still to be told of the epoch: its offsets end here."""
        self.tell()
        if self.epoch is not None:
            self.before += max(0, self.told - self.since)
            self.epoch = None

    def begin_epoch(self, offset: int, epoch: bytes) -> None:
        """Go on counting after `offset` of another epoch."""
        self.since = self.told = offset
        self.epoch = epoch


class Passives:
    """All passive members of this worker, those first that are to be looked at first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._resting: OrderedDict[Rest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._resting)

    def add(self, session: Session, room: Room, offset: int, epoch: bytes) -> None:
        """Make a member passive at the room's present position."""
        rest = Rest(session, room, offset, epoch)
        rest.due = self._clock.monotonic() + UNREAD_INTERVAL_S
        self._resting[rest] = None
        room.rest(session, rest)

    def adopt(self, rests: list[Rest]) -> None:
        """Look at members too that were passive in another process; their rooms know of them."""
        for rest in sorted(rests, key=lambda each: each.due):
            self._resting[rest] = None

    def forget(self, session: Session, room: Room) -> None:
        """Count nothing more for a member that turns active or leaves; nothing where it is not passive."""
        rest = room.passive.get(session)
        if rest is not None:
            del self._resting[rest]

    def tell(self) -> None:
        """Push `unread` to whom it is due and for whom there is something new."""
        now = self._clock.monotonic()
        resting = self._resting
        for _ in range(min(len(resting), LOOKS_PER_TICK)):
            rest = next(iter(resting))
            if rest.due > now:
                return
            rest.due = now + UNREAD_INTERVAL_S
            resting.move_to_end(rest)
            rest.tell()


class _Push(msgspec.Struct):
    epoch: str


_decode_push = msgspec.json.Decoder(_Push).decode


def epoch_of(push: bytes) -> bytes:
    """Return the epoch that a push, as JSON, is in."""
    return _decode_push(push).epoch.encode()
