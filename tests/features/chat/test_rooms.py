"""Rooms and members through real servers, on both stores."""

import asyncio
import json
import os
import subprocess
import sys

import pytest_asyncio

from tests.conftest import ROOT
from tests.contract.stores import PostgresPlace, SqlitePlace
from tests.edge.peer import KEY, PATIENCE_S, bearer, token
from tests.features.chat.rooming import Person

GONE = ("forbidden", "you may not join this room")


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def place(request, tmp_path):
    """Where rooms are kept."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    return PostgresPlace(await request.getfixturevalue("postgres").new_database())


@pytest_asyncio.fixture
async def start(serve, place):
    """Start servers that keep rooms there."""
    if place.dialect == "sqlite":
        return lambda **settings: serve(sqlite_path=str(place.path), **settings)
    return lambda **settings: serve(postgres_url=place.url, **settings)


@pytest_asyncio.fixture
async def people(start):
    """Return what lets people come to a server; all go at the end."""
    there = []
    server = None

    async def come(*users, **settings):
        nonlocal server
        server = server or start(errors_burst=10_000, **settings)
        come.server = server
        there.extend([await Person.come(server, user) for user in users])
        return there[-len(users) :] if len(users) > 1 else there[-1]

    yield come
    for each in there:
        await each.close()


async def private(owner, *members, **content):
    """Create a private room; return its name."""
    made = await owner.do("chat_room_create", visibility="private", members=members, **content)
    return made["room"]


async def events(person, room):
    """The events of a room's notices, with whom they were about."""
    page = await person.do("history", room, limit=100)
    notices = [push for push in page["messages"] if push["type"] == "chat_notice"]
    assert [push for push in notices if "from" in push] == []
    return [(push["content"]["event"], push["content"].get("user")) for push in notices]


async def test_a_public_room_is_created_described_found_and_talked_in(people):
    alice, bob = await people("alice", "bob")
    made = await alice.do("chat_room_create", title="Lunch", topic="what to eat", name="lunch")
    assert made == {"room": "chat:lunch", "title": "Lunch", "visibility": "public", "role": "owner"}
    found = await bob.do("chat_room", "chat:lunch")
    assert (found["members"], found["role"], found["title"]) == (1, "none", "Lunch")
    assert await bob.do("chat_enter", "chat:lunch") == {}
    assert await bob.do("chat_enter", "chat:lunch") == {}
    found = await bob.do("chat_room", "chat:lunch")
    assert (found["members"], found["role"], found["archived"]) == (2, "member", False)
    assert found["created"].endswith("Z")
    await bob.do("join", "chat:lunch")
    await bob.do("chat_message", "chat:lunch", text="soup?")
    assert await events(bob, "chat:lunch") == [("created", None), ("joined", None)]
    await alice.do("join", "chat:lunch")
    await alice.do("chat_message", "chat:lunch", text="no")
    assert (await bob.do("chat_room", "chat:lunch"))["unread"] == 1
    (listed,) = (await bob.do("chat_rooms", mine=True))["rooms"]
    assert (listed["room"], listed["unread"]) == ("chat:lunch", 1)
    listed = (await bob.do("chat_members", "chat:lunch"))["members"]
    assert [(each["user"], each["role"]) for each in listed] == [("alice", "owner"), ("bob", "member")]
    await bob.do("chat_quit", "chat:lunch")
    assert (await bob.fail("chat_quit", "chat:lunch"))[0] == "forbidden"
    assert (await alice.do("chat_room", "chat:lunch"))["members"] == 1


async def test_a_name_is_given_once(people):
    alice, bob = await people("alice", "bob")
    await alice.do("chat_room_create", name="one")
    assert (await bob.fail("chat_room_create", name="one"))[0] == "conflict"
    await alice.do("chat_room_delete", "chat:one")
    assert (await alice.fail("chat_room_create", name="one"))[0] == "conflict"
    for wrong in (
        {"name": "~x"},
        {"name": "x", "visibility": "private"},
        {"title": "x" * 121},
        {"name": " "},
    ):
        assert (await alice.fail("chat_room_create", **wrong))[0] == "bad_message", wrong


async def test_a_repeat_with_its_key_creates_no_second_room(people):
    alice, bob = await people("alice", "bob")
    one = await alice.do("chat_room_create", visibility="private", title="once", key="k1")
    again = await alice.do("chat_room_create", visibility="private", title="once", key="k1")
    assert again == one | {"duplicate": True}
    assert (await alice.do("chat_room_create", visibility="private", key="k2"))["room"] != one["room"]
    assert (await bob.do("chat_room_create", visibility="private", key="k1"))["room"] != one["room"]
    await alice.do("chat_room_delete", one["room"])
    assert (await alice.fail("chat_room_create", visibility="private", key="k1"))[0] == "conflict"


