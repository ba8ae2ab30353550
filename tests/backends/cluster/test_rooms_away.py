"""Redis is away: who asks is told at once, memory stays bounded, and on return everybody catches up."""

import asyncio

import pytest

from realtime.backends.cluster.pacer import Pacer
from realtime.core.contracts import Position
from realtime.errors import Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.backends.cluster.stage import ALICE, CHAT, LOBBY, until

pytestmark = pytest.mark.alone


def numbered(number: int) -> RoomId:
    return RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}"))


async def gone(node, *workers) -> None:
    await asyncio.to_thread(node.kill)
    await until(lambda: not any(worker.redis.ok for worker in workers))


async def back(node, *workers) -> None:
    await asyncio.to_thread(node.start)
    await until(lambda: all(worker.redis.ok for worker in workers))


async def test_publishing_and_joining_are_refused_and_say_when_to_try_again(workers_of_one, own_redis_node):
    worker = await workers_of_one.start(timeout_s=0.3)
    member = await worker.joined()
    await member.publish("one")
    await gone(own_redis_node, worker)
    for asked in (member.publish("two"), worker.publish("two"), worker.joined(numbered(1))):
        with pytest.raises(Unavailable) as refused:
            await asked
        assert refused.value.retry_after_s > 0
    assert worker.broker.stats()["broker_waiting"] == worker.broker.stats()["broker_waiting_bytes"] == 0


async def test_history_of_memory_is_there_all_the_while(workers_of_one, own_redis_node):
    worker = await workers_of_one.start()
    member = await worker.joined()
    for number in range(5):
        await member.publish(number)
    await gone(own_redis_node, worker)
    assert list(member.stream.history(None, None, 3).messages) == member.pushes[2:]


async def test_on_return_every_room_is_caught_up_with_few_questions_at_a_time(workers_of_one, own_redis_node):
    worker = await workers_of_one.start(at_once=8)
    members = [worker.member(numbered(number)) for number in range(200)]
    for member in members:
        await member.recover()
    running = []
    asked = worker.broker.position

    async def counting(*arguments):
        running.append(worker.broker.pacer.running)
        return await asked(*arguments)

    worker.broker.position = counting
    await gone(own_redis_node, worker)
    await back(own_redis_node, worker)
    async with asyncio.timeout(60):
        while worker.broker.stats()["broker_rooms_behind"]:
            worker.tick(1.0)
            await asyncio.sleep(0)
    assert len(running) >= 200
    assert max(running) <= 8
    assert all(member.got == [(None, None, "epoch_changed")] for member in members)
    for member in members[:5]:
        await member.publish("well")
        assert member.texts == ["well"]


async def test_a_short_cut_is_made_good_from_what_redis_keeps(workers_of_one, own_redis_node):
    one, other = await workers_of_one.start(), await workers_of_one.start()
    member, writer = await one.joined(), await other.joined()
    await writer.publish(0)
    await until(lambda: member.got == [1])
    member.stream.on_unsubscribed()
    for number in range(1, 20):
        await writer.publish(number)
    assert member.got == [1]
    member.stream.on_subscribed()
    await until(lambda: len(member.got) == 20)
    assert (member.got, member.texts) == (list(range(1, 21)), list(range(20)))


async def test_what_comes_while_a_stream_catches_up_is_held_within_bounds(workers, monkeypatch):
    monkeypatch.setattr("realtime.backends.cluster.stream.HELD_RUNS", 5)
    one, other = await workers.start(), await workers.start()
    member, writer = await one.joined(), await other.joined()
    free = asyncio.Event()
    asked = one.broker.position

    async def slow(*arguments):
        place = await asked(*arguments)
        await free.wait()
        return place

    one.broker.position = slow
    member.stream.on_unsubscribed()
    member.stream.on_subscribed()
    await until(lambda: one.broker.pacer.running)
    for number in range(40):
        await writer.publish(number)
    await until(lambda: len(writer.got) == 40)
    assert len(member.stream._held) <= 5
    free.set()
    await until(lambda: len(member.got) == 40)
    assert member.got == list(range(1, 41))


