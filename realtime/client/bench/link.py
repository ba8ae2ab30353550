"""One connection of a load: an asyncio protocol that shakes hands, joins its room, and keeps the books.

Reading and counting frames is native; Python sees what is rare.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable
from typing import Final, cast

from realtime.native.tally import Peer, client_frame, now_ns

HEAD_BYTES_MAX: Final = 64 * 1024
QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024
PING: Final = 9
PONG: Final = 10
CLOSE: Final = 8
REFUSED_WORDS: Final = 60


class Link(asyncio.Protocol):
    """`on_joined` is called once it is in its room, `on_lost` with a reason when it ends, before or after."""

    def __init__(
        self,
        number: int,
        room: str,
        peer: Peer,
        on_joined: Callable[[Link], None],
        on_lost: Callable[[Link, str], None],
        on_error: Callable[[str], None],
    ) -> None:
        self.number = number
        self.room = room
        self.peer = peer
        self.began_ns = now_ns()
        self.upgraded_ns = 0
        self.joined_ns = 0
        self._on_joined = on_joined
        self._on_lost = on_lost
        self._on_error = on_error
        self._head = bytearray()
        self._transport: asyncio.Transport | None = None
        self._reason = "connection lost"
        self.closing = False

    def ask(self, request: bytes) -> None:
        """Send the request for an upgrade."""
        assert self._transport is not None
        self._transport.write(request)

    def publish(self, due_ns: int) -> bool:
        """Send the next publication; False, and none is sent, where the socket takes nothing any more."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > QUEUE_BYTES_MAX:
            return False
        transport.write(self.peer.publication(due_ns))
        return True

    def close(self) -> None:
        """End it: with a close frame, and without waiting for an answer."""
        self.closing = True
        if self._transport is not None:
            self._transport.write(client_frame(CLOSE, b"\x03\xe8", 0))
            self._transport.close()

    # -- what the loop calls --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not made of it

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if not self.upgraded_ns:
            self._head += data
            self._shake_hands()
        else:
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._transport = None
        if exc is not None and self._reason == "connection lost":
            self._reason = type(exc).__name__
        self._on_lost(self, self._reason)

    # -- the rest -------------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > HEAD_BYTES_MAX:
                self._fail("an answer without an end")
            return
        head, rest = bytes(self._head[:end]), bytes(self._head[end + 4 :])
        if not head.startswith(b"HTTP/1.1 101"):
            line = head.partition(b"\r\n")[0].decode("latin-1")
            self._fail(f"refused: {line[:REFUSED_WORDS]}")
            return
        self.upgraded_ns = now_ns()
        self._head.clear()
        assert self._transport is not None
        join = json.dumps({"type": "join", "id": "join", "room": self.room}).encode()
        self._transport.write(client_frame(1, join, self.number))
        if rest:
            self._take(rest)

    def _take(self, data: bytes) -> None:
        found = self.peer.receive(data)
        if found is not None:
            for opcode, payload in found:
                self._look_at(opcode, payload)

    def _look_at(self, opcode: int, payload: bytes) -> None:
        if opcode == PING and self._transport is not None:
            self._transport.write(client_frame(PONG, payload, self.number))
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2]) if len(payload) > 1 else 1005
            self._fail(f"closed: {code} {payload[2:].decode('utf-8', 'replace')}".rstrip())
        elif opcode == 1:
            self._read(payload)

    def _read(self, payload: bytes) -> None:
        try:
            message = json.loads(payload)
        except ValueError:
            self._fail("a message that is no JSON")
            return
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "joined" and not self.peer.joined:
            self.peer.joined = True
            self.joined_ns = now_ns()
            self._on_joined(self)
        elif kind == "error":
            content = message.get("content") or {}
            name = str(content.get("name") or content.get("code"))
            if self.peer.joined:
                self._on_error(name)
            else:
                self._fail(f"not let in: {name}: {content.get('message', '')}"[:200])

    def _fail(self, reason: str) -> None:
        self._reason = reason
        if self._transport is not None:
            self._transport.close()


def request(host: str, path: str, token: str) -> bytes:
    """Return a request for an upgrade."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
