"""End-to-end rooms: nothing but what is sealed is taken, by any way; nobody here reads it."""

import pytest

from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind, SlowReader
from realtime.core.sealed import check_sealed
from realtime.errors import BadMessage
from realtime.features import discover
from realtime.ids import RoomId, RoomName, TenantId
from tests.core.world import World

SEALED = {"sealed": {"v": 1, "kid": "k1", "nonce": "AAAAAAAAAAAAAAAA", "ct": "A" * 30}}
SECRET = {"rooms": ["chat:secret-*", "count:secret"], "end_to_end": True}
ROOM = "chat:secret-a"
PLAIN = [
    *("words", None, 7, {}, [], {"text": "words"}, {"sealed": None}, {"sealed": {}}),
    {**SEALED, "text": "words"},
    {**SEALED, "chat_room_id": "secret-a"},
    *(
        {"sealed": {**SEALED["sealed"], **change}}
        for change in (
            {"v": 2},
            {"v": "1"},
            {"kid": ""},
            {"kid": "k" * 65},
            {"kid": "a b"},
            {"kid": "k\n"},
            {"nonce": "A" * 15},
            {"nonce": "A" * 17},
            {"nonce": "A" * 15 + "="},
            {"ct": "A" * 21},
            {"ct": "words that are not base64url"},
            {"ct": None},
            {"words": "words"},
        )
    ),
]


@pytest.fixture
def world(world: World) -> World:
    world.rule_rooms(SECRET)
    return world


@pytest.mark.parametrize("content", PLAIN, ids=repr)
@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
def test_what_is_not_sealed_is_refused_and_not_repeated_in_the_error(world: World, content, variant: int):
    alice = world.member("alice", variant=variant)
    assert alice.join(ROOM)["end_to_end"] is True
    for type in ("chat_message", "chat_message", "chat_typing"):
        error = alice.ask(type, room=ROOM, content=content)["content"]
        assert error["name"] == "bad_message"
        assert "sealed end to end" in error["message"]
        assert "words" not in error["message"]
    assert alice.ask("history", room=ROOM, content={})["content"]["messages"] == []


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
def test_what_is_sealed_is_ordered_kept_and_relayed_as_it_is(world: World, variant: int):
    alice, bob = world.member("alice"), world.member("bob", variant=variant)
    alice.join(ROOM)
    bob.join(ROOM)
    for offset in (1, 2, 3):
        assert alice.publish(ROOM, SEALED)["offset"] == offset
    assert alice.ask("chat_typing", room=ROOM, content=SEALED)["type"] == "ack"
    assert [each["content"] for each in bob.pushes()] == [SEALED] * 3
    assert [each["content"] for each in alice.pushes("chat_typing")] == [SEALED]


def test_other_rooms_are_as_they_were(world: World):
    alice = world.member("alice")
    assert "end_to_end" not in alice.join("chat:lobby")
    alice.publish("chat:lobby", "words")
    assert alice.session.live["chat:lobby"].types


def test_what_the_server_publishes_has_to_be_sealed_too(world: World):
    key = RoomId(TenantId("default"), RoomName(ROOM))
    publish = world.core._outside._publish
    with pytest.raises(BadMessage, match="sealed end to end"):
        publish(key, "chat_message", None, b'{"text":"words"}', None)


def test_a_policy_read_again_seals_and_opens_live_rooms():
    world = World()
    alice, bob = world.member("alice"), world.member("bob")
    for each in (alice, bob):
        each.join(ROOM)
    for _ in range(3):
        alice.publish(ROOM, "words")  # by the straightest way there is
    world.rule_rooms(SECRET)
    assert alice.error("chat_message", room=ROOM, content="words") == "bad_message"
    alice.publish(ROOM, SEALED)
    world.rule_rooms()
    alice.publish(ROOM, "words")
    assert "end_to_end" not in world.member("carol").join(ROOM)


def test_commands_are_off_where_their_owner_could_read_nothing():
    feature = Feature(
        name="counted",
        kinds=(RoomKind(name="count"),),
        messages=(
            MessageType(name="count_up", kinds=frozenset({"count"}), owner=lambda core, command: b"1"),
        ),
    )
    world = World(features=[feature])
    world.rule_rooms(SECRET)
    alice = world.member("alice")
    alice.join("count:secret")
    error = alice.ask("count_up", room="count:secret", content=SEALED)["content"]
    assert error["name"] == "bad_message"
    assert "there is no 'count_up'" in error["message"]


def test_a_type_with_a_content_of_its_own_is_sealed_all_the_same():
    from msgspec import Struct

    class Score(Struct):
        points: int

    feature = Feature(
        name="scored",
        kinds=(RoomKind(name="count"),),
        messages=(MessageType(name="score", kinds=frozenset({"count"}), content=Score),),
    )
    world = World(features=[feature])
    world.rule_rooms(SECRET)
    alice = world.member("alice")
    alice.join("count:secret")
    alice.join("count:open")
    assert alice.publish("count:secret", SEALED, type="score")["offset"] == 1
    assert alice.error("score", room="count:secret", content={"points": 7}) == "bad_message"
    assert alice.error("score", room="count:open", content=SEALED) == "bad_message"
    alice.publish("count:open", {"points": 7}, type="score")


def test_a_kind_that_looks_into_contents_goes_by_types_there():
    kind = RoomKind(
        name="count", slow_reader=SlowReader.LATEST, conflate=lambda type, content: content.decode()
    )
    feature = Feature(
        name="latest", kinds=(kind,), messages=(MessageType(name="score", kinds=frozenset({"count"})),)
    )
    world = World(features=[feature])
    world.rule_rooms(SECRET)
    alice = world.member("alice")
    for room in ("count:secret", "count:open"):
        alice.join(room)
    for number in range(3):
        other = {"sealed": {**SEALED["sealed"], "ct": "A" * 30 + str(number)}}
        for room in ("count:secret", "count:open"):
            alice.publish(room, other, type="score")
    live = alice.session.live
    assert (len(live["count:secret"].newest), len(live["count:open"].newest)) == (1, 3)


def test_the_check_says_where_and_what_is_wanted():
    with pytest.raises(BadMessage, match=r'"sealed":\{"v":1,"kid":….*\(see `\$\.sealed\.nonce`\)'):
        check_sealed(b'{"sealed":{"v":1,"kid":"k","nonce":"x","ct":"y"}}')


def test_every_kind_of_the_project_can_be_sealed(world: World):
    world.rule_rooms({"rooms": ["*"], "end_to_end": True})
    alice = world.member("alice")
    for kind in (kind.name for feature in discover() for kind in feature.kinds):
        assert alice.join(f"{kind}:alice")["end_to_end"]
