"""Between a supervisor and one of its workers: a socket pair, and a variable that says where it is.

The supervisor may say `reload` or `stop`, and the end of its side says that it is gone, which a worker does
not survive. With `serve` comes a socket, on which it asks the worker by HTTP what it would ask `admin_port`;
with `hand over` one through which the worker hands over to its successor, and it says what came of that.
The worker says once that it listens, and as whom, or why it cannot start; then, where it is asked to, again
and again what it bears, as long as it serves.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec

from realtime.edge.notify import BEATS, for_child
from realtime.errors import RealtimeError

# Not one of our REALTIME_ variables: nobody is to set it, and it is gone once it is read.
VARIABLE: Final = "_REALTIME_LEASH"
STOP: Final = b"stop\n"
RELOAD: Final = b"reload\n"
SERVE: Final = b"serve\n"
SOCKETS_MAX: Final = 16  # that come with what is heard at once
HAND_OVER: Final = b"hand over\n"
WORD_BYTES_MAX: Final = 64 * 1024


HandOver = Callable[[socket.socket], Awaitable[Any]]
"""Hands over through a socket and returns the report; RealtimeError where nothing came of it."""


class Terms(msgspec.Struct, frozen=True):
    """What a worker is told: its number, the port to share, and its end of the socket pair.

    One that is silent for `silence_s` is taken for hung; 0 does not ask.
    """

    number: int
    port: int
    fd: int
    silence_s: float = 0.0


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says: `worker`, its id in the ring, once it listens; or why it has `failed` to start.

    Later how many `connections` and `rooms` it has; and that it has `handed_over`, with the report, or why it
    `stays`.
    """

    worker: str = ""
    failed: str = ""
    connections: int = 0
    rooms: int = 0
    handed_over: dict[str, Any] | None = None
    stays: str = ""


class Leash:
    """The worker's end."""

    def __init__(self, terms: Terms) -> None:
        self.number = terms.number
        self.port = terms.port
        self._silence_s = terms.silence_s
        self._seen = -1
        self._end = socket.socket(fileno=terms.fd)
        self._end.setblocking(False)
        self._handing: set[asyncio.Task[None]] = set()

    def heed(
        self,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], None],
        reload: Callable[[], object],
        hand_over: HandOver,
        serve: Callable[[int], object] = os.close,
    ) -> None:
        """Call `reload` each time the supervisor says so, and `stop` once when it does, or is gone; hand over
        through the sockets that come for it, and tell it what came of it; `serve` on all others.
        """

        def hear() -> None:
            fds: list[int] = []
            try:
                heard, fds, _, _ = socket.recv_fds(
                    self._end, WORD_BYTES_MAX, SOCKETS_MAX, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return
            except OSError:
                heard = b""
            for fd in fds:  # of one word: what came with another is read by itself
                if HAND_OVER not in heard:
                    serve(fd)
                    continue
                begun = asyncio.ensure_future(self._hand_over(hand_over, socket.socket(fileno=fd)))
                self._handing.add(begun)
                begun.add_done_callback(self._handing.discard)
            if heard and STOP not in heard:
                if RELOAD in heard:
                    reload()
                return
            loop.remove_reader(self._end.fileno())
            stop()

        loop.add_reader(self._end.fileno(), hear)

    def listening(self, worker: str) -> None:
        """Say that this worker takes connections, and its id in the ring; empty where there is no ring."""
        self._say(Word(worker=worker))

    def failed(self, message: str) -> None:
        """Say why it cannot start."""
        self._say(Word(failed=message))

    def pulse(
        self, loop: asyncio.AbstractEventLoop, turns: Callable[[], int], load: Callable[[], tuple[int, int]]
    ) -> None:
        """Say the `load` while `turns` goes up, often enough, where the supervisor asks for it."""
        if not self._silence_s:
            return
        loop.call_later(self._silence_s / BEATS, self.pulse, loop, turns, load)
        seen = turns()
        if seen != self._seen:
            self._seen = seen
            connections, rooms = load()
            self._say(Word(connections=connections, rooms=rooms))

    async def _hand_over(self, hand_over: HandOver, end: socket.socket) -> None:
        try:
            report = await hand_over(end)
        except RealtimeError as error:
            self._say(Word(stays=error.message))
        else:
            self._say(Word(handed_over=msgspec.to_builtins(report)))

    def _say(self, word: Word) -> None:
        try:
            self._end.send(msgspec.json.encode(word) + b"\n")
        except OSError:  # the supervisor is gone, and `heed` will see it
            return


def taken(environ: MutableMapping[str, str]) -> Leash | None:
    """Take the leash out of `environ`; None for a worker that nobody supervises."""
    text = environ.pop(VARIABLE, "")
    return Leash(msgspec.json.decode(text, type=Terms)) if text else None


def given(
    environ: MutableMapping[str, str], number: int, port: int, fd: int, silence_s: float = 0.0
) -> dict[str, str]:
    """Return `environ` with a leash: for worker `number`, which inherits `fd`. To systemd it says nothing."""
    terms = Terms(number, port, fd, silence_s)
    return {**for_child(environ), VARIABLE: msgspec.json.encode(terms).decode()}


def heard(line: bytes) -> Word:
    """Decode what a worker said."""
    return msgspec.json.decode(line, type=Word)
