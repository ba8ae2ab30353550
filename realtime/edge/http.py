"""Plain HTTP by hand: health, metrics and the demo page, on the port of the WebSocket.

A request that is no upgrade leaves the hub as a socket and the bytes already read; `HttpServer.adopt` takes
both. A framework here would sit on the hot loop and cost every connection of the worker; this is a table of
exact paths and plain functions, and the hub's own request parser, so that the two can never read the same
bytes differently. It leaves to others: what the pages hold (`pages`), any ASGI application (`asgi_app`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Protocol, cast

from realtime.native.address import pack
from realtime.native.handshake import BadRequest, Request, refusal_response

log: Final = logging.getLogger("realtime.http")

# Requests served before the loop gets a turn: one pipelined read of 256 KiB holds some 10,000 requests, and
# all other connections of the worker would wait for them.
REQUESTS_A_TURN: Final = 16
ACCEPTS_A_TURN: Final = 16
# After the last answer: closing with input unread would reset the connection and may destroy the answer on
# its way (RFC 9112, 9.6), so the peer gets this long, and this much, to finish and close.
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1 << 20

SECURITY_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # 'self' covers ws: and wss: to the page's own host and port (CSP level 3).
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'",
    ),
    # No other site holds a handle on our pages' windows, or loads our files into its own.
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)

_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers. Date, framing, connection and security headers are added on the way out.

    Raises:
        ValueError: there is no such final status, or a header would break the head of the response.
    """

    status: int
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if HTTPStatus(self.status) < 200:
            raise ValueError(f"status {self.status} ends no request")
        for name, value in (("Content-Type", self.content_type), *self.headers):
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise ValueError(f"header {name!r}: {value!r} cannot stand in a response")


Handler = Callable[[Request], Response]


class Routes:
    """Exact paths, and under them prefixes of whole segments, to plain functions. GET and HEAD only."""

    def __init__(self, exact: Mapping[str, Handler], *, under: Mapping[str, Handler] | None = None) -> None:
        """`under` answers its path and everything below it: "/ws" has "/ws" and "/ws/alice", not "/wsx"."""
        self._exact = dict(exact)
        self._under = dict(under or {})

    def find(self, path: str) -> Handler | None:
        """Return what answers `path`, compared as it was sent: nothing is decoded or normalised."""
        handler = self._exact.get(path)
        if handler is not None:
            return handler
        for prefix, below in self._under.items():
            if path == prefix or path.startswith(prefix + "/"):
                return below
        return None


def upgrade_required(request: Request) -> Response:
    """Answer plain HTTP on a WebSocket path (RFC 9110, 15.5.22)."""
    headers = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    return Response(426, body=b"this is a WebSocket endpoint\n", headers=headers)


class Timer(Protocol):
    """What is left of asyncio.TimerHandle when a test brings its own clock."""

    def cancel(self) -> None: ...


