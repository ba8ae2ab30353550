"""Rows of a durable room that are changed in the store: what was there comes back from no memory."""

import asyncio
import inspect
import json

import pytest
import pytest_asyncio
import redis.asyncio

from realtime.core.contracts import Position, Terms
from realtime.core.database import Statement
from tests.contract.conftest import broker_maker
from tests.contract.test_broker import ALICE, CHAT, LOBBY, Subscriber

SECRET = "secret-7f3a"
LEFT = '{"type":"chat_message","room":"chat:lobby","offset":%d,"epoch":"%s","content":{"left":true}}'
PLACES = ["durable on sqlite", "durable on postgres", "redis with postgres"]


@pytest_asyncio.fixture(params=PLACES)
async def broker(request, clock, tmp_path, closing):
    return (await broker_maker(request, clock, tmp_path, closing))()


async def change(broker, sql: str, *values: object) -> None:
    await broker.store.tables.write(Statement(sql, values))


async def redact(broker, offset: int, epoch: bytes) -> None:
    """Write over one row, as a feature does."""
    tables = broker.store.tables
    push = "CAST($1 AS BLOB)" if tables.dialect == "sqlite" else "convert_to($1, 'UTF8')"
    sql = f'UPDATE publications SET push = {push} WHERE "offset" = $2'
    await change(broker, sql, LEFT % (offset, epoch.decode()), offset)


async def say(room: Subscriber, *texts: str) -> bytes:
    """Publish all in one turn of the loop, as one blob where blobs are made; return the epoch."""
    receipts = [room.stream.publish("chat_message", ALICE, json.dumps(text).encode()) for text in texts]
    for each in receipts:
        _, epoch, _ = await each if inspect.isawaitable(each) else each
    return epoch


def contents(pushes) -> list:
    return [json.loads(push)["content"] for push in pushes]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one entry"])
async def test_what_was_written_over_comes_back_from_no_memory(broker, together):
    room = Subscriber(broker)
    texts = ["one", "two", SECRET, "four", "five"]
    for said in [texts] if together else [[text] for text in texts]:
        epoch = await say(room, *said)
    start = Position(0, epoch)
    assert contents((await room.recover(0, epoch)).messages) == texts
    await redact(broker, 3, epoch)
    await broker.expunge(LOBBY, CHAT, 3)
    broker.drop_history(LOBBY)
    left = ["one", "two", {"left": True}, "four", "five"]
    for _ in range(2):  # from the store, and from what that has put into memory
        assert contents((await room.recover(0, epoch)).messages) == left
        assert contents((await room.history()).messages) == left
        assert contents((await room.history(after=2, limit=1)).messages) == [{"left": True}]
    room.stream.close()
    late = Subscriber(broker)
    recovery = await late.recover(start.offset, start.epoch)
    assert (recovery.offset, recovery.epoch, contents(recovery.messages)) == (5, epoch, left)


async def test_order_epoch_keys_and_members_notice_nothing(broker):
    room = Subscriber(broker)
    first = await room.publish(b'"one"', key="k")
    await room.publish(b'"two"')
    await broker.expunge(LOBBY, CHAT, 2)
    broker.drop_history(LOBBY)
    assert await room.publish(b'"one"', key="k") == (1, first[1], True)
    assert await room.publish(b'"three"', expect=2) == (3, first[1], False)
    assert (room.offsets, contents(room.pushes)) == ([1, 2, 3], ["one", "two", "three"])
    assert contents((await room.recover(1, first[1])).messages) == ["two", "three"]


async def test_what_was_read_before_it_went_is_kept_in_no_memory(broker):
    room = Subscriber(broker)
    epoch = await say(room, "one", SECRET)
    broker.drop_history(LOBBY)
    reading = asyncio.ensure_future(room.recover(0, epoch))
    await asyncio.sleep(0)
    await redact(broker, 2, epoch)
    await broker.expunge(LOBBY, CHAT, 2)
    broker.drop_history(LOBBY)
    await reading
    assert contents((await room.recover(0, epoch)).messages) == ["one", {"left": True}]


@pytest.mark.parametrize("broker", ["durable on sqlite", "durable on postgres"], indirect=True)
async def test_a_room_that_nobody_has_loaded_has_nothing_to_forget(broker):
    await broker.expunge(LOBBY, CHAT, 5)
    broker.drop_history(LOBBY)
    assert (await Subscriber(broker).publish())[0] == 1


@pytest.mark.parametrize("broker", ["redis with postgres"], indirect=True)
async def test_redis_has_nothing_of_it_and_the_store_all_that_came_in_one_entry_with_it(broker, redis_node):
    room = Subscriber(broker)
    epoch = await say(room, "one", SECRET, "three", "four")
    await say(room, "five")
    await redact(broker, 2, epoch)
    await change(broker, 'DELETE FROM publications WHERE "offset" IN (3, 4)')  # as if still on their way
    await broker.expunge(LOBBY, CHAT, 2)
    client = redis.asyncio.Redis.from_url(redis_node.url)
    streams = [key async for key in client.scan_iter(f"{broker.ordering.prefix}:*:s")]
    dump = repr([await client.xrange(key) for key in streams])
    await client.aclose()
    assert "five" in dump
    assert SECRET not in dump
    broker.drop_history(LOBBY)
    left = ["one", {"left": True}, "three", "four", "five"]
    assert contents((await room.history()).messages) == left
    assert contents((await room.recover(0, epoch)).messages) == left


@pytest.mark.parametrize("broker", ["redis with postgres"], indirect=True)
async def test_rows_that_are_removed_are_not_written_again_where_redis_has_forgotten_them_before(broker):
    room = Subscriber(broker)
    epoch = await say(room, SECRET)
    await say(room, "two")
    await broker.expunge(LOBBY, CHAT, 1)
    await change(broker, 'DELETE FROM publications WHERE "offset" = 1')
    await broker.expunge(LOBBY, CHAT, 1)
    broker.drop_history(LOBBY)
    assert contents((await room.history()).messages) == ["two"]
    recovery = await room.recover(0, epoch)
    assert (recovery.recovered, list(recovery.messages)) == (False, [])
    assert await broker.store.tables.read('SELECT "offset" FROM publications LIMIT 5') == [(2,)]


async def test_compare_and_set_goes_on_after_all_was_forgotten(broker):
    room = Subscriber(broker)
    await say(room, "one", "two")
    for _ in range(3):
        await broker.expunge(LOBBY, CHAT, 2)
        broker.drop_history(LOBBY)
    receipt = room.stream.publish("chat_message", ALICE, b'"three"', Terms(expect=2, fence=1))
    assert (await receipt)[0] == 3
