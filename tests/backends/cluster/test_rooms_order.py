"""One order for all workers, whatever gets lost on the way; what a blob holds; who owns a room."""

import asyncio
import random
from contextlib import suppress

import pytest

from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.writer import BLOB_BYTES, BLOB_MESSAGES
from realtime.core.contracts import Position
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict, Unavailable
from realtime.ids import RoomId, RoomName, TenantId
from tests.backends.cluster.stage import ALICE, CHAT, LOBBY, until


def blobs_of(worker) -> list[tuple[int, bytes]]:
    """(count, blob) of each publication sent to Redis."""
    found = []
    for command in worker.redis.sent:
        if command[1] == b"rt1_publish":
            keys = command[2]
            found.append((command[3 + keys], command[3 + keys + 5]))
    return found


async def test_two_workers_that_publish_at_once_have_one_order_whatever_messages_get_lost(workers):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    pair = [await workers.start(), await workers.start()]
    members = [await worker.joined() for worker in pair]
    for worker in pair:
        worker.redis.lost = lambda payload: rng.random() < 0.25
    receipts = []
    for number in range(1500):
        member = rng.choice(members)
        receipts.append(member.later(number))
        if rng.random() < 0.3:
            await asyncio.sleep(0)
        if rng.random() < 0.1:
            await receipts[-1]
    placed = {(await receipt)[0]: number for number, receipt in enumerate(receipts)}
    for worker in pair:
        worker.redis.lost = lambda payload: False
    last = (await members[0].publish("last"))[0]
    await until(lambda: all(member.offsets[-1:] == [last] for member in members))
    assert sorted(placed) == list(range(1, 1501))
    for member in members:
        assert member.got == list(range(1, 1502))
        assert member.texts == [placed[offset] for offset in range(1, 1501)] + ["last"]
    assert members[0].pushes == members[1].pushes
    assert sum(worker.broker.gaps for worker in pair) > 10


async def test_what_one_worker_publishes_in_a_turn_keeps_its_order(workers):
    one, other = await workers.start(), await workers.start()
    sender, reader = await one.joined(), await other.joined()
    for receipt in [sender.later(number) for number in range(500)]:
        await receipt
    await until(lambda: len(reader.got) == 500)
    assert reader.texts == sender.texts == list(range(500))


async def test_a_worker_that_hears_nothing_of_its_own_finds_out_by_itself(workers):
    one, other = await workers.start(), await workers.start()
    member, writer = await one.joined(), await other.joined()
    one.redis.lost = lambda payload: True
    await writer.publish("unheard")
    assert (await member.publish("mine"))[0] == 2
    assert member.got == []
    one.tick(1.0)
    await until(lambda: member.got == [1, 2])


async def test_a_publication_is_delivered_once_however_it_comes(workers):
    worker = await workers.start()
    member = await worker.joined()
    again = []
    worker.redis.lost = again.append  # loses nothing, and keeps a copy
    for number in range(5):
        await member.publish(number)
    await until(lambda: len(again) == 5)
    for payload in again:
        member.stream.on_message(payload)
    assert member.got == [1, 2, 3, 4, 5]


async def test_a_blob_has_at_most_64_publications_and_one_is_on_its_way_at_a_time(workers):
    worker = await workers.start()
    member = await worker.joined()
    for receipt in [member.later(number) for number in range(200)]:
        await receipt
    counts = [count for count, _ in blobs_of(worker)]
    assert counts == [64, 64, 64, 8]
    assert BLOB_MESSAGES == 64
    worker.redis.sent.clear()
    first = member.later("a")
    await asyncio.sleep(0)
    rest = [member.later("b"), member.later("c")]
    await asyncio.sleep(0)
    assert [count for count, _ in blobs_of(worker)] == [1]
    await asyncio.gather(first.settled(), *(each.settled() for each in rest))
    assert [count for count, _ in blobs_of(worker)] == [1, 2]


async def test_a_blob_has_at_most_64_kib_and_what_is_larger_goes_alone(workers):
    worker = await workers.start()
    member = await worker.joined()
    sizes = [30_000, 30_000, 30_000, 100_000, 10, 65_000, 10]
    for receipt in [member.later("x" * size) for size in sizes]:
        await receipt
    sent = blobs_of(worker)
    assert [count for count, _ in sent] == [2, 1, 1, 3]
    assert all(len(blob) <= BLOB_BYTES or count == 1 for count, blob in sent)
    assert [len(text) for text in member.texts] == sizes


