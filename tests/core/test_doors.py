"""Private rooms: who gets in, what a room token allows there, and what ends with it."""

import asyncio

import pytest

from realtime.core import doors
from realtime.core.audit import Action, Event, Outcome
from realtime.core.auth import ALL_ACTIONS, Grant
from realtime.core.limits import Limits
from realtime.core.room_rules import RoomRules
from realtime.policy import Access, RoomRule
from tests.core.world import Member, World

ROOM, OTHER, PUBLIC, OPEN = "chat:secret-1", "chat:secret-2", "chat:lobby", "events:secret-1"
RULE = RoomRule(rooms=("*:secret-*",), private=True)
NEEDED = "this room is entered with a room token"


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def world(log: Log) -> World:
    return World(rules=RoomRules([RULE]), audit=log)


def give(world: World, token: str, user: str = "alice", room: str = ROOM, **more) -> str:
    """Make `token` a room token."""
    expires_at = world.clock.time() + more.pop("ttl_s", 60)
    settings = {"tenant": "default", "actions": ALL_ACTIONS, "expires_at": expires_at, **more}
    world.grants[token] = Grant(user=user, room=room, **settings)
    return token


def enter(member: Member, token: str, room: str = ROOM):
    return member.ask("join", room=room, content={"token": token})


def refused(answer) -> str:
    assert answer["content"]["name"] == "forbidden", answer
    return answer["content"]["message"]


def test_a_private_room_is_entered_with_its_token(world):
    alice = world.member("alice")
    assert enter(alice, give(world, "t"))["type"] == "joined"
    alice.publish(ROOM, {"text": "hi"})
    assert alice.pushes("chat_message")


def test_without_a_token_the_answer_is_the_same_whether_or_not_the_room_exists(world):
    alice, bob = world.member("alice"), world.member("bob")
    enter(alice, give(world, "t"))
    there, nowhere = bob.ask("join", room=ROOM), bob.ask("join", room=OTHER)
    assert refused(there) == refused(nowhere) == NEEDED
    assert {**there["content"]} == {**nowhere["content"]}
    for type in ("history", "presence", "passive", "leave", "chat_message"):
        there, nowhere = (bob.ask(type, room=room, content={"text": "x"}) for room in (ROOM, OTHER))
        assert there["type"] == "error"
        assert there["content"] == nowhere["content"]


def test_nobody_publishes_from_outside_even_where_the_kind_is_open(world):
    bob = world.member("bob")
    assert bob.ask("publish", room=OPEN, content=1)["type"] == "error"
    assert bob.ask("publish", room="events:public", content=1)["type"] != "ack"


@pytest.mark.parametrize(
    "other", [{"user": "bob"}, {"room": OTHER}, {"room": PUBLIC}, {"tenant": "acme"}, {"ttl_s": -1}]
)
def test_a_token_of_another_user_room_or_tenant_or_of_before_does_not_open(world, other):
    alice = world.member("alice")
    answer = enter(alice, give(world, "t", **{"user": "alice", **other}))
    assert "room token" in refused(answer)
    assert world.core.stats()["room_token_sessions"] == 0


def test_what_is_no_token_does_not_open(world):
    assert refused(enter(world.member("alice"), "made up")) == "the room token will not do: no such token"


def test_a_token_of_another_tenants_room_of_the_same_name_does_not_open(world):
    mallory = world.member("alice", tenant="acme")
    refused(enter(mallory, give(world, "t")))
    assert enter(mallory, give(world, "u", tenant="acme"))["type"] == "joined"


def test_a_room_that_is_not_private_asks_for_none(world):
    assert enter(world.member("alice"), "made up", PUBLIC)["type"] == "joined"


