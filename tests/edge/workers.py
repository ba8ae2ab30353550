"""Several workers of one deployment, for tests: servers on one Redis, connections to the worker one means."""

import asyncio
import json
import re
import uuid
from pathlib import Path

import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage

from realtime.edge import leash
from tests.edge.peer import PATIENCE_S, ask, get, hang_up_all, receive
from tests.postgres import children


def deployment(url, **settings):
    """Settings of servers that are one deployment on the Redis at `url`, apart from all others."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    return {"redis_url": url, "redis_prefix": prefix, "max_connections_per_user": 10_000, **settings}


_connections = []


@pytest_asyncio.fixture(autouse=True)
async def hang_up(serve):
    """Close what a test has connected, before its servers end: they would wait for answers of nobody."""
    yield
    await hang_up_all(_connections)


async def greeted(server, user="alice"):
    """Connect; return the connection, which `hang_up` closes, and the content of `connected`."""
    ws = await connect(f"{server.ws_url}/{user}")
    _connections.append(ws)
    return ws, (await receive(ws))["content"]


async def on_node(server, node, user="alice"):
    """Connect until the kernel has dealt us to the worker `node`; it does so by a hash of the port."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                ws, content = await greeted(server, user)
            except (InvalidMessage, OSError):  # it was dealt to one that has just died
                continue
            if content["node"] == node:
                return ws
            await ws.close()


async def on_each(server, user="alice"):
    """Return a connection for each of two workers, by their nodes."""
    found = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 2:
            ws, content = await greeted(server, user)
            if content["node"] in found:
                await ws.close()
            else:
                found[content["node"]] = ws
    return found


async def enter(ws, room, **content):
    """Join; return the content of `joined`. A worker that has only just begun to subscribe is asked again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await ask(ws, type="join", id="join", room=room, content=content)
            if answer["type"] == "joined":
                return answer["content"]
            assert answer["content"]["code"] == 503, answer
            await asyncio.sleep(0)


async def say(ws, room, content, **fields):
    """Publish; return the answer."""
    return await ask(ws, type="publish", id=f"say {content}", room=room, content=content, **fields)


async def hear(ws, room, count):
    """Return (offset, content) of the next `count` publications of a room."""
    heard = []
    while len(heard) < count:
        push = await receive(ws)
        if push["type"] == "publish" and push.get("room") == room:
            heard.append((push["offset"], push["content"]))
    return heard


async def until_counted(server, users=1):
    """Wait until so many users are connected to a worker and Redis knows of all their connections.

    `connected` says nothing of that: a worker lets in by what it knows itself, and tells Redis meanwhile.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = (await asyncio.to_thread(get, f"{server.url}/metrics"))[2].decode()
            found = re.findall(r"^realtime_whereabouts_(users|waiting)\b.* (\d+)$", text, re.MULTILINE)
            if dict(found) == {"users": str(users), "waiting": "0"}:
                return


async def until_ready(server, **states):
    """Ask /ready until it says 200, or is 503 with these states; return all that it checked."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            status, _, body = await asyncio.to_thread(get, f"{server.url}/ready")
            checks = json.loads(body)["checks"]
            if status == (503 if states else 200) and states.items() <= checks.items():
                return checks


def worker_pids(server):
    """The process ids of a supervisor's workers, by their number."""
    found = {}
    for pid in children(server.pid):
        try:
            words = Path(f"/proc/{pid}/environ").read_text()
        except OSError:
            continue  # it has just ended
        environ = dict(line.split("=", 1) for line in words.split("\0") if "=" in line)
        if leash.VARIABLE in environ:
            found[json.loads(environ[leash.VARIABLE])["number"]] = pid
    return found


async def labelled(server, node, name):
    """The number that a worker's /metrics has for a name; a shared port answers as whichever it is."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = (await asyncio.to_thread(get, f"{server.url}/metrics"))[2].decode()
            for line in text.splitlines():
                if line.startswith(f'realtime_{name}{{node="{node}"'):
                    return int(line.split()[1])
