"""A hub to be handed over, in the test's process or in one of its own: both do the same commands.

`Here` and `There` are told what to do by the same names. What goes from one to the next goes as it would in a
worker: parcels, and sockets by SCM_RIGHTS.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from realtime.native.hub import Accept, Connection, Handshake, Hub, RoomLog
from tests.tree import ROOT

LIMITS: Final[dict[str, Any]] = {
    "unicast_limit_bytes": 1 << 30,
    "compression_threshold": 64,
    "flush_chunk": 3,
    "close_timeout_s": 60.0,  # who reads nothing for long is told nevertheless why it ends
}
ECHO, DEFLATE = "/echo", "/deflate"  # how the paths of such connections begin
DEFLATE_BITS = 15
FDS_MAX = 200  # of one message; the kernel takes 253


@dataclass
class Load:
    """What one hub packs for the next. The sockets go beside it, in this order, the listening one last."""

    connections: list[tuple[object, bytes]] = field(default_factory=list)
    rooms: dict[str, bytes] = field(default_factory=dict)
    last_id: int = 0


class Here:
    """A hub in this process."""

    def __init__(self, listener: socket.socket | None = None, **limits: Any) -> None:
        self.received: list[tuple[object, bytes]] = []
        self.closed: list[tuple[object, int, bytes, bool]] = []
        self.rooms: dict[str, RoomLog] = {}
        self.hub = Hub(
            on_handshake=self._accept,
            on_message=lambda state, payload: self.received.append((state, payload)),
            on_close=lambda *told: self.closed.append(told),
            on_http=lambda fd, *told: os.close(fd),
            on_wake=lambda delay_s: None,  # it is turned all the time
            **(LIMITS | limits),
        )
        self.listener = listener
        if listener is not None:
            self.hub.listen(listener.fileno())

    @staticmethod
    def _accept(shake: Handshake) -> Accept:
        bits = DEFLATE_BITS if shake.path.startswith(DEFLATE) else 0
        return Accept(shake.path, echo=shake.path.startswith(ECHO), deflate_bits=bits)

    def _gap(self, room: str, state: object, after: int, last: int) -> int:
        self.handle(state).send(b"gap %b %d %d" % (room.encode(), after, last))
        return last - after

    def handle(self, state: object) -> Connection:
        return next(each for each in self.hub.all_connections() if each.state == state)

    def turn(self) -> None:
        self.hub.on_ready()
        self.hub.tick()

    # ------------------------------------------------------------------ commands

    def room(self, name: str, variant: int, slow_reader: str, **limits: int) -> None:
        on_gap = partial(self._gap, name) if slow_reader != "disconnect" else None
        self.rooms[name] = self.hub.room(variant, slow_reader=slow_reader, on_gap=on_gap, **limits)

    def join(self, state: object, room: str) -> None:
        self.handle(state).join(self.rooms[room])

    def append(self, room: str, payload: bytes, offset: int) -> None:
        self.rooms[room].append(payload, offset)

    def send(self, state: object, payload: bytes, urgent: bool) -> None:
        self.handle(state).send(payload, urgent)

    def close(self, state: object, code: int) -> None:
        self.handle(state).close(code, b"bye")

    def there(self, state: object) -> bool:
        """Has the connection come in?"""
        return any(each.state == state for each in self.hub.all_connections())

    def records(self) -> tuple[list[tuple[object, bytes]], list[tuple[object, int, bytes, bool]]]:
        """What it was told since the last time: messages, and ends of connections."""
        told = self.received[:], self.closed[:]
        self.received.clear()
        self.closed.clear()
        return told

    def stats(self) -> dict[str, int]:
        return self.hub.stats()

    def stumble(self) -> None:
        """Freeze, pack everything as if it were to go, and go on."""
        os.close(self.pack()[1].pop())
        self.hub.thaw()

    # ------------------------------------------------------------------ handing over

    def pack(self) -> tuple[Load, list[int]]:
        """Freeze; the load, and descriptors that are the hub's still, but for the last."""
        assert self.listener is not None
        self.hub.freeze()
        packed = self.hub.export_all()
        load = Load([(state, parcel) for _, _, state, parcel in packed], last_id=self.hub.last_id)
        load.rooms = {name: room.export() for name, room in self.rooms.items()}
        return load, [*(fd for _, fd, _, _ in packed), os.dup(self.listener.fileno())]

    def unpack(self, load: Load, fds: list[int]) -> None:
        """Take everything over, and the descriptors too, and go on."""
        self.hub.freeze()
        for (state, parcel), fd in zip(load.connections, fds[:-1], strict=True):
            self.hub.adopt(fd, parcel, state)
        for name, parcel in load.rooms.items():
            self.rooms[name] = self.hub.adopt_room(parcel, partial(self._gap, name))
        self.hub.last_id = load.last_id
        self.listener = socket.socket(fileno=fds[-1])
        self.hub.listen(self.listener.fileno())

    def go(self) -> None:
        self.hub.thaw()

    def let_go(self) -> None:
        """Forget all that somebody else has now."""
        assert self.listener is not None
        self.hub.stop_listening()
        for connection in self.hub.all_connections():
            self.hub.release(connection)
        self.rooms.clear()
        self.listener.close()

    def give(self, to: Here | There) -> None:
        """Hand everything over to `to`, which goes on as soon as it has it all."""
        load, fds = self.pack()
        doubles = [*(os.dup(fd) for fd in fds[:-1]), fds[-1]]
        to.unpack(load, doubles)
        to.go()
        self.let_go()

    def end(self) -> None:
        if self.listener is not None:
            self.listener.close()


