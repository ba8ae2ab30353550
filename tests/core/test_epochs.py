"""What members are told when something is lost before it comes here, whatever they do at that moment."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from realtime.core.contracts import Recovery
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind, SlowReader
from tests.core.far_broker import FarBroker, FarStream
from tests.core.slow_broker import settle
from tests.core.world import Member, World

KINDS = (
    RoomKind(name="plain", presence=False),
    RoomKind(name="lossy", slow_reader=SlowReader.DROP_OLDEST, presence=False),
    RoomKind(name="state", slow_reader=SlowReader.LATEST, presence=False),
)
ROOMS = ["plain:a", "lossy:a", "state:a"]
TYPES = tuple(
    MessageType(name=name, kinds=frozenset(kind.name for kind in KINDS)) for name in ("play", "seek")
)
ENDED = {"from": None, "to": None, "reason": "epoch_changed"}


@pytest.fixture
async def world() -> World:
    town = World(broker=FarBroker(), features=[Feature(name="own", kinds=KINDS, messages=TYPES)])
    tasks = set()
    town.core._router._spawn = lambda coroutine: tasks.add(asyncio.ensure_future(coroutine))
    return town


def stream_of(world: World, room: str) -> FarStream:
    return world.broker.streams[room]


async def joining(world: World, member: Member, room: str, **since: Any) -> FarStream:
    member.send("join", id="j", room=room, content={"since": since} if since else {})
    await settle()
    return stream_of(world, room)


async def joined(world: World, member: Member, room: str, **since: Any) -> dict[str, Any]:
    (await joining(world, member, room, **since)).answer()
    await settle()
    return member.answer("j")["content"]


def seen(member: Member) -> list[Any]:
    """(offset, epoch) of pushes, contents of gaps, as they came."""
    return [
        each["content"] if each["type"] == "gap" else (each["offset"], each["epoch"])
        for each in member.read()
    ]


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
@pytest.mark.parametrize("room", ROOMS)
async def test_members_are_told_in_the_place_of_what_is_lost(world, room, variant):
    alice, bob = world.member("alice", variant=variant), world.member("bob")
    await joined(world, alice, room)
    await joined(world, bob, room)
    stream = stream_of(world, room)
    stream.push(1)
    stream.lose(3, "not_kept")
    stream.push(2)
    stream.turn(b"b", 4)
    stream.push(3)
    told = [(11, "a"), {"from": 12, "to": 14, "reason": "not_kept"}, (15, "a"), ENDED, (5, "b")]
    assert seen(alice) == told
    assert seen(bob) == told


@pytest.mark.parametrize("room", ROOMS[1:])
async def test_slow_members_are_never_told_numbers_across_epochs(world, room):
    """Whoever lags when an epoch ends leaves its log with what it had there: the next one counts anew."""
    alice = world.member("alice")
    await joined(world, alice, room)
    stream = stream_of(world, room)
    stream.push(1, 2)
    (log,) = alice.connection.logs
    stream.turn(b"b", 100)
    stream.push(3)
    (later,) = alice.connection.logs
    assert later is not log
    assert (log.offset, later.offset) == (12, 101)
    assert log.joined == []


async def test_the_latest_of_an_ended_epoch_are_not_given_for_those_of_the_next(world):
    alice = world.member("alice")
    await joined(world, alice, "state:a")
    stream = stream_of(world, "state:a")
    stream.push(1, type="play")
    stream.turn(b"b", 4)
    stream.push(2, type="seek")
    alice.read()
    (log,) = alice.connection.logs
    assert log.on_gap(alice.session, 4, 5) == 0
    assert seen(alice) == [(5, "b")]


async def test_who_closed_meanwhile_is_in_no_log(world):
    alice = world.member("alice")
    await joined(world, alice, "lossy:a")
    alice.connection.close(1000)
    stream_of(world, "lossy:a").turn(b"b")
    alice.leave()
    assert world.core.stats()["rooms"] == 0


# ---------------------------------------------------------------- passive


async def rest(world: World, member: Member, room: str) -> dict[str, Any]:
    member.send("passive", id="p", room=room)
    await settle()
    stream_of(world, room).answer()
    await settle()
    return member.answer("p")["content"]


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("offset", [4, 100])
async def test_a_passive_member_hears_of_an_epochs_end_and_is_counted_for_on_and_on(world, room, offset):
    alice = world.member("alice")
    await joined(world, alice, room)
    assert await rest(world, alice, room) == {"offset": 10, "epoch": "a"}
    stream = stream_of(world, room)
    stream.push(1, 2)
    stream.turn(b"b", offset)
    world.pass_time(1)
    stream.push(3, 4, 5)
    world.pass_time(1)
    told = [(each["type"], each["content"]) for each in alice.read()]
    assert told == [
        ("unread", {"count": 2, "offset": 12, "epoch": "a"}),
        ("gap", ENDED),
        ("unread", {"count": 5, "offset": offset + 3, "epoch": "b"}),
    ]


async def test_two_epochs_that_end_without_a_publication_count_nothing_twice(world):
    alice = world.member("alice")
    await joined(world, alice, "plain:a")
    await rest(world, alice, "plain:a")
    stream = stream_of(world, "plain:a")
    stream.push(1)
    stream.turn(b"b", 4)
    stream.turn(b"c", 2)
    stream.push(2)
    world.pass_time(1)
    counts = [each["content"]["count"] for each in alice.read() if each["type"] == "unread"]
    assert counts == [1, 2]


# ---------------------------------------------------------------- arriving


async def test_a_join_over_a_gap_is_not_recovered_and_begins_behind_it(world):
    alice, bob = world.member("alice"), world.member("bob")
    await joined(world, alice, "plain:a")
    stream = await joining(world, bob, "plain:a", offset=10, epoch="a")
    before = stream.recovery(None)._replace(recovered=True)
    stream.push(1)
    stream.lose(2)
    stream.push(2)
    stream.answer(before)
    await settle()
    content = bob.answer("j")["content"]
    assert (content["offset"], content["recovered"], content["messages"]) == (14, False, [])
    stream.push(3)
    assert seen(bob) == [(15, "a")]


async def test_a_join_behind_a_gap_that_nothing_has_followed_begins_behind_it(world):
    alice, bob = world.member("alice"), world.member("bob")
    await joined(world, alice, "plain:a")
    stream = await joining(world, bob, "plain:a", offset=10, epoch="a")
    before = stream.recovery(None)._replace(recovered=True)
    stream.lose(2)
    stream.answer(before)
    await settle()
    content = bob.answer("j")["content"]
    assert (content["offset"], content["recovered"]) == (12, False)


@pytest.mark.parametrize("answered", ["before", "after"])
async def test_a_join_across_epochs_is_asked_anew_and_says_the_new_one(world, answered):
    alice, bob = world.member("alice"), world.member("bob")
    await joined(world, alice, "plain:a")
    stream = await joining(world, bob, "plain:a", offset=9, epoch="a")
    stale = stream.recovery(None)
    stream.push(1)
    stream.turn(b"b", 4)
    stream.push(2)
    stream.answer(stale if answered == "before" else None)
    await settle()
    assert bob.read() == []
    stream.push(3)
    stream.answer()
    stream.push(4)
    await settle()
    content = bob.answer("j")["content"]
    assert (content["offset"], content["epoch"]) == (7, "b")
    assert (content["recovered"], content["messages"]) == (False, [])
    stream.push(5)
    assert seen(bob) == [(8, "b")]


async def test_whatever_happens_what_a_member_gets_after_joined_follows_its_position():
    for seed in range(200):
        await arrive(seed)


async def arrive(seed: int) -> None:
    """One run by dice: joins and their answers, with losses and new epochs at any moment."""
    dice = random.Random(seed)
    town = World(broker=FarBroker(), features=[Feature(name="own", kinds=KINDS, messages=TYPES)])
    tasks = set()
    town.core._router._spawn = lambda coroutine: tasks.add(asyncio.ensure_future(coroutine))
    room = dice.choice(ROOMS)
    members = [town.member(f"user {number}") for number in range(4)]
    await joined(town, members[0], room)
    stream = stream_of(town, room)
    for member in members[1:]:
        member.send("join", id="j", room=room, content={"since": {"offset": 10, "epoch": "a"}})
    held: dict[object, Recovery] = {}  # answers that are on their way while things go on
    for turn in range(60):
        move = dice.random()
        if move < 0.4:
            stream.push(turn)
        elif move < 0.5:
            stream.lose(dice.randint(1, 3))
        elif move < 0.55:
            stream.turn(b"e%d" % turn, dice.choice([None, 3]))
        elif move < 0.65 and stream.questions:
            future, since = stream.questions[0]
            held[future] = stream.recovery(since)
        elif move < 0.8 and stream.questions:
            stream.answer(held.get(stream.questions[0][0]))
        else:
            await settle()
    await settle()
    while stream.questions:
        stream.answer()
        await settle()
    stream.push("end")
    for member in members[1:]:
        told = member.read()
        content = next(each for each in told if each["type"] == "joined")["content"]
        if content["recovered"]:
            at = [(each["offset"], each["epoch"]) for each in content["messages"]]
            assert at == [(offset, "a") for offset in range(11, content["offset"] + 1)], f"seed {seed}"
        here = (content["offset"], content["epoch"])
        for each in told[told.index(next(each for each in told if each["type"] == "joined")) + 1 :]:
            if each["type"] != "gap":
                assert here is None or (each["offset"], each["epoch"]) == (here[0] + 1, here[1]), (
                    f"seed {seed}"
                )
                here = (each["offset"], each["epoch"])
            elif each["content"]["to"] is None:
                here = None
            elif here is not None:
                assert each["content"]["from"] == here[0] + 1, f"seed {seed}"
                here = (each["content"]["to"], here[1])
