"""What abuse costs the address it comes from: limits on arrival, and the penalty box, over real sockets.

All of 127.0.0.0/8 is this machine's, so that attackers and others have addresses, and subnets, of their own.
"""

import contextlib
import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from tests.attacks.wire import (
    PING,
    TEXT,
    Bystander,
    Peer,
    close_frame,
    frame,
    message,
    upgrade_request,
)
from tests.conftest import Server
from tests.edge.peer import get

MALLORY = "127.66.6.6"
NEIGHBOUR = "127.66.6.7"
HONEST = "127.1.2.3"
KEY = "0123456789abcdef0123456789abcdef"
OFF = {"connections_per_second_per_address": 0, "max_connections_per_address": 0}


@pytest.fixture
def fort(serve: Callable[..., Server]) -> Callable[..., Server]:
    """Start a server that punishes all but 127.0.0.1, whence the tests look at it."""

    def start(**settings: object) -> Server:
        return serve(exempt_addresses="127.0.0.1", **settings)

    return start


def is_let_in(server: Server, source: str, request: bytes | None = None) -> bool:
    """Whether a request from there is answered at all; who is refused at accept gets a reset, and no byte."""
    try:
        with Peer(server, source=source) as peer:
            peer.send(request or upgrade_request())
            return peer.socket.recv(1) != b""
    except (ConnectionResetError, BrokenPipeError):
        return False


def counted(server: Server, name: str) -> int:
    """A number of /metrics, labels and all."""
    lines = get(f"{server.url}/metrics")[2].decode().splitlines()
    return next((int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"realtime_{name} ")), 0)


def until_refused(server: Server, source: str, attack: Callable[[Server, str], object], most: int) -> int:
    """Attack until the address is kept out; return after how many attacks."""
    for number in range(most):
        if not is_let_in(server, source):
            return number
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            attack(server, source)
    raise AssertionError(f"still let in after {most} attacks")


def until_let_in(server: Server, source: str) -> float:
    """Knock until the door opens; return how long that took."""
    began = time.monotonic()
    while not is_let_in(server, source):
        assert time.monotonic() - began < 60, "still kept out"
    return time.monotonic() - began


# ---- what is an offence ----


