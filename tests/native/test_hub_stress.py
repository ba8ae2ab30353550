"""The hub under seeded chaos: whatever peers and callbacks do to it, in whatever order.

Raw clients send whole, split, fragmented and broken frames, read little or nothing, half-close, reset;
callbacks and the outside join, leave, append, send, close, abort, delete rooms and raise. The hub is driven
as an event loop drives it: by its descriptor, by `on_wake` and by `tick`, never just in case.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import random
import select
import socket
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Iterator

import pytest

from realtime.native.hub import Accept, Connection, Handshake, Hub, Refuse, RoomLog
from tests.native.test_hub import DEADLINE_S, UPGRADE
from tests.native.test_hub import frame as masked

frame = functools.cache(masked)  # masking 66 kB in Python takes its time
VARIANTS = {"/plain": 0, "/binary": 1, "/deflate": 15 << 1}
STEPS = 6000
CLIENTS = 14
URGENT = 10**9  # what was sent urgently, as a room's number
TICK_S = 0.1


class PlantedError(Exception):
    """Raised by callbacks on purpose."""


class PlantedExit(BaseException):
    """The same, of the kind that `except Exception` lets through."""


class Peer:
    """The state of one accepted connection."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.variant = VARIANTS.get(path, 0)
        self.handle: Connection | None = None
        self.closed = 0
        self.sent = 0
        self.urged = 0


class Room:
    """A log, and the number that its messages carry."""

    def __init__(self, log: RoomLog, number: int) -> None:
        self.log = log
        self.number = number
        self.appended = 0


