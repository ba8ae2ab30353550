"""Typing, reading and presence on a real server, on both stores."""

import asyncio
import json
import uuid

import pytest
import pytest_asyncio

from tests.edge.peer import PATIENCE_S, receive
from tests.features.chat.signs_stage import (
    QUICK,
    a_room,
    hang_up,
    make_members,
    number_of,
    person,
    postgres_place,
    sqlite_place,
)

NO_SUCH = "0999999999999999999"


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def chat(request, serve, tmp_path):
    """A server with a chat, and its database."""
    if request.param == "sqlite":
        place, settings = await sqlite_place(tmp_path)
    else:
        place, settings = await postgres_place(request.getfixturevalue("postgres"))
    server = serve(**settings, **QUICK)
    server.place = place
    yield server
    await hang_up()


async def pair(chat, room, *names):
    """People who are in a room."""
    found = [await person(chat, name) for name in names]
    for each in found:
        await each.join(room)
    return found


# -- typing -------------------------------------------------------------------------------------------------


async def test_typing_is_told_once_however_often_it_is_said_and_ends_by_itself(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    for _ in range(50):
        assert await alice.ask("chat_typing", {}, room) == {}
    told = await bob.push("chat_typing")
    assert told == {"users": ["alice"], "count": 1, "expires_s": 1.0}
    assert (await bob.push("chat_typing", lambda content: not content["users"]))["users"] == []
    assert await bob.pushes_until("chat_typing", room, alice) == []


async def test_typing_ends_when_its_user_says_so_sends_or_leaves(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    for end in (
        lambda: alice.ask("chat_typing", {"typing": False}, room),
        lambda: alice.say(room, "done"),
        lambda: alice.answer("leave", {}, room),
    ):
        await alice.join(room)
        await alice.ask("chat_typing", {"typing": True, "chat_room_id": room.partition(":")[2]})
        assert (await bob.push("chat_typing"))["users"] == ["alice"]
        await end()
        assert (await bob.push("chat_typing"))["users"] == []


async def test_typing_ends_with_the_connection(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    await alice.ask("chat_typing", {}, room)
    assert (await bob.push("chat_typing"))["users"] == ["alice"]
    await alice.leave()
    assert (await bob.push("chat_typing"))["users"] == []


async def test_who_is_not_in_the_room_cannot_type_there(chat):
    room = a_room()
    bob = await person(chat, "bob")
    for hidden in (room, "chat:~0123456789abcdef01234567"):
        assert (await bob.error("chat_typing", {}, hidden))[0] == "not_joined"
    assert (await bob.error("chat_typing", {"typing": "yes"}, room))[0] == "bad_message"


async def test_signs_of_rooms_with_too_many_present_are_held_back(chat):
    chat.stop()
    chat.settings["chat_signs_members"] = 1
    chat.start()
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    id = await alice.say(room)
    assert await bob.ask("chat_typing", {}, room) == {}
    assert (await bob.ask("chat_read_receipt", {"id": id}, room))["id"] == id
    assert await alice.pushes_until("chat_typing", room, bob) == []
    assert await alice.pushes_until("chat_read_receipt", room, bob) == []


# -- reading ------------------------------------------------------------------------------------------------


async def test_a_receipt_is_kept_and_told_and_only_rises(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    first, second = [await alice.say(room, text) for text in ("one", "two")]
    reached = await bob.ask("chat_read_receipt", {"id": second}, room)
    assert reached == {"id": second, "offset": 2}
    assert await alice.push("chat_read_receipt") == {"user": "bob", **reached}
    assert await bob.ask("chat_read_receipt", {"id": first}, room) == reached
    assert await bob.ask("chat_read_receipt", {"offset": 1}, room) == reached
    assert await alice.pushes_until("chat_read_receipt", room, bob) == []


async def test_a_receipt_reaches_no_further_than_what_there_is(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    id = await alice.say(room)
    assert await bob.ask("chat_read_receipt", {"id": "8" + "9" * 18}, room) == {"id": id, "offset": 1}
    assert await bob.ask("chat_read_receipt", {"offset": 10**9}, room) == {"id": id, "offset": 1}
    later = await alice.say(room)
    counted = {each["room"]: each for each in (await bob.ask("chat_unread"))["rooms"]}
    assert counted[room]["unread"] == 1
    assert counted[room]["last_id"] == later


async def test_a_receipt_before_the_first_message_is_nothing(chat):
    room = a_room()
    (bob,) = await pair(chat, room, "bob")
    assert await bob.ask("chat_read_receipt", {"id": NO_SUCH}, room) == {"id": None, "offset": 0}


async def test_what_is_wrong_with_a_receipt_is_said(chat):
    room = a_room()
    (bob,) = await pair(chat, room, "bob")
    for content in (
        {},
        {"id": NO_SUCH, "offset": 1},
        {"id": "12"},
        {"offset": -1},
        {"offset": "1"},
        {"id": 5},
    ):
        name, said = await bob.error("chat_read_receipt", content, room)
        assert name == "bad_message", content
        assert said
    assert (await bob.error("chat_read_receipt", {"offset": 1}, a_room()))[0] == "not_joined"


async def test_all_devices_learn_at_once_how_far_their_user_is(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    phone = await person(chat, "bob")  # in no room
    id = await alice.say(room)
    await bob.ask("chat_read_receipt", {"id": id}, room)
    assert await phone.push("chat_read_receipt") == {"user": "bob", "id": id, "offset": 1}


async def test_many_receipts_are_one_write_and_all_are_acked(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    sent = [await alice.say(room, str(number)) for number in range(30)]
    answers = await asyncio.gather(*(quiet(chat, "bob", room, sent) for _ in range(3)))
    assert {answer[-1]["id"] for answer in answers} == {sent[-1]}
    told = [each["id"] for each in await alice.pushes_until("chat_read_receipt", room, bob)]
    assert told == sorted(set(told))
    assert told[-1] == sent[-1]


@pytest.mark.parametrize(
    "message",
    [
        {"type": "chat_read_receipt", "content": {"offset": 1}},
        {"type": "chat_presence", "content": {"status": "away"}},
    ],
)
async def test_who_asks_for_too_many_acks_at_once_is_told_to_wait(chat, message):
    room = a_room()
    (bob,) = await pair(chat, room, "bob")
    frame = "\n".join(json.dumps(message | {"id": n, "room": room}) for n in range(-60, 0))
    while True:  # as long as no interval ends in between
        for _ in range(2):
            await bob.ws.send(frame)
        answers = []
        while len(answers) < 120:
            got = await receive(bob.ws)
            if got.get("id", 0) < 0:
                answers.append(got)
        refused = [each["content"] for each in answers if each["type"] == "error"]
        if refused:
            break
    assert {each["name"] for each in refused} == {"rate_limited"}
    assert all(each["retry_after"] > 0 for each in refused)
    assert len(refused) <= 20


async def quiet(chat, user, room, sent):
    device = await person(chat, user)
    await device.join(room)
    return [await device.ask("chat_read_receipt", {"id": id}, room) for id in sent[-3:]]


async def test_what_was_acked_is_found_after_a_kill(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    ids = [await alice.say(room, str(number)) for number in range(5)]
    reached = await bob.ask("chat_read_receipt", {"id": ids[2]}, room)
    await hang_up()
    chat.kill()
    chat.start()
    bob = await person(chat, "bob")
    (found,) = (await bob.ask("chat_unread"))["rooms"]
    assert (found["read_id"], found["offset"], found["unread"]) == (reached["id"], reached["offset"], 2)
    assert found["last_id"] == ids[-1]


# -- unread -------------------------------------------------------------------------------------------------


async def test_unread_counts_what_others_said_since_and_who_was_named(chat):
    rooms = [a_room() for _ in range(3)]
    alice = await person(chat, "alice")
    for room in rooms:
        await alice.join(room)
        await make_members(chat.place, room, "bob", visibility="public")
    for number, room in enumerate(rooms):
        for _ in range(number):
            await alice.say(room)
    bob = await person(chat, "bob")
    await bob.join(rooms[2])
    await bob.say(rooms[2])  # one's own is read
    number = await number_of(chat.place, rooms[2])
    for user, id in (("bob", await alice.say(rooms[2])), ("", await alice.say(rooms[2])), ("carol", None)):
        id = id or await alice.say(rooms[2])
        await chat.place.execute(
            f"INSERT INTO chat_mentions (room, user_id, message) VALUES ({number}, '{user}', {int(id)})"
        )
    found = {each["room"]: each for each in (await bob.ask("chat_unread"))["rooms"]}
    assert [(found[room]["unread"], found[room]["mentions"]) for room in rooms] == [(0, 0), (1, 0), (5, 2)]
    await bob.ask("chat_read_receipt", {"id": found[rooms[2]]["last_id"]}, rooms[2])
    found = {each["room"]: each for each in (await bob.ask("chat_unread"))["rooms"]}
    assert (found[rooms[2]]["unread"], found[rooms[2]]["mentions"]) == (0, 0)


async def test_what_was_said_before_somebody_became_a_member_is_not_unread(chat):
    room = a_room()
    alice = await person(chat, "alice")
    await alice.join(room)
    id = int(await alice.say(room))
    await make_members(chat.place, room, "bob", visibility="public", since_ms=(id >> 21) + 1)
    bob = await person(chat, "bob")
    (found,) = (await bob.ask("chat_unread"))["rooms"]
    assert found["unread"] == 0


async def test_deleted_and_hidden_messages_are_not_unread(chat):
    room = a_room()
    alice = await person(chat, "alice")
    await alice.join(room)
    await make_members(chat.place, room, "bob", visibility="public")
    ids = [await alice.say(room) for _ in range(3)]
    await chat.place.execute(f"UPDATE chat_messages SET deleted_ms = 1 WHERE id = {int(ids[0])}")
    await chat.place.execute(f"UPDATE chat_messages SET hidden_ms = 1 WHERE id = {int(ids[1])}")
    bob = await person(chat, "bob")
    (found,) = (await bob.ask("chat_unread"))["rooms"]
    assert found["unread"] == 1


async def test_no_room_that_one_may_not_be_in_is_counted(chat):
    room = f"chat:~{uuid.uuid4().hex[:24]}"
    await make_members(chat.place, room, "alice", "bob")
    alice, bob = await pair(chat, room, "alice", "bob")
    await bob.ask("chat_read_receipt", {"id": await alice.say(room)}, room)
    await alice.say(room)
    assert [each["room"] for each in (await bob.ask("chat_unread"))["rooms"]] == [room]
    number = await number_of(chat.place, room)
    for change in ("role = 0", "role = 2, banned_until_ms = 9999999999999"):
        await chat.place.execute(
            f"UPDATE chat_members SET {change} WHERE room = {number} AND user_id = 'bob'"
        )
        stranger = await person(chat, "stranger")
        assert (
            await bob.ask("chat_unread") == await stranger.ask("chat_unread") == {"rooms": [], "more": False}
        )


# -- presence -----------------------------------------------------------------------------------------------


async def until(look, wanted):
    async with asyncio.timeout(PATIENCE_S):
        while (found := await look()) != wanted:
            pass
        return found


async def test_a_status_is_kept_told_and_the_same_on_all_devices(chat):
    room = a_room()
    alice, bob = await pair(chat, room, "alice", "bob")
    phone = await person(chat, "alice")
    assert await alice.ask("chat_presence", {"status": "busy", "text": "hush"}) == {
        "status": "busy",
        "text": "hush",
    }
    seen = {"status": "busy", "text": "hush"}
    assert await bob.push("chat_presence", lambda content: content["status"] == "busy") == {
        "user": "alice",
        **seen,
    }
    assert await phone.push("chat_presence") == {"user": "alice", **seen}
    assert (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"] == {"alice": seen}
    await hang_up()
    chat.restart()
    alice, bob = await pair(chat, room, "alice", "bob")
    assert (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"] == {"alice": seen}


async def test_who_goes_was_last_seen_then(chat):
    room = a_room()
    await make_members(chat.place, room, "alice", "bob", visibility="public")
    alice, bob = await pair(chat, room, "alice", "bob")
    await bob.ask("chat_presence_of", {"users": ["alice"]})
    await alice.leave()
    gone = await bob.push("chat_presence", lambda content: content["status"] == "offline")
    assert gone.keys() == {"user", "status", "last_seen"}
    shown = (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"]["alice"]
    assert {"user": "alice", **shown} == gone
    alice = await person(chat, "alice")
    assert await bob.push("chat_presence") == {"user": "alice", "status": "online"}


async def test_a_device_less_tells_nobody_anything(chat):
    room = a_room()
    await make_members(chat.place, room, "alice", "bob", visibility="public")
    alice, bob = await pair(chat, room, "alice", "bob")
    phone = await person(chat, "alice")
    await phone.leave()
    await alice.ask("chat_presence", {"status": "away"})
    told = await bob.pushes_until("chat_presence", room, alice)
    assert "offline" not in [each["status"] for each in told]


async def test_who_is_invisible_looks_in_every_way_as_if_gone(chat):
    room = a_room()
    await make_members(chat.place, room, "alice", "bob", "carol", visibility="public")
    alice, bob = await pair(chat, room, "alice", "bob")
    carol = await person(chat, "carol")
    await carol.leave()
    await bob.push(
        "chat_presence", lambda content: content == {**content, "user": "carol", "status": "offline"}
    )
    await alice.ask("chat_presence", {"status": "invisible", "text": "hush"})
    left = await bob.push("chat_presence", lambda content: content["user"] == "alice")
    assert left.keys() == {"user", "status", "last_seen"}
    assert left["status"] == "offline"
    id = await bob.say(room)
    await alice.ask("chat_typing", {}, room)
    await alice.ask("chat_read_receipt", {"id": id}, room)
    await alice.ask("chat_presence", {"status": "invisible", "text": "still"})
    found = (await bob.ask("chat_presence_of", {"users": ["alice", "carol"]}))["users"]
    assert found["alice"].keys() == found["carol"].keys()
    assert {"user": "alice", **found["alice"]} == left
    assert (await alice.ask("chat_presence_of", {"users": ["alice"]}))["users"] == {
        "alice": {"status": "invisible", "text": "still"}
    }
    await alice.leave()
    alice = await person(chat, "alice")
    assert (await bob.ask("chat_presence_of", {"users": ["alice"]}))["users"]["alice"] == found["alice"]
    await alice.join(room)
    for type in ("chat_typing", "chat_read_receipt", "chat_presence"):
        told = await bob.pushes_until(type, room, bob)
        assert [each for each in told if "alice" in str(each) and each != left] == []
    await alice.ask("chat_presence", {"status": "online"})
    assert await bob.push("chat_presence") == {"user": "alice", "status": "online"}


async def test_presence_is_told_to_those_alone_who_share_a_room(chat):
    secret, open_room = f"chat:~{uuid.uuid4().hex[:24]}", a_room()
    await make_members(chat.place, secret, "alice", "bob")
    alice, bob, eve = [await person(chat, name) for name in ("alice", "bob", "eve")]
    users = {"users": ["alice", "nobody", "eve"]}
    assert (await bob.ask("chat_presence_of", users))["users"] == {"alice": {"status": "online"}}
    assert (await eve.ask("chat_presence_of", users))["users"] == {"eve": {"status": "online"}}
    number = await number_of(chat.place, secret)
    for change in ("banned_until_ms = 9999999999999", "banned_until_ms = 0, role = 0"):
        await chat.place.execute(
            f"UPDATE chat_members SET {change} WHERE room = {number} AND user_id = 'bob'"
        )
        assert (await bob.ask("chat_presence_of", users))["users"] == {}
    for each in (alice, eve):
        await each.join(open_room)  # in a room that nobody has created, as long as both are there
    assert (await eve.ask("chat_presence_of", users))["users"].keys() == {"alice", "eve"}
    await alice.answer("leave", {}, open_room)
    await until(lambda: keys_of(eve, users), {"eve"})


async def keys_of(asker, users):
    return set((await asker.ask("chat_presence_of", users))["users"])


async def test_what_is_wrong_with_a_presence_is_said(chat):
    bob = await person(chat, "bob")
    for content in (
        {},
        {"status": "offline"},
        {"status": "away", "text": "x" * 141},
        {"status": "away", "text": "\0"},
    ):
        assert (await bob.error("chat_presence", content))[0] == "bad_message", content
    assert (await bob.error("chat_presence_of", {"users": ["x"] * 101}))[0] == "bad_message"
    assert (await bob.error("chat_presence_of", {}))[0] == "bad_message"
