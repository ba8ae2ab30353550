"""Rooms on two workers, with Redis and PostgreSQL: what is decided on one holds on the other at once."""

import asyncio
import os
import signal
import uuid

import pytest
import pytest_asyncio

from tests.edge.peer import PATIENCE_S
from tests.edge.workers import deployment, hang_up, on_node, until_ready, worker_pids  # noqa: F401
from tests.features.chat.rooming import Person

GONE = ("forbidden", "you may not join this room")


@pytest_asyncio.fixture
async def server(serve, redis_node, postgres):
    settings = deployment(redis_node.url, postgres_url=await postgres.new_database(), errors_burst=10_000)
    server = serve(workers=2, node="n", **settings)
    await until_ready(server)
    return server


async def at(server, number, user):
    return Person(await on_node(server, f"n-{number}", user), user)


@pytest.fixture
def name():
    return f"r{uuid.uuid4().hex[:8]}"


async def test_who_is_banned_on_one_worker_is_put_out_on_the_other(server):
    alice, bob, bobs_phone = (
        await at(server, 1, "alice"),
        await at(server, 2, "bob"),
        await at(server, 1, "bob"),
    )
    for n in range(4):  # rooms that this worker owns, and rooms that the other one does
        await alice.do("chat_room_create", name=f"r{n}")
        room = f"chat:r{n}"
        for bobs in (bob, bobs_phone):
            await bobs.do("join", room)
        await alice.do("chat_ban", room, user="bob")
        for bobs in (bob, bobs_phone):
            assert (await bobs.until("left"))["room"] == room
            assert await bobs.fail("join", room) == GONE
            assert (await bobs.fail("chat_message", room, text="hi"))[0] == "not_joined"


async def test_of_many_who_create_one_name_at_once_one_has_it(server, name):
    people = [await at(server, 1 + n % 2, f"u{n}") for n in range(6)]
    answers = await asyncio.gather(*(each.ask("chat_room_create", name=name) for each in people))
    won = [each.user for each, answer in zip(people, answers, strict=True) if answer["type"] == "ack"]
    assert len(won) == 1
    assert {a["content"]["name"] for a in answers if a["type"] == "error"} == {"conflict"}
    members = (await people[0].do("chat_members", f"chat:{name}"))["members"]
    assert [(each["user"], each["role"]) for each in members] == [(won[0], "owner")]


async def opened(person, user):
    """Open a direct room; return the answer, and whether it is the first: a worker that got no time to beat
    is nobody's owner for a moment.
    """
    sure = True
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await person.ask("chat_direct", users=[user]))["type"] == "error":
            assert answer["content"]["name"] == "unavailable", answer
            sure = False
    return answer["content"], sure


async def test_a_direct_room_that_both_open_at_once_is_one(server):
    alice, bob = await at(server, 1, "alice"), await at(server, 2, "bob")
    (one, sure), (two, too) = await asyncio.gather(opened(alice, "bob"), opened(bob, "alice"))
    assert one["room"] == two["room"]
    # While the ring changes two workers may take themselves for the owner; the room is one nevertheless.
    assert one["created"] or two["created"] or not (sure and too)
    await alice.do("join", one["room"])
    await bob.do("join", one["room"])
    await alice.do("chat_message", one["room"], text="hi")
    await bob.until("chat_message", text="hi")
    eve = await at(server, 2, "eve")
    for type, content in (("join", {}), ("chat_room", {}), ("chat_ban", {"user": "bob"}), ("chat_enter", {})):
        assert await eve.fail(type, one["room"], **content) == GONE


async def test_a_deleted_room_puts_out_everybody_everywhere(server, name):
    alice, bob = await at(server, 1, "alice"), await at(server, 2, "bob")
    await alice.do("chat_room_create", name=name)
    room = f"chat:{name}"
    await bob.do("join", room)
    await bob.do("chat_message", room, text="hi")
    await alice.do("chat_room_delete", room)
    await bob.until("left")
    for each in (alice, bob):
        assert await each.fail("join", room) == GONE


async def test_what_a_killed_owner_has_answered_holds_under_the_next(server, name):
    """Whichever worker owns a room: kill one, and everybody banned stays out."""
    alice = await at(server, 1, "alice")
    rooms = [f"chat:{name}-{n}" for n in range(6)]
    for room in rooms:
        await alice.do("chat_room_create", name=room.removeprefix("chat:"))
        await alice.do("chat_ban", room, user="bob")
        await alice.do("chat_mute", room, user="carol", for_s=600)
    carol, bob = await at(server, 1, "carol"), await at(server, 1, "bob")
    os.kill(worker_pids(server)[2], signal.SIGKILL)
    async with asyncio.timeout(3 * PATIENCE_S):
        for room in rooms:
            assert await bob.fail("join", room) == GONE
            while (await carol.ask("join", room))["type"] != "joined":
                continue
            while (answer := await carol.fail("chat_message", room, text="hi"))[0] == "unavailable":
                continue
            assert answer[1].startswith("you are muted")
            await alice.do("chat_room_update", room, topic="after")
    await until_ready(server)
