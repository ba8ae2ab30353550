"""Plain HTTP on real loopback sockets, on both loops: framing, order, deadlines, bounds."""

import asyncio
import contextlib
import email.parser
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import uvloop

from realtime.edge import http
from realtime.edge.http import HttpServer, Response, Routes, Timer, upgrade_required
from realtime.native.handshake import Request

# The fixture works with every pytest-asyncio from 0.25 on; the hook that takes its place came with 1.4 only.
pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy")

NOW = 784111777.0  # RFC 9110, 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT
BIG = b"x" * 300_000


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@dataclass(eq=False)
class FakeTimer:
    delay_s: float
    callback: Callable[[], None]
    timers: list[Timer]

    def cancel(self) -> None:
        if self in self.timers:
            self.timers.remove(self)


@dataclass
class Timers:
    """Time stands still until the test lets a timer go off."""

    running: list[Timer] = field(default_factory=list)

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(delay, callback, self.running)
        self.running.append(timer)
        return timer

    def delays(self) -> list[float]:
        return [timer.delay_s for timer in self.running if isinstance(timer, FakeTimer)]

    def fire(self) -> None:
        """Let the only running timer go off."""
        (timer,) = self.running
        assert isinstance(timer, FakeTimer)
        timer.cancel()
        timer.callback()


@dataclass
class Answer:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """Read one response by its framing, strictly."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, _, fields = head.decode("latin-1").partition("\r\n")
        version, status, reason = line.split(" ", 2)
        assert version == "HTTP/1.1"
        message = email.parser.Parser().parsestr(fields)
        headers = {name.lower(): value for name, value in message.items()}
        assert len(headers) == len(message.keys())  # none twice
        assert ("content-length" in headers) == (status not in ("204", "304"))
        length = 0 if head_only else int(headers.get("content-length", 0))
        return Answer(int(status), reason, headers, await self.reader.readexactly(length))

    async def end(self) -> None:
        """The server has said that nothing follows, and nothing did."""
        assert await self.reader.read() == b""


class Stage:
    """A server with a few routes, and peers for it."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.served: list[str] = []
        self.routes = Routes(
            {"/": self.show, "/big": self.show_big, "/fails": self.fail, "/text": self.show},
            under={"/ws": upgrade_required},
        )
        self.server = HttpServer(self.routes, now=lambda: NOW, call_later=self.timers.call_later)
        self.peers: list[Peer] = []

    def show(self, request: Request) -> Response:
        self.served.append(request.query)
        return Response(200, "text/html", f"<{request.query}>".encode(), (("X-Extra", "y"),))

    def show_big(self, request: Request) -> Response:
        self.served.append(request.query)
        return Response(200, body=BIG)

    def fail(self, request: Request) -> Response:
        raise LookupError("no such thing")

    async def connect(
        self, received: bytes = b"", *, receive_buffer: int = 0, then: Callable[[], None] = lambda: None
    ) -> Peer:
        """A connected peer, its other end adopted with what was `received`; `then` follows at once."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.socket()
            if receive_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            client.connect(listener.getsockname())
            accepted, address = listener.accept()
        if receive_buffer:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, receive_buffer)
        self.server.adopt(accepted.detach(), received, f"{address[0]}:{address[1]}")
        then()
        peer = Peer(*await asyncio.open_connection(sock=client, limit=4096))
        self.peers.append(peer)
        return peer

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop run until `condition` holds."""
        while not condition():  # noqa: ASYNC110 - a turn of the loop, not a wait
            await asyncio.sleep(0)

    async def adopted(self, number: int = 1) -> None:
        """The server has so many connections, each with its first timer."""
        await self.until(lambda: len(self.server.connections) == number == len(self.timers.running))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    async with asyncio.timeout(60):
        yield stage
        stage.server.close()
        for peer in stage.peers:
            peer.writer.transport.abort()
        await stage.adopted(0)
        assert stage.timers.running == []  # nothing is left behind


def get(target: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: a", *lines, "\r\n"]).encode()


# Answers.


async def test_a_page_comes_with_its_framing_and_security_headers(stage: Stage) -> None:
    peer = await stage.connect(get("/?a"))
    answer = await peer.answer()
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"<a>")
    csp = answer.headers.pop("content-security-policy")
    assert "default-src 'none'" in csp
    assert "connect-src 'self'" in csp
    assert "unsafe" not in csp
    assert answer.headers == {
        "date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "content-type": "text/html",
        "content-length": "3",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "x-extra": "y",
    }


