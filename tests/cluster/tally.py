"""`python -m tests.cluster.tally serve ...`: the server with one more feature, rooms whose owner counts.

The owner keeps the last number in memory, as a stateful feature keeps its state, and trusts it: only the
first write of an ownership looks at what is there. What two owners at once would do shows as a number that
comes twice or is left out, unless the fence keeps the older one's writes out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Awaitable, Collection
from dataclasses import dataclass, field

import msgspec

import realtime.features as features
from realtime.cli import main
from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.core import Core
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict, Unavailable
from realtime.ids import RoomId

KIND, COUNT, COUNTED = "tally", "tally_count", "tally_counted"


class Counted(msgspec.Struct):
    """What a write says: the number, under which fence it was written, for whose command."""

    number: int
    fence: int
    mark: str


class Asked(msgspec.Struct):
    """A command: `mark` names it."""

    mark: str


@dataclass
class State:
    """What the owner knows of a room: nothing, until it has looked."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    number: int | None = None
    epoch: bytes = b""


_rooms: defaultdict[RoomId, State] = defaultdict(State)


def disown(core: Core, slots: Collection[int]) -> None:
    """Others write there now: what was known is forgotten."""
    gone = frozenset(slots)
    for room in [room for room in _rooms if room_slot(room) in gone]:
        del _rooms[room]


def count(core: Core, command: Command) -> Awaitable[bytes]:
    """Write the next number, and answer with it."""
    return _count(command, _rooms[command.room])


async def _count(command: Command, state: State) -> bytes:
    asked = msgspec.json.decode(command.content, type=Asked)
    async with state.lock:  # one command after the other, or two would write one number
        expect = None
        if state.number is None:
            position, newest = await command.newest(1)
            state.number, expect = _last(newest), position.offset
            state.epoch = position.epoch
        number = state.number + 1
        content = msgspec.json.encode(Counted(number, command.fence, asked.mark))
        state.number = None  # until we know what became of it
        try:
            receipt = command.publish(COUNTED, content, expect=expect)
            offset, epoch, _ = receipt if isinstance(receipt, tuple) else await receipt
        except Conflict as error:
            raise Unavailable("another owner has written", retry_after_s=0.1) from error
        if epoch == state.epoch:
            state.number = number
        return msgspec.json.encode({"number": number, "offset": offset, "epoch": epoch.decode()})


def _last(newest: Collection[bytes]) -> int:
    for push in newest:
        return msgspec.json.decode(msgspec.json.decode(push, type=_Push).content, type=Counted).number
    return 0


class _Push(msgspec.Struct):
    content: msgspec.Raw


FEATURE = Feature(
    name="tally",
    kinds=(RoomKind(name=KIND, presence=False, open_to_publish=True),),
    messages=(MessageType(name=COUNT, kinds=frozenset({KIND}), content=Asked, owner=count),),
    disown=disown,
)

if __name__ == "__main__":
    discovered = features.discover()
    features.discover = lambda: [*discovered, FEATURE]  # before the edge is imported, which takes it by name
    sys.exit(main())