class Chaos:
    """A hub whose callbacks do at random what their connection, the others and the rooms have to bear."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.problems: list[str] = []
        self.alive: dict[int, Peer] = {}
        self.everyone: list[weakref.ref[Peer]] = []
        self.rooms: list[Room] = []
        self.room_count = 0
        self.woken = False
        self.wake_at = float("inf")
        self.tick_at = 0.0
        self.quiet = False
        self.hub = Hub(
            on_handshake=self.on_handshake,
            on_message=self.on_message,
            on_limited=lambda state, payload, limit, wait_s: self.on_message(state, payload),
            on_close=self.on_close,
            on_http=lambda fd, *told: os.close(fd),
            on_wake=self.on_wake,
            flush_chunk=self.chance.randint(1, 4),
            heartbeat_s=self.chance.choice([0.0, 0.3]),
            close_timeout_s=0.3,
            handshake_timeout_s=0.5,
            max_connections=self.chance.choice([CLIENTS, 3 * CLIENTS, 3 * CLIENTS]),
            max_message_bytes=100_000,
            unicast_limit_bytes=self.chance.choice([1 << 18, 1 << 20, 1 << 22]),
            room_lag_limit_bytes=self.chance.choice([1 << 18, 1 << 20, 1 << 22]),
            read_chunk_bytes=self.chance.choice([300, 4096, 65_536]),
            messages_per_second=self.chance.choice([0.0, 0.0, 1000.0]),
            message_burst=50.0,
            rest_ratio=self.chance.choice([0.0, 5.0]),
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.chance.choice([4096, 65_536]))
        self.hub.listen(self.listener.fileno())

    # What the hub calls.

    def on_wake(self, delay_s: float) -> None:
        if delay_s == 0:
            self.woken = True
        else:
            self.wake_at = min(self.wake_at, time.monotonic() + delay_s)

    def on_handshake(self, handshake: Handshake) -> Accept | Refuse:
        peer = Peer(handshake.path)
        if peer.path == "/refused":
            return Refuse(403, "no")
        self.raise_at_times(0.03)
        self.alive[handshake.connection_id] = peer
        self.everyone.append(weakref.ref(peer))
        deflate_bits, binary = peer.variant >> 1, bool(peer.variant & 1)
        if peer.path == "/echo":
            return Accept(peer, echo=True)
        if peer.path == "/closed":
            return Accept(peer, close_code=4003)
        return Accept(peer, deflate_bits=deflate_bits, binary=binary, welcome=b"welcome", pending=True)

    def on_message(self, peer: object, payload: bytes) -> None:
        assert isinstance(peer, Peer)
        handle = self.hub.current()
        if peer.closed or not handle.open:
            self.problems.append("a message after the end")
        if peer.handle not in (None, handle):
            self.problems.append("two handles of one connection")
        peer.handle = handle
        handle.confirm()
        if self.quiet:
            return
        for _ in range(self.chance.randint(0, 3)):
            self.act(peer)
        self.raise_at_times(0.003)

    def on_close(self, peer: object, code: int, reason: bytes, clean: bool) -> None:
        assert isinstance(peer, Peer)
        peer.closed += 1
        handle = self.hub.current()
        self.alive.pop(handle.id)
        if peer.closed > 1 or handle.open or handle.state is not peer or handle.send(b"late"):
            self.problems.append("closed twice, or not closed at all")
        if self.quiet:
            return
        for _ in range(self.chance.randint(0, 3)):
            self.act(peer)
        self.raise_at_times(0.1)

    def on_gap(self, peer: object, after: int, last: int) -> int:
        assert isinstance(peer, Peer)
        if peer.closed or after > last:
            self.problems.append("a gap for nobody, or of nothing")
        if self.quiet:
            return 0
        for _ in range(self.chance.randint(0, 3)):
            self.act(peer)
        self.raise_at_times(0.1)
        return last - after

    def raise_at_times(self, probability: float) -> None:
        if self.chance.random() < probability:
            raise self.chance.choice([PlantedError, PlantedExit])

    # What callbacks and the outside do.

    def act(self, own: Peer | None = None) -> None:
        peers = [peer for peer in self.alive.values() if peer.handle is not None]
        pick = self.chance.random()
        if pick < 0.04:
            self.open_or_delete_room()
        elif pick < 0.35 and self.rooms:
            self.append(self.chance.choice(self.rooms))
        elif pick < 0.38:
            self.hub.connections()  # handles that nobody keeps
            gc.collect(0)
        elif peers:
            peer = own if own is not None and self.chance.random() < 0.4 else self.chance.choice(peers)
            self.treat(peer, self.chance.random())

    def open_or_delete_room(self) -> None:
        if len(self.rooms) > 6:
            self.rooms.pop(self.chance.randrange(len(self.rooms)))
        else:
            self.room_count += 1
            log = self.hub.room(
                self.chance.choice(list(VARIANTS.values())),
                lag_limit_bytes=self.chance.choice([0, 1 << 14, 1 << 15]),
                slow_reader=self.chance.choice(["disconnect", "drop_oldest", "latest"]),
                priority=self.chance.randrange(4),
                on_gap=self.on_gap,
            )
            self.rooms.append(Room(log, self.room_count))

    def append(self, room: Room) -> None:
        for _ in range(self.chance.choice([1, 1, 1, 5])):
            room.appended += 1
            offset = room.appended if self.chance.random() < 0.9 else 0
            room.log.append(text(room.number, room.appended, self.size()), offset)

    def treat(self, peer: Peer, pick: float) -> None:
        assert peer.handle is not None
        fitting = [room for room in self.rooms if room.log.variant == peer.variant]
        if pick < 0.4 and fitting:
            peer.handle.join(self.chance.choice(fitting).log)
        elif pick < 0.6 and fitting:
            peer.handle.leave(self.chance.choice(fitting).log)
        elif pick < 0.995:
            if self.chance.random() < 0.2:
                peer.urged += 1
                peer.handle.send(text(URGENT, peer.urged, self.size()), urgent=True)
                return
            peer.sent += 1
            peer.handle.send(text(0, peer.sent, self.size()))
        elif pick < 0.998:
            peer.handle.close(4100, b"chaos")
        else:
            peer.handle.abort()

    def size(self) -> int:
        return self.chance.choice([0, 10, 200, 200, 200, 200, 2000, 2000, 10_000, 70_000])

    # The event loop's part.

    def turn(self, wait_s: float = 0.0) -> bool:
        """Do what an event loop would now; False when there was nothing to do."""
        now = time.monotonic()
        ready = select.select([self.hub.fileno()], [], [], 0 if self.woken else wait_s)[0]
        due = bool(ready) or self.woken or now >= self.wake_at
        if due:
            self.woken = False
            if now >= self.wake_at:
                self.wake_at = float("inf")
            self.hub.on_ready()
        if now >= self.tick_at:
            self.tick_at = now + TICK_S
            self.hub.tick()
        return due


class Client:
    """A raw socket with a will of its own."""

    def __init__(self, chaos: Chaos) -> None:
        self.chance = chaos.chance
        self.path = self.chance.choice(
            [*VARIANTS, *VARIANTS, *VARIANTS, *VARIANTS, "/echo", "/refused", "/closed"]
        )
        self.socket = socket.socket()
        if self.chance.random() < 0.5:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        self.socket.connect(chaos.listener.getsockname())
        self.socket.setblocking(False)
        self.reads = self.chance.random() < 0.8
        self.outgoing = bytearray(UPGRADE % self.path.encode())
        if self.chance.random() < 0.1:
            self.outgoing[: self.chance.choice([0, 30])] = b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n"
        self.incoming = bytearray()
        self.upgraded = False
        self.over = False  # closed here, or at its end
        self.last: dict[int, int] = {}  # the last number by room, 0 for what was sent to it alone

    def step(self) -> None:
        pick = self.chance.random()
        if pick < 0.35:
            self.outgoing += self.frames()
        elif pick < 0.65:
            self.write(self.chance.choice([1, 7, 100, 5000, 200_000]))
        elif pick < 0.992:
            if self.reads:
                self.read(self.chance.choice([1, 100, 5000, 1 << 20]))
        elif pick < 0.995:
            self.close(reset=True)
        elif pick < 0.997:
            self.close(reset=False)
        elif pick < 0.999:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def frames(self) -> bytes:
        opcode = 0x02 if self.path == "/binary" else 0x01
        payload = b"x" * self.chance.choice([0, 1, 125, 126, 3000, 66_000])
        pick = self.chance.random()
        if pick < 0.6:
            return frame(payload, 0x80 | opcode) * self.chance.choice(
                [1, 1, 1, 20 if len(payload) < 200 else 2]
            )
        if pick < 0.75:
            return frame(payload, opcode) + frame(b"", 0x89) + frame(b"y", 0x00) + frame(payload[:9], 0x80)
        if pick < 0.99:
            return frame(payload[:125], self.chance.choice([0x89, 0x8A]))
        if pick < 0.995:
            return frame(struct.pack(">H", self.chance.choice([1000, 3500, 99])), 0x88)
        return self.chance.choice([b"\xff\xff\xff", frame(b"\xff\xfe"), frame(b"?", 0xC1), os.urandom(9)])

    def write(self, limit: int) -> None:
        if self.over:
            return
        try:
            del self.outgoing[: self.socket.send(self.outgoing[:limit])]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing.clear()

    def read(self, limit: int) -> int:
        """Read and check; return the bytes got."""
        if self.over:
            return 0
        try:
            data = self.socket.recv(limit)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self.close(reset=False)
        self.incoming += data
        self.parse()
        return len(data)

    def close(self, *, reset: bool) -> None:
        if self.over:
            return
        self.over = True
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def parse(self) -> None:
        if not self.upgraded:
            head, found, rest = self.incoming.partition(b"\r\n\r\n")
            if not found or not head.startswith(b"HTTP/1.1 101 "):
                return
            self.upgraded, self.incoming = True, rest
        while len(self.incoming) >= 2:
            size, at = self.incoming[1], 2
            if size == 126:
                size, at = int.from_bytes(self.incoming[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(self.incoming[2:10], "big"), 10
            assert self.incoming[0] in (0x81, 0x82, 0xC1, 0x88, 0x89, 0x8A), "a frame cut into another"
            assert size < 1 << 20, "a frame cut into another"
            if len(self.incoming) < at + size:
                return
            self.take(self.incoming[0], bytes(self.incoming[at : at + size]))
            del self.incoming[: at + size]

    def take(self, first: int, payload: bytes) -> None:
        if first == 0x89:
            self.outgoing += frame(payload, 0x8A) if not self.outgoing else b""
        if first & 0x08 or self.path == "/echo":
            return
        if first & 0x40:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        if payload == b"welcome":
            return
        room, number, size = map(int, payload.split(b" ", 3)[:3])
        assert payload == text(room, number, size)
        assert number > self.last.get(room, 0), "out of order, or twice"
        self.last[room] = number


def text(room: int, number: int, size: int) -> bytes:
    return b"%d %d %d " % (room, number, size) + b"%x" % (number & 15) * size


def settle(chaos: Chaos, clients: list[Client], done: Callable[[], bool]) -> None:
    """Let everyone read and write until `done`."""
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, (
            f"it hangs: {unread_bytes(chaos.listener)} unread, {chaos.hub.stats()}"
        )
        chaos.turn(0.001)
        for client in clients:
            client.write(1 << 16)
            client.read(1 << 20)


def at_rest(chaos: Chaos, clients: list[Client]) -> bool:
    """Whether nobody holds anything back any more."""
    stats = chaos.hub.stats()
    held = stats["queued_bytes"] or stats["chunks"] or any(room.log.laggards for room in chaos.rooms)
    said = not any(client.outgoing for client in clients if not client.over)
    return said and not held and unread_bytes(chaos.listener) == 0


def unread_bytes(listener: socket.socket) -> int:
    """What the kernel holds for the hub's connections, and the hub has not read."""
    port = f":{listener.getsockname()[1]:04X}"
    with open("/proc/net/tcp") as table:
        sockets = [line.split() for line in table]
    return sum(int(columns[4][9:], 16) for columns in sockets if columns[1].endswith(port))


