"""Uploads by tus 1.0 (https://tus.io/protocols/resumable-upload): HEAD, PATCH, DELETE, POST, OPTIONS.

`chat_upload` has made the upload before, and its URL says who may send what; so a creation, for clients that
begin by one, answers with the same URL. Extensions: creation, termination, checksum, expiration.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any, Final

from realtime.core.blobs import Blobs
from realtime.errors import BadMessage, Conflict, RealtimeError, TooLarge, Unavailable
from realtime.features.chat.files.exchange import Exchange, Headers
from realtime.features.chat.files.faults import ChecksumMismatch, Gone, Locked
from realtime.features.chat.files.limits import UPLOADS_MAX
from realtime.features.chat.files.tickets import UploadTicket
from realtime.features.chat.files.uploads import Finisher, Progress, end, progress, take, take_whole

VERSION: Final = "1.0.0"
CONTENT_TYPE: Final = "application/offset+octet-stream"
ALGORITHMS: Final = ("sha1", "sha256", "md5")
METHODS: Final = ("HEAD", "PATCH", "DELETE", "POST", "OPTIONS")
CHECKSUM_MISMATCH: Final = 460
TAKEN_OVER_S: Final = 10.0  # for the connection before to let go

_CHECKSUM: Final = re.compile(r"([a-z0-9]+) ([A-Za-z0-9+/]+={0,2})")


class Tus:
    """Answers for all uploads of one process."""

    def __init__(self, blobs: Blobs, finisher: Finisher, size_max: int) -> None:
        self._blobs = blobs
        self._finisher = finisher
        self._size_max = size_max
        self._turns: dict[str, _Turn] = {}
        self.bytes = 0
        self.finished = 0
        self.refused = 0

    @property
    def running(self) -> int:
        """Uploads that are being sent now."""
        return len(self._turns)

    def options(self) -> Headers:
        """Return what a client may ask of this server."""
        return {
            "Tus-Resumable": VERSION,
            "Tus-Version": VERSION,
            "Tus-Max-Size": str(self._size_max),
            "Tus-Extension": "creation,termination,checksum,expiration",
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        }

    async def serve(self, exchange: Exchange, ticket: UploadTicket) -> None:
        """Answer one request over an upload.

        Raises:
            RealtimeError: what is wrong; its number is the status.
        """
        exchange.extra |= {
            "Tus-Resumable": VERSION,
            "Upload-Expires": formatdate(ticket.expires_s, usegmt=True),
            "Cache-Control": "no-store",
        }
        if exchange.header("tus-resumable") != VERSION:
            await exchange.answer(412, {"Tus-Version": VERSION}, f"this is tus {VERSION}: say Tus-Resumable")
        elif exchange.method == "HEAD":
            await self._head(exchange, ticket)
        elif exchange.method == "POST":
            await self._create(exchange, ticket)
        elif exchange.method == "DELETE":
            async with self._turn(ticket, exchange):
                await end(self._blobs, ticket, "the client ended it")
            await exchange.answer(204)
        else:
            await self._patch(exchange, ticket)

    async def _head(self, exchange: Exchange, ticket: UploadTicket) -> None:
        async with self._turn(ticket, exchange):
            found = await self._look(ticket)
            if found.offset == ticket.bytes and not found.whole:
                await self._finish(ticket, found)  # its process was killed before it could
        told = {"Upload-Offset": str(found.offset), "Upload-Length": str(ticket.bytes)}
        await exchange.answer(200, told)

    async def _create(self, exchange: Exchange, ticket: UploadTicket) -> None:
        if exchange.number("upload-length") != ticket.bytes:
            raise BadMessage(f"this upload has Upload-Length {ticket.bytes}, as chat_upload was told")
        where = f"{exchange.path}?ticket={exchange.ticket}"
        await exchange.answer(201, {"Location": where, "Upload-Offset": "0"})

    async def _patch(self, exchange: Exchange, ticket: UploadTicket) -> None:
        if exchange.header("content-type") != CONTENT_TYPE:
            await exchange.answer(415, None, f"Content-Type has to be {CONTENT_TYPE}")
            return
        offset = exchange.number("upload-offset")
        if offset is None:
            raise BadMessage("Upload-Offset has to say where the bytes belong")
        if len(self._turns) >= UPLOADS_MAX and _name(ticket) not in self._turns:
            raise Unavailable("as many uploads as may be are running; try again", retry_after_s=2.0)
        async with self._turn(ticket, exchange):
            found = await self._look(ticket)
            if offset != found.offset:
                raise Conflict(f"the upload is at {found.offset}, not at {offset}")
            if offset + (exchange.number("content-length") or 0) > ticket.bytes:
                raise TooLarge(f"the upload has {ticket.bytes} bytes: {ticket.bytes - offset} are to come")
            offset = await self._take(exchange, ticket, offset)
            if offset == ticket.bytes and not found.whole:
                await self._finish(ticket, await self._look(ticket))
        if exchange.cut:
            raise Unavailable("the upload was cut off; go on where it is", retry_after_s=1.0)
        await exchange.answer(204, {"Upload-Offset": str(offset)})

    async def _take(self, exchange: Exchange, ticket: UploadTicket, offset: int) -> int:
        asked = exchange.header("upload-checksum")
        body = self._counted(exchange.body())
        if asked is None:
            return await take(self._blobs, ticket, offset, body)
        form = _CHECKSUM.fullmatch(asked)
        if form is None or form[1] not in ALGORITHMS:
            raise BadMessage(f"Upload-Checksum has to be one of {', '.join(ALGORITHMS)} and a base64 text")
        digest = hashlib.new(form[1], usedforsecurity=False)

        def check() -> None:
            if exchange.cut:
                raise Unavailable("the upload was cut off: its checksum cannot be told", retry_after_s=1.0)
            if base64.b64encode(digest.digest()).decode() != form[2]:
                raise ChecksumMismatch("the bytes do not have this checksum; nothing of them is kept")

        return await take_whole(self._blobs, ticket, offset, _digested(body, digest), check)

    async def _counted(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            self.bytes += len(piece)
            yield piece

    async def _look(self, ticket: UploadTicket) -> Progress:
        found = await progress(self._blobs, ticket)
        if found.gone:
            raise Gone("this upload is over: it was ended, or it is nothing that is taken here")
        return found

    async def _finish(self, ticket: UploadTicket, found: Progress) -> None:
        try:
            await self._finisher.finish(ticket, found)
        except RealtimeError as error:
            self.refused += not error.retryable
            raise
        self.finished += 1

    @asynccontextmanager
    async def _turn(self, ticket: UploadTicket, exchange: Exchange) -> AsyncIterator[None]:
        """One request at a time over one upload. The next one ends the one before, whose connection may hang:
        what that has brought is kept first.

        Raises:
            Locked: the one before does not come to its end.
        """
        name = _name(ticket)
        own = _Turn(exchange)
        before = self._turns.get(name)
        self._turns[name] = own
        try:
            if before is not None:
                await _ended(before)
            yield
        finally:
            own.over.set()
            if self._turns.get(name) is own:
                del self._turns[name]


def _name(ticket: UploadTicket) -> str:
    return f"{ticket.tenant} {ticket.id}"


async def _ended(before: _Turn) -> None:
    before.exchange.stop.set()
    try:
        async with asyncio.timeout(TAKEN_OVER_S):
            await before.over.wait()
    except TimeoutError as error:
        raise Locked("another connection sends this upload") from error


class _Turn:
    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.over = asyncio.Event()


async def _digested(body: AsyncIterator[bytes], digest: Any) -> AsyncIterator[bytes]:
    async for piece in body:
        digest.update(piece)
        yield piece
