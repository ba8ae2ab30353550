"""Owner commands: they run where their room is owned, and say what became of them; alone, and in a ring."""

import asyncio
import json

import msgspec
import pytest

from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.cluster import BODY_BYTES_MAX, SLOTS, Change, NotServed, room_slot
from realtime.core.cluster_local import LocalCluster
from realtime.core.command import Order, decode_order, encode_order
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.core.owners import AGAIN_S, CONTENT_BYTES_MAX, PATIENCE_S
from realtime.errors import BadMessage, Conflict, Unavailable
from realtime.ids import RoomId, RoomName, TenantId, UserId
from tests import counting
from tests.core.world import World
from tests.oracles.hub import FakeClock

ROOM = "box:a"
HOME = RoomId(TenantId("default"), RoomName(ROOM))


class FakeCluster(LocalCluster):
    """A ring of which a test says what it is: who owns everything, and what the others answer."""

    def __init__(self):
        super().__init__(FakeClock(), lambda coroutine: pytest.fail("nothing is spawned here"), "me")
        self.owned_by = "me"
        self.version = 1
        self.asked = []
        self.outcomes = {}  # by worker: a list of answers, bytes or errors

    def fence(self, room):
        return self.version if self.owned_by == "me" else None

    def owner(self, room):
        return self.owned_by

    def watch(self, on_change):
        self.on_change = on_change

    def answer(self, verb, answer):
        if verb == "command":
            self.take = answer

    async def ask(self, worker, verb, body):
        self.asked.append((worker, decode_order(body)))
        outcome = self.outcomes[worker].pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def turn(self, owned_by, owned=(), disowned=()):
        self.owned_by = owned_by
        self.version += 1
        self.on_change(Change(self.version, (), (), owned, disowned))


def feature(handler, **options):
    return Feature(
        name="box",
        kinds=(RoomKind(name="box"), RoomKind(name="open", open_to_publish=True)),
        messages=(
            MessageType(name="box_do", kinds=frozenset({"box", "open"}), owner=handler),
            MessageType(name="box_done", kinds=frozenset({"box", "open"})),
        ),
        **options,
    )


def echo(core, command):
    return msgspec.json.encode([command.identity.user, command.room, command.type, command.key])


