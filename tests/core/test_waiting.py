"""A broker that answers late: nothing is lost, doubled or reordered while something waits for it."""

import asyncio

import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.limits import Limits
from realtime.errors import BrokerUnavailable, Unavailable
from realtime.protocol.session import State
from tests.core.slow_broker import SlowBroker, settle
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeHub

LOBBY = "chat:lobby"


@pytest.fixture
async def world():
    return slow_world()


def slow_world(**options) -> World:
    clock = FakeClock()
    world = World(broker=SlowBroker(MemoryBroker(clock, FakeHub(clock))), **options)
    tasks = set()
    world.core._router._spawn = lambda coroutine: tasks.add(asyncio.ensure_future(coroutine))
    return world


async def join(world, member, **fields):
    member.send("join", id="j", room=LOBBY, **fields)
    await settle()
    await world.broker.answer()
    return member.answer("j")["content"]


@pytest.mark.parametrize("looks_late", [False, True])
async def test_a_join_waits_and_what_is_published_meanwhile_comes_once(world, looks_late):
    world.broker.looks_late = looks_late
    alice, bob = world.member("alice"), world.member("bob")
    epoch = (await join(world, alice))["epoch"]
    alice.send("chat_message", room=LOBBY, content="before")
    bob.send("join", id=1, room=LOBBY, content={"since": {"offset": 0, "epoch": epoch}})
    await settle()
    for text in ("meanwhile 1", "meanwhile 2"):
        alice.send("chat_message", room=LOBBY, content=text)
    assert bob.read() == []
    await world.broker.answer()  # the publication before
    await world.broker.answer()  # bob's join
    joined = bob.answer(1)["content"]
    assert [each["content"] for each in joined["messages"]] == ["before", "meanwhile 1", "meanwhile 2"]
    assert (joined["recovered"], joined["offset"]) == (True, 3)
    alice.send("chat_message", room=LOBBY, content="after")
    assert [(each["content"], each["offset"]) for each in bob.pushes()] == [("after", 4)]
    assert bob.session.live[LOBBY].recent == [], "kept while somebody is joining, and no longer"


async def test_a_join_that_is_not_recovered_still_says_where_its_pushes_begin(world):
    alice, bob = world.member("alice"), world.member("bob")
    await join(world, alice)
    bob.send("join", id=1, room=LOBBY)
    await settle()
    alice.send("chat_message", room=LOBBY)
    await world.broker.answer()
    joined = bob.answer(1)["content"]
    assert (joined["offset"], joined["recovered"], joined["messages"]) == (1, False, [])


async def test_messages_behind_a_waiting_join_wait_for_it_in_their_order(world):
    alice = world.member("alice")
    alice.send_frame(
        {"type": "join", "id": 1, "room": LOBBY},
        {"type": "chat_message", "id": 2, "room": LOBBY, "content": "x"},
        {"type": "join", "id": 3, "room": "chat:two"},
        {"type": "leave", "id": 4, "room": LOBBY},
        {"type": "ping", "id": 5},
    )
    await settle()
    assert alice.read() == []
    await world.broker.answer()  # join 1
    await world.broker.answer()  # publication 2
    assert [each.get("id") for each in alice.read()] == [1, None, 2]
    await world.broker.answer()  # join 3
    assert [each["id"] for each in alice.read()] == [3, 4, 5]


async def test_acks_come_when_the_broker_has_answered_and_pushes_do_not_wait(world):
    alice = world.member("alice")
    await join(world, alice)
    alice.send("chat_message", id=1, room=LOBBY, content="x")
    await settle()
    assert [each["type"] for each in alice.read()] == ["chat_message"]
    await world.broker.answer()
    assert alice.answer(1)["content"]["offset"] == 1


async def test_what_the_broker_refuses_later_is_answered_as_an_error(world):
    alice = world.member("alice")
    alice.send("join", id=1, room=LOBBY)
    await settle()
    await world.broker.answer(BrokerUnavailable(retry_after_s=2.0))
    error = alice.answer(1)["content"]
    assert (error["name"], error["temporary"], error["retry_after"]) == ("unavailable", True, 2.0)
    assert world.core.stats()["rooms"] == 0
    assert alice.ask("ping")["type"] == "pong"
    await join(world, alice)
    alice.send("history", id=2, room=LOBBY)
    await settle()
    await world.broker.answer(BrokerUnavailable())
    assert alice.answer(2)["content"]["name"] == "unavailable"