class CallLater(Protocol):
    """`loop.call_later`, as far as it is used here."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> Timer: ...


@dataclass(slots=True, eq=False)
class HttpServer:
    """Serves `routes` on the sockets that the hub hands over, and what is not in them through `fallback`.

    A `fallback` makes the protocol that takes a connection over from its first request that no route
    answers, and whose path begins by one of `fallback_under` (`asgi_app.asgi_factory`); else it gets 404.
    """

    routes: Routes
    fallback: Callable[[], asyncio.Protocol] | None = None
    fallback_under: tuple[str, ...] = ("/",)
    request_timeout_s: float = 10.0  # from a request's first byte to the end of its head, in total
    idle_timeout_s: float = 60.0  # between requests, and for a peer that does not read its answers
    head_bytes_max: int = 16 * 1024
    connections_max: int = 1024  # beyond: 503
    now: Callable[[], float] = time.time  # seconds since the epoch, for Date
    admin_routes: Routes | None = None  # on the socket of `listen`; None: the same
    files_origin: str = ""  # another one that pages may fetch from and show images and sound of
    hsts_s: int = 0  # over TLS: for how long browsers are to come by nothing else (RFC 6797); 0: not said
    call_later: CallLater | None = None  # the loop's, unless a test brings its own
    connections: set[HttpConnection] = field(default_factory=set, init=False)
    closing: bool = field(default=False, init=False)
    _listening: socket.socket | None = field(default=None, init=False)
    _adopting: set[asyncio.Task[None]] = field(default_factory=set, init=False)

    def listen(self, listening: socket.socket) -> None:
        """Accept connections on a socket that is non-blocking, and ours from here on, until `close`."""
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    def adopt(self, fd: int, received: bytes, remote: str, *, keep_alive: bool = True) -> None:
        """Take over the socket `fd` with what was `received` on it; the hub's `on_http`.

        Without `keep_alive` one request is answered on it. `remote` is whose it is, with a port.

        Must be called on the running loop. From here on the socket is ours, whatever happens.
        """
        address = pack(remote.rpartition(":")[0].strip("[]"))
        connection = HttpConnection(self, self.routes, received, address, keep_alive=keep_alive)
        self._adopt(fd, connection, remote)

    def adopt_admin(self, fd: int) -> None:
        """Take over the socket `fd` as one that came to what `listen` listens on."""
        self._adopt(fd, HttpConnection(self, self.admin_routes or self.routes), "the supervisor")

    def _adopt(self, fd: int, connection: HttpConnection, remote: str) -> None:
        accepted = socket.socket(fileno=fd)
        accepted.setblocking(False)
        if self.closing or len(self.connections) >= self.connections_max:
            _turn_away(accepted)
            return
        self.connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._attach(connection, accepted, remote))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def take_over(
        self, transport: asyncio.Transport, received: bytes, address: bytes, *, keep_alive: bool
    ) -> bool:
        """Take over a TLS connection with what was `received` on it; False when there are too many."""
        if self.closing or len(self.connections) >= self.connections_max:
            return False
        headers: tuple[tuple[str, str], ...] = ()
        if self.hsts_s:
            headers = (("Strict-Transport-Security", f"max-age={self.hsts_s}"),)
        connection = HttpConnection(
            self, self.routes, received, address, keep_alive=keep_alive, headers=headers
        )
        self.connections.add(connection)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        return True

    @property
    def listening(self) -> socket.socket | None:
        """The socket that `listen` was given."""
        return self._listening

    def review(self, welcomes: Callable[[bytes], bool]) -> None:
        """Close the connections whose address is not welcome any more, once they are answered.

        Those of `listen` stay: who may reach that socket is not a matter of these rules.
        """
        for connection in tuple(self.connections):
            if connection.address is not None and not welcomes(connection.address):
                connection.close()

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(ACCEPTS_A_TURN):
            try:
                accepted, remote = self._listening.accept()
            except OSError:  # nobody is there any more, or no file is free: the loop looks again
                return
            self._adopt(
                accepted.detach(), HttpConnection(self, self.admin_routes or self.routes), str(remote[0])
            )

    async def _attach(self, connection: HttpConnection, accepted: socket.socket, remote: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted)
        except BaseException as error:
            self.connections.discard(connection)
            accepted.close()
            if not isinstance(error, OSError):
                raise
            # The peer may be gone before the transport has its first look at the socket.
            log.info("http connection of %s lost while it was taken over: %s", remote, error)

    def close(self) -> None:
        """Refuse what comes from now on and close every connection once its answers are sent."""
        self.closing = True
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        for connection in tuple(self.connections):
            connection.close()


class HttpConnection(asyncio.Protocol):
    """One socket that speaks HTTP/1.1: keep-alive, pipelining, one deadline at a time."""

    def __init__(
        self,
        server: HttpServer,
        routes: Routes,
        received: bytes = b"",
        address: bytes | None = None,
        *,
        keep_alive: bool = True,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`received` is what was read from the socket before it came here; `headers` go with each answer.

        `address` is whose it is, packed; None for one that the rules about addresses do not concern.
        """
        self.address = address
        self._keep_alive = keep_alive
        self._server = server
        self._routes = routes
        self._headers = (*_security_headers(server.files_origin), *headers)
        self._input = bytearray(received)
        self._loop: asyncio.AbstractEventLoop
        self._transport: asyncio.Transport
        self._attached = False  # once the loop has the socket: `_transport` and `_loop` are there
        self._timer: Timer | None = None
        self._writing_paused = False
        self._turn_due = False  # the rest of the input waits for the loop's next turn
        self._lingering = False
        self._discarded = 0

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have asyncio.Transport's methods and are none.
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._attached = True
        self._start_timer(self._server.request_timeout_s, self._request_overdue)
        self._serve()
        if self._server.closing:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._input.clear()
        self._server.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self._transport.abort()
            return
        if not self._input:
            self._start_timer(self._server.request_timeout_s, self._request_overdue)
        self._input += data
        self._serve()

    def pause_writing(self) -> None:
        """Answer nothing more until the peer has read: a peer that only asks must not fill our memory."""
        self._writing_paused = True
        self._transport.pause_reading()
        self._start_timer(self._server.idle_timeout_s, self._transport.abort)

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._lingering:
            return
        self._transport.resume_reading()
        self._start_waiting()
        self._serve()

    def close(self) -> None:
        """Close as soon as what was answered is sent, or at last when nobody reads it."""
        if not self._attached:
            return  # connection_made will see that the server is closing
        self._transport.close()
        self._start_timer(self._server.idle_timeout_s, self._transport.abort)

    # Serving.

    def _serve(self) -> None:
        """Answer whole requests in their order, at most `REQUESTS_A_TURN` before others have their turn."""
        if self._turn_due:
            return
        answered = 0
        while self._input and not (self._writing_paused or self._lingering or self._transport.is_closing()):
            if answered == REQUESTS_A_TURN:
                self._turn_due = True
                self._transport.pause_reading()
                self._loop.call_soon(self._next_turn)
                return
            if not self._serve_one():
                break
            answered += 1
        if answered and not (self._writing_paused or self._lingering):
            self._start_waiting()

    def _next_turn(self) -> None:
        self._turn_due = False
        if self._transport.is_closing():
            return
        if not self._writing_paused:
            self._transport.resume_reading()
        self._serve()

    def _serve_one(self) -> bool:
        """Answer the request at the start of the input; False where it is not whole, or not ours."""
        limit = self._server.head_bytes_max
        try:
            request = Request.parse(bytes(self._input[:limit]), head_bytes_max=limit)
        except BadRequest as error:
            self._refuse(error.status, error.reason)
            return True
        if request is None:
            return False
        if _asks_for_websocket(request):
            self._refuse(400, "a WebSocket handshake needs a connection of its own")
            return True
        handler = self._routes.find(request.path)
        fallback = self._server.fallback
        if handler is None and fallback is not None and request.path.startswith(self._server.fallback_under):
            self._hand_over(fallback())
            return False
        del self._input[: request.head_bytes]
        self._answer(request, _respond(handler, request))
        return True

    def _answer(self, request: Request, response: Response) -> None:
        # A body is never read, so what follows it cannot be told from it: the connection ends here.
        keep = self._keep_alive and request.keep_alive and not request.has_body
        head_only = request.method == "HEAD"
        self._transport.write(self._render(response, keep, head_only, request.version == "1.0"))
        if not keep:
            self._linger()

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what cannot be answered as a request; nothing after it can be trusted."""
        response = Response(status, body=f"{reason}\n".encode())
        self._transport.write(self._render(response, keep=False))
        self._linger()

    def _render(self, response: Response, keep: bool, head_only: bool = False, old: bool = False) -> bytes:
        options = [] if keep and not old else ["keep-alive"] if keep else ["close"]
        if any(name.lower() == "upgrade" for name, _ in response.headers):
            options.append("Upgrade")
        lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
        lines.append(f"Date: {formatdate(self._server.now(), usegmt=True)}")
        if response.status not in (204, 304):
            lines.append(f"Content-Type: {response.content_type}")
            lines.append(f"Content-Length: {len(response.body)}")
        lines += [f"{name}: {value}" for name, value in (*self._headers, *response.headers)]
        if options:
            lines.append(f"Connection: {', '.join(options)}")
        head = "\r\n".join([*lines, "\r\n"]).encode("latin-1")
        return head if head_only or response.status in (204, 304) else head + response.body

    # Ending.

    def _linger(self) -> None:
        """Say that we are done, then wait a moment for the peer to be done too."""
        self._lingering = True
        self._input.clear()
        if self._transport.is_closing():
            return
        if not self._transport.can_write_eof():  # TLS: its end is said by closing, which waits for the peer's
            self.close()
            return
        self._transport.resume_reading()  # to see the peer's end; what comes before it is dropped
        self._transport.write_eof()
        self._start_timer(LINGER_S, self.close)

    def _hand_over(self, protocol: asyncio.Protocol) -> None:
        """Let another protocol have the connection, from this request on."""
        self._stop_timer()
        self._server.connections.discard(self)
        received = bytes(self._input)
        self._input.clear()
        self._lingering = True  # nothing that still calls us may act on the transport
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(received)

    def _request_overdue(self) -> None:
        self._refuse(408, "the request took too long")

    def _start_waiting(self) -> None:
        if self._input:
            self._start_timer(self._server.request_timeout_s, self._request_overdue)
        else:
            self._start_timer(self._server.idle_timeout_s, self.close)

    def _start_timer(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = (self._server.call_later or self._loop.call_later)(delay_s, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@lru_cache(maxsize=8)
def _security_headers(origin: str) -> tuple[tuple[str, str], ...]:
    if not origin:
        return SECURITY_HEADERS
    also = {name: f"{name} 'self'" for name in ("img-src", "connect-src", "media-src")}

    def widened(policy: str) -> str:
        for own in also.values():
            policy = policy.replace(own, f"{own} {origin}")
        return policy

    return tuple(
        (name, widened(value) if name == "Content-Security-Policy" else value)
        for name, value in SECURITY_HEADERS
    )


def _respond(handler: Handler | None, request: Request) -> Response:
    if handler is None:
        return Response(404, body=b"not found\n")
    if request.method not in ("GET", "HEAD"):
        return Response(405, body=b"only GET and HEAD\n", headers=(("Allow", "GET, HEAD"),))
    if request.has_body:
        return Response(413, body=b"no body is taken here\n")
    try:
        return handler(request)
    except Exception:
        log.exception("route %s failed", request.path)
        return Response(500, body=b"internal error\n")


def _asks_for_websocket(request: Request) -> bool:
    try:
        return request.is_upgrade()
    except BadRequest:
        return True


def _turn_away(accepted: socket.socket) -> None:
    # The answer is a courtesy: a peer that is gone, or whose buffer is full, is closed all the same.
    with contextlib.closing(accepted), contextlib.suppress(OSError):
        accepted.send(refusal_response(503, b"too many HTTP connections\n", b"Retry-After: 1\r\n"))