async def test_what_others_may_not_see_is_answered_as_what_is_not_there(people):
    alice, eve = await people("alice", "eve")
    room = await private(alice, "bob", title="secret", topic="plans")
    await alice.do("join", room)
    await alice.do("chat_message", room, text="hush")
    absent = room[:-4] + ("0000" if room[-4:] != "0000" else "1111")
    gone = await private(alice)
    await alice.do("chat_room_delete", gone)
    asked = [
        ("join", {}),
        ("leave", {}),
        ("history", {}),
        ("presence", {}),
        ("chat_message", {"text": "hi"}),
        ("chat_room", {}),
        ("chat_members", {}),
        ("chat_members", {"banned": True}),
        ("chat_room_update", {"title": "x"}),
        ("chat_room_archive", {}),
        ("chat_room_delete", {}),
        ("chat_invite", {"user": "eve"}),
        ("chat_accept", {}),
        ("chat_decline", {}),
        ("chat_enter", {}),
        ("chat_quit", {}),
        ("chat_role", {"user": "alice", "role": "reader"}),
        ("chat_remove", {"user": "alice"}),
        ("chat_ban", {"user": "alice"}),
        ("chat_unban", {"user": "alice"}),
        ("chat_mute", {"user": "alice", "for_s": 5}),
        ("chat_unmute", {"user": "alice"}),
        ("chat_room_make", {}),
    ]
    answers = {}
    for name in (room, absent, gone):
        for type, content in asked:
            answer = await eve.ask(type, name, **content)
            assert answer["type"] == "error", answer
            said = {key: value for key, value in answer.items() if key not in ("id", "timestamp")}
            answers.setdefault((type, str(content)), []).append(str(said).replace(name, "ROOM"))
    assert [which for which, said in answers.items() if len(set(said)) > 1] == []
    for question in ("chat_enter", "chat_room", "chat_ban"):
        said = [each for which, each in answers.items() if which[0] == question]
        assert "you may not join this room" in said[0][0]
    assert (await eve.do("chat_rooms", query="secret"))["rooms"] == []
    assert [each["room"] for each in (await eve.do("chat_rooms"))["rooms"]] == []
    assert (await alice.do("chat_rooms", query="PLANS"))["rooms"][0]["room"] == room


async def test_a_direct_room_is_the_same_from_all_sides(people):
    alice, bob, eve = await people("alice", "bob", "eve")
    one = await alice.do("chat_direct", users=["bob"])
    told = await bob.until("notification", title="alice")
    assert told["content"]["data"] == {"chat": "added", "room": one["room"], "by": "alice"}
    other = await bob.do("chat_direct", users=["alice", "bob"])
    assert (one["room"], one["created"], other["created"]) == (other["room"], True, False)
    room = one["room"]
    await bob.do("join", room)
    assert await eve.fail("join", room) == GONE
    for type, content in (
        ("chat_invite", {"user": "eve"}),
        ("chat_role", {"user": "alice", "role": "reader"}),
        ("chat_ban", {"user": "alice"}),
        ("chat_room_delete", {}),
        ("chat_room_update", {"visibility": "public"}),
    ):
        assert (await bob.fail(type, room, **content))[0] == "forbidden", type
    group = await alice.do("chat_direct", users=["eve", "bob"])
    assert group["room"] != room
    assert (await eve.do("chat_direct", users=["bob", "alice", "alice"]))["room"] == group["room"]
    await bob.do("chat_quit", room)
    assert await bob.fail("join", room) == GONE
    assert await alice.do("chat_direct", users=["bob"]) == {"room": room, "created": False}
    await bob.do("join", room)
    for users in ([], ["alice"], [f"u{n}" for n in range(10)]):
        assert (await alice.fail("chat_direct", users=users))[0] == "bad_message"