async def test_head_gets_the_head_of_get(stage: Stage) -> None:
    peer = await stage.connect(get("/?abc", method="HEAD") + get("/?abc"))
    head = await peer.answer(head_only=True)
    whole = await peer.answer()
    assert head.headers == whole.headers
    assert (head.body, whole.body) == (b"", b"<abc>")


@pytest.mark.parametrize("path", ["/nothing", "//", "/.", "/text/", "/%74ext", "/wsx", "/..%2f"])
async def test_a_path_is_exact_or_not_found(stage: Stage, path: str) -> None:
    peer = await stage.connect(get(path) + get("/text"))
    assert (await peer.answer()).status == 404
    assert (await peer.answer()).status == 200  # the connection goes on


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "NEW"])
async def test_other_methods_are_told_what_is_allowed(stage: Stage, method: str) -> None:
    peer = await stage.connect(get("/", method=method))
    answer = await peer.answer()
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/ws", "/ws/alice", "/ws/"])
async def test_plain_http_on_the_endpoint_is_told_to_upgrade(stage: Stage, path: str) -> None:
    peer = await stage.connect(get(path))
    answer = await peer.answer()
    assert (answer.status, answer.reason) == (426, "Upgrade Required")
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["connection"] == "Upgrade"
    assert answer.headers["sec-websocket-version"] == "13"


async def test_a_route_that_fails_answers_500_and_says_so_in_the_log(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await stage.connect(get("/fails") + get("/"))
    answer = await peer.answer()
    assert (answer.status, answer.body) == (500, b"internal error\n")
    assert (await peer.answer()).status == 200
    (record,) = [record for record in caplog.records if record.name == "realtime.http"]
    assert record.levelno == logging.ERROR
    assert "no such thing" in str(record.exc_info)


# Connections.


async def test_a_connection_is_kept(stage: Stage) -> None:
    peer = await stage.connect(get("/?1"))
    for number in range(2, 5):
        assert (await peer.answer()).body == f"<{number - 1}>".encode()
        peer.send(get(f"/?{number}"))
    assert (await peer.answer()).body == b"<4>"


@pytest.mark.parametrize(
    ("version", "lines", "kept"),
    [
        ("1.1", [], None),
        ("1.1", ["Connection: close"], "close"),
        ("1.1", ["Connection: x, CLOSE"], "close"),
        ("1.0", [], "close"),
        ("1.0", ["Connection: Keep-Alive"], "keep-alive"),
    ],
)
async def test_connection_is_agreed_with_both_versions(
    stage: Stage, version: str, lines: list[str], kept: str | None
) -> None:
    peer = await stage.connect(get("/?1", *lines, version=version) + get("/?2"))
    answer = await peer.answer()
    assert answer.headers.get("connection") == kept
    if kept == "close":
        await peer.end()
        assert stage.served == ["1"]
    else:
        assert (await peer.answer()).body == b"<2>"


@pytest.mark.parametrize("already", [0, 1, 40, 10_000])
async def test_pipelined_requests_are_answered_in_order(stage: Stage, already: int) -> None:
    requests = b"".join(get(f"/?{number}") for number in range(100))
    peer = await stage.connect(requests[:already])
    peer.send(requests[already:])
    assert [(await peer.answer()).body for _ in range(100)] == [f"<{i}>".encode() for i in range(100)]
    peer.send(get("/?after"))
    assert (await peer.answer()).body == b"<after>"


async def test_a_request_may_come_byte_by_byte(stage: Stage) -> None:
    request = b"\r\n" + get("/?1") + get("/?2")
    peer = await stage.connect()
    await stage.adopted()
    (connection,) = stage.server.connections
    for i in range(len(request)):
        connection.data_received(request[i : i + 1])
    assert [(await peer.answer()).body for _ in range(2)] == [b"<1>", b"<2>"]


async def test_a_long_pipeline_lets_others_have_their_turn(stage: Stage) -> None:
    await stage.connect(b"".join(get(f"/?a{number}") for number in range(200)))
    await stage.connect(get("/?b"))
    await stage.until(lambda: len(stage.served) == 201)
    assert stage.served.index("b") <= 3 * http.REQUESTS_A_TURN
    assert [one for one in stage.served if one != "b"] == [f"a{number}" for number in range(200)]


async def test_a_peer_that_leaves_is_forgotten(stage: Stage) -> None:
    peer = await stage.connect(get("/"))
    await peer.answer()
    assert len(stage.server.connections) == 1
    peer.writer.close()
    await stage.adopted(0)


async def test_a_peer_that_has_no_more_requests_gets_its_answers(stage: Stage) -> None:
    peer = await stage.connect(get("/?1"))
    peer.send(get("/?2") + b"GET /half")
    peer.writer.write_eof()
    assert [(await peer.answer()).body for _ in range(2)] == [b"<1>", b"<2>"]
    await peer.end()


# What is refused.


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 17_000, 431),
        (get("/", "Upgrade: websocket", "Connection: Upgrade"), 400),
    ],
)
async def test_a_bad_request_is_answered_and_ends_the_connection(
    stage: Stage, data: bytes, status: int
) -> None:
    peer = await stage.connect(get("/?before") + data + get("/?after"))
    assert (await peer.answer()).body == b"<before>"
    answer = await peer.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.headers["x-content-type-options"] == "nosniff"
    await peer.end()
    assert stage.served == ["before"]


