"""The rules at every place where they are asked, for those who come and for those who are there already."""

import asyncio

import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.audit import Action, Event, Outcome
from realtime.core.auth import Identity
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.ids import UserId
from realtime.policy import Access
from realtime.policy.loading import read_policy
from tests.core.slow_broker import SlowBroker, settle
from tests.core.world import Member, World
from tests.oracles.hub import FakeClock, FakeHub

STAFF = {"actions": ["*"], "roles": ["staff"], "rooms": ["*"]}
READ = {"actions": ["join", "history", "presence"], "rooms": ["chat:*"]}


class Log:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        self.events.append(event)


def deny(*actions: str, rooms: tuple[str, ...] = ("*",), **more) -> dict:
    return {"effect": "deny", "actions": list(actions), "rooms": list(rooms), **more}


def policy_of(*rules: dict) -> Access:
    return read_policy({"access": {"rules": list(rules)}}, "test").access


def texts(member: Member, type: str = "chat_message") -> list:
    return [each["content"] for each in member.pushes(type)]


# ---------------------------------------------------------------- join


def test_who_may_not_join_is_told_the_same_whether_or_not_there_is_such_a_room(world: World):
    world.rule(STAFF, default="deny")
    world.member("boss", roles=["staff"]).join("chat:there")
    alice = world.member("alice")
    answers = []
    for room in ("chat:there", "chat:not-there"):
        for type in ("join", "chat_message", "chat_typing", "history", "presence", "passive", "leave"):
            answer = alice.ask(type, room=room, content={})
            answer["content"]["message"] = answer["content"]["message"].replace(room, "ROOM")
            answers.append((room, type, answer["content"]))
    there, not_there = (
        [(type, said) for room, type, said in answers if room == which]
        for which in ("chat:there", "chat:not-there")
    )
    assert there == not_there
    assert {said["name"] for type, said in there} == {"forbidden", "not_joined"}


def test_a_role_lets_in_and_a_denial_wins(world: World):
    world.rule(STAFF, deny("join", rooms=("chat:board",), roles=["intern"]), default="deny")
    assert world.member("a").error("join", room="chat:board") == "forbidden"
    world.member("b", roles=["staff"]).join("chat:board")
    assert world.member("c", roles=["staff", "intern"]).error("join", room="chat:board") == "forbidden"


def test_everybody_has_rooms_of_their_own_and_kinds_stay_the_upper_bound(world: World):
    world.rule({"actions": ["*"], "rooms": ["user:*", "session:{user}:*"]}, default="deny")
    alice = world.member("alice")
    alice.join("session:alice:car")
    alice.join("user:alice")
    assert alice.error("join", room="session:bob:car") == "forbidden"
    assert alice.error("join", room="user:bob") == "forbidden"  # the rules would; the kind does not


def test_rules_of_one_tenant_are_not_anothers(world: World):
    world.rule(deny("join", tenants=["acme"]))
    world.member("alice").join("chat:lobby")
    assert world.member("alice", tenant="acme").error("join", room="chat:lobby") == "forbidden"


# ---------------------------------------------------------------- publish


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
def test_a_member_who_may_only_read_cannot_write_by_any_way(world: World, variant: int):
    world.rule(STAFF, READ, default="deny")
    boss, alice = world.member("boss", roles=["staff"]), world.member("alice", variant=variant)
    boss.join("chat:news")
    alice.join("chat:news")
    for _ in range(3):  # the first may take another way than those that repeat it
        assert alice.error("chat_message", room="chat:news", content="no") == "forbidden"
        boss.publish("chat:news", "yes")
    alice.send("chat_message", room="chat:news", content="no")
    alice.send_frame(*[{"type": "chat_message", "room": "chat:news", "content": "no"}] * 2)
    assert alice.error("chat_message", room="chat:news", content="no", key="k") == "forbidden"
    assert alice.error("chat_typing", room="chat:news", content={}) == "forbidden"
    assert texts(alice) == ["yes"] * 3
    assert texts(boss) == ["yes"] * 3


def test_one_room_that_one_may_only_read_limits_no_other(world: World):
    world.rule(deny("publish", rooms=("chat:news",)))
    alice = world.member("alice")
    alice.join("chat:news")
    alice.join("chat:lobby")
    for number in range(3):
        alice.publish("chat:lobby", number)
        assert alice.error("chat_message", room="chat:news", content="no") == "forbidden"
    assert texts(alice) == [0, 1, 2]


