"""What workers share in a room: all have the others' newest entries, and none of a worker that is gone."""

import asyncio
import random

import pytest

from realtime.backends.cluster.names import RoomNames
from realtime.errors import Unavailable
from tests.backends.cluster.stage import LOBBY, until


async def shared(worker) -> dict[bytes, bytes]:
    names = RoomNames(worker.broker.prefix, LOBBY)
    found = await worker.broker.ask(names.slot, b"HGETALL", names.shared)
    return dict(found)


async def test_an_entry_comes_to_the_others_and_not_back(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    member.stream.share(b"first")
    await until(lambda: reader.others == {"w1": b"first"})
    member.stream.share(b"second")
    await until(lambda: reader.others == {"w1": b"second"})
    member.stream.share(None)
    await until(lambda: reader.others == {})
    assert member.others == {}
    assert await shared(one) == {}


async def test_who_subscribes_later_is_told(workers):
    one, two, late = [await workers.start() for _ in range(3)]
    for worker in (one, two):
        (await worker.joined()).stream.share(worker.broker.worker.encode())
    await until(lambda: one.broker.stats() is not None and len(one.broker._sharing) == 1)
    member = await late.joined()
    assert member.others == {"w1": b"w1", "w2": b"w2"}


async def test_the_newest_entry_wins_however_fast_they_follow(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    for number in range(1000):
        member.stream.share(b"%d" % number)
    await until(lambda: reader.others == {"w1": b"999"})
    sent = [command for command in one.redis.sent if command[1:2] == (b"rt1_share",)]
    assert len(sent) <= 3


async def test_close_takes_the_entry_away(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    member.stream.share(b"here")
    await until(lambda: reader.others)
    member.stream.close()
    await until(lambda: not reader.others)
    assert await shared(other) == {}


async def test_a_worker_that_is_gone_is_forgotten_by_all_and_in_redis_and_stays_so(workers):
    one, two, three = [await workers.start() for _ in range(3)]
    members = [await worker.joined() for worker in (one, two, three)]
    members[0].stream.share(b"here")
    await until(lambda: all(member.others for member in members[1:]))
    for worker in (two, three):
        worker.broker.forget_worker("w1")
    assert [member.others for member in members] == [{}, {}, {}]
    while await shared(two):
        pass
    members[0].stream.share(b"a late word")
    while not await shared(two):
        pass
    members[1].stream.on_unsubscribed()
    members[1].stream.on_subscribed()
    await two.idle()
    assert [member.others for member in members] == [{}, {}, {}]


async def test_an_entry_of_a_worker_that_was_dead_before_we_came_is_never_told(workers):
    alive = {"w2"}
    one, other = await workers.start(), await workers.start(alive=alive.__contains__)
    member = await one.joined()
    member.stream.share(b"here")
    while not await shared(one):
        pass
    reader = await other.joined()
    assert reader.others == {}
    other.tick(10)
    assert reader.others == {}
    while await shared(one):
        pass


async def test_an_entry_of_a_worker_that_the_ring_knows_a_moment_later_is_told_then(workers):
    alive = {"w2"}
    one, other = await workers.start(), await workers.start(alive=alive.__contains__)
    member = await one.joined()
    member.stream.share(b"here")
    while not await shared(one):
        pass
    reader = await other.joined()
    alive.add("w1")
    other.tick(10)
    assert reader.others == {"w1": b"here"}


async def test_an_entry_that_redis_has_lost_is_written_again(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    member.stream.share(b"here")
    await until(lambda: reader.others)
    names = RoomNames(workers.prefix, LOBBY)
    await one.broker.ask(names.slot, b"DEL", names.shared)
    for each in (reader, member):
        each.stream.on_unsubscribed()
        each.stream.on_subscribed()
    await until(lambda: reader.others == {"w1": b"here"})
    while await shared(one) != {b"w1": b"here"}:
        pass
    assert await one.broker.ask(names.slot, b"PTTL", names.shared) > 0


async def test_an_entry_that_could_not_be_written_is_written_later(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    lost = Unavailable("no answer")
    one.redis.unanswered = lost
    member.stream.share(b"here")
    await until(lambda: one.broker._unshared)
    names = RoomNames(workers.prefix, LOBBY)
    await one.broker.ask(names.slot, b"DEL", names.shared)
    one.tick(2.0)
    while await shared(one) != {b"w1": b"here"}:
        pass
    assert reader.others == {"w1": b"here"}


async def test_that_an_entry_is_gone_and_could_not_be_written_is_written_later(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    member.stream.share(b"here")
    await until(lambda: reader.others)
    one.redis.unanswered = Unavailable("no answer")
    member.stream.close()
    await until(lambda: one.broker._unshared)
    names = RoomNames(workers.prefix, LOBBY)
    await one.broker.ask(names.slot, b"HSET", names.shared, b"w1", b"as if it had not been done")
    again = await one.joined()
    one.tick(2.0)
    while await shared(other):
        pass
    again.stream.share(b"again")
    await until(lambda: reader.others == {"w1": b"again"})


async def test_with_messages_lost_at_random_all_agree_once_everybody_has_looked_again(workers):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    team = [await workers.start() for _ in range(4)]
    members = [await worker.joined() for worker in team]
    for worker in team:
        worker.redis.lost = lambda payload: rng.random() < 0.3
    truth: dict[str, bytes | None] = {}
    for number in range(300):
        at = rng.randrange(4)
        truth[f"w{at + 1}"] = None if rng.random() < 0.2 else b"%d" % number
        members[at].stream.share(truth[f"w{at + 1}"])
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    for worker in team:
        worker.redis.lost = lambda payload: False
    expected = {worker: entry for worker, entry in truth.items() if entry is not None}
    while await shared(team[0]) != {worker.encode(): entry for worker, entry in expected.items()}:
        pass
    for member in members:
        member.stream.on_unsubscribed()
        member.stream.on_subscribed()
    for at, member in enumerate(members):
        theirs = {worker: entry for worker, entry in expected.items() if worker != f"w{at + 1}"}
        await until(lambda member=member, theirs=theirs: member.others == theirs)


async def test_what_is_too_large_to_share_is_a_mistake_of_ours(workers):
    member = await (await workers.start()).joined()
    member.stream.share(b"x" * 65536)
    with pytest.raises(AssertionError, match="64 KiB"):
        member.stream.share(b"x" * 65537)
