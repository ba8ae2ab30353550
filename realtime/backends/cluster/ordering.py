"""What durable rooms need of the broker that orders them: the seam between Redis and the store.

Redis orders and delivers; the layer around it keeps. A room's new epoch is opened by both: Redis says that
it needs one, the store fences what is still in flight of the earlier ones and says after which offset, Redis
opens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

from realtime.backends.kept_order import Source
from realtime.core.contracts import Position
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.backends.cluster.reader import RoomReader


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

    room: RoomId
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


Deepen = Callable[[RoomId, "RoomReader"], Source]
"""Returns all that there is of a durable room, where `RoomReader` reads what Redis has of it."""
