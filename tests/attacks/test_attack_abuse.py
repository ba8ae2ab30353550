"""Attacks on one worker's time and memory: floods that cost little to send, and what others wait."""

import contextlib
import socket
import struct
import zlib

import pytest

from tests.attacks.wire import (
    CLOSE,
    CONTINUATION,
    ON_TCP,
    PING,
    PONG,
    TEXT,
    Bystander,
    Peer,
    close_frame,
    frame,
    resident_mb,
    upgrade_request,
)

GROWTH_MB = 32.0
ATTACKERS = 8
# Of the server's work before a thing that takes 0.1 ms. Were each attacker's chunk handled to its end, as it
# once was, the median beside eight bombers would be 0.5 s.
P50_S, WORST_S = 0.25, 1.0
TOO_MANY_ERRORS = 4509


def packed(text: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Flooder(Peer):
    """Sends the same part without end, as much as its socket takes, and reads what comes."""

    def __init__(self, target, part: bytes, start: bytes, *headers: str) -> None:
        super().__init__(target)
        self.upgrade(None, *headers)
        self._part = part * max(1, 60_000 // len(part))
        self._rest = memoryview(start + self._part)
        self.socket.setblocking(False)

    def go_on(self) -> None:
        """Send and read once; `ended` says that the server has cut it."""
        try:
            with contextlib.suppress(BlockingIOError):
                self._rest = self._rest[self.socket.send(self._rest) :] or memoryview(self._part)
            with contextlib.suppress(BlockingIOError):
                self.ended = not self.socket.recv(1 << 20)
        except ConnectionError:
            self.ended = True


FRAGMENT = frame(CONTINUATION, b"a", fin=False)
BOMB_OF_JSON = b'{"type":"ping","id":1,"content":"' + b"a" * 60_000 + b'"}'
# What is sent without end, and what once before that.
FLOODS = {
    "pings": (frame(PING, b"p" * 125), b""),
    "pongs": (frame(PONG), b""),
    "pings-between-fragments": (frame(PING) + FRAGMENT, frame(TEXT, b"a", fin=False)),
    "tiny-fragments": (FRAGMENT, frame(TEXT, b"a", fin=False)),
    "empty-messages": (frame(TEXT), b""),
    "small-bombs": (frame(TEXT, packed(b"a" * 65_000), rsv=4), b""),
    "small-bombs-of-json": (frame(TEXT, packed(BOMB_OF_JSON), rsv=4), b""),
    "closes": (close_frame(1000), b""),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_eight_floods_at_once_leave_others_their_turn(serve, kind: str):
    """They read what comes, reconnect when they are cut, and go on for a hundred questions of another."""
    server = serve(compression="true", max_connections_per_user=1000)
    part, start = FLOODS[kind]

    def flooder() -> Flooder:
        return Flooder(server, part, start, "Sec-WebSocket-Extensions: permessage-deflate")

    with Bystander(server) as other:
        flooders = [flooder() for _ in range(ATTACKERS)]
        before, took = resident_mb(server.pid), []
        for _ in range(100):
            for number, each in enumerate(flooders):
                each.go_on()
                if each.ended:
                    each.socket.close()
                    flooders[number] = flooder()
            took.append(other.is_served())
        took.sort()
        assert took[50] <= P50_S, f"median {took[50] * 1000:.0f} ms"
        assert took[-1] <= WORST_S, f"longest {took[-1] * 1000:.0f} ms"
        assert resident_mb(server.pid) < before + GROWTH_MB
        for each in flooders:
            each.socket.close()


@pytest.mark.parametrize("opcode", [PING, PONG])
def test_a_control_flood_ends_with_the_limit_that_it_was_over(target, peer: Peer, opcode: int):
    peer.upgrade()
    peer.push(frame(opcode, b"x") * 1000)
    while (got := peer.read_frame()) is not None and got.opcode != CLOSE:
        pass
    assert got is not None
    assert got.code == TOO_MANY_ERRORS
    assert b'"limit":"control_frames_per_second"' in got.payload


def test_pings_as_fast_as_any_client_sends_them_are_answered(target, peer: Peer):
    """Sixty at once: what a client that was cut off for a minute may have in its buffers."""
    peer.upgrade()
    peer.send(b"".join(frame(PING, b"%d" % number) for number in range(60)))
    pongs = []
    while len(pongs) < 60:
        got = peer.read_frame()
        assert got is not None
        if got.opcode == PONG:
            pongs.append(got.payload)
    assert pongs == [b"%d" % number for number in range(60)]


def test_heads_without_end_are_refused_before_they_fill_memory(target, bystander: Bystander):
    """A hundred clients that each send headers for as long as they are let."""
    before = resident_mb(target.pid)
    peers = [Peer(target).send(b"GET /ws HTTP/1.1\r\nHost: x\r\n") for _ in range(100)]
    line = b"X-Header: " + b"y" * 100 + b"\r\n"
    for peer in peers:
        peer.push(line * 200)
        bystander.is_served()
    for peer in peers:
        assert peer.read_response().status == 431
        peer.socket.close()
    assert resident_mb(target.pid) < before + GROWTH_MB


def test_more_headers_than_anybody_needs_are_refused_however_short(target, peer: Peer):
    peer.send(b"GET /ws HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 3000 + b"\r\n")
    assert peer.read_response().status == 431


@ON_TCP
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x80\x2e\x01\x00\x02" + bytes(50),
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x05\x01\x00",
        b"EHLO mail.example.com\r\n",
        bytes(1000),
        b"\r\n" * 1000,
    ],
    ids=["tls", "sslv2", "ssh", "http2", "socks", "smtp", "nuls", "line-ends"],
)
def test_another_protocol_on_our_port_is_refused(target, peer: Peer, garbage: bytes):
    """It is refused, or cut by the deadline where it may yet become a request; it is never a server error."""
    peer.send(garbage).socket.shutdown(socket.SHUT_WR)
    answer = peer.read_to_end()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 505 "))


def test_the_admin_port_opens_no_websocket(serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        admin_port = free.getsockname()[1]
    server = serve(admin_port=admin_port)
    with Bystander(server) as other, socket.create_connection(("127.0.0.1", admin_port), 5) as admin:
        admin.sendall(upgrade_request() + frame(TEXT, b'{"type":"ping","id":1}'))
        answer = b""
        while data := admin.recv(65536):
            answer += data
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))
        assert b"pong" not in answer
        other.is_served()


def test_a_reset_amid_a_bomb_leaves_nothing_behind(target, bystander: Bystander):
    before = resident_mb(target.pid)
    bomb = frame(TEXT, packed(b"a" * 200_000), rsv=4)
    for number in range(300):
        peer = Peer(target).upgrade(None, "Sec-WebSocket-Extensions: permessage-deflate")
        peer.send(bomb * 50 + bomb[:-3])
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()
        if number % 50 == 0:
            bystander.is_served()
    bystander.is_served()
    assert resident_mb(target.pid) < before + GROWTH_MB


def test_a_hundred_who_stop_reading_in_the_handshake_cost_little(target, bystander: Bystander):
    """They ask for a connection, and never take the answer."""
    before = resident_mb(target.pid)
    peers = [Peer(target, receive_buffer_bytes=1024).send(upgrade_request()) for _ in range(100)]
    for _ in range(20):
        bystander.is_served()
    assert resident_mb(target.pid) < before + GROWTH_MB / 4
    for peer in peers:
        peer.reset()
