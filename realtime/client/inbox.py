"""The queue between the connection and whoever iterates: bounded, and honest about what it drops."""

from __future__ import annotations

import asyncio
from collections import deque

from realtime.client.wire import Gap, MembersChanged, Message, Resumed, Unread
from realtime.errors import RealtimeError

Item = Message | Gap | MembersChanged | Resumed | Unread


class Inbox:
    """Holds at most `limit` items (2 or more) for one reader.

    When it is full the oldest items go, and one Gap (reason "slow_reader") stands for all of them: the
    reader finds it before the first message that it still gets. Of counts in a row only the last one is kept.
    """

    def __init__(self, limit: int) -> None:
        self._items: deque[Item] = deque()
        self.limit = max(limit, 2)
        self._waiter: asyncio.Future[None] | None = None
        self._half_empty = asyncio.Event()
        self._half_empty.set()
        self._ended = False
        self._error: RealtimeError | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def free(self) -> int:
        """How many items may be put at once: half of it is left for what comes by itself."""
        return self.limit // 2 - len(self._items)

    async def half_empty(self) -> None:
        """Return when the reader has left at most half of `limit` in it, or after the end."""
        await self._half_empty.wait()

    def put(self, item: Item) -> None:
        """Add `item`; after the end it is dropped."""
        if self._ended:
            return
        if isinstance(item, Unread) and self._items and isinstance(self._items[-1], Unread):
            self._items.pop()
        if len(self._items) >= self.limit:
            self._drop_oldest()
        self._items.append(item)
        if self.free < 0:
            self._half_empty.clear()
        self._wake()

    def end(self, error: RealtimeError | None = None) -> None:
        """No more items: readers finish what is here, then stop, or get `error`. Idempotent."""
        if not self._ended:
            self._ended, self._error = True, error
            self._half_empty.set()
            self._wake()

    async def get(self) -> Item | None:
        """Return the oldest item, waiting for one; None after the end.

        Raises:
            RealtimeError: what `end` was called with.
        """
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            # Shielded: several tasks may wait on the one future, and one of them may be cancelled.
            await asyncio.shield(self._waiter)
        item = self._items.popleft()
        if self.free >= 0:
            self._half_empty.set()
        return item

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop_oldest(self) -> None:
        """Make room for one more item beside the gap that stands for what goes."""
        lost: Span | None = None
        while len(self._items) > self.limit - 2:
            lost = _merge(lost, self._items.popleft())
        if lost is not None:
            self._items.appendleft(Gap(*lost, "slow_reader"))


Span = tuple[int | None, int | None]


def _merge(lost: Span | None, item: Item) -> Span | None:
    """The offsets that are lost with `item` and before it; None where neither had any."""
    if isinstance(item, Gap):
        span: Span = (item.first, item.last)
    elif isinstance(item, Message) and item.offset is not None:
        span = (item.offset, item.offset)
    else:
        return lost
    if lost is None:
        return span
    if None in (*lost, *span):
        return None, None  # across an epoch there is nothing to count
    return lost[0], span[1]
