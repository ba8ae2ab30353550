"""Rooms of every policy under seeded chaos: received and gaps are what was published, once and in order.

A real core on a real hub with raw sockets that read, stop and die at random; JSON, MessagePack and compressed
members, in several rooms of different policies at once, joining and leaving in between. The twin is a plain
ledger for each member and room: where its membership began and ended, and what was published in between.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import time
import zlib
from collections import Counter
from typing import Any

import msgspec
import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.core import Core
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind, SlowReader
from realtime.core.session import Session
from realtime.ids import TenantId, UserId
from realtime.native.hub import Accept, Hub, RoomLog
from realtime.protocol.priority import Priority
from tests.native.test_hub import DEADLINE_S, UPGRADE, frame
from tests.oracles.hub import FakeClock

STEPS = 4000
CLIENTS = 8
CHUNK = 1 << 16
LIMIT = 1 << 15
VARIANTS = {"/json": 0, "/msgpack": 1, "/deflate": 15 << 1, "/deflate-msgpack": 15 << 1 | 1}


def by_key(type: str, content: bytes) -> str:
    """The key that the content begins with."""
    key: str = json.loads(content)["key"]
    return key


KINDS = (
    RoomKind(name="strict", lag_limit_bytes=LIMIT),
    RoomKind(name="lossy", slow_reader=SlowReader.DROP_OLDEST, lag_limit_bytes=LIMIT, priority=Priority.LOW),
    RoomKind(
        name="few",
        slow_reader=SlowReader.DROP_OLDEST,
        lag_limit_bytes=1 << 30,
        lag_limit_messages=50,
        presence=False,
        priority=Priority.HIGH,
    ),
    RoomKind(name="state", slow_reader=SlowReader.LATEST, lag_limit_bytes=LIMIT, conflate=by_key),
)
MAY_DROP = {"lossy", "few", "state"}
FEATURE = Feature(
    name="policies",
    kinds=KINDS,
    messages=(MessageType(name="say", kinds=frozenset(kind.name for kind in KINDS)),),
)
ROOMS = [f"{kind.name}:{i}" for kind in KINDS for i in range(2)]


class Town:
    """A core on a hub, and what was published in it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.sessions: dict[int, Session] = {}  # by connection
        self.hub = Hub(
            on_handshake=lambda shake: Accept(
                shake.connection_id,
                binary=bool(VARIANTS[shake.path] & 1),
                deflate_bits=VARIANTS[shake.path] >> 1,
            ),
            on_message=self.on_message,
            on_close=self.on_close,
            on_http=lambda *told: None,
            on_wake=lambda delay_s: None,  # it is turned all the time
            unicast_limit_bytes=1 << 30,
            flush_chunk=self.chance.choice([1, 3, 64]),
            compression_threshold=64,
        )
        clock = FakeClock()
        self.core = Core(
            Catalog([FEATURE]),
            MemoryBroker(clock, self.hub, history_messages=10),
            self.hub,
            clock,
            greet=lambda number, identity: b"",
            spawn=lambda coroutine: None,
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        self.hub.listen(self.listener.fileno())
        self.publisher = self.session_of(_Nowhere(), "publisher")
        self.last: Counter[str] = Counter()  # offsets by room
        self.newest: dict[str, dict[str, int]] = {room: {} for room in ROOMS}  # offset by key, by room
        for room in ROOMS:
            self.ask(self.publisher, "join", room)

    def session_of(self, connection: Any, user: str) -> Session:
        identity = Identity(UserId(user), TenantId("default"))
        self.core.admit(identity)
        return self.core.connect(connection, identity)

    def ask(self, session: Session, type: str, room: str, id: int = 0, content: Any = None) -> None:
        message = {"type": type, "room": room, "content": content} | ({"id": id} if id else {})
        encode = msgspec.msgpack.encode if session.binary else msgspec.json.encode
        self.core.receive(session, encode(message))

    def publish(self, room: str) -> None:
        self.last[room] += 1
        key = f"k{self.chance.randrange(6)}"
        size = self.chance.choice([0, 10, 60, 500, 500, 3000])
        content = {"key": key, "n": self.last[room], "pad": self.chance.randbytes(size // 2).hex()}
        self.newest[room][key] = self.last[room]
        self.ask(self.publisher, "say", room, content=content)

    def on_message(self, state: object, payload: bytes) -> None:
        connection = self.hub.current()
        session = self.session_of(connection, f"user-{connection.id}")
        connection.state = session
        self.sessions[connection.id] = session

    def on_close(self, state: object, *told: object) -> None:
        if isinstance(state, Session):
            del self.sessions[self.hub.current().id]
            self.core.disconnect(state)

    def turn(self) -> None:
        self.hub.on_ready()
        self.hub.tick()


class _Nowhere:
    """The connection of whoever publishes and reads nothing."""

    id, variant, binary, open = 1 << 40, 0, False, True

    def send(self, payload: bytes, urgent: bool = False) -> bool:
        return True

    def join(self, log: object) -> None:
        pass

    leave = join

    def belong(self, user: object) -> None:
        pass


class Member:
    """A raw client with a ledger: by room, the offset up to which it has been told everything."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.chance = town.chance
        path = self.chance.choice(list(VARIANTS))
        self.binary = bool(VARIANTS[path] & 1)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.chance.choice([4096, 16_384]))
        self.socket.connect(town.listener.getsockname())
        self.socket.setblocking(False)
        self.socket.sendall(UPGRADE % path.encode() + frame(b"\x80" if self.binary else b"hi", self.first))
        self.incoming = bytearray()
        self.upgraded = self.over = False
        self.close_code: int | None = None
        self.session: Session | None = None
        self.joining: dict[int, str] = {}
        self.leaving: dict[int, tuple[str, int]] = {}  # (room, its last offset) when it left
        self.wanted: set[str] = set()  # rooms that it is in, as the server knows
        self.told: dict[str, int] = {}  # rooms that it is in, as it knows: the offset it has come to
        self.since: dict[str, int] = {}
        self.got: dict[str, set[int]] = {}
        self.ids = iter(range(1, 1 << 30))
        self.gaps: Counter[str] = Counter()
        self.reading = True
        self.urgent_sent = self.urgent_got = 0

    @property
    def first(self) -> int:
        return 0x82 if self.binary else 0x81

    def find_session(self) -> bool:
        if self.session is None:
            mine = self.socket.getsockname()
            for session in self.town.sessions.values():
                if session.connection.remote == f"{mine[0]}:{mine[1]}":
                    self.session = session
        return self.session is not None and self.session.connection.open

    def join_or_leave(self) -> None:
        if not self.find_session():
            return
        assert self.session is not None
        room, id = self.chance.choice(ROOMS), next(self.ids)
        if room not in self.wanted:
            self.joining[id] = room
            self.wanted.add(room)
            self.town.ask(self.session, "join", room, id)
        elif self.chance.random() < 0.5:
            self.leaving[id] = (room, self.town.last[room])
            self.wanted.discard(room)
            self.town.ask(self.session, "leave", room, id)

    def urge(self) -> None:
        if self.find_session():
            assert self.session is not None
            self.urgent_sent += 1
            payload = msgspec.json.encode({"type": "urgent", "n": self.urgent_sent})
            if self.binary:
                payload = msgspec.msgpack.encode({"type": "urgent", "n": self.urgent_sent})
            self.session.connection.send(payload, urgent=True)

    def die(self) -> None:
        self.over = True
        if self.chance.random() < 0.5:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def read(self, limit: int) -> None:
        if self.over:
            return
        try:
            data = self.socket.recv(limit)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.over = True
            self.socket.close()
        self.incoming += data
        self.parse()

    def parse(self) -> None:
        if not self.upgraded:
            _, found, rest = self.incoming.partition(b"\r\n\r\n")
            if not found:
                return
            self.upgraded, self.incoming = True, rest
        while len(self.incoming) >= 2:
            size, at = self.incoming[1], 2
            if size == 126:
                size, at = int.from_bytes(self.incoming[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(self.incoming[2:10], "big"), 10
            assert self.incoming[0] in (0x81, 0x82, 0xC1, 0xC2, 0x88, 0x89), "a frame cut into another"
            if len(self.incoming) < at + size:
                return
            first, payload = self.incoming[0], bytes(self.incoming[at : at + size])
            del self.incoming[: at + size]
            if first == 0x88:
                self.close_code = int.from_bytes(payload[:2], "big")
            elif first != 0x89:
                if first & 0x40:
                    payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
                self.take(msgspec.msgpack.decode(payload) if self.binary else json.loads(payload))

    def take(self, message: dict[str, Any]) -> None:
        content, room, type = message.get("content"), message.get("room", ""), message["type"]
        if type == "urgent":
            self.urgent_got += 1
            assert message["n"] == self.urgent_got, "an urgent message before an earlier one"
        elif type == "joined":
            assert self.joining.pop(message["id"]) == room
            self.told[room] = self.since[room] = content["offset"]
            self.got[room] = set()
        elif type == "ack":
            left, last = self.leaving.pop(message["id"])
            assert self.told.pop(left) == last, f"{left} was left with something untold"
        elif type == "gap":
            assert content["reason"] == "slow_consumer"
            assert room.partition(":")[0] in MAY_DROP
            assert self.told[room] + 1 == content["from"] <= content["to"], (message, self.told)
            self.told[room] = content["to"]
            self.gaps[room.partition(":")[0]] += 1
        elif type == "say":
            assert message["offset"] == self.told[room] + 1, (message, self.told)
            assert content["n"] == message["offset"]
            self.told[room] += 1
            self.got[room].add(message["offset"])
        else:
            assert type == "presence", message

    def check(self) -> None:
        """All that was published is accounted for, and of each key of a state the newest was received."""
        for room in self.wanted:
            assert self.told[room] == self.town.last[room], room
            if room.startswith("state"):
                for offset in self.town.newest[room].values():
                    assert offset <= self.since[room] or offset in self.got[room], (
                        "an old state is the last one"
                    )


@pytest.mark.parametrize("seed", range(8))
def test_received_and_gaps_are_all_that_was_published_once_and_in_order(seed: int) -> None:
    print(f"seed {seed}")
    town = Town(seed)
    chance = town.chance
    members = [Member(town) for _ in range(CLIENTS)]
    everyone = list(members)
    for _ in range(STEPS):
        member, pick = chance.choice(members), chance.random()
        if pick < 0.35:
            for _ in range(chance.choice([1, 1, 5, 20])):
                town.publish(chance.choice(ROOMS))
        elif pick < 0.5:
            member.join_or_leave()
        elif pick < 0.53:
            member.reading = not member.reading
        elif pick < 0.56:
            member.urge()
        elif pick < 0.8:
            for each in members:
                if each.reading:
                    each.read(chance.choice([1, 100, 5000, 1 << 20]))
        elif pick < 0.803:
            member.die()
        else:
            town.turn()
            town.core.tick()
            check_bounds(town)
        for i, each in enumerate(members):
            if each.over or each.close_code is not None:
                members[i] = Member(town)
                everyone.append(members[i])
    settle(town, everyone)
    gaps = sum((member.gaps for member in everyone), Counter())
    assert gaps.keys() >= {"lossy", "state"}, f"this chaos tests nothing: {gaps}"
    assert town.hub.stats()["parked"] > 0
    assert town.hub.stats()["gaps"] > 10
    for member in everyone:
        if not member.over:
            member.die()
    deadline = time.monotonic() + DEADLINE_S
    while town.sessions:
        assert time.monotonic() < deadline
        town.turn()
    town.listener.close()


def settle(town: Town, everyone: list[Member]) -> None:
    """Let all read to the end, then look whether they were told everything."""
    deadline = time.monotonic() + DEADLINE_S
    for room in ROOMS:
        town.publish(room)

    def unfinished(member: Member) -> bool:
        if member.over or member.close_code is not None:
            return False
        behind = any(member.told.get(room) != town.last[room] for room in member.wanted)
        return behind or bool(member.joining or member.leaving) or member.urgent_got != member.urgent_sent

    while any(map(unfinished, everyone)):
        assert time.monotonic() < deadline, [m.told for m in everyone if unfinished(m)]
        town.turn()
        for member in everyone:
            member.read(1 << 20)
    for member in everyone:
        if not member.over and member.close_code is None:
            member.check()


def check_bounds(town: Town) -> None:
    """Whatever the mix of readers, a room holds its limit and what whole chunks add to it."""
    for room in town.core._membership._tenants[TenantId("default")].rooms.values():
        for lane in room.lanes.values():
            if lane.members and room.kind.lag_limit_bytes == LIMIT and isinstance(lane.log, RoomLog):
                assert lane.log.queued_bytes <= LIMIT + 3 * CHUNK, room.key.room
