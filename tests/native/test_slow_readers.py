"""Slow readers over real sockets: disconnected, skipping, parked; and what overtakes what."""

from __future__ import annotations

import gc
import socket
import struct
import time
from collections.abc import Callable

import pytest

from realtime.native.hub import Accept, RoomLog
from tests.native.test_hub import Client, Host, frame

LIMIT = 1 << 16
CHUNK = 1 << 16
PAD = b"." * 1000
PING, PONG = 0x89, 0x8A


class Slow:
    """A host whose rooms drop, and what it told whom."""

    def __init__(self, **limits: object) -> None:
        self.host = Host(**limits)
        self.host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.told: list[tuple[object, int, int]] = []
        self.then: Callable[[], object] | None = None  # called after each telling

    def room(self, slow_reader: str, **options: int) -> Room:
        return Room(self, slow_reader, options)

    def on_gap(self, state: object, after: int, last: int) -> int:
        self.told.append((state, after, last))
        self.host.handles[state].send(b"gap %d %d" % (after + 1, last))
        if self.then is not None:
            self.then()
        return last - after

    def stats(self, *names: str) -> list[int]:
        stats = self.host.hub.stats()
        return [stats[name] for name in names]


class Room:
    """A log that drops, with its offsets."""

    def __init__(self, slow: Slow, slow_reader: str, options: dict[str, int]) -> None:
        self.slow = slow
        self.log: RoomLog = slow.host.hub.room(
            slow_reader=slow_reader, on_gap=slow.on_gap, **({"lag_limit_bytes": LIMIT} | options)
        )
        self.offset = 0

    def publish(self, count: int = 1, pad: bytes = PAD) -> None:
        for _ in range(count):
            self.offset += 1
            self.log.append(b"push %d %b" % (self.offset, pad), self.offset)
            self.slow.host.turn()


def covered(texts: list[bytes]) -> list[int]:
    """The offsets that pushes and gaps tell of, in the order they came."""
    told: list[int] = []
    for text in texts:
        words = text.split(b" ")
        if words[0] == b"push":
            told.append(int(words[1]))
        elif words[0] == b"gap":
            told.extend(range(int(words[1]), int(words[2]) + 1))
    return told


def gaps(texts: list[bytes]) -> list[tuple[int, int]]:
    return [(int(t.split()[1]), int(t.split()[2])) for t in texts if t.startswith(b"gap ")]


def coalesced(texts: list[bytes]) -> bool:
    """Whether the many skips of a reader that stopped became few gaps: each is told once data is taken.

    Nearly always it is one. But the kernel may acknowledge late what it had, and then takes a little more.
    """
    return 1 <= len(gaps(texts)) <= 5


def test_who_drops_the_oldest_is_told_of_one_gap_between_what_it_had_and_what_follows() -> None:
    slow = Slow()
    room = slow.room("drop_oldest")
    fast, stopped = (
        slow.host.member("fast", room.log),
        slow.host.member("slow", room.log, receive_buffer=4096),
    )
    for _ in range(400):
        room.publish()
        fast.read()
        assert room.log.queued_bytes <= LIMIT + 2 * CHUNK
    stopped.wait(lambda c: covered(c.texts)[-1:] == [400])
    assert covered(stopped.texts) == list(range(1, 401))
    assert coalesced(stopped.texts)
    told = gaps(stopped.texts)
    assert slow.told == [("/slow", first - 1, last) for first, last in told]
    lost = sum(last - first + 1 for first, last in told)
    assert slow.stats("dropped", "gaps", "slow_consumers") == [lost, len(told), 0]
    assert (400 - told[-1][1]) * 1000 <= LIMIT, "it skipped to half of the limit, and then came the rest"
    fast.wait(lambda c: covered(c.texts)[-1:] == [400])
    assert covered(fast.texts) == list(range(1, 401))
    assert gaps(fast.texts) == []
    room.publish()
    stopped.wait(lambda c: covered(c.texts)[-1:] == [401])


