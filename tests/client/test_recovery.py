"""Recovery as a user of the client sees it: pages, epochs and passive rooms, against the fake server."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from realtime.client import Client, Gap, Message, Options, Position, Resumed, Room, Unread, connect
from realtime.errors import Unavailable
from tests.client.conftest import FakeClock
from tests.client.fake_server import FakeServer, Peer

RESTARTED = Gap(None, None, "epoch_changed")


async def publish(fake: FakeServer, *contents: object) -> None:
    for content in contents:
        await fake.publish("chat:x", "bo", "chat_message", content)


async def away(fake: FakeServer, *contents: object) -> None:
    """Publish while nobody is connected, and let them come back."""
    await fake.stop()
    await publish(fake, *contents)
    await fake.start()


async def events_until(room: Room, last: Callable[[Any], bool]) -> list[object]:
    """Return what the room tells of its order, messages by content, up to the event that is `last`."""
    told: list[object] = []
    async for event in room.events():
        if isinstance(event, Message):
            told.append(event.content)
        elif isinstance(event, Gap | Resumed | Unread):
            told.append(event)
        if last(event):
            break
    return told


def is_content(content: object) -> Callable[[Any], bool]:
    return lambda event: isinstance(event, Message) and event.content == content


def is_resumed(event: object) -> bool:
    return isinstance(event, Resumed)


@pytest.mark.parametrize("inbox_limit", [8, 1000])
async def test_more_than_one_answer_holds_is_paged_before_what_comes_live(fake, inbox_limit):
    fake.answer_messages = 7
    options = Options(uniform=lambda: 0.0, inbox_limit=inbox_limit)
    async with connect(fake.url, user="al", options=options) as client:
        room = await client.join("chat:x")
        await publish(fake, 1, 2)
        told = await events_until(room, is_content(2))
        await away(fake, *range(3, 101))
        await fake.until(lambda: any("chat:x" in peer.rooms for peer in fake.peers))
        await publish(fake, *range(101, 121))
        told += await events_until(room, is_content(120))
        assert [item for item in told if not isinstance(item, Resumed)] == list(range(1, 121))
        assert [item for item in told if isinstance(item, Resumed)] == [Resumed(recovered=True)]
        asked = [one["content"]["after"] for one in fake.received if one["type"] == "history"]
        assert asked == sorted(set(asked)), "no page is asked for twice"


async def test_a_recovery_larger_than_the_inbox_loses_nothing_to_a_reader_who_reads_on(fake):
    options = Options(uniform=lambda: 0.0, inbox_limit=20)
    async with connect(fake.url, user="al", options=options) as client:
        room = await client.join("chat:x")
        await away(fake, *range(1, 501))
        told = await events_until(room, is_content(500))
        assert [item for item in told if not isinstance(item, Resumed)] == list(range(1, 501))


async def test_pages_wait_for_a_reader(fake):
    fake.answer_messages = 5
    options = Options(uniform=lambda: 0.0, inbox_limit=20)
    async with connect(fake.url, user="al", options=options) as client:
        room = await client.join("chat:x")
        await away(fake, *range(1, 101))
        position = await room.publish("chat_message", 101)
        assert position == Position(101, fake.epoch)
        await client.ping()
        assert len(room.inbox) <= 20
        assert room.position is not None
        assert room.position.offset < 30
        told = await events_until(room, is_content(101))
        assert [item for item in told if not isinstance(item, Resumed)] == list(range(1, 102))


async def test_a_connection_that_breaks_in_the_middle_goes_on_from_there(fake, at_once):
    fake.answer_messages = 5
    cuts = iter([3, 6])
    following = [next(cuts)]

    def cut(peer: Peer, message: dict[str, Any]) -> bool:
        pages = sum(one["type"] == "history" for one in fake.received)
        if message["type"] == "history" and pages == following[0]:
            following[0] = next(cuts, 0)
            peer.cut()
            return True
        return False

    fake.faults.append(cut)
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await away(fake, *range(1, 51))
        told = await events_until(room, is_resumed)
        assert told == [*range(1, 51), Resumed(recovered=True)]
        assert client.reconnects == 3
        joins = [one["content"] for one in fake.received if one["type"] == "join"]
        assert [join["since"]["offset"] for join in joins[1:]] == [0, 10, 20]


async def test_a_history_that_is_busy_is_asked_again_when_it_says(fake, clock):
    fake.answer_messages = 5
    busy: list[Any] = []

    def refuse(peer: Peer, message: dict[str, Any]) -> bool:
        if message["type"] != "history" or busy:
            return False
        answer = fake.send_error(peer, message, "unavailable", temporary=True, retry_after=3)
        busy.append(asyncio.ensure_future(answer))
        return True

    fake.faults.append(refuse)
    async with connect(fake.url, user="al", options=Options(clock=clock, uniform=lambda: 0.0)) as client:
        room = await client.join("chat:x")
        await _back(clock, fake, range(1, 11))
        await clock.until_asleep(lambda sleeps: 3.0 in sleeps)
        clock.advance(3.0)
        assert await events_until(room, is_resumed) == [*range(1, 11), Resumed(recovered=True)]


async def test_a_history_that_is_refused_is_a_gap_and_the_room_goes_on(fake, at_once):
    fake.answer_messages = 5
    refusals: list[Any] = []

    def refuse(peer: Peer, message: dict[str, Any]) -> bool:
        if message["type"] == "history":
            answer = fake.send_error(peer, message, "forbidden", temporary=False)
            refusals.append(asyncio.ensure_future(answer))
        return message["type"] == "history"

    fake.faults.append(refuse)
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await away(fake, *range(1, 11))
        assert await events_until(room, is_resumed) == [Gap(1, 10, "unrecoverable"), Resumed(recovered=False)]
        await room.publish("chat_message", "next")
        assert await events_until(room, is_content("next")) == ["next"]


async def test_what_was_said_in_the_new_epoch_before_we_were_back_is_fetched(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await room.publish("chat_message", "before")
        await fake.stop()
        fake.lose_history()
        await publish(fake, "one", "two")
        await fake.start()
        told = await events_until(room, is_resumed)
        assert told == ["before", RESTARTED, "one", "two", Resumed(recovered=False)]
        assert room.position == Position(2, fake.epoch)


async def test_an_answer_without_an_epoch_recovers_by_the_messages_own(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        fake.joined_lacks = {"epoch"}
        room = await client.join("chat:x")
        assert room.position is None
        await publish(fake, 1)
        assert await events_until(room, is_content(1)) == [1]
        assert room.position == Position(1, fake.epoch), "first learned from a push"
        for number in range(2, 12):
            fake.joined_lacks = {"epoch"} if number % 2 else {"offset"}
            await away(fake, number)
            assert await events_until(room, is_resumed) == [number, Resumed(recovered=True)]
        fake.joined_lacks, fake.answer_messages = {"epoch", "offset"}, 3
        await away(fake, *range(12, 32))
        assert await events_until(room, is_resumed) == [*range(12, 32), Resumed(recovered=True)]


async def test_a_room_at_offset_0_recovers_what_came_first(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await away(fake, "first")
        assert await events_until(room, is_resumed) == ["first", Resumed(recovered=True)]
        assert fake.received[-1]["type"] != "history"
    joins = [one for one in fake.received if one["type"] == "join"]
    assert joins[-1]["content"] == {"since": {"offset": 0, "epoch": fake.epoch}}


async def test_an_offset_beyond_the_end_is_a_restart_and_not_silence(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        await publish(fake, 1, 2, 3)
        await events_until(room, is_content(3))
        await fake.stop()
        del fake.rooms["chat:x"].messages[1:]
        await fake.start()
        assert await events_until(room, is_resumed) == [RESTARTED, Resumed(recovered=False)]
        await publish(fake, "new 2")
        assert await events_until(room, is_content("new 2")) == ["new 2"]
        assert room.position == Position(2, fake.epoch)


async def test_a_key_that_is_repeated_over_a_reconnect_returns_the_first_place(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        first = await room.publish("chat_message", 1, key="mine")
        assert first == Position(1, fake.epoch, duplicate=False)
        fake.peers[0].cut()
        again = await room.publish("chat_message", 1, key="mine")
        assert again == Position(1, fake.epoch, duplicate=True)
    assert len(fake.rooms["chat:x"].messages) == 1


async def test_what_has_no_place_is_published_without_one(fake, at_once):
    acks: list[Any] = []

    def keep_nothing(peer: Peer, message: dict[str, Any]) -> bool:
        if message["type"] == "chat_typing":
            answer = {"type": "ack", "id": message["id"], "room": message["room"], "content": {}}
            acks.append(asyncio.ensure_future(peer.send(answer)))
        return message["type"] == "chat_typing"

    fake.faults.append(keep_nothing)
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        assert await room.publish("chat_typing", {}) is None


# -- passive rooms ------------------------------------------------------------------------------------------


async def passive_room(client: Client, fake: FakeServer) -> Room:
    room = await client.join("chat:x")
    await publish(fake, "seen")
    await events_until(room, is_content("seen"))
    await room.passive()
    return room


async def test_a_passive_room_tells_counts_and_comes_back_to_what_it_missed(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await passive_room(client, fake)
        await publish(fake, 1, 2, 3)
        await fake.tell_unread("chat:x")
        unread = Unread(3, Position(4, fake.epoch))
        assert await events_until(room, lambda event: event == unread) == [unread]
        assert (room.unread, room.is_passive) == (3, True)
        assert room.position == Position(1, fake.epoch)
        await room.active()
        assert (room.unread, room.is_passive) == (0, False)
        assert await events_until(room, is_resumed) == [1, 2, 3, Resumed(recovered=True)]
        await publish(fake, 4)
        assert await events_until(room, is_content(4)) == [4]


async def test_more_than_one_answer_holds_comes_back_in_pages(fake, at_once):
    fake.answer_messages = 5
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await passive_room(client, fake)
        await publish(fake, *range(100))
        await room.active()
        assert await events_until(room, is_resumed) == [*range(100), Resumed(recovered=True)]


async def test_a_passive_room_that_reconnects_brings_what_was_missed_and_is_passive_again(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await passive_room(client, fake)
        await publish(fake, "while passive")
        await away(fake, "while away")
        assert await events_until(room, is_resumed) == [
            "while passive",
            "while away",
            Resumed(recovered=True),
        ]
        await fake.until(lambda: bool(fake.peers and fake.peers[0].passive))
        await publish(fake, "later")
        await fake.tell_unread("chat:x")
        told = await events_until(room, lambda event: isinstance(event, Unread))
        assert told == [Unread(1, Position(4, fake.epoch))]


async def test_without_a_connection_it_is_decided_for_the_next_one(fake, clock):
    async with connect(fake.url, user="al", options=Options(clock=clock, uniform=lambda: 1.0)) as client:
        room = await passive_room(client, fake)
        fake.peers[0].cut()
        await clock.until_asleep(lambda sleeps: 0.5 in sleeps)
        await room.active()
        await room.passive()
        await room.active()
        clock.advance(0.5)
        assert await events_until(room, is_resumed) == [Resumed(recovered=True)]
        await publish(fake, 1)
        assert await events_until(room, is_content(1)) == [1]
        assert [one["type"] for one in fake.received].count("passive") == 1


async def test_a_passive_that_is_refused_leaves_the_room_active(fake, at_once):
    refusals: list[Any] = []

    def refuse(peer: Peer, message: dict[str, Any]) -> bool:
        if message["type"] == "passive":
            answer = fake.send_error(peer, message, "unavailable", temporary=True)
            refusals.append(asyncio.ensure_future(answer))
        return message["type"] == "passive"

    fake.faults.append(refuse)
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await client.join("chat:x")
        with pytest.raises(Unavailable):
            await room.passive()
        assert not room.is_passive
        await publish(fake, 1)
        assert 1 in await events_until(room, is_content(1))


async def test_turning_active_sends_nothing_twice_that_waits_for_its_ack(fake, at_once):
    async with connect(fake.url, user="al", options=at_once) as client:
        room = await passive_room(client, fake)
        held: list[dict[str, Any]] = []
        fake.faults.append(
            lambda peer, message: message["type"] == "chat_message" and (held.append(message) or True)
        )
        publishing = asyncio.ensure_future(room.publish("chat_message", "mine"))
        await fake.until(lambda: bool(held))
        await room.active()
        await client.ping()
        assert len(held) == 1
        publishing.cancel()


async def _back(clock: FakeClock, fake: FakeServer, contents: range) -> None:
    await fake.stop()
    await publish(fake, *contents)
    await fake.start()
    await clock.until_asleep(lambda sleeps: 0.0 in sleeps)
    clock.advance(0.0)
