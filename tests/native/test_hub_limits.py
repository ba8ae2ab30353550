"""The hub's limits over real sockets: bytes a second, accepts a second, ages, and what each answers."""

from __future__ import annotations

import select
import struct
import time
import zlib

import pytest

from realtime.native.hub import Accept
from tests.native.test_hub import Client, Host, frame


def test_bytes_over_the_rate_are_told_with_their_limit_and_what_waits_as_long_passes() -> None:
    host = Host(bytes_per_second=10_000.0, bytes_burst=2_000.0, max_message_bytes=1_000)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"x" * 500) * 6)
    host.until(lambda: len(host.messages) + len(host.limited) == 6)
    assert len(host.messages) == 4
    assert {limit for _, _, limit, _ in host.limited} == {"bytes_per_second"}
    assert all(0 < wait_s <= 0.05 for _, _, _, wait_s in host.limited)
    deadline = time.monotonic() + host.limited[-1][3]
    host.until(lambda: time.monotonic() >= deadline)
    client.socket.sendall(frame(b"x" * 500))
    host.until(lambda: len(host.messages) == 5)


def test_a_fragmented_or_compressed_message_costs_its_whole_size_and_the_largest_always_passes() -> None:
    host = Host(bytes_per_second=1.0, max_message_bytes=1_000)
    host.answer = lambda shake: Accept(shake.path, deflate_bits=15 if shake.path == "/z" else 0)
    plain = host.client(b"/m")
    parts = frame(b"x" * 600, first=0x01), frame(b"x" * 400, first=0x80)
    plain.socket.sendall(b"".join(parts))
    host.until(lambda: host.messages == [("/m", b"x" * 1000)])
    plain.socket.sendall(frame(b"x"))
    host.until(lambda: len(host.limited) == 1)
    assert host.limited[0][1:3] == (b"x", "bytes_per_second")
    packed = host.client(b"/z")
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    payload = (deflater.compress(b"y" * 1000) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    packed.socket.sendall(frame(payload, first=0xC1) * 2)
    host.until(lambda: len(host.messages) == 2)
    host.until(lambda: len(host.limited) == 2)


def test_pings_cost_bytes_too_and_one_over_the_rate_gets_no_pong() -> None:
    host = Host(bytes_per_second=1.0, max_message_bytes=250)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"p" * 125, first=0x89) * 4 + frame(b"x"))
    host.until(lambda: len(host.limited) == 1)
    client.wait(lambda c: len(c.frames) == 2)
    assert host.messages == []


def test_fragments_over_the_rate_end_the_connection_with_the_limits_name() -> None:
    host = Host(messages_per_second=10.0, message_burst=5.0)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"", first=0x01) + frame(b"", first=0x00) * 20)
    client.wait(lambda c: bool(c.frames))
    told = b'{"r":"too many fragments","limit":"messages_per_second","allowed":10}'
    assert client.frames == [(0x88, struct.pack("!H", 1009) + told)]


def test_a_message_too_large_ends_the_connection_with_the_limits_name() -> None:
    host = Host(max_message_bytes=100)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"x" * 101))
    client.wait(lambda c: bool(c.frames))
    told = b'{"r":"message too large","limit":"max_message_bytes","allowed":100}'
    assert client.frames == [(0x88, struct.pack("!H", 1009) + told)]


def test_above_the_accept_rate_the_others_wait_in_the_backlog_and_the_hub_sleeps() -> None:
    host = Host(accepts_per_second=50.0, accepts_burst=10.0)
    began = time.monotonic()
    clients = [Client(host, b"/m") for _ in range(30)]
    host.until(lambda: host.hub.stats()["accepted"] >= 10)
    host.turn()
    passed_s = time.monotonic() - began
    assert host.hub.stats()["accepted"] <= 10 + 50 * passed_s
    # It rests until the time that it asks to be woken at: nothing of the backlog makes it readable.
    assert not select.select([host.hub.fileno()], [], [], 0)[0] or host.hub.stats()["accepted"] > 10
    assert 0 < host.wakes[-1] <= 0.2
    host.until(lambda: all(client.read_head() for client in clients))
    assert time.monotonic() - began >= 20 / 50
    assert host.hub.stats()["accepted"] == 30
    assert 1 <= host.hub.stats()["accept_rests"] <= 25