@pytest.mark.parametrize("slow_reader", ["drop_oldest", "latest"])
@pytest.mark.alone
def test_who_stops_for_longer_than_silence_may_last_comes_back_with_a_gap(slow_reader: str) -> None:
    """Our ping lies behind what it does not read; that its kernel answers is sign of life enough."""
    slow = Slow(heartbeat_s=0.1)
    room = slow.room(slow_reader)
    stopped = slow.host.member("slow", room.log, receive_buffer=4096)
    room.publish(400)
    for _ in range(10):  # turns of 0.1 s: five times as long as silence may last
        until = time.monotonic() + 0.1
        slow.host.until(lambda until=until: time.monotonic() > until)
        room.publish(10)
    answered: list[bytes] = []

    def is_told_all(client: Client) -> bool:
        for ping in [payload for first, payload in client.frames if first == PING][len(answered) :]:
            client.send(ping, PONG)
            answered.append(ping)
        return covered(client.texts)[-1:] == [500]

    stopped.wait(is_told_all)
    assert covered(stopped.texts) == list(range(1, 501))
    assert slow.stats("heartbeat_timeouts", "slow_consumers") == [0, 0]


def test_fifty_stopped_readers_pin_a_log_that_drops_once() -> None:
    slow = Slow()
    room = slow.room("drop_oldest")
    stopped = [slow.host.member(f"m{i}", room.log, receive_buffer=4096) for i in range(50)]
    room.publish(800)
    assert room.log.laggards == 50
    assert room.log.queued_bytes <= LIMIT + 2 * CHUNK
    assert slow.stats("queued_bytes")[0] <= 50 * 1100, "no more than the rest of a half-sent frame each"
    for member in stopped:
        member.wait(lambda c: covered(c.texts)[-1:] == [800])
        assert covered(member.texts) == list(range(1, 801))
        assert coalesced(member.texts)
    slow.host.until(lambda: room.log.queued_bytes == 0)


def test_a_parked_reader_pins_nothing_and_goes_on_at_the_end() -> None:
    slow = Slow()
    room = slow.room("latest")
    stopped = slow.host.member("slow", room.log, receive_buffer=4096)
    room.publish(200)
    while room.log.queued_bytes:
        room.publish()
        assert room.offset < 2000
    assert slow.stats("parked")[0] >= 1
    assert room.log.laggards == 0
    assert room.log.members == 1
    at = room.offset
    stopped.wait(lambda c: covered(c.texts)[-1:] == [at])
    assert covered(stopped.texts) == list(range(1, at + 1))
    assert gaps(stopped.texts)[-1][1] == at
    room.publish(3)
    stopped.wait(lambda c: covered(c.texts)[-1:] == [at + 3])
    assert covered(stopped.texts) == list(range(1, at + 4))


def test_what_has_no_offset_is_skipped_without_a_gap() -> None:
    slow = Slow()
    room = slow.room("drop_oldest")
    stopped = slow.host.member("slow", room.log, receive_buffer=4096)
    room.publish(3)
    for _ in range(400):
        room.log.append(b"news " + PAD)
        slow.host.turn()
    room.publish()
    stopped.wait(lambda c: covered(c.texts)[-1:] == [4])
    assert covered(stopped.texts) == [1, 2, 3, 4]
    assert set(slow.told) == {("/slow", 3, 3)}, "nothing numbered is missing"


@pytest.mark.parametrize("slow_reader", ["disconnect", "drop_oldest", "latest"])
def test_the_limit_of_messages_is_never_met_too_early_and_at_most_a_chunk_late(slow_reader: str) -> None:
    slow = Slow()
    room = slow.room(slow_reader, lag_limit_bytes=1 << 30, lag_limit_messages=200)
    stopped = slow.host.member("slow", room.log, receive_buffer=4096)
    while not room.log.laggards:
        room.publish()
    at = room.offset
    while sum(slow.stats("slow_consumers", "parked", "skipped")) == 0:
        room.publish(1, b"." * 90)
        assert room.offset < at + 3000
    lagged = room.offset - at
    assert 200 <= lagged <= 200 + 2 * CHUNK // 90, lagged
    if slow_reader == "disconnect":
        stopped.wait(lambda c: c.close_code == 4001)
        told = b'{"r":"slow_consumer","limit":"room_lag_limit_messages","allowed":200}'
        assert stopped.close_reason == told
    else:
        stopped.wait(lambda c: covered(c.texts)[-1:] == [room.offset])
        assert covered(stopped.texts) == list(range(1, room.offset + 1))


