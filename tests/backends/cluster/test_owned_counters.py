"""Owner commands over a real ring and a real broker: one counter, one owner at a time, no step twice or lost.

The feature is tests/counting.py: the counter is in its owner's memory, and each step is a publication under
the owner's fence that expects the step before.
"""

import asyncio
import json
import random

import pytest
import pytest_asyncio

from realtime.backends.cluster.broker import RedisBroker
from realtime.core.clock import SystemClock
from realtime.core.contracts import Terms
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict
from tests import counting
from tests.backends.cluster.ring_members import ROOMS, TICK_S, company, until
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeHub

KIND = RoomKind(name="counter", presence=False)


class Site(World):
    """A core in a ring; `alice` is its one member, and in the rooms that a test uses."""

    def __init__(self, member):
        self.worker = member
        self.line = member.line
        broker = RedisBroker(
            member.line,
            SystemClock(),
            FakeHub(FakeClock()),
            worker=member.ring.worker,
            prefix=member.ring._prefix,
        )
        super().__init__(features=[counting.FEATURE], broker=broker, cluster=member.ring)
        self.alice = World.member(self, "alice")
        self.numbers = iter(range(1, 10_000))
        self.heard = []
        member.on_tick = self._go_on

    def _go_on(self):
        self.clock.advance(TICK_S)
        self.core.tick()
        loop = asyncio.get_running_loop()
        self.worker.tasks += map(loop.create_task, self.waiting)
        self.waiting.clear()
        self.heard += self.alice.read()

    async def ask(self, type, room, **fields):
        """Send one message and wait for its answer."""
        id = next(self.numbers)
        self.alice.send(type, id=id, room=room, **fields)
        await until(lambda: any(each.get("id") == id for each in self.heard))
        return next(each for each in self.heard if each.get("id") == id)

    async def add(self, room, **fields):
        """Count one up; return the answer's content."""
        return (await self.ask("counter_add", room.room, **fields))["content"]

    def values(self, room):
        """What was heard of a room, in order."""
        return [
            push["content"]["value"]
            for push in self.heard
            if push["type"] == "counter_value" and push["room"] == room.room
        ]


@pytest_asyncio.fixture
async def sites(redis_node):
    async with company(redis_node.url) as join:
        sites = []
        for name in ("a", "b"):
            member = await join(name)
            sites.append(Site(member))
            member.start()
        await until(lambda: all(len(site.worker.ring.workers) == 2 for site in sites))
        yield sites
        for site in sites:
            await site.broker.close()


def owner_of(room, sites):
    return next(site for site in sites if site.core.cluster.fence(room) is not None)


async def entered(sites, rooms):
    for site in sites:
        for room in rooms:
            assert (await site.ask("join", room.room))["type"] == "joined"


async def test_a_counter_counts_for_members_of_all_workers_wherever_it_is_owned(sites):
    rooms = ROOMS[:8]
    await entered(sites, rooms)
    assert len({owner_of(room, sites) for room in rooms}) == 2
    for room in rooms:
        answers = await asyncio.gather(*(sites[n % 2].add(room) for n in range(10)))
        assert sorted(answer["value"] for answer in answers) == list(range(1, 11))
        owner = owner_of(room, sites)
        assert {answer["worker"] for answer in answers} == {owner.core.cluster.worker}
        for site in sites:
            await until(lambda site=site, room=room: len(site.values(room)) == 10)
            assert site.values(room) == list(range(1, 11))
    assert sum(site.core.stats()["commands_forwarded_total"] for site in sites) == len(rooms) * 5


async def test_a_command_that_is_repeated_with_its_key_is_done_once(sites):
    room = ROOMS[0]
    await entered(sites, [room])
    for site in sites:
        await site.add(room, key="once")
    await sites[0].add(room)
    await until(lambda: len(sites[0].values(room)) == 2)
    assert sites[0].values(room) == [1, 2]


