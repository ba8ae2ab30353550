"""Acks that wait for a commit: by callbacks, in order, each once, whatever becomes of who waits."""

import asyncio

import pytest

from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.pending import Pending
from realtime.errors import Unavailable
from tests.core.slow_broker import settle
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeHub
from tests.oracles.store import FakeStore

LOBBY = "chat:lobby"


# ---------------------------------------------------------------- the object


async def test_callbacks_are_told_in_their_order_and_late_ones_at_once():
    pending, told = Pending(), []
    for name in "ab":
        pending.then(lambda outcome, name=name: told.append((name, outcome)))
    assert told == []
    pending.settle(1)
    pending.then(lambda outcome: told.append(("late", outcome)))
    assert told == [("a", 1), ("b", 1), ("late", 1)]
    with pytest.raises(AssertionError):
        pending.settle(2)


async def test_a_callback_that_fails_is_logged_and_the_others_are_told(caplog):
    pending, told = Pending(), []
    pending.then(lambda outcome: 1 / 0)
    pending.then(told.append)
    pending.settle(1)
    assert told == [1]
    assert "ZeroDivisionError" in caplog.text


async def test_many_may_await_it_before_and_after_and_one_that_is_cancelled_harms_no_other(caplog):
    pending = Pending()

    async def wait():
        return await pending

    tasks = [asyncio.ensure_future(wait()) for _ in range(3)]
    await settle()
    tasks[0].cancel()
    await settle()
    pending.settle("there")
    assert await asyncio.gather(*tasks[1:], pending) == ["there"] * 3
    assert tasks[0].cancelled()
    assert caplog.text == ""


async def test_whoever_awaits_a_failure_gets_it_raised_and_may_wait_for_it_without():
    pending = Pending()
    pending.settle(Unavailable("gone"))
    await pending.settled()
    with pytest.raises(Unavailable, match="gone"):
        await pending


# ---------------------------------------------------------------- acks of durable rooms


class Durable(World):
    """A world whose durable rooms stand on a store that commits when told."""

    def __init__(self, **options) -> None:
        self.store = FakeStore()
        clock = FakeClock()
        hub = FakeHub(clock)
        memory = MemoryBroker(clock, hub)
        super().__init__(broker=DurableBroker(memory, self.store, clock, hub), **options)
        self.tasks = []
        self.core._router._spawn = lambda work: self.tasks.append(asyncio.ensure_future(work))


@pytest.fixture
async def world():
    return Durable()


async def joined(world, user, room=LOBBY):
    member = world.member(user)
    member.send("join", id="j", room=room)
    await settle()
    member.answer("j")
    return member


async def test_pushes_and_acks_come_with_the_commit_in_order_and_no_task_is_made(world):
    alice = await joined(world, "alice")
    world.tasks.clear()
    alice.send_frame(*({"type": "chat_message", "id": n, "room": LOBBY, "content": n} for n in (1, 2)))
    await settle()
    assert alice.read() == []
    assert world.core.stats()["acks_owed"] == 2
    world.store.commit()
    seen = alice.read()
    assert [(each["type"], each.get("id")) for each in seen] == [
        ("chat_message", None),
        ("ack", 1),
        ("chat_message", None),
        ("ack", 2),
    ]
    assert seen[1]["content"] == {"offset": 1, "epoch": "epoch1"}
    assert (world.tasks, world.core.stats()["acks_owed"]) == ([], 0)


async def test_what_was_not_kept_is_an_error_to_its_sender_with_and_without_an_id(world):
    alice, bob = await joined(world, "alice"), await joined(world, "bob")
    alice.send("chat_message", id=1, room=LOBBY, content="x")
    alice.send("chat_message", room=LOBBY, content="y")
    world.store.fail()
    errors = alice.read()
    assert [(each["type"], each.get("id")) for each in errors] == [("error", 1), ("error", None)]
    content = errors[0]["content"]
    assert (content["name"], content["temporary"], content["retry_after"]) == ("unavailable", True, 3.0)
    assert bob.pushes() == []


