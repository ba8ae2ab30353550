"""The order of a room as one member sees it: without sockets."""

from typing import Any

import pytest

from realtime.client import Gap, MembersChanged, Message, Position, Resumed, Room


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


async def events(room: Room) -> list[Any]:
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


async def test_a_jump_is_a_gap_before_the_message(room):
    room.on_push(push(14))
    assert await events(room) == [Gap(11, 13, "lost"), push(14)]


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


async def test_a_recovery_that_was_refused_is_a_gap_with_its_numbers(room):
    room.on_joined(joined(500, recovered=False))
    room.on_push(push(501))
    assert await events(room) == [Gap(11, 500, "unrecoverable"), Resumed(recovered=False), push(501)]


async def test_a_recovery_refused_where_nothing_happened_is_no_gap(room):
    room.on_joined(joined(10, recovered=False))
    assert await events(room) == [Resumed(recovered=False)]


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
    room.on_push(push(12))
    room.end()
    assert [item async for item in room] == [Gap(11, 11, "lost"), push(12)]