@pytest.mark.parametrize("missing", ["publish", "history", "presence"])
def test_a_token_allows_what_it_says_and_no_more(world, missing):
    alice, bob = world.member("alice"), world.member("bob")
    enter(bob, give(world, "b", user="bob"))
    bob.publish(ROOM, {"text": "before"})
    joined = enter(alice, give(world, "t", actions=ALL_ACTIONS - {missing}))
    answers = {
        "publish": alice.ask("chat_message", room=ROOM, content={"text": "x"}),
        "history": alice.ask("history", room=ROOM),
        "presence": alice.ask("presence", room=ROOM),
    }
    for action, answer in answers.items():
        assert (answer["type"] == "error") == (action == missing), (action, answer)
    assert joined["content"]["members"] == ([] if missing == "presence" else ["bob", "alice"])
    bob.publish(ROOM, {"text": "after"})
    assert [each["content"]["text"] for each in alice.pushes("chat_message")][-1] == "after"


def test_without_history_a_recovery_brings_none(world):
    alice, bob = world.member("alice"), world.member("bob")
    enter(bob, give(world, "b", user="bob"))
    joined = enter(alice, give(world, "t", actions=frozenset({"join"})))
    position = {"offset": joined["content"]["offset"], "epoch": joined["content"]["epoch"]}
    alice.ask("leave", room=ROOM)
    bob.publish(ROOM, {"text": "missed"})
    answer = alice.ask("join", room=ROOM, content={"token": "t", "since": position})
    assert (answer["content"]["recovered"], answer["content"]["messages"]) == (False, [])


def test_with_the_token_the_membership_ends_and_says_so(world, log):
    alice, bob = world.member("alice"), world.member("bob")
    enter(bob, give(world, "b", user="bob", ttl_s=600))
    enter(alice, give(world, "t", ttl_s=30, token_id="j1"))
    world.pass_time(29)
    assert not alice.pushes("left")
    world.pass_time(2)
    assert alice.pushes("left") == [
        {"type": "left", "room": ROOM, "content": {"reason": "room_token_expired"}}
    ]
    bob.publish(ROOM, {"text": "after"})
    assert not alice.pushes("chat_message")
    assert alice.error("chat_message", room=ROOM, content={"text": "x"}) == "forbidden"
    assert bob.ask("presence", room=ROOM)["content"]["members"] == ["bob"]
    assert [(each.action, each.outcome, each.detail) for each in log.events if each.actor == "alice"][:2] == [
        (Action.JOIN, Outcome.ALLOWED, {"jti": "j1"}),
        (Action.JOIN, Outcome.DENIED, {"jti": "j1", "reason": "room_token_expired"}),
    ]


def test_a_newer_token_goes_on_without_a_break(world):
    alice = world.member("alice")
    enter(alice, give(world, "t", ttl_s=30))
    world.pass_time(20)
    assert enter(alice, give(world, "u", ttl_s=60))["type"] == "joined"
    world.pass_time(30)
    assert not alice.pushes("left")
    alice.publish(ROOM, {"text": "still here"})
    world.pass_time(40)
    assert alice.pushes("left")


def test_who_is_in_and_joins_again_without_a_token_stays(world):
    alice = world.member("alice")
    enter(alice, give(world, "t"))
    alice.ask("passive", room=ROOM)
    assert alice.ask("join", room=ROOM)["type"] == "joined"


def test_who_left_needs_the_token_again(world):
    alice = world.member("alice")
    enter(alice, give(world, "t"))
    alice.ask("leave", room=ROOM)
    assert world.core.stats()["room_token_sessions"] == 0
    assert refused(alice.ask("join", room=ROOM)) == NEEDED


def test_a_session_that_is_gone_leaves_nothing_behind(world):
    alice = world.member("alice")
    enter(alice, give(world, "t"))
    alice.leave()
    assert world.core.stats()["room_token_sessions"] == 0
    assert len(world.core._membership.doors._ends) == 0


