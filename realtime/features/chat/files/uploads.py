"""Uploads as they lie among the blobs: pieces, one after another, until they are whole.

A piece is kept or it is not, so an upload goes on where its pieces end: after a cut connection, after a
killed process, at another one. Nothing of it is kept in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec

from realtime.core.blobs import Blobs
from realtime.errors import Conflict, TooLarge
from realtime.features.chat.files import sniffing
from realtime.features.chat.files.about import About, Shown
from realtime.features.chat.files.faults import Refused
from realtime.features.chat.files.images import THUMBNAIL_TYPE, Picture, remake
from realtime.features.chat.files.keys import ABOUT, GONE, file_key, piece_key, upload_prefix
from realtime.features.chat.files.limits import IMAGE_BYTES_MAX, PIECE_BYTES
from realtime.features.chat.files.media import IMAGES, TELLING
from realtime.features.chat.files.tickets import UploadTicket

HASHED_AT_ONCE: Final = 1024 * 1024


class Progress(msgspec.Struct, frozen=True):
    """Where an upload is: how many bytes of it are kept, and whether it is whole, or over for a reason."""

    offset: int
    pieces: tuple[str, ...] = ()
    whole: bool = False
    gone: bool = False


async def progress(blobs: Blobs, ticket: UploadTicket) -> Progress:
    """Return how far an upload has come. Raises Unavailable."""
    prefix = upload_prefix(ticket.tenant, ticket.id)
    offset, pieces = 0, []
    async for blob in blobs.list(prefix):  # pieces come first, being digits, and by their offsets
        name = blob.key.removeprefix(prefix)
        if name == ABOUT:
            return Progress(ticket.bytes, whole=True)
        if name == GONE:
            return Progress(0, gone=True)
        if name.isdigit() and int(name) == offset:  # another one was cut short by a process that came first
            offset += blob.bytes
            pieces.append(blob.key)
    return Progress(offset, tuple(pieces))


async def take(blobs: Blobs, ticket: UploadTicket, offset: int, body: AsyncIterator[bytes]) -> int:
    """Keep what `body` brings from `offset` on, piece by piece, and return where the upload then is.

    Raises:
        TooLarge: it brings more than there is to come; of the piece that did nothing is kept.
        Conflict: another process takes the same upload now.
        Unavailable: what was not kept has to come again.
    """
    prefix = upload_prefix(ticket.tenant, ticket.id)
    source = _Source(body)
    while await source.more():
        source.given = 0  # where another one's is there already, nobody asks for ours
        given = source.piece(ticket.bytes - offset, PIECE_BYTES)
        kept = await blobs.put(piece_key(prefix, offset), given)
        if kept != source.given:
            raise Conflict("another connection sends this upload: ask where it is")
        offset += kept
    return offset


async def take_whole(
    blobs: Blobs, ticket: UploadTicket, offset: int, body: AsyncIterator[bytes], check: Callable[[], None]
) -> int:
    """The same as one piece, which is kept where `check` does not raise at its end."""
    source = _Source(body)
    if not await source.more():
        check()
        return offset

    async def checked() -> AsyncIterator[bytes]:
        async for each in source.piece(ticket.bytes - offset, ticket.bytes):
            yield each
        if await source.more():
            raise TooLarge(_OVER)
        check()

    key = piece_key(upload_prefix(ticket.tenant, ticket.id), offset)
    kept = await blobs.put(key, checked())
    if kept != source.given:
        raise Conflict("another connection sends this upload: ask where it is")
    return offset + kept


_OVER: Final = "more bytes came than the upload was said to have"


class _Source:
    """A body, cut into pieces."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body = body
        self._next: bytes | None = None
        self.given = 0

    async def more(self) -> bool:
        """Whether anything is to come."""
        while not self._next:
            try:
                self._next = await anext(self._body)
            except StopAsyncIteration:
                return False
        return True

    async def piece(self, room: int, size: int) -> AsyncIterator[bytes]:
        """Give what comes up to `size` bytes. Raises TooLarge: there are more than `room`."""
        self.given = 0
        while self.given < size and await self.more():
            assert self._next is not None
            given, self._next = self._next[: size - self.given], self._next[size - self.given :]
            self.given += len(given)
            if self.given > room:
                raise TooLarge(_OVER)
            yield given


async def end(blobs: Blobs, ticket: UploadTicket, why: str) -> None:
    """Give an upload up: its bytes are removed, and nothing more is taken of it."""
    prefix = upload_prefix(ticket.tenant, ticket.id)
    await blobs.put(prefix + GONE, _once(why.encode()))
    await _remove_pieces(blobs, ticket)


