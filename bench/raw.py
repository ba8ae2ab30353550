"""A bare WebSocket client for benchmarks: blocking, JSON, one frame out and one message in at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, Self

import msgspec

KEY = b"x3JJHMbDL1EzLkh9GBhXDw=="
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
TIMEOUT_S = 60.0


class LostError(RuntimeError):
    """The server closed, refused, or said nothing for TIMEOUT_S."""


def upgrade(path: str) -> bytes:
    """Return a handshake."""
    return (
        b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n" % (path.encode(), KEY)
    )


def text_frame(payload: bytes) -> bytes:
    """Return one masked text frame."""
    return masked(TEXT, payload)


def frame_at(data: bytes | bytearray, at: int) -> tuple[int, int, int] | None:
    """Return (opcode, begin, end) of the frame at `at`, whole or not; None while its head is not there."""
    if len(data) < at + 2:
        return None
    length, begin = data[at + 1], at + 2
    if length >= 126:
        begin += 2 if length == 126 else 8
        if len(data) < begin:
            return None
        length = int.from_bytes(data[at + 2 : begin], "big")
    return data[at] & 15, begin, begin + length


class Client:
    """One connection as `user`. Reads raise LostError when there is nothing more to come."""

    def __init__(self, port: int, user: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(upgrade(f"/ws/{user}"))
        self._data = bytearray()
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            self._more()
        if not self._data.startswith(b"HTTP/1.1 101 "):
            raise LostError(f"refused: {bytes(self._data[:300])!r}")
        del self._data[: end + 4]
        self._read = self._messages()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def send(self, *messages: dict[str, Any]) -> None:
        """Send messages in one frame."""
        self._socket.sendall(text_frame(b"\n".join(map(msgspec.json.encode, messages))))

    def read(self) -> Any:
        """Return the next message."""
        return next(self._read)

    def ask(self, message: dict[str, Any]) -> Any:
        """Send a message with an id, and return the content of its answer; pushes before it are dropped."""
        self.send(message)
        while (said := self.read()).get("id") != message["id"]:
            pass
        if said["type"] == "error":
            raise LostError(f"{message['type']} refused: {said['content']}")
        return said["content"]

    def _messages(self) -> Iterator[Any]:
        while True:
            while (found := frame_at(self._data, 0)) is None or found[2] > len(self._data):
                self._more()
            opcode, begin, end = found
            payload = bytes(self._data[begin:end])
            del self._data[:end]
            if opcode == PING:
                self._socket.sendall(masked(PONG, payload))
            elif opcode == CLOSE:
                raise LostError(f"closed: {payload!r}")
            elif opcode == TEXT:
                for line in payload.split(b"\n"):
                    yield msgspec.json.decode(line)

    def _more(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except TimeoutError as error:
            raise LostError(f"nothing for {TIMEOUT_S:.0f} s") from error
        if not data:
            raise LostError("the connection ended")
        self._data += data


def masked(opcode: int, payload: bytes) -> bytes:
    n, mask = len(payload), os.urandom(4)
    head = bytes([0x80 | opcode, 0x80 | (n if n < 126 else 126 if n < 65536 else 127)])
    if n >= 126:
        head += n.to_bytes(2 if n < 65536 else 8, "big")
    key = int.from_bytes((mask * (n // 4 + 1))[:n], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(n, "big")
