"""What Redis keeps of a room, how long, and how a worker that comes late reads it."""

import asyncio
import struct

import pytest

from realtime.backends.cluster.names import RoomNames
from realtime.core.contracts import Page, Position
from realtime.core.kinds import RoomKind
from tests.backends.cluster.stage import ALICE, CHAT, LOBBY, get, until

WINDOW_MS = 60_000


def names_of(workers) -> RoomNames:
    return RoomNames(workers.prefix, LOBBY)


async def ask(worker, names, *command):
    return await worker.broker.ask(names.slot, *command)


def make_old(packed: bytes) -> bytes:
    """The room as if its expiry had been moved for the last time long ago."""
    return packed[:16] + struct.pack("<d", 0) + packed[24:]


async def test_all_keys_of_a_room_expire_after_the_recovery_window(workers):
    worker = await workers.start(recovery_window_s=WINDOW_MS / 1000)
    member = await worker.joined()
    await member.publish("one", key="k")
    names = names_of(workers)
    for key in (names.meta, names.stream):
        assert WINDOW_MS < await ask(worker, names, b"PTTL", key) <= WINDOW_MS * 9 / 8
    key = names.idempotency(ALICE, "k")
    assert WINDOW_MS - 5000 < await ask(worker, names, b"PTTL", key) <= WINDOW_MS


async def test_a_room_that_is_subscribed_to_does_not_expire(workers):
    worker = await workers.start(recovery_window_s=WINDOW_MS / 1000)
    member = await worker.joined()
    _, epoch, _ = await member.publish("one")
    names = names_of(workers)
    for _ in range(3):
        packed = await ask(worker, names, b"HGET", names.meta, b"r")
        await ask(worker, names, b"HSET", names.meta, b"r", make_old(packed))
        for key in (names.meta, names.stream):
            await ask(worker, names, b"PEXPIRE", key, 20_000)
        worker.tick(WINDOW_MS / 2000)
        await worker.idle()
        for key in (names.meta, names.stream):
            assert await ask(worker, names, b"PTTL", key) > WINDOW_MS
    member.stream.close()
    await ask(worker, names, b"PEXPIRE", names.meta, 20_000)
    worker.tick(WINDOW_MS / 2000)
    await worker.idle()
    assert await ask(worker, names, b"PTTL", names.meta) <= 20_000
    assert (await (await worker.joined()).recover(Position(0, epoch))).recovered


async def test_a_room_that_has_expired_begins_again(workers):
    worker = await workers.start()
    member = await worker.joined()
    _, epoch, _ = await member.publish("one")
    member.stream.close()
    names = names_of(workers)
    await ask(worker, names, b"DEL", names.meta, names.stream)
    recovery = await (await worker.joined()).recover(Position(0, epoch))
    assert (recovery.offset, recovery.recovered) == (0, False)
    assert recovery.epoch != epoch


async def test_the_stream_of_a_room_that_was_opened_long_before_expires_too(workers):
    worker = await workers.start(recovery_window_s=WINDOW_MS / 1000)
    member = await worker.joined()
    names = names_of(workers)
    assert await ask(worker, names, b"PTTL", names.stream) == -2
    await member.publish("one")
    assert await ask(worker, names, b"PTTL", names.stream) > 0


async def test_a_stream_keeps_what_its_kind_says_and_little_more(workers):
    worker = await workers.start()
    kind = RoomKind(name="chat", history_messages=200, history_bytes=1_000_000)
    member = await worker.joined(kind=kind)
    for receipt in [member.later(number) for number in range(3000)]:
        await receipt
    names = names_of(workers)
    entries = await ask(worker, names, b"XLEN", names.stream)
    assert 3 <= entries <= 110  # blobs of up to 64; Redis drops them in nodes of at most 100
    page = await get(member.stream.history(None, None, 1000))
    assert list(page.messages) == member.pushes[-200:]


async def test_a_stream_is_bounded_in_bytes_and_keeps_the_last_publication_always(workers):
    worker = await workers.start(history_bytes=20_000)
    member = await worker.joined()
    names = names_of(workers)
    for _ in range(300):
        await member.publish("x" * 1000)
        if len(member.got) > 20:
            assert 5 <= await ask(worker, names, b"XLEN", names.stream) <= 25
    await member.publish("x" * 100_000)
    assert await ask(worker, names, b"XLEN", names.stream) == 1
    await member.publish("small")
    other = await (await workers.start(history_bytes=20_000)).joined()
    assert list((await get(other.stream.history(None, None, 10))).messages) == member.pushes[-1:]


