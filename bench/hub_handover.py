"""hub_handover: how long does a hub with 5,000 connections stand still while another takes them over?

Freezes, packs, unpacks and thaws within one process, so no time of sending parcels and descriptors is in it.
Every connection is in a room with all others and in one of fifty; every tenth does not read, and stands in
the middle of a frame. Afterwards everybody must have had every message once. Prints medians over hand-overs
one after the other: of the processor's time, and of time, with the slowest.
"""

import contextlib
import os
import platform
import resource
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from realtime.native.hub import Accept, Hub, RoomLog

CONNECTIONS = 5000
ROUNDS = 7
SLOW_EVERY = 10
PAYLOAD = b"." * 996
FRAME_BYTES = 4 + 4 + len(PAYLOAD)  # head, number, padding
UPGRADE = (
    b"GET /%d HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def hub() -> Hub:
    return Hub(
        on_handshake=lambda shake: Accept(int(shake.path[1:])),
        on_message=lambda *told: None,
        on_close=lambda *told: None,
        on_http=lambda *told: None,
        on_wake=lambda delay_s: None,
        room_lag_limit_bytes=1 << 30,
    )


def turn_until(serving: Hub, done: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not done():
        if time.monotonic() - began > 120:
            raise TimeoutError("the hub did not get there")
        serving.on_ready()


class Scene:
    """The hub, its rooms, and the other ends with what they have read."""

    def __init__(self) -> None:
        self.hub = hub()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.hub.listen(self.listener.fileno())
        self.peers: list[socket.socket] = []
        self.said = 0
        for number in range(CONNECTIONS):
            self.peers.append(self.enter(number))
        self.had = [0] * CONNECTIONS
        self.rooms = [self.hub.room() for _ in range(51)]
        for connection in self.hub.connections():
            connection.join(self.rooms[0])
            connection.join(self.rooms[1 + int(str(connection.state)) % 50])

    def enter(self, number: int) -> socket.socket:
        peer = socket.socket()
        if number % SLOW_EVERY == 0:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(self.listener.getsockname())
        peer.sendall(UPGRADE % number)
        peer.setblocking(False)
        answer = b""
        while b"\r\n\r\n" not in answer:
            self.hub.on_ready()
            with contextlib.suppress(BlockingIOError):
                answer += peer.recv(1024)
        return peer

    def publish(self, count: int) -> None:
        for _ in range(count):
            self.rooms[0].append(b"%04d" % self.said + PAYLOAD)
            self.said += 1
            self.hub.on_ready()

    def read(self, slow: bool) -> bool:
        """Whether all but the slow ones, or all, have what was said."""
        whole = True
        for number, peer in enumerate(self.peers):
            if (slow or number % SLOW_EVERY) and self.had[number] < self.said * FRAME_BYTES:
                try:
                    self.had[number] += len(peer.recv(1 << 20))
                except BlockingIOError:
                    whole = False
        return whole and all(
            had == self.said * FRAME_BYTES for n, had in enumerate(self.had) if slow or n % SLOW_EVERY
        )

    def hand_over(self) -> dict[str, tuple[float, float]]:
        """Hand all over to another hub; seconds of each step, of the processor and in all."""
        old, new = self.hub, hub()
        new.freeze()
        took: dict[str, tuple[float, float]] = {}

        def timed(name: str, step: Callable[[], Any]) -> Any:
            began, began_cpu = time.perf_counter(), time.process_time()
            answer = step()
            took[name] = time.process_time() - began_cpu, time.perf_counter() - began
            return answer

        timed("freeze", old.freeze)
        packed = timed("export_all", old.export_all)
        logs = timed("rooms' export", lambda: [room.export() for room in self.rooms])
        fds = [os.dup(fd) for _, fd, _, _ in packed]  # as they would come from the other process
        timed("adopt", lambda: [new.adopt(fd, p, s) for fd, (_, _, s, p) in zip(fds, packed, strict=True)])
        self.rooms: list[RoomLog] = timed("adopt_room", lambda: [new.adopt_room(log) for log in logs])
        timed("thaw", new.thaw)
        timed("after go: release", lambda: [old.release(each) for each in old.all_connections()])
        self.parcel_bytes = sum(len(parcel) for _, _, _, parcel in packed) + sum(map(len, logs))
        old.stop_listening()
        self.hub = new
        return took


def main() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    scene = Scene()
    rounds = []
    for _ in range(ROUNDS):
        scene.publish(20)
        turn_until(scene.hub, lambda: scene.read(slow=False))
        rounds.append(scene.hand_over())
    turn_until(scene.hub, lambda: scene.read(slow=True))
    print(
        f"hub_handover: how long does a hub with {CONNECTIONS} connections stand still?   "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; {scene.said} messages, lost 0"
    )
    print(f"  {'step':18} {'processor':>12} {'time':>10} {'slowest':>10}   ms")
    for name in rounds[0]:
        busy, whole = ([each[name][part] * 1e3 for each in rounds] for part in (0, 1))
        print(
            f"  {name:18} {statistics.median(busy):12.2f} {statistics.median(whole):10.2f} {max(whole):10.2f}"
        )
    print(f"  {scene.parcel_bytes / 1e6:.2f} MB of parcels")


if __name__ == "__main__":
    main()