async def _remove_pieces(blobs: Blobs, ticket: UploadTicket) -> None:
    prefix = upload_prefix(ticket.tenant, ticket.id)
    for key in [blob.key async for blob in blobs.list(prefix)]:
        if key.removeprefix(prefix).isdigit():
            await blobs.delete(key)


class Finisher:
    """Makes whole uploads into files. Images are decoded one at a time, on a thread of its own."""

    def __init__(self, blobs: Blobs, *, pixels_max: int, thumbnail_px: int) -> None:
        self._blobs = blobs
        self._pixels_max = pixels_max
        self._thumbnail_px = thumbnail_px
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="realtime-images")

    async def finish(self, ticket: UploadTicket, found: Progress) -> None:
        """Make the file of an upload of which all pieces are kept.

        Raises:
            Refused: it is not what it was said to be, or nothing that is taken; it is gone then.
            Unavailable: it may be tried again.
        """
        try:
            about = await self._make(ticket, found.pieces)
        except Refused as error:
            await end(self._blobs, ticket, error.message)
            raise
        prefix = upload_prefix(ticket.tenant, ticket.id)
        await self._blobs.put(prefix + ABOUT, _once(msgspec.json.encode(about)))
        await _remove_pieces(self._blobs, ticket)

    async def _make(self, ticket: UploadTicket, pieces: tuple[str, ...]) -> About:
        head = await self._head(pieces)
        type = sniffing.sniff(head)
        if type in TELLING:
            taken = ", ".join(sorted(each.removeprefix("image/") for each in IMAGES))
            raise Refused(f"{type} may say where it was taken, and is not taken here: images are {taken}")
        sha256 = await self._hash(pieces)
        if ticket.sha256 and sha256 != ticket.sha256:
            raise Refused(f"the bytes that came have the SHA-256 {sha256}, not what was said")
        if type in IMAGES:
            return await self._image(ticket, pieces, type)
        await self._keep(ticket.tenant, sha256, self._read(pieces))
        return About(file=Shown(sha256=sha256, bytes=ticket.bytes, type=type))

    async def _image(self, ticket: UploadTicket, pieces: tuple[str, ...], type: str) -> About:
        if ticket.bytes > IMAGE_BYTES_MAX:
            raise Refused(f"an image has {ticket.bytes} bytes; {IMAGE_BYTES_MAX} are taken")
        content = b"".join([piece async for piece in self._read(pieces)])
        picture, thumbnail = await asyncio.get_running_loop().run_in_executor(
            self._thread,
            lambda: remake(content, type, pixels_max=self._pixels_max, thumbnail_px=self._thumbnail_px),
        )
        return About(
            file=await self._shown(ticket.tenant, picture, type),
            thumbnail=await self._shown(ticket.tenant, thumbnail, THUMBNAIL_TYPE),
        )

    async def _shown(self, tenant: str, picture: Picture, type: str) -> Shown:
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(picture.content).hexdigest())
        await self._keep(tenant, sha256, _once(picture.content))
        size = len(picture.content)
        return Shown(sha256=sha256, bytes=size, type=type, width=picture.width, height=picture.height)

    async def _keep(self, tenant: str, sha256: str, content: AsyncIterator[bytes]) -> None:
        key = file_key(tenant, sha256)
        if await self._blobs.touch(key) is None:
            await self._blobs.put(key, content)

    async def _head(self, pieces: tuple[str, ...]) -> bytes:
        head = b""
        async for piece in self._read(pieces):
            head += piece
            if len(head) >= sniffing.HEAD_BYTES:
                break
        return head[: sniffing.HEAD_BYTES]

    async def _hash(self, pieces: tuple[str, ...]) -> str:
        digest, waiting = hashlib.sha256(), bytearray()
        async for piece in self._read(pieces):
            waiting += piece
            if len(waiting) >= HASHED_AT_ONCE:
                await asyncio.to_thread(digest.update, waiting)
                waiting = bytearray()
        await asyncio.to_thread(digest.update, waiting)
        return digest.hexdigest()

    async def _read(self, pieces: tuple[str, ...]) -> AsyncIterator[bytes]:
        for key in pieces:
            try:
                async for piece in self._blobs.read(key):
                    yield piece
            except KeyError as error:  # ended meanwhile
                raise Conflict("the upload was ended while it was looked at") from error


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
