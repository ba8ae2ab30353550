"""Who is in a room of two real workers on a real Redis Cluster, when connections break and workers die."""

import asyncio
import json
import time

import pytest

from realtime.backends.redis_client.contract import slot_of
from tests.edge.peer import PATIENCE_S, ask, receive
from tests.edge.workers import deployment, enter, greeted, until_ready

ROOM = "chat:lobby"
GRACE_S = 2.5
RING_TTL_S = 1.5


@pytest.fixture
async def servers(serve, redis_cluster):
    """Two servers that are one deployment of their own."""
    settings = deployment(redis_cluster.url, presence_grace_s=GRACE_S, ring_ttl_s=RING_TTL_S)
    both = serve(node="a", **settings), serve(node="b", **settings)
    for server in both:
        await until_ready(server)
    return both


@pytest.fixture
async def member():
    """Connect to a server as a user and join; return the connection, and who was there."""
    connected = []

    async def enters(server, user):
        ws, _ = await greeted(server, user)
        connected.append(ws)
        return ws, (await enter(ws, ROOM))["members"]

    yield enters
    for ws in connected:  # or the servers would wait for their closing handshakes
        ws.transport.abort()


async def told(ws, *, joined=(), left=()):
    """Read the news of who is here until all of these have been told; return what was told, and when."""
    wanted, found = (set(joined), set(left)), ([], [])
    while not (wanted[0] <= set(found[0]) and wanted[1] <= set(found[1])):
        push = await receive(ws)
        if push["type"] == "presence":
            found[0].extend(push["content"].get("joined", ()))
            found[1].extend(push["content"].get("left", ()))
    return *found, time.monotonic()


async def here(ws):
    """Ask who is here; news that come meanwhile are lost."""
    return sorted((await ask(ws, type="presence", id="who", room=ROOM))["content"]["members"])


async def test_members_of_both_workers_are_one_list_and_a_leave_is_told_to_all(servers, member):
    alice, _ = await member(servers[0], "alice")
    bob, _ = await member(servers[1], "bob")
    await told(alice, joined=["bob"])
    async with asyncio.timeout(PATIENCE_S):
        while await here(bob) != ["alice", "bob"]:
            pass  # what his worker knows of hers it has from her worker's last beat
    assert await here(bob) == await here(alice) == ["alice", "bob"]
    left_at = time.monotonic()
    await ask(bob, type="leave", id="leave", room=ROOM)
    joined, left, when = await told(alice, left=["bob"])
    assert (joined, left) == ([], ["bob"])
    assert when - left_at < GRACE_S


async def test_who_lost_the_connection_and_comes_back_on_the_other_worker_was_never_gone(servers, member):
    alice, _ = await member(servers[0], "alice")
    watcher, _ = await member(servers[1], "watcher")
    bob, _ = await member(servers[0], "bob")
    await told(alice, joined=["watcher", "bob"])
    await told(watcher, joined=["bob"])
    bob.transport.abort()
    back, members = await member(servers[1], "bob")
    assert "bob" in members
    carol, _ = await member(servers[0], "carol")
    carol.transport.abort()
    for ws in (alice, watcher):  # carol's end is behind all that could have been told of bob
        joined, left, _ = await told(ws, joined=["carol"], left=["carol"])
        assert (joined, left) == (["carol"], ["carol"])
        assert await here(ws) == ["alice", "bob", "watcher"]
    assert await here(back) == ["alice", "bob", "watcher"]


async def test_users_of_a_worker_that_was_killed_are_gone_after_the_grace_period(servers, member):
    alice, _ = await member(servers[0], "alice")
    for user in ("bob", "carol"):
        await member(servers[1], user)
    await told(alice, joined=["bob", "carol"])
    killed_at = time.monotonic()
    servers[1].kill()
    back, members = await member(servers[0], "carol")
    assert sorted(members) == ["alice", "bob", "carol"]
    joined, left, when = await told(alice, left=["bob"])
    assert (joined, left) == ([], ["bob"])
    assert GRACE_S < when - killed_at < RING_TTL_S + GRACE_S + 3
    assert await here(alice) == await here(back) == ["alice", "carol"]


async def test_when_a_worker_is_told_to_end_its_users_have_the_grace_period_to_come_back(servers, member):
    alice, _ = await member(servers[0], "alice")
    for user in ("bob", "carol"):
        await member(servers[1], user)
    await told(alice, joined=["bob", "carol"])
    ended_at = time.monotonic()
    assert await asyncio.to_thread(servers[1].stop) == 0
    back, _ = await member(servers[0], "bob")
    joined, left, when = await told(alice, left=["carol"])
    assert (joined, left) == ([], ["carol"])
    assert GRACE_S - 0.1 < when - ended_at < 2 * GRACE_S + RING_TTL_S
    await back.send(json.dumps({"type": "leave", "room": ROOM}))
    joined, left, _ = await told(alice, left=["bob"])
    assert (joined, left) == ([], ["bob"])


async def test_when_the_rooms_redis_master_dies_nobody_is_told_as_gone(serve, own_redis_cluster, member):
    settings = deployment(own_redis_cluster.url, presence_grace_s=GRACE_S)
    first, second = serve(node="a", **settings), serve(node="b", **settings)
    for server in (first, second):
        await until_ready(server)
    alice, _ = await member(first, "alice")
    bob, _ = await member(second, "bob")
    await told(alice, joined=["bob"])
    slot = slot_of(f"{settings['redis_prefix']}:{{default/{ROOM}}}".encode())
    await asyncio.to_thread(own_redis_cluster.master_of(slot).kill)
    for ws in (alice, bob):
        while (await receive(ws))["type"] != "gap":  # the replica has taken over, with a new epoch
            pass
    await member(second, "carol")
    joined, left, _ = await told(alice, joined=["carol"])
    assert (joined, left) == (["carol"], [])
    assert await here(alice) == ["alice", "bob", "carol"]