async def test_nobody_comes_into_a_private_room_but_by_an_invite(people):
    alice, bob, carol = await people("alice", "bob", "carol")
    room = await private(alice, "dora", title="Plans")
    assert await bob.fail("chat_enter", room) == GONE
    await alice.do("chat_invite", room, user="bob")
    told = await bob.until("notification", title="Plans")
    assert told["content"]["data"]["chat"] == "invited"
    (invite,) = (await bob.do("chat_invites"))["invites"]
    assert (invite["room"], invite["title"], invite["by"]) == (room, "Plans", "alice")
    assert await bob.fail("join", room) == GONE
    await bob.do("chat_accept", room)
    assert (await bob.do("chat_invites"))["invites"] == []
    await bob.do("join", room)
    await bob.do("chat_invite", room, user="carol")
    assert (await bob.fail("chat_invite", room, user="carol", role="moderator"))[0] == "forbidden"
    await carol.do("chat_decline", room)
    assert await carol.fail("chat_accept", room) == GONE
    await bob.do("chat_invite", room, user="carol", role="reader")
    await alice.do("chat_remove", room, user="carol")
    assert await carol.fail("chat_accept", room) == GONE
    assert await events(bob, room) == [
        ("created", None),
        ("invited", "bob"),
        ("joined", None),
        ("invited", "carol"),
        ("invited", "carol"),
    ]
    await alice.do("chat_remove", room, user="bob")
    assert (await bob.until("left"))["room"] == room
    assert await bob.fail("join", room) == GONE


async def test_roles_decide_and_nobody_acts_on_who_is_above_or_equal(people):
    alice, bob, _, dora = await people("alice", "bob", "carol", "dora")
    room = await private(alice, "bob", "carol", "dora")
    await alice.do("chat_role", room, user="bob", role="moderator")
    await alice.do("chat_role", room, user="carol", role="moderator")
    await alice.do("chat_role", room, user="dora", role="reader")
    for type, content in (
        ("chat_ban", {"user": "alice"}),
        ("chat_remove", {"user": "carol"}),
        ("chat_mute", {"user": "bob", "for_s": 5}),
        ("chat_role", {"user": "carol", "role": "reader"}),
        ("chat_role", {"user": "dora", "role": "moderator"}),
        ("chat_role", {"user": "bob", "role": "owner"}),
        ("chat_role", {"user": "nobody", "role": "member"}),
        ("chat_room_update", {"retention_s": 60}),
        ("chat_room_update", {"visibility": "public"}),
        ("chat_room_delete", {}),
    ):
        assert (await bob.fail(type, room, **content))[0] == "forbidden", (type, content)
    await bob.do("chat_role", room, user="dora", role="member")
    await bob.do("chat_room_update", room, title="ours", slow_s=60)
    await bob.do("chat_room_archive", room)
    await dora.do("join", room)
    assert (await dora.fail("chat_message", room, text="hi"))[1].startswith("this room is archived")
    await bob.do("chat_room_archive", room, archived=False)
    await dora.do("chat_message", room, text="hi")
    assert (await dora.fail("chat_message", room, text="hi"))[0] == "rate_limited"
    for type, content in (("chat_mute", {"user": "bob", "for_s": 5}), ("chat_room_update", {"topic": "x"})):
        assert (await dora.fail(type, room, **content))[0] == "forbidden"
    assert (await alice.fail("chat_quit", room))[1].startswith("you are the last owner")
    assert (await alice.fail("chat_role", room, user="alice", role="member"))[1].startswith(
        "you are the last"
    )
    await alice.do("chat_role", room, user="bob", role="owner")
    assert (await alice.fail("chat_ban", room, user="bob"))[0] == "forbidden"
    await alice.do("chat_quit", room)
    assert (await bob.do("chat_room", room))["role"] == "owner"


async def test_mutes_and_bans_hold_and_end(people):
    alice, bob = await people("alice", "bob")
    await alice.do("chat_room_create", name="loud")
    room = "chat:loud"
    await bob.do("join", room)
    await alice.do("chat_mute", room, user="bob", for_s=100)
    assert (await bob.fail("chat_message", room, text="hi"))[1].startswith("you are muted")
    await alice.do("chat_unmute", room, user="bob")
    await bob.do("chat_message", room, text="hi")
    await alice.do("chat_ban", room, user="bob", reason="noise")
    assert (await bob.until("left"))["content"] == {"reason": "forbidden"}
    for type in ("join", "chat_enter", "chat_room", "chat_members"):
        assert await bob.fail(type, room) == GONE
    assert (await alice.fail("chat_invite", room, user="bob"))[0] == "forbidden"
    (banned,) = (await alice.do("chat_members", room, banned=True))["members"]
    assert banned["user"] == "bob"
    assert (await bob.do("chat_rooms"))["rooms"] == []
    await alice.do("chat_unban", room, user="bob")
    await bob.do("join", room)


async def test_a_room_that_becomes_private_puts_out_who_is_no_member(people):
    alice, bob, carol = await people("alice", "bob", "carol")
    await alice.do("chat_room_create", name="open", members=["bob"])
    await bob.do("join", "chat:open")
    await carol.do("join", "chat:open")
    await alice.do("chat_room_update", "chat:open", visibility="private")
    await carol.until("left")
    assert await carol.fail("chat_room", "chat:open") == GONE
    await bob.do("chat_message", "chat:open", text="still here")


