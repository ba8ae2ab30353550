"""The door of the TLS listener: who is taken in, how many at once, and what becomes of them.

A TLS handshake costs the server a signature and the client nothing, so what can be decided before it is: the
address, the rate of handshakes, the connections there are. Who dawdles, over TLS or over the request, has one
deadline for both, and where too many do, the one that has taken longest makes room: an honest handshake takes
two round trips, and so is never the oldest for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol, cast

from realtime.native.address import pack, unpack
from realtime.native.handshake import BadRequest, Request, refusal_response
from realtime.native.histogram import Histogram
from realtime.native.ratelimit import KeyedLimiter
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

NO_FILES_REST_S: Final = 0.1  # after the process ran out of file descriptors; as natively
RATE_REST_S: Final = 0.01  # the shortest rest over the rate of handshakes
SLOW: Final = refusal_response(408, b"the handshake took too long\n")


class Host(Protocol):
    """Whose door it is: it judges who has come, and takes in whom it likes."""

    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        ...

    def arrive(self, address: bytes) -> bool:
        """Whether a client may come in from this address, packed; it counts until `depart`."""
        ...

    def depart(self, address: bytes) -> None:
        """One who arrived is gone again, before it was the host's."""
        ...

    def offend(self, address: bytes, status: int) -> None:
        """A client was turned away with this HTTP status, before it was the host's."""
        ...

    def take(self, transport: asyncio.Transport, address: bytes, request: Request, received: bytes) -> None:
        """Serve a client whose request is whole; `received` begins with its head. It is the host's now."""
        ...


class TlsDoor:
    """Accepts from one listening socket, from `open` to `close`.

    `context()` is asked for each client, so that a new certificate holds for the next one. `counts` gets
    `accepted`, `refused`, `handshake_timeouts` and `accept_rests`, as the hub's of its own listener; `took`
    measures the TLS handshakes.
    """

    def __init__(
        self, settings: Settings, context: Callable[[], ssl.SSLContext], host: Host, counts: Counter[str]
    ) -> None:
        self.settings = settings
        self.host = host
        self.counts = counts
        self.failures = 0  # handshakes that came to nothing
        self.crowded = 0  # arrivals cut for others
        self.took = Histogram()
        self._context = context
        self._arrivals: dict[Arrival, None] = {}  # oldest first
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._rest: asyncio.TimerHandle | None = None
        rate = settings.tls_handshakes_per_second
        self._rate = KeyedLimiter(rate, max(1.0, rate * settings.rate_burst_s), 1) if rate else None

    @property
    def arrivals(self) -> int:
        """How many are on their way in."""
        return len(self._arrivals)

    @property
    def listening(self) -> socket.socket | None:
        """The socket that it accepts from."""
        return self._listening

    def open(self, listening: socket.socket) -> None:
        """Accept from a listening, non-blocking socket, which is ours from here on."""
        self._listening = listening
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more, and let go of who has not come in. Idempotent."""
        if self._listening is not None:
            if self._rest is not None:
                self._rest.cancel()
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        for arrival in tuple(self._arrivals):
            arrival.cut()

    def forget(self, arrival: Arrival) -> None:
        """It is in, or gone."""
        self._arrivals.pop(arrival, None)

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(self.settings.accept_batch):
            wait_s = self._rate.take("") if self._rate is not None else 0.0
            if wait_s:
                self.counts["accept_rests"] += 1
                self._pause(max(wait_s, RATE_REST_S))
                return
            try:
                accepted, remote = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                log.warning("accepting by TLS pauses for %g s: %s", NO_FILES_REST_S, error)
                self._pause(NO_FILES_REST_S)
                return
            self.counts["accepted"] += 1
            self._arrive(accepted, pack(str(remote[0]).partition("%")[0]))

    def _arrive(self, accepted: socket.socket, address: bytes | None) -> None:
        """Decide what can be decided before TLS; a no has no words, for nobody could read them."""
        if address is None or self.host.full() or not self.host.arrive(address):
            self.counts["refused"] += 1
            accepted.close()
            return
        if len(self._arrivals) >= self.settings.tls_arrivals_max:
            self.crowded += 1
            next(iter(self._arrivals)).cut()
        accepted.setblocking(False)
        arrival = Arrival(self, address)
        self._arrivals[arrival] = None
        arrival.shake_hands(accepted, self._context())

    def _pause(self, seconds: float) -> None:
        """Leave new connections to the kernel's backlog for so long."""
        assert self._listening is not None
        self._loop.remove_reader(self._listening.fileno())
        self._rest = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening.fileno(), self._accept)


class Arrival(asyncio.Protocol):
    """A client from its first byte to the end of its request's head; then the host has its transport."""

    def __init__(self, door: TlsDoor, address: bytes) -> None:
        self._door = door
        self._address = address
        self._received = b""
        self._over = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._began_s = time.monotonic()  # the loop's clock stands still while it is busy with others
        self._socket: socket.socket
        self._task: asyncio.Task[None]
        self._deadline = self._loop.call_later(door.settings.handshake_timeout_s, self._too_slow)

    def shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        """Begin the TLS handshake; the socket is ours."""
        self._socket = accepted
        self._task = self._loop.create_task(self._shake_hands(accepted, context))

    def cut(self) -> None:
        """Let go of it, however far it is."""
        self._done()
        if self._transport is not None:
            self._transport.abort()
        else:
            # uvloop holds the socket, and would go on waiting on it if its task were cancelled.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        settings = self._door.settings
        try:
            await self._loop.connect_accepted_socket(
                lambda: self,
                accepted,
                ssl=context,
                ssl_handshake_timeout=2 * settings.handshake_timeout_s,  # ours comes before it
                ssl_shutdown_timeout=settings.close_timeout_s,
            )
        except BaseException as error:
            self._door.failures += 1
            self._done()
            accepted.close()
            if not isinstance(error, OSError):
                raise
            # Plain HTTP, no common version or cipher, no certificate of theirs, or gone: the client's affair.
            log.debug("no TLS with %s: %s", unpack(self._address), error)

    # -- what the transport calls -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio.Transport's methods and are none.
        self._transport = cast(asyncio.Transport, transport)
        self._door.took.observe(time.monotonic() - self._began_s)

    def data_received(self, data: bytes) -> None:
        """Read on until the head is whole, then hand it over."""
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._received += data
        limit = self._door.settings.max_head_bytes
        try:
            request = Request.parse(self._received[:limit], head_bytes_max=limit)
        except BadRequest as error:
            self._refuse(error.status, refusal_response(error.status, f"{error.reason}\n".encode()))
            return
        if request is None:
            return
        self._done(taken=True)
        self._door.host.take(self._transport, self._address, request, self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()

    def _too_slow(self) -> None:
        self._door.counts["handshake_timeouts"] += 1
        if self._transport is None:
            self.cut()
        else:
            self._refuse(408, SLOW)

    def _refuse(self, status: int, answer: bytes) -> None:
        assert self._transport is not None
        self._door.counts["refused"] += 1
        self._door.host.offend(self._address, status)
        self._done()
        self._transport.write(answer)
        self._transport.close()

    def _done(self, *, taken: bool = False) -> None:
        if self._over:
            return
        self._over = True
        self._deadline.cancel()
        self._door.forget(self)
        if not taken:
            self._door.host.depart(self._address)


def refuse(transport: asyncio.Transport, answer: bytes) -> None:
    """Say an HTTP error and close; a transport that is gone takes neither."""
    with contextlib.suppress(OSError):
        transport.write(answer)
        transport.close()
