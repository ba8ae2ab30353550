"""Whose word about addresses is taken: PROXY headers and request headers of trusted peers, nobody else's."""

import socket

import pytest

from realtime.native.address import pack, unpack
from realtime.native.cidr import CidrList, CidrTable
from tests.native.test_hub import UPGRADE, Client, Host
from tests.oracles.proxyproto import v1, v2

HERE = "127.0.0.1"
HANDSHAKE = UPGRADE % b"/a"


def networks(*texts: str) -> CidrTable:
    found = CidrList()
    for text in texts:
        found.add(text, 1)
    return found.table()


class Door(Host):
    """A host that trusts `trusted`, and remembers whom it was asked about."""

    def __init__(self, *trusted: str, denied: tuple[str, ...] = (), **how: object) -> None:
        self.asked: list[str] = []
        self.gone: list[str] = []
        self.untrusted: list[tuple[str, str]] = []
        self.denied = denied
        super().__init__(
            on_arrival=self.arrive,
            on_departure=lambda each: self.gone.append(unpack(each)),
            close_timeout_s=0.1,
        )
        self.addresses: list[str] = []
        accept = self.answer
        self.answer = lambda shake: (self.addresses.append(shake.address), accept(shake))[1]
        self.hub.trust(
            networks(*trusted),
            on_untrusted=lambda each, why: self.untrusted.append((unpack(each), why)),
            **how,
        )

    def arrive(self, address: bytes) -> bool:
        self.asked.append(unpack(address))
        return self.asked[-1] not in self.denied

    def answered(self, *pieces: bytes) -> bytes:
        """The first line of the answer to a request in pieces, each read before the next is sent."""
        with socket.create_connection(self.listener.getsockname()) as peer:
            for piece in pieces:
                seen = self.hub.stats()["bytes_in"]
                peer.sendall(piece)
                self.until(lambda seen=seen: self.hub.stats()["bytes_in"] > seen or self.untrusted)
            peer.setblocking(False)
            got = [b""]

            def came() -> bool:
                try:
                    got[0] += peer.recv(4096)
                except BlockingIOError:
                    return False
                except ConnectionResetError:
                    got[0] += b"reset\r\n"
                return True

            self.until(came)
        return got[0].partition(b"\r\n")[0]


def first_of(values: str):
    """A stand-in for the reading of a header: the client is the first that it names."""
    return pack(values.split(",")[0])


@pytest.mark.parametrize("mode", ["optional", "required"])
@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("203.0.113.9"), v2("2001:db8::9", checksum=True)])
def test_a_trusted_peer_says_whose_connection_it_is(mode: str, header: bytes):
    door = Door(HERE, proxy_protocol=mode)
    client = "2001:db8::9" if b"\x21\x21" in header else "203.0.113.9"
    assert door.answered(header + HANDSHAKE) == b"HTTP/1.1 101 Switching Protocols"
    assert (door.asked, door.addresses) == ([client], [client])
    door.until(lambda: door.gone == [client])


@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("203.0.113.9", attached=[(4, bytes(300))])])
def test_a_header_may_come_byte_by_byte(header: bytes):
    door = Door(HERE, proxy_protocol="required")
    pieces = [bytes([each]) for each in header + HANDSHAKE]
    assert door.answered(*pieces) == b"HTTP/1.1 101 Switching Protocols"
    assert door.addresses == ["203.0.113.9"]


@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("203.0.113.9")])
def test_a_header_may_come_in_any_two_pieces(header: bytes):
    door = Door(HERE, proxy_protocol="optional")
    whole = header + HANDSHAKE
    for n in range(1, len(header) + 2):
        assert door.answered(whole[:n], whole[n:]) == b"HTTP/1.1 101 Switching Protocols"
    assert set(door.addresses) == {"203.0.113.9"}


@pytest.mark.parametrize("header", [v2(command=0x20), v2(), b"PROXY UNKNOWN\r\n"])
def test_a_proxy_that_speaks_for_itself_is_judged_as_itself(header: bytes):
    door = Door(HERE, proxy_protocol="required")
    assert door.answered(header + HANDSHAKE) == b"HTTP/1.1 101 Switching Protocols"
    assert door.asked == [HERE]


