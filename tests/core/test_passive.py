"""Passive members: counted for and not sent to, and nothing is lost or doubled when they turn active."""

import asyncio
import itertools
import random

import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.passive import LOOKS_PER_TICK
from realtime.errors import BrokerUnavailable
from tests.core.slow_broker import SlowBroker, settle
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeHub

LOBBY = "chat:lobby"


@pytest.fixture
def slow():
    """A world whose broker orders elsewhere and answers late."""
    clock = FakeClock()
    world = World(broker=SlowBroker(MemoryBroker(clock, FakeHub(clock))))
    tasks = set()
    world.core._router._spawn = lambda coroutine: tasks.add(asyncio.ensure_future(coroutine))
    return world


def counts(member):
    return [each["content"]["count"] for each in member.pushes("unread")]


def rest(member):
    ack = member.ask("passive", room=LOBBY)
    assert ack["type"] == "ack", ack
    return ack["content"]


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
def test_a_passive_member_gets_the_count_and_no_message(world, variant):
    alice, bob = world.member("alice"), world.member("bob", variant=variant)
    alice.join(LOBBY)
    epoch = bob.join(LOBBY)["epoch"]
    alice.publish(LOBBY, "before")
    assert rest(bob) == {"offset": 1, "epoch": epoch}
    assert [push["content"] for push in bob.pushes()] == ["before"]
    for text in ("one", "two"):
        alice.publish(LOBBY, text)
    world.pass_time(1)
    unread = {"type": "unread", "room": LOBBY, "content": {"count": 2, "offset": 3, "epoch": epoch}}
    assert bob.read() == [unread]
    assert [push["offset"] for push in alice.pushes()] == [1, 2, 3]


