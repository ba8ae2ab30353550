"""A raw WebSocket client for measurements of one connection: it reads when and as much as it is told."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
TEXT, CLOSE = 1, 8  # opcodes
PATIENCE_S = 20.0


class Peer:
    """One connection, in JSON. `receive_buffer_bytes` is its SO_RCVBUF, which the kernel doubles."""

    def __init__(self, port: int, user: str, *, receive_buffer_bytes: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(UPGRADE.format(path=f"/ws/{user}").encode())
        self.socket.setblocking(False)
        self._incoming = bytearray()
        self._whole: deque[dict[str, Any]] = deque()
        self.close_code: int | None = None
        while b"\r\n\r\n" not in self._incoming:
            self._wait()
            self._incoming += self.socket.recv(65536)
        del self._incoming[: self._incoming.index(b"\r\n\r\n") + 4]

    def send(self, type: str, **fields: Any) -> None:
        """Send one message."""
        payload = msgspec.json.encode({"type": type, **fields})
        head = bytes([0x81, 0x80 | len(payload)]) if len(payload) < 126 else b"\x81\xfe"
        size = b"" if len(payload) < 126 else struct.pack(">H", len(payload))
        self.socket.sendall(head + size + bytes(4) + payload)  # a mask of zeros masks nothing

    def ask(self, type: str, **fields: Any) -> dict[str, Any]:
        """Send a message with an id and return its answer; what comes before it is dropped."""
        id = os.urandom(6).hex()
        self.send(type, id=id, **fields)
        while True:
            for message in self.wait():
                if message.get("id") == id:
                    return message

    def wait(self, seconds: float = PATIENCE_S) -> Iterator[dict[str, Any]]:
        """Wait for something to read, and return the messages in it.

        Raises:
            TimeoutError: nothing came.
        """
        if self.close_code is None and not self._whole:
            self._wait(seconds)
        return self.read()

    def read(self, most_bytes: int = 1 << 18) -> Iterator[dict[str, Any]]:
        """Read once, at most so many bytes, and yield the messages that are whole; none is no error.

        What the caller does not take of them comes with the next call.
        """
        with contextlib.suppress(BlockingIOError):
            try:
                data = self.socket.recv(most_bytes)
            except ConnectionResetError:  # it was closed and did not answer in time
                data = b""
            if not data and self.close_code is None:
                self.close_code = 1006
            self._incoming += data
            self._parse()
        while self._whole:
            yield self._whole.popleft()

    def _parse(self) -> None:
        at, incoming = 0, self._incoming
        while len(incoming) - at >= 2:
            size, head = incoming[at + 1], 2
            if size == 126 and len(incoming) - at >= 4:
                size, head = int.from_bytes(incoming[at + 2 : at + 4], "big"), 4
            elif size == 127 and len(incoming) - at >= 10:
                size, head = int.from_bytes(incoming[at + 2 : at + 10], "big"), 10
            elif size >= 126:
                break
            end = at + head + size
            if len(incoming) < end:
                break
            opcode = incoming[at] & 15
            if opcode == TEXT:
                self._whole.append(msgspec.json.decode(incoming[at + head : end]))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(incoming[at + head : at + head + 2], "big")
            at = end
        del incoming[:at]

    def close(self) -> None:
        """Be gone."""
        self.socket.close()

    def _wait(self, seconds: float = PATIENCE_S) -> None:
        poll = select.poll()  # select() takes no descriptor above 1023, and there are more peers than that
        poll.register(self.socket, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError(f"nothing to read for {seconds:g} s")
