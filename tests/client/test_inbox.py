"""The queue in front of a slow reader."""

import asyncio

import pytest

from realtime.client import Closed, Gap, MembersChanged, Message
from realtime.client.inbox import Inbox


def message(offset: int | None) -> Message:
    return Message("chat_message", room="chat:x", offset=offset, epoch="e")


async def drained(inbox: Inbox) -> list[object]:
    inbox.end()
    items = []
    while (item := await inbox.get()) is not None:
        items.append(item)
    return items


async def test_items_come_in_the_order_they_were_put():
    inbox = Inbox(10)
    for offset in range(1, 6):
        inbox.put(message(offset))
    assert [item.offset for item in await drained(inbox)] == [1, 2, 3, 4, 5]


async def test_what_a_slow_reader_missed_is_one_gap_before_the_rest():
    inbox = Inbox(4)
    for offset in range(1, 101):
        inbox.put(message(offset))
    items = await drained(inbox)
    assert items[0] == Gap(1, 97, "slow_reader")
    assert [item.offset for item in items[1:]] == [98, 99, 100]


async def test_received_and_gaps_together_are_everything():
    inbox = Inbox(5)
    seen: set[int] = set()
    for offset in range(1, 51):
        inbox.put(message(offset))
        if offset % 7 == 0:
            item = await inbox.get()
            seen |= set(range(item.first, item.last + 1)) if isinstance(item, Gap) else {item.offset}
    for item in await drained(inbox):
        seen |= set(range(item.first, item.last + 1)) if isinstance(item, Gap) else {item.offset}
    assert seen == set(range(1, 51))


async def test_a_gap_of_the_server_is_merged_into_the_readers_own():
    inbox = Inbox(3)
    inbox.put(message(1))
    inbox.put(Gap(2, 5, "dropped"))
    inbox.put(message(6))
    inbox.put(message(7))
    inbox.put(message(8))
    assert await drained(inbox) == [Gap(1, 6, "slow_reader"), message(7), message(8)]


async def test_a_loss_across_a_restart_is_a_gap_without_numbers():
    inbox = Inbox(3)
    for item in (message(7), Gap(None, None, "epoch_changed"), message(1), message(2), message(3)):
        inbox.put(item)
    assert (await drained(inbox))[0] == Gap(None, None, "slow_reader")


async def test_dropped_roster_changes_are_no_gap():
    inbox = Inbox(3)
    for number in range(10):
        inbox.put(MembersChanged((str(number),), ()))
    assert all(isinstance(item, MembersChanged) for item in await drained(inbox))


async def test_a_reader_that_waits_is_woken():
    inbox = Inbox(3)
    reader = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    inbox.put(message(1))
    assert await reader == message(1)


async def test_a_cancelled_reader_takes_nothing_along():
    inbox = Inbox(3)
    first, second = asyncio.ensure_future(inbox.get()), asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    inbox.put(message(1))
    assert await second == message(1)


async def test_readers_finish_what_is_there_and_then_get_the_error():
    inbox = Inbox(3)
    inbox.put(message(1))
    inbox.end(Closed("over"))
    inbox.put(message(2))
    assert await inbox.get() == message(1)
    with pytest.raises(Closed, match="over"):
        await inbox.get()
