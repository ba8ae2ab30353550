"""Signs in rooms that are not just any: of other kinds, sealed end to end, encrypted, and under a policy."""

import base64
import json
import os

import pytest_asyncio

from tests.edge.peer import receive
from tests.features.chat.signs_stage import QUICK, a_room, hang_up, make_members, person, sqlite_place

SEALED = {"sealed": {"v": 1, "kid": "k1", "nonce": "AAAAAAAAAAAAAAAA", "ct": "A" * 30}}
POLICY = """
[[rooms]]
rooms = ["chat:sealed-*"]
end_to_end = true
[[rooms]]
rooms = ["chat:secret-*"]
encrypted = true
[[access.rules]]
effect = "deny"
actions = ["presence"]
rooms = ["chat:blind-*"]
[[access.rules]]
effect = "deny"
actions = ["history"]
rooms = ["chat:nohistory-*"]
[[access.rules]]
actions = ["*"]
rooms = ["*"]
"""


@pytest_asyncio.fixture
async def chat(serve, tmp_path):
    place, settings = await sqlite_place(tmp_path)
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    key = f"m1:{base64.b64encode(os.urandom(32)).decode()}"
    server = serve(**settings, **QUICK, policy_path=policy, encryption_keys=key)
    server.place = place
    yield server
    await hang_up()


async def pair(chat, room):
    found = [await person(chat, name) for name in ("alice", "bob")]
    for each in found:
        await each.join(room)
    return found


async def test_in_rooms_of_other_kinds_they_are_events_as_any(chat):
    room = "playlist:p1"
    alice, bob = await pair(chat, room)
    assert await alice.ask("chat_typing", {"what": "ever"}, room) == {}
    assert await bob.push("chat_typing") == {"what": "ever"}
    for offset, type in enumerate(("chat_read_receipt", "chat_presence"), 1):
        assert (await alice.ask(type, ["as it stands"], room))["offset"] == offset
        assert await bob.push(type) == ["as it stands"]


async def test_where_members_seal_what_they_say_the_server_passes_it_on(chat):
    room = f"chat:sealed-{a_room().partition(':')[2]}"
    alice, bob = await pair(chat, room)
    assert await alice.ask("chat_typing", SEALED, room) == {}
    assert await bob.push("chat_typing") == SEALED
    assert (await alice.ask("chat_read_receipt", SEALED, room))["offset"] == 1
    assert await bob.push("chat_read_receipt") == SEALED
    for type in ("chat_typing", "chat_read_receipt"):
        assert (await alice.error(type, {"id": "1" * 19}, room))[0] == "bad_message"


async def test_in_encrypted_rooms_positions_are_offsets(chat):
    room = f"chat:secret-{a_room().partition(':')[2]}"
    alice, bob = await pair(chat, room)
    for _ in range(3):
        await alice.say(room)
    assert await bob.ask("chat_read_receipt", {"offset": 2}, room) == {"id": None, "offset": 2}
    assert await alice.push("chat_read_receipt") == {"user": "bob", "id": None, "offset": 2}
    assert (await bob.ask("chat_read_receipt", {"offset": 99}, room))["offset"] == 3
    await alice.say(room)
    (found,) = (await bob.ask("chat_unread"))["rooms"]
    assert (found["offset"], found["last_offset"], found["unread"]) == (3, 4, 1)
    await alice.ask("chat_typing", {}, room)
    assert (await bob.push("chat_typing"))["users"] == ["alice"]


async def test_who_may_not_see_who_is_there_sees_nobodys_status(chat):
    room = f"chat:blind-{a_room().partition(':')[2]}"
    await make_members(chat.place, room, "alice", "bob", visibility="public")
    alice, bob = await pair(chat, room)
    await alice.ask("chat_presence", {"status": "busy"})
    assert (await bob.ask("chat_presence_of", {"users": ["alice", "nobody"]}))["users"] == {}
    assert await bob.pushes_until("chat_presence", room, alice) == []


async def test_who_may_not_read_a_rooms_history_has_nothing_unread_there(chat):
    room = f"chat:nohistory-{a_room().partition(':')[2]}"
    await make_members(chat.place, room, "bob", visibility="public")
    alice, bob = await pair(chat, room)
    await alice.say(room)
    assert (await bob.ask("chat_unread"))["rooms"] == []


async def test_without_a_store_they_are_as_before_and_questions_are_refused(serve):
    server = serve()
    room = a_room()
    alice, bob = await pair(server, room)
    await alice.ask("chat_typing", {"on": True}, room)
    assert await bob.push("chat_typing") == {"on": True}
    assert (await alice.ask("chat_read_receipt", {"any": 1}, room))["offset"] == 1
    assert await bob.push("chat_read_receipt") == {"any": 1}
    assert (await alice.error("chat_presence", {"status": "away"}))[0] == "bad_message"  # it names no room
    for type in ("chat_unread", "chat_presence_of"):
        assert (await alice.error(type, {"users": []}))[0] == "unavailable"
    await hang_up()


async def test_a_status_may_name_a_room_and_needs_none(chat):
    room = a_room()
    alice, bob = await pair(chat, room)
    await alice.ask("chat_presence", {"status": "away"}, room)
    assert (await bob.push("chat_presence"))["status"] == "away"
    await alice.ws.send(json.dumps({"type": "chat_presence", "content": {"status": "busy"}}))  # nobody waits
    assert (await bob.push("chat_presence"))["status"] == "busy"
    await alice.ws.send(json.dumps({"type": "chat_presence", "content": {"status": "gone"}}))

    async def error():
        while (got := await receive(alice.ws))["type"] != "error":
            pass
        return got["content"]["name"]

    assert await error() == "bad_message"
