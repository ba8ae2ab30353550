"""What the hub does about abuse: floods of control frames, work without end, and telling of offences."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib

import pytest

from realtime.native.address import pack
from realtime.native.hub import Accept, Refuse
from tests.native.test_hub import Client, Host, frame

PING, PONG, CLOSE = 0x89, 0x8A, 0x88
HOME = pack("127.0.0.1")


@pytest.mark.parametrize("first", [PING, PONG], ids=["pings", "pongs"])
def test_control_frames_over_their_rate_end_the_connection_with_the_limits_name(first: int) -> None:
    host = Host(control_frames_per_second=10.0, control_frames_burst=20.0)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"p", first=first) * 30)
    client.wait(lambda c: any(kind == CLOSE for kind, _ in c.frames))
    told = b'{"r":"too many control frames","limit":"control_frames_per_second","allowed":10}'
    assert client.frames[-1] == (CLOSE, struct.pack("!H", 4509) + told)
    assert len(client.frames) == (21 if first == PING else 1), "a pong for each ping of the burst"
    assert host.hub.stats()["rate_limited"] == 1


def test_control_frames_within_their_rate_are_answered_for_ever() -> None:
    host = Host(control_frames_per_second=1000.0, control_frames_burst=10.0)
    client = host.client(b"/m")
    for number in range(50):
        client.socket.sendall(frame(b"%d" % number, first=PING))
        client.wait(lambda c, n=number: len(c.frames) == n + 1)
        due = time.monotonic() + 0.001
        host.until(lambda due=due: time.monotonic() > due)
    assert [payload for _, payload in client.frames] == [b"%d" % number for number in range(50)]


def test_data_frames_do_not_count_as_control_frames() -> None:
    host = Host(control_frames_per_second=1.0, control_frames_burst=2.0)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"x") * 100 + frame(b"", first=PING))
    client.wait(lambda c: c.frames == [(PONG, b"")])
    assert len(host.messages) == 100


def packed(text: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflater.compress(text) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_many_small_bombs_in_one_chunk_leave_others_their_turn() -> None:
    """64 KiB on the way hold 400 messages that inflate to 64 KiB each; another's message comes in between."""
    host = Host(read_chunk_bytes=65_536)
    host.answer = lambda shake: Accept(shake.path, deflate_bits=15 if shake.path == "/bomber" else 0)
    bomber, other = host.client(b"/bomber"), host.client(b"/other")
    bomb = frame(packed(b"a" * 65_536), first=0xC1)
    count = 65_536 // len(bomb)
    assert count > 300
    bomber.socket.sendall(bomb * count)
    host.until(lambda: len(host.messages) > 0)
    other.socket.sendall(frame(b"my turn"))
    host.until(lambda: ("/other", b"my turn") in host.messages)
    before = host.messages.index(("/other", b"my turn"))
    assert before < count // 2, f"{before} of {count} bombs went first"
    host.until(lambda: len(host.messages) == count + 1)  # and none of them is lost


@pytest.mark.parametrize("payload_bytes", [0, 1, 100])
def test_what_waits_for_its_turn_is_not_read_on_top_of(payload_bytes: int) -> None:
    """Handled slowly, a flood stays in the kernel: what the hub holds of it is bounded by a chunk."""
    host = Host(read_chunk_bytes=4096)
    client = host.client(b"/m")
    flood = frame(b"x" * payload_bytes) * 20_000
    sent = 0

    def slow(state: object, payload: bytes) -> None:
        until = time.monotonic() + 0.00005
        while time.monotonic() < until:
            pass

    host.on_message = slow
    client.socket.setblocking(False)
    deadline = time.monotonic() + 60
    while len(host.messages) < 3000:
        assert time.monotonic() < deadline
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(flood[sent : sent + 65_536])
        host.turn()
        received = host.hub.stats()["bytes_in"]
        handled = host.hub.stats()["frames_in"] * (6 + payload_bytes)
        assert received - handled <= 2 * 4096 + 1024, f"{received - handled} bytes are held"


class Told:
    """A hub's host that writes down offences."""

    def __init__(self, **limits: object) -> None:
        self.offences: list[tuple[bytes, int, bool]] = []
        self.host = Host(on_offence=lambda *told: self.offences.append(told), **limits)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(b"x", first=0x83), 1002),
        (frame(b"\xff"), 1007),
        (frame(b"x" * 101), 1009),
        (frame(b"x", first=0x82), 1003),
    ],
)
def test_an_offence_is_told_with_its_address_and_its_code(sent: bytes, code: int) -> None:
    told = Told(max_message_bytes=100)
    client = told.host.client(b"/m")
    client.socket.sendall(sent)
    client.wait(lambda c: bool(c.frames))
    assert told.offences == [(HOME, code, True)]


def test_a_refused_request_is_told_with_its_status_and_a_blameless_one_is_not() -> None:
    told = Told()
    told.host.answer = lambda shake: Refuse(403, blameless=shake.path == "/poor")
    for path in (b"/poor", b"/bad"):
        client = Client(told.host, path)
        told.host.until(client.read_head)
    broken = Client(told.host, b"/ broken")
    told.host.until(broken.read_head)
    assert told.offences == [(HOME, 403, False), (HOME, 400, False)]


def test_who_is_let_in_to_be_closed_was_not_let_in() -> None:
    told = Told()
    told.host.answer = lambda shake: Accept(shake.path, close_code=4500)
    told.host.client(b"/m").wait(lambda c: bool(c.frames))
    assert told.offences == [(HOME, 4500, False)]


def test_a_request_that_stops_midway_is_told_and_silence_is_not() -> None:
    told = Told(handshake_timeout_s=0.2)
    silent, slow = Client(told.host, b"", head=b""), Client(told.host, b"", head=b"GET / HT")
    told.host.until(lambda: silent.read_head() and slow.read_head())
    assert silent.head.startswith(b"HTTP/1.1 408 ")
    assert slow.head.startswith(b"HTTP/1.1 408 ")
    assert told.offences == [(HOME, 408, False)]


def test_a_callback_that_fails_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail(address: bytes, code: int, admitted: bool) -> None:
        raise RuntimeError("planted")

    host = Host(on_offence=fail)
    client = host.client(b"/m")
    client.socket.sendall(frame(b"\xff"))
    client.wait(lambda c: bool(c.frames))
    assert "on_offence of connection" in caplog.text
    assert host.client(b"/next").head.startswith(b"HTTP/1.1 101 ")