def break_framing(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade() as peer:
        peer.send(frame(TEXT, b"unmasked", mask=None)).read_to_end()


def send_no_utf8(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade() as peer:
        assert peer.send(frame(TEXT, b"\xff")).read_close() == 1007


def announce_too_much(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade() as peer:
        assert peer.send(frame(TEXT, b"", claimed_bytes=1 << 40)).read_close() == 1009


def inflate_without_end(server: Server, source: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    with Peer(server, source=source).upgrade(None, "Sec-WebSocket-Extensions: permessage-deflate") as peer:
        assert peer.send(frame(TEXT, bomb[:-4], rsv=4)).read_close() == 1009


def flood_pings(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade() as peer:
        peer.push(frame(PING, b"p") * 5000)
        assert peer.read_close() == 4509


def err_without_end(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade() as peer:
        peer.push(message("nonsense") * 500)
        assert peer.read_close() == 4509


def send_a_broken_head(server: Server, source: str) -> None:
    with Peer(server, source=source) as peer:
        assert peer.send(b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n").read_response().status == 400


def smuggle(server: Server, source: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with Peer(server, source=source) as peer:
        assert peer.send(head).read_response().status == 400


def speak_tls(server: Server, source: str) -> None:
    with Peer(server, source=source) as peer:
        assert peer.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)).read_to_end()


def stop_midway(server: Server, source: str) -> None:
    with Peer(server, source=source) as peer:
        assert peer.send(upgrade_request()[:40]).read_response().status == 408


OFFENCES = {
    "unmasked-frames": (break_framing, "bad_frame"),
    "text-that-is-no-utf8": (send_no_utf8, "bad_frame"),
    "announced-lengths": (announce_too_much, "too_large"),
    "compression-bombs": (inflate_without_end, "too_large"),
    "ping-floods": (flood_pings, "flood"),
    "errors-without-end": (err_without_end, "flood"),
    "broken-heads": (send_a_broken_head, "bad_request"),
    "smuggled-requests": (smuggle, "bad_request"),
    "tls-on-the-plain-port": (speak_tls, "bad_request"),
    "slow-heads": (stop_midway, "slow_handshake"),
}


@pytest.mark.parametrize("kind", OFFENCES)
@pytest.mark.alone
def test_who_goes_on_offending_is_refused_at_accept(fort, kind: str):
    attack, name = OFFENCES[kind]
    server = fort(compression="true", handshake_timeout_s=0.1, close_timeout_s=0.5, penalty_base_s=60, **OFF)
    with Bystander(server, source=HONEST) as before:
        attacks = until_refused(server, MALLORY, attack, 25)
        assert attacks >= 4, "not for a mistake or two"
        assert counted(server, f'offences_total{{offence="{name}"}}') >= attacks
        assert counted(server, "penalized_addresses") == 1
        handshakes = counted(server, "handshakes_total")
        denied = counted(server, 'address_refusals_total{reason="penalty"}')
        assert not any(is_let_in(server, MALLORY) for _ in range(20))
        # Nothing was read, parsed or answered for it.
        assert counted(server, "handshakes_total") == handshakes
        assert counted(server, 'address_refusals_total{reason="penalty"}') >= denied + 20
        assert is_let_in(server, NEIGHBOUR)
        before.is_served()


def bearer(claims: dict[str, object], key: str = KEY) -> str:
    return f"Authorization: Bearer {jwt.encode(claims, key, algorithm='HS256')}"


def try_a_token(headers: tuple[str, ...]) -> Callable[[Server, str], None]:
    def attempt(server: Server, source: str) -> None:
        with Peer(server, source=source) as peer:
            peer.send(upgrade_request("/ws", *headers)).read_response()

    return attempt


def send_a_bad_token(server: Server, source: str) -> None:
    with Peer(server, source=source).upgrade("/ws") as peer:
        peer.send(message('{"type":"connect","id":1,"content":{"token":"a.b.c"}}'))
        assert peer.read_close() == 4500


FORGED = {"sub": "alice", "exp": int(time.time()) + 86_400}
GUESSES = {
    "by-header": try_a_token((bearer(FORGED, "x" * 32),)),
    "by-subprotocol": try_a_token(("Sec-WebSocket-Protocol: realtime.v1.json, bearer.a.b.c",)),
    "by-message": send_a_bad_token,
}


@pytest.mark.parametrize("how", GUESSES)
def test_who_tries_token_after_token_is_kept_out(fort, how: str):
    server = fort(jwt_secret=KEY, penalty_base_s=60, **OFF)
    tried = until_refused(server, MALLORY, GUESSES[how], 40)
    assert 15 <= tried <= 25
    assert is_let_in(server, NEIGHBOUR, upgrade_request("/ws", bearer(FORGED)))


# ---- what is none ----


@pytest.mark.alone
def test_what_bad_luck_or_a_strangers_page_can_do_is_no_offence(fort):
    """A browser does these by itself, or for a page of somebody else's; or a client that has an old token."""
    server = fort(
        jwt_secret=KEY,
        allowed_origins="https://app.example.com",
        handshake_timeout_s=0.3,
        tcp_defer_accept_s=0,
        **OFF,
    )
    ours = "Origin: https://app.example.com"
    expired = bearer({"sub": "alice", "exp": 1_000_000_000})
    silent = [Peer(server, source=MALLORY) for _ in range(60)]
    requests = [
        upgrade_request("/ws", "Origin: https://evil.example"),
        upgrade_request("/nowhere", ours),
        upgrade_request("/ws", ours, expired),
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nReferer: https://evil.example/" + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        b"",
    ]
    for _ in range(60):
        for request in requests:
            with Peer(server, source=MALLORY) as peer:
                peer.send(request)
                if request:
                    assert peer.read_response().status in (401, 403, 404, 414, 431)
    for peer in silent:
        assert peer.read_response().status == 408
        peer.socket.close()
    assert is_let_in(server, MALLORY)
    assert counted(server, "penalties_total") == 0


def test_coming_and_going_is_no_offence(fort):
    server = fort(**OFF)
    for _ in range(60):
        with Peer(server, source=MALLORY).upgrade() as peer:
            peer.send(close_frame(1000)).read_close()
        with Peer(server, source=MALLORY).upgrade() as peer:
            peer.reset()
    assert is_let_in(server, MALLORY)


@pytest.mark.alone
def test_the_exempt_are_never_kept_out(serve):
    server = serve(handshake_timeout_s=0.1)  # loopback, by default
    for _ in range(40):
        break_framing(server, "127.0.0.1")
    assert is_let_in(server, "127.0.0.1")
    assert counted(server, 'offences_total{offence="bad_frame"}') == 0


def test_without_a_threshold_nobody_is_kept_out(fort):
    server = fort(penalty_threshold=0, **OFF)
    for _ in range(40):
        break_framing(server, MALLORY)
    assert is_let_in(server, MALLORY)
    assert counted(server, 'offences_total{offence="bad_frame"}') == 40


# ---- the box over time ----


@pytest.mark.alone
def test_each_time_in_the_box_is_twice_as_long(fort, capsys):
    base_s = 0.4
    server = fort(penalty_base_s=base_s, penalty_half_life_s=3600, **OFF)
    took = []
    for _ in range(4):
        until_refused(server, MALLORY, break_framing, 25)
        took.append(until_let_in(server, MALLORY))
    with capsys.disabled():
        print("\nkept out for", ", ".join(f"{each:.2f} s" for each in took), end=" ")
    for number, each in enumerate(took):
        assert base_s * 2**number * 0.5 <= each <= base_s * 2**number + 1.0
    assert counted(server, "penalties_total") == 4


@pytest.mark.alone
def test_the_box_opens_by_itself_and_the_longest_time_bounds_it(fort):
    server = fort(penalty_base_s=0.2, penalty_max_s=0.3, penalty_half_life_s=3600, **OFF)
    for _ in range(5):
        until_refused(server, MALLORY, break_framing, 25)
        assert until_let_in(server, MALLORY) <= 1.3


def test_who_shares_the_address_and_is_connected_stays_connected(fort):
    server = fort(penalty_base_s=60, **OFF)
    with Bystander(server, source=MALLORY) as same:
        until_refused(server, MALLORY, break_framing, 25)
        same.is_served()


def test_nobody_has_another_kept_out_by_half_a_handshake(fort):
    """An offence takes a TCP handshake from the address it is laid to: those who only knock have none."""
    server = fort(penalty_base_s=60, **OFF)
    for _ in range(200):
        Peer(server, source=NEIGHBOUR).reset()
    assert is_let_in(server, NEIGHBOUR)
    assert counted(server, "suspect_addresses") == 0


# ---- limits on arrival ----


@contextlib.contextmanager
def crowd(server: Server, sources: Iterator[str], most: int) -> Iterator[int]:
    """Connect from one source after the other until one is refused; yield how many stand."""
    peers: list[Peer] = []
    try:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, AssertionError):
            for _ in range(most):
                peer = Peer(server, source=next(sources))
                peers.append(peer)
                peer.upgrade()
        yield len(peers) - 1
    finally:
        for peer in peers:
            peer.socket.close()


def test_an_address_gets_no_more_connections_than_allowed_and_all_others_do(fort):
    server = fort(max_connections_per_address=20, connections_per_second_per_address=0)
    with crowd(server, itertools.repeat(MALLORY), 30) as standing:
        assert standing == 20
        assert not is_let_in(server, MALLORY)
        assert is_let_in(server, NEIGHBOUR)
        assert counted(server, 'address_refusals_total{reason="max_connections_per_address"}') >= 2
    until_let_in(server, MALLORY)


def test_a_subnet_gets_no_more_whichever_of_its_addresses_ask(fort):
    server = fort(max_connections_per_subnet=20, **OFF)
    sources = (f"127.66.6.{number}" for number in itertools.count(1))
    with crowd(server, sources, 30) as standing:
        assert standing == 20
        assert not is_let_in(server, "127.66.6.200")
        assert is_let_in(server, "127.66.7.1")


def test_a_storm_of_connections_from_one_address_is_refused_and_then_kept_out(fort):
    """Nothing is wrong with any of its handshakes: there are only too many."""
    server = fort(connections_per_second_per_address=50, rate_burst_s=1.0, penalty_base_s=60)
    with Bystander(server, source=HONEST) as other:
        let_in = 0
        for number in range(600):
            let_in += is_let_in(server, MALLORY)
            if number % 50 == 0:
                other.is_served()
        assert counted(server, 'address_refusals_total{reason="connections_per_second_per_address"}') >= 100
        assert counted(server, "penalties_total") == 1
        assert not is_let_in(server, MALLORY)
        assert let_in <= 300
        other.is_served()


def test_connections_that_are_gone_are_not_counted_however_they_ended(fort):
    server = fort(max_connections_per_address=3, connections_per_second_per_address=0, penalty_threshold=0)
    ends: list[Callable[[Peer], object]] = [
        lambda peer: peer.upgrade().send(close_frame(1000)).read_to_end(),
        lambda peer: peer.upgrade().reset(),
        lambda peer: peer.send(upgrade_request()[:30]).reset(),
        lambda peer: peer.send(b"\0\0\r\n\r\n").read_to_end(),
        lambda peer: peer.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").read_to_end(),
        lambda peer: peer.upgrade().send(frame(3)).read_to_end(),
    ]
    for _ in range(5):
        for end in ends:
            until_let_in(server, MALLORY)
            with contextlib.suppress(ConnectionResetError), Peer(server, source=MALLORY) as peer:
                end(peer)
    until_let_in(server, MALLORY)
    began = time.monotonic()
    while (left := counted(server, "connected_addresses")) > 1:  # ours, that asks
        assert time.monotonic() - began < 60, f"{left} addresses are still counted"


def test_a_flood_of_those_kept_out_is_no_flood_of_the_log(fort):
    server = fort(penalty_base_s=60, **OFF)
    until_refused(server, MALLORY, break_framing, 25)
    lines = len(server.log)
    for _ in range(300):
        is_let_in(server, MALLORY)
    assert len(server.log) - lines <= 3


def replies(peer: Peer, count: int) -> list[dict[str, Any]]:
    """The next so many answers of the server."""
    read = (json.loads(peer.read_message()) for _ in itertools.count())
    return list(itertools.islice((each for each in read if "id" in each), count))


def test_many_connections_of_an_address_send_no_more_than_one_may(fort):
    """A limit for each connection is none for who makes ten of them; a neighbour has its own."""
    server = fort(
        messages_per_second_per_address=50, rate_burst_s=1.0, penalty_threshold=0, errors_burst=10_000
    )
    said = b'{"type":"ping","id":1}'
    pongs = refused = 0
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(server, source=MALLORY)) for _ in range(10)]
        for number, peer in enumerate(peers):
            peer.upgrade(f"/ws/mallory-{number % 3}")
        for peer in peers:
            peer.send(message(said) * 20)
        for peer in peers:
            answers = replies(peer, 20)
            pongs += sum(each["type"] == "pong" for each in answers)
            refused += sum(
                each["content"].get("limit") == "messages_per_second_per_address" for each in answers
            )
        assert pongs + refused == 200
        assert 50 <= pongs < 100  # what may come at once, and what came due while we sent
        with Peer(server, source=NEIGHBOUR) as neighbour:
            neighbour.upgrade("/ws/neighbour").send(message(said) * 20)
            assert all(each["type"] == "pong" for each in replies(neighbour, 20))
