"""A peer with bad manners: raw sockets, hand-made requests and frames, every wait with a deadline.

Nothing here shares code with the server, so that both cannot be wrong in the same way.
"""

import contextlib
import itertools
import json
import os
import select
import socket
import ssl
import struct
import time
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path
from typing import Protocol, Self

import pytest

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
DEADLINE_S = 60.0
SERVED_S = 1.0  # how long the server may work before it serves another client, while somebody attacks
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b64encode(sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
# What RFC 6455 and our protocol document; 1011 is missing on purpose: a client's bytes are no server error.
DOCUMENTED_CLOSE_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1012, 1013} | {
    *range(4000, 4007),
    *(4500, 4501, 4502, 4503, 4504, 4507, 4508, 4509),
}
# For what TLS does not have: compression, urgent data, half of a connection closed.
ON_TCP = pytest.mark.parametrize("fortress", ["plain"], indirect=True)
# How a server that has closed meets who goes on sending.
GONE = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_users = itertools.count()


class Target(Protocol):
    """What the attacks need to know of a running server."""

    host: str
    port: int
    tls: ssl.SSLContext | None  # how to speak TLS with it, where it does

    @property
    def pid(self) -> int: ...


@dataclass(frozen=True)
class Response:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        values = self.headers.get(name.lower())
        return ", ".join(values) if values else None


@dataclass(frozen=True)
class Frame:
    """A frame of the server."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self) -> int:
        """The close code; 1005 where a Close frame has none (RFC 6455, 7.1.5)."""
        assert self.opcode == CLOSE
        return struct.unpack("!H", self.payload[:2])[0] if self.payload else 1005


def new_user() -> str:
    """Return a user id of its own, so that the limit of connections a user plays no part."""
    return f"u{os.getpid()}-{next(_users)}"


def upgrade_request(
    path: str | None = None,
    *headers: str,
    method: str = "GET",
    version: str = "HTTP/1.1",
    without: tuple[str, ...] = (),
    **replaced: str,
) -> bytes:
    """Return a WebSocket handshake: `headers` are added lines, `replaced` are `Sec_WebSocket_Key="…"` etc."""
    fields = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields |= {name.replace("_", "-"): value for name, value in replaced.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if name not in without]
    target = f"/ws/{new_user()}" if path is None else path
    return "\r\n".join([f"{method} {target} {version}", *lines, *headers, "", ""]).encode("latin-1")


def masked(payload: bytes, mask: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """Return `payload` exclusive-or the repeated masking key."""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length_bytes: int = 0,
    claimed_bytes: int | None = None,
) -> bytes:
    """Return one client frame. `length_bytes` 2 or 8 forces that form of the length, `claimed_bytes` lies."""
    n = len(payload) if claimed_bytes is None else claimed_bytes
    length_bytes = length_bytes or (0 if n < 126 else 2 if n < 65536 else 8)
    masked_bit = 0x80 if mask else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if length_bytes == 0:
        head += bytes([masked_bit | n])
    elif length_bytes == 2:
        head += struct.pack("!BH", masked_bit | 126, n)
    else:
        head += struct.pack("!BQ", masked_bit | 127, n)
    return head + (mask + masked(payload, mask) if mask else payload)


def message(text: str | bytes) -> bytes:
    """Return one text frame."""
    return frame(TEXT, text.encode() if isinstance(text, str) else text)


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Return a Close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason)


class Peer:
    """One connection to the server. Reads return what came, or fail after `DEADLINE_S`.

    `source` is where it comes from: any address of 127.0.0.0/8 is ours on Linux.
    """

    def __init__(self, target: Target, *, receive_buffer_bytes: int = 0, source: str = "") -> None:
        self.socket = socket.socket()
        if source:
            self.socket.bind((source, 0))
        if receive_buffer_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect((target.host, target.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if target.tls is not None:
            self.socket = target.tls.wrap_socket(self.socket, server_hostname="localhost")
        self.received = b""
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Self:
        """Send all of `data`. A server that has closed already is no failure: what it said can be read."""
        with contextlib.suppress(*GONE):
            self.socket.sendall(data)
        return self

    def push(self, data: bytes, *, stalled_s: float = 0.3) -> int:
        """Send until all is gone, the server stops taking for `stalled_s`, or it cuts; return the bytes."""
        self.socket.setblocking(False)
        view, sent = memoryview(data), 0
        try:
            while sent < len(view) and select.select([], [self.socket], [], stalled_s)[1]:
                with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                    sent += self.socket.send(view[sent : sent + 65536])
        except GONE:
            self.ended = True
        finally:
            self.socket.settimeout(DEADLINE_S)
        return sent

    def reset(self) -> None:
        """Vanish with a TCP reset instead of an end of stream."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def upgrade(self, path: str | None = None, *headers: str) -> Self:
        """Shake hands; fails on anything but 101 with the right accept token."""
        response = self.send(upgrade_request(path, *headers)).read_response()
        assert response.status == 101, response
        assert response.header("Sec-WebSocket-Accept") == ACCEPT
        return self

    def upgrade_with(self, *headers: str) -> Response:
        """Ask for an upgrade of the plain path with more headers, and return the answer, whatever it is."""
        return self.send(upgrade_request("/ws", *headers)).read_response()

    def join(self, room: str) -> Self:
        """Join a room of the protocol and wait until that is so."""
        self.send(message(json.dumps({"type": "join", "id": "j", "room": room})))
        self.read_until('"joined"')
        return self

    def read_response(self) -> Response:
        """Read one HTTP answer: the head, and the body by Content-Length; 101 has none."""
        while b"\r\n\r\n" not in self.received:
            assert self._more(), f"the connection ended within the head: {self.received!r}"
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = f"{first} ".split(" ", 2)
        assert version == "HTTP/1.1", first
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon, line
            headers.setdefault(name.lower(), []).append(value.strip())
        length = 0 if status == "101" else int(headers.get("content-length", ["0"])[0])
        while len(self.received) < length and self._more():
            pass
        body, self.received = self.received[:length], self.received[length:]
        return Response(int(status), headers, body)

    def read_frame(self) -> Frame | None:
        """Read the next frame, or None at the end of the stream. The server's own manners are checked."""
        while (parsed := _parse(self.received)) is None:
            if not self._more():
                return None
        got, used = parsed
        self.received = self.received[used:]
        assert got.opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), got
        if got.opcode >= 8:
            assert got.fin, got
            assert len(got.payload) <= 125, got
        return got

    def read_message(self) -> str:
        """Return the next text message, skipping pings; the connection has to live on."""
        while True:
            got = self.read_frame()
            assert got is not None, "the connection ended"
            assert got.opcode != CLOSE, f"closed with {got.code} {got.payload[2:]!r}"
            if got.opcode == TEXT:
                return got.payload.decode()

    def read_until(self, part: str) -> str:
        """Return the first text message that contains `part`."""
        while part not in (text := self.read_message()):
            pass
        return text

    def read_close(self) -> int | None:
        """Read on until the Close frame and return its code; None when the stream ended without one."""
        while (got := self.read_frame()) is not None:
            if got.opcode == CLOSE:
                assert got.code in DOCUMENTED_CLOSE_CODES | {1005}, got
                got.payload[2:].decode()  # the reason is UTF-8
                return got.code
        return None

    def read_frames_here(self) -> list[Frame]:
        """Return the frames that one read of a readable socket makes whole; at its end, `ended` is set."""
        self._more()
        frames = []
        while (parsed := _parse(self.received)) is not None:
            frames.append(parsed[0])
            self.received = self.received[parsed[1] :]
        return frames

    def read_to_end(self) -> bytes:
        """Return all that still comes until the server ends the stream."""
        while self._more():
            pass
        data, self.received = self.received, b""
        return data

    def _more(self) -> bool:
        try:
            data = self.socket.recv(262_144)
        except GONE:
            data = b""
        except TimeoutError as error:
            raise AssertionError(f"nothing within {DEADLINE_S} s, after {self.received[:200]!r}") from error
        self.received += data
        self.ended = not data
        return bool(data)


