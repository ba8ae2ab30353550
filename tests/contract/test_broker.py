"""What every broker promises: one order, whole recovery, keys once, compare-and-set, fencing.

A broker may answer at once or with an awaitable; `get` takes both.
"""

import asyncio
import inspect
import json
from typing import Any

import pytest

from realtime.backends.keys import KeyRing
from realtime.core.contracts import Position, Terms
from realtime.core.kinds import RoomKind
from realtime.errors import Conflict
from realtime.ids import RoomId, RoomName, TenantId

CHAT = RoomKind(name="chat", durable=True)  # where there is no store, it is kept in memory
LOBBY = RoomId(TenantId("default"), RoomName("chat:lobby"))
ALICE = b'"alice"'


async def get(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


class Subscriber:
    """Collects what one subscription gets."""

    def __init__(self, broker, room: RoomId = LOBBY, kind: RoomKind = CHAT) -> None:
        self.pushes: list[bytes] = []
        self.offsets: list[int] = []
        self.stream = broker.open(room, kind, self._take)

    def _take(self, push: bytes, offset: int) -> None:
        self.pushes.append(push)
        self.offsets.append(offset)

    async def publish(self, content: bytes = b"null", **terms: Any):
        given = Terms(**terms) if terms else None
        return await get(self.stream.publish("chat_message", ALICE, content, given))

    async def recover(self, offset: int | None = None, epoch: bytes = b""):
        since = None if offset is None else Position(offset, epoch)
        return await get(self.stream.recover(since))

    async def history(self, before=None, after=None, limit=100):
        return await get(self.stream.history(before, after, limit))


async def test_offsets_count_up_by_one_from_one_and_the_epoch_stays(broker):
    room = Subscriber(broker)
    receipts = [await room.publish() for _ in range(3)]
    assert [receipt[0] for receipt in receipts] == [1, 2, 3]
    assert len({receipt[1] for receipt in receipts}) == 1
    assert [receipt[2] for receipt in receipts] == [False] * 3


async def test_a_push_is_what_the_protocol_says(broker):
    room = Subscriber(broker)
    offset, epoch, _ = await room.publish(b'{"text":"hi"}')
    assert json.loads(room.pushes[0]) == {
        "type": "chat_message",
        "room": "chat:lobby",
        "from": "alice",
        "offset": offset,
        "epoch": epoch.decode(),
        "content": {"text": "hi"},
        "timestamp": "2025-07-15T10:30:00.123Z",
    }


async def test_the_servers_own_publications_have_no_from(broker):
    room = Subscriber(broker)
    await get(room.stream.publish("system_maintenance", None, b"1"))
    assert "from" not in json.loads(room.pushes[0])


async def test_deliveries_come_in_order_each_once(broker):
    room = Subscriber(broker)
    for _ in range(20):
        await room.publish()
    assert room.offsets == list(range(1, 21))
    assert [json.loads(push)["offset"] for push in room.pushes] == room.offsets


async def test_an_epoch_needs_no_escapes_in_json(broker):
    _, epoch, _ = await Subscriber(broker).publish()
    assert 1 <= len(epoch) <= 64
    assert json.loads(b'"%b"' % epoch) == epoch.decode("ascii")


async def test_rooms_and_tenants_have_orders_of_their_own(broker):
    elsewhere = [
        RoomId(TenantId("default"), RoomName("chat:other")),
        RoomId(TenantId("other"), RoomName("chat:lobby")),
    ]
    room, *others = Subscriber(broker), *(Subscriber(broker, key) for key in elsewhere)
    await room.publish()
    for other in others:
        assert (await other.publish())[0] == 1
    assert room.offsets == [1]
    assert [other.offsets for other in others] == [[1], [1]]


async def test_recover_without_since_tells_the_position_alone(broker):
    room = Subscriber(broker)
    _, epoch, _ = await room.publish()
    recovery = await room.recover()
    assert (recovery.offset, recovery.epoch, recovery.recovered) == (1, epoch, False)
    assert list(recovery.messages) == []


async def test_recover_is_whole(broker):
    room = Subscriber(broker)
    for _ in range(5):
        _, epoch, _ = await room.publish()
    for offset in range(6):
        recovery = await room.recover(offset, epoch)
        assert recovery.recovered is True
        assert (recovery.offset, list(recovery.messages)) == (5, room.pushes[offset:])


async def test_recover_is_refused_beyond_the_end_and_for_another_epoch(broker):
    room = Subscriber(broker)
    _, epoch, _ = await room.publish()
    for offset, other in ((2, epoch), (1, b"other"), (0, b"")):
        recovery = await room.recover(offset, other)
        assert (recovery.recovered, list(recovery.messages)) == (False, [])
        assert (recovery.offset, recovery.epoch) == (1, epoch)


async def test_recover_is_refused_where_the_history_does_not_reach(make_bounded_broker):
    room = Subscriber(make_bounded_broker(history_messages=2))
    for _ in range(4):
        _, epoch, _ = await room.publish()
    assert (await room.recover(1, epoch)).recovered is False
    assert list((await room.recover(2, epoch)).messages) == room.pushes[2:]


async def test_a_kind_says_how_much_it_keeps(make_bounded_broker):
    kind = RoomKind(name="chat", history_messages=3)
    room = Subscriber(make_bounded_broker(), kind=kind)
    for _ in range(5):
        await room.publish()
    assert list((await room.history()).messages) == room.pushes[2:]


async def test_a_kind_that_keeps_nothing_still_orders_and_delivers(make_bounded_broker):
    room = Subscriber(make_bounded_broker(), kind=RoomKind(name="chat", history_messages=0))
    for _ in range(3):
        _, epoch, _ = await room.publish()
    assert room.offsets == [1, 2, 3]
    assert list((await room.history()).messages) == []
    assert (await room.recover(2, epoch)).recovered is False
    assert (await room.recover(3, epoch)).recovered is True


async def test_history_is_bounded_in_bytes(make_bounded_broker):
    room = Subscriber(make_bounded_broker(history_bytes=1000))
    for _ in range(30):
        await room.publish(b'"' + b"x" * 100 + b'"')
    kept = list((await room.history()).messages)
    assert kept == room.pushes[-len(kept) :]
    assert 800 < sum(map(len, kept)) <= 1000


async def test_history_pages(broker):
    room = Subscriber(broker)
    for _ in range(6):
        await room.publish()
    pushes = room.pushes
    for asked, expected, more in (
        ({"limit": 2}, pushes[4:], True),
        ({"before": 5, "limit": 3}, pushes[1:4], True),
        ({"before": 3, "limit": 2}, pushes[:2], False),
        ({"after": 1, "limit": 2}, pushes[1:3], True),
        ({"after": 4, "limit": 2}, pushes[4:], False),
        ({"after": 6, "limit": 2}, [], False),
        ({"before": 1, "limit": 2}, [], False),
    ):
        page = await room.history(**asked)
        assert (list(page.messages), page.more) == (expected, more), asked


async def test_a_repeated_key_gets_the_first_receipt_and_is_not_delivered(broker):
    room = Subscriber(broker)
    offset, epoch, _ = await room.publish(key="k")
    await room.publish()
    assert await room.publish(key="k") == (offset, epoch, True)
    assert room.offsets == [1, 2]


async def test_a_key_is_one_senders(broker):
    room = Subscriber(broker)
    await room.publish(key="k")
    bobs = await get(room.stream.publish("chat_message", b'"bob"', b"1", Terms(key="k")))
    servers = await get(room.stream.publish("chat_message", None, b"1", Terms(key="k")))
    assert (bobs[2], servers[2]) == (False, False)


async def test_a_key_is_remembered_for_the_recovery_window_however_much_follows(make_broker, clock):
    room = Subscriber(make_broker(history_messages=3, recovery_window_s=60))
    await room.publish(key="k")
    for _ in range(10):
        await room.publish()
    clock.advance(59)
    assert (await room.publish(key="k"))[::2] == (1, True)
    clock.advance(2)
    assert (await room.publish(key="k"))[::2] == (12, False)


async def test_a_room_remembers_a_bounded_number_of_keys_the_latest(make_broker, monkeypatch):
    monkeypatch.setattr(KeyRing.__init__, "__kwdefaults__", {"per_room": 3, "together": 100})
    room = Subscriber(make_broker())
    for number in range(4):
        await room.publish(key=f"k{number}")
    assert [(await room.publish(key=f"k{number}"))[2] for number in (1, 2, 3, 0)] == [True, True, True, False]


async def test_compare_and_set_takes_the_last_offset_only(broker):
    room = Subscriber(broker)
    assert (await room.publish(expect=0))[0] == 1
    for wrong in (0, 2):
        with pytest.raises(Conflict):
            await room.publish(expect=wrong)
    assert room.offsets == [1]
    assert (await room.publish(expect=1))[0] == 2


async def test_a_repeat_is_a_repeat_even_where_the_room_has_moved_on(broker):
    room = Subscriber(broker)
    await room.publish(key="k", expect=0)
    await room.publish()
    assert (await room.publish(key="k", expect=0))[2] is True


async def test_a_refused_publication_leaves_its_key_free(broker):
    room = Subscriber(broker)
    with pytest.raises(Conflict):
        await room.publish(key="k", expect=9)
    assert (await room.publish(key="k"))[2] is False


async def test_an_older_owner_is_fenced_off_once_a_newer_has_written(broker):
    room = Subscriber(broker)
    await room.publish(fence=3)
    await room.publish(fence=3)
    await room.publish(fence=5)
    with pytest.raises(Conflict):
        await room.publish(fence=4)
    assert room.offsets == [1, 2, 3]


async def test_publishing_from_outside_reaches_subscribers_and_continues_the_order(broker):
    receipt = await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1"))
    room = Subscriber(broker)
    assert (await room.recover()).offset == receipt[0] == 1
    await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"2"))
    assert room.offsets == [2]
    assert (await room.recover(0, receipt[1])).recovered is True


