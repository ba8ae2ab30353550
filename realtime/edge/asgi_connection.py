"""One WebSocket that an ASGI server accepted, as the core sees connections.

The server does frames and handshakes, one `await` a message; here are reading and writing, the limits that
the hub applies to its own, and the end of it. What is duck-typed is ASGI's own interface, so Starlette's
WebSocket does, and no framework is imported.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, NamedTuple, Protocol

from realtime.edge.foreign import ForeignConnection
from realtime.edge.mixed import MixedHub
from realtime.errors import CloseCode
from realtime.native.hub import Accept, Refuse
from realtime.protocol.closing import close_reason, may_be_sent
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

Message = MutableMapping[str, Any]

# Frames that lie ready are handled without a look at anything else, and then the event loop gets its turn:
# the writer too, or whoever sends many at once would be cut for the answers.
FRAMES_A_TURN: Final = 32


class AsgiWebSocket(Protocol):
    """What is used of a WebSocket: ASGI's three, as methods. Starlette's has them."""

    @property
    def scope(self) -> MutableMapping[str, Any]: ...
    def receive(self) -> Awaitable[Message]: ...
    def send(self, message: Message) -> Awaitable[None]: ...


def client_address(scope: Mapping[str, Any]) -> str:
    """The client's address as the ASGI server says; empty where it says none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


class AsgiRequest:
    """A handshake as the gate reads it. Of extensions it says nothing: they are the ASGI server's own."""

    def __init__(self, scope: Mapping[str, Any], connection_id: int) -> None:
        self.connection_id = connection_id
        self._scope = scope

    @property
    def address(self) -> str:
        return client_address(self._scope)

    @property
    def query(self) -> str:
        query: bytes = self._scope.get("query_string", b"")
        return query.decode("latin-1")

    def header(self, name: str) -> str | None:
        """Return the field's value (several lines joined by ", "), or None."""
        if name == "sec-websocket-extensions":
            return None
        wanted = name.encode()
        values = [value for key, value in self._scope["headers"] if key.lower() == wanted]
        if not values and name == "sec-websocket-protocol" and self._scope.get("subprotocols"):
            return ", ".join(self._scope["subprotocols"])  # what ASGI has of it; the header may be gone
        return b", ".join(values).decode("latin-1") if values else None


class End(NamedTuple):
    """How a connection ended; `clean` with a closing handshake."""

    code: int
    reason: bytes
    clean: bool


