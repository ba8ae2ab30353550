"""Files as they are read over HTTP: ranges (RFC 9110, 14), conditions, and headers that let nothing run."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import Final, NamedTuple

from realtime.core.blobs import Blobs
from realtime.errors import UnknownType
from realtime.features.chat.files.exchange import Exchange, Headers
from realtime.features.chat.files.keys import file_key
from realtime.features.chat.files.media import BINARY
from realtime.features.chat.files.names import disposition
from realtime.features.chat.files.tickets import FileTicket

METHODS: Final = ("GET", "HEAD", "OPTIONS")
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")

LETS_NOTHING_RUN: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    # Its URL is what lets it be read; whoever has that may show it.
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class Span(NamedTuple):
    """Which bytes are wanted: from `start` up to `end`, exclusive."""

    start: int
    end: int


class Downloads:
    """Answers for all files of one process."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self.bytes = 0
        self.running = 0

    async def serve(self, exchange: Exchange, ticket: FileTicket, now_s: float) -> None:
        """Answer one request for a file.

        Raises:
            UnknownType: it is there no more.
            Unavailable: it cannot be read now.
        """
        key = file_key(ticket.tenant, ticket.sha256)
        blob = await self._blobs.stat(key)
        if blob is None:
            raise UnknownType("this file was removed")
        size = blob.bytes
        etag = f'"{ticket.sha256}"'
        headers = _headers(ticket, etag, now_s)
        if _names(exchange.header("if-none-match"), etag):
            await exchange.answer(304, headers)
            return
        span = _span(exchange, etag, size)
        if span is None:
            await exchange.answer(416, {**headers, "Content-Range": f"bytes */{size}"})
            return
        partial = span != Span(0, size)
        if partial:
            headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
        headers["Content-Type"] = ticket.type if ticket.inline else BINARY
        headers["Content-Length"] = str(span.end - span.start)
        await exchange.begin(206 if partial else 200, headers)
        await self._send(exchange, key, span)

    async def _send(self, exchange: Exchange, key: str, span: Span) -> None:
        if exchange.method == "HEAD":
            await exchange.give(b"", last=True)
            return
        self.running += 1
        gone = asyncio.ensure_future(exchange.gone())
        try:
            async with aclosing(self._blobs.read(key, *span)) as content:  # type: ignore[type-var]
                async for piece in content:
                    if gone.done() or exchange.stop.is_set():
                        return
                    await exchange.give(piece, last=False)
                    self.bytes += len(piece)
            await exchange.give(b"", last=True)
        finally:
            gone.cancel()
            self.running -= 1


def _headers(ticket: FileTicket, etag: str, now_s: float) -> Headers:
    return {
        **LETS_NOTHING_RUN,
        "Accept-Ranges": "bytes",
        "ETag": etag,
        # What is under a hash never changes; after the URL's time it may not be shown any more.
        "Cache-Control": f"private, max-age={max(0, int(ticket.expires_s - now_s))}, immutable",
        "Content-Disposition": disposition(ticket.name, inline=ticket.inline),
    }


def _span(exchange: Exchange, etag: str, size: int) -> Span | None:
    """Return what is asked for; all of it where that is no one range, None where nothing of it is."""
    whole = Span(0, size)
    asked = exchange.header("range")
    if asked is None or exchange.method != "GET":
        return whole
    condition = exchange.header("if-range")
    if condition is not None and condition != etag:  # of another one, or a date, of which we say none
        return whole
    form = _RANGE.fullmatch(asked.strip())
    if form is None or form[0] == "bytes=-":
        return whole
    if not form[1]:
        last = min(int(form[2]), size)
        return Span(size - last, size) if last else None
    start = int(form[1])
    end = min(int(form[2]) + 1, size) if form[2] else size
    if form[2] and int(form[2]) < start:
        return whole
    return Span(start, end) if start < size else None


def _names(condition: str | None, etag: str) -> bool:
    if condition is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in condition.split(",")]
    return etag in tags or tags == ["*"]