def _parse(data: bytes) -> tuple[Frame, int] | None:
    if len(data) < 2:
        return None
    assert not data[1] & 0x80, "a server masks nothing"
    length, at = data[1] & 0x7F, 2
    if length == 126:
        if len(data) < 4:
            return None
        length, at = int.from_bytes(data[2:4], "big"), 4
        assert length >= 126, "not the shortest form of a length"
    elif length == 127:
        if len(data) < 10:
            return None
        length, at = int.from_bytes(data[2:10], "big"), 10
        assert length >= 65536, "not the shortest form of a length"
    if len(data) < at + length:
        return None
    got = Frame(data[0] & 15, data[at : at + length], bool(data[0] & 0x80), data[0] >> 4 & 7)
    return got, at + length


class Bystander(Peer):
    """Another client, connected before the attack: it has to be served on within a second.

    A second of the server's own: a machine that is busy with other things lets both of them wait for longer.
    """

    def __init__(self, target: Target, *, source: str = "") -> None:
        super().__init__(target, source=source)
        self._server = target.pid
        self._requests = itertools.count(1)
        self.upgrade()
        self.read_until('"connected"')

    def read_frame(self) -> Frame | None:
        """Read the next frame as a healthy client does: a ping is answered on the way."""
        got = super().read_frame()
        if got is not None and got.opcode == PING:
            self.send(frame(PONG, got.payload))
        return got

    def is_served(self) -> float:
        """Send a ping of the protocol and see its pong; return how long the server worked before it."""
        number = next(self._requests)
        before_s, began = cpu_s(self._server), time.monotonic()
        self.send(message(f'{{"type":"ping","id":{number}}}'))
        reply = json.loads(self.read_until('"pong"'))
        waited_s, worked_s = time.monotonic() - began, cpu_s(self._server) - before_s
        assert reply["id"] == number
        assert worked_s <= SERVED_S, f"another waited {waited_s:.2f} s, {worked_s:.2f} s of the server's work"
        return worked_s


def cpu_s(pid: int) -> float:
    """Return for how long a process has had a processor, all its threads together; hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the resident set of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6
