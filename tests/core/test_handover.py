"""What the core hands over: another core goes on as if nothing had been, for everybody who moved with it."""

import asyncio

import pytest

from realtime.core.limits import Limits
from realtime.core.revocations import Revocation
from realtime.errors import Unauthorized
from realtime.ids import TenantId, UserId
from tests.core.successor import succeed
from tests.core.test_passive import counts, rest
from tests.core.world import World

LOBBY = "chat:lobby"
EVENTS = "events:all"


def leave_one(member, room):
    """Publish something to a room that nobody is in afterwards; return its epoch."""
    epoch = member.join(room)["epoch"]
    member.publish(room, "one", type="publish")
    member.ask("leave", room=room)
    return epoch


@pytest.mark.parametrize("variant", [0, 1, 30], ids=["json", "msgpack", "deflate"])
def test_members_go_on_where_they_were(world, variant):
    alice, bob = world.member("alice"), world.member("bob", variant=variant)
    epoch = alice.join(LOBBY)["epoch"]
    bob.join(LOBBY)
    alice.publish(LOBBY, "before")
    succeed(world, [alice, bob])
    assert bob.publish(LOBBY, "after") == {"offset": 2, "epoch": epoch}
    for member in (alice, bob):
        assert [(push["offset"], push["content"]) for push in member.pushes()] == [
            (1, "before"),
            (2, "after"),
        ]


def test_history_and_recovery_reach_behind_the_hand_over(world):
    alice, late = world.member("alice"), world.member("late")
    epoch = alice.join(LOBBY)["epoch"]
    for text in ("one", "two", "three"):
        alice.publish(LOBBY, text)
    succeed(world, [alice, late])
    joined = late.join(LOBBY, offset=1, epoch=epoch)
    assert joined["recovered"]
    assert [each["content"] for each in joined["messages"]] == ["two", "three"]
    page = late.ask("history", room=LOBBY, content={"limit": 10})["content"]
    assert [each["content"] for each in page["messages"]] == ["one", "two", "three"]


def test_a_room_that_nobody_is_in_keeps_its_order(world):
    alice = world.member("alice")
    epoch = leave_one(alice, "events:empty")
    succeed(world, [alice])
    alice.join("events:empty")
    assert alice.publish("events:empty", "two", type="publish") == {"offset": 2, "epoch": epoch}