def test_a_type_can_be_denied_alone(world: World):
    world.rule(deny("publish:chat_read*"), deny("signal"))
    alice = world.member("alice")
    alice.join("chat:lobby")
    alice.publish("chat:lobby", type="chat_message")
    alice.publish("chat:lobby", type="chat_presence")
    assert alice.error("chat_read_receipt", room="chat:lobby", content={}) == "forbidden"
    assert alice.error("chat_typing", room="chat:lobby", content={}) == "forbidden"


def test_what_everybody_may_takes_the_straight_way_under_rules_too(world: World):
    world.rule({"actions": ["*"], "rooms": ["*"]}, default="deny")
    alice = world.member("alice")
    alice.join("chat:lobby")
    assert alice.session.limited is None


def test_a_command_is_sent_only_by_whom_the_rules_let():
    ran = []
    feature = Feature(
        name="counted",
        kinds=(RoomKind(name="count"),),
        messages=(
            MessageType(
                name="count_up", kinds=frozenset({"count"}), owner=lambda core, command: ran.append(1) or b"1"
            ),
        ),
    )
    world = World(features=[feature])
    world.rule(deny("command:count_up", roles=["guest"]))
    guest, user = world.member("guest", roles=["guest"]), world.member("user")
    for each in (guest, user):
        each.join("count:a")
    assert guest.error("count_up", room="count:a", content={}) == "forbidden"
    assert not ran
    assert user.ask("count_up", room="count:a", content={})["type"] == "ack"
    assert ran == [1]


# ---------------------------------------------------------------- history, presence


def test_who_may_not_read_history_gets_none_by_recovery_either(world: World):
    world.rule(deny("history", roles=["guest"]))
    alice, guest = world.member("alice"), world.member("guest", roles=["guest"])
    alice.join("chat:lobby")
    first = alice.publish("chat:lobby", "before")
    since = {"offset": 0, "epoch": first["epoch"]}
    assert world.member("other").join("chat:lobby", **since)["recovered"]
    joined = guest.join("chat:lobby", **since)
    assert (joined["recovered"], joined["messages"]) == (False, [])
    assert guest.error("history", room="chat:lobby", content={}) == "forbidden"
    alice.publish("chat:lobby", "now")
    assert texts(guest) == ["now"]
    again = guest.join("chat:lobby", **since)  # of a member
    assert (again["recovered"], again["messages"]) == (False, [])


def test_who_may_not_see_who_is_here_is_not_told_by_any_way(world: World):
    world.rule(deny("presence", roles=["guest"]))
    alice, guest = world.member("alice"), world.member("guest", roles=["guest"])
    alice.join("chat:lobby")
    joined = guest.join("chat:lobby")
    assert (joined["members"], joined["count"]) == ([], 0)
    assert guest.error("presence", room="chat:lobby") == "forbidden"
    world.member("bob").join("chat:lobby")
    world.pass_time(1.0)
    assert alice.pushes("presence")[0]["content"]["joined"] == ["alice", "guest", "bob"]
    assert not guest.pushes("presence")
    alice.publish("chat:lobby", "hi")
    assert texts(guest) == ["hi"]
    guest.ask("passive", room="chat:lobby")
    guest.join("chat:lobby")
    guest.ask("leave", room="chat:lobby")
    assert world.core.stats()["rooms"] == 1


def test_presence_is_denied_and_given_back_under_a_live_member(world: World):
    alice, bob = world.member("alice"), world.member("bob", roles=["guest"])
    alice.join("chat:lobby")
    bob.join("chat:lobby")
    world.pass_time(1.0)
    bob.read()
    world.rule(deny("presence", roles=["guest"]))
    world.member("carol").join("chat:lobby")
    world.pass_time(1.0)
    assert not bob.pushes("presence")
    world.rule()
    world.member("dave").join("chat:lobby")
    world.pass_time(1.0)
    assert bob.pushes("presence")[0]["content"]["joined"] == ["dave"]
    alice.publish("chat:lobby", "once")
    assert texts(bob) == ["once"]


# ---------------------------------------------------------------- changes under live sessions


