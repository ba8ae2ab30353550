"""Owner commands between real workers: one dies, one stands still, and the counters go on without a break.

The servers run tests/counting.py, a feature whose rooms' owners keep counters in memory.
"""

import asyncio
import itertools
import os
import signal
import time
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.edge.peer import PATIENCE_S, ask
from tests.edge.workers import deployment, enter, greeted, labelled, on_node, worker_pids

ROOMS = [f"counter:{n}" for n in range(12)]
LEDGERS = [f"ledger:{n}" for n in range(12)]
OWNED_AGAIN_S = 2.5
SLACK_S = 1.0  # the machine's, which runs other tests beside

numbers = itertools.count(1)


async def add(ws, room, **fields):
    """Count one up; return the answer's content."""
    answer = await ask(ws, type="counter_add", id=next(numbers), room=room, **fields)
    return answer["content"]


async def added(ws, room):
    """Count one up, however often it has to be tried."""
    while "value" not in (content := await add(ws, room)):
        assert content["name"] in ("unavailable", "conflict"), content
    return content


async def steps(ws, room):
    """Return the room's history: every step, as its owner published it."""
    answer = await ask(ws, type="history", id=next(numbers), room=room, content={"limit": 100})
    return [push["content"] for push in answer["content"]["messages"]]


async def judge(ws, room):
    """No step is missing or there twice, and no owner wrote after a later one."""
    made = await steps(ws, room)
    assert [step["value"] for step in made] == list(range(1, len(made) + 1)), made
    fences = [step["fence"] for step in made]
    assert fences == sorted(fences), made


async def until_both(server, *nodes):
    """Wait until each of two nodes knows the other; a server that several share answers as any of them."""
    async with asyncio.timeout(PATIENCE_S):
        while not all([await labelled(server, node, "ring_workers") == 2 for node in nodes]):
            pass


class Pair:
    """Two workers, `a` and `b`, and a member on each; `rooms` are those that each owns."""

    def __init__(self, all_rooms, servers, members):
        self.all_rooms = all_rooms
        self.servers = servers
        self.members = members
        self.rooms = {"a": [], "b": []}

    async def settle(self):
        for room in self.all_rooms:
            for ws in self.members.values():
                await enter(ws, room)
            owner = (await added(self.members["a"], room))["worker"]
            self.rooms[owner[0]].append(room)
        assert all(self.rooms.values())


@pytest_asyncio.fixture
async def pair(serve, redis_cluster):
    async with started(serve, ROOMS, **deployment(redis_cluster.url)) as pair:
        yield pair


@pytest_asyncio.fixture
async def durable_pair(serve, redis_cluster, postgres):
    settings = deployment(redis_cluster.url, postgres_url=await postgres.new_database())
    async with started(serve, LEDGERS, **settings) as pair:
        yield pair


@asynccontextmanager
async def started(serve, rooms, **common):
    """A pair that serves."""
    servers = {name: serve("tests.counting", node=name, **common) for name in ("a", "b")}
    for name, server in servers.items():
        await until_both(server, name)
    members = {name: (await greeted(server, name))[0] for name, server in servers.items()}
    pair = Pair(rooms, servers, members)
    await pair.settle()
    yield pair
    for ws in members.values():
        await ws.close()


@pytest.mark.alone
async def test_a_dead_workers_rooms_are_owned_again_in_time(pair):
    pair.servers["a"].process.kill()
    died = time.monotonic()
    survivor = pair.members["b"]
    answers = [await added(survivor, room) for room in pair.rooms["a"]]
    took = time.monotonic() - died
    assert took < OWNED_AGAIN_S + SLACK_S
    assert {answer["worker"][0] for answer in answers} == {"b"}
    assert [answer["value"] for answer in answers] == [2] * len(answers)
    print(f"{len(answers)} rooms owned again {took:.2f} s after their owner's death")
    for room in ROOMS:
        await judge(survivor, room)


