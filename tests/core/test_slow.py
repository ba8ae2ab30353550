"""What a slow member is told: exact gaps, the newest of each key between them, and who is here now."""

from __future__ import annotations

import json

import pytest

from realtime.core.feature import Feature, MessageType
from realtime.core.kinds import RoomKind, SlowReader, by_type
from realtime.core.slow import KEYS_MAX, Newest
from realtime.native.encode import encode_push
from realtime.protocol.messages import Gap
from realtime.protocol.priority import Priority
from tests.core.world import Member, Message, World

KINDS = (
    RoomKind(name="lossy", slow_reader=SlowReader.DROP_OLDEST, presence=False),
    RoomKind(name="state", slow_reader=SlowReader.LATEST, presence=False),
    RoomKind(name="crowd", slow_reader=SlowReader.DROP_OLDEST),
    RoomKind(
        name="set",
        slow_reader=SlowReader.LATEST,
        lag_limit_bytes=7,
        lag_limit_messages=8,
        priority=Priority.CRITICAL,
    ),
    RoomKind(name="plain"),
)
MESSAGES = tuple(
    MessageType(name=name, kinds=frozenset(kind.name for kind in KINDS)) for name in ("play", "seek", "stop")
)


def world() -> World:
    return World(features=[Feature(name="own", kinds=KINDS, messages=MESSAGES)])


def lapse(world: World, member: Member, after: int, last: int) -> tuple[list[Message], int]:
    """Let the fan-out say what `member` has missed; return what it is told, and how many are lost."""
    log = next(log for log in world.hub.logs if member.connection in log.joined)
    member.read()
    assert log.on_gap is not None
    lost = log.on_gap(member.session, after, last)
    return member.read(), lost


@pytest.mark.parametrize("variant", [0, 1, 15 << 1])
def test_who_drops_the_oldest_is_told_of_one_gap(variant: int) -> None:
    town = world()
    slow, other = town.member("slow", variant=variant), town.member("other")
    slow.join("lossy:a")
    other.join("lossy:a")
    for number in range(9):
        other.publish("lossy:a", number, type="play")
    told, lost = lapse(town, slow, 3, 7)
    assert told == [
        {"type": "gap", "room": "lossy:a", "content": {"from": 4, "to": 7, "reason": "slow_consumer"}}
    ]
    assert lost == 4


def test_a_gap_is_spelled_as_the_protocol_says() -> None:
    town = world()
    slow = town.member("slow")
    slow.join("lossy:a")
    log = town.hub.logs[0]
    slow.connection.sent.clear()
    log.on_gap(slow.session, 0, 1)
    assert slow.connection.sent == [
        b'{"type":"gap","room":"lossy:a","content":{"from":1,"to":1,"reason":"slow_consumer"}}'
    ]
    assert list(Gap.__struct_encode_fields__) == ["from", "to", "reason"]


@pytest.mark.parametrize("variant", [0, 1])
def test_the_parked_get_the_newest_of_each_type_by_offset_with_gaps_between(variant: int) -> None:
    town = world()
    slow, other = town.member("slow", variant=variant), town.member("other")
    slow.join("state:a")
    other.join("state:a")
    for number, type in enumerate(["stop", "play", "seek", "seek", "play", "play", "seek"], 1):
        other.publish("state:a", number, type=type)
    told, lost = lapse(town, slow, 1, 7)
    summary = [
        (each["type"], each.get("offset") or (each["content"]["from"], each["content"]["to"]))
        for each in told
    ]
    assert summary == [("gap", (2, 5)), ("play", 6), ("seek", 7)]
    assert [each["content"] for each in told[1:]] == [6, 7], "`stop` it had already"
    assert lost == 4
    told, lost = lapse(town, slow, 5, 7)
    assert [each.get("offset") for each in told] == [6, 7]
    assert lost == 0


