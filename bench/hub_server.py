"""`python -m bench.hub_server PORT`: the native hub with the least Python that a room needs.

One Python callback for each inbound message appends it to its room's log; no protocol, no offsets, no
limits. Beside bench/c/room.c this shows what the nesting in uvloop and the callback cost. The path is the
room, which a connection joins by its first message, `join`; `/echo` is the hub's native echo.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvloop

from realtime.native.hub import Accept, Handshake, Hub, Refuse, RoomLog

TICK_S = 0.1


class Rooms:
    """The callbacks: the state of a connection is the log of its room."""

    def __init__(self) -> None:
        self.hub = Hub(
            on_handshake=self.on_handshake,
            on_message=self.on_message,
            on_close=self.on_close,
            on_http=self.on_http,
            on_wake=self.on_wake,
        )
        self._loop = asyncio.get_running_loop()
        self._logs: dict[str, RoomLog] = {}

    def on_handshake(self, handshake: Handshake) -> Accept | Refuse:
        path = handshake.path
        if path == "/echo":
            return Accept(None, echo=True)
        log = self._logs.get(path)
        if log is None:
            log = self._logs[path] = self.hub.room()
        return Accept(log)

    def on_message(self, log: RoomLog, payload: bytes) -> None:
        if payload == b"join":
            connection = self.hub.current()
            connection.send(b"joined")
            connection.join(log)
        else:
            log.append(payload)

    def on_close(self, log: RoomLog | None, code: int, reason: bytes, clean: bool) -> None:
        """Nothing to tidy up: the hub has taken the connection out of its room."""

    def on_http(self, fd: int, received: bytes, remote: str, forwarded: bool) -> None:
        socket.socket(fileno=fd).close()

    def on_wake(self, delay_s: float) -> None:
        self._loop.call_later(delay_s, self.on_ready)

    def on_ready(self) -> None:
        if self.hub.on_ready():  # there is more to do: others on the loop get their turn first
            self._loop.call_soon(self.on_ready)

    def on_tick(self) -> None:
        self.hub.tick()
        self._loop.call_later(TICK_S, self.on_tick)


async def serve(port: int) -> None:
    """Serve on 127.0.0.1:`port` until SIGTERM."""
    rooms = Rooms()
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        rooms.hub.listen(listener.fileno())
        loop.add_reader(rooms.hub.fileno(), rooms.on_ready)
        rooms.on_tick()
        stopped = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stopped.set)
        await stopped.wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
