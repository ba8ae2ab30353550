"""What durable rooms need of the broker that orders them: the seam between Redis and the store.

Redis orders and delivers; the layer around it keeps. A room's new epoch is opened by both: Redis says that
it needs one, the store fences what is still in flight of the earlier ones and says after which offset, Redis
opens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from realtime.core.contracts import Position, RoomKey, Stream, Terms
from realtime.native.sequence import Sequence


class Ordered(NamedTuple):
    """One publication at its place. Of a repeat, `push` is empty and `position` that of the first."""

    position: Position
    push: bytes
    duplicate: bool


class Entry(NamedTuple):
    """One publication as the room's stream in Redis has it: what a row of the store is made of."""

    position: Position
    push: bytes
    sender: bytes | None
    key: str | None
    at_ms: int


class Need(NamedTuple):
    """A durable room that Redis opens no epoch in before it is told how far the store is.

    That is the answer `NOFLOOR <offset> <epoch> <nonce>` of any function on the room: the last offset that
    Redis knows of (0 where it knows of none), the least number of the next epoch (Unix time in us, or one
    more than the last one), and the name of the mastership.
    """

    room: RoomKey
    offset: int
    epoch: int
    nonce: str


class Opening(NamedTuple):
    """How a room may be opened: `rt1_open` with both.

    The epoch's number is at least `epoch`, its first offset above `offset` and above what Redis knows. A room
    that is open in this mastership with at least that epoch stays as it is.
    """

    offset: int
    epoch: int


Open = Callable[[Need], Awaitable[Opening]]
"""Asks the store. Raises Unavailable."""


class OrderedStream(Stream, Protocol):
    """A stream at Redis, as its durable wrapper uses it."""

    @property
    def mirror(self) -> Sequence | None:
        """The room's newest publications in this process, delivered up to its end; None while there may be
        some that were not heard of.
        """
        ...

    def order(
        self,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None,
        then: Callable[[Ordered | Exception], None],
    ) -> None:
        """Order and deliver one publication; `then` gets its place, or what `publish` raises.

        It is called later, or before this returns where the publication is refused at once.
        """
        ...

    async def entries(self, after: Position, limit: int) -> list[Entry]:
        """Return the first `limit` publications that Redis has of those after a position, in its order, over
        epochs.

        Raises:
            Unavailable: no answer.
        """
        ...