def test_where_nothing_numbered_is_missing_there_is_no_gap_but_presence_is_told_anew() -> None:
    town = world()
    slow, other = town.member("slow"), town.member("other")
    slow.join("crowd:a")
    other.join("crowd:a")
    told, lost = lapse(town, slow, 0, 0)
    assert told == [
        {"type": "presence", "room": "crowd:a", "content": {"members": ["slow", "other"], "count": 2}}
    ]
    assert lost == 0


def test_a_kind_says_what_its_logs_do() -> None:
    town = world()
    member = town.member("m")
    member.join("set:a")
    member.join("plain:a")
    ruled, plain = (log.policy for log in town.hub.logs)
    on_gap = ruled.pop("on_gap")
    assert callable(on_gap)
    assert ruled == {
        "lag_limit_bytes": 7,
        "lag_limit_messages": 8,
        "slow_reader": "latest",
        "priority": Priority.CRITICAL,
    }
    assert plain == {
        "lag_limit_bytes": 0,
        "lag_limit_messages": 0,
        "slow_reader": "disconnect",
        "priority": Priority.NORMAL,
        "on_gap": None,
    }


def test_logs_are_given_the_offsets_of_publications_and_none_for_presence() -> None:
    town = world()
    members = [town.member("json"), town.member("packed", variant=1)]
    for member in members:
        member.join("crowd:a")
    members[0].publish("crowd:a", 1, type="play")
    town.pass_time(10)
    assert [log.offset for log in town.hub.logs] == [1, 1]
    assert [log.appended for log in town.hub.logs] == [2, 2], "the publication, and who came"


# -- the newest of each key ---------------------------------------------------------------------------------


def push(offset: int, type: str, content: object = None) -> bytes:
    return encode_push(type, b'"r:1"', None, offset, b"e", json.dumps(content).encode(), b"now")


def test_the_newest_of_a_key_takes_the_place_of_the_one_before() -> None:
    newest = Newest(by_type, 1 << 20)
    for offset, type in enumerate(["a", "b", "a", "c", "b"], 1):
        newest.keep(push(offset, type), offset)
    assert [offset for offset, _ in newest.above(0)] == [3, 4, 5]
    assert [offset for offset, _ in newest.above(4)] == [5]
    assert newest.above(5) == []


def test_a_kind_chooses_its_keys_by_type_and_content() -> None:
    newest = Newest(lambda type, content: f"{type} {json.loads(content)['who']}", 1 << 20)
    for offset, who in enumerate(["x", "y", "x"], 1):
        newest.keep(push(offset, "cursor", {"who": who}), offset)
    assert [offset for offset, _ in newest.above(0)] == [2, 3]


def test_keys_are_bounded_and_the_longest_unchanged_goes_first() -> None:
    newest = Newest(lambda type, content: content.decode(), 1 << 30)
    for offset in range(1, KEYS_MAX + 1):
        newest.keep(push(offset, "a", offset), offset)
    newest.keep(push(KEYS_MAX + 1, "a", 1), KEYS_MAX + 1)  # the oldest key is fresh again
    newest.keep(push(KEYS_MAX + 2, "a", "one more"), KEYS_MAX + 2)
    assert len(newest) == KEYS_MAX
    assert [offset for offset, _ in newest.above(0)] == list(range(3, KEYS_MAX + 3))


def test_bytes_are_bounded_with_the_gaps_between() -> None:
    newest = Newest(lambda type, content: content.decode(), 10_000)
    for offset in range(1, 101):
        newest.keep(push(offset, "a", "." * 100 + str(offset)), offset)
    kept = newest.above(0)
    assert sum(len(each) for _, each in kept) + 120 * len(kept) <= 10_000
    assert [offset for offset, _ in kept] == list(range(101 - len(kept), 101))
    assert len(kept) > 10
    newest.keep(push(101, "a", "." * 20_000), 101)
    assert newest.above(0) == [], "what alone is too much is a gap"
