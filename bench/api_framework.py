"""Which framework shall carry the REST API: Starlette, Litestar, or none?

    python -m bench.api_framework [--seconds N] [--rounds N] [--connections N]

Each serves the same two routes under the same uvicorn in a process of its own: a POST whose JSON is decoded
into a struct and answered with another one (msgspec does both), and a GET with a query. The generator keeps
`connections` open, each with one request under way; answers are counted and compared. Rounds are interleaved.
`import` is a new process that does nothing but import the framework, beside one that imports nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import uvloop

CANDIDATES = ("asgi", "starlette", "litestar")
BODY = b'{"room":"chat:lobby","type":"chat_message","content":{"text":"hello"},"key":"order-17"}'
ANSWER = b'{"offset":41,"epoch":"mg2x1k3s","duplicate":false}'
POST = (
    b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    % (
        len(BODY),
        BODY,
    )
)
GET = b"GET /history?room=chat:lobby&limit=10 HTTP/1.1\r\nHost: x\r\n\r\n"
PAGE = b'{"room":"chat:lobby","limit":10}'


class Publish(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked."""

    room: str
    type: str
    content: Any  # Litestar cannot take msgspec.Raw: it decodes before it knows what is wanted
    key: str | None = None


class Receipt(msgspec.Struct):
    """What is answered."""

    offset: int
    epoch: str
    duplicate: bool


class Page(msgspec.Struct):
    """What is answered to a query."""

    room: str
    limit: int


RECEIPT = Receipt(41, "mg2x1k3s", False)


# ---------------------------------------------------------------- the candidates


def asgi() -> Any:
    """Nothing but ASGI."""
    from urllib.parse import parse_qs

    decoder = msgspec.json.Decoder(Publish)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/publish":
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            decoder.decode(body)
            answer = msgspec.json.encode(RECEIPT)
        else:
            query = parse_qs(scope["query_string"].decode())
            answer = msgspec.json.encode(Page(query["room"][0], int(query["limit"][0])))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def starlette() -> Any:
    """Starlette's router, request and response; msgspec by hand."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    decoder = msgspec.json.Decoder(Publish)

    async def publish(request: Request) -> Response:
        decoder.decode(await request.body())
        return Response(msgspec.json.encode(RECEIPT), media_type="application/json")

    async def history(request: Request) -> Response:
        page = Page(request.query_params["room"], int(request.query_params["limit"]))
        return Response(msgspec.json.encode(page), media_type="application/json")

    return Starlette(
        routes=[Route("/publish", publish, methods=["POST"]), Route("/history", history, methods=["GET"])]
    )


def litestar() -> Any:
    """Litestar with its own handling of msgspec's structs."""
    from litestar import Litestar, get, post

    @post("/publish", status_code=200)
    async def publish(data: Publish) -> Receipt:
        return RECEIPT

    @get("/history")
    async def history(room: str, limit: int) -> Page:
        return Page(room, limit)

    return Litestar(route_handlers=[publish, history], openapi_config=None)


def serve(name: str) -> None:
    """Serve a candidate on a port that the system chooses, and say which."""
    import socket

    import uvicorn

    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(512)
    config = uvicorn.Config(globals()[name](), log_level="error", access_log=False, lifespan="off", ws="none")
    print(listening.getsockname()[1], flush=True)
    uvloop.run(uvicorn.Server(config).serve(sockets=[listening]))


# ---------------------------------------------------------------- the generator


@dataclass(frozen=True)
class Run:
    """One candidate, one round."""

    name: str
    route: str
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory_mb: float


@contextlib.contextmanager
def running(name: str) -> Iterator[tuple[int, int]]:
    """A candidate at work: its process id and port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.api_framework", "--serve", name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.pid, int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


async def ask_on(port: int, request: bytes, answer: bytes, until: float, took: list[float]) -> None:
    """Ask on one connection, one request at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while (began := time.perf_counter()) < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200") or body != answer:
            raise RuntimeError(f"wrong answer: {head!r} {body!r}")
        took.append(time.perf_counter() - began)
    writer.close()


async def measure(name: str, pid: int, port: int, route: str, seconds: float, connections: int) -> Run:
    """Ask for `seconds`, after half a second that does not count."""
    request, answer = (POST, ANSWER) if route == "POST" else (GET, PAGE)
    for span in (0.5, seconds):
        took: list[float] = []
        used, began = cpu_s(pid), time.perf_counter()
        until = began + span
        await asyncio.gather(*(ask_on(port, request, answer, until, took) for _ in range(connections)))
    lasted, took = time.perf_counter() - began, sorted(took)
    return Run(
        name,
        route,
        len(took) / lasted,
        took[len(took) // 2] * 1e3,
        took[len(took) * 99 // 100] * 1e3,
        (cpu_s(pid) - used) / len(took) * 1e6,
        memory_mb(pid),
    )


def cpu_s(pid: int) -> float:
    """CPU time a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def import_ms(module: str) -> float:
    """How much longer a new process takes where it imports `module`; the best of seven."""

    def best(code: str) -> float:
        def once() -> float:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            return time.perf_counter() - began

        return min(once() for _ in range(7))

    base = "import asyncio, msgspec, uvloop"
    return (best(f"{base}\n{module}") - best(base)) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", choices=CANDIDATES)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve)
        return
    runs: list[Run] = []
    for _ in range(asked.rounds):
        for name in CANDIDATES:
            with running(name) as (pid, port):
                for route in ("POST", "GET"):
                    terms = name, pid, port, route, asked.seconds, asked.connections
                    runs.append(asyncio.run(measure(*terms)))
    imports = {
        "asgi": 0.0,
        "starlette": import_ms("import starlette.applications, starlette.routing, starlette.responses"),
        "litestar": import_ms("import litestar"),
    }
    for name in CANDIDATES:
        for route in ("POST", "GET"):
            mine = [run for run in runs if (run.name, run.route) == (name, route)]
            rates = [run.per_second for run in mine]
            said = {
                "candidate": name,
                "route": route,
                "requests_per_s": round(statistics.median(rates)),
                "spread": f"{(max(rates) - min(rates)) / statistics.median(rates):.0%}",
                "p50_ms": round(statistics.median(run.p50_ms for run in mine), 2),
                "p99_ms": round(statistics.median(run.p99_ms for run in mine), 2),
                "cpu_us": round(statistics.median(run.cpu_us for run in mine)),
                "memory_mb": round(statistics.median(run.memory_mb for run in mine), 1),
                "import_ms": round(imports[name]),
            }
            print(json.dumps(said))


if __name__ == "__main__":
    main()