async def test_a_repeat_of_a_key_is_acked_as_the_first_one_in_flight_or_kept(world):
    alice = await joined(world, "alice")
    for id in (1, 2):
        alice.send("chat_message", id=id, room=LOBBY, key="k", content="x")
    world.store.commit()
    alice.send("chat_message", id=3, room=LOBBY, key="k", content="x")
    acks = {each["id"]: each["content"] for each in alice.read() if each["type"] == "ack"}
    first = {"offset": 1, "epoch": "epoch1"}
    assert acks == {1: first, 2: first | {"duplicate": True}, 3: first | {"duplicate": True}}


async def test_a_key_survives_a_reconnect_of_its_sender_and_is_no_one_elses(world):
    alice = await joined(world, "alice")
    alice.send("chat_message", id=1, room=LOBBY, key="k", content="x")
    alice.leave()
    world.store.commit()
    alice, bob = await joined(world, "alice"), await joined(world, "bob")
    for member in (alice, bob):
        member.send("chat_message", id=1, room=LOBBY, key="k", content="x")
    world.store.commit()
    assert alice.answer(1)["content"] == {"offset": 1, "epoch": "epoch1", "duplicate": True}
    assert bob.answer(1)["content"] == {"offset": 2, "epoch": "epoch1"}


async def test_whoever_left_the_room_is_still_answered_and_whoever_is_gone_harms_nobody(world):
    alice, bob = await joined(world, "alice"), await joined(world, "bob")
    for member in (alice, bob):
        member.send("chat_message", id=1, room=LOBBY, content="x")
    alice.send("leave", id=2, room=LOBBY)
    bob.leave()
    assert world.core.stats()["rooms"] == 0
    world.store.commit()
    assert [(each["type"], each.get("id")) for each in alice.read() if "id" in each] == [
        ("ack", 2),
        ("ack", 1),
    ]
    assert [row.position.offset for row in world.store.rows[next(iter(world.store.rows))].values()] == [1, 2]


async def test_a_publication_that_commits_while_a_join_reads_the_store_comes_once(world):
    alice = await joined(world, "alice")
    for text in "abc":
        alice.send("chat_message", room=LOBBY, content=text)
    world.store.commit()
    restarted = Durable()
    restarted.store.rows = world.store.rows
    alice = await joined(restarted, "alice")
    restarted.store.answers = asyncio.Event()
    bob = restarted.member("bob")
    since = {"offset": 1, "epoch": "epoch1"}
    bob.send("join", id=1, room=LOBBY, content={"since": since})
    await settle()
    alice.send("chat_message", room=LOBBY, content="d")
    restarted.store.commit()
    restarted.store.answers.set()
    await settle()
    answer = bob.answer(1)["content"]
    assert (answer["offset"], answer["recovered"]) == (4, True)
    assert [each["content"] for each in answer["messages"]] == ["b", "c", "d"]
    alice.send("chat_message", room=LOBBY, content="e")
    restarted.store.commit()
    assert [each["content"] for each in bob.pushes()] == ["e"]


async def test_whoever_drains_can_wait_for_the_acks_that_are_owed_and_not_for_later_ones(world):
    alice = await joined(world, "alice")
    alice.send("chat_message", id=1, room=LOBBY)
    paid = asyncio.ensure_future(world.core.paid())
    await settle()
    alice.send("chat_message", id=2, room=LOBBY)
    assert not paid.done()
    world.store.commit(1)
    await settle()
    assert paid.done()
    assert alice.answer(1)["type"] == "ack"
    failing = asyncio.ensure_future(world.core.paid())
    await settle()
    world.store.fail()
    await failing
    assert alice.answer(2)["type"] == "error"


async def test_a_feature_may_await_what_it_publishes():
    done = []

    def handle(core, session, message):
        async def publish_and_note():
            await core.publish(session, message)
            done.append(message.type)

        return publish_and_note()

    feature = Feature(
        name="notes",
        kinds=(RoomKind(name="notes", durable=True),),
        messages=(MessageType(name="noted", kinds=frozenset({"notes"}), handler=handle),),
    )
    world = Durable(features=[feature])
    alice = await joined(world, "alice", "notes:x")
    for id in (1, 2):
        alice.send("noted", id=id, room="notes:x")
        await settle()
        assert done == []
        world.store.commit() if id == 1 else world.store.fail()
        await settle()
        assert done == ["noted"] * (id == 1)
        done.clear()
    assert [each["type"] for each in alice.read()] == ["noted", "ack", "error"]
