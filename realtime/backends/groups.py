"""Rows on their way into a store: bounded, taken in groups, told of in order.

All but `take` is called on the event loop's thread; `take` may be called on one other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from realtime.core.contracts import Clock, Kept, Row
from realtime.errors import Unavailable

log: Final = logging.getLogger("realtime.store")

Entry = tuple[Row, Kept]


class Superseded(Unavailable):
    """The room has gone on in a newer epoch below this row's offset: it is not kept, and never will be."""


def key_column(key: str) -> bytes:
    """Return an idempotency key as its column has it: UTF-8, and of one that is sealed its very bytes."""
    return key.encode("utf-8", "surrogateescape")


def key_text(column: bytes) -> str:
    """Return the key of a column; what is no UTF-8 is a sealed one, as `key_column` takes it back."""
    return column.decode("utf-8", "surrogateescape")


ROW_BYTES: Final = 400
"""What a waiting row costs beside its push: tuples, numbers, a callback. For the queue's bound."""


class Bounds:
    """How much waits in all of a store's queues, the groups under way included."""

    __slots__ = ("bytes", "bytes_max", "rows", "rows_max")

    def __init__(self, rows_max: int, bytes_max: int) -> None:
        self.rows = 0
        self.bytes = 0
        self.rows_max = rows_max
        self.bytes_max = bytes_max

    def admit(self, row: Row) -> None:
        """Count one row more.

        Raises:
            Unavailable: it would be too many, or too many bytes.
        """
        size = len(row.push) + ROW_BYTES
        self.check(size)
        self.rows += 1
        self.bytes += size

    def check(self, size: int = ROW_BYTES) -> None:
        """Raise Unavailable where one row of so many bytes more would be too much."""
        if self.rows >= self.rows_max or self.bytes + size > self.bytes_max:
            raise Unavailable("too much waits to be stored; try again", retry_after_s=RETRY_FULL_S)

    def release(self, entries: Sequence[Entry]) -> None:
        """Count these rows no longer."""
        self.rows -= len(entries)
        self.bytes -= sum(len(row.push) for row, _ in entries) + ROW_BYTES * len(entries)


RETRY_FULL_S: Final = 1.0


class Queue:
    """Rows in the order of append, and what becomes of each."""

    __slots__ = ("_bounds", "_waiting")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._waiting: deque[Entry] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, row: Row, kept: Kept) -> None:
        """Queue one row. Raises Unavailable where the bounds are reached."""
        self._bounds.admit(row)
        self._waiting.append((row, kept))

    def take(self, rows_max: int, bytes_max: int) -> list[Entry]:
        """Take the next group: at least one row where there is one, as many as fit."""
        # A deque's append and popleft are atomic: the loop's thread may add to it meanwhile.
        waiting = self._waiting
        group: list[Entry] = []
        size = 0
        for _ in range(min(len(waiting), rows_max)):
            entry = waiting.popleft()
            group.append(entry)
            size += len(entry[0].push)
            if size >= bytes_max:
                break
        return group

    def kept(self, group: Sequence[Entry], refused: Collection[int] = ()) -> None:
        """Tell the owners of a group that it is committed, but for the rows at the indices `refused`."""
        self._bounds.release(group)
        error = Superseded("the room has gone on in a newer epoch") if refused else None
        for index, entry in enumerate(group):
            self._tell_one(entry, error if index in refused else None)

    def failed(self, group: list[Entry], error: Unavailable) -> int:
        """Tell the owners of a group that it is not, and those of all that waits for the same rooms: it would
        leave a hole in their offsets. Nobody may be taking meanwhile. Returns how many rows it was.
        """
        rooms = {row.room for row, _ in group}
        lost = group + [entry for entry in self._waiting if entry[0].room in rooms]
        left = [entry for entry in self._waiting if entry[0].room not in rooms]
        self._waiting.clear()
        self._waiting.extend(left)
        self._tell(lost, error)
        return len(lost)

    def fail_all(self, error: Unavailable) -> int:
        """Tell the owners of all that waits that it is not committed; return how many rows it was."""
        lost = list(self._waiting)
        self._waiting.clear()
        self._tell(lost, error)
        return len(lost)

    def _tell(self, entries: Sequence[Entry], error: Unavailable) -> None:
        self._bounds.release(entries)  # first: an owner may append at once
        for entry in entries:
            self._tell_one(entry, error)

    def _tell_one(self, entry: Entry, error: Unavailable | None) -> None:
        row, kept = entry
        try:
            kept(row, error)
        except Exception:  # one owner's mistake must not keep the news from the others
            log.exception("%s: what waited for offset %d failed", row.room.room, row.position.offset)


class Episode:
    """Whether something works. Logs one line when it stops to, and one when it does again."""

    __slots__ = ("_clock", "_since", "_what")

    def __init__(self, what: str, clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._since: float | None = None

    @property
    def over(self) -> bool:
        return self._since is None

    def begin(self, why: object) -> None:
        """It does not work; `why` is logged if it did until now."""
        if self._since is None:
            self._since = self._clock.monotonic()
            log.error("%s cannot be written: %s", self._what, why)

    def end(self) -> None:
        """It works."""
        if self._since is not None:
            log.warning(
                "%s is written again, after %.1f s", self._what, self._clock.monotonic() - self._since
            )
            self._since = None
