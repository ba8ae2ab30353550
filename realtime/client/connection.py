"""One connection, from the handshake to its end: frames out, messages in, and the proof that it lives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, NamedTuple, Protocol

import msgspec
from websockets.asyncio.client import connect as websockets_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from realtime.client.errors import Closed, Disconnected
from realtime.client.wire import Codec, Message
from realtime.errors import CloseCode

# What the server takes in one frame by default, halved: a frame never meets its limits because we batched.
_FRAME_MESSAGES_MAX = 50
_FRAME_BYTES_MAX = 16 * 1024


class Socket(Protocol):
    """What is used of `websockets`' connection; tests bring their own."""

    async def send(self, message: str | bytes) -> None: ...
    async def recv(self) -> str | bytes: ...
    async def close(self, code: int = 1000, reason: str = "") -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect, and as whom."""

    url: str
    token: str | None
    subprotocol: str
    timeout_s: float
    message_bytes_max: int
    ssl: SSLContext | None = None
    renewable: bool = False
    """Whether the next attempt would bring another token."""


class Connector(Protocol):
    """Opens a socket.

    Raises:
        Disconnected: it did not work now; `retry_after_s` where the server named a time.
        Closed: it will not work later either.
    """

    async def __call__(self, target: Target) -> Socket: ...


class Lost(NamedTuple):
    """How a connection ended: close code and reason; 1006 without a close frame."""

    code: int
    reason: str


async def open_socket(target: Target) -> Socket:
    """The default Connector: the `websockets` library, without compression and its own pings."""
    # Given, not None: to `websockets` None means no TLS, whatever the URL says.
    security: dict[str, Any] = {} if target.ssl is None else {"ssl": target.ssl}
    headers = {"Authorization": f"Bearer {target.token}"} if target.token else {}
    try:
        # Our own ping measures the round trip and finds a dead server; a second one would only double it.
        return await websockets_connect(
            target.url,
            subprotocols=[Subprotocol(target.subprotocol)],
            additional_headers=headers,
            compression=None,
            open_timeout=target.timeout_s,
            ping_interval=None,
            max_size=target.message_bytes_max,
            **security,
        )
    except InvalidStatus as refused:
        raise _refusal(refused, target) from refused
    except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
        raise Disconnected(f"{target.url}: {error or type(error).__name__}") from error


def _refusal(refused: InvalidStatus, target: Target) -> Disconnected | Closed:
    """408, 425, 429 and 5xx pass; any other answer to the handshake will be the same the next time.

    So does a token that has expired on its way, where the next attempt brings a new one.
    """
    response = refused.response
    text = f"refused with HTTP {response.status_code}"
    body = bytes(response.body or b"")[:200].decode("utf-8", "replace").strip()
    text += f": {body}" if body else ""
    challenge = response.headers.get("WWW-Authenticate", "")
    expired = response.status_code == 401 and 'error_description="expired"' in challenge
    if (
        response.status_code >= 500
        or response.status_code in (408, 425, 429)
        or (expired and target.renewable)
    ):
        after = response.headers.get("Retry-After", "")
        return Disconnected(text, retry_after_s=float(after) if after.isdecimal() else None)
    return Closed(text, status=response.status_code)


class Connection:
    """Sends in order without ever blocking the caller, and hands on what comes."""

    def __init__(self, socket: Socket, codec: Codec, receive: Callable[[Message], None]) -> None:
        self._socket = socket
        self._codec = codec
        self._receive = receive
        # Bounded by what waits for answers: the client admits only so many requests at once.
        self._outbox: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._silent_since_ping = False
        self.lost: asyncio.Future[Lost] = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._write())]

    def send(self, message: bytes) -> None:
        """Queue one encoded message; what one turn of the event loop queues goes out in one frame."""
        self._outbox.append(message)
        self._idle.clear()
        self._wake.set()

    @property
    def queued(self) -> int:
        """Messages that have not been handed to the socket yet."""
        return len(self._outbox)

    def expect_traffic(self) -> None:
        """From now on, note whether anything arrives."""
        self._silent_since_ping = True

    @property
    def silent(self) -> bool:
        """Nothing has arrived since `expect_traffic`."""
        return self._silent_since_ping

    def drop(self, code: int, reason: str) -> None:
        """Count the connection as lost, without asking the other side. Idempotent."""
        if not self.lost.done():
            self.lost.set_result(Lost(code, reason))
            self._idle.set()

    async def flush(self) -> None:
        """Return when everything queued is with the system, or the connection is lost."""
        if not self.lost.done():
            await self._idle.wait()

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """End both tasks and the socket; `websockets` bounds the closing handshake in time."""
        self.drop(code, reason)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close(code, reason)

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._socket.recv()
                self._silent_since_ping = False
                for message in self._codec.decode(frame):
                    self._receive(message)
        except ConnectionClosed as closed:
            received = closed.rcvd
            self.drop(*((received.code, received.reason) if received else (CloseCode.ABNORMAL, "")))
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            # No frame, or none with the keys that its type promises: there is nothing to go on with.
            self.drop(CloseCode.INVALID_DATA, f"server sent what we cannot read: {error!r}")

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._outbox:
                    await self._socket.send(self._codec.frame(self._next_frame()))
                self._idle.set()
        except ConnectionClosed:
            return  # the reader sees the same end, with the close frame that tells why

    def _next_frame(self) -> list[bytes]:
        batch = [self._outbox.popleft()]
        size = len(batch[0])
        while self._outbox and len(batch) < _FRAME_MESSAGES_MAX:
            size += len(self._outbox[0]) + 1
            if size > _FRAME_BYTES_MAX:
                break
            batch.append(self._outbox.popleft())
        return batch
