"""One WebSocket connection of a chaotic client, on a bare socket: what it says, and what it is told.

Nothing here shares code with the server or our SDK, so that both cannot be wrong in the same way. Bytes of a
publication are kept as they came: the judge compares them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from tests.attacks.wire import ACCEPT, BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame, upgrade_request

JSON, MSGPACK, SDK = "json", "msgpack", "sdk"  # SDK: JSON, made of what our SDK has told
_LINGER_RESET = struct.pack("ii", 1, 0)


class Said(msgspec.Struct):
    """One message of the server; `raw` is all of it."""

    type: str
    id: int | None = None
    room: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    offset: int | None = None
    epoch: str | None = None
    content: Raw = Raw(b"")


class Joined(msgspec.Struct):
    """The content of `joined`."""

    offset: int
    epoch: str
    recovered: bool
    messages: list[Raw]


class Acked(msgspec.Struct):
    """The content of an `ack`: of a publication, or of what has no place."""

    offset: int | None = None
    epoch: str | None = None
    duplicate: bool = False


class Paged(msgspec.Struct):
    """The content of `history`."""

    messages: list[Raw]
    more: bool


class Gap(msgspec.Struct):
    """The content of `gap`."""

    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    reason: str


class Refused(msgspec.Struct):
    """The content of `error`."""

    name: str
    message: str = ""
    temporary: bool = False


def encoded(codec: str, value: object) -> bytes:
    """Return `value` in the codec."""
    return msgspec.msgpack.encode(value) if codec == MSGPACK else msgspec.json.encode(value)


def decoded(codec: str, raw: bytes | Raw, type_: Any = Any) -> Any:
    """Return what `raw` says.

    Raises:
        msgspec.DecodeError: it is not of that type.
    """
    decode = msgspec.msgpack.decode if codec == MSGPACK else msgspec.json.decode
    return decode(raw, type=type_)


class EndedError(Exception):
    """The connection ended before it stood."""


class Listener(Protocol):
    """Who a connection tells what happens to it."""

    def hear(self, said: Said, raw: bytes) -> None:
        """A message of the server, and its bytes."""

    def ended(self) -> None:
        """The connection is over; once, and nothing comes after it."""

    def fail(self, error: Exception) -> None:
        """The server said what cannot be read, or the test has a mistake."""


class Wire(asyncio.Protocol):
    """A connection. `code` is the server's close code, None where there was none."""

    def __init__(self, codec: str, user: str, listener: Listener, token: str | None = None) -> None:
        self.codec = codec
        self.code: int | None = None
        self.open = False
        self.stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._user = user
        self._token = token
        self._listener = listener
        self._data = b""
        self._upgraded = False

    async def connect(self, host: str, port: int, receive_buffer_bytes: int) -> None:
        """Connect and shake hands.

        Raises:
            EndedError, OSError: it did not come about.
        """
        loop = asyncio.get_running_loop()
        connecting = socket.socket()
        if receive_buffer_bytes:
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        connecting.setblocking(False)
        try:
            await loop.sock_connect(connecting, (host, port))
        except BaseException:
            connecting.close()
            raise
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.create_connection(lambda: self, sock=connecting)
        await self.stands

    def send(self, messages: list[dict[str, object]]) -> None:
        """Send messages in one frame."""
        if self.codec == JSON:
            payload = b"\n".join(encoded(JSON, message) for message in messages)
        else:
            payload = encoded(MSGPACK, messages[0] if len(messages) == 1 else messages)
        if self._transport.is_closing():  # asyncio has noticed the end already, and will tell us next
            return
        opcode = TEXT if self.codec == JSON else BINARY
        self._transport.write(frame(opcode, payload, mask=os.urandom(4)))

    def cut(self, how: str) -> None:
        """End it: `close` with a Close frame, `fin` without, `rst` with a TCP reset."""
        if how == "close":
            self._transport.write(close_frame(1000))
        if how == "rst":
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET
            )
            self._transport.abort()
        else:
            self._transport.close()
        self._end()

    def stop_reading(self) -> None:
        """Leave what comes to the kernel's buffers."""
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Read again; what has come meanwhile comes now."""
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # -- asyncio's side -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True
        headers = [f"Sec-WebSocket-Protocol: realtime.v1.{self.codec}"]
        if self._token is not None:
            headers.append(f"Authorization: Bearer {self._token}")
        transport.write(upgrade_request(f"/ws/{self._user}", *headers))

    def data_received(self, data: bytes) -> None:
        try:
            self._read(data)
        except Exception as error:
            # The event loop would only log it.
            self._listener.fail(error)
            self.cut("rst")

    def _read(self, data: bytes) -> None:
        self._data += data
        if not self._upgraded and not self._upgrade():
            return
        at = 0
        while self.open and (found := _frame(self._data, at)) is not None:
            opcode, payload, at = found
            self._take(opcode, payload)
        self._data = self._data[at:]

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """Nothing is heard from here on, as if the process had ended."""
        if self.open:
            self.open = False
            if not self.stands.done():
                self.stands.set_exception(EndedError("the connection ended within the handshake"))
            self._listener.ended()

    def _upgrade(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT.encode() not in head:
            if not self.stands.done():
                self.stands.set_exception(EndedError(f"no upgrade: {head[:200]!r}"))
            self._transport.abort()
            return False
        self._upgraded, self._data = True, rest
        if not self.stands.done():
            self.stands.set_result(None)
        return True

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._transport.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self.code = struct.unpack("!H", payload[:2])[0] if payload else 1005
            with contextlib.suppress(OSError):
                self._transport.write(frame(CLOSE, payload[:2]))
            self._transport.close()
            self._end()
        elif opcode == TEXT:
            assert self.codec == JSON, "text on a MessagePack connection"
            for line in payload.split(b"\n"):
                self._listener.hear(decoded(JSON, line, Said), line)
        elif opcode == BINARY:
            assert self.codec == MSGPACK, "binary on a JSON connection"
            is_array = payload[0] >> 4 == 9 or payload[0] in b"\xdc\xdd"
            for one in decoded(MSGPACK, payload, list[Raw]) if is_array else [payload]:
                self._listener.hear(decoded(MSGPACK, one, Said), bytes(one))
        else:
            assert opcode == PONG, f"opcode {opcode}: the server sends no fragments"


def _frame(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Return opcode, payload and end of the frame at `at`; None while it is not whole."""
    if len(data) < at + 2:
        return None
    length, begin = data[at + 1], at + 2
    if length >= 126:
        begin = at + (4 if length == 126 else 10)
        if len(data) < begin:
            return None
        length = int.from_bytes(data[at + 2 : begin], "big")
    end = begin + length
    if len(data) < end:
        return None
    assert data[at] & 0xF0 == 0x80, (
        f"first byte {data[at]:#x}: neither fragments nor compression were asked for"
    )
    return data[at] & 15, data[begin:end], end