@pytest.mark.parametrize("each", [1, 7, 64], ids=["one by one", "by seven", "full blobs"])
async def test_a_worker_that_comes_late_pages_through_what_others_have_published(workers, each):
    one, other = await workers.start(), await workers.start(answer_bytes=2**20)
    member = await one.joined()
    for start in range(0, 150, each):
        for receipt in [member.later(number) for number in range(start, min(start + each, 150))]:
            await receipt
    late = await other.joined()
    pushes = member.pushes
    assert len(pushes) == 150
    for before, after, limit, expected, more in (
        (None, None, 10, pushes[140:], True),
        (None, None, 200, pushes, False),
        (150, None, 3, pushes[146:149], True),
        (66, None, 5, pushes[60:65], True),
        (4, None, 10, pushes[:3], False),
        (4, None, 3, pushes[:3], False),
        (1, None, 5, [], False),
        (None, 0, 5, pushes[:5], True),
        (None, 63, 2, pushes[63:65], True),
        (None, 145, 100, pushes[145:], False),
        (None, 150, 5, [], False),
    ):
        assert await get(late.stream.history(before, after, limit)) == Page(expected, more), (before, after)
    epoch = (await late.recover()).epoch
    for offset in (0, 1, 63, 64, 65, 149, 150):
        recovery = await late.recover(Position(offset, epoch))
        assert (recovery.offset, recovery.recovered) == (150, True)
        assert list(recovery.messages) == pushes[offset:]


async def test_recoveries_that_come_together_read_once(workers):
    one, other = await workers.start(), await workers.start()
    member = await one.joined()
    for number in range(20):
        _, epoch, _ = await member.publish(number)
    late = await other.joined()
    other.redis.sent.clear()
    recoveries = await asyncio.gather(*(late.recover(Position(5, epoch)) for _ in range(10)))
    assert [list(recovery.messages) for recovery in recoveries] == [member.pushes[5:]] * 10
    assert [command[0] for command in other.redis.sent] == [b"XRANGE"]


async def test_what_is_published_while_a_recovery_reads_comes_once(workers):
    one, other = await workers.start(), await workers.start()
    member = await one.joined()
    for number in range(20):
        _, epoch, _ = await member.publish(number)
    late = other.member()
    recovering = late.stream.recover(Position(0, epoch))
    receipts = [member.later(number) for number in range(20, 30)]
    recovery = await recovering
    for receipt in receipts:
        await receipt
    await member.publish("end")
    await late.publish("end")
    await until(lambda: len(member.got) == 32)
    live = [push for push, offset in zip(late.pushes, late.offsets, strict=True) if offset > recovery.offset]
    got = [*recovery.messages, *live]
    assert got == member.pushes[: len(got)]
    assert len(got) == 32


async def test_a_kind_that_keeps_nothing_shows_nothing_to_who_comes_late(workers):
    kind = RoomKind(name="chat", history_messages=0)
    member = await (await workers.start()).joined(kind=kind)
    for number in range(5):
        _, epoch, _ = await member.publish(number)
    late = await (await workers.start()).joined(kind=kind)
    assert list((await get(late.stream.history(None, None, 10))).messages) == []
    assert (await late.recover(Position(4, epoch))).recovered is False
    assert (await late.recover(Position(5, epoch))).recovered is True


async def test_an_entry_that_is_none_of_ours_is_left_out(workers):
    one, other = await workers.start(), await workers.start()
    member = await one.joined()
    _, epoch, _ = await member.publish("one")
    names = names_of(workers)
    await ask(one, names, b"XADD", names.stream, f"{int(epoch, 36)}-2", b"d", b"not a blob")
    late = await other.joined()
    assert list((await get(late.stream.history(None, None, 10))).messages) == member.pushes
    assert other.broker.stats()["broker_strange_total"] >= 1


async def test_memory_for_what_is_kept_here_is_bounded_over_all_rooms(workers):
    worker = await workers.start(memory_bytes=5_000)
    member = await worker.joined(kind=CHAT)
    for _ in range(100):
        _, epoch, _ = await member.publish("x" * 100)
    assert worker.broker.stats()["broker_history_bytes"] <= 5_000
    recovery = await member.recover(Position(0, epoch))
    assert list(recovery.messages) == member.pushes
    assert worker.broker.stats()["broker_history_bytes"] <= 5_000
