"""What does the flight recorder cost a frame: off, and with every connection recorded?

    python -m bench.recorder

One hub in this process, its clients' sockets too. Only the time within the hub counts (CPU time of the thread
in `on_ready`), clients are emptied outside of it. Two questions: frames in (a client sends, nobody answers),
and deliveries (a room of `MEMBERS`, one publication a pass). Off and on take turns, on hubs of their own.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import sys
import time
from typing import Any, Final

from realtime.native.hub import Accept, Connection, Hub

ROUNDS: Final = 5
FRAMES: Final = 40_000
AT_ONCE: Final = 200
MEMBERS: Final = 200
PASSES: Final = 150
PAYLOAD: Final = b'{"type":"publish","room":"events:x","content":{"text":"%b"}}' % (b"x" * 100)
MEMORY: Final = 1 << 30
UPGRADE: Final = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Scene:
    """A hub with clients, all of them recorded in rings of `ring_bytes`, or none where that is 0."""

    def __init__(self, clients: int, ring_bytes: int, payload_bytes: int) -> None:
        self.spent_ns = 0
        self.hub = Hub(
            on_handshake=lambda handshake: Accept(object()),
            on_message=lambda state, payload: None,
            on_close=lambda *told: None,
            on_http=lambda *told: None,
            on_wake=lambda delay_s: None,
        )
        if ring_bytes:
            self.hub.record_to(None, ring_bytes=ring_bytes, payload_bytes=payload_bytes, memory_bytes=MEMORY)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.hub.listen(listener.fileno())
        self.clients = [socket.create_connection(listener.getsockname()) for _ in range(clients)]
        for client in self.clients:
            client.sendall(UPGRADE)
        while len(self.hub.connections()) < clients:
            self.turn()
        for client in self.clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 101")
            client.setblocking(False)
        listener.close()

    def turn(self) -> None:
        """Let the hub do what it has to, and count the time."""
        began_ns = time.thread_time_ns()
        self.hub.on_ready()
        self.spent_ns += time.thread_time_ns() - began_ns

    def frames_in(self) -> float:
        """Return the ns of the hub for a frame of a client."""
        key = bytes(4)
        frame = struct.pack("!BBH", 0x81, 0xFE, len(PAYLOAD)) + key + PAYLOAD
        burst, before = frame * AT_ONCE, self.hub.stats()["messages_in"]
        self.spent_ns = 0
        client = self.clients[0]
        for _ in range(FRAMES // AT_ONCE):
            client.setblocking(True)
            client.sendall(burst)
            before += AT_ONCE
            while self.hub.stats()["messages_in"] < before:
                self.turn()
        return self.spent_ns / FRAMES

    def deliveries(self) -> float:
        """Return the ns of the hub for one member's copy of a publication."""
        room = self.hub.room()
        members: list[Connection] = self.hub.connections()
        for member in members:
            member.join(room)
        self.spent_ns = 0
        for _ in range(PASSES):
            room.append(PAYLOAD)
            while room.queued_bytes:
                self.turn()
            for client in self.clients:
                client.recv(65_536)
        for member in members:
            member.leave(room)
        return self.spent_ns / (PASSES * len(members))

    def close(self) -> None:
        for client in self.clients:
            client.close()


def spread(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.0f} ns ({min(values):.0f} to {max(values):.0f})"


def main() -> int:
    """Print the figures, as one JSON line at the end too."""
    hows: dict[str, tuple[int, int]] = {"off": (0, 0)}
    if hasattr(Hub, "record_to"):
        hows |= {"on, 64 bytes": (16_384, 64), "on, 512 bytes": (16_384, 512)}
    found: dict[str, dict[str, list[float]]] = {name: {"in": [], "out": []} for name in hows}
    for _ in range(ROUNDS):
        for name, (ring, payload) in hows.items():
            scene = Scene(MEMBERS, ring, payload)
            found[name]["in"].append(scene.frames_in())
            found[name]["out"].append(scene.deliveries())
            scene.close()
    for name, each in found.items():
        print(f"{name:14} a frame in {spread(each['in'])}, a delivery {spread(each['out'])}")
    told: dict[str, Any] = {"pid": os.getpid(), "rounds": ROUNDS, "ns": found}
    print(json.dumps(told), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