async def test_each_of_a_blob_is_weighed_by_its_own_terms(workers):
    one, other = await workers.start(), await workers.start()
    member, reader = await one.joined(), await other.joined()
    await member.publish("first", key="k")
    outcomes = [
        member.later("a"),
        member.later("again", key="k"),
        member.later("b", expect=2),
        member.later("too late", expect=2),
        member.later("c", key="new"),
        member.later("c again", key="new"),
        member.later("d", fence=7),
        member.later("older", fence=6),
        member.later("e"),
    ]
    said = []
    for outcome in outcomes:
        try:
            offset, _, duplicate = await outcome
            said.append((offset, duplicate))
        except Conflict as error:
            said.append(error.message)
    assert said == [
        (2, False),
        (1, True),
        (3, False),
        "the room is at offset 3, not 2",
        (4, False),
        (4, True),
        (5, False),
        "the room has a newer owner: ring version 7, not 6",
        (6, False),
    ]
    assert [count for count, _ in blobs_of(one)] == [1, 9]
    await until(lambda: len(reader.got) == 6)
    assert reader.texts == member.texts == ["first", "a", "b", "c", "d", "e"]


async def test_an_owner_that_is_woken_after_its_rooms_moved_cannot_write(workers):
    before, after = await workers.start(), await workers.start()
    old, new = await before.joined(), await after.joined()
    await old.publish("mine", fence=100)
    await new.publish("now mine", fence=101)
    with pytest.raises(Conflict, match="newer owner: ring version 101, not 100"):
        await old.publish("still mine?", fence=100)
    await until(lambda: len(old.got) == 2)
    assert old.texts == ["mine", "now mine"]


async def test_of_two_that_compare_and_set_one_wins(workers):
    one, other = await workers.start(), await workers.start()
    members = [await one.joined(), await other.joined()]
    for turn in range(20):
        outcomes = [member.later(turn, expect=turn) for member in members]
        for outcome in outcomes:
            await outcome.settled()
        won = 0
        for outcome in outcomes:
            with suppress(Conflict):
                won += (await outcome)[0] == turn + 1
        assert won == 1


async def test_a_publication_whose_answer_was_lost_is_found_by_its_key(workers):
    worker = await workers.start()
    member = await worker.joined()
    worker.redis.unanswered = Unavailable("no answer", retry_after_s=0.5)
    with pytest.raises(Unavailable, match="a repeat with the same key tells") as refused:
        await member.publish("once", key="k")
    assert refused.value.retry_after_s == 0.5
    offset, _, duplicate = await member.publish("once", key="k")
    assert (offset, duplicate) == (1, True)
    await until(lambda: member.got == [1])


async def test_what_waits_behind_a_lost_answer_is_refused_too(workers):
    worker = await workers.start()
    member = await worker.joined()
    worker.redis.unanswered = Unavailable("no answer", retry_after_s=0.5)
    first = member.later("first", key="1")
    await asyncio.sleep(0)
    second = member.later("second", key="2")
    for receipt in (first, second):
        with pytest.raises(Unavailable):
            await receipt
    assert worker.broker.stats()["broker_waiting"] == worker.broker.stats()["broker_waiting_bytes"] == 0
    assert (await member.publish("second", key="2"))[2] is False


async def test_rooms_whose_names_hold_braces_are_rooms_like_others(workers):
    worker = await workers.start()
    names = ["chat:a}b", "chat:{a}", "chat:}", "chat:lobby}:m", "chat:lobby}:k:x", "chat:lobby"]
    rooms = [RoomId(TenantId("default"), RoomName(name)) for name in names]
    members = [await worker.joined(room) for room in rooms]
    for at, member in enumerate(members):
        await member.publish(at, key="k}:m")
    assert [member.texts for member in members] == [[at] for at in range(len(names))]


