"""When a Redis master is another than before: a new epoch, told to everybody, and nothing in silence."""

import asyncio

import pytest

from realtime.backends.cluster.names import RoomNames, epoch_number
from realtime.core.contracts import Position
from realtime.errors import Unavailable
from tests.backends.cluster.stage import LOBBY, get, until

ENDED = (None, None, "epoch_changed")


async def published_when_back(worker, member, content):
    """Publish as soon as Redis takes it."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await member.publish(content, key=str(content))
            except Unavailable:
                worker.tick(1.0)


def microseconds(node) -> int:
    seconds, rest = node.redis.time()
    return seconds * 1_000_000 + rest


def demote_and_promote(node) -> None:
    """Make it a replica and a master again, and return when its mastership is looked at anew: 10 ms."""
    node.ask("REPLICAOF", "127.0.0.1", "1")
    node.ask("REPLICAOF", "NO", "ONE")
    done = microseconds(node)
    while microseconds(node) < done + 12_000:
        pass


async def test_a_server_that_lost_everything_begins_a_new_epoch(workers_of_one, own_redis_node):
    worker, other = await workers_of_one.start(), await workers_of_one.start()
    member, reader = await worker.joined(), await other.joined()
    for number in range(3):
        _, epoch, _ = await member.publish(number)
    await until(lambda: len(reader.got) == 3)
    await asyncio.to_thread(own_redis_node.kill)
    await until(lambda: not worker.redis.ok and not other.redis.ok)
    await asyncio.to_thread(own_redis_node.start)
    offset, new, _ = await published_when_back(worker, member, "new")
    await until(lambda: all(each.texts[-1:] == ["new"] for each in (member, reader)))
    assert new != epoch
    assert epoch_number(new) > epoch_number(epoch)
    assert member.got == reader.got == [1, 2, 3, ENDED, offset]
    recovery = await reader.recover(Position(3, epoch))
    assert (recovery.recovered, recovery.epoch, recovery.offset) == (False, new, offset)


async def test_a_planned_failover_loses_nothing_but_is_told(workers_of_six, own_redis_cluster):
    worker, other = await workers_of_six.start(), await workers_of_six.start()
    member, reader = await worker.joined(), await other.joined()
    for number in range(3):
        _, epoch, _ = await member.publish(number, key=f"k{number}")
    slot = RoomNames(workers_of_six.prefix, LOBBY).slot
    await asyncio.to_thread(own_redis_cluster.failover, slot)
    offset, new, _ = await published_when_back(worker, member, "new")
    await until(lambda: all(each.texts[-1:] == ["new"] for each in (member, reader)))
    assert offset == 4
    assert epoch_number(new) > epoch_number(epoch)
    assert member.got == reader.got == [1, 2, 3, ENDED, 4]
    assert await member.publish(2, key="k2") == (3, epoch, True)
    late = await (await workers_of_six.start()).joined()
    page = await get(late.stream.history(None, None, 10))
    assert list(page.messages) == reader.pushes  # of both epochs


async def test_a_node_that_was_demoted_and_promoted_again_is_another(workers_of_one, own_redis_node):
    worker = await workers_of_one.start()
    member = await worker.joined()
    _, epoch, _ = await member.publish("before")
    demote_and_promote(own_redis_node)
    offset, new, _ = await member.publish("after")
    assert (offset, new != epoch) == (2, True)
    await until(lambda: member.got == [1, ENDED, 2])


async def test_what_was_missed_of_the_old_epoch_and_is_there_comes_before_the_new(
    workers_of_one, own_redis_node
):
    one, other = await workers_of_one.start(), await workers_of_one.start()
    member, writer = await one.joined(), await other.joined()
    await writer.publish(1)
    await until(lambda: member.got == [1])
    one.redis.lost = lambda payload: True
    await writer.publish(2)
    await writer.publish(3)
    demote_and_promote(own_redis_node)
    await writer.publish(4)
    await writer.publish(5)
    one.redis.lost = lambda payload: False
    await writer.publish(6)
    await until(lambda: member.texts[-1:] == [6])
    assert member.got == [1, 2, 3, ENDED, 4, 5, 6]


async def test_a_moving_slot_keeps_its_rooms_whole(workers_of_six, own_redis_cluster):
    one, other = await workers_of_six.start(), await workers_of_six.start()
    member, reader = await one.joined(), await other.joined()
    slot = RoomNames(workers_of_six.prefix, LOBBY).slot
    here = own_redis_cluster.master_of(slot)
    there = next(node for node in own_redis_cluster.masters() if node is not here)
    acked = []

    async def publish() -> None:
        for number in range(300):
            try:
                acked.append((number, (await member.publish(number, key=str(number)))[0]))
            except Unavailable:
                one.tick(1.0)

    publishing = asyncio.create_task(publish())
    await until(lambda: len(acked) > 50)
    await asyncio.to_thread(own_redis_cluster.migrate_slot, slot, there)
    await publishing
    await published_when_back(one, member, "last")
    await until(lambda: all(each.texts[-1:] == ["last"] for each in (member, reader)))
    for each in (member, reader):
        assert each.gaps == [ENDED]
        assert each.offsets == list(range(1, len(each.offsets) + 1))
        assert {number for number, _ in acked} <= set(each.texts)
    assert member.got == reader.got


async def test_an_epoch_never_goes_back_though_the_clock_does(workers_of_one, own_redis_node):
    worker = await workers_of_one.start()
    member = await worker.joined()
    await member.publish("before")
    names = worker.broker._writers[LOBBY].names
    packed = await worker.broker.ask(names.slot, b"HGET", names.meta, b"r")
    nonce, epoch = packed[48:80], packed[80:]
    ahead = b"%d" % (int(epoch) + 10**9)
    await worker.broker.ask(names.slot, b"HSET", names.meta, b"r", packed[:48] + nonce[::-1] + ahead)
    _, new, _ = await member.publish("after")
    assert epoch_number(new) == int(ahead) + 1


async def test_an_epoch_that_begins_while_a_stream_catches_up_is_not_taken_for_an_echo(workers):
    one, other = await workers.start(), await workers.start()
    member, writer = await one.joined(), await other.joined()
    await writer.publish("before")
    await until(lambda: member.got == [1])
    free = asyncio.Event()
    asked = one.broker.position

    async def slow(*arguments):
        place = await asked(*arguments)
        await free.wait()
        return place

    one.broker.position = slow
    member.stream.on_unsubscribed()
    member.stream.on_subscribed()
    await until(lambda: [command for command in one.redis.sent if command[1:2] == (b"rt1_position",)][1:])
    await one.broker.ask(0, b"PING")
    names = one.broker._writers[LOBBY].names
    packed = await one.broker.ask(names.slot, b"HGET", names.meta, b"r")
    other_master = packed[:48] + packed[48:80][::-1] + packed[80:]
    await one.broker.ask(names.slot, b"HSET", names.meta, b"r", other_master)
    await writer.publish("after")
    await until(lambda: member.stream._held)
    free.set()
    await until(lambda: member.got == [1, ENDED, 2])


async def test_a_room_that_is_gone_from_redis_begins_a_new_epoch(workers):
    worker = await workers.start()
    member = await worker.joined()
    _, epoch, _ = await member.publish("before")
    names = worker.broker._writers[LOBBY].names
    await worker.broker.ask(names.slot, b"DEL", names.meta)
    offset, new, _ = await member.publish("after")
    assert (offset, new != epoch) == (1, True)
    await until(lambda: member.got == [1, ENDED, 1])
    assert list((await member.recover(Position(0, new))).messages) == member.pushes[1:]


async def test_a_client_that_was_further_than_this_worker_is_answered_when_it_is_there_too(workers):
    one, other = await workers.start(), await workers.start()
    member, writer = await one.joined(), await other.joined()
    one.redis.lost = lambda payload: True
    for number in range(3):
        offset, epoch, _ = await writer.publish(number)
    recovery = await member.recover(Position(offset, epoch))
    assert (recovery.offset, recovery.recovered, list(recovery.messages)) == (3, True, [])
    assert member.got == [1, 2, 3]


@pytest.mark.parametrize("since", [Position(1, b"other"), Position(99, b""), Position(0, b"\xc3\xa4")])
async def test_a_position_that_never_was_is_refused(workers, since):
    worker = await workers.start()
    member = await worker.joined()
    await member.publish("one")
    recovery = await member.recover(since)
    assert (recovery.offset, recovery.recovered) == (1, False)