def test_who_leaves_before_it_was_told_is_told_then() -> None:
    slow = Slow()
    rooms = [slow.room("drop_oldest"), slow.room("latest")]
    stopped = slow.host.member("slow", *(room.log for room in rooms), receive_buffer=4096)
    for _ in range(300):
        for room in rooms:
            room.publish()
    handle = slow.host.handles["/slow"]
    handle.leave(rooms[0].log)
    handle.leave(rooms[1].log)
    handle.send(b"left")
    rooms[0].publish()
    stopped.wait(lambda c: b"left" in c.texts)
    assert len(slow.told) >= 2
    assert sorted(covered(stopped.texts)) == sorted([*range(1, 301)] * 2)


def test_who_dies_or_is_closed_or_loses_its_room_before_it_was_told_leaves_nothing_behind() -> None:
    slow = Slow()
    rooms = [slow.room("drop_oldest"), slow.room("latest")]
    clients = [
        slow.host.member(f"m{i}", *(room.log for room in rooms), receive_buffer=4096) for i in range(3)
    ]
    for room in rooms:
        room.publish(300)
    clients[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    clients[0].socket.close()
    slow.host.handles["/m1"].close(4503)
    slow.host.until(lambda: any(told[0] == "/m0" for told in slow.host.closed))
    clients[1].wait(lambda c: c.close_code == 4503)
    rooms.clear()
    del room
    gc.collect()
    slow.host.handles["/m2"].send(b"alive")
    clients[2].wait(lambda c: b"alive" in c.texts)
    assert slow.stats("chunks") == [0]


def test_a_telling_that_raises_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    slow = Slow()
    room = slow.room("drop_oldest")
    stopped, fast = (
        slow.host.member("slow", room.log, receive_buffer=4096),
        slow.host.member("fast", room.log),
    )
    room.publish(300)
    del slow.host.handles["/slow"]
    stopped.wait(lambda c: c.close_code is not None)
    assert stopped.close_code == 4000
    assert "KeyError" in caplog.text
    fast.wait(lambda c: covered(c.texts)[-1:] == [300])


def test_a_log_that_drops_has_to_tell_and_arguments_are_checked() -> None:
    host = Host()
    with pytest.raises(ValueError, match="needs on_gap"):
        host.hub.room(slow_reader="latest")
    with pytest.raises(ValueError, match="disconnect, drop_oldest, latest"):
        host.hub.room(slow_reader="newest", on_gap=lambda state, after, last: 0)
    with pytest.raises(ValueError, match="priority is 4: 0 to 3"):
        host.hub.room(priority=4)


# --------------------------------------------------------------------------- what overtakes what


def test_behind_a_full_socket_rooms_go_by_priority_and_unicast_before_them() -> None:
    host = Host()
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    logs = [host.hub.room(priority=priority, lag_limit_bytes=1 << 30) for priority in (0, 3, 1)]
    client = host.member("m", *logs, receive_buffer=4096)
    for i in range(300):
        logs[0].append(b"low %d %b" % (i, PAD))
        host.turn()
    for log, name in zip(logs, (b"low", b"critical", b"normal"), strict=True):
        log.append(b"%b last" % name)
    handle = host.handles["/m"]
    handle.send(b"reply")
    handle.send(b"urgent 1", urgent=True)
    handle.send(b"urgent 2", urgent=True)
    client.wait(lambda c: b"low last" in c.texts)
    late = [text for text in client.texts if not text.startswith(b"low")]
    assert late == [b"urgent 1", b"urgent 2", b"reply", b"critical last", b"normal last"]
    assert client.texts[-1] == b"low last"
    before = client.texts.index(b"urgent 1")
    assert client.texts[before + 5 :][0].startswith(b"low %d " % before), "bulk goes on where it was"
    assert before < 250


def test_an_urgent_message_goes_before_queued_unicast_at_the_next_frame_boundary() -> None:
    host = Host(unicast_limit_bytes=1 << 30)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = host.member("m", receive_buffer=4096)
    handle = host.handles["/m"]
    for size in (5, 300, 70_000):  # heads of 2, 4 and 10 bytes
        for i in range(40):
            handle.send(b"reply %d %b" % (i, b"." * size))
    host.turn()
    for i in range(5):
        handle.send(b"urgent %d %b" % (i, b"!" * (1 if i % 2 else 70_000)), urgent=True)
        host.turn()
        client.read(1000)
    client.wait(lambda c: len(c.texts) == 125)
    order = [text.split(b" ")[:2] for text in client.texts]
    assert [number for word, number in order if word == b"urgent"] == [b"%d" % i for i in range(5)]
    assert [int(number) for word, number in order if word == b"reply"] == [*range(40)] * 3
    assert max(i for i, (word, _) in enumerate(order) if word == b"urgent") < 110
    assert host.hub.stats()["queued_bytes"] == 0


def test_an_urgent_message_overtakes_the_answers_that_are_being_collected() -> None:
    host = Host()

    def answer(state: object, payload: bytes) -> None:
        handle = host.handles[state]
        handle.send(b"answer to " + payload, urgent=payload == b"2")

    host.on_message = answer
    client = host.client(b"/m")
    client.socket.sendall(b"".join(frame(b"%d" % i) for i in range(4)))
    client.wait(lambda c: len(c.texts) == 4)
    assert client.texts == [b"answer to 2", b"answer to 0", b"answer to 1", b"answer to 3"]


def test_nothing_overtakes_the_welcome() -> None:
    host = Host()
    host.answer = lambda shake: Accept("/m", welcome=b"welcome")
    host.on_message = lambda state, payload: host.handles[state].send(b"urgent", urgent=True)
    client = Client(host, b"/m")
    client.socket.sendall(frame(b"x"))
    host.until(client.read_head)
    client.wait(lambda c: len(c.texts) == 2)
    assert client.texts == [b"welcome", b"urgent"]


def test_an_urgent_room_is_passed_between_the_chunks_of_a_bulk_pass() -> None:
    host = Host(flush_chunk=1, read_chunk_bytes=4096)
    bulk, urgent = host.hub.room(priority=0), host.hub.room(priority=2)
    members = [host.member(f"m{i}", bulk) for i in range(60)]
    listener = host.member("urgent", urgent)
    seen: list[tuple[int, int]] = []

    def act(state: object, payload: bytes) -> None:
        if payload[:1] == b"b":
            bulk.append(b"bulk")
        elif payload[:1] == b"u":
            urgent.append(b"urgent")
        elif payload[:1] == b"?":
            for client in (*members, listener):
                client.read()
            seen.append((len(listener.texts), sum(len(member.texts) for member in members)))

    host.on_message = act
    sender = host.member("sender")
    words = (b"b", b".", b"u", b".", b"?")  # one chunk, and so one batch, each
    sender.socket.sendall(b"".join(frame(word.ljust(4096 - 8, b" ")) for word in words))
    host.until(lambda: bool(seen))
    urgent_had, bulk_had = seen[0]
    assert urgent_had == 1
    assert 0 < bulk_had < 60, "the bulk pass was not running, or was not interrupted"
    for member in members:
        member.wait(lambda c: len(c.texts) == 1)


def test_a_room_that_ends_once_its_member_was_told_takes_no_other_gap_along() -> None:
    slow = Slow()
    rooms = [slow.room("drop_oldest") for _ in range(2)]
    stopped = slow.host.member("slow", *(room.log for room in rooms), receive_buffer=4096)
    for number in range(600):
        rooms[number % 2].publish()
    slow.told.clear()
    slow.then = lambda: rooms and rooms.pop(0)  # nobody else holds it
    stopped.wait(lambda c: not rooms)
    slow.host.handles["/slow"].send(b"still here")
    stopped.wait(lambda c: b"still here" in c.texts)
    assert len(slow.told) == 2
    slow.host.until(lambda: slow.stats("chunks") == [0])
