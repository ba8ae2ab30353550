"""The feature contract: typed contents, handlers of one's own, permissions of a kind."""

from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict
from tests.core.world import World

ROOM = "box:a"


class Put(msgspec.Struct):
    text: Annotated[str, Meta(max_length=5)]


def take(core, session, message):
    if message.content == b'"conflict"':
        raise Conflict("it has gone already")
    return core.publish(session, message)


async def later(session):
    session.send(b'{"type":"own","content":"later"}')


def may_publish(identity, id, type):
    return identity.user == "owner" or type == "box_take"


BOX = Feature(
    name="box",
    kinds=(
        RoomKind(name="box", may_publish=may_publish),
        RoomKind(name="open", open_to_publish=True),
        RoomKind(name="closed", may_join=lambda identity, id: identity.user == "owner"),
    ),
    messages=(
        MessageType(name="box_put", kinds=frozenset({"box", "open", "closed"}), content=Put),
        MessageType(name="box_take", kinds=frozenset({"box"}), handler=take),
        MessageType(name="box_wait", handler=lambda core, session, message: later(session)),
    ),
)


@pytest.fixture
def world():
    return World(features=[BOX])


def test_a_content_that_is_not_its_types_is_a_bad_message_and_is_not_published(world):
    owner = world.member("owner")
    owner.join(ROOM)
    for content in (None, 5, {}, {"text": 5}, {"text": "too long"}):
        answer = owner.ask("box_put", room=ROOM, content=content)
        assert answer["content"]["name"] == "bad_message", content
    assert "max" not in answer["content"]["message"] or "text" in answer["content"]["message"]
    assert owner.publish(ROOM, {"text": "fits"}, type="box_put")["offset"] == 1
    assert len(owner.pushes()) == 1


def test_a_handler_decides_before_it_publishes(world):
    alice = world.member("alice")
    alice.join(ROOM)
    assert alice.error("box_take", room=ROOM, content="conflict") == "conflict"
    assert alice.publish(ROOM, "one", type="box_take")["offset"] == 1


def test_a_handler_that_waits_is_run_beside_the_rest(world):
    alice = world.member("alice")
    alice.send("box_wait")
    assert alice.ask("ping")["type"] == "pong"
    world.run_waiting()
    assert [each["content"] for each in alice.read()] == ["later"]


def test_a_kind_says_who_may_publish_what(world):
    alice, owner = world.member("alice"), world.member("owner")
    alice.join(ROOM)
    owner.join(ROOM)
    put = {"room": ROOM, "content": {"text": "x"}}
    assert alice.error("box_put", **put) == "forbidden"
    assert owner.ask("box_put", **put)["type"] == "ack"
    assert alice.ask("box_take", room=ROOM)["type"] == "ack"
    assert [push["from"] for push in alice.pushes()] == ["owner", "alice"]


def test_a_room_may_be_open_to_publishers_who_are_not_in_it(world):
    alice, bob = world.member("alice"), world.member("bob")
    assert alice.publish("open:a", {"text": "1"}, type="box_put")["offset"] == 1
    bob.join("open:a")
    assert alice.publish("open:a", {"text": "2"}, type="box_put")["offset"] == 2
    assert [push["content"]["text"] for push in bob.pushes()] == ["2"]
    assert alice.pushes() == []


def test_who_may_not_join_may_not_publish_either_and_learns_nothing_more(world):
    world.member("owner").join("closed:a")
    alice = world.member("alice")
    answers = [
        alice.ask(command, room=room, content={"text": "x"})["content"]
        for command in ("join", "box_put")
        for room in ("closed:a", "closed:none")
    ]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert {answer["name"] for answer in answers} == {"forbidden"}
