"""One connection to a Redis node, from dialing to its loss: bytes to replies, and replies to who waits.

A reply belongs to the oldest entry that has none. Who keeps the connection up, and what is done about
silence, is the link's.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Final, cast

from hiredis import ProtocolError, PushNotification, Reader, pack_command

from realtime.backends.redis_client.contract import Argument, RedisError, Reply, Then
from realtime.native.histogram import Histogram

log: Final = logging.getLogger("realtime.redis")

NOTHING: Final[Any] = object()
pack: Final = cast("Callable[[tuple[Argument, ...]], bytes]", pack_command)
"""Returns a command as it is written. (Its stub has it take a tuple of one.)"""
HIGH_WATER_BYTES: Final = 256 * 1024
# The reader moves what is left to the front of its buffer after each 1 KiB that it has parsed: a push of 300
# bytes costs 0.39 us in pieces of this size, and 1.2 us where uvloop's 256 KiB are fed at once.
FEED_BYTES: Final = 16 * 1024
NEVER: Final = float("inf")  # the deadline of what may take as long as it takes
_NO_LINGERING: Final = struct.pack("ii", 1, 0)


class Call:
    """A command, whom its reply is for, and until when. `home`: for that link, whatever the slot says."""

    __slots__ = ("asking", "data", "deadline", "final", "home", "loaded", "slot", "then", "tries")

    def __init__(
        self,
        slot: int,
        data: bytes,
        then: Then | None,
        deadline: float,
        home: Any = None,
        final: bool = False,
    ) -> None:
        self.slot = slot
        self.data = data
        self.then = then
        self.deadline = deadline
        self.home = home
        self.final = final  # an error is the answer, whichever it is
        self.asking = False  # ASKING goes before it
        self.loaded = False  # the functions were loaded for it
        self.tries = 0

    def finish(self, result: Reply | Exception) -> None:
        """Tell who waits, once."""
        then, self.then = self.then, None
        if then is not None:
            tell(then, result)


def tell(then: Callable[[Any], object], result: Any) -> None:
    """Call what is not ours; what it raises is logged, and does not end the connection."""
    try:
        then(result)
    except Exception:
        log.exception("%r failed on an answer of Redis", then)


def to_error(text: str) -> RedisError:
    """Return an error reply as an exception."""
    code, _, message = text.partition(" ")
    return RedisError(code, message)


class Wire(asyncio.Protocol):
    """A connection whose `sent` are Calls. Once lost it calls `on_lost` with the reason, and nothing more."""

    def __init__(self) -> None:
        self.on_lost: Callable[[str], None] | None = None
        self.on_refused: Callable[[Call, RedisError], None] = Call.finish
        self.on_resumed: Callable[[], None] | None = None
        self.transport: asyncio.Transport | None = None
        self.sent: deque[Any] = deque()
        self.sent_bytes = 0  # of commands without a reply
        self.replies = 0
        self.heard = False  # since it was last looked at
        self.paused = False
        self.why = "closed by Redis"
        self.timed: tuple[Callable[[], float], float, Histogram] | None = None  # clock, timeout, and for whom
        self.reader = Reader(replyError=to_error, notEnoughData=NOTHING)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def send(self, call: Call) -> None:
        """Write one command now."""
        self.sent.append(call)
        self.sent_bytes += len(call.data)
        self.write(call.data)

    def write(self, data: bytes) -> None:
        """Write bytes; nothing where the connection is about to be lost: uvloop would raise."""
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def abort(self, why: str, *, reset: bool = False) -> None:
        """Be gone soon, for the reason `why`. With `reset` the kernel forgets what it still has to send.

        Else it would go on trying, and a node that was cut off would do, long after its callers were told
        that it does not answer, what reaches it then.
        """
        transport, self.transport = self.transport, None
        if transport is not None:
            self.why = why
            if reset:
                transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, _NO_LINGERING)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        on_lost, self.on_lost = self.on_lost, None
        self.transport = None
        if exc is not None:
            self.why = str(exc)
        if on_lost is not None:
            on_lost(self.why)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.on_resumed is not None:
            self.on_resumed()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            if len(data) <= FEED_BYTES:
                self.reader.feed(data)
                self.dispatch()
                return
            for start in range(0, len(data), FEED_BYTES):
                self.reader.feed(data, start, min(FEED_BYTES, len(data) - start))
                self.dispatch()
        except ProtocolError as error:
            self.abort(f"what it says is not the protocol of Redis: {error}")

    def dispatch(self) -> None:
        """Give what is read to whom it is for. Raises ProtocolError."""
        gets, sent = self.reader.gets, self.sent
        asked_before, took = 0.0, None
        if self.timed is not None:
            now, timeout_s, took = self.timed
            asked_before = now() + timeout_s
        while (reply := gets()) is not NOTHING:
            kind = type(reply)
            if kind is PushNotification:
                continue
            if not sent:
                self.abort("an answer that nobody waits for")
                return
            call = sent.popleft()
            self.sent_bytes -= len(call.data)
            self.replies += 1
            if took is not None and call.deadline < NEVER:
                took.observe(asked_before - call.deadline)
            if kind is RedisError:
                self.on_refused(call, reply)
            elif call.then is not None:
                call.finish(reply)
