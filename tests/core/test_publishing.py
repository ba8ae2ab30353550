"""Publishing: order, acks, who may, which room, what comes out on the other side."""

import json

import msgspec
import pytest

from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.errors import CloseCode, Forbidden, Unavailable
from tests.core.world import World

LOBBY = "chat:lobby"


def test_every_member_the_sender_included_gets_the_push_and_the_sender_an_ack(world):
    alice, bob = world.member("alice"), world.member("bob")
    epoch = alice.join(LOBBY)["epoch"]
    bob.join(LOBBY)
    alice.send("chat_message", id="m1", room=LOBBY, content={"text": "hi"}, timestamp="1999-01-01T00:00:00Z")
    push = {
        "type": "chat_message",
        "room": LOBBY,
        "from": "alice",
        "offset": 1,
        "epoch": epoch,
        "content": {"text": "hi"},
        "timestamp": "2025-07-15T10:30:00.123Z",
    }
    assert bob.read() == [push]
    ack = {"type": "ack", "id": "m1", "room": LOBBY, "content": {"offset": 1, "epoch": epoch}}
    assert sorted(alice.read(), key=len) == [ack, push]


def test_offsets_count_up_by_one_in_the_order_of_the_acks(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    receipts = [member.publish(LOBBY)["offset"] for member in (alice, bob, bob, alice)]
    assert receipts == [1, 2, 3, 4]
    assert [push["offset"] for push in alice.pushes()] == [1, 2, 3, 4]


def test_without_an_id_nothing_answers(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    alice.send("chat_message", room=LOBBY, content="x")
    assert [each["type"] for each in alice.read()] == ["chat_message"]
    assert [each["type"] for each in bob.read()] == ["chat_message"]


@pytest.mark.parametrize(
    "content", [None, 0, "x", [1, {"a": None}], {}, {"deep": {"er": [[[]]]}}, "\u2028☕"]
)
def test_any_json_content_arrives_as_it_was_sent(world, content):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.publish(LOBBY, content)
    assert alice.pushes()[0]["content"] == content


def test_a_message_without_content_arrives_with_null(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    for type in ("chat_message", "chat_typing"):
        alice.ask(type, room=LOBBY)
        assert [push["content"] for push in alice.pushes(type)] == [None]


@pytest.mark.parametrize(
    ("content", "room"),
    [
        ({"chat_room_id": "room123"}, "chat:room123"),
        ({"session_id": "s"}, "session:s"),
        ({"playlist_id": 7}, "playlist:7"),
        ({"topic": "news"}, "events:news"),
        ({"user_id": "alice"}, "user:alice"),
        ({"user_id": "bob", "chat_room_id": "room123"}, "chat:room123"),
        ({"chat_room_id": ["no", "name"], "playlist_id": True, "topic": "news"}, "events:news"),
    ],
)
def test_where_no_room_is_given_the_content_names_it(world, content, room):
    alice = world.member("alice")
    alice.join(room)
    assert alice.ask("chat_message", content=content)["room"] == room
    assert alice.pushes()[0]["room"] == room


def test_a_given_room_goes_before_the_contents_key(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.ask("chat_message", room=LOBBY, content={"chat_room_id": "other"})["room"] == LOBBY


@pytest.mark.parametrize("content", [None, 5, [], "chat_room_id", {"text": "x"}, {"chat_room_id": None}])
def test_where_nothing_names_a_room_it_is_a_bad_message(world, content):
    assert world.member("alice").error("chat_message", content=content) == "bad_message"


def test_only_members_may_publish(world):
    alice, bob = world.member("alice"), world.member("bob")
    bob.join(LOBBY)
    assert alice.error("chat_message", room=LOBBY) == "not_joined"
    assert alice.error("chat_message", room="chat:nowhere") == "not_joined"
    assert bob.read() == []


def test_a_kind_takes_only_its_types(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.error("publish", room=LOBBY) == "forbidden"
    assert alice.pushes() == []


def test_an_unknown_type_is_an_error_and_the_connection_stays(world):
    alice = world.member("alice")
    assert alice.error("no_such_type", room=LOBBY) == "unknown_type"
    assert alice.ask("ping")["type"] == "pong"


def test_an_error_answers_with_everything_a_client_needs(world):
    answer = world.member("alice").ask("chat_message", room=LOBBY)
    assert answer["room"] == LOBBY
    assert answer["content"] == {
        "code": 412,
        "name": "not_joined",
        "message": "The connection has not joined this room.",
        "temporary": False,
    }


def test_an_error_of_a_message_without_an_id_is_a_push(world):
    alice = world.member("alice")
    alice.send("chat_message", room=LOBBY)
    (error,) = alice.read()
    assert (error["type"], error["content"]["name"], "id" in error) == ("error", "not_joined", False)


def test_a_content_over_the_limit_is_too_large_and_one_at_it_is_not():
    world = World(limits=Limits(content_bytes=20))
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.error("chat_message", room=LOBBY, content="x" * 19) == "too_large"
    assert alice.publish(LOBBY, "x" * 18)["offset"] == 1


def test_malformed_messages_are_errors_and_their_neighbours_are_not(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.send_bytes(
        b'{"type":"chat_message","id":1,"room":"chat:lobby","content":1}\n'
        b'{"type":"chat_message","id":2,"room":"chat:lobby","content":NaN}\n'
        b'{"id":3}\n'
        b'{"type":"chat_message","id":4,"room":"chat:lobby","content":4}'
    )
    assert alice.answer(1)["type"] == alice.answer(4)["type"] == "ack"
    assert alice.answer(2)["content"]["name"] == "bad_message"
    assert [push["content"] for push in alice.pushes()] == [1, 4]


def test_too_many_messages_in_one_frame_are_refused_and_those_before_are_not():
    world = World(limits=Limits(messages_per_frame=2))
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.send_frame(*({"type": "chat_message", "room": LOBBY, "content": number} for number in range(5)))
    messages = alice.read()
    assert [each["content"] for each in messages if "offset" in each] == [0, 1]
    assert [each["content"]["name"] for each in messages if each["type"] == "error"] == ["bad_message"]


def test_a_key_is_published_once_and_answered_the_same_again(world):
    alice = world.member("alice")
    epoch = alice.join(LOBBY)["epoch"]
    assert alice.publish(LOBBY, "first", key="k") == {"offset": 1, "epoch": epoch}
    alice.publish(LOBBY, "other")
    assert alice.publish(LOBBY, "again", key="k") == {"offset": 1, "epoch": epoch, "duplicate": True}
    assert [push["content"] for push in alice.pushes()] == ["first", "other"]


def test_a_key_is_known_again_after_a_reconnect(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.publish(LOBBY, key="k")
    alice.leave()
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.publish(LOBBY, key="k")["duplicate"] is True


def test_a_key_is_its_senders_own_and_its_rooms(world):
    alice, bob = world.member("alice"), world.member("bob")
    for room in (LOBBY, "chat:two"):
        alice.join(room)
        bob.join(room)
    alice.publish(LOBBY, key="k")
    assert "duplicate" not in bob.publish(LOBBY, key="k")
    assert "duplicate" not in alice.publish("chat:two", key="k")


VARIANTS = [0, 1, 15 << 1, 15 << 1 | 1, 12 << 1]


def test_members_of_every_variant_see_the_same(world):
    members = [world.member(f"user-{variant}", variant=variant) for variant in VARIANTS]
    for member in members:
        member.join(LOBBY)
    for member in members:
        member.publish(LOBBY, {"of": member.session.variant, "é": [1.5, None, True]})
    seen = [member.pushes() for member in members]
    assert [push["offset"] for push in seen[0]] == [1, 2, 3, 4, 5]
    assert all(each == seen[0] for each in seen)


def test_a_room_makes_one_log_per_variant_in_use_and_appends_once_to_each(world):
    members = [world.member(f"user-{number}", variant=number % 2) for number in range(6)]
    for member in members:
        member.join(LOBBY)
    members[0].publish(LOBBY)
    assert [(log.variant, log.members, log.appended) for log in world.hub.logs] == [(0, 3, 1), (1, 3, 1)]
    for member in members[1::2]:
        member.leave()
    members[0].publish(LOBBY)
    assert [log.appended for log in world.hub.logs] == [2, 1], "a variant nobody reads costs nothing"


def test_messagepack_clients_may_send_arrays_of_messages_and_get_their_errors_packed(world):
    alice = world.member("alice", variant=1)
    alice.join(LOBBY)
    alice.send_bytes(
        msgspec.msgpack.encode(
            [
                {"type": "chat_message", "id": 1, "room": LOBBY, "content": {"n": 1}},
                {"type": "chat_message", "id": 2, "room": LOBBY, "content": {"n": b"raw"}},
            ]
        )
    )
    assert alice.answer(1)["type"] == "ack"
    assert alice.answer(2)["content"]["name"] == "bad_message"


def failing_feature(failure: Exception) -> Feature:
    def handler(core, session, message):
        raise failure

    kinds = (RoomKind(name="own"),)
    return Feature(name="own", kinds=kinds, messages=(MessageType(name="own_fail", handler=handler),))


def test_a_handler_that_fails_is_logged_and_harms_nobody(caplog):
    world = World(features=[failing_feature(ZeroDivisionError("planted"))])
    alice, bob = world.member("alice"), world.member("bob")
    alice.send_frame({"type": "own_fail", "id": 1, "content": "secret"}, {"type": "ping", "id": 2})
    error = alice.answer(1)["content"]
    assert (error["name"], error["temporary"]) == ("internal", True)
    assert "planted" not in json.dumps(error)
    assert alice.answer(2)["type"] == "pong"
    assert bob.ask("ping")["type"] == "pong"
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
    assert "secret" not in caplog.text
    assert world.core.stats()["failures"] == 1


def test_whoever_causes_too_many_errors_is_closed_and_slow_ones_are_not():
    world = World(limits=Limits(errors_burst=5, errors_per_second=1.0))
    alice = world.member("alice")
    for _ in range(20):
        world.clock.advance(1)
        assert alice.error("no_such_type") == "unknown_type"
    frame = [{"type": "no_such_type"}] * 20
    alice.send_frame(*frame)
    reason = b'{"r":"too_many_errors","limit":"errors_per_second","allowed":1}'
    assert alice.connection.closed == (CloseCode.TOO_MANY_ERRORS, reason)
    assert len(alice.read()) <= 6, "what comes after the close is not answered any more"


@pytest.mark.parametrize(
    ("trouble", "code", "reason"),
    [
        (Unavailable("no answer"), CloseCode.OVERLOADED, "unavailable"),
        (RuntimeError("a bug"), CloseCode.INTERNAL, "internal"),
        (Forbidden("no"), CloseCode.TOO_MANY_ERRORS, "too_many_errors"),
    ],
)
def test_whoever_is_closed_over_what_is_the_servers_trouble_is_told_to_come_back(trouble, code, reason):
    world = World(limits=Limits(errors_burst=3), features=[failing_feature(trouble)])
    alice = world.member("alice")
    for _ in range(3):
        alice.send("own_fail")
    assert alice.connection.closed is None
    alice.send("own_fail")
    told = b'{"r":"%b","limit":"errors_per_second","allowed":1}' % reason.encode()
    assert alice.connection.closed == (code, told)


def test_above_the_rate_a_message_is_refused_with_the_time_to_wait():
    world = World(limits=Limits(messages_per_second=10, messages_burst=20))
    alice = world.member("alice")
    alice.join(LOBBY)
    answers = [alice.ask("chat_message", room=LOBBY)["type"] for _ in range(19)]
    assert answers == ["ack"] * 19, "the burst is whole: the join and these"
    refused = alice.ask("chat_message", room=LOBBY)["content"]
    assert (refused["name"], refused["temporary"]) == ("rate_limited", True)
    assert refused["retry_after"] == pytest.approx(0.1)
    world.clock.advance(refused["retry_after"])
    assert alice.ask("chat_message", room=LOBBY)["type"] == "ack"
    assert alice.error("chat_message", room=LOBBY) == "rate_limited"


def test_over_a_long_time_nobody_sends_more_than_the_rate():
    world = World(limits=Limits(messages_per_second=100, messages_burst=200, errors_burst=1e6))
    alice = world.member("alice")
    alice.join(LOBBY)
    accepted = 0
    for _ in range(200):
        world.clock.advance(0.05)
        for _ in range(20):
            alice.send("chat_message", room=LOBBY)
        accepted += len(alice.pushes())
    assert 0.95 * 1200 <= accepted <= 1200


def test_one_connections_rate_is_no_others():
    world = World(limits=Limits(messages_per_second=1, messages_burst=2))
    alice, bob = world.member("alice"), world.member("alice")
    for _ in range(2):
        alice.send("ping")
    assert alice.error("ping") == "rate_limited"
    assert bob.ask("ping")["type"] == "pong"


def test_whoever_goes_on_above_the_rate_is_closed_to_come_back_later():
    world = World(limits=Limits(messages_per_second=1, messages_burst=1, errors_burst=3))
    alice = world.member("alice")
    for _ in range(10):
        alice.send("ping")
    reason = b'{"r":"rate_limited","limit":"errors_per_second","allowed":1}'
    assert alice.connection.closed == (CloseCode.RATE_LIMITED, reason)
