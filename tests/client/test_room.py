"""The order of a room as one member sees it: without sockets."""

from typing import Any

import pytest

from realtime.client import Gap, MembersChanged, Message, Page, Position, Resumed, Room, Unread


def push(offset: int | None, epoch: str | None = "e", type_: str = "chat_message") -> Message:
    return Message(type_, {"n": offset}, "chat:x", "al", offset, epoch)


def plain(offset: int, epoch: str = "e") -> dict[str, Any]:
    return {"type": "chat_message", "room": "chat:x", "from": "al", "offset": offset, "epoch": epoch}


def joined(offset: int, epoch: str = "e", **more: Any) -> dict[str, Any]:
    return {"members": [], "offset": offset, "epoch": epoch, **more}


@pytest.fixture
def room() -> Room:
    room = Room(None, "chat:x", 100)  # type: ignore[arg-type]
    room.on_joined(joined(10))
    return room


def answer(room: Room, *offsets: int, epoch: str = "e", more: bool = False) -> dict[str, int]:
    """Answer what the room wants of the history, and return what that was."""
    ask = room.order.wanted
    assert ask is not None
    room.order.page(ask, Page([push(offset, epoch) for offset in offsets], more))
    return ask.content


async def events(room: Room) -> list[Any]:
    assert room.order.wanted is None
    room.end()
    return [event async for event in room.events()]


async def test_messages_come_by_offset(room):
    for offset in (11, 12, 13):
        room.on_push(push(offset))
    assert [event.offset for event in await events(room)] == [11, 12, 13]
    assert room.position == Position(13, "e")


async def test_what_was_seen_already_does_not_come_again(room):
    for offset in (10, 11, 11, 9, 12, 11):
        room.on_push(push(offset))
    assert [event.offset for event in await events(room)] == [11, 12]


async def test_a_jump_that_the_history_cannot_fill_is_a_gap_before_the_message(room):
    room.on_push(push(14))
    answer(room, 12)
    assert await events(room) == [Gap(11, 11, "lost"), push(12), Gap(13, 13, "lost"), push(14)]


async def test_a_jump_is_filled_from_the_history_before_the_message_comes(room):
    room.on_push(push(14))
    room.on_push(push(15))
    assert len(room.inbox) == 0
    assert answer(room, 11, 12, 13, 14)["after"] == 10
    assert await events(room) == [push(offset) for offset in (11, 12, 13, 14, 15)]


async def test_a_gap_of_the_server_is_told_with_its_reason_and_only_once(room):
    room.on_push(Message("gap", {"from": 11, "to": 15, "reason": "slow_consumer"}, "chat:x"))
    room.on_push(Message("gap", {"from": 11, "to": 15, "reason": "slow_consumer"}, "chat:x"))
    room.on_push(push(16))
    assert await events(room) == [Gap(11, 15, "slow_consumer"), push(16)]


async def test_a_message_without_an_offset_passes_in_its_turn(room):
    room.on_push(push(11))
    room.on_push(push(None, None, "chat_typing"))
    room.on_push(push(12))
    assert [event.type for event in await events(room)] == ["chat_message", "chat_typing", "chat_message"]


async def test_what_was_missed_comes_first_after_a_reconnect(room):
    room.on_push(push(11))
    room.on_joined(joined(13, recovered=True, messages=[plain(12), plain(13)]))
    room.on_push(push(13))  # recovery and the live stream overlap
    room.on_push(push(14))
    items = await events(room)
    assert [item.offset for item in items if isinstance(item, Message)] == [11, 12, 13, 14]
    assert [item for item in items if not isinstance(item, Message)] == [Resumed(recovered=True)]


async def test_a_gap_of_the_server_has_its_exact_range_and_what_lies_before_it_is_fetched(room):
    room.on_push(Message("gap", {"from": 13, "to": 15, "reason": "slow_consumer"}, "chat:x"))
    room.on_push(push(16))
    answer(room, 11)
    assert await events(room) == [push(11), Gap(12, 12, "lost"), Gap(13, 15, "slow_consumer"), push(16)]


async def test_of_a_gap_that_was_partly_seen_only_the_rest_is_told(room):
    room.on_push(push(11))
    room.on_push(Message("gap", {"from": 10, "to": 13, "reason": "slow_consumer"}, "chat:x"))
    assert await events(room) == [push(11), Gap(12, 13, "slow_consumer")]
    assert room.position == Position(13, "e")


async def test_messages_inside_a_gap_that_was_told_come_neither_twice_nor_out_of_order(room):
    room.on_push(Message("gap", {"from": 11, "to": 13, "reason": "slow_consumer"}, "chat:x"))
    for offset in (12, 14, 13, 15):
        room.on_push(push(offset))
    assert await events(room) == [Gap(11, 13, "slow_consumer"), push(14), push(15)]


async def test_a_recovery_that_was_refused_is_paged_before_the_pushes_that_come_meanwhile(room):
    room.on_joined(joined(15, recovered=False))
    room.on_push(push(16))
    assert answer(room, 11, 12, 13, more=True)["after"] == 10
    assert answer(room, 14, 15, 16)["after"] == 13
    room.on_push(push(17))
    assert await events(room) == [*map(push, range(11, 17)), Resumed(recovered=True), push(17)]


async def test_a_page_that_begins_too_late_is_a_gap_of_exactly_what_is_missing(room):
    room.on_joined(joined(500, recovered=False))
    room.on_push(push(501))
    answer(room, 499, 500, 501)
    assert await events(room) == [
        Gap(11, 498, "unrecoverable"),
        *map(push, (499, 500, 501)),
        Resumed(recovered=False),
    ]


