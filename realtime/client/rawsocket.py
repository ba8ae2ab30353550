"""A WebSocket client for load: one asyncio Protocol, text frames, no queue and no task per connection.

The SDK costs some 20 us a message; this costs 2. It shares no code with the server, so that a mistake in the
server's own frames cannot cancel out. It takes what the protocol promises (unfragmented text, ping, close)
and counts anything else as a failure of the connection.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from typing import cast
from urllib.parse import SplitResult

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA


class RawSocket(asyncio.Protocol):
    """One connection. `on_message(payload)` for each text message, `on_lost(why)` once at the end."""

    def __init__(self, target: SplitResult, token: str | None, on_message: Callable[[bytes], None]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_message = on_message
        self.on_lost: Callable[[str], None] = lambda why: None
        self._target = target
        self._token = token
        self._key = base64.b64encode(os.urandom(16))
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._upgraded = False
        self._why = "connection closed without a close frame"
        self._out: list[bytes] = []

    def send(self, payload: bytes) -> None:
        """Queue one text message until `flush`."""
        self._out.append(_frame(_TEXT, payload))

    def flush(self) -> None:
        """Hand all that is queued to the system at once."""
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """Say goodbye; `on_lost` follows when the server has answered."""
        if self._transport is not None and not self._transport.is_closing():
            self._why = ""
            self._transport.write(_frame(_CLOSE, b"\x03\xe8"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not a check: uvloop's transports are not registered as asyncio's.
        self._transport = transport = cast(asyncio.Transport, transport)
        target = self._target
        lines = [
            f"GET {target.path or '/'} HTTP/1.1",
            f"Host: {target.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: realtime.v1.json",
            *([f"Authorization: Bearer {self._token}"] if self._token else []),
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        if not self._upgraded:
            at = self._read_head(buffer)
            if not at:
                self._buffer = buffer
                return
        self._buffer = self._read_frames(buffer, at)

    def connection_lost(self, error: Exception | None) -> None:
        why = self._why if error is None else f"{self._why} ({error})"
        if not self.opened.done():
            self.opened.set_exception(ConnectionError(why))
        self.gone.set_result(None)
        self.on_lost(why)

    def _read_head(self, buffer: bytes) -> int:
        """Return where the frames begin; 0 while the head is incomplete, or when it is a refusal."""
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return 0
        lines = buffer[:end].split(b"\r\n")
        accept = base64.b64encode(hashlib.sha1(self._key + _GUID).digest())
        accepted = any(
            name.strip().lower() == b"sec-websocket-accept" and value.strip() == accept
            for name, _, value in (line.partition(b":") for line in lines[1:])
        )
        if b" 101 " not in lines[0] or not accepted:
            self._fail(f"handshake refused: {buffer[:300].decode('latin-1')}")
            return 0
        self._upgraded = True
        self.opened.set_result(None)
        return end + 4

    def _read_frames(self, data: bytes, at: int) -> bytes:
        """Hand on the complete frames from `at`, and return the rest."""
        end = len(data)
        on_message = self.on_message
        while end - at >= 2:
            first, size = data[at], data[at + 1]
            start = at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if end < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            if end - start < size:
                break
            at = start + size
            payload = data[start:at]
            if first != 0x81:
                self._on_control(first, payload)
            elif b"\n" in payload:
                for line in payload.split(b"\n"):
                    on_message(line)
            else:
                on_message(payload)
        return data[at:]

    def _on_control(self, first: int, payload: bytes) -> None:
        assert self._transport is not None
        if first == 0x80 | _PING:
            self._transport.write(_frame(_PONG, payload))
        elif first == 0x80 | _CLOSE:
            if self._why:
                code = int.from_bytes(payload[:2], "big")
                self._why = f"closed by the server: {code} {payload[2:].decode(errors='replace')}".strip()
            self._transport.close()
        elif first != 0x80 | _PONG:
            self._fail(f"frame with first byte {first:#04x}")

    def _fail(self, why: str) -> None:
        assert self._transport is not None
        self._why = why
        self._transport.abort()


def _frame(opcode: int, payload: bytes) -> bytes:
    """One final masked frame. The mask is applied as one big integer: 0.4 us for 200 bytes."""
    size = len(payload)
    mask = os.urandom(4)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8, "big")
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + mask + masked