def test_joins_that_fail_hold_no_more_grants_than_there_may_be_rooms():
    world = World(rules=RoomRules([RULE]), limits=Limits(rooms_per_connection=3))
    alice = world.member("alice")
    for n in range(3):
        alice.join(f"chat:public-{n}")
    for n in range(20):
        room = f"chat:secret-{n}"
        assert enter(alice, give(world, f"t{n}", room=room), room)["content"]["name"] == "room_limit"
    (held,) = world.core._membership.doors._grants.values()
    assert len(held) <= 3


async def test_messages_behind_a_join_wait_while_its_token_is_judged(log):
    world = World(rules=RoomRules([RULE]), audit=log)
    world.judging = asyncio.get_running_loop().create_future()
    alice, stranger = world.member("alice"), world.member("bob")
    give(world, "t")
    alice.send("join", id="j", room=ROOM, content={"token": "t"})
    alice.send("chat_message", id="m", room=ROOM, content={"text": "hi"})
    stranger.send("join", id="j", room=ROOM, content={"token": "t"})
    assert alice.read() == []
    world.judging.set_result(None)
    while world.waiting:
        await world.waiting.pop(0)
    assert [each["type"] for each in alice.read() if "id" in each] == ["joined", "ack"]
    assert stranger.answer("j")["content"]["name"] == "forbidden"


async def test_who_is_gone_while_its_token_is_judged_enters_nothing(log):
    world = World(rules=RoomRules([RULE]), audit=log)
    world.judging = asyncio.get_running_loop().create_future()
    alice = world.member("alice")
    alice.send("join", id="j", room=ROOM, content={"token": give(world, "t")})
    alice.leave()
    world.judging.set_result(None)
    while world.waiting:
        await world.waiting.pop(0)
    assert world.core.stats()["rooms"] == 0
    assert world.core.stats()["room_token_sessions"] == 0


@pytest.mark.parametrize(
    "order", [{"token_id": "j1"}, {"user": "alice"}, {"everybody": True}], ids=lambda order: next(iter(order))
)
async def test_a_revoked_room_token_ends_the_membership_and_lets_nobody_in(world, order):
    now = world.clock.time()
    alice, bob = world.member("alice"), world.member("bob", tenant="acme")
    enter(bob, give(world, "b", user="bob", tenant="acme", issued_at=now - 10))
    enter(alice, give(world, "t", token_id="j1", issued_at=now - 10))
    await world.core.control.revoke(**order)
    world.pass_time(0.1)
    if alice.connection.open:  # a revocation of the user ends the connection with it
        assert alice.pushes("left")[0]["content"] == {"reason": "room_token_revoked"}
        assert "revoked" in refused(enter(alice, "t"))
    assert world.core.stats()["room_token_sessions"] == 1
    assert bob.ask("history", room=ROOM)["type"] == "history"


def test_a_crowd_whose_tokens_end_together_leaves_in_bounded_steps(monkeypatch):
    monkeypatch.setattr(doors, "PUT_OUT_AT_ONCE", 10)
    world = World(rules=RoomRules([RULE]))
    crowd = [world.member(f"u{n}") for n in range(25)]
    for n, member in enumerate(crowd):
        enter(member, give(world, f"t{n}", user=f"u{n}", ttl_s=30))
    world.pass_time(31)
    gone = [sum(not member.session.rooms for member in crowd)]
    while gone[-1] < 25:
        world.core.tick()
        gone.append(sum(not member.session.rooms for member in crowd))
    assert gone == [10, 20, 25]


def test_a_room_that_turns_private_is_left_by_those_without_a_token():
    rules = RoomRules()
    world = World(rules=rules)
    alice = world.member("alice")
    alice.join(ROOM)
    alice.publish(ROOM, {"text": "hi"})
    rules.replace([RULE])
    world.core.prepare_access(Access())()
    world.run_waiting()
    assert alice.pushes("left")[0]["content"] == {"reason": "forbidden"}
    assert alice.error("chat_message", room=ROOM, content={"text": "x"}) == "forbidden"
    rules.replace([])
    world.core.prepare_access(Access())()
    world.run_waiting()
    alice.join(ROOM)