@pytest.fixture
def silent_log() -> Iterator[None]:
    """Planted exceptions are logged by the hundred."""
    hub_log = logging.getLogger("realtime.hub")
    hub_log.disabled = True
    yield
    hub_log.disabled = False


@pytest.mark.usefixtures("silent_log")
@pytest.mark.parametrize("seed", range(4))
def test_nothing_hangs_leaks_or_comes_twice(seed: int) -> None:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    everyone = live_through(seed)
    gc.collect()
    assert [peer for peer in everyone if peer() is not None] == [], "states that the hub has not let go"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def live_through(seed: int) -> list[weakref.ref[Peer]]:
    """Chaos, then rest, then the end of all connections; return their states."""
    chaos = Chaos(seed)
    clients: list[Client] = []
    for _ in range(STEPS):
        pick = chaos.chance.random()
        if pick < 0.1:
            clients = [client for client in clients if not client.over]
            if len(clients) < CLIENTS + 2:
                clients.append(Client(chaos))
        elif pick < 0.3:
            chaos.act()
        elif pick < 0.6:
            chaos.turn()
        elif clients:
            chaos.chance.choice(clients).step()
    chaos.quiet = True
    settle(chaos, clients, lambda: at_rest(chaos, clients))
    for peer in chaos.alive.values():
        if peer.handle is not None and peer.handle.open:
            peer.sent += 1
            peer.handle.send(text(0, peer.sent, 5))
    settle(chaos, clients, lambda: at_rest(chaos, clients))
    check_idle(chaos)
    for client in clients:
        client.close(reset=chaos.chance.random() < 0.5)
    settle(chaos, [], lambda: chaos.hub.stats()["connections"] == 0)
    chaos.listener.close()
    assert chaos.problems == []
    assert chaos.alive == {}
    assert chaos.hub.stats()["closed"] == chaos.hub.stats()["accepted"]
    assert chaos.hub.stats()["messages_in"] > 100, "this chaos tests nothing"
    return chaos.everyone


def check_idle(chaos: Chaos) -> None:
    """With nothing to do the hub asks for nothing: no wake, no event, no send."""
    while chaos.turn():
        pass
    before = chaos.hub.stats()
    chaos.hub.on_ready()
    after = chaos.hub.stats()
    assert not chaos.woken
    assert after["sends"] == before["sends"]
    assert after["polls"] == before["polls"] + 1
    assert after["events"] == before["events"]
