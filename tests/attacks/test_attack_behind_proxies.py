"""Abuse through a trusted proxy: it counts against the client that is named, and never against the proxy.

The proxy is another loopback address; whom it speaks for it says by a PROXY header, or in X-Forwarded-For. So
addresses of IPv6 can rotate as an attacker's would.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.test_attack_addresses import OFF, counted
from tests.attacks.wire import TEXT, Peer, frame, upgrade_request
from tests.conftest import Server

PROXY = "127.0.0.10"
Ask = Callable[[Server, str], Peer]


@pytest.fixture
def behind(serve: Callable[..., Server], tmp_path: Path) -> Callable[..., Server]:
    """Start a server that trusts PROXY, by the network section that is given."""

    def start(network: str, **settings: object) -> Server:
        path = tmp_path / "policy.toml"
        path.write_text(f'[network]\ntrusted_proxies = ["{PROXY}"]\n{network}\n')
        settings = {"exempt_addresses": "127.0.0.1", "penalty_base_s": 60, **OFF, **settings}
        return serve(policy_path=path, **settings)

    return start


def by_proxy_header(server: Server, client: str) -> Peer:
    """Ask for a connection for `client`, as HAProxy does."""
    family = "TCP6" if ":" in client else "TCP4"
    target = "2001:db8::80" if ":" in client else "192.0.2.80"
    head = f"PROXY {family} {client} {target} 4711 443\r\n".encode()
    return Peer(server, source=PROXY).send(head + upgrade_request())


def by_forwarded_header(server: Server, client: str) -> Peer:
    """Ask for a connection for `client`, as nginx does."""
    return Peer(server, source=PROXY).send(upgrade_request(None, f"X-Forwarded-For: {client}"))


WAYS: dict[str, tuple[str, Ask]] = {
    "proxy-protocol": ('proxy_protocol = "required"', by_proxy_header),
    "x-forwarded-for": ('proxy_header = "x-forwarded-for"', by_forwarded_header),
}


def status(server: Server, ask: Ask, client: str) -> int:
    with ask(server, client) as peer:
        return peer.read_response().status


def break_framing(server: Server, ask: Ask, client: str) -> None:
    with ask(server, client) as peer:
        assert peer.read_response().status == 101
        assert peer.send(frame(TEXT, b"\xff")).read_close() == 1007


@pytest.mark.parametrize("way", WAYS)
def test_the_client_is_kept_out_and_the_proxy_and_its_other_clients_are_not(behind, way: str):
    network, ask = WAYS[way]
    server = behind(network)
    offences = 0
    while status(server, ask, "192.0.2.66") == 101:
        break_framing(server, ask, "192.0.2.66")
        offences += 1
        assert offences < 25, "still let in"
    assert offences >= 4
    assert status(server, ask, "192.0.2.66") == 403
    assert status(server, ask, "192.0.2.67") == 101
    assert counted_from_here(server, way, 'address_refusals_total{reason="penalty"}') >= 2


@pytest.mark.parametrize("way", WAYS)
def test_rotating_through_a_64_gains_nothing(behind, way: str):
    network, ask = WAYS[way]
    server = behind(network)
    for number in range(25):
        client = f"2001:db8:bad:1::{number + 1:x}"
        if status(server, ask, client) == 403:
            break
        break_framing(server, ask, client)
    else:
        raise AssertionError("still let in, under the 25th address")
    assert status(server, ask, "2001:db8:bad:1:ffff:ffff:ffff:ffff") == 403
    assert status(server, ask, "2001:db8:bad:2::1") == 101


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_of_an_address_is_the_clients_and_not_the_proxys(behind, way: str):
    network, ask = WAYS[way]
    server = behind(network, max_connections_per_address=3)
    held = [ask(server, "192.0.2.66") for _ in range(3)]
    assert [peer.read_response().status for peer in held] == [101] * 3
    assert status(server, ask, "192.0.2.66") == 403
    others = [ask(server, f"192.0.2.{number}") for number in range(10)]
    assert [peer.read_response().status for peer in others] == [101] * 10
    for peer in (*held, *others):
        peer.socket.close()


@pytest.mark.parametrize("way", WAYS)
def test_the_limit_of_a_subnet_holds_however_many_addresses_it_has(behind, way: str):
    network, ask = WAYS[way]
    server = behind(network, max_connections_per_subnet=3)
    held = [ask(server, f"2001:db8:5:{number:x}::1") for number in range(3)]
    assert [peer.read_response().status for peer in held] == [101] * 3
    assert status(server, ask, "2001:db8:5:ffff::1") == 403
    assert status(server, ask, "2001:db8:6::1") == 101
    for peer in held:
        peer.socket.close()


def counted_from_here(server: Server, way: str, name: str) -> int:
    """A number of /metrics; where every connection has to name a client, through the proxy too."""
    if way != "proxy-protocol":
        return counted(server, name)
    request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with Peer(server, source=PROXY) as peer:
        peer.send(b"PROXY TCP4 192.0.2.1 192.0.2.80 4711 80\r\n" + request)
        lines = peer.read_response().body.decode().splitlines()
    return next(int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"realtime_{name} "))
