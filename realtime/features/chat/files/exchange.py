"""One request over ASGI: its headers, its body, what is answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from realtime.features.chat.files.faults import Cut
from realtime.features.chat.files.limits import BYTES_PER_SECOND_MIN, TICKET_CHARACTERS_MAX

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[str, str]

GATHERED_BYTES: Final = 256 * 1024  # given on at once, so that a thread is not woken for each read
DRAINED_BYTES: Final = 1024 * 1024  # read on after a refusal, so that it is not lost with the connection
DRAINED_S: Final = 1.0
READ_PATIENCE: Final = 3  # times as long as for what is sent: so much of an answer is given at once


class _Pace:
    """Looks whether a body comes too slowly, over each of the times that a peer may be silent for."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._since = asyncio.get_running_loop().time()
        self._bytes = 0

    def too_slow(self, came: int) -> bool:
        """Count what came now."""
        self._bytes += came
        now = asyncio.get_running_loop().time()
        if now - self._since < self._window_s:
            return False
        slow = self._bytes < BYTES_PER_SECOND_MIN * (now - self._since)
        self._since, self._bytes = now, 0
        return slow


class Exchange:
    """A request and its one answer. `stop` is set when it has to come to its end."""

    def __init__(
        self, scope: Message, receive: Receive, send: Send, stop: asyncio.Event, idle_s: float
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.stop = stop
        self._idle_s = idle_s
        self._query: bytes = scope["query_string"]
        self._headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        self._receive = receive
        self._send = send
        self._read_all = False
        self.cut = False
        self.answered = False
        self.extra: Headers = {}
        """Headers of every answer."""

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name; None where it is absent, or there more than once."""
        found = [value for each, value in self._headers if each == name]
        return found[0] if len(found) == 1 else None

    def number(self, name: str) -> int | None:
        """Return a header that is a number of at most 15 digits, else None."""
        text = self.header(name)
        return (
            int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 15 else None
        )

    @property
    def ticket(self) -> str:
        """What the query has as `ticket`; empty where it has none, or several."""
        if len(self._query) > TICKET_CHARACTERS_MAX + 64:
            return ""
        try:
            found = parse_qs(self._query.decode("ascii"), max_num_fields=8).get("ticket", [])
        except ValueError:
            return ""
        return found[0] if len(found) == 1 else ""

    async def body(self) -> AsyncIterator[bytes]:
        """Return the body as it comes. It ends early, and is `cut`, where the peer is gone or says nothing
        for too long, or `stop` is set: what came by then is given.
        """
        waiting, pace = bytearray(), _Pace(self._idle_s)
        while not self._read_all and not self.cut:
            message = await self._next()
            came = message.get("body", b"") if message else b""
            waiting += came
            if message is None or message["type"] == "http.disconnect" or pace.too_slow(len(came)):
                self.cut = True
            elif not message.get("more_body", False):
                self._read_all = True
            if len(waiting) >= GATHERED_BYTES:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)

    async def _next(self) -> Message | None:
        """Return what comes next, None where nothing will."""
        if self.stop.is_set():
            return None
        coming = asyncio.ensure_future(self._receive())
        stopping = asyncio.ensure_future(self.stop.wait())
        try:
            done, _ = await asyncio.wait(
                (coming, stopping), timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED
            )
            return coming.result() if coming in done else None
        finally:
            for each in (coming, stopping):
                each.cancel()

    async def answer(self, status: int, headers: Headers | None = None, text: str = "") -> None:
        """Answer, with a line of text where there is one to say."""
        body = f"{text}\n".encode() if text else b""
        sent = dict(headers or {})
        if body:
            sent["Content-Type"] = "text/plain; charset=utf-8"
        if status not in (204, 304):
            sent["Content-Length"] = str(len(body))
        if self.method == "HEAD":
            body = b""
            sent.pop("Content-Type", None)
            sent["Content-Length"] = "0"
        if not self._read_all and not self.cut:
            await self._drain()
        await self.begin(status, sent)
        await self.give(body, last=True)

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of the answer."""
        self.answered = True
        pairs = [
            (name.encode(), value.encode("latin-1")) for name, value in {**headers, **self.extra}.items()
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def give(self, body: bytes, *, last: bool) -> None:
        """Send some of its body. Raises Cut: the peer takes nothing for too long."""
        try:
            async with asyncio.timeout(READ_PATIENCE * self._idle_s):
                await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        except TimeoutError as error:
            raise Cut("the peer reads nothing") from error

    async def gone(self) -> None:
        """Return when the peer is gone, or `stop` is set. For while the answer is sent."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def _drain(self) -> None:
        """Read on for a moment: who still sends would have the answer destroyed by a reset."""
        drained = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAINED_S):
                async for piece in self.body():
                    drained += len(piece)
                    if drained > DRAINED_BYTES:
                        return