async def test_a_signal_from_outside_reaches_subscribers_and_has_no_place_in_the_order(broker):
    room = Subscriber(broker)
    assert (await room.publish())[0] == 1  # from here on a broker that seals has its key at hand
    broker.signal(RoomId(TenantId("default"), RoomName("chat:other")), CHAT, b"elsewhere")
    broker.signal(LOBBY, CHAT, b"here")
    async with asyncio.timeout(60):
        while True:
            await asyncio.sleep(0)
            if len(room.pushes) == 2:
                break
    assert sorted(room.offsets) == [0, 1]
    assert room.pushes[room.offsets.index(0)] == b"here"


async def test_after_close_nothing_is_delivered_and_the_order_goes_on(broker):
    room = Subscriber(broker)
    await room.publish()
    room.stream.close()
    await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"2"))
    assert room.offsets == [1]
    again = Subscriber(broker)
    assert (await again.publish())[0] == 3


async def test_an_unused_room_is_kept_for_the_recovery_window(make_forgetful_broker, clock):
    broker = make_forgetful_broker(recovery_window_s=60)
    room = Subscriber(broker)
    _, epoch, _ = await room.publish()
    clock.advance(1000)
    broker.tick()
    room.stream.close()
    clock.advance(59)
    broker.tick()
    room = Subscriber(broker)
    assert (await room.recover(0, epoch)).recovered is True
    room.stream.close()
    clock.advance(61)
    broker.tick()
    recovery = await Subscriber(broker).recover(0, epoch)
    assert (recovery.offset, recovery.recovered) == (0, False)
    assert recovery.epoch != epoch