def test_where_it_is_optional_a_trusted_peer_may_leave_it_out():
    door = Door(HERE, proxy_protocol="optional")
    assert door.answered(HANDSHAKE) == b"HTTP/1.1 101 Switching Protocols"
    assert door.asked == [HERE]


@pytest.mark.parametrize("header", [v1("203.0.113.9"), v2("203.0.113.9")])
@pytest.mark.parametrize("mode", ["off", "optional"])
def test_a_header_of_anybody_else_is_a_bad_request(mode: str, header: bytes):
    door = Door("192.0.2.0/24", proxy_protocol=mode)
    assert door.answered(header + HANDSHAKE).startswith(b"HTTP/1.1 400 ")
    assert door.asked == [HERE]
    assert not door.addresses


def test_a_trusted_peer_has_no_say_while_it_is_off():
    door = Door(HERE, proxy_protocol="off")
    assert door.answered(v1("203.0.113.9") + HANDSHAKE).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("first", [v1("203.0.113.9"), HANDSHAKE])
def test_where_it_is_required_nobody_else_comes_in(first: bytes):
    door = Door("192.0.2.0/24", proxy_protocol="required")
    assert door.answered(first) in (b"reset", b"")
    assert door.untrusted == [(HERE, "not_a_proxy")]
    assert door.hub.stats()["accepted"] == 0


@pytest.mark.parametrize(
    "first",
    [
        HANDSHAKE,
        b"PROXY TCP4 1.2.3 4.5.6.7 1 2\r\n" + HANDSHAKE,
        b"PROXY " + b"x" * 200,
        v2("203.0.113.9").replace(b"QUIT", b"QUIX") + HANDSHAKE,
        v2("203.0.113.9", attached=[(3, b"nope")]) + HANDSHAKE,
        v2("203.0.113.9")[:14] + b"\xff\xff",
    ],
)
def test_where_it_is_required_what_is_none_is_refused(first: bytes):
    door = Door(HERE, proxy_protocol="required")
    assert door.answered(first).startswith(b"HTTP/1.1 400 ")
    assert door.untrusted == [(HERE, "proxy_header")]
    assert not door.addresses


def test_a_header_that_never_ends_meets_the_handshakes_deadline():
    door = Host(handshake_timeout_s=0.1)
    door.hub.trust(networks(HERE), proxy_protocol="required")
    slow = Client(door, b"", head=v1("203.0.113.9")[:20])
    door.until(slow.read_head)
    assert slow.head.startswith(b"HTTP/1.1 408 ")


def test_who_is_not_welcome_behind_a_proxy_is_told_so():
    door = Door(HERE, denied=("203.0.113.9",), proxy_protocol="required")
    assert door.answered(v1("203.0.113.9") + HANDSHAKE) == b"HTTP/1.1 403 Forbidden"
    door.until(lambda: door.hub.stats()["connections"] == 0)
    assert (door.asked, door.gone, door.addresses) == (["203.0.113.9"], [], [])


