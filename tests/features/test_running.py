"""A feature with tables of its own: opened, asked at every join, told of time, closed; and types that are
plain where it does not run.
"""

import asyncio
import inspect
import json

import msgspec
import pytest

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.again import AGAIN_S
from realtime.core.auth import ALL_ACTIONS, Grant
from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind
from realtime.core.outside import PUBLISH, Publication
from realtime.core.room_rules import RoomRules
from realtime.errors import BadMessage, Forbidden, Unavailable
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.policy import RoomRule
from tests.core.ring import Ring
from tests.core.slow_broker import SlowBroker, settle
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeHub

HERE = RoomId(TenantId("default"), RoomName("hall:a"))
MAY_NOT = "you may not join this room"


class Hall:
    """Keeps who may be in which room; where `asked` is a queue, the test answers the gate."""

    def __init__(self, core, services):
        self.core, self.services = core, services
        self.banned = set()
        self.questions = None
        self.fails = set()
        self.ticks = 0
        self.closed = 0
        self.taken = []

    @property
    def gates(self):
        return {"hall": self.admits}

    async def admits(self, identity, room):
        if self.questions is not None:
            question = asyncio.get_running_loop().create_future()
            self.questions.append((identity.user, room.room, question))
            await question
        if (identity.user, room.room) in self.fails:
            raise Unavailable("the store is away")
        return not {(identity.user, room.room), (None, room.room)} & self.banned

    def tick(self):
        self.ticks += 1
        if "tick" in self.fails:
            raise ValueError("over the clock")

    def stats(self):
        return {"hall_ticks": self.ticks}

    async def close(self):
        if "close" in self.fails:
            raise ValueError("over the end")
        self.closed += 1


def hall_of(world) -> Hall:
    return world.core.running["hall"]


async def speak(core, command):
    """The owner's handler: notes who asks, and publishes."""
    hall = core.running["hall"]
    hall.taken.append((command.identity.user, command.type, command.trusted, command.key))
    if b"refuse" in command.content:
        raise Forbidden("refused by the owner")
    found = json.loads(command.content)
    content = json.dumps({"heard": found}).encode()
    receipt = command.publish(command.type, content, key=command.key)
    offset, epoch, duplicate = await receipt if inspect.isawaitable(receipt) else receipt
    answer = {"offset": offset, "epoch": epoch.decode(), "more": "than a receipt"}
    return json.dumps(answer | ({"duplicate": True} if duplicate else {})).encode()


class Words(msgspec.Struct):
    text: str


def wave(core, session, message):
    session.send(b'{"type":"waved"}')


EVERYWHERE = frozenset({"hall", "yard"})
HALL = Feature(
    name="hall",
    kinds=(RoomKind(name="hall"),),
    messages=(
        MessageType(name="hall_say", kinds=EVERYWHERE, content=Words, owner=speak, plain=True),
        MessageType(name="hall_wave", kinds=EVERYWHERE, ephemeral=True, handler=wave, plain=True),
        MessageType(name="hall_knock", kinds=frozenset({"hall"}), owner=speak, from_outside=True),
        MessageType(name="hall_ask", handler=wave),
        MessageType(name="hall_event", kinds=EVERYWHERE),
    ),
    open=Hall,
)
YARD = Feature(name="yard", kinds=(RoomKind(name="yard"),))
FEATURES = [HALL, YARD]