class There:
    """A hub in a process of its own, which turns it by itself."""

    def __init__(self, **limits: Any) -> None:
        self.control, theirs = socket.socketpair()
        # Not with -m: what is pickled there would be of a module of another name.
        program = f"from tests.native import heir; heir.serve({theirs.fileno()})"
        self.process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[theirs.fileno()], cwd=ROOT)
        theirs.close()
        self.control.settimeout(60.0)
        write(self.control, limits)

    def ask(self, name: str, *arguments: Any, **named: Any) -> Any:
        write(self.control, (name, arguments, named))
        return read(self.control)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self.ask, name)

    def turn(self) -> None:
        """It turns by itself."""

    def unpack(self, load: Load, fds: list[int]) -> None:
        """As `Here`; the descriptors are closed here."""
        write(self.control, ("unpack", (load,), {}))
        send_fds(self.control, fds)
        for fd in fds:
            os.close(fd)
        read(self.control)

    def give(self, to: Here | There) -> None:
        write(self.control, ("pack", (), {}))
        load = read(self.control)
        to.unpack(load, receive_fds(self.control))
        to.go()
        self.ask("let_go")

    def end(self) -> None:
        """It ends when nobody tells it anything any more."""
        self.control.close()
        assert self.process.wait(60.0) == 0


# ---------------------------------------------------------------------- between processes


def write(control: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    control.sendall(struct.pack(">I", len(data)) + data)


def read(control: socket.socket) -> Any:
    """The next value; EOFError at the end."""
    (size,) = struct.unpack(">I", _exactly(control, 4))
    return pickle.loads(_exactly(control, size))


def _exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = control.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def send_fds(control: socket.socket, fds: list[int]) -> None:
    write(control, len(fds))
    for i in range(0, len(fds), FDS_MAX):
        socket.send_fds(control, [b"f"], fds[i : i + FDS_MAX])


def receive_fds(control: socket.socket) -> list[int]:
    count = read(control)
    fds: list[int] = []
    while len(fds) < count:
        _, some, _, _ = socket.recv_fds(control, 1, FDS_MAX)
        fds += some
    return fds


def serve(control_fd: int) -> None:
    """Do what `There` asks for, and turn the hub in between, until nobody asks any more."""
    with socket.socket(fileno=control_fd) as control, contextlib.suppress(EOFError):
        site = Here(**read(control))
        while True:
            if not site.hub.frozen:
                site.turn()
            select.select([control] if site.hub.frozen else [control, site.hub.fileno()], [], [], 0.01)
            if select.select([control], [], [], 0)[0]:
                obey(site, control)


def obey(site: Here, control: socket.socket) -> None:
    name, arguments, named = read(control)
    if name == "pack":
        load, fds = site.pack()
        write(control, load)
        send_fds(control, fds)
        os.close(fds[-1])
    elif name == "unpack":
        site.unpack(*arguments, receive_fds(control))
        write(control, None)
    else:
        write(control, getattr(site, name)(*arguments, **named))
