"""join, leave, presence: who is in a room, what they are told, and in which order."""

import pytest

from realtime.core.feature import Feature
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from tests.core.world import World

LOBBY = "chat:lobby"


def test_joined_tells_members_count_position_and_that_nothing_was_missed(world):
    world.member("alice").join(LOBBY)
    joined = world.member("bob").ask("join", room=LOBBY)
    assert joined["room"] == LOBBY
    assert joined["content"] | {"epoch": "?"} == {
        "members": ["alice", "bob"],
        "count": 2,
        "offset": 0,
        "epoch": "?",
        "recovered": False,
        "messages": [],
    }


def test_joined_comes_before_the_first_push_and_the_pushes_continue_its_offset(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    alice.publish(LOBBY, "before")
    bob.send("join", id=1, room=LOBBY)
    alice.publish(LOBBY, "after")
    joined, push = bob.read()
    assert (joined["type"], joined["content"]["offset"]) == ("joined", 1)
    assert (push["content"], push["offset"]) == ("after", 2)


def test_joined_is_queued_before_the_connection_enters_the_log(world):
    alice = world.member("alice")
    alice.send("join", id=1, room=LOBBY)
    assert alice.connection.sent_before_join == alice.connection.sent
    assert [each["type"] for each in alice.read()] == ["joined"]


def test_joining_again_answers_again_and_doubles_nothing(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.publish(LOBBY, "one")
    again = alice.join(LOBBY)
    assert (again["offset"], again["members"], again["count"]) == (1, ["alice"], 1)
    alice.read()
    alice.publish(LOBBY, "two")
    assert [push["content"] for push in alice.pushes()] == ["two"]
    alice.ask("leave", room=LOBBY)
    assert world.core.stats()["rooms"] == 0


def test_joining_again_with_since_recovers_again(world):
    alice = world.member("alice")
    start = alice.join(LOBBY)
    alice.publish(LOBBY, "one")
    again = alice.join(LOBBY, offset=0, epoch=start["epoch"])
    assert again["recovered"] is True
    assert [push["content"] for push in again["messages"]] == ["one"]


def test_a_join_without_an_id_joins_and_says_nothing(world):
    alice = world.member("alice")
    alice.send("join", room=LOBBY)
    assert alice.read() == []
    alice.publish(LOBBY, "heard")
    assert [push["content"] for push in alice.pushes()] == ["heard"]


def test_whoever_leaves_hears_nothing_more_and_may_not_publish(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    assert bob.ask("leave", room=LOBBY)["type"] == "ack"
    alice.publish(LOBBY)
    assert bob.read() == []
    assert bob.error("chat_message", room=LOBBY, content={}) == "not_joined"
    assert bob.error("leave", room=LOBBY) == "not_joined"


@pytest.mark.parametrize(
    "room",
    [
        "lobby",
        ":lobby",
        "chat:",
        "Chat:lobby",
        "nokind:lobby",
        "chat:a\nb",
        "chat: lobby",
        "chat:" + "x" * 196,
        "chat:\u202eabc",
    ],
)
@pytest.mark.parametrize("command", ["join", "leave", "presence", "history", "chat_message"])
def test_what_is_no_room_is_a_bad_message(world, command, room):
    assert world.member("alice").error(command, room=room) == "bad_message"


@pytest.mark.parametrize("command", ["join", "leave", "presence", "history", "chat_message"])
def test_a_command_without_a_room_is_a_bad_message(world, command):
    assert world.member("alice").error(command) == "bad_message"


def test_the_longest_room_name_is_a_room(world):
    room = "chat:" + "x" * 195
    assert world.member("alice").join(room)["count"] == 1


def test_a_join_finds_its_room_by_the_contents_own_key(world):
    joined = world.member("alice").ask("join", content={"chat_room_id": "lobby"})
    assert (joined["type"], joined["room"]) == ("joined", LOBBY)


@pytest.mark.parametrize(
    "content", [5, "x", [], {"since": 5}, {"since": {"offset": -1}}, {"since": {"epoch": 7}}]
)
def test_a_join_with_a_wrong_content_is_a_bad_message(world, content):
    alice = world.member("alice")
    assert alice.error("join", room=LOBBY, content=content) == "bad_message"
    assert world.core.stats()["rooms"] == 0


def test_a_null_content_counts_as_none(world):
    assert world.member("alice").ask("join", room=LOBBY, content=None)["type"] == "joined"


def test_nobody_may_join_or_read_another_users_room(world):
    alice, mallory = world.member("alice"), world.member("mallory")
    assert alice.join("user:alice")["count"] == 1
    for command in ("join", "chat_message"):
        assert mallory.error(command, room="user:alice") == "forbidden"
    for command in ("history", "presence", "leave"):
        assert mallory.error(command, room="user:alice") == "not_joined"


def test_a_connection_may_be_in_so_many_rooms_and_one_more_after_it_left_one():
    world = World(limits=Limits(rooms_per_connection=12))  # above what a session holds in a tuple
    alice = world.member("alice")
    for number in range(12):
        alice.join(f"chat:{number}")
    assert alice.error("join", room="chat:12") == "room_limit"
    assert alice.join("chat:0")["count"] == 1, "a room it is in is none more"
    alice.ask("leave", room="chat:3")
    alice.join("chat:12")
    for number in (0, 11, 12):
        alice.publish(f"chat:{number}")
    assert alice.error("chat_message", room="chat:3") == "not_joined"


def test_whoever_disconnects_is_out_of_all_rooms(world):
    alice, bob = world.member("alice"), world.member("bob")
    for room in (LOBBY, "chat:two"):
        alice.join(room)
        bob.join(room)
    alice.leave()
    assert bob.ask("presence", room=LOBBY)["content"] == {"members": ["bob"], "count": 1}
    bob.leave()
    stats = world.core.stats()
    assert (stats["sessions"], stats["rooms"], stats["tenants"]) == (0, 0, 0)


def test_a_user_is_one_member_however_many_connections_he_has(world):
    first, second, bob = world.member("alice"), world.member("alice"), world.member("bob")
    bob.join(LOBBY)
    assert first.join(LOBBY)["count"] == 2
    assert second.join(LOBBY)["count"] == 2
    first.leave()
    assert bob.ask("presence", room=LOBBY)["content"]["count"] == 2
    second.leave()
    assert bob.ask("presence", room=LOBBY)["content"]["count"] == 1


def test_tenants_have_rooms_of_their_own(world):
    alice, bob = world.member("alice", tenant="red"), world.member("bob", tenant="blue")
    ours, theirs = alice.join(LOBBY), bob.join(LOBBY)
    assert theirs["members"] == ["bob"]
    assert ours["epoch"] != theirs["epoch"]
    alice.publish(LOBBY, "secret")
    world.pass_time(1)
    assert bob.pushes() == []
    assert bob.ask("history", room=LOBBY)["content"]["messages"] == []


def test_a_kind_without_presence_tells_of_nobody():
    quiet = Feature(name="quiet", kinds=(RoomKind(name="quiet", presence=False),))
    world = World(features=[quiet])
    alice, bob = world.member("alice"), world.member("bob")
    alice.join("quiet:a")
    assert bob.join("quiet:a") | {"epoch": "?"} == {
        "members": [],
        "count": 2,
        "offset": 0,
        "epoch": "?",
        "recovered": False,
        "messages": [],
    }
    world.pass_time(5)
    assert alice.read() == []


def test_a_kind_may_have_its_own_lag_limit():
    world = World(features=[Feature(name="own", kinds=(RoomKind(name="own", lag_limit_bytes=7),))])
    world.member("alice").join("own:a")
    assert [log.lag_limit_bytes for log in world.hub.logs] == [7]
