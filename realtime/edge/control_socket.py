"""The control socket of a worker that is alone: what others are asked over Redis.

The same verbs with the same bodies (`core.cluster.Cluster.ask`), so that whoever administers a server need
not know which it is. Only the server's own user and root may speak there: the file is theirs alone, and the
kernel is asked whose process it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from realtime.backends.cluster.parcels import (
    ANSWER,
    ASK,
    ERROR,
    Parcel,
    decode_parcel,
    encode_error,
    encode_parcel,
)
from realtime.core.cluster import BODY_BYTES_MAX, Cluster
from realtime.errors import RealtimeError, StartupError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

AUTO: Final = "auto"
LENGTH: Final = struct.Struct("!I")
FRAME_BYTES_MAX: Final = BODY_BYTES_MAX + 4096
CONNECTIONS_MAX: Final = 64
UNDER_WAY_MAX: Final = 128
"""Questions of one connection that are answered at once; the next one is read when one of them is."""
NAME_BYTES_MAX: Final = 80
_CREDENTIALS: Final = struct.Struct("3i")


def control_path(settings: Settings) -> Path | None:
    """Return where the socket is by the settings; None where there is none, as in a cluster."""
    if settings.redis_url or not settings.control_path:
        return None
    if settings.control_path != AUTO:
        return Path(settings.control_path)
    return Path(f"{settings.sqlite_path}.control") if settings.sqlite_path else None


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for `path` that fits into an address, which has 107 bytes, however deep the folder is."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class ControlSocket:
    """Answers on it, from `open` to `close`."""

    def __init__(self, path: Path, cluster: Cluster) -> None:
        self._path = path
        self._cluster = cluster
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[None] | None = None
        self._closing = False

    def open(self) -> None:
        """Listen. Whoever had the path before has it no longer, which lets a new process take over.

        Raises:
            StartupError: the path cannot be used.
        """
        if len(self._path.name.encode()) > NAME_BYTES_MAX:
            raise StartupError(f"control_path {self._path}: its name has over {NAME_BYTES_MAX} bytes")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with short(fresh) as name:
                listening.bind(name)
                os.chmod(name, 0o600)  # before anybody can be heard
            listening.setblocking(False)
            listening.listen(CONNECTIONS_MAX)
            self._inode = fresh.stat().st_ino
            fresh.rename(self._path)
        except OSError as error:
            listening.close()
            fresh.unlink(missing_ok=True)
            raise StartupError(f"control_path {self._path}: {error.strerror}") from error
        self._opening = asyncio.get_running_loop().create_task(self._serve(listening))

    async def close(self) -> None:
        """Listen no longer; what is under way is given up."""
        self._closing = True
        if self._opening is not None:
            await self._opening
        if self._server is not None:
            self._server.close()
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # not that of a process which has taken over
                self._path.unlink()

    async def _serve(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_unix_server(self._accept, sock=listening)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= CONNECTIONS_MAX and _is_trusted(writer):
                await self._hear(reader, writer)
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._connections.discard(task)
            writer.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        room = asyncio.Semaphore(UNDER_WAY_MAX)
        async with asyncio.TaskGroup() as answering:
            while (parcel := await read_parcel(reader)) is not None:
                if parcel.kind != ASK:
                    log.warning("the control socket was sent what is no question")
                    break
                await room.acquire()
                task = answering.create_task(self._answer(parcel, writer))
                task.add_done_callback(lambda done: room.release())

    async def _answer(self, parcel: Parcel, writer: asyncio.StreamWriter) -> None:
        worker = self._cluster.worker
        try:
            body = await self._cluster.ask(worker, parcel.verb, parcel.body)
            answer = Parcel(ANSWER, worker, parcel.number, "", body)
        except RealtimeError as error:
            answer = Parcel(ERROR, worker, parcel.number, "", encode_error(error))
        if not writer.is_closing():
            writer.write(framed(answer))
            with contextlib.suppress(OSError):
                await writer.drain()


async def read_parcel(reader: asyncio.StreamReader) -> Parcel | None:
    """Return the next parcel; None at the end, however it came, and for what is none."""
    try:
        (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if length > FRAME_BYTES_MAX:
            log.warning("a control socket announced %d bytes; at most %d are taken", length, FRAME_BYTES_MAX)
            return None
        return decode_parcel(await reader.readexactly(length))
    except (OSError, asyncio.IncompleteReadError):
        return None


def framed(parcel: Parcel) -> bytes:
    """Return the parcel as it goes over the socket."""
    payload = encode_parcel(parcel)
    return LENGTH.pack(len(payload)) + payload


def open_control(settings: Settings, cluster: Cluster) -> ControlSocket | None:
    """Open the socket that the settings name; None where they name none.

    Raises:
        StartupError: it was asked for by name, and cannot be had.
    """
    path = control_path(settings)
    if path is None:
        return None
    made = ControlSocket(path, cluster)
    try:
        made.open()
    except StartupError as error:
        if settings.control_path != AUTO:
            raise
        log.warning("`realtime api` and commands cannot reach this server: %s", error.message)
        return None
    return made


def _is_trusted(writer: asyncio.StreamWriter) -> bool:
    peer = writer.get_extra_info("socket")
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in (0, os.geteuid())
