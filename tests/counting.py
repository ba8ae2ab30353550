"""`python -m tests.counting serve …`: the server with one more feature, counters that owners keep.

A counter stands in its owner's memory and nowhere else but in the room's publications, each of which is
fenced and expects the one before. Tests of the ring start it, or take the feature into a core of their own.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import msgspec

import realtime.features as features
from realtime.cli import main
from realtime.core.cluster import room_slot
from realtime.core.command import Command
from realtime.core.core import Core
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.ids import RoomId


@dataclass
class Counter:
    """What the owner knows of one room: its value and the offset of the publication that says so, or None.

    One command at a time goes on: the next one expects what it publishes.
    """

    at: tuple[int, int] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Counted(msgspec.Struct):
    """One publication of a counter: who owned the room when it was made, and under which fence."""

    value: int
    worker: str
    fence: int


class Push(msgspec.Struct):
    """A publication, as far as it says where the counter is."""

    offset: int
    content: Counted


Counters = defaultdict[RoomId, Counter]

counters: WeakKeyDictionary[Core, Counters] = WeakKeyDictionary()
"""What each core owns and has used."""


async def add(core: Core, command: Command) -> bytes:
    """Count one up, and answer the value and who made it."""
    counter = counters.setdefault(core, defaultdict(Counter))[command.room]
    async with counter.turn:
        value, offset = counter.at or await load(command)
        counter.at = None  # unless all goes well, the room knows better
        content = msgspec.json.encode(Counted(value + 1, core.cluster.worker, command.fence))
        receipt = command.publish("counter_value", content, key=command.key, expect=offset)
        offset, _, duplicate = receipt if isinstance(receipt, tuple) else await receipt
        if not duplicate:
            counter.at = value + 1, offset
    return content


async def load(command: Command) -> tuple[int, int]:
    """Return value and offset as the room's last publication has them."""
    position, pushes = await command.newest()
    for text in pushes:
        push = msgspec.json.decode(text, type=Push)
        return push.content.value, push.offset
    return 0, position.offset


def disown(core: Core, slots: Collection[int]) -> None:
    """Forget the counters that are not this core's any more."""
    kept = counters.get(core, {})
    for room in tuple(kept):
        if room_slot(room) in slots:
            del kept[room]  # whoever still has it in hand finds its command to be over


KINDS = frozenset({"counter", "ledger"})
FEATURE = Feature(
    name="counting",
    kinds=(
        RoomKind(name="counter", presence=False),
        RoomKind(name="ledger", presence=False, durable=True),
    ),
    messages=(
        MessageType(name="counter_add", kinds=KINDS, owner=add),
        MessageType(name="counter_value", kinds=KINDS),
    ),
    disown=disown,
)


if __name__ == "__main__":
    found = features.discover
    features.discover = lambda: [*found(), FEATURE]
    sys.exit(main())
