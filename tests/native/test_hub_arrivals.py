"""Who may come in by their address: asked before anything is made for a socket, told once when it is gone."""

import socket
from collections import Counter

import pytest

from realtime.native.address import pack, unpack
from tests.native.test_hub import Host

HERE = pack("127.0.0.1")


@pytest.fixture
def asked() -> Counter[bytes]:
    return Counter()


@pytest.fixture
def departed() -> Counter[bytes]:
    return Counter()


def host_that_answers(answer, asked, departed, **limits):
    def on_arrival(address):
        asked[address] += 1
        return answer(address)

    return Host(on_arrival=on_arrival, on_departure=lambda address: departed.update([address]), **limits)


def was_reset(peer: socket.socket) -> bool:
    try:
        return peer.recv(1) == b"never"
    except ConnectionResetError:
        return True


def test_who_is_welcome_comes_in_and_is_told_of_once_when_gone(asked, departed):
    host = host_that_answers(lambda address: True, asked, departed)
    client = host.client()
    assert client.head.startswith(b"HTTP/1.1 101")
    assert asked == {HERE: 1}
    assert not departed
    client.socket.close()
    host.until(lambda: host.closed)
    assert departed == {HERE: 1}


def test_who_is_not_is_reset_before_anything_is_made_for_it(asked, departed):
    host = host_that_answers(lambda address: False, asked, departed)
    peer = socket.create_connection(host.listener.getsockname())
    peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    host.until(lambda: asked[HERE] == 1)
    peer.settimeout(60)
    assert was_reset(peer)
    stats = host.hub.stats()
    assert (stats["denied_arrivals"], stats["accepted"], stats["connections"]) == (1, 0, 0)
    assert not departed
    assert not host.handed_over


def test_a_guard_that_fails_lets_nobody_in(asked, departed, caplog):
    host = host_that_answers(lambda address: 1 / 0, asked, departed)
    peer = socket.create_connection(host.listener.getsockname())
    host.until(lambda: host.hub.stats()["denied_arrivals"] == 1)
    peer.settimeout(60)
    assert was_reset(peer)
    assert "on_arrival of 127.0.0.1" in caplog.text


def test_a_connection_that_is_handed_over_has_left_the_hub(asked, departed):
    host = host_that_answers(lambda address: True, asked, departed)
    peer = socket.create_connection(host.listener.getsockname())
    peer.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    host.until(lambda: host.handed_over)
    host.until(lambda: departed == {HERE: 1})
    fd, _, remote, _ = host.handed_over[0]
    assert remote == "{}:{}".format(*peer.getsockname())
    socket.socket(fileno=fd).close()


def test_who_comes_while_nobody_counts_is_not_told_of(asked, departed):
    host = Host()
    client = host.client()
    host.hub.guard(None, lambda address: departed.update([address]))
    later = host.client()
    for each in (client, later):
        each.socket.close()
    host.until(lambda: len(host.closed) == 2)
    assert departed == {HERE: 1}


def test_a_flood_from_nowhere_uses_up_nobodys_accept_rate(asked, departed):
    denied = 50
    host = host_that_answers(
        lambda address: asked[address] > denied, asked, departed, accepts_per_second=1.0, accepts_burst=1.0
    )
    peers = [socket.create_connection(host.listener.getsockname()) for _ in range(denied)]
    host.until(lambda: host.hub.stats()["denied_arrivals"] == denied)
    assert host.client().head.startswith(b"HTTP/1.1 101")
    assert host.hub.stats()["accept_rests"] == 0
    for peer in peers:
        peer.close()


def test_ipv4_over_a_socket_of_both_families_is_ipv4(asked):
    listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    host = host_that_answers(lambda address: False, asked, Counter())
    host.hub.stop_listening()
    host.hub.listen(listener.fileno())
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("::1", port)):
        host.until(lambda: asked.total() == 2)
    assert set(asked) == {HERE, pack("::1")}


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:c000:201", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
    ],
)
def test_an_address_is_packed_in_one_form(text: str, packed: bytes):
    assert pack(text) == packed


@pytest.mark.parametrize(
    "text", ["", "127.1", "010.0.0.1", "1.2.3.4.5", "fe80::1%eth0", "1.2.3.4\0", "::g", "a" * 400, "1.2.3.4 "]
)
def test_what_is_no_address_is_not_packed(text: str):
    assert pack(text) is None


def test_packed_addresses_read_back():
    assert [unpack(pack(text)) for text in ("192.0.2.1", "2001:db8::1")] == ["192.0.2.1", "2001:db8::1"]
    with pytest.raises(ValueError, match="4 or 16 bytes, not 5"):
        unpack(b"12345")