def test_no_key_of_a_client_names_another_rooms_key():
    names = RoomNames("rt", LOBBY)
    assert names.channel == b"rt:{default/chat:lobby}"
    found = {
        names.idempotency(sender, key) for sender in (None, ALICE, b'"a|"') for key in ("k", "", "|k", "}:m")
    }
    assert len(found) == 12
    for name in found:
        assert name.startswith(b"rt:{default/chat:lobby}:k:")
        assert b"}" not in name[len(names.channel) :]


async def test_what_is_none_of_ours_on_a_channel_harms_nothing(workers, caplog):
    worker = await workers.start()
    member = await worker.joined()
    names = RoomNames(workers.prefix, LOBBY)
    strange = [
        b"",
        b"\x00",
        b"hello",
        b"\x01",
        b"\x01" + bytes(16) + b"xy",
        b"\x03\xff\xffname",
        b"\x04",
        b"\x04\xff",
    ]
    for payload in strange:
        await worker.broker.ask(names.slot, b"SPUBLISH", names.channel, payload)
    await until(lambda: worker.broker.stats()["broker_strange_total"] == len(strange))
    await member.publish("well")
    assert (member.texts, member.gaps) == (["well"], [])
    assert len([line for line in caplog.messages if "somebody else publishes" in line]) == 1
    assert not [line for line in caplog.messages if "failed" in line]


async def test_a_signal_comes_to_all_who_are_there_outside_of_the_order(workers):
    one, other = await workers.start(), await workers.start()
    members = [await one.joined(), await other.joined()]
    members[0].stream.signal(b'{"type":"typing"}')
    await until(lambda: all(member.signals for member in members))
    assert [member.signals for member in members] == [[b'{"type":"typing"}']] * 2
    assert (await members[0].publish())[0] == 1


async def test_a_closed_stream_is_subscribed_to_no_more(workers, redis_cluster):
    worker = await workers.start()
    member = await worker.joined()
    names = RoomNames(workers.prefix, LOBBY)
    node = redis_cluster.master_of(names.slot)
    assert node.ask("PUBSUB", "SHARDNUMSUB", names.channel) == [names.channel, 1]
    member.stream.close()
    member.stream.close()
    await worker.publish("to nobody")
    assert node.ask("PUBSUB", "SHARDNUMSUB", names.channel) == [names.channel, 0]
    again = await worker.joined()
    assert (await again.publish("to somebody"))[0] == 2
    assert (member.got, again.got) == ([], [2])


async def test_rooms_that_nobody_here_is_in_do_not_pile_up(workers, monkeypatch):
    monkeypatch.setattr("realtime.backends.cluster.broker.IDLE_WRITERS", 10)
    worker = await workers.start()
    member = await worker.joined()
    for number in range(30):
        await worker.publish(room=RoomId(TenantId("default"), RoomName(f"chat:{number}")))
    assert len(worker.broker._writers) == 11
    assert (await member.publish())[0] == 1


@pytest.mark.parametrize("kind", [CHAT, RoomKind(name="chat", history_messages=0)], ids=["kept", "not kept"])
async def test_a_gap_is_fetched_even_of_a_kind_that_keeps_nothing(workers, kind):
    one, other = await workers.start(), await workers.start()
    writer, reader = await one.joined(kind=kind), await other.joined(kind=kind)
    other.redis.lost = lambda payload: True
    for number in range(30):
        await writer.publish(number)
    other.redis.lost = lambda payload: False
    await writer.publish("last")
    await until(lambda: len(reader.got) == 31)
    assert reader.got == list(range(1, 32))


async def test_what_is_kept_no_more_is_told_as_lost(workers):
    one, other = await workers.start(), await workers.start()
    kind = RoomKind(name="chat", history_messages=10)
    writer, reader = await one.joined(kind=kind), await other.joined(kind=kind)
    other.redis.lost = lambda payload: True
    for number in range(400):
        await writer.publish(number)
    other.redis.lost = lambda payload: False
    await writer.publish("last")
    await until(lambda: reader.offsets[-1:] == [401])
    (gap,) = reader.gaps
    assert (gap[0], gap[2]) == (1, "unrecoverable")
    assert reader.got == [gap, *range(gap[1] + 1, 402)]
    assert len(reader.offsets) >= 10
    assert other.broker.stats()["broker_lost_total"] == gap[1]
    assert (await reader.recover(Position(401, (await reader.recover()).epoch))).recovered
