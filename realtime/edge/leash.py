"""Between a supervisor and one of its workers: a socket pair, and a variable that says where it is.

The supervisor may say `reload` or `stop`, and the end of its side says that it is gone, which a worker does
not survive. With `serve` comes a socket, on which it asks the worker by HTTP what it would ask `admin_port`.
The worker says once that it listens, and as whom, or why it cannot start.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from typing import Final

import msgspec

# Not one of our REALTIME_ variables: nobody is to set it, and it is gone once it is read.
VARIABLE: Final = "_REALTIME_LEASH"
STOP: Final = b"stop\n"
RELOAD: Final = b"reload\n"
SERVE: Final = b"serve\n"
SOCKETS_MAX: Final = 16  # that come with what is heard at once
WORD_BYTES_MAX: Final = 64 * 1024


class Terms(msgspec.Struct, frozen=True):
    """What a worker is told: its number, the port to share, and its end of the socket pair."""

    number: int
    port: int
    fd: int


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says: `worker`, its id in the ring, once it listens; or why it has `failed` to start."""

    worker: str = ""
    failed: str = ""


class Leash:
    """The worker's end."""

    def __init__(self, terms: Terms) -> None:
        self.number = terms.number
        self.port = terms.port
        self._end = socket.socket(fileno=terms.fd)
        self._end.setblocking(False)

    def heed(
        self,
        loop: asyncio.AbstractEventLoop,
        stop: Callable[[], None],
        reload: Callable[[], object],
        serve: Callable[[int], object] = os.close,
    ) -> None:
        """Call `reload` each time the supervisor says so, `serve` with each socket that it sends, and `stop`
        once when it says so, or is gone.
        """

        def hear() -> None:
            try:
                heard, sockets, _, _ = socket.recv_fds(self._end, WORD_BYTES_MAX, SOCKETS_MAX)
            except BlockingIOError:
                return
            except OSError:
                heard, sockets = b"", []
            for each in sockets:
                serve(each)
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

    def _say(self, word: Word) -> None:
        try:
            self._end.send(msgspec.json.encode(word) + b"\n")
        except OSError:  # the supervisor is gone, and `heed` will see it
            return


def taken(environ: MutableMapping[str, str]) -> Leash | None:
    """Take the leash out of `environ`; None for a worker that nobody supervises."""
    text = environ.pop(VARIABLE, "")
    return Leash(msgspec.json.decode(text, type=Terms)) if text else None


def given(environ: MutableMapping[str, str], number: int, port: int, fd: int) -> dict[str, str]:
    """Return `environ` with a leash: for worker `number`, which inherits `fd`."""
    terms = Terms(number, port, fd)
    return {**environ, VARIABLE: msgspec.json.encode(terms).decode()}


def heard(line: bytes) -> Word:
    """Decode what a worker said."""
    return msgspec.json.decode(line, type=Word)