async def test_a_publication_from_outside_begins_the_window_anew(make_broker, clock):
    broker = make_broker(recovery_window_s=60)
    for _ in range(3):
        receipt = await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1"))
        clock.advance(50)
        broker.tick()
    assert receipt[0] == 3


def numbered(number: int) -> RoomId:
    return RoomId(TenantId("default"), RoomName(f"chat:{number}"))


async def publish_in_rooms(broker, rooms: int) -> None:
    for number in range(rooms):
        content = b'"' + b"x" * 300 + b'"'
        await get(broker.publish(numbered(number), CHAT, "chat_message", ALICE, content))
        broker.tick()


async def test_unused_rooms_are_bounded_in_number_and_the_longest_unused_go_first(make_forgetful_broker):
    broker = make_forgetful_broker(idle_rooms=10)
    await publish_in_rooms(broker, 50)
    assert broker.stats()["broker_rooms"] == 10
    assert (await Subscriber(broker, numbered(49)).recover()).offset == 1
    assert (await Subscriber(broker, numbered(39)).recover()).offset == 0


async def test_the_history_of_all_rooms_is_bounded_and_unused_rooms_give_way(make_forgetful_broker):
    broker = make_forgetful_broker(memory_bytes=10_000)
    room = Subscriber(broker)
    for _ in range(10):
        _, epoch, _ = await room.publish(b'"' + b"x" * 300 + b'"')
    await publish_in_rooms(broker, 50)
    assert broker.stats()["broker_history_bytes"] <= 10_000
    assert (await room.recover(0, epoch)).recovered is True
    assert (await Subscriber(broker, numbered(49)).recover()).offset == 1
    assert (await Subscriber(broker, numbered(0)).recover()).offset == 0


