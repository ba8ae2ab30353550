"""What may be read, by SQL and by rule; what another owner has changed; what is still to be told."""

import json
import random

import pytest_asyncio

from realtime.core.database import Statement
from realtime.features import chat
from realtime.features.chat.rooms import changes, tables
from realtime.features.chat.rooms.changes import Change
from realtime.features.chat.rooms.readable import readable
from realtime.features.chat.rooms.state import Role, Standing, may_enter
from realtime.features.chat.rules import is_hidden
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName, UserId
from tests.features.chat.rooming import Person
from tests.features.chat.test_rooms import people, place, start  # noqa: F401 - fixtures

NOW_MS = 1_000_000


@pytest_asyncio.fixture
async def database(place):  # noqa: F811
    store = await place.open()
    await store.migrate("chat", chat.FEATURE.migrations)
    yield store.tables
    await store.close()


def at(name: str) -> RoomId:
    return RoomId(DEFAULT_TENANT, RoomName(name))


async def make(database, room, **columns):
    """Write a room as a change would, and return it."""
    state, _ = await tables.look(database, room, UserId(""))
    assert await changes.write(database, room, state, Change(columns=columns), NOW_MS) is not None
    return state


async def test_what_is_readable_is_what_one_may_enter(database):
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    users = [UserId(f"u{n}") for n in range(4)]
    names = [f"chat:{prefix}{n}" for n in range(30) for prefix in ("", "~")] + ["user:u1"]
    for tenant in ("default", "other"):
        for name in names:
            if dice.random() < 0.8:
                await database.write(
                    Statement("INSERT INTO rooms (tenant, name) VALUES ($1, $2)", (tenant, name))
                )
    for number, _, _ in await database.read("SELECT id, tenant, name FROM rooms"):
        if dice.random() < 0.7:
            visibility = dice.choice(["public", "private", "direct", "deleted"])
            values = number, visibility, dice.choice([0, 5])
            await database.write(
                Statement("INSERT INTO chat_rooms (room, visibility, created_ms) VALUES ($1, $2, $3)", values)
            )
        for user in users:
            if dice.random() < 0.4:
                banned = dice.choice([0, 0, NOW_MS, NOW_MS - 1, NOW_MS + 1])
                values = number, user, int(dice.choice(list(Role))), banned
                insert = "INSERT INTO chat_members (room, user_id, role, banned_until_ms)"
                await database.write(Statement(f"{insert} VALUES ($1, $2, $3, $4)", values))
    compared = 0
    for open_rooms in (True, False):
        for user in users:
            sql = f"SELECT r.name AS name FROM rooms r WHERE {readable('r.id')}"
            found = {name for (name,) in await database.read(sql, "default", user, NOW_MS, int(open_rooms))}
            kept = await database.read("SELECT name FROM rooms WHERE tenant = $1", "default")
            for (name,) in kept:
                room, standing = await tables.look(database, at(name), user)
                rule = may_enter(room, standing, NOW_MS, open_rooms=open_rooms, hidden=is_hidden(name))
                assert (name in found) is (rule and name.startswith("chat:")), (name, user, room, standing)
                compared += 1
    assert compared > 100


async def test_an_owner_of_before_overwrites_nothing(database):
    room = at("chat:a")
    known = await make(database, room, title="one")
    old, _ = await tables.look(database, room, UserId(""))
    assert (known.number, known.version, known.title) == (old.number, old.version, "one")
    assert await changes.write(database, room, known, Change(columns={"title": "two"}), NOW_MS) is not None
    late = Change(
        columns={"title": "late"},
        standings={UserId("u"): Standing(role=Role.OWNER)},
        invites={UserId("v"): changes.Invite(UserId("u"), Role.MEMBER)},
        notices=[{"event": "late"}],
    )
    assert await changes.write(database, room, old, late, NOW_MS) is None
    found, standing = await tables.look(database, room, UserId("u"))
    assert (found.title, standing.role, old.title) == ("two", Role.NONE, "one")
    assert await changes.pending(database, found.number) == []
    assert await database.read("SELECT room FROM chat_invites") == []


async def test_one_of_two_who_create_a_room_at_once_has_it(database):
    room = at("chat:a")
    states = [(await tables.look(database, room, UserId("")))[0] for _ in range(2)]
    made = [
        await changes.write(database, room, state, Change(columns={"title": title}), NOW_MS)
        for state, title in zip(states, ("one", "two"), strict=True)
    ]
    assert made == [[], None]
    assert (await tables.look(database, room, UserId("")))[0].title == "one"


async def test_members_are_counted_whoever_writes_them(database):
    room = at("chat:a")
    known = await make(database, room)
    user, other = UserId("u"), UserId("v")
    for standings, count in (
        ({user: Standing(role=Role.OWNER), other: Standing(role=Role.READER)}, 2),
        ({user: Standing(role=Role.MEMBER)}, 2),
        ({user: Standing(banned_until_ms=5)}, 1),
        ({user: Standing(), other: Standing()}, 0),
    ):
        await changes.write(database, room, known, Change(standings=standings), NOW_MS)
        assert (await tables.look(database, room, user))[0].members == count
    assert await database.read("SELECT user_id FROM chat_members") == []


async def test_what_a_crash_left_untold_is_told_once_by_the_next_owner(start, place):  # noqa: F811
    server = start()
    alice, bob = await Person.come(server, "alice"), await Person.come(server, "bob")
    await alice.do("chat_room_create", name="a")
    await bob.do("join", "chat:a")
    for each in (alice, bob):
        await each.close()
    server.stop()
    store = await place.open()
    room = at("chat:a")
    state, standing = await tables.look(store.tables, room, UserId("bob"))
    standing.banned_until_ms = 2**50
    change = Change(
        standings={UserId("bob"): standing},
        notices=[{"event": "banned", "by": "alice", "user": "bob"}],
        review=[UserId("bob")],
    )
    assert len(await changes.write(store.tables, room, state, change, NOW_MS)) == 1
    await store.close()
    server.start()
    alice = await Person.come(server, "alice")
    await alice.do("join", "chat:a")
    await alice.do("chat_message", "chat:a", text="anybody?")
    await alice.until("chat_notice", event="banned")
    while await place.execute("SELECT room FROM chat_notices"):
        await alice.ask("ping")
    history = (await alice.do("history", "chat:a"))["messages"]
    told = [json.dumps(push["content"]) for push in history if push["type"] == "chat_notice"]
    assert len(told) == len(set(told)) == 2
    await alice.close()
