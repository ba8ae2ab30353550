"""Rows that were ordered and delivered, and are not known to be kept: written again until they are.

Redis still has them for the recovery window. What this process forgets, because it ends or has too much to
remember, is written by whoever reads over the hole (`deep`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from realtime.backends.cluster.names import RoomNames, epoch_number, epoch_text
from realtime.backends.cluster.ordering import Entry
from realtime.backends.groups import Superseded
from realtime.backends.redis_client.contract import RedisError
from realtime.core.contracts import Clock, Position, Row
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.backends.cluster.broker import RedisBroker
    from realtime.backends.cluster.pacer import Pacer
    from realtime.backends.sealing.store import SharedStore

log: Final = logging.getLogger("realtime.broker")

MEND_S: Final = 1.0  # how often it is tried
LOOK_S: Final = 5.0  # after which an order that the store has left behind is looked at
ROOMS_MAX: Final = 10_000  # with holes; of more the oldest are forgotten
ROWS: Final = 200  # of one room that are read and written at once


class Hole(NamedTuple):
    """Where a room's rows are missing: from the first of them to the last, over epochs."""

    kind: RoomKind
    first: Position
    last: Position


class Mender:
    """Fills the holes that this worker knows of."""

    def __init__(self, ordering: RedisBroker, store: SharedStore, clock: Clock, pacer: Pacer) -> None:
        self.mended = 0
        self._ordering = ordering
        self._store = store
        self._clock = clock
        self._pacer = pacer
        self._holes: OrderedDict[RoomId, Hole] = OrderedDict()
        self._outrun: OrderedDict[RoomId, tuple[float, RoomKind, int]] = OrderedDict()
        self._due = 0.0

    def __len__(self) -> int:
        """In how many rooms something is missing."""
        return len(self._holes)

    def note(self, room: RoomId, kind: RoomKind, position: Position) -> None:
        """Remember that the row at `position` may be missing."""
        hole = self._holes.get(room)
        if hole is None:
            hole = Hole(kind, position, position)
        self._holes[room] = Hole(
            kind, min(hole.first, position, key=_place), max(hole.last, position, key=_place)
        )
        if len(self._holes) > ROOMS_MAX:
            forgotten, _ = self._holes.popitem(last=False)
            log.warning("%s: rows are missing until somebody reads them", forgotten.room)

    def note_outrun(self, room: RoomId, kind: RoomKind, position: Position) -> None:
        """The store has gone on in a newer epoch than `position`'s: look whether Redis has, too.

        It has not heard of a failover yet, as a rule; or its clock was set back, and it never would.
        """
        due = self._clock.monotonic() + LOOK_S
        self._outrun.setdefault(room, (due, kind, epoch_number(position.epoch)))
        if len(self._outrun) > ROOMS_MAX:
            self._outrun.popitem(last=False)

    def tick(self) -> None:
        """Try again what is due."""
        now = self._clock.monotonic()
        if now < self._due:
            return
        self._due = now + MEND_S
        holes, self._holes = self._holes, OrderedDict()
        for room, hole in holes.items():
            self._pacer.add(partial(self._mend, room, hole))
        while self._outrun and next(iter(self._outrun.values()))[0] <= now:
            room, (_, kind, epoch) = self._outrun.popitem(last=False)
            self._pacer.add(partial(self._overtake, room, kind, epoch))

    async def keep(self, room: RoomId, entries: list[Entry]) -> None:
        """Write what Redis has of some publications.

        Raises:
            Unavailable: not all of it is kept; Superseded where it never will be.
        """
        pending = []
        for each in entries:
            done: Pending[bool] = Pending()
            row = Row(room, each.position, each.push, each.sender, each.key, each.at_ms)
            self._store.append(row, partial(_settle, done))
            pending.append(done)
        failed = None
        for done in pending:
            try:
                await done
            except Unavailable as error:
                failed = error
        if failed is not None:
            raise failed

    async def _mend(self, room: RoomId, hole: Hole) -> None:
        at, last = Position(hole.first.offset - 1, hole.first.epoch), _place(hole.last)
        reader = self._ordering.reader(room, hole.kind)
        while True:
            try:
                entries = await reader.entries(at, ROWS, hole.last)
                entries = [each for each in entries if _place(each.position) <= last]
                await self.keep(room, entries)
            except Superseded:
                pass  # those are nobody's any more; the others of them are kept
            except Unavailable:
                self.note(room, hole.kind, Position(at.offset + 1, at.epoch))
                self.note(room, hole.kind, hole.last)
                return
            self.mended += len(entries)
            if len(entries) < ROWS:
                return
            at = entries[-1].position

    async def _overtake(self, room: RoomId, kind: RoomKind, epoch: int) -> None:
        """Open an epoch above the store's, where Redis is still in the one that the store has left behind."""
        ordering = self._ordering
        names = RoomNames(ordering.prefix, room)
        try:
            now, offset, _ = await ordering.position(room, kind, names)
            if now == epoch:
                log.warning("%s: the store is in a newer epoch than Redis; beginning another", room.room)
                needed = RedisError("NOFLOOR", f"{offset} {epoch + 1} overtaken")
                await ordering.open_epoch(room, names, needed)
        except Unavailable:
            self.note_outrun(room, kind, Position(offset=0, epoch=epoch_text(epoch)))


def _place(position: Position) -> tuple[int, int]:
    return epoch_number(position.epoch), position.offset


def _settle(done: Pending[bool], row: Row, error: Unavailable | None) -> None:
    done.settle(True if error is None else error)