async def test_where_all_rooms_are_in_use_and_memory_is_spent_recovery_is_refused_not_memory_exceeded(
    make_forgetful_broker,
):
    broker = make_forgetful_broker(memory_bytes=5_000)
    rooms = [Subscriber(broker, numbered(number)) for number in range(5)]
    for _ in range(20):
        for room in rooms:
            _, epoch, _ = await room.publish(b'"' + b"x" * 300 + b'"')
    assert broker.stats()["broker_history_bytes"] <= 5_000
    assert room.offsets == list(range(1, 21))
    assert (await room.recover(0, epoch)).recovered is False
    assert (await room.recover(20, epoch)).recovered is True


async def test_a_room_just_published_to_is_not_the_longest_unused(make_forgetful_broker):
    broker = make_forgetful_broker(idle_rooms=2)
    for number in (0, 1, 0, 2):
        await get(broker.publish(numbered(number), CHAT, "chat_message", ALICE, b"1"))
    assert (await Subscriber(broker, numbered(0)).recover()).offset == 2
    assert (await Subscriber(broker, numbered(1)).recover()).offset == 0


async def test_rooms_in_use_are_never_forgotten_however_many_unused_ones_and_however_long(make_broker, clock):
    broker = make_broker(idle_rooms=2, recovery_window_s=60)
    room = Subscriber(broker)
    await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1"))
    await publish_in_rooms(broker, 10)
    clock.advance(1000)
    broker.tick()
    assert (await room.publish())[0] == 2
    assert (await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1")))[0] == 3
    assert room.offsets == [1, 2, 3]


@pytest.mark.parametrize("options", [{"history_messages": 2}, {"history_bytes": 500}, {"memory_bytes": 500}])
async def test_a_lasting_broker_has_in_its_store_what_memory_has_no_place_for(make_lasting_broker, options):
    broker = make_lasting_broker(**options)
    room = Subscriber(broker)
    for _ in range(6):
        _, epoch, _ = await room.publish(b'"' + b"x" * 100 + b'"')
    for offset in range(7):
        recovery = await room.recover(offset, epoch)
        assert recovery.recovered is True
        assert (recovery.offset, list(recovery.messages)) == (6, room.pushes[offset:])
    for asked, expected, more in (
        ({"limit": 4}, room.pushes[2:], True),
        ({"limit": 2}, room.pushes[4:], True),
        ({"before": 4}, room.pushes[:3], False),
        ({"before": 100}, room.pushes, False),
        ({"after": 1, "limit": 2}, room.pushes[1:3], True),
        ({"after": 4}, room.pushes[4:], False),
    ):
        page = await room.history(**asked)
        assert (list(page.messages), page.more) == (expected, more), asked
    assert broker.stats()["broker_history_bytes"] <= 500


async def test_a_room_that_is_opened_again_is_in_use_again(make_broker, clock):
    broker = make_broker(recovery_window_s=60)
    room = Subscriber(broker)
    await room.publish()
    room.stream.close()
    room = Subscriber(broker)
    clock.advance(61)
    broker.tick()
    assert (await get(broker.publish(LOBBY, CHAT, "chat_message", ALICE, b"1")))[0] == 2
    assert (await room.publish())[0] == 3
    assert room.offsets == [2, 3]


async def test_a_lasting_broker_loses_nothing_with_a_room_it_forgets(make_lasting_broker, clock):
    broker = make_lasting_broker(recovery_window_s=60, idle_rooms=2)
    room = Subscriber(broker)
    _, epoch, _ = await room.publish(key="k")
    room.stream.close()
    clock.advance(30)
    await publish_in_rooms(broker, 10)
    assert broker.stats()["broker_rooms"] <= 3
    again = Subscriber(broker)
    assert (await again.publish(key="k"))[::2] == (1, True)
    assert list((await again.recover(0, epoch)).messages) == room.pushes
    again.stream.close()
    clock.advance(61)
    broker.tick()
    assert broker.stats()["broker_rooms"] == 0
    assert (await Subscriber(broker).publish(key="k")) == (2, epoch, False)