async def test_when_an_owner_is_cut_off_the_other_goes_on_where_it_was(sites):
    rooms = ROOMS[:8]
    await entered(sites, rooms)
    lost, kept = sites
    for room in rooms:
        await kept.add(room)
    mine = [room for room in rooms if lost.core.cluster.fence(room) is not None]
    fence = lost.core.cluster.fence(mine[0])
    lost.line.cut = True
    # Whoever asks it gets no answer, until the ring knows better. It may have done it, so that is the end.
    answers = await asyncio.gather(*(kept.add(room) for room in mine))
    assert {answer.get("name") for answer in answers} == {"unavailable"}
    answers = await asyncio.gather(*(kept.add(room) for room in mine))
    assert [(answer["value"], answer["worker"]) for answer in answers] == [
        (2, kept.core.cluster.worker) for _ in mine
    ]
    lost.line.cut = False
    with pytest.raises(Conflict, match="newer owner"):  # what the law says, whoever believes to be the owner
        await lost.broker.publish(mine[0], KIND, "counter_value", None, b"{}", Terms(fence=fence))
    await until(lambda: len(lost.core.cluster.workers) == 2 and lost.core.cluster.ok)
    assert (await lost.add(mine[0]))["value"] == 3


async def test_a_write_that_an_owner_had_under_way_when_it_stood_still_does_not_land(sites):
    room = ROOMS[0]
    await entered(sites, [room])
    slept = owner_of(room, sites)
    other = next(site for site in sites if site is not slept)
    assert (await slept.add(room))["value"] == 1
    slept.line.held = []
    command = asyncio.ensure_future(slept.add(room))
    await until(lambda: "rt1_publish" in slept.line.held_words())
    slept.worker.paused = True
    await until(lambda: other.core.cluster.fence(room) is not None)
    assert [(await other.add(room))["value"] for _ in range(3)] == [2, 3, 4]
    slept.worker.paused = False
    slept.line.let_go()  # its publication of 2, under the fence that it had
    # Redis has refused it, so nothing was done, and whoever owns the room now did it instead.
    assert (await command)["value"] == 5
    await until(lambda: len(other.core.cluster.workers) == 2)
    assert (await slept.add(room))["value"] == 6
    await until(lambda: len(slept.values(room)) == len(other.values(room)) == 6)
    assert slept.values(room) == other.values(room) == [1, 2, 3, 4, 5, 6]


async def test_no_step_is_lost_or_done_twice_while_owners_come_and_go(sites):
    """Each answered command is one step; a step that nobody was answered for may be there too, once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rooms = ROOMS[:4]
    await entered(sites, rooms)
    answered = {room: [] for room in rooms}
    failed = dict.fromkeys(rooms, 0)

    async def use(site, room, key):
        content = await site.add(room, key=key)
        if "value" in content:
            answered[room].append(content["value"])
        else:
            failed[room] += 1

    for cut in range(2):
        hurt = chance.choice(sites)
        under_way = [
            asyncio.ensure_future(use(chance.choice(sites), chance.choice(rooms), f"{cut}/{n}"))
            for n in range(20)
        ]
        await until(lambda hurt=hurt: chance.random() < 0.3)
        hurt.line.cut = True
        await until(lambda hurt=hurt: not hurt.core.cluster.ok)
        hurt.line.cut = False
        await asyncio.gather(*under_way)
        await until(
            lambda: all(site.core.cluster.ok and len(site.core.cluster.workers) == 2 for site in sites)
        )
    for room in rooms:
        await sites[0].add(room)
        history = await sites[0].ask("history", room.room, content={"limit": 100})
        steps = [push["content"] for push in history["content"]["messages"]]
        values = [step["value"] for step in steps]
        assert values == list(range(1, len(values) + 1)), json.dumps(steps)
        assert sorted(answered[room]) == sorted(set(answered[room]))
        assert set(answered[room]) <= set(values)
        assert len(values) - 1 - len(answered[room]) <= failed[room]
        fences = [step["fence"] for step in steps]
        assert fences == sorted(fences)
