"""An ASGI application beside our own routes, on one port, through uvicorn's protocol."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn  # the extra `api`: part of `dev`

from realtime.edge.asgi_app import AsgiFactory, Message, Receive, Send, asgi_factory
from realtime.edge.http import HttpServer, Response, Routes

assert uvicorn


class App:
    """Echoes requests; keeps note of its lifespan."""

    def __init__(self, *, broken: bool = False) -> None:
        self.broken = broken
        self.events: list[str] = []
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.events.append(scope["path"])
        await self.release.wait()
        text = f"{scope['method']} {scope['path']}?{scope['query_string'].decode()} ".encode() + body
        headers = [(b"content-length", str(len(text)).encode()), (b"connection", b"keep-alive")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    async def live(self, receive: Receive, send: Send) -> None:
        for event in ("startup", "shutdown"):
            assert (await receive())["type"] == f"lifespan.{event}"
            self.events.append(event)
            await send({"type": f"lifespan.{event}.{'failed' if self.broken else 'complete'}"})


class Port:
    def __init__(self, app: App) -> None:
        self.app = app
        self.factory: AsgiFactory = asgi_factory(app)
        routes = Routes({"/health": lambda request: Response(200, body=b"ours")})
        self.server = HttpServer(routes, self.factory)

    async def exchange(self, *parts: bytes) -> bytes:
        """Send the parts, the first as what the hub has read, and return all that comes until the end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            accepted, _ = listener.accept()
        self.server.adopt(accepted.detach(), parts[0], "peer")
        reader, writer = await asyncio.open_connection(sock=client)
        for part in parts[1:]:
            writer.write(part)
        try:
            return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(App())
    async with asyncio.timeout(60):
        await port.factory.start()
        yield port
        port.server.close()


async def test_the_app_answers_what_no_route_does(port: Port) -> None:
    whole = await port.exchange(b"GET /api/rooms?limit=2 HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert body == b"GET /api/rooms?limit=2 "
    assert head.lower().count(b"\r\ndate: ") == 1


async def test_a_body_that_was_half_read_reaches_the_app_whole(port: Port) -> None:
    head = b"POST /api HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n"
    assert (await port.exchange(head + b"abc", b"de", b"fgh")).endswith(b"POST /api? abcdefgh")
    chunked = b"POST /api HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    assert (await port.exchange(chunked, b"2\r\nde\r\n0\r\n\r\n")).endswith(b"POST /api? abcde")


async def test_our_routes_come_first_and_the_app_ends_its_connection(port: Port) -> None:
    get = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
    whole = await port.exchange(get % b"/health" + get % b"/app" + get % b"/health")
    ours, _, rest = whole.partition(b"ours")
    assert ours.startswith(b"HTTP/1.1 200 OK\r\n")
    assert rest.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nconnection: close\r\n" in rest.lower()
    assert b"keep-alive" not in rest.lower()
    assert rest.endswith(b"GET /app? ")  # a kept connection would never find our routes again


async def test_an_app_that_does_not_start_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        await asgi_factory(App(broken=True)).start()


async def test_stopping_lets_requests_finish_and_then_shuts_the_app_down() -> None:
    async with asyncio.timeout(60):
        port = Port(App())
        await port.factory.start()
        port.app.release.clear()
        answer = asyncio.create_task(port.exchange(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"))
        while "/slow" not in port.app.events:  # noqa: ASYNC110 - a turn of the loop, not a wait
            await asyncio.sleep(0)
        stopping = asyncio.create_task(port.factory.stop())
        await asyncio.sleep(0)
        assert port.app.events == ["startup", "/slow"]
        port.app.release.set()
        await stopping
        assert (await answer).endswith(b"GET /slow? ")
        assert port.app.events == ["startup", "/slow", "shutdown"]


async def test_without_uvicorn_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"realtime\[api\]"):
        asgi_factory(App())
