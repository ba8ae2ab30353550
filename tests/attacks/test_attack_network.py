"""Coming in from where nobody may: real addresses of this machine (127.0.0.0/8), a real server, its policy.

`MALLORY` is the attacker, `PROXY` the one whose word is taken; `INVENTED` is what is claimed.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.wire import DEADLINE_S, Peer, message, upgrade_request
from tests.backends.test_geo_maxmind import DATABASE
from tests.conftest import Server
from tests.edge.peer import KEY
from tests.oracles.proxyproto import SIGNATURE, v1, v2

ALICE, MALLORY, PROXY = "127.0.0.1", "127.0.0.66", "127.0.0.10"
INVENTED = "203.0.113.9"
Served = Callable[..., Server]


class From(Peer):
    """A peer that connects from an address of its choice."""

    def __init__(self, server: Server, address: str) -> None:
        self.socket = socket.create_connection(
            (server.host, server.port), timeout=DEADLINE_S, source_address=(address, 0)
        )
        self.received = b""
        self.ended = False


@pytest.fixture
def serve_policy(serve: Served, tmp_path: Path) -> Served:
    """Start a server with a policy: `serve_policy('deny = […]', ws_path=…)`; `rewrite` changes it."""

    def start(network: str, **settings: object) -> Server:
        path = tmp_path / "policy.toml"
        path.write_text(f"[network]\n{network}\n")
        # Who listens to nobody must not be listened to by the probe of this test either.
        return serve(policy_path=path, close_timeout_s=1, presence_grace_s=0, **settings)

    return start


def rewrite(server: Server, network: str) -> None:
    """Change the policy and have it read; done when the server says so."""
    Path(server.settings["policy_path"]).write_text(f"[network]\n{network}\n")
    said = len(server.log)
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reloaded|reload refused", after=said)


def outcome(server: Server, address: str, *pieces: bytes) -> str:
    """What comes of a handshake from `address`: `101`, another status, or `closed` without a word."""
    with From(server, address) as peer:
        for piece in pieces or (upgrade_request(),):
            peer.send(piece)
        while b"\r\n" not in peer.received and peer._more():
            pass
    return peer.received[9:12].decode() or "closed"


def seen_address(
    server: Server, address: str, *, proxy_header: bytes = b"", headers: tuple[str, ...] = ()
) -> str:
    """Whether the server takes the client for `INVENTED`, whom the policy denies: 403, or lets it in: 101."""
    return outcome(server, address, proxy_header + upgrade_request(None, *headers))


def metrics(server: Server, address: str = ALICE) -> dict[str, float]:
    with From(server, address) as peer:
        peer.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        lines = peer.read_to_end().decode().splitlines()
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("realtime_")}


# ---------------------------------------------------------------- lists


def test_a_denied_address_is_closed_before_it_says_anything(serve_policy: Served):
    server = serve_policy(f'deny = ["{MALLORY}", "127.0.1.0/24"]', tcp_defer_accept_s=0)
    for address in (MALLORY, "127.0.1.5"):
        with From(server, address) as peer:
            assert peer.read_to_end() == b""  # nothing was sent: it is not the answer to anything
    assert outcome(server, ALICE) == "101"
    said = metrics(server)
    assert said["realtime_arrivals_denied_total"] == 2
    assert said['realtime_address_refusals_total{reason="denied"}'] == 2
    assert said["realtime_handshakes_refused_total"] == 0


def test_plain_http_is_closed_to_a_denied_address_too(serve_policy: Served):
    server = serve_policy(f'deny = ["{MALLORY}"]')
    assert outcome(server, MALLORY, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") == "closed"
    assert outcome(server, ALICE, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n") == "200"


def test_ipv4_does_not_get_around_its_rule_over_an_ipv6_socket(serve_policy: Served):
    server = serve_policy(f'deny = ["{MALLORY}/32"]', host="::", jwt_secret=KEY)
    server.host = "127.0.0.1"
    assert outcome(server, MALLORY) == "closed"
    assert outcome(server, ALICE) == "101"


def test_a_denied_flood_leaves_the_others_served_and_nothing_behind(serve_policy: Served):
    server = serve_policy(f'deny = ["{MALLORY}"]', accepts_per_second=200)
    stop = threading.Event()
    tried = [0]

    def flood() -> None:
        while not stop.is_set():
            with socket.socket() as raw:
                raw.bind((MALLORY, 0))
                raw.settimeout(DEADLINE_S)
                raw.connect((server.host, server.port))
                raw.close()
            tried[0] += 1

    flooding = threading.Thread(target=flood)
    with From(server, ALICE) as alice:
        alice.upgrade()
        flooding.start()
        try:
            for number in range(50):
                alice.send(message(json.dumps({"type": "ping", "id": number})))
                alice.read_until('"pong"')
                assert outcome(server, ALICE) == "101"
        finally:
            stop.set()
            flooding.join()
    assert tried[0] > 100
    assert metrics(server)["realtime_connections"] <= 2


# ---------------------------------------------------------------- reload


def test_a_connection_whose_address_is_denied_now_is_closed(serve_policy: Served):
    server = serve_policy('deny = ["192.0.2.1"]')
    with From(server, MALLORY) as mallory, From(server, ALICE) as alice:
        mallory.upgrade()
        alice.upgrade()
        rewrite(server, f'deny = ["{MALLORY}"]')
        assert mallory.read_close() == 4507
        alice.send(message('{"type":"ping","id":1}')).read_until('"pong"')
    assert outcome(server, MALLORY) == "closed"
    rewrite(server, "")
    assert outcome(server, MALLORY) == "101"


def test_a_policy_that_will_not_do_leaves_the_old_one(serve_policy: Served):
    server = serve_policy(f'deny = ["{MALLORY}"]')
    rewrite(server, 'deny = ["10.0.0.1/8"]')
    server.wait_for_line(
        r"network\.deny\[0\]: '10\.0\.0\.1/8': host bits are set; the network is 10\.0\.0\.0/8"
    )
    assert outcome(server, MALLORY) == "closed"


def test_a_kept_http_connection_of_a_denied_address_ends(serve_policy: Served):
    server = serve_policy("")
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with From(server, MALLORY) as mallory:
        assert mallory.send(request).read_response().status == 200
        rewrite(server, f'deny = ["{MALLORY}"]')
        assert mallory.send(request).read_to_end() == b""


# ---------------------------------------------------------------- spoofed headers

FORWARDED = {
    "x-forwarded-for": f"X-Forwarded-For: {INVENTED}",
    "forwarded": f"Forwarded: for={INVENTED}",
    "x-real-ip": f"X-Real-IP: {INVENTED}",
}


@pytest.mark.parametrize("header", sorted(FORWARDED))
def test_a_header_is_believed_of_a_trusted_address_alone(serve_policy: Served, header: str):
    server = serve_policy(f'deny = ["{INVENTED}"]\ntrusted_proxies = ["{PROXY}"]\nproxy_header = "{header}"')
    assert seen_address(server, PROXY, headers=(FORWARDED[header],)) == "403"
    assert seen_address(server, MALLORY, headers=(FORWARDED[header],)) == "101"
    others = tuple(line for name, line in FORWARDED.items() if name != header)
    assert seen_address(server, PROXY, headers=others) == "101"  # another header is nobody's word
    assert metrics(server)['realtime_address_refusals_total{reason="denied"}'] == 1


def test_what_a_client_wrote_before_its_proxy_is_not_believed(serve_policy: Served):
    server = serve_policy(
        f'allow = ["{INVENTED}", "{ALICE}"]\ntrusted_proxies = ["{PROXY}"]\nproxy_header = "x-forwarded-for"'
    )
    for lines in (
        (f"X-Forwarded-For: {INVENTED}, 198.51.100.1",),
        (f"X-Forwarded-For: {INVENTED}", "X-Forwarded-For: 198.51.100.1"),
        (f"X-Forwarded-For: {INVENTED}, 198.51.100.1, {PROXY}",),
    ):
        assert seen_address(server, PROXY, headers=lines) == "403"
    assert seen_address(server, PROXY, headers=(f"X-Forwarded-For: 198.51.100.1, {INVENTED}",)) == "101"


@pytest.mark.parametrize(
    "value", ['for=", for=198.51.100.1', "for=nonsense", "for=1.2.3.4;for=1.2.3.5", "for"]
)
def test_a_header_that_cannot_be_read_lets_nobody_in(serve_policy: Served, value: str):
    server = serve_policy(f'trusted_proxies = ["{PROXY}"]\nproxy_header = "forwarded"')
    assert outcome(server, PROXY, upgrade_request(None, f"Forwarded: {value}")) == "400"
    assert outcome(server, MALLORY, upgrade_request(None, f"Forwarded: {value}")) == "101"


def test_the_next_request_on_a_proxys_connection_is_judged_anew(serve_policy: Served):
    server = serve_policy(
        f'deny = ["{INVENTED}"]\ntrusted_proxies = ["{PROXY}"]\nproxy_header = "x-forwarded-for"'
    )
    good, bad = (
        f"GET /health HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {each}\r\n\r\n".encode()
        for each in ("198.51.100.1", INVENTED)
    )
    with From(server, PROXY) as proxy:
        answers = proxy.send(good + bad).read_to_end()
    assert answers.count(b"HTTP/1.1 200") == 1
    assert b"Connection: close" in answers
    assert outcome(server, PROXY, bad) == "403"


# ---------------------------------------------------------------- PROXY headers


@pytest.mark.parametrize("header", [v1(INVENTED), v2(INVENTED), v2(INVENTED, checksum=True)])
def test_a_proxy_header_is_believed_of_a_trusted_address_alone(serve_policy: Served, header: bytes):
    server = serve_policy(
        f'deny = ["{INVENTED}"]\ntrusted_proxies = ["{PROXY}"]\nproxy_protocol = "optional"'
    )
    assert seen_address(server, PROXY, proxy_header=header) == "403"
    assert seen_address(server, MALLORY, proxy_header=header) == "400"
    assert seen_address(server, MALLORY) == "101"
    assert seen_address(server, PROXY) == "101"
    assert outcome(server, PROXY, header + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == "403"


def test_a_denied_address_does_not_get_in_by_claiming_another(serve_policy: Served):
    server = serve_policy(
        f'deny = ["{MALLORY}"]\ntrusted_proxies = ["{PROXY}"]\n'
        'proxy_protocol = "optional"\nproxy_header = "forwarded"'
    )
    for first in (v1(INVENTED), v2(INVENTED), b""):
        assert outcome(server, MALLORY, first + upgrade_request(None, f"Forwarded: for={ALICE}")) == "closed"


def test_where_it_is_required_nobody_comes_in_beside_the_proxy(serve_policy: Served):
    server = serve_policy(f'trusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"', admin_port=0)
    assert outcome(server, MALLORY) == "closed"
    assert outcome(server, MALLORY, v1(ALICE) + upgrade_request()) == "closed"
    assert outcome(server, PROXY) == "400"
    for header in (v1("198.51.100.1"), v2("2001:db8::1"), v2(command=0x20)):
        assert outcome(server, PROXY, header + upgrade_request()) == "101"


@pytest.mark.parametrize(
    "first",
    [
        b"PROXY " + b"x" * 4096,
        b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n",
        SIGNATURE[:-1] + b"\r" + b"\x21\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(65535),
        SIGNATURE + b"\x21\x11\x00\x0f" + bytes(12) + b"\x03\x00\x04",
        v2(INVENTED, attached=[(3, b"\0\0\0\1")]),
        SIGNATURE * 400,
    ],
)
def test_a_broken_header_of_the_proxy_itself_is_refused(serve_policy: Served, first: bytes):
    server = serve_policy(f'trusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"')
    assert outcome(server, PROXY, first + upgrade_request()) == "400"
    assert outcome(server, PROXY, v1(INVENTED) + upgrade_request()) == "101"


@pytest.mark.parametrize("defer_s", [0, 5])
@pytest.mark.parametrize("header", [v1(INVENTED), v2(INVENTED, attached=[(4, bytes(40))])])
def test_a_header_that_comes_byte_by_byte_is_read(serve_policy: Served, header: bytes, defer_s: int):
    server = serve_policy(
        f'trusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"', tcp_defer_accept_s=defer_s
    )
    with From(server, PROXY) as peer:
        peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for each in header + upgrade_request():
            peer.send(bytes([each]))
        assert peer.read_response().status == 101


def test_a_header_that_never_ends_is_timed_out(serve_policy: Served):
    server = serve_policy(
        f'trusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"',
        handshake_timeout_s=1,
        tcp_defer_accept_s=0,
    )
    peers = [From(server, PROXY) for _ in range(20)]
    for peer in peers:
        peer.send(v2(INVENTED)[:20])
    for peer in peers:
        assert b" 408 " in peer.read_to_end()
        peer.socket.close()


# ---------------------------------------------------------------- countries, origins


def test_a_country_is_refused_behind_a_proxy(serve_policy: Served):
    server = serve_policy(
        f'trusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"\n'
        f'geo_database = "{DATABASE}"\ncountries_deny = ["JP"]'
    )
    assert outcome(server, PROXY, v2("2001:218::1") + upgrade_request()) == "403"
    assert outcome(server, PROXY, v1("89.160.20.112") + upgrade_request()) == "101"


@pytest.mark.parametrize(("failure", "expected"), [("closed", "closed"), ("open", "101")])
def test_without_its_database_the_server_fails_as_configured(
    serve_policy: Served, failure: str, expected: str, tmp_path: Path
):
    database = tmp_path / "countries.mmdb"
    database.write_bytes(DATABASE.read_bytes()[:3000])
    rules = f'geo_database = "{database}"\ngeo_failure = "{failure}"\ncountries_deny = ["JP"]'
    server = serve_policy(rules)
    server.wait_for_line(f"geo_database: .*broken one; geo_failure is {failure}")
    assert outcome(server, ALICE) == expected
    database.write_bytes(DATABASE.read_bytes())
    rewrite(server, rules)
    assert outcome(server, ALICE) == "101"
    assert metrics(server)["realtime_geo_ok"] == 1
    database.write_bytes(b"broken again")
    rewrite(server, rules)
    server.wait_for_line("reload refused.*geo_database")
    assert outcome(server, ALICE) == "101"
    assert metrics(server)["realtime_geo_ok"] == 1


def test_a_page_of_another_origin_may_not_connect(serve_policy: Served):
    server = serve_policy('origins = ["https://*.example.com"]', allowed_origins="https://app.example")
    for origin, status in (
        *(("https://app.example", "101"), ("https://a.b.example.com", "101")),
        *(("https://example.com", "403"), ("https://x.example.com.evil", "403"), ("null", "403")),
    ):
        assert outcome(server, ALICE, upgrade_request(None, f"Origin: {origin}")) == status, origin
    assert outcome(server, ALICE) == "403"
    rewrite(server, 'origins = ["https://new.example"]\norigin_missing = "allow"')
    assert outcome(server, ALICE, upgrade_request(None, "Origin: https://new.example")) == "101"
    assert outcome(server, ALICE, upgrade_request(None, "Origin: https://a.b.example.com")) == "403"
    assert outcome(server, ALICE) == "101"