async def test_what_waits_for_redis_is_bounded_in_number_and_bytes(workers_of_one, own_redis_node):
    worker = await workers_of_one.start(timeout_s=0.5, waiting_messages=10, waiting_bytes=5_000)
    member = await worker.joined()
    own_redis_node.freeze()
    try:
        first = [member.later("x") for _ in range(10)]
        with pytest.raises(Unavailable, match="too much waits"):
            member.later("y")
        assert worker.broker.stats()["broker_waiting"] == 10
        for receipt in first:
            with pytest.raises(Unavailable):
                await receipt
        assert worker.broker.stats()["broker_waiting"] == 0
        large = member.later("x" * 4_000)
        with pytest.raises(Unavailable, match="too much waits"):
            member.later("x" * 1_000)
        with pytest.raises(Unavailable):
            await large
    finally:
        own_redis_node.thaw()


async def test_who_waits_for_a_subscription_that_does_not_come_is_refused(workers):
    worker = await workers.start()
    worker.redis.client.subscribe = lambda channel, subscriber: None
    member = worker.member()
    joining = asyncio.create_task(member.recover())
    held = member.later("held")
    await asyncio.sleep(0)
    worker.tick(1.9)
    assert not joining.done()
    worker.tick(0.2)
    for asked in (joining, held):
        with pytest.raises(Unavailable) as refused:
            await asked
        assert refused.value.retry_after_s > 0


async def test_a_stream_that_is_closed_while_it_asks_refuses_who_waits(workers):
    worker = await workers.start()
    member = worker.member()
    joining = asyncio.create_task(member.recover())
    await asyncio.sleep(0)
    member.stream.close()
    with pytest.raises(Unavailable):
        await joining
    again = await worker.joined()
    assert (await again.publish("well"))[0] == 1


async def test_a_failed_question_is_asked_again(workers):
    worker = await workers.start()
    member = await worker.joined()
    asked = worker.broker.position

    async def fails(*arguments):
        raise Unavailable("no answer", retry_after_s=0.5)

    worker.broker.position = fails
    member.stream.on_unsubscribed()
    member.stream.on_subscribed()
    with pytest.raises(Unavailable):
        await member.recover(Position(5, b"x"))
    worker.broker.position = asked
    worker.tick(2.0)
    await until(lambda: member.stream.live)
    assert (await member.publish("well"))[0] == 1


async def test_a_mistake_in_delivering_harms_neither_the_order_nor_others(workers, caplog):
    worker = await workers.start()
    got = []

    def deliver(push, offset):
        got.append(offset)
        if offset == 2:
            raise ValueError("planted")

    stream = worker.broker.open(LOBBY, CHAT, deliver)
    for _ in range(3):
        receipt = await stream.publish("chat_message", ALICE, b"1")
    assert (got, receipt[0]) == ([1, 2, 3], 3)
    assert "offset 2 was not delivered" in caplog.text


async def test_what_redis_refuses_is_refused_and_told_once_in_a_while(workers_of_one, own_redis_node, caplog):
    worker = await workers_of_one.start()
    member = await worker.joined()
    own_redis_node.ask("CONFIG", "SET", "maxmemory", "1")
    for _ in range(5):
        with pytest.raises(Unavailable, match="Redis refuses publications") as refused:
            await member.publish("no place")
        assert refused.value.retry_after_s > 0
    assert len([line for line in caplog.messages if "OOM" in line]) == 1
    own_redis_node.ask("CONFIG", "SET", "maxmemory", "0")
    assert (await member.publish("well"))[0] == 1


async def test_a_pacer_runs_few_at_a_time_and_those_first_that_somebody_waits_for():
    pacer = Pacer(2)
    free = asyncio.Event()
    done = []

    def job(name):
        async def run():
            done.append(name)
            await free.wait()

        return run

    for name in ("a", "b", "c", "d"):
        pacer.add(job(name))
    await asyncio.sleep(0)
    pacer.add(job("urgent"), urgent=True)
    assert (pacer.running, len(pacer)) == (2, 3)
    free.set()
    await until(lambda: not pacer.running)
    assert done == ["a", "b", "urgent", "c", "d"]


async def test_a_pacer_goes_on_after_a_job_that_fails_and_ends_with_close(caplog):
    pacer = Pacer(1)
    done = []

    async def fails():
        raise ValueError("planted")

    async def works():
        done.append("works")

    async def for_ever():
        await asyncio.Event().wait()

    pacer.add(fails)
    pacer.add(works)
    await until(lambda: done)
    assert "planted" in caplog.text
    pacer.add(for_ever)
    pacer.add(works)
    await asyncio.sleep(0)
    await pacer.close()
    assert (pacer.running, len(pacer), done) == (0, 0, ["works"])