async def test_a_deleted_room_is_gone_with_what_was_said_and_its_order_goes_on(people, place):
    alice, bob = await people("alice", "bob")
    room = await private(alice, "bob", title="doomed")
    await bob.do("join", room)
    for n in range(5):
        last = (await bob.do("chat_message", room, text=f"secret {n}"))["offset"]
    await alice.do("chat_room_delete", room)
    await bob.until("left")
    assert await alice.fail("join", room) == GONE
    assert (await bob.fail("chat_message", room, text="hi"))[0] == "not_joined"
    assert (await alice.do("chat_rooms", mine=True))["rooms"] == []
    async with asyncio.timeout(PATIENCE_S):
        while not await place.execute("SELECT room FROM chat_rooms WHERE erased_ms > 0"):
            await alice.ask("ping")
    where = f"FROM rooms r JOIN {{}} x ON x.room = r.id WHERE r.name = '{room}'"
    left = await place.execute(f'SELECT "offset", push {where.format("publications")}')
    assert [offset for offset, _ in left] == [last + 1]
    assert b"deleted" in left[0][1]
    for table in ("chat_messages", "chat_members", "chat_invites", "chat_notices"):
        assert await place.execute(f"SELECT 1 {where.format(table)}") == [], table
    assert await place.execute(f"SELECT title, members {where.format('chat_rooms')}") == [("", 0)]


async def test_rooms_outlive_a_crash(people):
    alice, bob = await people("alice", "bob")
    room = await private(alice, "bob", title="kept")
    await alice.do("chat_ban", room, user="bob")
    people_server = people.server
    people_server.kill()
    people_server.start()
    alice, bob = await people("alice", "bob")
    assert await bob.fail("join", room) == GONE
    assert (await alice.do("chat_room", room))["title"] == "kept"
    await alice.do("join", room)
    assert await events(alice, room) == [("created", None), ("banned", "bob")]


async def test_lists_are_paged_and_searched(people):
    alice, bob = await people("alice", "bob")
    for n in range(5):
        await alice.do("chat_room_create", name=f"n{n}", title=f"Straße {n}", topic="100%_!")
    mine = [await private(bob, title=f"private {n}") for n in range(3)]
    await bob.do("join", "chat:implicit")
    await bob.do("chat_message", "chat:implicit", text="here")
    named = ["chat:implicit", *(f"chat:n{n}" for n in range(5))]
    seen, after = [], ""
    while True:
        page = await bob.do("chat_rooms", limit=2, after=after)
        seen += [each["room"] for each in page["rooms"]]
        after = page["after"]
        if not page["more"]:
            break
    assert seen == [*named, *sorted(mine)]
    assert [each["room"] for each in (await alice.do("chat_rooms"))["rooms"]] == named
    assert [each["room"] for each in (await bob.do("chat_rooms", mine=True))["rooms"]] == sorted(mine)
    for query, count in (
        ("STRASSE", 5),
        ("%_!", 5),
        ("n3", 1),
        ("strasse 4", 1),
        ("_____x", 0),
        ("IMPLI", 1),
    ):
        assert len((await alice.do("chat_rooms", query=query))["rooms"]) == count, query
    members = [f"m{n:02}" for n in range(30)]
    room = await private(alice, *members)
    page = await alice.do("chat_members", room, limit=20)
    rest = await alice.do("chat_members", room, limit=20, after=page["after"])
    assert [each["user"] for each in page["members"] + rest["members"]] == ["alice", *members]
    assert (page["more"], rest["more"]) == (True, False)


async def test_an_implicit_room_has_no_roles_and_is_not_taken_over(people):
    alice, bob = await people("alice", "bob")
    await bob.do("join", "chat:wild")
    await bob.do("chat_message", "chat:wild", text="mine?")
    assert (await bob.fail("chat_room_update", "chat:wild", title="x"))[0] == "forbidden"
    assert (await alice.fail("chat_room_create", name="wild"))[1].startswith("the room is in use")
    assert (await bob.do("chat_room", "chat:wild"))["created"] is None
    await bob.do("chat_enter", "chat:wild")
    assert [each["room"] for each in (await bob.do("chat_rooms", mine=True))["rooms"]] == ["chat:wild"]