def test_other_rules_hold_for_members_at_once(world: World):
    alice, boss = world.member("alice"), world.member("boss", roles=["staff"])
    for each in (alice, boss):
        each.join("chat:b")
        each.join("chat:a")
        for _ in range(3):  # the last one by the straightest way, which looks at the least
            each.publish("chat:a", "warm")
    alice.read()
    world.rule(STAFF, {"actions": ["join"], "rooms": ["chat:a"]}, default="deny")
    assert [each["room"] for each in alice.pushes("left")] == ["chat:b"]
    assert alice.error("chat_message", room="chat:a", content="no") == "forbidden"
    assert alice.error("chat_message", room="chat:b", content="no") == "forbidden"
    boss.publish("chat:b", "for staff")
    assert not texts(alice)
    assert boss.ask("presence", room="chat:b")["content"]["members"] == ["boss"]
    world.rule()
    alice.publish("chat:a", "again")
    assert texts(boss)[-1] == "again"
    assert alice.session.limited is None


def test_a_token_with_other_roles_changes_what_the_session_may(world: World):
    world.rule(STAFF, {"actions": ["join"], "rooms": ["chat:lobby"]}, default="deny")
    alice = world.member("alice", roles=["staff"])
    for room in ("chat:lobby", "chat:board"):
        alice.join(room)
        alice.publish(room, "as staff")
    alice.read()
    world.tokens["none"] = Identity(UserId("alice"))
    assert alice.ask("refresh", content={"token": "none"})["type"] == "ack"
    assert [(each["room"], each["content"]) for each in alice.pushes("left")] == [
        ("chat:board", {"reason": "forbidden"})
    ]
    assert alice.error("chat_message", room="chat:lobby", content="no") == "forbidden"
    world.tokens["staff"] = Identity(UserId("alice"), roles=frozenset({"staff"}))
    alice.ask("refresh", content={"token": "staff"})
    alice.publish("chat:lobby", "as staff")


async def test_who_may_not_join_any_more_when_the_broker_answers_is_not_let_in():
    clock = FakeClock()
    world = World(broker=SlowBroker(MemoryBroker(clock, FakeHub(clock))))
    alice = world.member("alice")
    alice.send("join", id=1, room="chat:lobby")
    joining = asyncio.ensure_future(world.waiting.pop())
    await settle()
    world.core.prepare_access(policy_of(deny("join")))()
    await world.broker.answer()
    await joining
    assert alice.answer(1)["content"]["name"] == "forbidden"
    assert world.core.stats()["rooms"] == 0
    world.waiting.pop().close()  # the look at those who are in rooms: nobody is


def test_all_sessions_are_looked_at_though_not_in_one_go(monkeypatch):
    monkeypatch.setattr("realtime.core.reviews.CONNECTIONS_AT_ONCE", 3)
    world = World()
    members = [world.member(f"u{number}") for number in range(10)]
    for each in members:
        each.join("chat:lobby")
    world.core.prepare_access(policy_of(deny("publish")))()
    world.core.prepare_access(policy_of(deny("join")))()  # the look for the one before ends
    asyncio.run(both(world))
    assert all(each.pushes("left") for each in members)
    assert world.core.stats()["rooms"] == 0


async def both(world: World) -> None:
    await asyncio.gather(*world.waiting)
    world.waiting.clear()


# ---------------------------------------------------------------- on record


def test_what_is_denied_is_on_record_with_who_and_where():
    log = Log()
    world = World(audit=log)
    world.rule(READ, deny("history", "presence"), default="deny")
    alice = world.member("alice", tenant="acme")
    alice.join("chat:lobby")
    alice.error("join", room="events:x")
    alice.error("chat_message", room="chat:lobby", content={"text": "not for the log"})
    alice.error("history", room="chat:lobby")
    alice.error("presence", room="chat:lobby")
    world.rule(deny("join"))
    said = [(each.action, each.target, each.detail["what"]) for each in log.events]
    assert said == [
        (Action.JOIN, "events:x", "join"),
        (Action.PUBLISH, "chat:lobby", "publish:chat_message"),
        (Action.READ, "chat:lobby", "history"),
        (Action.READ, "chat:lobby", "presence"),
        (Action.JOIN, "chat:lobby", "stay"),
    ]
    assert {(each.tenant, each.actor, each.outcome) for each in log.events} == {
        ("acme", "alice", Outcome.DENIED)
    }
    assert "not for the log" not in repr(log.events)
