"""Files in a folder, which several processes of one machine may share.

A file is written beside, synced, and linked to its name, which fails where the name is taken: so a name is
there with all of its content or not at all, whatever is killed when. All of it happens on threads of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from realtime.core.blobs import Blob, checked_key
from realtime.errors import Unavailable

log: Final = logging.getLogger("realtime.blobs")

NEW: Final = ".new"  # no key begins with a dot
READ_BYTES: Final = 256 * 1024
LISTED_AT_ONCE: Final = 500
THREADS: Final = 4
ATTEMPTS: Final = 5  # a folder may be removed, being empty, before a file is linked into it

Found = TypeVar("Found")


class DirectoryBlobs:
    """A `Blobs`. The folder is made with its first file."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="realtime-blobs")
        self.ok = True

    async def put(self, key: str, content: AsyncIterator[bytes]) -> int:
        """As `Blobs.put`."""
        path = self._path(key)
        there = await self.stat(key)
        if there is not None:
            return there.bytes
        temporary, file = await self._run(self._begin)
        try:
            async for piece in content:
                await self._run(file.write, piece)
            return await self._run(self._keep, file, temporary, path)
        finally:
            await self._run(_drop, file, temporary)

    async def touch(self, key: str) -> Blob | None:
        """As `Blobs.touch`."""
        with contextlib.suppress(FileNotFoundError):
            await self._run(os.utime, self._path(key))
        return await self.stat(key)

    async def stat(self, key: str) -> Blob | None:
        """As `Blobs.stat`."""
        try:
            found = await self._run(os.stat, self._path(key))
        except FileNotFoundError:
            return None
        return Blob(key, found.st_size, found.st_mtime_ns // 1_000_000)

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """As `Blobs.read`."""
        try:
            file = await self._run(_open_at, self._path(key), start)
        except FileNotFoundError as error:
            raise KeyError(key) from error
        left = None if end is None else end - start
        try:
            while left is None or left > 0:
                piece = await self._run(file.read, READ_BYTES if left is None else min(left, READ_BYTES))
                if not piece:
                    return
                left = None if left is None else left - len(piece)
                yield piece
        finally:
            file.close()

    async def delete(self, key: str) -> None:
        """As `Blobs.delete`."""
        await self._run(self._remove, self._path(key))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[Blob]:
        """As `Blobs.list`."""
        walk = self._walk(self._root, "", prefix, after)
        while found := await self._run(lambda: [*islice(walk, LISTED_AT_ONCE)]):
            for blob in found:
                yield blob

    async def tidy(self, prefix: str, before_ms: int) -> int:
        """As `Blobs.tidy`, of all keys: an unfinished file lies here under no key, and the folder is ours."""
        return await self._run(self._tidy, before_ms)

    async def close(self) -> None:
        """As `Blobs.close`."""
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    async def _run(self, work: Callable[..., Found], *given: object) -> Found:
        """Do it on a thread, to its end: whoever is cancelled meanwhile waits for that.

        Raises:
            FileNotFoundError: there is no such file.
            Unavailable: the disk is full, or whatever else the system says.
        """
        doing = asyncio.get_running_loop().run_in_executor(self._threads, work, *given)
        try:
            done = await asyncio.shield(doing)
        except asyncio.CancelledError:
            await asyncio.wait([doing])
            raise
        except FileNotFoundError:
            raise
        except OSError as error:
            self.ok = False
            log.error("files in %s cannot be used: %s", self._root, error)
            raise Unavailable("files cannot be kept or read now; try again", retry_after_s=5.0) from error
        self.ok = True
        return done

    # -- on a thread ----------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Path, BinaryIO]:
        folder = self._root / NEW
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / secrets.token_hex(16)
        return path, os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb", buffering=0)

    def _keep(self, file: BinaryIO, temporary: Path, path: Path) -> int:
        os.fsync(file.fileno())
        for attempt in range(ATTEMPTS):
            try:
                self._make_folder(path.parent)
                os.link(temporary, path)
                break
            except FileExistsError:
                break
            except FileNotFoundError:
                if attempt == ATTEMPTS - 1:
                    raise
        _sync(path.parent)
        return path.stat().st_size

    def _make_folder(self, folder: Path) -> None:
        made = []
        while not folder.exists():
            made.append(folder)
            folder = folder.parent
        for each in reversed(made):
            each.mkdir(mode=0o700, exist_ok=True)
            _sync(each.parent)

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        folder = path.parent
        with contextlib.suppress(OSError):  # not empty, which is as good
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def _walk(self, folder: Path, key: str, prefix: str, after: str) -> Iterator[Blob]:
        """By key: so a folder stands where its slash puts it."""
        try:
            with os.scandir(folder) as found:
                entries = [(each.name + "/" * each.is_dir(), each) for each in found if each.name[0] != "."]
        except FileNotFoundError:
            return
        for name, entry in sorted(entries, key=lambda each: each[0]):
            own = key + name
            if name.endswith("/"):
                if own.startswith(prefix[: len(own)]) and (own > after or after.startswith(own)):
                    yield from self._walk(folder / entry.name, own, prefix, after)
            elif own.startswith(prefix) and own > after:
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat()
                    yield Blob(own, about.st_size, about.st_mtime_ns // 1_000_000)

    def _tidy(self, before_ms: int) -> int:
        removed = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / NEW) as found:
            for each in found:
                if each.stat().st_mtime_ns // 1_000_000 < before_ms:
                    os.unlink(each.path)
                    removed += 1
        return removed


def _open_at(path: Path, start: int) -> BinaryIO:
    file = open(path, "rb")  # noqa: SIM115 - whoever reads it closes it
    file.seek(start)
    return file


def _drop(file: BinaryIO, temporary: Path) -> None:
    file.close()
    temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
