"""`python -m bench.policies serve ...`: the server with one more feature, rooms of every policy and priority.

It takes the options of `realtime serve`. Beside the rooms there are three messages for measurements: `fill`
keeps a room's log in the server filled up to so many bytes, until `drain`; `alert` sends an urgent message to
one session alone, as a critical notification does. Benchmarks and tests start it; nobody else should.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any

import msgspec

import realtime.features as features
from realtime.cli import main
from realtime.core.core import Core
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind, SlowReader
from realtime.core.session import Session
from realtime.native.encode import encode_ack, encode_push
from realtime.native.message import Envelope
from realtime.protocol.priority import Priority

REFILL_S = 0.001
REFILL_MESSAGES = 8  # of one turn of the loop
BULK_BYTES = 4096  # of one message of `fill`

KINDS = (
    RoomKind(name="steady", presence=False),
    RoomKind(name="lossy", presence=False, slow_reader=SlowReader.DROP_OLDEST),
    RoomKind(name="state", presence=False, slow_reader=SlowReader.LATEST),
    RoomKind(name="bulk", presence=False, slow_reader=SlowReader.DROP_OLDEST, priority=Priority.LOW),
    RoomKind(name="urgent", presence=False, priority=Priority.CRITICAL, open_to_publish=True),
)


class Fill(msgspec.Struct):
    """`bytes` that are to wait in the room's log for its slowest member."""

    bytes: int


class Alert(msgspec.Struct):
    """`text` for the session of `user` that has sent `listen`."""

    user: str
    text: str


_listening: dict[str, Session] = {}  # by user
_filling: dict[str, int] = {}  # bytes, by room
_least: dict[str, int] = {}  # bytes that a refill found, by room


def listen(core: Core, session: Session, message: Envelope) -> None:
    """Note whom an `alert` is for."""
    assert session.identity is not None
    _listening[session.identity.user] = session
    _acknowledge(session, message)


def alert(core: Core, session: Session, message: Envelope) -> None:
    """Send an urgent message to one session."""
    asked = msgspec.json.decode(message.content or b"null", type=Alert)
    content = msgspec.json.encode(asked.text)
    push = encode_push("alert", b'"user:-"', None, 0, b"-", content, b"-")
    _listening[asked.user].connection.send(push, urgent=True)


def fill(core: Core, session: Session, message: Envelope) -> Awaitable[None]:
    """Keep a room full until `drain`."""
    assert message.room is not None
    _filling[message.room] = msgspec.json.decode(message.content or b"null", type=Fill).bytes
    _least.pop(message.room, None)
    _acknowledge(session, message)
    return _fill(session, message.room)


async def _fill(session: Session, name: str) -> None:
    content = msgspec.json.encode("x" * BULK_BYTES)
    began = False  # it has been full
    while room := session.tenant.rooms.get(name):
        if name not in _filling:
            return
        log: Any = next(iter(room.lanes.values())).log
        if began:
            _least[name] = min(_least.get(name, log.queued_bytes), log.queued_bytes)
        began = began or log.queued_bytes >= _filling[name] // 2
        lacking = (_filling[name] - log.queued_bytes) // BULK_BYTES
        for _ in range(min(lacking, REFILL_MESSAGES)):
            room.stream.publish("say", None, content)
        # Few at a time, as bulk comes from its publishers: a refill must not hold up the loop by itself.
        await asyncio.sleep(0 if lacking > REFILL_MESSAGES else REFILL_S)


def drain(core: Core, session: Session, message: Envelope) -> None:
    """End a `fill`; the ack's offset is the fewest bytes that a refill found once it was full."""
    assert message.room is not None
    _filling.pop(message.room, None)
    if message.id is not None:
        session.send(encode_ack(message.id, b'"-"', _least.pop(message.room, 0), b"-"))


def _acknowledge(session: Session, message: Envelope) -> None:
    if message.id is not None:
        session.send(encode_ack(message.id, b'"-"', 0, b"-"))


FEATURE = Feature(
    name="policies",
    kinds=KINDS,
    messages=(
        MessageType(name="say", kinds=frozenset(kind.name for kind in KINDS)),
        MessageType(name="listen", handler=listen),
        MessageType(name="alert", handler=alert),
        MessageType(name="fill", handler=fill),
        MessageType(name="drain", handler=drain),
    ),
)

if __name__ == "__main__":
    discovered = features.discover()
    features.discover = lambda: [*discovered, FEATURE]  # before the edge is imported, which takes it by name
    sys.exit(main())
