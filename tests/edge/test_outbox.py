"""What waits for a connection that is not the hub's: order, bounds, and what each policy drops and tells."""

import json
import random
from collections import Counter

import pytest

from realtime.core.kinds import SlowReader, by_type
from realtime.core.slow import Newest, catch_up
from realtime.edge.outbox import ENTRY_BYTES, ForeignLog, Outbox
from realtime.protocol.priority import Priority

DISCONNECT, DROP_OLDEST, LATEST = SlowReader


class Reader:
    """An outbox whose messages are taken when the test says so. It stands for its session, too."""

    def __init__(self, limit=1 << 20):
        self.cut = 0
        self.work = 0
        self.outbox = Outbox(limit, self.on_work, self.on_cut)

    def on_work(self):
        self.work += 1

    def on_cut(self, limit, allowed):
        self.why = limit, allowed
        self.cut += 1
        self.outbox.drop_rooms()

    def send(self, payload):
        self.outbox.send(payload)

    def take(self):
        """Take one message and have it sent."""
        taken = self.outbox.take(self)
        if taken is None:
            return None
        self.outbox.done(taken)
        return taken.payload

    def read(self):
        return list(iter(self.take, None))


class Room:
    """Publishes numbers; keeps what a room of the core keeps for who gets the latest alone."""

    def __init__(
        self, slow_reader=DISCONNECT, *, size=1 << 20, messages=0, priority=Priority.NORMAL, name="r"
    ):
        self.counts = Counter()
        self.json = b'"%b"' % name.encode()
        self.newest = Newest(by_type, 1 << 20)
        self.policy = slow_reader
        self.offset = 0
        self.log = ForeignLog(
            lag_limit_bytes=size,
            lag_limit_messages=messages,
            slow_reader=slow_reader,
            priority=priority,
            on_gap=None if slow_reader is DISCONNECT else self.tell,
            counts=self.counts,
        )

    def tell(self, reader, after, last):
        newest = self.newest.above(after) if self.policy is LATEST else ()
        return catch_up(reader, self.json, newest, after, last)

    def publish(self, type="t", padding=0):
        self.offset += 1
        push = b'{"type":"%b","room":%b,"offset":%d,"content":"%b"}' % (
            *(type.encode(), self.json, self.offset),
            b"x" * padding,
        )
        self.log.append(push, self.offset)
        self.newest.keep(push, self.offset)

    def say(self):
        """Something without an offset, such as who is there."""
        self.log.append(b'{"type":"presence","room":%b}' % self.json)


def offsets(payloads):
    return [json.loads(each).get("offset") for each in payloads]


def test_urgent_goes_first_then_its_own_then_rooms_by_priority_each_in_order():
    reader = Reader()
    rooms = [
        Room(priority=priority, name=priority.name)
        for priority in (0, 3, 1, 1)
        for priority in [Priority(priority)]
    ]
    for room in rooms:
        reader.outbox.join(room.log)
    for _ in range(2):
        for room in rooms:
            room.publish()
    reader.outbox.send(b'"own"')
    reader.outbox.send(b'"urgent 1"', urgent=True)
    reader.outbox.send(b'"urgent 2"', urgent=True)
    read = reader.read()
    assert read[:3] == [b'"urgent 1"', b'"urgent 2"', b'"own"']
    told = [(each["room"], each["offset"]) for each in map(json.loads, read[3:])]
    assert told[:2] == [("CRITICAL", 1), ("CRITICAL", 2)]
    assert told[2:6] == [("NORMAL", 1), ("NORMAL", 1), ("NORMAL", 2), ("NORMAL", 2)]  # they take turns
    assert told[6:] == [("LOW", 1), ("LOW", 2)]


def test_who_lags_too_far_is_cut_and_the_other_members_are_not():
    slow, quick, room = Reader(), Reader(), Room(size=1000)
    for reader in (slow, quick):
        reader.outbox.join(room.log)
    seen = []
    for _ in range(10):
        room.publish(padding=100)
        seen += quick.read()
    assert (slow.cut, quick.cut, offsets(seen)) == (1, 0, list(range(1, 11)))
    assert slow.why == ("room_lag_limit_bytes", 1000)
    assert slow.read() == []


def test_what_is_for_itself_alone_is_bounded_too():
    reader = Reader(limit=1000)
    for _ in range(5):
        reader.outbox.send(b"x" * 99)
    assert (reader.cut, reader.outbox.unicast_bytes) == (0, 5 * (99 + ENTRY_BYTES))
    reader.outbox.send(b"x" * 99)
    assert reader.cut == 1


def test_what_is_on_its_way_still_counts_as_waiting():
    reader, room = Reader(), Room(size=1000)
    reader.outbox.join(room.log)
    room.publish(padding=700)
    taken = reader.outbox.take(reader)
    room.publish(padding=100)
    assert reader.cut == 1
    reader.outbox.done(taken)  # of a room that it has left
    assert reader.outbox.take(reader) is None


