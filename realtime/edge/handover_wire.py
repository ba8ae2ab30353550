"""What two processes say to each other while one takes the other's place, and the socket that it goes over.

A frame is four bytes with the length of what follows, one with the number of file descriptors that belong to
it, and a struct in MessagePack, tagged with its name. Descriptors come with the frame's first byte
(SCM_RIGHTS). Both sides say which `FORMAT` they speak before anything else, and refuse another one: a format
is one release's, and what changes a struct of the core or of the edge raises it.
"""

from __future__ import annotations

import array
import asyncio
import os
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from realtime.core.auth import Identity
from realtime.core.contracts import StreamState
from realtime.core.entry import SessionState
from realtime.core.handover import CoreState
from realtime.core.room import RoomState
from realtime.core.rosters import RostersState
from realtime.errors import StartupError
from realtime.ids import RoomId, UserId

FORMAT: Final = 1
"""Of all that is said here and of every struct in it."""

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
FDS_MAX: Final = 250  # in one frame; the kernel takes 253
HEAD_BYTES: Final = 5
READ_BYTES: Final = 256 * 1024


class HandoverFailed(StartupError):  # noqa: N818 - as all errors of ours
    """It did not come to pass; whoever served serves on."""


class Frame(msgspec.Struct, tag=True, array_like=True):
    """What is said at once."""


class Hello(Frame):
    """The old one begins: which format it speaks, who it is, and by which settings that must not change.

    With it go the descriptors that `files` names.
    """

    format: int
    version: str
    node: str
    worker: str
    settings: dict[str, str]
    files: list[str]


class Refused(Frame):
    """The new one cannot do it, and ends."""

    reason: str


class Ready(Frame):
    """The new one has all that it can have before it is given the rest."""

    format: int
    version: str
    pid: int


class Streams(Frame):
    """Rooms at the broker; more may come of the same rooms."""

    streams: list[StreamState]


class Rooms(Frame):
    """All rooms that the broker had when it was stopped: what has come of others is void."""

    rooms: list[RoomId]


class Listening(Frame):
    """The listening sockets, by what they are for; they come with it."""

    sockets: list[str]


class State(Frame):
    """What is nobody's: the core's, the foundation's, and the edge's own in MessagePack."""

    core: CoreState
    foundation: bytes
    edge: bytes


class Moved(msgspec.Struct, array_like=True, gc=False):
    """One connection: what the hub exported of it, and what stands for it (`gate.State`, by its kind).

    `user` is of the kind `pending`, `identity` of that name, `session` too.
    """

    blob: bytes
    kind: str
    user: UserId | None = None
    identity: Identity | None = None
    session: SessionState | None = None
    # For how long an operator has it recorded still. The last field, so that a process which does not know it
    # leaves it out, and takes it for 0: the format is the same.
    recorded_s: float = 0.0


class Connections(Frame):
    """Some connections; their sockets come with it, in order."""

    connections: list[Moved]


class LiveRooms(Frame):
    """Rooms with members, after all connections."""

    rooms: list[RoomState]


class Rosters(Frame):
    """Who is waited for in them, and who stayed, by room; with the packed addresses of all who did."""

    rosters: RostersState
    stayed: list[list[bytes]]
    addresses: list[bytes]


class End(Frame):
    """That was all: so many there were."""

    connections: int
    rooms: int


class Adopted(Frame):
    """The new one has all of it, and touches no socket before it hears `Go`."""

    connections: int
    rooms: int


class Go(Frame):
    """The point of no return: the new one serves, the old one never touches the sockets again."""


class Abort(Frame):
    """The old one serves on. The new one forgets everything and ends."""

    reason: str


class Serving(Frame):
    """The new one serves since then (monotonic ns, one clock for all processes of a machine)."""

    since_ns: int


Said = (
    Hello
    | Refused
    | Ready
    | Streams
    | Rooms
    | Listening
    | State
    | Connections
    | LiveRooms
    | Rosters
    | End
    | Adopted
    | Go
    | Abort
    | Serving
)
_encoder = msgspec.msgpack.Encoder()
_decode = msgspec.msgpack.Decoder(Said).decode