def test_the_accept_rate_counts_connections_and_not_looks() -> None:
    host = Host(accepts_per_second=0.01, accepts_burst=3.0)
    for n in range(3):
        assert host.client(b"/%d" % n).head.startswith(b"HTTP/1.1 101 ")
    assert host.hub.stats()["accept_rests"] == 0
    Client(host, b"/late")
    host.until(lambda: host.hub.stats()["accept_rests"] == 1)
    assert host.hub.stats()["accepted"] == 3
    host.hub.stop_listening()
    host.turn()


@pytest.mark.parametrize("heartbeat_s", [0.0, 0.3, 30.0])
def test_connections_end_at_about_the_greatest_age_spread_over_a_fifth_of_it(heartbeat_s: float) -> None:
    reason = b'{"r":"rebalance","min":1,"max":2}'
    host = Host(max_age_s=2.0, max_age_reason=reason, heartbeat_s=heartbeat_s)
    clients = [host.client(b"/%d" % n) for n in range(20)]
    opened = time.monotonic()
    ages = {}

    def look() -> bool:
        for client in clients:
            client.read()
            for first, payload in client.frames:
                if first == 0x89:
                    client.socket.sendall(frame(payload, first=0x8A))
                elif client not in ages:
                    assert (first, payload) == (0x88, struct.pack("!H", 4006) + reason)
                    ages[client] = time.monotonic() - opened
            client.frames.clear()
        return len(ages) == len(clients)

    host.until(look)
    # A tick is 100 ms, and a busy machine may be late, but never early.
    assert min(ages.values()) >= 1.8 - 0.1
    ticks = [round(age * 10) for age in ages.values()]
    assert len(set(ticks)) >= 4, f"all at once: {ticks}"
    assert host.hub.stats()["aged"] == 20


def test_answers_that_wait_go_out_before_an_old_connection_is_closed() -> None:
    host = Host(max_age_s=0.3)
    client = host.member("m", receive_buffer=4096)
    for n in range(50):
        assert host.handles["/m"].send(b"%d " % n + b"x" * 10_000)
    host.until(lambda: host.hub.stats()["aged"] == 1)
    client.wait(lambda c: c.frames[-1:] and c.frames[-1][0] == 0x88)
    assert [text.split()[0] for text in client.texts] == [b"%d" % n for n in range(50)]


def test_a_request_that_takes_too_long_is_told_the_limit() -> None:
    host = Host(handshake_timeout_s=0.2)
    client = Client(host, b"", head=b"GET / HTTP/1.1\r\n")
    host.until(client.read_head)
    client.read()
    assert client.head.startswith(b"HTTP/1.1 408 ")
    assert b"handshake_timeout_s: the request took over 0.2 s" in client.head + client.buffer


def test_who_does_not_authenticate_in_time_is_told_the_limit() -> None:
    host = Host(handshake_timeout_s=0.2)
    host.answer = lambda shake: Accept(shake.path, pending=True)
    client = host.client(b"/m")
    client.wait(lambda c: bool(c.frames))
    told = b'{"r":"authentication_timeout","limit":"handshake_timeout_s","allowed":0.2}'
    assert client.frames == [(0x88, struct.pack("!H", 4502) + told)]


def test_a_full_hub_says_which_limit_and_when_to_come_back() -> None:
    host = Host(max_connections=1)
    host.client(b"/m")
    late = Client(host, b"/late")
    host.until(late.read_head)
    assert late.head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 5\r\n" in late.head
    assert b"max_connections: this server has its 1 connections" in late.head + late.buffer
    assert host.hub.stats()["full"] == 1