def test_a_request_that_is_no_upgrade_leaves_with_the_clients_address():
    door = Door(HERE, proxy_protocol="required")
    with socket.create_connection(door.listener.getsockname()) as peer:
        peer.sendall(v2("2001:db8::9", 7) + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        door.until(lambda: door.handed_over)
    fd, received, remote, forwarded = door.handed_over[0]
    socket.socket(fileno=fd).close()
    assert (remote, forwarded) == ("[2001:db8::9]:7", False)
    assert received.startswith(b"GET /health")


def with_header(value: str) -> bytes:
    return HANDSHAKE[:-2] + f"X-Forwarded-For: {value}\r\n\r\n".encode()


def test_a_trusted_peers_request_says_whose_it_is():
    said: list[tuple[bytes, str]] = []
    door = Door(
        HERE,
        forwarded_header="x-forwarded-for",
        on_forwarded=lambda *each: said.append(each) or first_of(each[1]),
    )
    assert door.answered(with_header("203.0.113.9")) == b"HTTP/1.1 101 Switching Protocols"
    assert said == [(pack(HERE), "203.0.113.9")]
    assert (door.asked, door.addresses) == (["203.0.113.9"], ["203.0.113.9"])


def test_anybody_elses_is_not_looked_at():
    door = Door("192.0.2.0/24", forwarded_header="x-forwarded-for", on_forwarded=lambda *each: 1 / 0)
    assert door.answered(with_header("203.0.113.9")) == b"HTTP/1.1 101 Switching Protocols"
    assert (door.asked, door.addresses) == ([HERE], [HERE])


def test_without_the_header_it_is_the_proxys_own():
    door = Door(HERE, forwarded_header="x-forwarded-for", on_forwarded=lambda *each: 1 / 0)
    assert door.answered(HANDSHAKE) == b"HTTP/1.1 101 Switching Protocols"
    assert door.addresses == [HERE]


@pytest.mark.parametrize(
    "read", [lambda *each: None, lambda *each: 1 / 0, lambda *each: b"12345", lambda *each: "x"]
)
def test_a_header_that_cannot_be_read_lets_nobody_in(read):
    door = Door(HERE, forwarded_header="x-forwarded-for", on_forwarded=read)
    assert door.answered(with_header("203.0.113.9")).startswith(b"HTTP/1.1 400 ")
    assert door.untrusted == [(HERE, "forwarded_header")]
    assert not door.asked


def test_behind_a_proxy_of_each_kind_the_last_word_is_the_requests():
    door = Door(
        HERE,
        "198.51.100.0/24",
        proxy_protocol="required",
        forwarded_header="x-forwarded-for",
        on_forwarded=lambda address, value: first_of(value),
    )
    assert door.answered(v1("198.51.100.7") + with_header("203.0.113.9")).startswith(b"HTTP/1.1 101 ")
    assert door.answered(v1("192.0.2.7") + with_header("203.0.113.9")).startswith(b"HTTP/1.1 101 ")
    assert door.addresses == ["203.0.113.9", "192.0.2.7"]


def test_plain_http_whose_address_the_request_said_is_marked():
    door = Door(HERE, forwarded_header="x-forwarded-for", on_forwarded=lambda address, value: first_of(value))
    with socket.create_connection(door.listener.getsockname()) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n")
        door.until(lambda: door.handed_over)
    fd, _, remote, forwarded = door.handed_over[0]
    socket.socket(fileno=fd).close()
    assert (remote, forwarded) == ("203.0.113.9:0", True)


def test_a_review_closes_who_is_not_welcome_any_more_in_slices():
    door = Door(HERE, proxy_protocol="required")
    clients = []
    for number in range(20):
        head = v1(f"203.0.113.{number}") + UPGRADE % b"/%d" % number
        clients.append(Client(door, b"", head=head))
        door.until(clients[-1].read_head)
    idle = socket.create_connection(door.listener.getsockname())
    idle.sendall(v1("203.0.113.1"))
    door.until(lambda: len(door.asked) == 21)
    cursor, slices = 1 << 30, 0
    while cursor:
        cursor = door.hub.review(
            lambda address: address[3] % 2 == 0, cursor=cursor, count=4, code=4507, reason=b"{}"
        )
        slices += 1
        door.turn()
    assert slices == 6
    for number, client in enumerate(clients):
        if number % 2:
            door.until(lambda client=client: client.read() or client.frames)
            assert client.frames == [(0x88, (4507).to_bytes(2, "big") + b"{}")]
        else:
            client.read()
            assert not client.frames
    idle.settimeout(60)
    with pytest.raises(ConnectionResetError):
        idle.recv(1)


def test_unknown_modes_are_named():
    with pytest.raises(ValueError, match="proxy_protocol is 'on': off, optional, required"):
        Host().hub.trust(None, proxy_protocol="on")