def test_the_oldest_are_dropped_to_half_and_told_before_the_room_goes_on():
    reader, room = Reader(), Room(DROP_OLDEST, messages=8)
    reader.outbox.join(room.log)
    room.publish()
    assert offsets([reader.take()]) == [1]
    for _ in range(9):
        room.publish()
    gap, *pushes = reader.read()
    assert json.loads(gap)["content"] == {"from": 2, "to": 6, "reason": "slow_consumer"}
    assert offsets(pushes) == [7, 8, 9, 10]
    assert room.counts == {"gaps": 1, "dropped": 5}


def test_several_drops_are_one_gap():
    reader, room = Reader(), Room(DROP_OLDEST, messages=4)
    reader.outbox.join(room.log)
    for _ in range(100):
        room.publish()
        room.say()
    gap, *rest = [json.loads(each) for each in reader.read()]
    first = next(each["offset"] for each in rest if "offset" in each)
    assert gap["content"] == {"from": 1, "to": first - 1, "reason": "slow_consumer"}
    assert [each["offset"] for each in rest if "offset" in each] == list(range(first, 101))


def test_the_latest_of_each_is_told_with_the_gaps_between_and_the_room_goes_on():
    reader, room = Reader(), Room(LATEST, messages=3)
    reader.outbox.join(room.log)
    for type in ("a", "b", "a", "a", "b", "c", "b"):
        room.publish(type)
    told = [json.loads(each) for each in reader.read()]
    spans = [
        (each["content"]["from"], each["content"]["to"]) if each["type"] == "gap" else each["offset"]
        for each in told
    ]
    assert spans == [(1, 3), 4, (5, 5), 6, 7]
    room.publish("a")
    assert offsets(reader.read()) == [8]
    assert room.counts == {"parked": 1, "gaps": 1, "dropped": 4}


def test_who_misses_only_what_has_no_offset_is_told_of_no_gap():
    reader, room = Reader(), Room(LATEST, messages=2)
    room.publish()
    reader.outbox.join(room.log)
    for _ in range(5):
        room.say()
    assert reader.read() == []
    room.publish()
    assert offsets(reader.read()) == [2]


def test_who_leaves_gets_what_was_published_before_and_nothing_after():
    reader, room = Reader(), Room(DROP_OLDEST, messages=4)
    reader.outbox.join(room.log)
    for _ in range(6):
        room.publish()
    reader.outbox.leave(room.log, reader)
    reader.outbox.leave(room.log, reader)
    room.publish()
    reader.outbox.send(b'{"offset":"ack"}')
    gap, *rest = reader.read()
    assert json.loads(gap)["content"]["to"] == 3
    assert offsets(rest) == [4, 5, 6, "ack"]
    assert not room.log.readers


@pytest.mark.parametrize("policy", [DROP_OLDEST, LATEST])
def test_received_and_gaps_together_are_what_was_published(policy):
    """Whatever is published and read when. The seed is printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    for _ in range(200):
        reader = Reader()
        rooms = [
            Room(
                policy,
                size=choice.choice((1000, 3000, 1 << 20)),
                messages=choice.choice((0, 1, 2, 9)),
                priority=choice.choice(list(Priority)),
                name=f"r{number}",
            )
            for number in range(3)
        ]
        read, joined, way = [], {}, None
        for room in rooms:
            for _ in range(choice.randrange(3)):
                room.publish()
            joined[room.json] = room.offset
            reader.outbox.join(room.log)
        for _ in range(choice.randrange(150)):
            room = choice.choice(rooms)
            step = choice.random()
            if step < 0.5:
                room.publish(choice.choice("abc"), choice.randrange(300))
            elif step < 0.6:
                room.say()
            elif step < 0.8 and way is None:
                way = reader.outbox.take(reader)  # on its way while the rest goes on
            elif way is not None:
                reader.outbox.done(way)
                read.append(way.payload)
                way = None
            for backlog in [backlog for each in rooms for backlog in each.log.readers]:
                assert backlog.size_bytes <= backlog.log.lag_limit_bytes + 500 or not backlog.entries
        if way is not None:
            read.append(way.payload)
            reader.outbox.done(way)
        read += reader.read()
        for room in rooms:
            place = joined[room.json]
            for message in map(json.loads, read):
                if message["room"] != json.loads(room.json):
                    continue
                if message["type"] == "gap":
                    assert message["content"]["from"] == place + 1
                    place = message["content"]["to"]
                elif "offset" in message:
                    assert message["offset"] == place + 1
                    place = message["offset"]
            assert place == room.offset
        assert reader.outbox.unicast_bytes == 0
        assert reader.cut == 0
