"""What is committed of one durable room: the newest in memory, all of it in the store.

Recovery and history come from memory where that reaches, and else from the store; what one recovery has read
stays in memory for those that come back with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec

from realtime.core.contracts import Deliver, Page, Position, Recovery
from realtime.core.history import missed, page
from realtime.core.pending import Pending
from realtime.errors import Unavailable, Unreadable
from realtime.ids import RoomId
from realtime.native.sequence import Sequence

# Asked of the store first; how many more is known when these show how large they are. Of small ones all come
# with the second question, and of the largest no answer is many times what may be sent.
FIRST_ROWS: Final = 16
PUSH_BYTES_MIN: Final = 100  # no push is smaller: its keys, epoch and timestamp are that much


Placed = tuple[Position, bytes]
"""A push and where it is."""


class Source(Protocol):
    """What has all of it: a store, as far as this needs one."""

    async def read(self, room: RoomId, after: int, limit: int) -> list[Placed]:
        """As `Store.read`."""
        ...

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """As `Store.page`."""
        ...


class KeptOrder:
    """A room's committed publications, from the one after `offset` on in memory as they come.

    `make_ring` makes the part in memory, empty, after an offset. Not much more than `answer_bytes` is read
    of the store for one answer.
    """

    __slots__ = (
        "_answer_bytes",
        "_forgotten",
        "_make_ring",
        "_reading",
        "_ring",
        "_room",
        "_store",
        "_too_far",
    )

    def __init__(
        self,
        room: RoomId,
        store: Source,
        offset: int,
        make_ring: Callable[[int], Sequence],
        answer_bytes: int,
    ) -> None:
        self._room = room
        self._store = store
        self._make_ring = make_ring
        self._answer_bytes = answer_bytes
        self._ring = make_ring(offset)
        self._reading: Pending[bool] | None = None  # the end of the recovery that reads the store
        self._forgotten = 0  # times; what was read before one of them is not kept in memory
        self._too_far = -1  # a recovery since this offset, or one before it, has been found too large

    @property
    def offset(self) -> int:
        """Of the last committed publication."""
        return self._ring.offset

    @property
    def epoch(self) -> bytes:
        """The order that they are in."""
        return self._ring.epoch

    @property
    def ring(self) -> Sequence:
        """The newest ones, in memory."""
        return self._ring

    @property
    def busy(self) -> bool:
        """Whether a recovery is reading."""
        return self._reading is not None

    def deliver_to(self, deliver: Deliver | None) -> None:
        """Deliver from now on, or nothing more."""
        self._ring.deliver = deliver

    def append(self, push: bytes) -> None:
        """Take the next committed publication, and deliver it."""
        self._ring.append(push)

    def skip_to(self, offset: int) -> None:
        """Go on after `offset`, whatever lies between."""
        deliver, self._ring = self._ring.deliver, self._make_ring(offset)
        self._ring.deliver = deliver

    def forget(self) -> None:
        """Have nothing in memory any more: what is asked for from now on is read of the store."""
        self._forgotten += 1
        self.skip_to(self.offset)

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """Return the committed position and what was missed, as `Stream.recover`."""
        recovery = self._recover_now(since)
        if recovery is not None or since is None:
            return recovery or self._refused()
        return self._recover_from_store(since)

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """Return a page, as `Stream.history`: of memory where that has all of it, else of the store."""
        ring = self._ring
        if after is not None:
            covered = after + 1 >= ring.first
        else:
            before = ring.offset + 1 if before is None else min(before, ring.offset + 1)
            # One more than the page has to be there, to know whether it goes on.
            covered = ring.first == 1 or before - limit > ring.first
        if covered:
            return page(ring, before, after, limit)
        return self._page(before, after, limit)

    def _recover_now(self, since: Position | None) -> Recovery | None:
        """Return the recovery if it needs no look at the store."""
        ring = self._ring
        if since is None or since.epoch != ring.epoch or since.offset > ring.offset:
            return self._refused()
        messages = missed(ring, since)
        if messages is not None:
            return Recovery(ring.offset, ring.epoch, True, messages)
        rows_max = self._answer_bytes // PUSH_BYTES_MIN
        if since.offset <= self._too_far or ring.offset - since.offset > rows_max:
            return self._refused()
        return None

    def _refused(self) -> Recovery:
        return Recovery(self._ring.offset, self._ring.epoch, False, ())

    async def _recover_from_store(self, since: Position) -> Recovery:
        """Read what memory does not have. One reads at a time, and those behind it need not read that again.

        A thousand members that come back after a restart ask for much the same at the same moment.
        """
        while self._reading is not None:
            await self._reading
            recovery = self._recover_now(since)
            if recovery is not None:
                return recovery
        reading = self._reading = Pending[bool]()
        outcome: bool | Exception = True  # also where this one is cancelled: the next one reads
        try:
            return await self._read(since)
        except Unreadable:
            return self._refused()  # whole or not at all: whoever pages is told which one it is
        except Unavailable as error:
            outcome = error
            raise
        finally:
            self._reading = None
            reading.settle(outcome)

    async def _read(self, since: Position) -> Recovery:
        """Return what the store has from `since` to where the room is now; refused where that is not all."""
        at, last, size, ask = since.offset, self.offset, 0, FIRST_ROWS
        forgotten = self._forgotten
        messages: list[bytes] = []
        while at < last:
            rows = await self._store.read(self._room, at, min(ask, last - at))
            for position, push in rows:
                at += 1
                if position != Position(at, since.epoch):
                    return self._refused()
                messages.append(push)
                size += len(push)
            if size > self._answer_bytes:
                self._too_far = max(self._too_far, since.offset)
            if size > self._answer_bytes or not rows:
                return self._refused()
            ask = self._rows_left(len(messages), size)
        if forgotten == self._forgotten:
            self._lengthen(since.offset, messages)
        return Recovery(last, since.epoch, True, messages)

    async def _page(self, before: int | None, after: int | None, limit: int) -> Page:
        """Return a page of the store, or as much of it as one answer may hold."""
        messages: list[bytes] = []
        size, ask, more = 0, FIRST_ROWS, True
        while more and len(messages) < limit and size <= self._answer_bytes:
            found, more = await self._store.page(self._room, before, after, min(ask, limit - len(messages)))
            pushes = list(found)
            if not pushes:
                break
            if messages and after is not None and _offset_of(pushes[0]) > after + 1:
                more = True  # the oldest went while we read: a page has no holes, the next may begin above
                break
            if after is None:
                before, messages = _offset_of(pushes[0]), pushes + messages
            else:
                after, messages = _offset_of(pushes[-1]), messages + pushes
            size += sum(map(len, pushes))
            ask = self._rows_left(len(messages), size)
        return Page(messages, more)

    def _rows_left(self, rows: int, size: int) -> int:
        """Return how many more would fill an answer, of which `rows` have `size` bytes."""
        return max(FIRST_ROWS, (self._answer_bytes - size) * rows // max(size, 1) + 1)

    def _lengthen(self, offset: int, messages: list[bytes]) -> None:
        """Keep in memory what was read after `offset`, before what came since; as far as it fits."""
        ring, read_to = self._ring, offset + len(messages)
        if ring.first > read_to + 1:
            return  # so much has come since that the two do not meet
        longer = self._make_ring(offset)
        for push in messages:
            longer.append(push)
        for push in ring.between(read_to + 1, ring.offset):
            longer.append(push)
        if len(longer) > len(ring):
            longer.deliver = ring.deliver
            self._ring = longer


class _Placed(msgspec.Struct):
    offset: int


_decode_placed = msgspec.json.Decoder(_Placed).decode


def _offset_of(push: bytes) -> int:
    return _decode_placed(push).offset
