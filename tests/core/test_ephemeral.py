"""Ephemeral types: for who is there now, outside of the order, and never kept."""

import pytest

from realtime.core.catalog import Catalog
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from tests.core.world import World

LOBBY = "chat:lobby"


def test_an_ephemeral_push_has_no_place_in_the_order_and_its_ack_says_nothing(world):
    alice, bob = world.member("alice"), world.member("bob", variant=1)
    for member in (alice, bob):
        member.join(LOBBY)
    ack = alice.ask("chat_typing", room=LOBBY, content={"on": True})
    assert (ack["type"], ack["room"], ack["content"]) == ("ack", LOBBY, {})
    for member in (alice, bob):
        (push,) = member.pushes("chat_typing")
        assert push == {
            "type": "chat_typing",
            "room": LOBBY,
            "from": "alice",
            "content": {"on": True},
            "timestamp": "2025-07-15T10:30:00.123Z",
        }


def test_without_an_id_nobody_is_answered(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.send("chat_typing", room=LOBBY)
    assert [each["type"] for each in alice.read()] == ["chat_typing"]


def test_it_is_in_no_history_and_no_recovery_and_takes_no_offset(world):
    alice, bob = world.member("alice"), world.member("bob")
    epoch = alice.join(LOBBY)["epoch"]
    for _ in range(3):
        alice.ask("chat_typing", room=LOBBY)
        alice.publish(LOBBY, "kept")
    assert alice.ask("history", room=LOBBY)["content"]["messages"] == alice.pushes()
    joined = bob.join(LOBBY, offset=0, epoch=epoch)
    assert (joined["offset"], joined["recovered"]) == (3, True)
    assert [each["type"] for each in joined["messages"]] == ["chat_message"] * 3


def test_it_comes_in_the_order_of_the_room_for_who_is_there(world):
    alice, bob = world.member("alice"), world.member("bob")
    for member in (alice, bob):
        member.join(LOBBY)
    alice.publish(LOBBY, 1)
    alice.ask("chat_typing", room=LOBBY)
    alice.publish(LOBBY, 2)
    seen = [each["type"] for each in bob.read() if each["type"].startswith("chat")]
    assert seen == ["chat_message", "chat_typing", "chat_message"]


def test_a_key_is_refused_as_nothing_could_find_its_repeat(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    error = alice.ask("chat_typing", room=LOBBY, key="k")["content"]
    assert error["name"] == "bad_message"
    assert "'chat_typing'" in error["message"]
    assert "`key`" in error["message"]
    assert alice.pushes("chat_typing") == []


def test_only_members_may_send_one_even_where_everybody_may_publish():
    feature = Feature(
        name="open",
        kinds=(RoomKind(name="open", open_to_publish=True),),
        messages=(
            MessageType(name="said", kinds=frozenset({"open"})),
            MessageType(name="hinted", kinds=frozenset({"open"}), ephemeral=True),
        ),
    )
    alice = World(features=[feature]).member("alice")
    assert alice.publish("open:x", type="said")["offset"] == 1
    assert alice.error("hinted", room="open:x") == "not_joined"


def test_the_kind_says_who_may_send_which():
    feature = Feature(
        name="strict",
        kinds=(
            RoomKind(name="strict", may_publish=lambda identity, id, type: identity.user == "alice"),
            RoomKind(name="other"),
        ),
        messages=(MessageType(name="hinted", kinds=frozenset({"strict"}), ephemeral=True),),
    )
    world = World(features=[feature])
    alice, bob = world.member("alice"), world.member("bob")
    for member in (alice, bob):
        member.join("strict:x")
        member.join("other:x")
    assert alice.ask("hinted", room="strict:x")["type"] == "ack"
    assert bob.error("hinted", room="strict:x") == "forbidden"
    assert alice.error("hinted", room="other:x") == "forbidden", "the type is not for this kind"


def test_its_content_is_bounded_and_checked_like_any_other():
    world = World(limits=Limits(content_bytes=10))
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.error("chat_typing", room=LOBBY, content="x" * 10) == "too_large"
    feature = Feature(
        name="typed",
        kinds=(RoomKind(name="typed"),),
        messages=(MessageType(name="hinted", kinds=frozenset({"typed"}), content=list[int], ephemeral=True),),
    )
    alice = World(features=[feature]).member("alice")
    alice.join("typed:x")
    assert alice.error("hinted", room="typed:x", content="no list") == "bad_message"
    assert alice.ask("hinted", room="typed:x", content=[1])["type"] == "ack"


def test_a_type_with_a_handler_cannot_be_ephemeral_as_the_handler_decides():
    message = MessageType(name="hinted", ephemeral=True, handler=lambda core, session, message: None)
    with pytest.raises(ValueError, match="'hinted' is ephemeral"):
        Catalog([Feature(name="odd", messages=(message,))])