async def test_in_durable_rooms_nothing_of_a_dead_owner_is_lost_or_there_twice(durable_pair):
    pair, survivor = durable_pair, durable_pair.members["b"]
    rooms = pair.rooms["a"] * 4
    peers = [(await greeted(pair.servers["b"], "peer"))[0] for _ in rooms]
    for ws, room in zip(peers, rooms, strict=True):
        await enter(ws, room)
    under_way = [
        asyncio.ensure_future(add(ws, room, key=f"k{n}"))
        for n, (ws, room) in enumerate(zip(peers, rooms, strict=True))
    ]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    pair.servers["a"].process.kill()
    answers = await asyncio.gather(*under_way)
    for room in pair.all_rooms:
        await added(survivor, room)
        await judge(survivor, room)
        values = {step["value"] for step in await steps(survivor, room)}
        here = [answer for answer, its in zip(answers, rooms, strict=True) if its == room]
        got = [answer["value"] for answer in here if "value" in answer]
        assert len(got) == len(set(got))
        assert set(got) <= values
    print(f"{sum('value' in answer for answer in answers)} of {len(answers)} answered")
    for ws in peers:
        await ws.close()


async def test_an_owner_that_stood_still_wakes_without_its_rooms_and_writes_nothing_of_what_it_had_begun(
    pair,
):
    sleeper, other = pair.members["a"], pair.members["b"]
    rooms = pair.rooms["a"]
    # Some are half done when it stops: with their owner, in its socket, on their way to Redis.
    begun = asyncio.ensure_future(add(other, rooms[0]))
    for room in rooms:
        for _ in range(5):
            await sleeper.send(f'{{"type":"counter_add","room":"{room}","key":"{next(numbers)}"}}')
    os.kill(pair.servers["a"].pid, signal.SIGSTOP)
    try:
        await begun
        for room in rooms:
            for _ in range(3):
                assert (await added(other, room))["worker"][0] == "b"
    finally:
        os.kill(pair.servers["a"].pid, signal.SIGCONT)
    for room in rooms:
        assert (await added(sleeper, room))["value"] > 3
        await judge(sleeper, room)
        theirs = await steps(other, room)  # the last one may still be on its way there
        assert theirs == (await steps(sleeper, room))[: len(theirs)]


async def test_a_worker_that_leaves_gives_its_rooms_up_at_once(pair):
    survivor = pair.members["b"]
    leaving = asyncio.ensure_future(asyncio.to_thread(pair.servers["a"].stop))
    answers = [await added(survivor, room) for room in pair.rooms["a"] for _ in range(5)]
    assert await leaving == 0
    assert answers[-1]["worker"][0] == "b"
    for room in ROOMS:
        await judge(survivor, room)


@pytest.mark.alone
async def test_a_supervisors_worker_that_dies_is_buried_and_its_rooms_are_owned_without_the_ttl(
    serve, redis_cluster
):
    server = serve(
        "tests.counting", **deployment(redis_cluster.url, workers=2, node="n", ring_ttl_s=60, ring_beat_s=1)
    )
    await until_both(server, "n-1", "n-2")
    first, content = await greeted(server, "one")
    mine = content["node"]
    for room in ROOMS:
        await enter(first, room)
    owners = {room: (await added(first, room))["worker"] for room in ROOMS}
    dead = next(worker for worker in owners.values() if not worker.startswith(mine))
    number = int(dead.rsplit("-", 1)[0][-1])
    os.kill(worker_pids(server)[number], signal.SIGKILL)
    died = time.monotonic()
    for room in ROOMS:
        if owners[room] == dead:
            assert (await added(first, room))["value"] == 2
    assert time.monotonic() - died < OWNED_AGAIN_S + SLACK_S
    for room in ROOMS:
        await judge(first, room)
    back = await on_node(server, f"n-{number}", "two")
    for ws in (first, back):
        await ws.close()