def test_a_repeat_with_a_key_is_known_afterwards(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    first = alice.publish(LOBBY, "once", key="k")
    succeed(world, [alice])
    assert alice.publish(LOBBY, "once", key="k") == {**first, "duplicate": True}


def test_what_came_in_advance_is_continued_and_not_repeated(world):
    alice = world.member("alice")
    alice.join(LOBBY)
    alice.publish(LOBBY, "one", key="a")
    ours = world.core.handover
    new = World(clock=world.clock)
    from realtime.core.contracts import Position
    from realtime.ids import RoomId

    known = {}
    for state in ours.streams({}):
        new.core.handover.adopt_stream(state)
        known[RoomId(state.tenant, state.room)] = Position(state.offset + len(state.pushes), state.epoch)
    alice.publish(LOBBY, "two", key="b")
    leave_one(alice, "events:new")
    for state in ours.streams(known):
        new.core.handover.adopt_stream(state)
    bob = new.member("bob")
    page = bob.ask("history", room=LOBBY, content={"limit": 10})
    assert page["type"] == "error"  # not joined
    bob.join(LOBBY)
    page = bob.ask("history", room=LOBBY, content={"limit": 10})["content"]
    assert [each["content"] for each in page["messages"]] == ["one", "two"]
    assert bob.join("events:new")["offset"] == 1


def test_a_slice_that_does_not_follow_is_refused(world):
    alice = world.member("alice")
    leave_one(alice, EVENTS)
    new = World(clock=world.clock)
    (state,) = world.core.handover.streams({})
    new.core.handover.adopt_stream(state)
    with pytest.raises(ValueError, match="does not follow"):
        new.core.handover.adopt_stream(state)


def test_rooms_forgotten_meanwhile_are_forgotten(world):
    alice = world.member("alice")
    epoch = leave_one(alice, EVENTS)
    new = World(clock=world.clock)
    for state in world.core.handover.streams({}):
        new.core.handover.adopt_stream(state)
    new.core.handover.keep_only([])
    assert new.member("bob").join(EVENTS)["epoch"] != epoch


def test_nobody_is_told_of_presence_that_did_not_change(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    world.pass_time(1)
    alice.read(), bob.read()
    new = succeed(world, [alice, bob])
    new.pass_time(5)
    assert alice.read() == bob.read() == []
    assert sorted(alice.ask("presence", room=LOBBY)["content"]["members"]) == ["alice", "bob"]


def test_presence_that_was_about_to_be_told_is_told(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    world.pass_time(1)
    bob.join(LOBBY)
    new = succeed(world, [alice, bob])
    new.pass_time(1)
    assert [each["content"]["joined"] for each in alice.pushes("presence") if "joined" in each["content"]][
        -1:
    ] == [["bob"]]


def test_who_lingers_goes_on_lingering_and_no_longer():
    world = World(limits=Limits(presence_grace_s=10))
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    world.pass_time(1)
    bob.leave()
    world.pass_time(4)
    new = succeed(world, [alice])
    alice.read()
    new.pass_time(5)
    assert alice.ask("presence", room=LOBBY)["content"]["count"] == 2
    new.pass_time(2)
    assert alice.ask("presence", room=LOBBY)["content"]["count"] == 1


def test_who_could_not_move_may_come_back():
    world = World(limits=Limits(presence_grace_s=10))
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    world.pass_time(1)
    new = succeed(world, [alice], stays=[bob])
    alice.read()
    new.pass_time(1)
    assert alice.ask("presence", room=LOBBY)["content"]["count"] == 2
    new.pass_time(10)
    assert alice.ask("presence", room=LOBBY)["content"]["count"] == 1


def test_a_room_whose_members_stay_is_closed_without_grace(world):
    bob = world.member("bob")
    bob.join(LOBBY)
    world.pass_time(1)
    new = succeed(world, [], stays=[bob])
    new.pass_time(5)
    assert new.core.stats()["rooms"] == 0


def test_passive_members_count_on(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    rest(bob)
    alice.publish(LOBBY, "one")
    world.pass_time(1)
    assert counts(bob) == [1]
    alice.publish(LOBBY, "two")
    new = succeed(world, [alice, bob])
    alice.publish(LOBBY, "three")
    new.pass_time(1)
    assert counts(bob) == [3]
    assert bob.pushes() == []
    bob.join(LOBBY)
    alice.publish(LOBBY, "four")
    assert [push["content"] for push in bob.pushes()] == ["four"]


def test_tokens_end_when_they_would_have_and_the_warning_comes_once():
    world = World(token_warning_s=30)
    alice = world.member("alice", expires_in=100)
    world.pass_time(80)
    assert len(alice.pushes("token_expiring")) == 1
    new = succeed(world, [alice], token_warning_s=30)
    new.pass_time(10)
    assert alice.read() == []
    new.pass_time(11)
    assert alice.connection.closed[0] == 4003


def test_what_is_revoked_stays_revoked(world):
    alice = world.member("alice")
    revoked = Revocation(TenantId("default"), UserId("mallory"), None, 2e9, 3e9)
    world.core.control._on_revoked([revoked])
    new = succeed(world, [alice])
    with pytest.raises(Unauthorized):
        new.member("mallory")


def test_rates_go_on_where_they_were():
    world = World(
        limits=Limits(messages_per_second=1, messages_burst=8, messages_per_second_per_user=1, rate_burst_s=4)
    )
    alice = world.member("alice")
    alice.join(LOBBY)
    sent = 0
    while alice.ask("chat_message", room=LOBBY, content="x")["type"] == "ack":
        sent += 1
    assert sent < 8
    new = succeed(world, [alice])
    assert alice.error("chat_message", room=LOBBY, content="x") == "rate_limited"
    new.pass_time(60)
    assert alice.publish(LOBBY, "x")["offset"] == sent + 1


def test_room_tokens_hold_and_end(world):
    from realtime.core.auth import ALL_ACTIONS, Grant
    from realtime.ids import RoomName

    def rules(each):
        each.rule_rooms({"rooms": ["chat:secret"], "private": True})

    rules(world)
    world.grants["t"] = Grant(
        UserId("alice"), TenantId("default"), RoomName("chat:secret"), ALL_ACTIONS, world.clock.time() + 50
    )
    alice = world.member("alice")
    assert alice.ask("join", room="chat:secret", content={"token": "t"})["type"] == "joined"
    new = succeed(world, [alice])
    rules(new)
    assert alice.publish("chat:secret", "in")["offset"] == 1
    alice.read()
    new.pass_time(51)
    assert [each["content"]["reason"] for each in alice.pushes("left")] == ["room_token_expired"]


def test_strangers_may_still_send_their_token(world):
    carol = world.stranger(user="carol")
    dave = world.stranger()
    world.tokens["c"] = world.tokens["d"] = None
    from realtime.core.auth import Identity

    world.tokens["c"], world.tokens["d"] = Identity(UserId("carol")), Identity(UserId("dave"))
    succeed(world, [carol, dave])
    assert dave.ask("connect", content={"token": "d"})["type"] == "connected"
    assert carol.ask("connect", content={"token": "d"})["type"] == "error"


def test_members_that_may_not_publish_may_not_afterwards(world):
    world.rule({"actions": ["join", "history"], "effect": "allow"}, default="deny")
    alice = world.member("alice")
    alice.join(LOBBY)
    assert alice.error("chat_message", room=LOBBY, content="x") == "forbidden"
    new = succeed(world, [alice])
    new.rule({"actions": ["join", "history"], "effect": "allow"}, default="deny")
    assert alice.error("chat_message", room=LOBBY, content="x") == "forbidden"


def test_many_rooms_of_one_session_stay_its_own(world):
    alice, bob = world.member("alice"), world.member("bob")
    rooms = [f"chat:{number}" for number in range(20)]
    for room in rooms:
        alice.join(room)
        bob.join(room)
    succeed(world, [alice, bob])
    for room in rooms:
        alice.publish(room, room)
    assert sorted(push["content"] for push in bob.pushes()) == sorted(rooms)
    for room in rooms:
        assert bob.ask("leave", room=room)["type"] == "ack"


def test_the_one_who_goes_is_as_it_was(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    before = world.core.stats()
    sessions = [alice.session, bob.session]
    ours = world.core.handover
    list(ours.streams({})), ours.state(), list(ours.rooms(sessions, [])), ours.rosters()
    assert world.core.stats() == before
    alice.publish(LOBBY, "on")
    assert [push["content"] for push in bob.pushes()] == ["on"]


def test_busy_while_an_ack_is_owed(world):
    assert world.core.handover.busy == 0
    asyncio.run(world.core.handover.settle())
