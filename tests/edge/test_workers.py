"""`serve --workers`: real workers on one port and one Redis Cluster, and what becomes of them."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conftest import ROOT
from tests.edge.peer import PATIENCE_S, ask, closed, get, receive, upgrade
from tests.edge.workers import (
    deployment,
    enter,
    hang_up,  # noqa: F401 - a fixture
    hear,
    labelled,
    on_each,
    on_node,
    say,
    until_ready,
    worker_pids,
)
from tests.ports import free_ports

ROOM = "events:lobby"


@pytest.fixture
def start(serve, redis_cluster):
    """Start two workers, called n-1 and n-2, that are a deployment of their own."""
    return lambda **settings: serve(**deployment(redis_cluster.url, workers=2, node="n", **settings))


async def test_a_room_is_one_whichever_worker_its_members_are_on(start):
    server = start()
    await until_ready(server)
    both = await on_each(server)
    assert sorted(both) == ["n-1", "n-2"]
    first, second = both.values()
    one, two = await enter(first, ROOM), await enter(second, ROOM)
    assert one["epoch"] == two["epoch"]
    for n in range(100):
        message = {"type": "publish", "room": ROOM, "content": n}
        await (first, second)[n % 2].send(json.dumps(message))
    heard = await hear(first, ROOM, 100)
    assert heard == await hear(second, ROOM, 100)
    assert [offset for offset, _ in heard] == list(range(1, 101))
    assert [content for _, content in heard if content % 2] == list(range(1, 100, 2))
    assert sorted(content for _, content in heard) == list(range(100))


async def test_who_comes_back_to_another_worker_gets_what_it_missed(start):
    server = start()
    await until_ready(server)
    both = await on_each(server)
    for ws in both.values():
        await enter(ws, ROOM)
    position = (await say(both["n-1"], ROOM, "before"))["content"]
    await both["n-2"].close()
    for n in range(3):
        await say(both["n-1"], ROOM, n)
    back = await on_node(server, "n-2")
    joined = await enter(back, ROOM, since={"offset": position["offset"], "epoch": position["epoch"]})
    assert joined["recovered"]
    # What has not come to this worker by then comes live.
    missed = [(push["offset"], push["content"]) for push in joined["messages"]]
    missed += await hear(back, ROOM, 3 - len(missed))
    assert missed == [(2, 0), (3, 1), (4, 2)]


async def test_a_worker_that_is_killed_is_started_again_and_the_other_goes_on(start):
    server = start(ring_ttl_s=60)  # it is not missed by itself
    server.may_log_tracebacks = False
    await until_ready(server)
    both = await on_each(server)
    for ws in both.values():
        await enter(ws, ROOM)
    dead = worker_pids(server)[1]
    before = await labelled(server, "n-2", "ring_version")
    os.kill(dead, signal.SIGKILL)
    await until_cut(both["n-1"])
    assert (await say(both["n-2"], ROOM, "still here"))["type"] == "ack"
    back = await on_node(server, "n-1")
    epoch = (await enter(both["n-2"], ROOM))["epoch"]
    joined = await enter(back, ROOM, since={"offset": 0, "epoch": epoch})
    assert [push["content"] for push in joined["messages"]] == ["still here"]
    assert worker_pids(server)[1] != dead
    async with asyncio.timeout(PATIENCE_S):  # its leave, and the coming of the next: both were told
        while (
            await labelled(server, "n-2", "ring_workers") != 2
            or await labelled(server, "n-2", "ring_version") == before
        ):
            pass
    assert server.wait_for_line(r"worker 1 \(pid \d+\) was ended by SIGKILL; it is started again in 0.1 s")


async def test_a_worker_that_stood_still_is_missed_and_its_members_are_seen_again(start):
    server = start(presence_grace_s=0, presence_members=100)
    await until_ready(server)
    alice, bob = await on_node(server, "n-1", "alice"), await on_node(server, "n-2", "bob")
    await enter(alice, ROOM)
    await enter(bob, ROOM)
    await until_members(bob, ROOM, "alice", "bob")
    os.kill(worker_pids(server)[1], signal.SIGSTOP)
    try:
        await until_members(bob, ROOM, "bob")
    finally:
        os.kill(worker_pids(server)[1], signal.SIGCONT)
    await until_members(bob, ROOM, "alice", "bob")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_all_workers(start, how):
    server = start()
    both = await on_each(server)
    server.process.send_signal(how)
    for ws in both.values():
        code, reason = await closed(ws)
        assert (code, json.loads(reason)["r"]) == (1012, "drain")
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0


async def test_no_worker_outlives_its_supervisor(start):
    server = start()
    both = await on_each(server)
    server.process.kill()
    for ws in both.values():
        assert (await closed(ws))[0] == 1012
    await asyncio.to_thread(server.kill)
    server.start()  # on the same port: nobody has it


async def test_each_worker_answers_on_an_admin_port_of_its_own(start):
    base = free_ports(2)
    server = start(admin_port=base, drain_timeout_s=300, close_timeout_s=60)
    await until_ready(server)
    for number in (1, 2):
        status, _, body = get(f"http://127.0.0.1:{base + number - 1}/metrics")
        assert status == 200
        assert f'node="n-{number}"' in body.decode()
    with upgrade(server):  # it does not answer the close frame, and the drain waits for it
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            while 503 not in [await ready_at(base), await ready_at(base + 1)]:
                pass
    # Its end of the connection is gone: nothing is waited for any more.
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0


async def test_a_port_is_shared_only_by_those_who_say_so(serve, redis_cluster):
    common = deployment(redis_cluster.url)
    first = serve(node="a", share_port=True, **common)
    second = serve(node="b", share_port=True, port=first.port, **common)
    assert second.port == first.port
    both = await on_each(first)
    assert sorted(both) == ["a", "b"]
    for ws in both.values():
        await enter(ws, ROOM)
    await say(both["a"], ROOM, "hello")
    assert [content for _, content in await hear(both["b"], ROOM, 1)] == ["hello"]
    ended = run(port=str(first.port), redis_url=redis_cluster.url)
    assert (ended.returncode, "another program has it" in ended.stderr) == (1, True)


def test_several_workers_without_redis_are_refused_in_one_line():
    ended = run("--workers", "2")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "REDIS_URL" in ended.stderr


def test_workers_that_cannot_start_end_the_command_with_the_reason(redis_cluster):
    ended = run(
        *("--workers", "2"), redis_url=redis_cluster.url, postgres_url="postgresql://nobody@127.0.0.1:9/none"
    )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("realtime: ")
    assert "127.0.0.1:9" in last
    assert "Traceback" not in ended.stderr


async def until_members(ws, room, *members):
    """Ask who is in a room until it is just them."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await ask(ws, type="presence", id="who", room=room)
            if sorted(answer["content"]["members"]) == sorted(members):
                return


async def until_cut(ws):
    """Read until the connection is gone, in whatever way."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await receive(ws)


async def ready_at(port):
    """Return the status of /ready; 0 where nobody listens any more, or only just did."""
    try:
        return (await asyncio.to_thread(get, f"http://127.0.0.1:{port}/ready"))[0]
    except (OSError, http.client.HTTPException):  # URLError is an OSError
        return 0


def run(*options, port="0", **settings):
    """Run a server that is to fail at its start, to its end."""
    names = {"redis_url": "REDIS_URL", "postgres_url": "POSTGRES_URL"}
    return subprocess.run(
        [sys.executable, "-m", "realtime", "serve", "--port", port, *options],
        cwd=ROOT,
        env=os.environ | {names[name]: value for name, value in settings.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