class Wire:
    """One end of the socket. `close` closes descriptors too that came and that nobody took."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._received = bytearray()
        self._fds: deque[int] = deque()
        self._ended = False
        end.setblocking(False)

    def close(self) -> None:
        """Say nothing more. Idempotent."""
        while self._fds:
            os.close(self._fds.popleft())
        self._end.close()

    # -- waiting while others are served --------------------------------------------------------------------

    async def send(self, frame: Frame, fds: Sequence[int] = (), *, timeout_s: float) -> None:
        """Send a frame, and let others run while the other side is slow.

        Raises:
            HandoverFailed: it is gone, or has not taken it in time.
        """
        loop = asyncio.get_running_loop()
        left = memoryview(_encoded(frame, fds))
        try:
            async with asyncio.timeout(timeout_s):
                while left:
                    sent = self._try_to_send(left, fds)
                    left, fds = left[sent:], fds if not sent else ()
                    if not sent:
                        await _until(loop.add_writer, loop.remove_writer, self._end.fileno())
        except TimeoutError:
            raise HandoverFailed("the other process does not listen") from None

    async def receive(self, *, timeout_s: float | None) -> tuple[Said, list[int]]:
        """Return the next frame and the descriptors that came with it, which are the caller's now.

        Raises:
            HandoverFailed: it is gone, says nothing in time, or what nobody understands.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while (found := self._take()) is None:
                    if not self._read():
                        await _until(loop.add_reader, loop.remove_reader, self._end.fileno())
        except TimeoutError:
            raise HandoverFailed("the other process says nothing") from None
        return found

    # -- waiting while nothing else runs --------------------------------------------------------------------

    def send_now(self, frame: Frame, fds: Sequence[int] = (), *, until: float) -> None:
        """As `send`, while nothing else runs here; `until` in monotonic seconds."""
        left = memoryview(_encoded(frame, fds))
        while left:
            sent = self._try_to_send(left, fds)
            left, fds = left[sent:], fds if not sent else ()
            if not sent:
                self._wait(select.POLLOUT, until, "the other process does not listen")

    def receive_now(self, *, until: float) -> tuple[Said, list[int]]:
        """As `receive`, while nothing else runs here; `until` in monotonic seconds."""
        while (found := self._take()) is None:
            if not self._read():
                self._wait(select.POLLIN, until, "the other process says nothing")
        return found

    @property
    def ended(self) -> bool:
        """Whether the other side has closed its end, or is gone."""
        return self._ended

    def _wait(self, event: int, until: float, otherwise: str) -> None:
        poll = select.poll()
        poll.register(self._end, event)
        left_ms = (until - time.monotonic()) * 1000
        if left_ms <= 0 or not poll.poll(left_ms):
            raise HandoverFailed(otherwise)

    def _try_to_send(self, left: memoryview, fds: Sequence[int]) -> int:
        """Return how many bytes went; 0 where none can now."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._end.sendmsg([left], rights, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._ended = True
            raise HandoverFailed(f"the other process is gone ({error.strerror})") from error

    def _read(self) -> bool:
        """Take in what is there; False where that is nothing. Raises HandoverFailed: it is gone."""
        try:
            # A descriptor more than a frame may have: what is cut off would be lost without a word.
            data, fds, flags, _ = socket.recv_fds(self._end, READ_BYTES, FDS_MAX + 3, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return False
        except OSError as error:
            self._ended = True
            raise HandoverFailed(f"the other process is gone ({error.strerror})") from error
        self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise HandoverFailed("not all file descriptors came over: too few may be open")
        if not data:
            self._ended = True
            raise HandoverFailed("the other process is gone")
        self._received += data
        return True

    def _take(self) -> tuple[Said, list[int]] | None:
        received = self._received
        if len(received) < HEAD_BYTES:
            return None
        size = int.from_bytes(received[:4])
        if size > FRAME_BYTES_MAX:
            raise HandoverFailed(f"a frame of {size} bytes is none of ours")
        if len(received) < HEAD_BYTES + size:
            return None
        count = received[4]
        if count > len(self._fds):
            raise HandoverFailed(f"a frame came with {len(self._fds)} descriptors instead of {count}")
        body = bytes(received[HEAD_BYTES : HEAD_BYTES + size])
        frame = decode(body)
        del received[: HEAD_BYTES + size]
        return frame, [self._fds.popleft() for _ in range(count)]


def decode(body: bytes) -> Said:
    """Return what a frame says.

    Raises:
        HandoverFailed: nothing that we understand; the reason says so where it is of another format.
    """
    try:
        said: Said = _decode(body)
        return said
    except msgspec.MsgspecError as error:
        raise HandoverFailed(
            _foreign(body) or f"the other process says what is nothing here: {error}"
        ) from error


def check_format(format: int, version: str) -> None:
    """Raise HandoverFailed unless that is the format that is spoken here."""
    if format != FORMAT:
        raise HandoverFailed(
            f"the other process (version {version}) hands over in format {format}, this one in {FORMAT}: "
            "restart instead"
        )


def _foreign(body: bytes) -> str:
    """Return what is wrong with the greeting of another format; empty where it is none."""
    try:
        greeting = msgspec.msgpack.decode(body, type=list[Any])
        tag, format = greeting[:2]
    except (msgspec.MsgspecError, ValueError):
        return ""
    if tag not in ("Hello", "Ready") or not isinstance(format, int) or format == FORMAT:
        return ""
    return f"the other process hands over in format {format}, this one in {FORMAT}: restart instead"


def _encoded(frame: Frame, fds: Sequence[int]) -> bytes:
    body = _encoder.encode(frame)
    if len(body) > FRAME_BYTES_MAX or len(fds) > FDS_MAX:
        raise HandoverFailed(f"{type(frame).__name__} has {len(body)} bytes and {len(fds)} descriptors")
    return len(body).to_bytes(4) + bytes([len(fds)]) + body


async def _until(add: Any, remove: Any, fd: int) -> None:
    """Wait until the loop says that `fd` is ready."""
    ready = asyncio.get_running_loop().create_future()

    def settle() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, settle)
    try:
        await ready
    finally:
        remove(fd)
