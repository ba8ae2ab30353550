"""`realtime upgrade` of workers that serve together: Redis and PostgreSQL stay, the ring does not move."""

import asyncio
import os
import re
import signal

import pytest

from tests.edge.peer import PATIENCE_S, ask, closed, get, receive
from tests.edge.test_handover import enter, hear, say, start, until  # noqa: F401 - a fixture
from tests.edge.workers import deployment, until_ready

ROOM = "events:all"
DURABLE = "playlist:all"


async def test_a_worker_of_a_cluster_goes_on_as_the_same_one(start, redis_node, postgres):  # noqa: F811
    server = start(node="n", postgres_url=await postgres.new_database(), **deployment(redis_node.url))
    await until_ready(server)
    alice, joined = await enter(server, room=DURABLE)
    bob, _ = await enter(server, "bob", DURABLE)
    carol, _ = await enter(server, "carol", DURABLE)
    before = get(f"{server.url}/metrics")[2].decode()
    for number in range(1, 4):
        assert (await say(alice, str(number), DURABLE))["offset"] == number
        assert await server.upgraded() == (3, 1)
    assert await say(bob, "4", DURABLE) == {"offset": 4, "epoch": joined["epoch"]}
    assert await hear(carol, 4) == [(number, str(number)) for number in range(1, 5)]
    after = get(f"{server.url}/metrics")[2].decode()
    for name in ("realtime_ring_version", "realtime_ring_workers", "realtime_ring_owned_slots"):
        assert _line(before, name) == _line(after, name)
    present = await ask(bob, type="presence", id="p", room=DURABLE)
    assert sorted(present["content"]["members"]) == ["alice", "bob", "carol"]


async def test_other_workers_notice_nothing(start, redis_node):  # noqa: F811
    one_deployment = deployment(redis_node.url)
    server = start(node="one", presence_grace_s=10, **one_deployment)
    other = start(node="two", presence_grace_s=10, **one_deployment)
    await until_ready(server)
    await until_ready(other)
    alice, _ = await enter(server)
    bob, _ = await enter(other, "bob")
    async with asyncio.timeout(PATIENCE_S):
        while "alice" not in (await ask(bob, type="presence", id="p", room=ROOM))["content"]["members"]:
            pass
    heard, texts = 0, []

    async def listen():
        while True:
            if "offset" in (said := await receive(alice)):
                texts.append((said["offset"], said["content"]["t"]))

    listening = asyncio.ensure_future(listen())
    for _ in range(2):
        going = asyncio.ensure_future(server.upgraded())
        while not going.done():
            heard += 1
            await say(bob, str(heard))
        assert await going == (1, 1)
    await until(lambda: len(texts) >= heard)
    listening.cancel()
    assert texts == [(place, str(place)) for place in range(1, heard + 1)]
    present = await ask(bob, type="presence", id="q", room=ROOM)
    assert sorted(present["content"]["members"]) == ["alice", "bob"]
    await enter(other, "dave")
    while "dave" not in (said := await receive(bob)).get("content", {}).get("joined", ()):
        assert not said.get("content", {}).get("left"), said


@pytest.mark.parametrize("workers", [3])
async def test_worker_after_worker_is_replaced_and_then_the_supervisor(start, redis_cluster, workers):  # noqa: F811
    server = start(workers=workers, node="n", **deployment(redis_cluster.url))
    await until_ready(server)
    clients = [(await enter(server, f"u{number}"))[0] for number in range(30)]
    code, said = await server.upgrade("--no-shed")  # so few are never even
    assert code == 0, f"{said}\n{server.whole_log()}"
    moved = [int(count) for count in re.findall(r"serves: (\d+) connections", said)]
    assert len(moved) == workers
    assert sum(moved) == 30
    server.serving = server.process.pid
    await asyncio.to_thread(server.wait_for_line, "the supervisor goes on", timeout_s=60.0)
    for number, ws in enumerate(clients[1:], start=1):
        await say(ws, str(number))
    assert await hear(clients[0], 29) == [(place, str(place)) for place in range(1, 30)]
    code, said = await server.upgrade("--no-shed")
    assert code == 0, f"{said}\n{server.whole_log()}"
    server.serving = server.process.pid
    os.kill(server.pid, signal.SIGTERM)  # while it becomes the new program, or just before or after
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    for ws in clients:
        assert (await closed(ws))[0] == 1012


def _line(text, name):
    return re.search(rf"^{name}\{{[^}}]*\}} (.*)$", text, re.M)[1]
