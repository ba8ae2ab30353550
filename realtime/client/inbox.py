"""The queue between the connection and whoever iterates: bounded, and honest about what it drops."""

from __future__ import annotations

import asyncio
from collections import deque

from realtime.client.wire import Gap, MembersChanged, Message, Resumed
from realtime.errors import RealtimeError

Item = Message | Gap | MembersChanged | Resumed


class Inbox:
    """Holds at most `limit` items (2 or more) for one reader.

    When it is full the oldest items go, and one Gap (reason "slow_reader") stands for all of them: the
    reader finds it before the first message that it still gets.
    """

    def __init__(self, limit: int) -> None:
        self._items: deque[Item] = deque()
        self._limit = max(limit, 2)
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: RealtimeError | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        """Add `item`; after the end it is dropped."""
        if self._ended:
            return
        if len(self._items) >= self._limit:
            self._drop_oldest()
        self._items.append(item)
        self._wake()

    def end(self, error: RealtimeError | None = None) -> None:
        """No more items: readers finish what is here, then stop, or get `error`. Idempotent."""
        if not self._ended:
            self._ended, self._error = True, error
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
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _drop_oldest(self) -> None:
        """Make room for one more item beside the gap that stands for what goes."""
        lost: Span | None = None
        while len(self._items) > self._limit - 2:
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