async def test_who_had_much_under_way_when_the_broker_went_away_has_caused_no_error_and_stays():
    world = slow_world(limits=Limits(errors_burst=3, errors_per_second=1))
    alice = world.member("alice")
    await join(world, alice)
    for number in range(20):
        alice.send("chat_message", id=number, room=LOBBY, content=number)
    await settle()
    for number in range(20):
        await world.broker.answer(BrokerUnavailable("away", retry_after_s=1.0))
        assert alice.answer(number)["content"]["name"] == "unavailable"
    assert alice.connection.closed is None
    for number in range(20):
        alice.send("no_such_type", id=number)
    assert alice.connection.closed is not None, "what it causes itself is counted as ever"


async def test_history_is_answered_late(world):
    alice = world.member("alice")
    await join(world, alice)
    alice.send("chat_message", room=LOBBY, content="x")
    await world.broker.answer()
    alice.send("history", id=1, room=LOBBY)
    await settle()
    await world.broker.answer()
    assert [each["content"] for each in alice.answer(1)["content"]["messages"]] == ["x"]


async def test_whoever_leaves_while_joining_is_never_let_in(world):
    alice = world.member("alice")
    alice.send_frame({"type": "join", "id": 1, "room": LOBBY}, {"type": "join", "id": 2, "room": "chat:two"})
    await settle()
    alice.leave()
    await world.broker.answer()
    assert world.broker.questions == [], "the second join is not begun"
    stats = world.core.stats()
    assert (stats["rooms"], stats["sessions"], stats["tenants"]) == (0, 0, 0)


async def test_whoever_leaves_while_joining_may_come_back_at_once(world):
    alice = world.member("alice")
    alice.send("join", id=1, room=LOBBY)
    await settle()
    alice.leave()
    again = world.member("alice")
    again.send("join", id=2, room=LOBBY)
    await settle()
    await world.broker.answer()
    await world.broker.answer()
    assert again.answer(2)["content"]["count"] == 1
    again.leave()
    stats = world.core.stats()
    assert (stats["rooms"], stats["sessions"], stats["tenants"]) == (0, 0, 0)


async def test_two_may_join_one_room_at_once(world):
    alice, bob = world.member("alice"), world.member("bob")
    for member in (alice, bob):
        member.send("join", id=1, room=LOBBY)
    await settle()
    await world.broker.answer()
    alice.send("chat_message", room=LOBBY, content="x")
    await world.broker.answer()
    assert bob.answer(1)["content"]["offset"] == 1
    alice.leave()
    assert world.core.stats()["rooms"] == 1
    bob.leave()
    assert world.core.stats()["rooms"] == 0


async def test_what_waits_behind_a_join_is_bounded():
    world = slow_world(limits=Limits(backlog_messages=3))
    alice = world.member("alice")
    alice.send("join", id=1, room=LOBBY)
    for number in range(2, 7):
        alice.send("ping", id=number)
    await settle()
    refused = alice.read()
    assert [(each["id"], each["content"]["name"]) for each in refused] == [
        (5, "unavailable"),
        (6, "unavailable"),
    ]
    await world.broker.answer()
    assert [each["id"] for each in alice.read()] == [1, 2, 3, 4]


async def test_a_token_may_take_time_and_what_follows_it_waits():
    world = slow_world()
    world.tokens["t"] = world.member("alice").session.identity
    judged = asyncio.get_running_loop().create_future()

    async def authenticate(token):
        await judged
        return World.authenticate(world, token)

    world.core._entry._authenticator = type("Slow", (), {"authenticate": staticmethod(authenticate)})
    good, bad, other = world.stranger(), world.stranger(), world.stranger(user="bob")
    for stranger, token in ((good, "t"), (bad, "guess"), (other, "t")):
        stranger.send_frame(
            {"type": "connect", "id": 1, "content": {"token": token}}, {"type": "ping", "id": 2}
        )
    await settle()
    assert good.read() == bad.read() == other.read() == []
    assert good.session.state is State.AUTHENTICATING
    judged.set_result(None)
    await settle()
    assert [each["type"] for each in good.read()] == ["connected", "pong"]
    assert good.session.state is State.READY
    assert [each["content"]["name"] for each in bad.read()] == ["unauthorized"]
    assert bad.connection.closed[0] == 4500
    assert [each["content"]["name"] for each in other.read()] == ["forbidden"]
    assert other.connection.closed[0] == 4507


async def test_a_token_that_cannot_be_judged_now_may_be_sent_again():
    world = slow_world()
    identity = world.member("alice").session.identity
    answers = iter([Unavailable(), identity])

    async def authenticate(token):
        answer = next(answers)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    world.core._entry._authenticator = type("Shaky", (), {"authenticate": staticmethod(authenticate)})
    stranger = world.stranger()
    for number in (1, 2):
        stranger.send("connect", id=number, content={"token": "t"})
        await settle()
    first, second = stranger.read()
    assert (first["id"], first["content"]["name"], first["content"]["temporary"]) == (1, "unavailable", True)
    assert (second["id"], second["type"]) == (2, "connected")