@pytest.mark.parametrize("framing", ["Content-Length: 500000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("target", "method", "status"), [("/", "GET", 413), ("/", "POST", 405), ("/x", "POST", 404)]
)
async def test_a_body_is_never_read_as_a_request(
    stage: Stage, framing: str, target: str, method: str, status: int
) -> None:
    peer = await stage.connect(get(target, framing, method=method) + get("/?smuggled"))
    peer.send(get("/?smuggled") * 5000)  # the answer survives what is still under way
    answer = await peer.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    await peer.end()
    assert stage.served == []


async def test_what_comes_after_the_end_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LINGER_BYTES", 10_000)
    peer = await stage.connect(get("/", "Connection: close"))
    await peer.answer()
    await peer.end()
    peer.send(b"x" * 10_001)
    await stage.adopted(0)


async def test_too_many_connections_are_turned_away(stage: Stage) -> None:
    stage.server.connections_max = 2
    kept = [await stage.connect(get("/")) for _ in range(2)]
    refused = await stage.connect(get("/"))
    assert (await refused.answer()).status == 503
    await refused.end()
    assert [(await peer.answer()).status for peer in kept] == [200, 200]


async def test_a_closing_server_ends_what_is_idle_and_takes_nothing_new(stage: Stage) -> None:
    peer = await stage.connect(get("/"))
    await peer.answer()
    late = await stage.connect(get("/"), then=stage.server.close)  # handed over, but not attached yet
    await peer.end()
    assert (await late.answer()).status == 200
    await late.end()
    refused = await stage.connect(get("/"))
    assert (await refused.answer()).status == 503


# Deadlines.


async def test_a_slow_head_has_one_deadline_in_total(stage: Stage) -> None:
    peer = await stage.connect(b"GET")
    await stage.adopted()
    (timer,) = stage.timers.running
    (connection,) = stage.server.connections
    for byte in b" / HTTP/1.1\r\nX: yyyy":
        connection.data_received(bytes([byte]))
        assert stage.timers.running == [timer]  # never started anew
    assert stage.timers.delays() == [stage.server.request_timeout_s]
    stage.timers.fire()
    answer = await peer.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    await peer.end()


async def test_an_idle_connection_is_closed_without_a_word(stage: Stage) -> None:
    peer = await stage.connect(get("/"))
    await peer.answer()
    assert stage.timers.delays() == [stage.server.idle_timeout_s]
    stage.timers.fire()
    await peer.end()


async def test_the_next_request_has_a_deadline_of_its_own(stage: Stage) -> None:
    peer = await stage.connect(get("/") + b"GET")
    await peer.answer()
    assert stage.timers.delays() == [stage.server.request_timeout_s]
    peer.send(b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    await peer.answer()
    assert stage.timers.delays() == [stage.server.idle_timeout_s]
    peer.send(b"G")
    await stage.until(lambda: stage.timers.delays() == [stage.server.request_timeout_s])


async def test_a_peer_that_does_not_stop_sending_is_cut_after_the_last_answer(stage: Stage) -> None:
    peer = await stage.connect(get("/", "Connection: close"))
    await peer.answer()
    await peer.end()
    assert stage.timers.delays() == [http.LINGER_S]
    stage.timers.fire()
    await stage.adopted(0)


async def test_a_peer_that_does_not_read_is_not_answered_further_and_then_cut(stage: Stage) -> None:
    await stage.connect(get("/big") * 100, receive_buffer=4096)
    await stage.adopted()
    (connection,) = stage.server.connections
    await stage.until(lambda: bool(stage.served))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(stage.served) == 1  # one answer over the buffer's limit, and then no more
    assert stage.timers.delays() == [stage.server.idle_timeout_s]
    stage.timers.fire()
    await stage.adopted(0)
    assert connection not in stage.server.connections


async def test_a_peer_that_reads_late_gets_everything_in_order(stage: Stage) -> None:
    peer = await stage.connect(b"".join(get(f"/big?{i}") for i in range(10)), receive_buffer=4096)
    await stage.until(lambda: bool(stage.served))
    assert [(await peer.answer()).body == BIG for _ in range(10)] == [True] * 10
    assert stage.served == [str(i) for i in range(10)]
    assert stage.timers.delays() == [stage.server.idle_timeout_s]


async def test_a_peer_that_does_not_read_the_last_answer_is_cut_too(stage: Stage) -> None:
    await stage.connect(get("/big", "Connection: close"), receive_buffer=4096)
    await stage.until(lambda: bool(stage.served))
    assert stage.timers.delays() == [http.LINGER_S]
    stage.timers.fire()  # closes, but what is written waits for the peer
    assert stage.timers.delays() == [stage.server.idle_timeout_s]
    stage.timers.fire()
    await stage.adopted(0)


async def test_the_end_of_a_peer_that_read_the_last_answer_late_is_seen(stage: Stage) -> None:
    peer = await stage.connect(get("/big", "Connection: close"), receive_buffer=4096)
    await stage.until(lambda: bool(stage.served))
    assert (await peer.answer()).body == BIG
    await peer.end()
    peer.writer.close()
    await stage.adopted(0)


async def test_half_a_request_behind_a_big_answer_has_its_deadline_once_that_is_read(stage: Stage) -> None:
    peer = await stage.connect(get("/big") + b"GET", receive_buffer=4096)
    await stage.until(lambda: bool(stage.served))
    assert stage.timers.delays() == [stage.server.idle_timeout_s]
    await peer.answer()
    await stage.until(lambda: stage.timers.delays() == [stage.server.request_timeout_s])


async def test_a_big_last_answer_arrives_whole_though_lingering_is_over(stage: Stage) -> None:
    peer = await stage.connect(get("/big", "Connection: close"), receive_buffer=4096)
    await stage.until(lambda: bool(stage.served))
    stage.timers.fire()
    assert (await peer.answer()).body == BIG
    await peer.end()


# Hand-over.


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += data


async def test_what_no_route_answers_goes_to_the_fallback_with_every_byte(stage: Stage) -> None:
    recorder = Recorder()
    stage.server.fallback = lambda: recorder
    request = get("/api", "Content-Length: 4", method="POST") + b"body"
    peer = await stage.connect(get("/?1") + request[:-2])
    assert (await peer.answer()).body == b"<1>"
    await stage.until(lambda: recorder.received != b"")
    peer.send(request[-2:])
    await stage.until(lambda: recorder.received == request)
    assert stage.server.connections == set()
    recorder.transport.write(b"raw")
    recorder.transport.close()
    assert await peer.reader.read() == b"raw"


# Values.


@pytest.mark.parametrize(
    "make",
    [
        lambda: Response(200, "text/plain\r\nX: y"),
        lambda: Response(200, headers=(("X", "a\nb"),)),
        lambda: Response(200, headers=(("X: y\r\nZ", "a"),)),
        lambda: Response(200, headers=(("X", "\u20ac"),)),
        lambda: Response(200, headers=(("", "a"),)),
        lambda: Response(101),
        lambda: Response(299),
    ],
)
def test_a_response_that_would_break_its_head_cannot_be_made(make: Callable[[], Response]) -> None:
    with pytest.raises(ValueError, match=r"(?i)header|status"):
        make()


async def test_a_socket_that_died_before_it_was_taken_is_let_go(stage: Stage) -> None:
    left, right = socket.socketpair()
    right.close()
    stage.server.adopt(left.detach(), get("/"), "nobody")
    await stage.until(lambda: stage.served == [""])
    await stage.adopted(0)


@pytest.mark.filterwarnings("error")
def test_cancelling_an_adoption_closes_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    unclosed: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unclosed.append)

    async def main() -> int:
        left, right = socket.socketpair()
        with contextlib.closing(right):
            fd = left.detach()
            server = HttpServer(Routes({}))
            server.adopt(fd, b"", "nobody")
            (task,) = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            right.setblocking(False)
            loop = asyncio.get_running_loop()
            ended: Awaitable[bytes] = loop.sock_recv(right, 1)
            return len(await asyncio.wait_for(ended, 60))

    assert asyncio.run(main()) == 0
    gc.collect()
    assert unclosed == []  # nor was it left to the garbage collector, which says so