def test_what_was_delivered_before_comes_before_the_ack(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    alice.publish(LOBBY, "before")
    bob.send("passive", id="p", room=LOBBY)
    alice.publish(LOBBY, "after")
    assert [each.get("id", each.get("content")) for each in bob.read()] == ["before", "p"]


def test_the_count_comes_at_most_once_a_second_and_only_when_it_grew(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    world.pass_time(1)  # who came is told
    rest(bob)
    bob.read()
    told = []
    for tick in range(1, 101):
        if tick <= 50:
            alice.publish(LOBBY)
        world.pass_time(0.1)
        told += [(tick, count) for count in counts(bob)]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(told)]
    assert told[-1][1] == 50
    assert min(gaps) >= 10
    assert 5 <= len(told) <= 6


def test_a_passive_member_stays_in_the_roster_and_hears_of_nobody(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    world.pass_time(1)
    rest(bob)
    bob.read()
    cy = world.member("cy")
    assert cy.join(LOBBY)["members"] == ["alice", "bob", "cy"]
    world.pass_time(1)
    assert [set(push["content"]["joined"]) for push in alice.pushes("presence")] == [{"alice", "bob"}, {"cy"}]
    assert bob.read() == []
    assert bob.ask("presence", room=LOBBY)["content"]["count"] == 3


def test_passive_is_idempotent_and_counts_from_the_first_time(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    rest(bob)
    alice.publish(LOBBY)
    assert rest(bob)["offset"] == 1
    alice.publish(LOBBY)
    world.pass_time(1)
    assert counts(bob) == [2]
    assert len(world.core._membership._passives) == 1


def test_who_turns_active_gets_what_was_missed_and_then_the_pushes(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    since = rest(bob)
    for text in ("one", "two"):
        alice.publish(LOBBY, text)
    joined = bob.join(LOBBY, **since)
    assert (joined["recovered"], joined["offset"]) == (True, 2)
    assert [each["content"] for each in joined["messages"]] == ["one", "two"]
    assert joined["count"] == 2
    alice.publish(LOBBY, "three")
    assert [push["content"] for push in bob.pushes()] == ["three"]
    world.pass_time(5)
    assert counts(bob) == []


def test_a_position_that_the_history_has_no_more_is_refused_whole_and_it_is_active_all_the_same():
    world = World(history_messages=3)
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    since = rest(bob)
    for number in range(5):
        alice.publish(LOBBY, number)
    joined = bob.join(LOBBY, **since)
    assert (joined["recovered"], joined["messages"], joined["offset"]) == (False, [], 5)
    alice.publish(LOBBY, "next")
    assert [push["content"] for push in bob.pushes()] == ["next"]


def test_a_join_without_a_position_turns_active_too(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    rest(bob)
    bob.send("join", room=LOBBY)
    alice.publish(LOBBY, "heard")
    assert [push["content"] for push in bob.pushes()] == ["heard"]


def test_publishing_while_passive_is_allowed_and_counts(world):
    bob = world.member("bob")
    bob.join(LOBBY)
    rest(bob)
    assert bob.publish(LOBBY, "mine")["offset"] == 1
    world.pass_time(1)
    assert counts(bob) == [1]
    assert bob.ask("history", room=LOBBY)["content"]["messages"][0]["content"] == "mine"


def test_a_passive_member_costs_the_fan_out_nothing(world):
    bob = world.member("bob")
    bob.join(LOBBY)
    rest(bob)
    assert [log.members for log in world.hub.logs] == [0]
    assert bob.session.live[LOBBY].lanes == {}
    world.member("alice").join(LOBBY)
    assert bob.session.live[LOBBY].log is not None, "a publication is still one call"


@pytest.mark.parametrize("go", ["leave the room", "disconnect"])
def test_a_passive_member_that_goes_is_gone(world, go):
    alice, bob = world.member("alice"), world.member("bob")
    bob.join(LOBBY)
    rest(bob)
    alice.join(LOBBY)
    if go == "disconnect":
        bob.leave()
    else:
        assert bob.ask("leave", room=LOBBY)["type"] == "ack"
    alice.publish(LOBBY)
    world.pass_time(2)
    assert counts(bob) == []
    assert alice.ask("presence", room=LOBBY)["content"]["members"] == ["alice"]
    alice.leave()
    assert world.core.stats()["rooms"] == 0
    assert len(world.core._membership._passives) == 0


def test_a_room_lives_as_long_as_a_passive_member_is_in_it(world):
    alice, bob = world.member("alice"), world.member("bob")
    alice.join(LOBBY)
    bob.join(LOBBY)
    rest(bob)
    alice.leave()
    world.pass_time(400)
    assert world.core.stats()["rooms"] == 1
    world.member("cy").join(LOBBY)
    since = {"offset": 0, "epoch": bob.join(LOBBY)["epoch"]}
    assert bob.join(LOBBY, **since)["recovered"] is True


def test_one_who_is_not_in_the_room_cannot_be_passive_there(world):
    bob = world.member("bob")
    assert bob.error("passive", room=LOBBY) == "not_joined"
    assert bob.error("passive", room="nokind:x") == "bad_message"
    assert bob.error("passive") == "bad_message"


def test_without_an_id_it_turns_passive_and_says_nothing(world):
    bob = world.member("bob")
    bob.join(LOBBY)
    bob.send("passive", room=LOBBY)
    assert bob.read() == []
    bob.publish(LOBBY)
    assert bob.pushes() == []


def test_many_passive_members_are_told_in_slices():
    world = World()
    members = [world.member(f"user {number}") for number in range(LOOKS_PER_TICK + 10)]
    for member in members:
        member.join(LOBBY)
        member.send("passive", room=LOBBY)
    members[0].publish(LOBBY)
    world.pass_time(1)
    assert sum(bool(counts(member)) for member in members) == LOOKS_PER_TICK
    world.pass_time(0.1)
    assert sum(bool(counts(member)) for member in members) == 10


async def test_where_the_order_is_given_elsewhere_it_is_counted_too(slow):
    alice, bob = slow.member("alice"), slow.member("bob")
    for member in (alice, bob):
        member.send("join", id="j", room=LOBBY)
        await settle()
        await slow.broker.answer()
    alice.send("chat_message", room=LOBBY, content="before")
    await slow.broker.answer()
    bob.send_frame({"type": "passive", "id": 1, "room": LOBBY}, {"type": "ping", "id": 2})
    await settle()
    alice.send("chat_message", room=LOBBY, content="meanwhile")
    await slow.broker.answer()  # where the room was when it was asked
    answers = [each for each in bob.read() if each["type"] != "joined"]
    assert [each.get("id", each.get("content")) for each in answers] == ["before", "meanwhile", 1, 2]
    assert answers[2]["content"]["offset"] == 2
    await slow.broker.answer()  # the publication
    for text in ("one", "two", "three"):
        alice.send("chat_message", room=LOBBY, content=text)
    slow.pass_time(1)
    assert counts(bob) == [3]
    bob.send(
        "join", id=3, room=LOBBY, content={"since": {"offset": 2, "epoch": answers[2]["content"]["epoch"]}}
    )
    await settle()
    for _ in range(4):
        await slow.broker.answer()
    joined = bob.answer(3)["content"]
    assert [each["content"] for each in joined["messages"]] == ["one", "two", "three"]
    assert bob.session.live[LOBBY].log is not None, "nobody is passive: a publication is one call again"


async def test_a_broker_that_gives_no_answer_leaves_the_member_active(slow):
    bob = slow.member("bob")
    bob.send("join", id="j", room=LOBBY)
    await settle()
    await slow.broker.answer()
    bob.send("passive", id=1, room=LOBBY)
    await settle()
    await slow.broker.answer(BrokerUnavailable())
    assert bob.answer(1)["content"]["name"] == "unavailable"
    bob.send("chat_message", room=LOBBY, content="heard")
    assert [push["content"] for push in bob.pushes()] == ["heard"]


def test_over_any_turns_nothing_is_lost_and_nothing_comes_twice():
    for seed in range(50):
        dice = random.Random(seed)
        world = World()
        alice, bob = world.member("alice"), world.member("bob", variant=dice.randrange(2))
        alice.join(LOBBY)
        epoch = bob.join(LOBBY)["epoch"]
        seen: list[int] = []
        passive, published, since_passive = False, 0, 0

        def take(pushes, *, passive, seen=seen, seed=seed):
            assert not (passive and pushes), f"seed {seed}: pushes while passive"
            seen += [push["offset"] for push in pushes]

        for _ in range(dice.randrange(200)):
            match dice.randrange(5):
                case 0 | 1:
                    alice.publish(LOBBY)
                    published += 1
                case 2:
                    take(bob.pushes(), passive=passive)
                    since_passive = since_passive if passive else published
                    passive = True
                    assert rest(bob)["offset"] == published, f"seed {seed}"
                    take(bob.pushes(), passive=True)
                case 3:
                    take(bob.pushes(), passive=passive)
                    passive = False
                    joined = bob.join(LOBBY, offset=len(seen), epoch=epoch)
                    take(joined["messages"], passive=False)
                case 4:
                    take(bob.pushes(), passive=passive)
                    world.pass_time(dice.choice([0.1, 1.0]))
                    for count in counts(bob):
                        assert (passive, count) == (True, published - since_passive), f"seed {seed}"
        take(bob.pushes(), passive=passive)
        take(bob.join(LOBBY, offset=len(seen), epoch=epoch)["messages"], passive=False)
        assert seen == list(range(1, published + 1)), f"seed {seed}"
