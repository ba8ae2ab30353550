"""A peer of a real server, for tests: tokens, the `websockets` client, plain HTTP and raw sockets."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import jwt
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConcurrencyError, ConnectionClosed, InvalidStatus

from tests.tree import ROOT

KEY = "0123456789abcdef0123456789abcdef"
JSON = "realtime.v1.json"
MSGPACK = "realtime.v1.msgpack"
PATIENCE_S = 60.0


def token(sub="alice", ttl_s=3600.0, key=KEY, **claims):
    return jwt.encode({"sub": sub, "exp": time.time() + ttl_s, **claims}, key, algorithm="HS256")


def bearer(text):
    return {"Authorization": f"Bearer {text}"}


async def receive(ws):
    async with asyncio.timeout(PATIENCE_S):
        frame = await ws.recv()
    return json.loads(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)


async def ask(ws, **message):
    """Send one message and return the answer to it; pushes on the way are not looked at."""
    await ws.send(json.dumps(message))
    while True:
        answer = await receive(ws)
        if answer.get("id") == message["id"]:
            return answer


async def closed(ws):
    """Read until the server closes; return (code, reason)."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                await ws.recv()
        except ConnectionClosed as end:
            return end.rcvd.code, end.rcvd.reason


def command(server, *arguments):
    """Run a command of ours with a server's settings; return how it ended and what it said."""
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments],
        cwd=ROOT,
        env=server._environ(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def hang_up_all(connections):
    """Close and forget them, all at once, and read what nobody has read.

    A `websockets` client whose queue is full reads no further, so its close() would wait for ten seconds.
    Those of another test, whose loop has ended, are only forgotten.
    """

    async def hang_up(ws):
        closing = asyncio.create_task(ws.close())
        with contextlib.suppress(ConnectionClosed, ConcurrencyError):  # its test may read on
            while True:
                await ws.recv()
        await closing

    ours = asyncio.get_running_loop()
    leaving = [hang_up(ws) for ws in connections if ws.loop is ours]
    connections.clear()
    await asyncio.gather(*leaving)


async def refused(url, **how):
    """Return the HTTP response that refuses a handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, **how):
            pass
    return caught.value.response


def get(url, method="GET"):
    """Return (status, headers, body) of one HTTP request."""
    request = urllib.request.Request(url, method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def metric(server, name):
    """Return the number that /metrics says for a name, `realtime_` left out; over all labels where it has."""
    lines = get(f"{server.url}/metrics")[2].decode().splitlines()
    found = [
        int(line.split()[1]) for line in lines if line.startswith((f"realtime_{name} ", f"realtime_{name}{{"))
    ]
    assert found, name
    return sum(found)


def send_handshake(server, *headers):
    """Return a socket on which a handshake with more `headers` has been sent."""
    head = [
        *("GET /ws HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", *headers),
    ]
    raw = socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    raw.sendall("\r\n".join([*head, "", ""]).encode())
    return raw


def raw_handshake(server, *headers):
    """Send a handshake with more headers; return all of the answer up to the end of the connection."""
    with send_handshake(server, *headers) as raw:
        raw.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: raw.recv(4096), b""))


def upgrade(server):
    """Return a socket with an open WebSocket that reads and answers nothing from here on."""
    stubborn = send_handshake(server)
    assert stubborn.recv(64).startswith(b"HTTP/1.1 101")
    return stubborn