async def test_what_one_may_have_is_bounded(people):
    alice, bob = await people(
        "alice",
        "bob",
        chat_rooms_per_user=2,
        chat_room_members=2,
        chat_invites_waiting=1,
        chat_direct_users=2,
    )
    room = await private(alice)
    await alice.do("chat_room_create", name="two")
    assert (await alice.fail("chat_room_create"))[0] == "room_limit"
    await alice.do("chat_room_delete", "chat:two")
    await alice.do("chat_room_create", name="three", members=["carol"])
    assert (await bob.fail("chat_enter", "chat:three"))[0] == "room_limit"
    await alice.do("chat_invite", room, user="bob")
    assert (await alice.fail("chat_invite", room, user="dora"))[0] == "room_limit"
    assert (await alice.fail("chat_direct", users=["bob", "carol"]))[0] == "bad_message"


POLICY = """
[access]
[[access.rules]]
actions = ["*"]
rooms = ["*"]
[[access.rules]]
actions = ["chat_moderate"]
roles = ["warden"]
rooms = ["chat:*"]
[[access.rules]]
actions = ["chat_room_claim"]
roles = ["warden"]
rooms = ["chat:*"]
[[access.rules]]
effect = "deny"
actions = ["chat_room_create", "chat_direct"]
roles = ["guest"]
rooms = ["chat:*"]
"""


async def test_the_policy_makes_moderators_by_name_and_keeps_guests_from_creating(start, place, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    audit = tmp_path / "audit.sqlite"
    server = start(jwt_secret=KEY, policy_path=str(path), audit_path=str(audit), errors_burst=1000)

    async def come(user, *roles):
        return await Person.come(server, user, additional_headers=bearer(token(user, roles=list(roles))))

    alice, warden, guest = await come("alice"), await come("w", "warden"), await come("g", "guest")
    room = await private(alice, "bob", "g")
    assert (await guest.fail("chat_room_create"))[0] == "forbidden"
    assert (await guest.fail("chat_direct", users=["alice"]))[0] == "forbidden"
    await guest.do("join", room)
    assert await warden.fail("join", room) == GONE  # acts there, and does not read there
    await warden.do("chat_ban", room, user="g")
    await guest.until("left")
    assert (await warden.fail("chat_ban", room, user="alice"))[0] == "forbidden"
    assert (await warden.fail("chat_invite", room, user="w"))[0] == "forbidden"
    direct = (await alice.do("chat_direct", users=["g"]))["room"]
    assert await warden.fail("chat_ban", direct, user="g") == GONE
    await guest.do("join", "chat:wild")
    await guest.do("chat_message", "chat:wild", text="boo")
    assert (await alice.fail("chat_ban", "chat:wild", user="g"))[0] == "forbidden"
    await warden.do("chat_ban", "chat:wild", user="g", for_s=60)
    await guest.until("left")
    await warden.do("chat_room_create", name="wild", title="tamed")
    assert (await warden.do("chat_room", "chat:wild"))["role"] == "owner"
    for each in (alice, warden, guest):
        await each.close()
    server.stop()
    log = await recorded(audit, place)
    acts = [(entry["outcome"], entry["actor"], entry["detail"]["act"]) for entry in log]
    for expected in (
        ("denied", "g", "chat_room_create"),
        ("denied", "g", "chat_direct"),
        ("allowed", "w", "chat_ban"),
        ("denied", "w", "chat_ban"),
        ("denied", "alice", "chat_ban"),
    ):
        assert expected in acts, expected


async def test_a_room_sealed_end_to_end_may_be_created_and_is_told_nothing_plain(start, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('[[rooms]]\nrooms = ["chat:sealed"]\nend_to_end = true\n')
    server = start(jwt_secret=KEY, policy_path=str(path))
    alice = await Person.come(server, "alice", additional_headers=bearer(token("alice")))
    await alice.do("chat_room_create", name="sealed", title="Sealed", members=["bob"])
    found = await alice.do("chat_room", "chat:sealed")
    assert (found["title"], found["members"]) == ("Sealed", 2)
    await alice.do("join", "chat:sealed")
    assert (await alice.do("history", "chat:sealed"))["messages"] == []
    assert (await alice.fail("chat_room_update", "chat:sealed", title="x"))[0] == "bad_message"
    await alice.close()


async def recorded(path, place):
    """What the audit log has of acts in rooms."""
    command = [sys.executable, "-m", "realtime", "audit", "export", "--format", "jsonl"]
    store = {"POSTGRES_URL": place.url} if place.dialect == "postgres" else {}
    environ = os.environ | store | {"REALTIME_AUDIT_PATH": str(path)}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environ, capture_output=True, check=False
    )
    assert not done.returncode, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [entry for entry in entries if entry["action"] == "room.manage"]
