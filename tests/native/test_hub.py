"""The hub over real loopback sockets, driven by hand: no event loop, so every batch is ours to place."""

from __future__ import annotations

import contextlib
import gc
import random
import select
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from realtime.native.hub import Accept, Connection, Handshake, Hub, Refuse, RoomLog

DEADLINE_S = 60.0
SIZES = [0, 10, 10, 200, 200, 200, 200, 5000, 5000, 5000, 5000, 70000]
UPGRADE = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Host:
    """A hub, its listening socket, and a record of what it told."""

    def __init__(self, **limits: object) -> None:
        self.messages: list[tuple[object, bytes]] = []
        self.closed: list[tuple[object, int, bytes, bool]] = []
        self.handed_over: list[tuple[int, bytes, str, bool]] = []
        self.limited: list[tuple[object, bytes, str, float]] = []
        self.handles: dict[object, Connection] = {}
        self.answer: Callable[[Handshake], Accept | Refuse] = lambda shake: Accept(shake.path)
        self.on_message: Callable[[object, bytes], None] = lambda state, payload: None
        self.wakes: list[float] = []
        self.hub = Hub(
            on_handshake=lambda shake: self.answer(shake),
            on_message=self._on_message,
            on_close=lambda *told: self.closed.append(told),
            on_http=lambda *told: self.handed_over.append(told),
            on_limited=lambda *told: self.limited.append(told),
            on_wake=self.wakes.append,
            **limits,
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.hub.listen(self.listener.fileno())

    def _on_message(self, state: object, payload: bytes) -> None:
        self.handles[state] = self.hub.current()
        self.messages.append((state, payload))
        self.on_message(state, payload)

    def turn(self, wait_s: float = 0.0) -> None:
        select.select([self.hub.fileno()], [], [], wait_s)
        self.hub.on_ready()
        self.hub.tick()

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, "the hub did not get there"
            self.turn(0.001)

    def client(self, path: bytes = b"/a", **options: int) -> Client:
        client = Client(self, path, **options)
        self.until(lambda: client.read_head())
        return client

    def member(self, name: str, *logs: RoomLog, **options: int) -> Client:
        """A client whose handle is known, in `logs`."""
        client = self.client(b"/" + name.encode(), **options)
        client.send(b"hello")
        self.until(lambda: f"/{name}" in self.handles)
        for log in logs:
            self.handles[f"/{name}"].join(log)
        return client


class Client:
    """A raw WebSocket client that reads only when told to."""

    def __init__(
        self, host: Host, path: bytes, *, receive_buffer: int = 0, head: bytes | None = None
    ) -> None:
        self.host = host
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(host.listener.getsockname())
        self.socket.setblocking(False)
        self.socket.sendall(UPGRADE % path if head is None else head)
        self.head = b""
        self.buffer = b""
        self.frames: list[tuple[int, bytes]] = []
        self.eof = False

    def _receive(self, limit: int = 1 << 20) -> bytes:
        try:
            data = self.socket.recv(limit)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            data = b""
        self.eof = self.eof or not data
        return data

    def read_head(self) -> bool:
        if b"\r\n\r\n" not in self.head:
            self.head += self._receive()
            head, found, rest = self.head.partition(b"\r\n\r\n")
            if found:
                self.head, self.buffer = head + found, rest
                self.parse()
        return self.eof or b"\r\n\r\n" in self.head

    def read(self, limit: int = 1 << 20) -> None:
        self.buffer += self._receive(limit)
        self.parse()

    def parse(self) -> None:
        while len(self.buffer) >= 2:
            size, at = self.buffer[1], 2
            if size == 126:
                if len(self.buffer) < 4:
                    return
                (size,), at = struct.unpack_from(">H", self.buffer, 2), 4
            elif size == 127:
                if len(self.buffer) < 10:
                    return
                (size,), at = struct.unpack_from(">Q", self.buffer, 2), 10
            assert size < 1 << 24, "a frame of nonsense length: frames were cut into one another"
            if len(self.buffer) < at + size:
                return
            self.frames.append((self.buffer[0], self.buffer[at : at + size]))
            self.buffer = self.buffer[at + size :]

    @property
    def texts(self) -> list[bytes]:
        return [payload for first, payload in self.frames if first == 0x81]

    @property
    def close_reason(self) -> bytes | None:
        return next((p[2:] for f, p in self.frames if f == 0x88), None)

    @property
    def close_code(self) -> int | None:
        return next((int.from_bytes(p[:2], "big") for f, p in self.frames if f == 0x88), None)

    def send(self, payload: bytes, first: int = 0x81) -> None:
        self.socket.sendall(frame(payload, first))

    def wait(self, done: Callable[[Client], bool]) -> None:
        def read_and_ask() -> bool:
            self.read()
            return done(self)

        self.host.until(read_and_ask)


def frame(payload: bytes, first: int = 0x81) -> bytes:
    n = len(payload)
    if n < 126:
        size = bytes([0x80 | n])
    else:
        size = b"\xfe" + struct.pack(">H", n) if n < 65536 else b"\xff" + struct.pack(">Q", n)
    mask = b"\x11\x22\x33\x44"
    return bytes([first]) + size + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.listener.close()


def test_a_message_reaches_every_member_once(host: Host) -> None:
    log = host.hub.room()
    members = [host.member(f"m{i}", log) for i in range(5)]
    log.append(b"one")
    log.append(b"two")
    for member in members:
        member.wait(lambda m: len(m.texts) == 2)
        assert member.texts == [b"one", b"two"]
    host.until(lambda: log.queued_bytes == 0)
    assert host.hub.stats()["chunks"] == 0, "an idle log holds no chunk"


def test_several_appends_of_a_batch_go_out_in_one_send(host: Host) -> None:
    log = host.hub.room()
    member = host.member("m", log)
    before = host.hub.stats()["sends"]
    for i in range(50):
        log.append(b"%d" % i)
    member.wait(lambda m: len(m.texts) == 50)
    assert host.hub.stats()["sends"] == before + 1


def test_a_connection_in_several_rooms_gets_them_in_one_send(host: Host) -> None:
    logs = [host.hub.room() for _ in range(10)]
    member = host.member("m", *logs)
    before = host.hub.stats()["sends"]
    for log in logs:
        log.append(b"x")
    member.wait(lambda m: len(m.texts) == 10)
    assert host.hub.stats()["sends"] == before + 1


@pytest.mark.parametrize("seed", range(12))
def test_frames_stay_whole_and_each_room_keeps_its_order(seed: int) -> None:
    """Random joins, leaves, appends and unicast, to readers that read little by little."""
    chance = random.Random(seed)
    host = Host(flush_chunk=chance.choice([1, 2, 64]), unicast_limit_bytes=1 << 30)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    logs = [host.hub.room(lag_limit_bytes=1 << 30) for _ in range(4)]
    clients = [host.member(f"m{i}", receive_buffer=16384) for i in range(6)]
    handles = [host.handles[f"/m{i}"] for i in range(6)]
    expected: list[dict[bytes, list[int]]] = [{} for _ in clients]  # by source, what must come
    membership: set[tuple[int, int]] = set()
    for step in range(400):
        who, where = chance.randrange(6), chance.randrange(4)
        pick = chance.random()
        if pick < 0.15 and (who, where) not in membership:
            handles[who].join(logs[where])
            membership.add((who, where))
        elif pick < 0.2 and (who, where) in membership:
            handles[who].leave(logs[where])
            membership.discard((who, where))
        elif pick < 0.6:
            logs[where].append(b"room%d %d %b" % (where, step, b"." * chance.choice(SIZES)))
            for member, room in membership:
                if room == where:
                    expected[member].setdefault(b"room%d" % where, []).append(step)
        elif pick < 0.7:
            handles[who].send(b"unicast %d %b" % (step, b"." * chance.choice([0, 300, 9000])))
            expected[who].setdefault(b"unicast", []).append(step)
        elif pick < 0.85:
            host.turn()
        else:
            clients[who].read(chance.choice([1, 100, 4096, 100000]))
    for i in range(6):
        handles[i].send(b"unicast 999999 end")
        expected[i].setdefault(b"unicast", []).append(999999)
    for log in logs:
        log.append(b"room%d 999999 end" % logs.index(log))
    for member, room in membership:
        expected[member].setdefault(b"room%d" % room, []).append(999999)
    for i, client in enumerate(clients):
        ends = 1 + sum(1 for member, _ in membership if member == i)
        client.wait(lambda c, ends=ends: sum(t.endswith(b" end") for t in c.texts) == ends)
        check_streams(client.texts, expected[i])
    assert host.hub.stats()["queued_bytes"] == 0
    host.until(lambda: all(log.queued_bytes == 0 and log.laggards == 0 for log in logs))
    host.listener.close()


def check_streams(texts: list[bytes], expected: dict[bytes, list[int]]) -> None:
    """Every source's messages, all of them, once and in order."""
    for source, steps in expected.items():
        assert [int(text.split(b" ")[1]) for text in texts if text.startswith(source + b" ")] == steps


def test_what_was_appended_before_a_leave_still_comes_and_before_what_is_sent_after(host: Host) -> None:
    log = host.hub.room()
    member = host.member("m", log)
    log.append(b"before")
    host.handles["/m"].leave(log)
    host.handles["/m"].send(b"left")
    log.append(b"after")
    member.wait(lambda c: len(c.texts) == 2)
    assert member.texts == [b"before", b"left"]


def test_a_reader_that_lags_too_far_is_closed_and_the_others_have_everything(host: Host) -> None:
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    log = host.hub.room(lag_limit_bytes=1 << 18)
    fast, slow = host.member("fast", log), host.member("slow", log, receive_buffer=4096)
    for i in range(2000):
        log.append(b"%d %b" % (i, b"." * 1000))
        host.turn()
        fast.read()
        assert log.queued_bytes < (1 << 18) + (1 << 17)
    fast.wait(lambda c: len(c.texts) == 2000)
    assert [int(text.split()[0]) for text in fast.texts] == list(range(2000))
    slow.wait(lambda c: c.close_code is not None)
    assert slow.close_code == 4001
    assert slow.close_reason == b'{"r":"slow_consumer","limit":"room_lag_limit_bytes","allowed":262144}'
    assert host.hub.stats()["slow_consumers"] == 1
    got = [int(text.split()[0]) for text in slow.texts]
    assert got == list(range(len(got)))
    assert log.members == 1


def test_unicast_over_its_limit_closes_with_slow_consumer() -> None:
    host = Host(unicast_limit_bytes=1 << 16)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = host.member("m", receive_buffer=4096)
    handle = host.handles["/m"]
    sent = 0
    while handle.send(b"." * 1000):
        sent += 1
        host.turn()
        assert handle.queued_bytes <= (1 << 16) + 2000
        assert sent < 10_000
    client.wait(lambda c: c.close_code is not None)
    assert client.close_code == 4001
    assert client.close_reason == b'{"r":"slow_consumer","limit":"unicast_limit_bytes","allowed":65536}'


def test_a_peer_that_does_not_read_its_answers_is_not_read_either() -> None:
    host = Host(unicast_limit_bytes=1 << 20)
    host.answer = lambda shake: Accept(None, echo=True)
    host.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = host.client(b"/echo", receive_buffer=4096)
    payload, sent = frame(b"." * 50_000), 0
    for _ in range(2000):
        try:
            sent += client.socket.send(payload[sent % len(payload) :])
        except BlockingIOError:
            if host.hub.stats()["pauses"]:
                break
        host.turn()
    stats = host.hub.stats()
    assert stats["pauses"] > 0
    assert stats["queued_bytes"] < 3 << 20
    whole = sent // len(payload)
    client.wait(lambda c: len(c.texts) >= whole)
    assert {len(text) for text in client.texts} == {50_000}


def test_closing_from_our_side_is_told_once_with_code_and_reason(host: Host) -> None:
    client = host.member("m")
    host.handles["/m"].close(4503, b'{"r":"kicked"}')
    host.handles["/m"].close(4000)
    client.wait(lambda c: c.close_code is not None)
    assert client.frames[-1] == (0x88, b"\x11\x97" + b'{"r":"kicked"}')
    client.send(b"\x11\x97", first=0x88)
    host.until(lambda: bool(host.closed))
    assert host.closed == [("/m", 4503, b'{"r":"kicked"}', True)]
    assert host.hub.stats()["connections"] == 0
    assert not host.handles["/m"].open
    assert host.handles["/m"].send(b"late") is False


def test_closing_from_the_peers_side_is_echoed_and_told(host: Host) -> None:
    client = host.member("m")
    client.send(struct.pack(">H", 1001) + b"bye", first=0x88)
    client.wait(lambda c: c.eof)
    assert client.frames[-1] == (0x88, struct.pack(">H", 1001))
    assert host.closed == [("/m", 1001, b"bye", True)]


def test_a_vanished_peer_is_told_as_1006(host: Host) -> None:
    client = host.member("m", host.hub.room())
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()
    host.until(lambda: bool(host.closed))
    assert host.closed == [("/m", 1006, b"", False)]


def test_a_peer_that_never_answers_our_close_is_dropped_after_the_timeout() -> None:
    host = Host(close_timeout_s=0.1)
    host.member("m")
    host.handles["/m"].close(1001)
    host.until(lambda: bool(host.closed))
    assert host.closed == [("/m", 1001, b"", False)]


@pytest.mark.alone
def test_silence_brings_a_ping_and_more_silence_the_end() -> None:
    host = Host(heartbeat_s=0.1)
    client = host.client(b"/a")
    client.wait(lambda c: (0x89, b"") in c.frames)
    client.wait(lambda c: c.close_code is not None)
    assert client.close_code == 4002


@pytest.mark.alone
def test_a_pong_is_sign_of_life_enough() -> None:
    host = Host(heartbeat_s=0.1)
    client = host.client(b"/a")
    for beats in range(1, 4):
        client.wait(lambda c, beats=beats: c.frames.count((0x89, b"")) == beats)
        client.send(b"", first=0x8A)
    assert client.close_code is None


def test_a_slow_request_head_is_cut_by_its_total_deadline() -> None:
    host = Host(handshake_timeout_s=0.2)
    client = Client(host, b"/a", head=b"GET /a HTTP/1.1\r\n")
    host.until(client.read_head)
    assert client.head.startswith(b"HTTP/1.1 408 ")


def test_a_pending_connection_must_be_confirmed_in_time() -> None:
    host = Host(handshake_timeout_s=0.2)
    host.answer = lambda shake: Accept(shake.path, pending=True)
    late, good = host.client(b"/late"), host.member("good")
    host.handles["/good"].confirm()
    late.wait(lambda c: c.close_code is not None)
    assert late.close_code == 4502
    good.read()
    assert good.close_code is None


def test_the_welcome_is_the_first_message(host: Host) -> None:
    host.answer = lambda shake: Accept(None, subprotocol="p.v1", welcome=b"welcome %d" % shake.connection_id)
    client = host.client(b"/a")
    client.wait(lambda c: bool(c.texts))
    assert b"\r\nSec-WebSocket-Protocol: p.v1\r\n" in client.head
    assert client.texts == [b"welcome 1"]


def test_a_refusal_is_an_http_answer_that_the_peer_can_read(host: Host) -> None:
    host.answer = lambda shake: Refuse(403, "not from there", "X-Why: origin\r\n")
    client = Client(host, b"/a")
    host.until(client.read_head)
    assert client.head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"\r\nX-Why: origin\r\n" in client.head
    client.wait(lambda c: c.eof)
    assert client.buffer == b"not from there"
    assert host.closed == []


def test_what_is_no_upgrade_leaves_with_its_socket_and_bytes(host: Host) -> None:
    client = Client(host, b"", head=b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    host.until(lambda: bool(host.handed_over))
    fd, received, remote, forwarded = host.handed_over[0]
    assert received == b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    assert not forwarded
    assert remote == "{}:{}".format(*client.socket.getsockname())
    with socket.socket(fileno=fd) as ours:
        ours.sendall(b"mine")
    host.until(lambda: client._receive() == b"mine")
    assert host.hub.stats()["connections"] == 0


def test_a_callback_that_raises_closes_its_connection_and_no_other(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(state: object, payload: bytes) -> None:
        if payload == b"boom":
            raise ZeroDivisionError("planted")

    host.on_message = fail
    bad, good = host.member("bad"), host.member("good")
    bad.send(b"boom")
    bad.wait(lambda c: c.close_code is not None)
    assert bad.close_code == 4000
    assert "planted" in caplog.text
    good.send(b"still here")
    host.until(lambda: ("/good", b"still here") in host.messages)


def test_a_handshake_callback_that_raises_is_answered_500(host: Host) -> None:
    def fail(shake: Handshake) -> Accept:
        raise ZeroDivisionError("planted")

    host.answer = fail
    client = Client(host, b"/a")
    host.until(client.read_head)
    assert client.head.startswith(b"HTTP/1.1 500 ")


def test_messages_over_the_rate_are_told_with_the_time_to_wait() -> None:
    host = Host(messages_per_second=10.0, message_burst=3.0)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"x") * 5)
    host.until(lambda: len(host.messages) + len(host.limited) == 5)
    assert len(host.messages) == 3
    assert all(0 < wait_s <= 0.1 for _, _, _, wait_s in host.limited)
    assert {limit for _, _, limit, _ in host.limited} == {"messages_per_second"}


def test_publishers_that_outrun_their_room_are_throttled_and_lose_nothing(host: Host) -> None:
    log = host.hub.room(lag_limit_bytes=1 << 30)
    host.on_message = lambda state, payload: log.append(payload) if payload != b"hello" else None
    members = [host.member(f"m{i}", log) for i in range(16)]
    for i, member in enumerate(members):  # all at once: one batch finds 900 kB to read
        member.socket.sendall(b"".join(frame(b"%d %d %b" % (i, k, b"." * 4000)) for k in range(14)))
    for member in members:
        member.wait(lambda c: len(c.texts) == 16 * 14)
        assert member.texts == members[0].texts
    for i in range(16):
        own = [text.split()[1] for text in members[0].texts if text.startswith(b"%d " % i)]
        assert own == [b"%d" % k for k in range(14)]
    assert host.hub.stats()["pauses"] > 0


def test_a_deleted_log_detaches_its_members(host: Host) -> None:
    log = host.hub.room()
    member = host.member("m", log)
    log.append(b"never flushed")
    del log
    gc.collect()
    host.handles["/m"].send(b"after")
    member.wait(lambda c: b"after" in c.texts)


def test_joining_twice_is_joining_once_and_leaving_a_strange_log_is_nothing(host: Host) -> None:
    log, other = host.hub.room(), host.hub.room()
    member = host.member("m", log, log)
    host.handles["/m"].leave(other)
    log.append(b"once")
    member.wait(lambda c: bool(c.texts))
    host.turn()
    member.read()
    assert member.texts == [b"once"]
    assert log.members == 1


def test_a_room_message_is_compressed_once_for_all_members(host: Host) -> None:
    host.answer = lambda shake: Accept(shake.path, deflate_bits=15)
    log = host.hub.room(15 << 1)
    members = [host.member(f"m{i}", log) for i in range(3)]
    log.append(b"long enough to be worth it " * 40)
    for member in members:
        member.wait(lambda c: bool(c.frames))
        first, payload = member.frames[0]
        assert first == 0xC1
        plain = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        assert plain == b"long enough to be worth it " * 40


def test_a_log_of_another_variant_is_refused(host: Host) -> None:
    host.member("m")
    with pytest.raises(ValueError, match="variant"):
        host.handles["/m"].join(host.hub.room(1))


def test_a_room_that_rests_delays_its_own_pass_and_asks_to_be_woken() -> None:
    host = Host(rest_ratio=1000.0, rest_max_s=0.05, flush_chunk=1)
    log, other = host.hub.room(), host.hub.room()
    members = [host.member(f"m{i}", log) for i in range(40)]
    neighbour = host.member("n", other)
    log.append(b"one" * 10_000)
    for member in members:
        member.wait(lambda c: len(c.texts) == 1)
    log.append(b"two")
    other.append(b"not resting")
    neighbour.wait(lambda c: bool(c.texts))
    for member in members:
        member.wait(lambda c: len(c.texts) == 2)
    assert any(0 < delay <= 0.05 for delay in host.wakes) or host.hub.stats()["passes"] >= 3


def test_more_connections_than_allowed_are_answered_503() -> None:
    host = Host(max_connections=2)
    welcome = [host.client(b"/a"), host.client(b"/b")]
    third = Client(host, b"/c")
    host.until(third.read_head)
    assert third.head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: " in third.head
    assert not any(client.eof for client in welcome)


def test_a_frame_that_arrives_byte_by_byte_is_one_message(host: Host) -> None:
    client = host.client(b"/m")
    for byte in frame(b"slowly"):
        client.socket.sendall(bytes([byte]))
        host.turn(0.01)
    host.until(lambda: host.messages == [("/m", b"slowly")])


def test_a_large_message_over_many_reads_is_one_message() -> None:
    host = Host(max_message_bytes=1 << 22)
    client = host.client(b"/m")
    payload = bytes(random.Random(7).choices(range(32, 127), k=3_000_000))
    pending = frame(payload)
    while pending:
        with contextlib.suppress(BlockingIOError):
            pending = pending[client.socket.send(pending) :]
        host.turn()
    host.until(lambda: bool(host.messages))
    assert host.messages == [("/m", payload)]


def test_connections_lists_the_accepted_and_aborting_one_resets_it(host: Host) -> None:
    client = host.client(b"/m")
    (handle,) = host.hub.connections()
    assert (handle.id, handle.open, handle.state) == (1, True, "/m")
    handle.abort()
    client.wait(lambda c: c.eof)
    host.until(lambda: host.closed == [("/m", 1006, b"", False)])


def test_an_idle_connection_costs_little_user_memory() -> None:
    """The struct alone: what malloc's chunk of 192 holds, so that 300 bytes stay in reach with the rest."""
    host = Host()
    base = len(host.hub.connections())
    assert base == 0
    assert 0 < host.hub.stats()["connection_bytes"] <= 184