async def test_a_history_that_has_nothing_is_one_gap_with_its_numbers(room):
    room.on_joined(joined(500, recovered=False))
    room.on_push(push(501))
    answer(room)
    assert await events(room) == [Gap(11, 500, "unrecoverable"), Resumed(recovered=False), push(501)]


async def test_a_recovery_refused_where_nothing_happened_is_no_gap(room):
    room.on_joined(joined(10, recovered=False))
    assert await events(room) == [Resumed(recovered=True)]


@pytest.mark.parametrize("restarted", [joined(0, "new"), joined(3, "e")])
async def test_a_room_that_started_anew_is_a_gap_without_numbers(room, restarted):
    room.on_joined(restarted)
    room.on_push(push(restarted["offset"] + 1, restarted["epoch"]))
    assert (await events(room))[:2] == [Gap(None, None, "epoch_changed"), Resumed(recovered=False)]
    assert room.position == Position(restarted["offset"] + 1, restarted["epoch"])


async def test_an_epoch_that_changes_under_way_is_a_gap(room):
    room.on_push(push(11))
    room.on_push(push(1, "new"))
    assert await events(room) == [push(11), Gap(None, None, "epoch_changed"), push(1, "new")]


@pytest.mark.parametrize(
    "place",
    [{"offset": 12}, {"epoch": "e"}, {}, {"offset": None, "epoch": None}, {"offset": "12", "epoch": "e"}],
)
async def test_an_answer_without_a_whole_place_is_one_without_any_and_the_history_tells(room, place):
    room.on_joined({"members": [], "recovered": False, **place})
    assert room.position == Position(10, "e")
    room.on_push(push(13))
    answer(room, 11, 12, more=True)
    answer(room, 13)
    assert await events(room) == [push(11), push(12), push(13), Resumed(recovered=True)]


async def test_an_answer_without_a_place_may_bring_what_was_missed(room):
    room.on_joined({"members": [], "recovered": True, "messages": [plain(11)]})
    first, resumed = await events(room)
    assert (first.offset, resumed) == (11, Resumed(recovered=True))


async def test_an_epoch_that_is_first_learned_from_a_push_is_a_position():
    room = Room(None, "chat:x", 100)  # type: ignore[arg-type]
    room.on_joined({"members": []})
    assert room.position is None
    room.on_push(push(7))
    room.on_push(push(8))
    assert room.position == Position(8, "e")
    room.on_joined(joined(9, recovered=True, messages=[plain(9)]))
    assert [item.offset for item in await events(room) if isinstance(item, Message)] == [7, 8, 9]


@pytest.mark.parametrize(("offset", "epoch"), [(None, "e"), (12, None), (None, None)])
async def test_half_a_place_on_a_push_is_none_and_moves_nothing(room, offset, epoch):
    room.on_push(push(offset, epoch))
    room.on_push(push(11))
    assert room.position == Position(11, "e")
    assert len(await events(room)) == 2


async def test_offset_0_is_a_position_like_any_other():
    room = Room(None, "chat:x", 100)  # type: ignore[arg-type]
    room.on_joined(joined(0))
    assert room.position == Position(0, "e")
    room.on_joined(joined(2, recovered=True, messages=[plain(1), plain(2)]))
    assert [item.offset for item in await events(room) if isinstance(item, Message)] == [1, 2]


async def test_counts_come_while_passive_only_and_of_several_the_last(room):
    room.on_push(Message("unread", {"count": 1, "offset": 11, "epoch": "e"}, "chat:x"))
    room.is_passive = True
    for count in (1, 2):
        room.on_push(Message("unread", {"count": count, "offset": 10 + count, "epoch": "e"}, "chat:x"))
    assert room.unread == 2
    assert room.position == Position(10, "e"), "the last message seen, from which it goes on"
    assert await events(room) == [Unread(2, Position(12, "e"))]


async def test_members_are_kept_by_their_coming_and_going(room):
    room.on_push(Message("presence", {"joined": ["al", "bo"], "left": [], "count": 2}, "chat:x"))
    room.on_push(Message("presence", {"joined": ["cy"], "left": ["al"], "count": 2}, "chat:x"))
    assert room.members == ("bo", "cy")
    assert await events(room) == [MembersChanged(("al", "bo"), ()), MembersChanged(("cy",), ("al",))]


async def test_a_whole_roster_replaces_the_one_before(room):
    room.on_push(Message("presence", {"members": ["al", "bo"], "count": 2}, "chat:x"))
    room.on_push(Message("presence", {"members": ["bo", "cy"], "count": 2}, "chat:x"))
    assert await events(room) == [MembersChanged(("al", "bo"), ()), MembersChanged(("cy",), ("al",))]


async def test_a_room_too_large_to_name_its_members_tells_their_number(room):
    room.on_push(Message("presence", {"count": 12345}, "chat:x"))
    assert room.member_count == 12345


async def test_plain_iteration_has_messages_and_gaps_alone(room):
    room.on_push(Message("presence", {"joined": ["al"], "left": []}, "chat:x"))
    room.on_push(Message("gap", {"from": 11, "to": 11, "reason": "policy"}, "chat:x"))
    room.on_push(push(12))
    room.end()
    assert [item async for item in room] == [Gap(11, 11, "policy"), push(12)]