async def settle():
    """Let run what can run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Ring(World):
    """A world in a ring of which the test decides."""

    def __init__(self, handler=echo, **options):
        self.ring = FakeCluster()
        super().__init__(features=[feature(handler, **options)], cluster=self.ring)

    def start(self):
        """Run what was spawned, beside the test."""
        started = [asyncio.ensure_future(each) for each in self.waiting]
        self.waiting.clear()
        return started


def test_alone_a_command_is_answered_at_once_by_its_handler_with_an_ack():
    world = World(features=[feature(echo)])
    alice = world.member("alice")
    alice.join(ROOM)
    ack = alice.ask("box_do", room=ROOM, key="k", content={"x": 1})
    assert ack == {
        "type": "ack",
        "id": ack["id"],
        "room": ROOM,
        "content": ["alice", ["default", ROOM], "box_do", "k"],
    }
    assert not world.waiting
    alice.send("box_do", room=ROOM)  # without an id nobody waits for an answer
    assert alice.read() == []


def test_who_may_not_publish_the_type_there_may_not_command_it():
    world = World(features=[feature(echo)])
    alice = world.member("alice")
    assert alice.error("box_do", room=ROOM) == "not_joined"
    assert alice.ask("box_do", room="open:x")["type"] == "ack"
    assert alice.error("box_do", room="bad") == "bad_message"
    assert alice.error("box_do") == "bad_message"


def test_what_a_handler_raises_is_the_answer():
    def refuse(core, command):
        raise Conflict("it is closed")

    async def fail(core, command):
        raise RuntimeError("a bug")

    for handler, name in ((refuse, "conflict"), (fail, "internal")):
        world = World(features=[feature(handler)])
        alice = world.member("alice")
        alice.join(ROOM)
        alice.send("box_do", id=9, room=ROOM)
        world.run_waiting()
        assert alice.answer(9)["content"]["name"] == name


def test_a_command_and_its_answer_are_bounded_wherever_the_owner_is():
    world = World(
        features=[feature(lambda core, command: command.content * 2)], limits=Limits(content_bytes=1 << 20)
    )
    alice = world.member("alice")
    alice.join(ROOM)
    assert alice.error("box_do", room=ROOM, content="x" * CONTENT_BYTES_MAX) == "too_large"
    assert alice.error("box_do", room=ROOM, content="x" * (BODY_BYTES_MAX // 2)) == "too_large"


def test_a_counter_counts_in_its_owners_memory_and_publishes_each_step_once():
    world = World(features=[counting.FEATURE])
    alice = world.member("alice")
    alice.join("counter:a")
    for id in (101, 102, 103):
        alice.send("counter_add", id=id, key=f"k{min(id, 102)}", room="counter:a")
    world.run_waiting()
    answers = [alice.answer(id)["content"]["value"] for id in (101, 102, 103)]
    assert answers[:2] == [1, 2]
    assert [push["content"]["value"] for push in alice.pushes("counter_value")] == [1, 2]


def test_a_content_that_is_not_the_types_is_refused_before_it_goes_anywhere():
    message = MessageType(name="box_do", kinds=frozenset({"box"}), content=list[int], owner=echo)
    world = World(features=[Feature(name="box", kinds=(RoomKind(name="box"),), messages=(message,))])
    alice = world.member("alice")
    alice.join(ROOM)
    assert alice.error("box_do", room=ROOM, content="no list") == "bad_message"
    assert alice.ask("box_do", room=ROOM, content=[1])["type"] == "ack"


def test_a_type_with_an_owner_has_no_other_handler():
    for other in ({"ephemeral": True}, {"handler": lambda core, session, message: None}):
        message = MessageType(name="box_do", owner=echo, **other)
        with pytest.raises(ValueError, match="'box_do' is ephemeral, or handled, or its owner's"):
            Catalog([Feature(name="box", messages=(message,))])


async def test_a_command_for_another_workers_room_is_asked_there_and_its_answer_routed_back():
    world = Ring()
    alice = world.member("alice")
    alice.join(ROOM)
    world.ring.turn("other")
    world.ring.outcomes["other"] = [b'{"done":true}', Conflict("too late")]
    for id in (1, 2):
        alice.send("box_do", id=id, room=ROOM, key="k", content=[1])
        await asyncio.gather(*world.start())
    asked = [
        (worker, order.type, order.content, order.key, order.version) for worker, order in world.ring.asked
    ]
    assert asked == [("other", "box_do", b"[1]", "k", world.ring.version)] * 2
    assert world.ring.asked[0][1].identity == alice.session.identity
    assert alice.answer(1)["content"] == {"done": True}
    assert alice.answer(2)["content"]["name"] == "conflict"


async def test_a_command_that_meets_a_worker_that_is_no_owner_any_more_goes_on_to_the_next():
    world = Ring()
    alice = world.member("alice")
    alice.join(ROOM)
    world.ring.turn("gone")
    world.ring.outcomes["gone"] = [NotServed("gone")]
    world.ring.outcomes["next"] = [b"1"]
    alice.send("box_do", id=1, room=ROOM)
    running = world.start()
    await settle()
    assert [worker for worker, _ in world.ring.asked] == ["gone"]
    world.ring.turn("next")
    await asyncio.gather(*running)
    assert alice.answer(1)["content"] == 1


async def test_a_command_without_an_owner_waits_until_this_worker_is_it():
    world = Ring()
    alice = world.member("alice")
    alice.join(ROOM)
    world.ring.turn(None)
    alice.send("box_do", id=1, room=ROOM)
    running = world.start()
    await settle()
    world.ring.turn("me", owned=range(SLOTS))
    await asyncio.gather(*running)
    assert alice.answer(1)["type"] == "ack"


async def test_without_an_owner_for_too_long_the_answer_is_unavailable_with_when_to_come_again():
    world = Ring()
    alice = world.member("alice")
    alice.join(ROOM)
    world.ring.turn(None)
    alice.send("box_do", id=1, room=ROOM)
    running = world.start()
    for _ in range(int(PATIENCE_S / AGAIN_S)):
        await settle()
        assert not running[0].done()
        world.pass_time(AGAIN_S)
    await asyncio.gather(*running)
    error = alice.answer(1)["content"]
    assert (error["name"], error["retry_after"]) == ("unavailable", 1.0)
    assert world.core.stats()["commands_waiting"] == 0


async def test_what_may_have_been_done_is_never_given_to_another_owner():
    world = Ring()
    alice = world.member("alice")
    alice.join(ROOM)
    world.ring.turn("other")
    world.ring.outcomes["other"] = [Unavailable("no answer")]
    alice.send("box_do", id=1, room=ROOM)
    await asyncio.gather(*world.start())
    assert alice.answer(1)["content"]["name"] == "unavailable"
    assert len(world.ring.asked) == 1


@pytest.mark.parametrize("publishes_first", [False, True])
async def test_a_handler_whose_room_was_disowned_meanwhile_publishes_nothing_more(publishes_first):
    go_on = asyncio.Event()
    runs = []

    async def slow(core, command):
        runs.append(command.fence)
        if publishes_first:
            command.publish("box_done", b"1")
        await go_on.wait()
        command.publish("box_done", b"2")
        return b"{}"

    world = Ring(slow)
    alice = world.member("alice")
    alice.join(ROOM)
    alice.send("box_do", id=1, room=ROOM)
    running = world.start()
    await settle()
    world.ring.turn("other", disowned=[room_slot(HOME)])
    world.ring.turn("me", owned=[room_slot(HOME)])  # ours again; but what the handler knows is of before
    go_on.set()
    await asyncio.gather(*running)
    answer = alice.answer(1)
    pushed = [push["content"] for push in alice.pushes("box_done")]
    if publishes_first:  # done again it might be there twice
        assert (pushed, answer["content"]["name"], runs) == ([1], "unavailable", [1])
    else:
        assert (pushed, answer["type"], runs) == ([2], "ack", [1, 3])


async def test_an_owner_asked_under_a_ring_it_has_not_heard_of_waits_for_the_news():
    world = Ring()
    world.ring.turn("other")
    order = Order(
        world.ring.version + 1, HOME.tenant, HOME.room, "box_do", b"null", None, Identity(UserId("bob"))
    )
    answer = asyncio.ensure_future(world.ring.take("other", encode_order(order)))
    await settle()
    assert not answer.done()
    world.ring.turn("me", owned=range(SLOTS))
    assert json.loads(await answer)[0] == "bob"


def test_an_owner_that_is_none_says_so_and_what_is_no_command_is_refused():
    world = Ring()
    world.ring.turn("other")
    order = Order(
        world.ring.version, HOME.tenant, HOME.room, "box_do", b"null", None, Identity(UserId("bob"))
    )
    with pytest.raises(NotServed):
        world.ring.take("other", encode_order(order))
    for body in (b"", b"\xc1", b"[]", encode_order(order)[:-3]):
        with pytest.raises(BadMessage, match="another version"):
            world.ring.take("other", body)


def test_features_are_told_what_comes_and_goes_and_one_that_fails_harms_no_other(caplog):
    told = []

    def fail(core, slots):
        raise RuntimeError("a bug")

    ring = FakeCluster()
    features = [
        Feature(name="bad", own=fail, disown=fail),
        Feature(
            name="good",
            own=lambda core, slots: told.append(("own", list(slots))),
            disown=lambda core, slots: told.append(("disown", list(slots))),
        ),
    ]
    World(features=features, cluster=ring)
    ring.turn("me", owned=[1, 2])
    ring.turn("me", owned=[3, 1], disowned=[1, 2])
    ring.turn("me")
    assert told == [("own", [1, 2]), ("disown", [1, 2]), ("own", [3, 1])]
    assert "feature 'bad' failed" in caplog.text


def test_alone_a_worker_owns_everything_from_its_start_on():
    told = []
    world = World(features=[Feature(name="good", own=lambda core, slots: told.append(len(slots)))])
    assert told == [SLOTS]
    cluster = world.core.cluster
    assert cluster.owner(HOME) == cluster.worker
    assert cluster.fence(HOME) == int(world.clock.time() * 1000)


async def test_a_worker_alone_asks_and_tells_itself(caplog):
    cluster = World().core.cluster
    heard = []

    async def later(worker, body):
        return body + b"!"

    def fail(worker, body):
        raise RuntimeError("a bug")

    cluster.answer("now", lambda worker, body: body)
    cluster.answer("later", later)
    cluster.answer("note", lambda worker, body: heard.append(body))
    cluster.answer("fail", fail)
    assert await cluster.ask(cluster.worker, "now", b"x") == b"x"
    assert await cluster.ask(cluster.worker, "later", b"x") == b"x!"
    assert await cluster.ask(cluster.worker, "note", b"x") == b""
    for worker, verb in (("somebody", "now"), (cluster.worker, "unknown")):
        with pytest.raises(NotServed):
            await cluster.ask(worker, verb, b"")
    cluster.tell("note", b"y")
    cluster.tell("note", b"z", cluster.worker)
    cluster.tell("note", b"-", "somebody")
    cluster.tell("fail", b"")
    assert heard == [b"x", b"y", b"z"]
    assert "the answer to 'fail' failed" in caplog.text
    with pytest.raises(ValueError, match="answered already"):
        cluster.answer("now", later)
