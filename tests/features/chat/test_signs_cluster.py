"""Signs over two workers, on a real Redis Cluster and PostgreSQL."""

import asyncio
import json

import pytest_asyncio

from tests.edge.peer import PATIENCE_S
from tests.edge.workers import deployment, labelled, until_ready
from tests.features.chat.signs_stage import QUICK, a_room, hang_up, make_members, person, postgres_place


@pytest_asyncio.fixture
async def two(serve, redis_cluster, postgres):
    """Two workers, and their database."""
    place, settings = await postgres_place(postgres)
    common = deployment(redis_cluster.url, **settings, **QUICK)
    servers = [serve(node=name, **common) for name in ("a", "b")]
    for server in servers:
        await until_ready(server)
    await both_known(servers)
    yield *servers, place
    await hang_up()


async def both_known(servers):
    """Wait until both workers know both."""
    async with asyncio.timeout(PATIENCE_S):
        for name, server in zip(("a", "b"), servers, strict=True):
            while await labelled(server, name, "ring_workers") != 2:
                pass


async def test_typing_crosses_workers_whoever_owns_the_room(two):
    a, b, _ = two
    for _ in range(4):
        room = a_room()
        alice, bob = await person(a, "alice"), await person(b, "bob")
        for each in (alice, bob):
            await each.join(room)
        for _ in range(20):
            await alice.ask("chat_typing", {}, room)
        assert (await bob.push("chat_typing"))["users"] == ["alice"]
        await alice.say(room)
        assert (await bob.push("chat_typing"))["users"] == []
        await bob.ask("chat_typing", {}, room)
        assert (await alice.push("chat_typing", lambda content: content["users"] == ["bob"]))["count"] == 1
        await bob.leave()
        assert (await alice.push("chat_typing"))["users"] == []


async def test_receipts_cross_workers_and_devices_agree(two):
    a, b, place = two
    room = a_room()
    await make_members(place, room, "bob", visibility="public")
    alice, bob = await person(a, "alice"), await person(b, "bob")
    phone = await person(a, "bob")  # of another worker, in no room
    for each in (alice, bob):
        await each.join(room)
    ids = [await alice.say(room, str(number)) for number in range(4)]
    reached = await bob.ask("chat_read_receipt", {"id": ids[1]}, room)
    told = {"user": "bob", **reached}
    assert await phone.push("chat_read_receipt") == told
    assert await alice.push("chat_read_receipt") == told
    (counted,) = (await phone.ask("chat_unread"))["rooms"]
    assert (counted["read_id"], counted["unread"]) == (ids[1], 2)
    await phone.join(room)
    await phone.ask("chat_read_receipt", {"id": ids[3]}, room)
    assert (await bob.push("chat_read_receipt", lambda content: content["id"] == ids[3]))["user"] == "bob"
    assert (await bob.ask("chat_read_receipt", {"id": ids[2]}, room))["id"] == ids[3]


async def test_who_becomes_invisible_on_one_worker_is_so_on_all(two):
    a, b, place = two
    room = a_room()
    await make_members(place, room, "alice", "bob", visibility="public")
    desk, phone, bob = await person(a, "alice"), await person(b, "alice"), await person(b, "bob")
    for each in (desk, phone, bob):
        await each.join(room)
    await desk.ask("chat_presence", {"status": "busy"})
    assert (await phone.push("chat_presence", lambda content: content["status"] == "busy"))["user"] == "alice"
    assert (await bob.push("chat_presence", lambda content: content["status"] == "busy"))["user"] == "alice"
    await desk.ask("chat_presence", {"status": "invisible"})
    left = await bob.push("chat_presence", lambda content: content["status"] == "offline")
    await phone.ask("chat_typing", {}, room)
    id = await bob.say(room)
    await phone.ask("chat_read_receipt", {"id": id}, room)
    await phone.leave()
    found = (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"]["alice"]
    assert {"user": "alice", **found} == left
    for type in ("chat_typing", "chat_read_receipt", "chat_presence"):
        assert await bob.pushes_until(type, room, bob) == []


async def test_a_user_is_gone_with_the_last_connection_to_any_worker(two):
    a, b, place = two
    room = a_room()
    await make_members(place, room, "alice", "bob", visibility="public")
    bob = await person(b, "bob")
    await bob.join(room)
    desk = await person(a, "alice")
    assert (await bob.push("chat_presence", lambda content: content["user"] == "alice"))["status"] == "online"
    phone = await person(b, "alice")
    await phone.ask("chat_unread")
    assert (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"] == {
        "alice": {"status": "online"}
    }
    await desk.leave()
    await phone.ask("chat_presence", {"status": "away"})
    assert [each["status"] for each in await bob.pushes_until("chat_presence", room, bob)] == ["away"]
    await phone.leave()
    gone = await bob.push("chat_presence")
    assert gone["status"] == "offline"
    assert "last_seen" in json.dumps(gone)


async def test_what_was_acked_is_found_when_the_worker_is_killed(two):
    a, b, place = two
    room = a_room()
    await make_members(place, room, "bob", visibility="public")
    alice, bob = await person(b, "alice"), await person(a, "bob")
    for each in (alice, bob):
        await each.join(room)
    ids = [await alice.say(room, str(number)) for number in range(3)]
    await bob.ask("chat_read_receipt", {"id": ids[1]}, room)
    a.kill()
    bob = await person(b, "bob")
    (counted,) = (await bob.ask("chat_unread"))["rooms"]
    assert (counted["read_id"], counted["unread"]) == (ids[1], 1)
    a.start()