class AsgiConnection(ForeignConnection):
    """A connection of an ASGI server, as `realtime.core.contracts.Connection`.

    `on_frame(connection, payload)` gets each frame of the kind that the subprotocol says, of at most
    `max_message_bytes`.
    """

    def __init__(
        self,
        number: int,
        websocket: AsgiWebSocket,
        verdict: Accept,
        hub: MixedHub,
        settings: Settings,
        on_frame: Callable[[AsgiConnection, bytes], None],
    ) -> None:
        queue_bytes = settings.queue_bytes(settings.unicast_limit_bytes)
        super().__init__(number, client_address(websocket.scope), verdict, hub, settings, queue_bytes)
        self._websocket = websocket
        self._on_frame = on_frame
        self._caught_up = asyncio.Event()
        self._work = asyncio.Event()
        self._tasks: tuple[asyncio.Task[Any], ...] = ()
        self._aborted = False

    def _wake(self) -> None:
        self._work.set()
        if not self.open:
            self._caught_up.set()  # to read the peer's own close

    def abort(self) -> None:
        """Be gone at once: the ASGI server closes the socket when its application returns."""
        self.open = False
        self._aborted = True
        self._outbox.drop_rooms()
        for task in self._tasks:
            task.cancel()

    # -- its life -----------------------------------------------------------------------------------------

    async def run(self, verdict: Accept) -> End:
        """Accept it and serve it to its end; nothing of it runs on after that, even if this is cancelled."""
        self._begin(verdict)
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write(verdict.subprotocol))
        self._tasks = (reading, writing)
        try:
            if self._aborted:
                self.abort()  # before there was anything to stop
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and not writing.cancelled() and writing.exception() is None:
                await asyncio.wait([reading])  # our close is sent: now the peer's, until the deadline
        finally:
            self._let_go()
            for task in self._tasks:
                task.cancel()
            ends = await asyncio.gather(*self._tasks, return_exceptions=True)
            self._leave_hub()
        for end in ends:
            if isinstance(end, Exception):
                log.debug("connection %d: the ASGI server failed", self.id, exc_info=end)
        return self._end(ends[0])

    def _end(self, read: End | BaseException) -> End:
        """How it ended: as we closed it, or else as the peer did; `read` is what its reading came to."""
        if self._ending is not None:
            return End(*self._ending, clean=isinstance(read, End))
        return read if isinstance(read, End) else End(CloseCode.ABNORMAL, b"", False)

    async def _read(self) -> End:
        frames = 0
        while True:
            while self.open and self.queued_bytes > self._high_water:
                self._caught_up.clear()
                await self._caught_up.wait()
            frames += 1
            if frames % FRAMES_A_TURN == 0:
                await asyncio.sleep(0)
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                code = message.get("code") or CloseCode.NO_STATUS
                return End(code, (message.get("reason") or "").encode(), may_be_sent(code))
            if self.open:
                self._take(message)

    def _take(self, message: Message) -> None:
        """Take one frame, as the hub takes its own."""
        text, data = message.get("text"), message.get("bytes")
        try:
            payload: bytes = text.encode() if text is not None else data or b""
        except UnicodeEncodeError:
            self.close(CloseCode.INVALID_DATA, close_reason("text is not UTF-8"))
            return
        if (text is None) != self.binary:
            reason = close_reason("text or binary frames, as the subprotocol says")
            self.close(CloseCode.UNSUPPORTED_DATA, reason)
        elif len(payload) > self._settings.max_message_bytes:
            most = self._settings.max_message_bytes
            reason = close_reason("message too large", limit="max_message_bytes", allowed=most)
            self.close(CloseCode.MESSAGE_TOO_BIG, reason)
        else:
            self._on_frame(self, payload)

    async def _write(self, subprotocol: str | None) -> None:
        """Accept, and send what is queued until `close`, whose code goes last."""
        send = self._websocket.send
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        while True:
            while (taken := self._next()) is not None:
                await send(self._frame(taken.payload))
                self._outbox.done(taken)
                if self.queued_bytes <= self._high_water:
                    self._caught_up.set()
            if self._ending is not None:
                code, reason = self._ending
                await send({"type": "websocket.close", "code": code, "reason": reason.decode()})
                return
            self._work.clear()
            await self._work.wait()

    def _frame(self, payload: bytes) -> Message:
        if self.binary:
            return {"type": "websocket.send", "bytes": payload}
        return {"type": "websocket.send", "text": payload.decode()}


async def refuse(websocket: AsgiWebSocket, verdict: Refuse) -> None:
    """Answer a handshake with an HTTP status; with 403 where the ASGI server can send no other."""
    if "websocket.http.response" not in (websocket.scope.get("extensions") or {}):
        await websocket.send({"type": "websocket.close", "code": CloseCode.POLICY_VIOLATION})
        return
    lines = [line.partition(":") for line in verdict.headers.splitlines()]
    headers = [(name.strip().lower().encode(), value.strip().encode()) for name, _, value in lines]
    headers.append((b"content-type", b"text/plain; charset=utf-8"))
    headers.append((b"content-length", b"%d" % len(verdict.body)))
    await websocket.send(
        {"type": "websocket.http.response.start", "status": verdict.status, "headers": headers}
    )
    await websocket.send({"type": "websocket.http.response.body", "body": verdict.body})
