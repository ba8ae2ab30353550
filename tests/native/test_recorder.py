"""The flight recorder over real loopback sockets: what a ring holds, what it forgets, what bounds it."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from realtime.native.hub import Accept
from tests.native.test_hub import Client, Host

ENTRY = struct.Struct("=qQIBB2x")
IN, OUT, REFUSED = 1, 2, 3
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


class Noted(NamedTuple):
    """One entry of a ring."""

    kind: int
    first: int
    length: int
    payload: bytes


class Recorded(Host):
    """A host that records all that come in, and keeps what it is told of those that have gone."""

    def __init__(
        self,
        ring_bytes: int = 1 << 16,
        payload_bytes: int = 64,
        memory_bytes: int = 1 << 24,
        share: float = 1.0,
    ) -> None:
        super().__init__(unicast_limit_bytes=1 << 24)
        self.gone: list[tuple[int, int, tuple[bytes, int, int, int]]] = []
        self.hub.record_to(
            lambda connection, code, recorded: self.gone.append((connection.id, code, recorded)),
            ring_bytes=ring_bytes,
            payload_bytes=payload_bytes,
            memory_bytes=memory_bytes,
            share=share,
        )

    def notes(self, name: str) -> list[Noted]:
        recorded = self.handles[f"/{name}"].recorded()
        assert recorded is not None, "it is not recorded"
        entries, frames, lost, _ = recorded
        found = decoded(entries)
        assert len(found) == frames - lost
        return found


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    host = Recorded()
    yield host
    host.listener.close()


def decoded(entries: bytes) -> list[Noted]:
    found, at, before = [], 0, 0
    while at < len(entries):
        time_ns, length, kept, kind, first = ENTRY.unpack_from(entries, at)
        assert before <= time_ns <= time.monotonic_ns(), "time goes on"
        before, at = time_ns, at + ENTRY.size + kept
        assert len(entries) >= at, "an entry is cut"
        found.append(Noted(kind, first, length, entries[at - kept : at]))
    return found


def test_what_it_sends_and_is_sent_is_noted_in_order_with_the_beginning_of_its_payload(recorded: Recorded):
    client = recorded.member("a")
    client.send(b"x" * 200)
    client.send(b"are you there", PING)
    client.wait(lambda c: (PONG, b"are you there") in c.frames)
    recorded.handles["/a"].send(b"answer")
    recorded.handles["/a"].send(b"urgent", urgent=True)
    client.wait(lambda c: len(c.texts) == 2)
    assert recorded.notes("a") == [
        Noted(IN, TEXT, 5, b"hello"),
        Noted(IN, TEXT, 200, b"x" * 64),
        Noted(IN, PING, 13, b"are you there"),
        Noted(OUT, PONG, 13, b"are you there"),
        Noted(OUT, TEXT, 6, b"answer"),
        Noted(OUT, TEXT, 6, b"urgent"),
    ]


def test_fragments_are_noted_as_they_came(recorded: Recorded):
    client = recorded.member("a")
    client.send(b"one", 0x01)
    client.send(b"two", 0x80)
    recorded.until(lambda: len(recorded.messages) == 2)
    assert recorded.notes("a")[1:] == [Noted(IN, 0x01, 3, b"one"), Noted(IN, 0x80, 3, b"two")]


def test_what_is_compressed_is_noted_compressed(recorded: Recorded):
    recorded.answer = lambda shake: Accept(
        shake.path, deflate_bits=15, extensions="permessage-deflate; server_no_context_takeover"
    )
    client = recorded.member("a")
    recorded.handles["/a"].send(b"y" * 1000)
    client.wait(lambda c: len(c.frames) == 1)
    (note,) = recorded.notes("a")[1:]
    assert (note.kind, note.first) == (OUT, 0xC1)
    assert zlib.decompressobj(-15).decompress(note.payload + b"\0\0\xff\xff") == b"y" * 1000


@pytest.mark.parametrize("others", [0, 1], ids=["alone in a room", "in two rooms"])
def test_what_rooms_send_is_noted_for_recorded_members_alone(others: int):
    host = Recorded(ring_bytes=0)
    rooms = [host.hub.room() for _ in range(1 + others)]
    a, b = host.member("a", *rooms), host.member("b", *rooms)
    rooms[0].append(b"before")
    a.wait(lambda c: b"before" in c.texts)
    assert host.handles["/a"].record(1 << 16, 64)
    for text in (b"one", b"two", b"z" * 300):
        rooms[0].append(text)
    for client in (a, b):
        client.wait(lambda c: len(c.texts) == 4)
    assert host.notes("a") == [
        Noted(OUT, TEXT, 3, b"one"),
        Noted(OUT, TEXT, 3, b"two"),
        Noted(OUT, TEXT, 300, b"z" * 64),
    ]
    assert host.handles["/b"].recorded() is None
    host.handles["/a"].stop_recording()
    rooms[0].append(b"after")
    a.wait(lambda c: b"after" in c.texts)
    assert host.handles["/a"].recorded() is None
    assert [host.hub.stats()[name] for name in ("recordings", "recorder_bytes")] == [0, 0]
    host.listener.close()


def test_a_slow_reader_of_large_messages_has_each_frame_noted_once(recorded: Recorded):
    """Frames are sent in pieces then, and what is left of a room becomes unicast when it is left."""
    room = recorded.hub.room(lag_limit_bytes=1 << 26)
    slow = recorded.member("slow", room)
    recorded.handles["/slow"].record(1 << 20, 8)
    texts = [b"%06d" % number + b"." * 70_000 for number in range(60)]
    for text in texts:
        room.append(text)
        recorded.turn()
    assert room.laggards, "the socket took all of it"
    recorded.handles["/slow"].send(b"unicast")
    recorded.handles["/slow"].leave(room)
    slow.wait(lambda c: len(c.texts) == len(texts) + 1)
    noted = [note.payload[:6] for note in recorded.notes("slow") if note.length > 70_000]
    assert noted == [text[:6] for text in texts]


@pytest.mark.parametrize("seed", range(12))
def test_a_ring_holds_the_newest_that_fit(seed: int):
    """Against a plain twin: a queue that lets go of the oldest until the new one fits."""
    chance = random.Random(seed)
    limit = chance.choice([1024, 1500, 4096, 10_000])
    payload_bytes = chance.choice([0, 1, 100, 900])
    host = Recorded(limit, payload_bytes)
    client = host.member("a")
    twin: deque[Noted] = deque()
    sent = [b"hello", *(bytes([chance.randrange(97, 123)]) * chance.randrange(1500) for _ in range(300))]
    for payload in sent[1:]:
        client.send(payload)
    host.until(lambda: len(host.messages) == len(sent))
    for payload in sent:
        note = Noted(IN, TEXT, len(payload), payload[:payload_bytes])
        while sum(ENTRY.size + len(each.payload) for each in (*twin, note)) > limit:
            twin.popleft()
        twin.append(note)
    assert host.notes("a") == list(twin)
    _, frames, lost, closer = host.handles["/a"].recorded()
    assert (frames, lost, closer) == (len(sent), len(sent) - len(twin), 0)
    assert host.hub.stats()["recorder_bytes"] <= limit
    host.listener.close()


def test_rings_grow_with_what_is_noted_and_all_of_them_keep_to_their_memory():
    host = Recorded(ring_bytes=1 << 16, payload_bytes=500, memory_bytes=5 * 1024)
    clients = [host.member(f"m{number}") for number in range(6)]
    stats = host.hub.stats()
    assert [stats[name] for name in ("recordings", "recorder_bytes", "recorder_refused")] == [5, 5120, 1]
    assert host.handles["/m5"].recorded() is None
    assert host.handles["/m5"].record(1024, 10) is False
    for _ in range(20):
        clients[0].send(b"q" * 500)
    host.until(lambda: len(host.messages) == 26)
    assert host.hub.stats()["recorder_bytes"] == 5120
    assert host.notes("m0") == [Noted(IN, TEXT, 500, b"q" * 500)], "as much as fits into what it had"
    host.handles["/m1"].stop_recording()
    assert host.handles["/m5"].record(1024, 10) is True
    host.listener.close()


def test_a_share_of_connections_is_recorded_evenly():
    host = Recorded(share=0.25)
    clients = [host.member(f"m{number}") for number in range(80)]
    found = [host.handles[f"/m{number}"].recorded() is not None for number in range(80)]
    assert 18 <= sum(found) <= 22
    assert all(any(found[start : start + 8]) for start in range(0, len(clients), 8))
    host.listener.close()


@pytest.mark.parametrize(
    ("raw", "head"),
    [
        (b"\x81\x06secret", b"\x81\x06"),
        (b"\x81\x7e\x00\x80" + b"secret" * 30, b"\x81\x7e\x00\x80"),
        (b"\xb1\x86\x01\x02\x03\x04secret", b"\xb1\x86"),
        (b"\x81\xff\x00\x00\x00\x00\x10\x00\x00\x00abcdsecret", b"\x81\xff\x00\x00\x00\x00\x10\x00\x00\x00"),
    ],
    ids=["unmasked", "unmasked and longer", "reserved bits", "too large"],
)
def test_of_a_frame_that_is_refused_the_head_alone_is_noted(recorded: Recorded, raw: bytes, head: bytes):
    client = recorded.member("a")
    number = recorded.handles["/a"].id
    client.socket.sendall(raw)
    client.wait(lambda c: c.close_code is not None)
    code = client.close_code
    client.socket.close()
    recorded.until(lambda: bool(recorded.gone))
    ((gone, told, (entries, _, _, closer)),) = recorded.gone
    assert (gone, told, closer) == (number, code, OUT)
    notes = decoded(entries)
    assert Noted(REFUSED, head[0], len(head), head) in notes
    assert notes[-1].first == CLOSE
    assert b"secret" not in entries
    assert [each[1] for each in recorded.closed] == [code], "on_close comes too"


def test_it_is_told_who_closed_first(recorded: Recorded):
    theirs, ours = recorded.member("theirs"), recorded.member("ours")
    recorded.handles["/ours"].close(4503, b"out")
    theirs.send(b"\x03\xea", CLOSE)
    for client in (theirs, ours):
        client.wait(lambda c: c.close_code is not None)
        client.send(b"\x03\xe8", CLOSE)
    recorded.until(lambda: len(recorded.gone) == 2)
    assert {code: told[3] for _, code, told in recorded.gone} == {4503: OUT, 1002: IN}


def test_a_connection_is_found_by_its_number_while_it_is_there(recorded: Recorded):
    recorded.member("a")
    handle = recorded.handles["/a"]
    number = handle.id
    assert recorded.hub.find(number) is handle
    assert recorded.hub.find(number + 1) is None
    handle.abort()
    recorded.until(lambda: recorded.hub.find(number) is None)
    assert handle.record(1024, 10) is False
    assert handle.recorded() is None
    handle.stop_recording()


def test_a_callback_that_fails_stops_nobody(recorded: Recorded, caplog: pytest.LogCaptureFixture):
    recorded.hub.record_to(lambda *told: 1 / 0, ring_bytes=1024, payload_bytes=8, memory_bytes=1 << 20)
    clients: list[Client] = [recorded.member(name) for name in ("a", "b")]
    clients[0].socket.close()
    recorded.until(lambda: len(recorded.closed) == 1)
    recorded.handles["/b"].send(b"still here")
    clients[1].wait(lambda c: c.texts == [b"still here"])
    assert "on_recorded" in caplog.text


def test_a_hub_that_ends_tells_nobody_and_frees_its_rings():
    host = Recorded()
    host.member("a")
    gone = host.gone
    host.listener.close()
    host.handles.clear()
    del host.hub
    assert gone == []