class Tasks:
    """Runs what is spawned, in the running loop."""

    def __init__(self):
        self.all = set()

    def __call__(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.all.add(task)
        task.add_done_callback(self.all.discard)


def live(**options) -> World:
    """A world of an async test, where the feature runs."""
    return World(features=FEATURES, database=object(), spawn=Tasks(), **options)


@pytest.fixture
def world():
    return World(features=FEATURES, database=object())


@pytest.fixture
def idle():
    return World(features=FEATURES)


def joined(world, member, room="hall:a"):
    member.send("join", id="j", room=room)
    world.run_waiting()
    return member.answer("j")


# -- a feature's life ---------------------------------------------------------------------------------------


def test_it_is_opened_with_what_it_needs_and_told_of_time(world):
    hall = hall_of(world)
    assert hall.core is world.core
    assert hall.services.clock is world.clock
    world.pass_time(0.1)
    world.pass_time(0.1)
    assert world.core.stats()["hall_ticks"] == 2


def test_one_that_fails_over_the_clock_or_the_end_holds_up_nobody(world, caplog):
    hall_of(world).fails |= {"tick", "close"}
    alice = world.member("alice", expires_in=5)
    world.pass_time(6)
    assert alice.connection.closed is not None, "what is due after it is done"
    asyncio.run(world.core.close())
    assert "feature 'hall' failed over the clock" in caplog.text
    assert "feature 'hall' was not closed" in caplog.text


def test_without_a_store_nothing_is_opened(idle):
    assert idle.core.running == {}
    asyncio.run(idle.core.close())
    alice = idle.member("alice")
    assert alice.join("hall:a")["offset"] == 0, "and no gate is asked"


def test_a_kind_has_one_gate():
    twin = Feature(name="twin", kinds=(), open=Hall)
    with pytest.raises(ValueError, match="have a gate already"):
        World(features=[HALL, YARD, twin], database=object())


# -- plain types --------------------------------------------------------------------------------------------


def test_a_plain_type_is_its_owners_in_rooms_of_its_own_kind(world):
    alice, bob = world.member("alice"), world.member("bob", variant=1)
    for each in (alice, bob):
        joined(world, each)
    bob.send("hall_say", id="s", room="hall:a", content={"text": "hi"}, key="k")
    world.run_waiting()
    assert bob.answer("s")["content"] | {"epoch": "?"} == {
        "offset": 1, "epoch": "?", "more": "than a receipt"
    }  # fmt: skip
    (push,) = alice.pushes()
    assert (push["type"], push["from"], push["content"]) == ("hall_say", "bob", {"heard": {"text": "hi"}})
    assert hall_of(world).taken == [("bob", "hall_say", False, "k")]


def test_a_plain_type_is_an_event_in_rooms_of_other_kinds(world):
    alice = world.member("alice")
    alice.join("yard:a")
    assert alice.publish("yard:a", {"any": "thing"}, type="hall_say")["offset"] == 1
    assert alice.ask("hall_wave", room="yard:a", content=5)["content"] == {}
    events = [each for each in alice.read() if "content" in each]
    assert [(each["type"], each["content"]) for each in events] == [
        ("hall_say", {"any": "thing"}), ("hall_wave", 5)
    ]  # fmt: skip
    assert hall_of(world).taken == []


def test_a_plain_type_is_an_event_where_its_feature_does_not_run(idle):
    alice = idle.member("alice")
    alice.join("hall:a")
    assert alice.publish("hall:a", "any thing", type="hall_say")["offset"] == 1
    assert alice.ask("hall_wave", room="hall:a", content=5)["content"] == {}
    assert alice.error("hall_ask", room="hall:a") == "unavailable"
    assert alice.error("hall_knock", room="hall:a") == "unavailable"
    assert "store" in alice.ask("hall_ask")["content"]["message"]


def test_in_rooms_of_its_own_kind_its_content_is_checked(world):
    alice = world.member("alice")
    joined(world, alice)
    assert alice.error("hall_say", room="hall:a", content={"text": 5}) == "bad_message"
    assert alice.error("hall_say", room="hall:a") == "bad_message"


def test_a_room_that_the_content_names_is_told_by_its_kind_too():
    keys = Feature(name="keys", room_keys={"hall_id": "hall", "yard_id": "yard"})
    world = World(features=[HALL, YARD, keys], database=object())
    alice = world.member("alice")
    joined(world, alice)
    alice.join("yard:a")
    alice.send("hall_say", id=1, content={"text": "x", "hall_id": "a"})
    alice.send("hall_say", id=2, content={"no": "words", "yard_id": "a"})
    world.run_waiting()
    assert [alice.answer(id)["type"] for id in (1, 2)] == ["ack", "ack"]
    assert len(hall_of(world).taken) == 1
    assert alice.error("hall_say", content={"text": "x"}) == "bad_message"


SEALED = {"sealed": {"v": 1, "kid": "k1", "nonce": "A" * 16, "ct": "B" * 40}}


def test_what_is_sealed_end_to_end_goes_to_its_owner_as_it_is():
    rules = RoomRules([RoomRule(rooms=("hall:*",), end_to_end=True)])
    world = World(features=FEATURES, database=object(), rules=rules)
    alice = world.member("alice")
    joined(world, alice)
    alice.send("hall_say", id=1, room="hall:a", content={"text": "plain"})
    alice.send("hall_knock", id=2, room="hall:a", content=SEALED)
    world.run_waiting()
    assert [alice.answer(id)["content"]["name"] for id in (1, 2)] == ["bad_message", "bad_message"]
    assert hall_of(world).taken == []
    alice.send("hall_say", id=3, room="hall:a", content=SEALED)
    world.run_waiting()
    assert len(hall_of(world).taken) == 1
    # This owner reads and wraps it, which is no sealed content any more.
    assert alice.answer(3)["content"]["name"] == "bad_message"


def test_the_policy_speaks_of_a_plain_type_as_of_an_event(world, idle):
    deny = {"effect": "deny", "actions": ["publish:hall_say", "command:hall_knock"], "rooms": ["*"]}
    for each in (idle, world):
        each.rule(deny, {"actions": ["*"], "rooms": ["*"]})
        alice = each.member("alice")
        joined(each, alice)
        alice.send("hall_say", id=1, room="hall:a", content={"text": "x"})
        each.run_waiting()
        assert alice.answer(1)["content"]["name"] == "forbidden"
    assert alice.ask("hall_event", room="hall:a")["type"] == "ack"
    member = world.member("bob")
    assert member.error("hall_knock", room="hall:a") == "forbidden"


# -- from outside -------------------------------------------------------------------------------------------


def test_who_is_not_in_the_room_may_knock_and_the_owner_decides(world):
    bob = world.member("bob")
    for room in ("hall:a", "hall:never-there"):
        bob.send("hall_knock", id=1, room=room, content="refuse me")
        world.run_waiting()
        assert bob.answer(1)["content"]["message"] == "refused by the owner"
    bob.send("hall_knock", id=2, room="hall:a", content="x")
    world.run_waiting()
    assert bob.answer(2)["content"]["offset"] == 1
    assert bob.error("hall_say", room="hall:a", content={"text": "x"}) == "not_joined"


def ask_from_outside(world, **asked):
    """What a back-end is answered."""
    values = {"tenant": "default", "room": "hall:a", "user": None, "key": None} | asked
    publication = Publication(**values)
    cluster = world.core.cluster
    return msgspec.msgpack.decode(
        asyncio.run(cluster.ask(cluster.worker, PUBLISH, msgspec.msgpack.encode(publication)))
    )


def test_what_a_back_end_publishes_is_the_owners_too_and_trusted(world):
    content = b'{"text":"hi"}'
    first = ask_from_outside(world, type="hall_say", user=UserId("bob"), content=content, key="k")
    again = ask_from_outside(world, type="hall_say", user=UserId("bob"), content=content, key="k")
    nobody = ask_from_outside(world, type="hall_say", content=content)
    assert [each[0] for each in (first, again, nobody)] == [1, 1, 2]
    assert (first[2], again[2]) == (False, True)
    assert hall_of(world).taken == [
        ("bob", "hall_say", True, "k"), ("bob", "hall_say", True, "k"), ("", "hall_say", True, None)
    ]  # fmt: skip


def test_a_back_end_is_told_what_the_owner_refuses(world):
    with pytest.raises(Forbidden, match="refused by the owner"):
        ask_from_outside(world, type="hall_say", content=b'{"text":"refuse"}')
    with pytest.raises(BadMessage, match="is not published"):
        ask_from_outside(world, type="hall_knock", content=b"1")


def test_elsewhere_and_idle_a_back_end_publishes_a_plain_type_as_it_stands(world, idle):
    assert ask_from_outside(world, room="yard:a", type="hall_say", content=b'"any"')[0] == 1
    assert ask_from_outside(idle, type="hall_say", content=b'"any"')[0] == 1
    assert hall_of(world).taken == []


# -- gates --------------------------------------------------------------------------------------------------


def test_who_is_not_admitted_is_told_what_the_policy_would_say(world):
    hall_of(world).banned.add(("bob", "hall:a"))
    alice, bob = world.member("alice"), world.member("bob")
    assert joined(world, alice)["type"] == "joined"
    refusals = [joined(world, bob, "hall:a")["content"]]
    world.rule({"effect": "deny", "actions": ["join"], "rooms": ["hall:denied"]})
    refusals.append(joined(world, bob, "hall:denied")["content"])
    assert refusals[0] == refusals[1]
    assert (refusals[0]["name"], refusals[0]["message"]) == ("forbidden", MAY_NOT)
    for type in ("history", "presence", "passive", "leave", "hall_event"):
        assert bob.error(type, room="hall:a", content={}) == "not_joined"
    assert world.core.stats()["rooms"] == 1


def test_who_may_not_by_the_policy_is_not_asked_about(world):
    world.rule({"effect": "deny", "actions": ["join"], "rooms": ["*"]})
    hall_of(world).fails.add(("bob", "hall:a"))
    assert joined(world, world.member("bob"))["content"]["name"] == "forbidden"


def test_a_gate_that_gives_no_answer_is_an_answer(world):
    hall_of(world).fails.add(("bob", "hall:a"))
    bob = world.member("bob")
    assert joined(world, bob)["content"]["name"] == "unavailable"
    assert joined(world, bob, "hall:b")["type"] == "joined"


def test_a_name_that_is_none_asks_no_gate(world):
    bob = world.member("bob")
    for room in ("hall:", "hall:a\nb", "hall:" + "x" * 300, "nothing:a"):
        assert bob.error("join", room=room) == "bad_message"


@pytest.mark.parametrize("variant", [0, 1], ids=["json", "msgpack"])
async def test_what_is_sent_while_a_gate_is_asked_waits_and_is_answered_in_its_order(variant):
    world = live()
    hall = hall_of(world)
    hall.questions = []
    bob = world.member("bob", variant=variant)
    bob.send_frame(
        {"type": "join", "id": 1, "room": "hall:a"},
        {"type": "hall_event", "id": 2, "room": "hall:a", "content": "first"},
        {"type": "join", "id": 3, "room": "hall:b"},
        {"type": "hall_event", "id": 4, "room": "hall:b", "content": "second"},
        {"type": "ping", "id": 5},
    )
    await settle()
    assert (bob.read(), [each[1] for each in hall.questions]) == ([], ["hall:a"])
    hall.questions.pop()[2].set_result(None)
    await settle()
    assert [each.get("id") for each in bob.read()] == [1, None, 2]
    hall.banned.add(("bob", "hall:b"))
    hall.questions.pop()[2].set_result(None)
    await settle()
    answers = bob.read()
    assert [each["id"] for each in answers] == [3, 4, 5], "a refusal comes before what waited for it"
    assert [each["content"].get("name") for each in answers] == ["forbidden", "not_joined", None]
    assert world.core.stats()["rooms"] == 1


async def test_too_much_that_waits_for_a_gate_is_refused():
    world = live()
    hall_of(world).questions = []
    bob = world.member("bob")
    bob.send("join", id=1, room="hall:a")
    for _ in range(world.limits.backlog_messages):
        bob.send("ping")
    assert bob.error("ping") == "unavailable"


async def test_who_is_gone_meanwhile_enters_nothing():
    world = live()
    hall = hall_of(world)
    hall.questions = []
    bob = world.member("bob")
    bob.send("join", id=1, room="hall:a")
    await settle()
    bob.leave()
    hall.questions.pop()[2].set_result(None)
    await settle()
    stats = world.core.stats()
    assert (stats["rooms"], stats["sessions"], len(world.core.membership.gates)) == (0, 0, 0)


async def test_a_review_while_the_gate_is_asked_has_it_asked_again():
    world = live()
    hall = hall_of(world)
    hall.questions = []
    bob = world.member("bob")
    bob.send("join", id=1, room="hall:a")
    await settle()
    _, _, question = hall.questions.pop()
    answered = asyncio.ensure_future(_answer_then_review(world, question, None))
    await answered
    hall.banned.add(("bob", "hall:a"))
    hall.questions.pop()[2].set_result(None)
    await settle()
    assert bob.answer(1)["content"]["name"] == "forbidden"


async def _answer_then_review(world, question, user):
    assert await world.core.admission.review(HERE, user) == 0
    question.set_result(None)
    await settle()


async def test_reviews_of_others_and_elsewhere_ask_nothing_again():
    world = live()
    hall = hall_of(world)
    hall.questions = []
    bob = world.member("bob")
    bob.send("join", id=1, room="hall:a")
    await settle()
    _, _, question = hall.questions.pop()
    await world.core.admission.review(HERE, UserId("carol"))
    await world.core.admission.review(HERE._replace(room=RoomName("hall:b")))
    await world.core.admission.review(HERE._replace(tenant=TenantId("other")))
    question.set_result(None)
    await settle()
    assert bob.answer(1)["type"] == "joined"


async def test_a_review_while_the_broker_is_asked_has_the_gate_asked_again():
    clock = FakeClock()
    broker = SlowBroker(MemoryBroker(clock, FakeHub(clock)))
    world = live(broker=broker, clock=clock)
    hall = hall_of(world)
    alice, bob = world.member("alice"), world.member("bob")
    for member in (alice, bob):
        member.send("join", id=1, room="hall:a")
    await settle()
    assert len(broker.questions) == 2, "both are through the gate, and wait for the room's position"
    hall.banned.add(("bob", "hall:a"))
    assert await world.core.admission.review(HERE, UserId("bob")) == 0, "he is not in it yet"
    while broker.questions:
        await broker.answer()
    assert alice.answer(1)["type"] == "joined"
    assert bob.answer(1)["content"]["message"] == MAY_NOT
    assert await world.core.admission.review(HERE) == 0
    assert len(world.core.membership.gates) == 0


async def test_a_review_puts_out_who_is_not_admitted_any_more_and_tells_them():
    world = live()
    hall = hall_of(world)
    members = [world.member(user, variant=variant) for user in ("alice", "bob") for variant in (0, 1)]
    for member in members:
        for room in ("hall:a", "hall:b"):
            member.send("join", id=room, room=room)
            await settle()
    members[3].ask("passive", room="hall:a")
    for member in members:
        member.read()
    hall.banned.add(("bob", "hall:a"))
    assert await world.core.admission.review(HERE, UserId("alice")) == 0
    assert await world.core.admission.review(HERE, UserId("bob")) == 2
    for member in members[2:]:
        (left,) = [each for each in member.read() if each["type"] == "left"]
        assert (left["room"], left["content"]) == ("hall:a", {"reason": "forbidden"})
        assert member.error("history", room="hall:a") == "not_joined"
        assert member.ask("history", room="hall:b")["type"] == "history"
    hall.banned.add((None, "hall:a"))
    assert await world.core.admission.review(HERE) == 2
    assert members[0].error("history", room="hall:a") == "not_joined"


async def test_a_gate_that_fails_in_a_review_is_asked_again_and_the_others_are_put_out():
    world = live()
    hall = hall_of(world)
    members = {user: world.member(user) for user in ("alice", "bob", "carol")}
    for member in members.values():
        member.send("join", id=1, room="hall:a")
        await settle()
    hall.banned.add((None, "hall:a"))
    hall.fails.add(("bob", "hall:a"))
    with pytest.raises(Unavailable):
        await world.core.admission.review(HERE)
    there = [user for user, member in members.items() if member.session.rooms]
    assert there == ["bob"]
    hall.fails.clear()
    world.pass_time(AGAIN_S)
    await settle()
    await settle()
    assert not members["bob"].session.rooms


async def test_members_of_all_workers_are_reviewed_and_a_deaf_one_later():
    ring = Ring()
    worlds = [
        ring.world(name, features=FEATURES, database=object(), spawn=Tasks()) for name in ("one", "two")
    ]
    members = [world.member("bob") for world in worlds]
    for member in members:
        member.send("join", id=1, room="hall:a")
        await settle()
    for world in worlds:
        hall_of(world).banned.add(("bob", "hall:a"))
    ring.deaf.add("two")
    with pytest.raises(Unavailable):
        await worlds[0].core.admission.review(HERE, UserId("bob"))
    assert [bool(member.session.rooms) for member in members] == [False, True]
    ring.deaf.clear()
    worlds[0].pass_time(AGAIN_S)
    await settle()
    assert [bool(member.session.rooms) for member in members] == [False, False]


async def test_a_hundred_members_are_asked_about_at_once_and_not_more():
    world = live()
    hall = hall_of(world)
    for number in range(100):
        world.member(f"user{number}").send("join", room="hall:a")
        await settle()
    hall.questions = []
    review = asyncio.ensure_future(world.core.admission.review(HERE))
    await settle()
    assert len(hall.questions) == 64
    while hall.questions:
        hall.questions.pop()[2].set_result(None)
        await settle()
    assert await review == 0


async def test_a_private_room_asks_for_its_token_and_for_the_gate():
    world = live(rules=RoomRules([RoomRule(rooms=("hall:*",), private=True)]))
    hall = hall_of(world)
    bob = world.member("bob")

    async def knock(**content):
        bob.send("join", id=1, room="hall:a", content=content)
        await settle()
        return bob.answer(1)

    expires_at = world.clock.time() + 60
    whose = {"user": "bob", "room": "hall:a", "tenant": "default", "actions": ALL_ACTIONS}
    world.grants["t"] = Grant(**whose, expires_at=expires_at)
    assert (await knock())["content"]["name"] == "forbidden"
    hall.banned.add(("bob", "hall:a"))
    assert (await knock(token="t"))["content"]["message"] == MAY_NOT
    assert len(world.core.membership.doors) == 0, "nobody holds a grant that let nobody in"
    hall.banned.clear()
    assert (await knock(token="t"))["type"] == "joined"
    assert len(world.core.membership.doors) == 1
    world.judging = asyncio.get_running_loop().create_future()
    bob.send("join", id=2, room="hall:a", content={"token": "t"})
    await settle()
    hall.banned.add(("bob", "hall:a"))
    world.judging.set_result(None)
    await settle()
    assert bob.answer(2)["content"]["message"] == MAY_NOT
    assert await world.core.admission.review(HERE) == 1
    assert len(world.core.membership.doors) == 0


async def test_who_is_in_already_joins_again_by_the_gate():
    world = live()
    bob = world.member("bob")
    for _ in range(2):
        bob.send("join", id=1, room="hall:a")
        await settle()
        assert bob.answer(1)["type"] == "joined"
    hall_of(world).banned.add(("bob", "hall:a"))
    bob.send("join", id=1, room="hall:a")
    await settle()
    assert bob.answer(1)["content"]["name"] == "forbidden"
