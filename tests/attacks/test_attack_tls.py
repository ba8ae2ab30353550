"""Attacks on the TLS listener itself: before, during and instead of its handshake."""

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.attacks.conftest import OverTls
from tests.attacks.wire import PING, PONG, TEXT, Bystander, Peer, frame, resident_mb, upgrade_request
from tests.certificates import Authority
from tests.conftest import Server
from tests.edge.peer import metric
from tests.ports import free_port

# A TLS 1.2 ClientHello's first bytes: a record of 512 bytes, of which nothing more ever comes.
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
PROTOCOL_ERROR = 1002


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def fortified(serve: Callable[..., Server], authority: Authority) -> Callable[..., tuple[Server, OverTls]]:
    """A server with TLS: by its plain port, and by its TLS port."""

    def start(**settings: object) -> tuple[Server, OverTls]:
        server = serve(**{"tls_port": free_port(), **authority.sign().settings(), **settings})
        return server, OverTls(server, authority.trusting())

    return start


def connect(target: OverTls) -> socket.socket:
    """A TCP connection to the TLS port that says nothing yet."""
    return socket.create_connection((target.host, target.port), timeout=60)


def ended(raw: socket.socket) -> bool:
    """Wait until the server has closed; an alert before it may come."""
    with contextlib.suppress(ConnectionResetError):
        while raw.recv(4096):
            pass
    return True


@pytest.mark.parametrize("said", [b"", HALF_A_HELLO], ids=["nothing", "half-a-hello"])
@pytest.mark.alone
def test_a_slow_tls_handshake_is_cut_in_time(fortified, said: bytes):
    server, target = fortified(handshake_timeout_s=0.5, tcp_defer_accept_s=0)
    with connect(target) as slow:
        slow.sendall(said)
        assert ended(slow)
    assert metric(server, "handshake_timeouts_total") == 1
    assert metric(server, "tls_arrivals") == 0


@pytest.mark.alone
def test_a_request_that_never_ends_has_the_deadline_of_its_handshake(fortified):
    server, target = fortified(handshake_timeout_s=0.5)
    with Peer(target) as peer:
        assert peer.send(b"GET / HTTP/1.1\r\nHost:").read_response().status == 408
        assert peer.read_to_end() == b""
    assert metric(server, "handshake_timeouts_total") == 1


def test_stalled_handshakes_do_not_keep_others_out(fortified):
    """Twice as many as there is room for: the oldest go, and whoever is honest comes in at once."""
    server, target = fortified(tls_arrivals_max=20, handshake_timeout_s=60, tcp_defer_accept_s=0)
    stalled = [connect(target) for _ in range(40)]
    for each in stalled:
        each.sendall(HALF_A_HELLO)
    with Bystander(target) as honest:
        honest.is_served()
    assert ended(stalled[0])
    assert metric(server, "tls_crowded_out_total") >= 20
    assert metric(server, "tls_arrivals") <= 20
    for each in stalled:
        each.close()


def test_a_flood_of_handshakes_waits_in_the_backlog_and_starves_nobody(fortified):
    """Each costs a signature: what is over the rate is left to the kernel, and the others are served."""
    server, target = fortified(tls_handshakes_per_second=10, rate_burst_s=0.5, tcp_defer_accept_s=0)
    with Bystander(server) as plain, Bystander(target) as secure:
        flood = [connect(target) for _ in range(200)]
        for each in flood:
            each.sendall(HALF_A_HELLO)
        for _ in range(20):
            plain.is_served()
            secure.is_served()
        assert metric(server, "tls_arrivals") < 50
        assert metric(server, "accept_rests_total") > 0
        for each in flood:
            each.close()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        upgrade_request(),
        b"\x80\x2e\x01\x03\x01" + bytes(80),  # SSL 2.0
        b"\x16\x03\x01\xff\xff" + bytes(70_000),  # a record over any length
        b"\x17\x03\x03\x00\x10" + bytes(16),  # data before a handshake
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert instead of one
        bytes(range(256)) * 20,
    ],
    ids=["http", "websocket", "ssl2", "long-record", "early-data", "alert", "rubbish"],
)
def test_what_is_no_tls_is_closed_at_once(fortified, said: bytes):
    server, target = fortified(handshake_timeout_s=60)
    with connect(target) as raw:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            raw.sendall(said)
        assert ended(raw)
    with Bystander(target) as honest:
        honest.is_served()
    assert metric(server, "tls_handshake_failures_total") == 1


def refused_as(target: OverTls, terms: ssl.SSLContext) -> None:
    """The handshake fails under these terms, which the client's own library allows."""
    terms.check_hostname, terms.verify_mode = False, ssl.CERT_NONE
    with connect(target) as raw, contextlib.suppress(ssl.SSLError, ConnectionResetError):
        tunnel = terms.wrap_socket(raw, server_hostname="localhost")
        # In TLS 1.3 a client may speak before it hears that it is refused; what it hears is the end.
        tunnel.sendall(upgrade_request())
        assert tunnel.recv(1) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_versions_that_were_broken_are_not_spoken(fortified, newest: ssl.TLSVersion):
    _, target = fortified()
    terms = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    terms.set_ciphers("ALL:@SECLEVEL=0")
    terms.minimum_version = terms.maximum_version = newest
    refused_as(target, terms)


@pytest.mark.parametrize("ciphers", ["ECDHE+AES:!AESGCM:!AESCCM", "kRSA", "aNULL", "eNULL"])
def test_ciphers_without_forward_secrecy_or_authentication_are_not_spoken(fortified, ciphers: str):
    _, target = fortified()
    terms = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    terms.maximum_version = ssl.TLSVersion.TLSv1_2
    terms.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    refused_as(target, terms)


def test_tls_1_2_is_not_spoken_where_1_3_is_the_least(fortified):
    _, target = fortified(tls_min_version="1.3")
    with Bystander(target) as honest:
        assert honest.socket.version() == "TLSv1.3"
    terms = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    terms.maximum_version = ssl.TLSVersion.TLSv1_2
    refused_as(target, terms)


def test_a_client_cannot_make_the_server_renegotiate(fortified):
    """Each renegotiation would be a signature of the server for a packet of the client (CVE-2011-1473)."""
    _, target = fortified()
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"{target.host}:{target.port}"]
    said = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20, check=False)
    assert b"RENEGOTIATING" in said.stdout + said.stderr
    assert b"no renegotiation" in said.stdout + said.stderr
    with Bystander(target) as honest:
        honest.is_served()


def test_without_a_certificate_of_the_authority_nobody_comes_in(fortified, authority: Authority, tmp_path):
    server, target = fortified(tls_client_ca=str(authority.certificate))
    stranger = Authority(tmp_path, "stranger").sign("stranger")
    for terms in (authority.trusting(), authority.trusting(stranger)):
        refused_as(target, terms)
    target.tls = authority.trusting(authority.sign("machine"))
    with Bystander(target) as known:
        known.is_served()
    assert metric(server, "handshakes_total") == 1


def test_nothing_is_compressed_under_tls(fortified):
    """What is compressed tells by its length what is in it (CRIME): neither TLS nor messages are."""
    _, target = fortified(compression=True)
    with Peer(target) as peer:
        assert peer.socket.compression() is None
        offer = "Sec-WebSocket-Extensions: permessage-deflate"
        answer = peer.send(upgrade_request(None, offer)).read_response()
        assert (answer.status, answer.header("Sec-WebSocket-Extensions")) == (101, None)
        assert peer.send(frame(TEXT, b"\xaaV*\x01\x00", rsv=4)).read_close() == PROTOCOL_ERROR


def test_whoever_comes_when_it_is_full_costs_no_handshake(fortified):
    server, target = fortified(max_connections=2)
    with Bystander(target) as one, Bystander(target) as two:
        with connect(target) as third:
            third.sendall(HALF_A_HELLO)
            assert ended(third)
        assert metric(server, "connections_refused_total") == 1
        assert metric(server, "tls_handshake_failures_total") == 0
        one.is_served()
        two.is_served()


def test_a_peer_that_ends_tcp_within_a_record_leaves_nothing_behind(fortified):
    server, target = fortified(close_timeout_s=0.5)
    before = resident_mb(server.pid)
    for _ in range(200):
        raw = connect(target)
        tunnel = target.tls.wrap_socket(raw, server_hostname="localhost")
        tunnel.sendall(upgrade_request())
        tunnel.recv(4096)
        again = socket.socket(fileno=tunnel.detach())
        again.sendall(b"\x17\x03\x03\x00\x40" + bytes(20))  # 20 bytes of 64
        again.close()
    with Bystander(target) as honest:
        honest.is_served()
        deadline = time.monotonic() + 5
        while metric(server, "connections") > 1:
            assert time.monotonic() < deadline, "connections that are gone are still counted"
    assert resident_mb(server.pid) < before + 24


def test_a_flood_of_pings_over_tls_is_closed(fortified):
    server, target = fortified(control_frames_per_second=10)
    with Peer(target).upgrade() as peer:
        assert peer.send(frame(PING, b"p") * 100).read_close() == 4509
    assert metric(server, "rate_limited_total") == 1


def test_who_offends_by_tls_is_kept_out_of_both_ports(fortified):
    """Ten broken frames are an offender: then its address is refused before TLS, and on the plain port."""
    kept_out = {"penalty_threshold": 50, "penalty_half_life_s": 3600, "penalty_base_s": 600}
    server, target = fortified(tcp_defer_accept_s=0, exempt_addresses="127.0.0.1", **kept_out)
    for _ in range(6):
        with contextlib.suppress(ssl.SSLError, OSError), From(target, MALLORY) as peer:
            peer.upgrade().send(frame(3)).read_close()
    while not metric(server, "penalties_total"):  # one may have ended before it could offend
        with contextlib.suppress(ssl.SSLError, OSError), From(target, MALLORY) as peer:
            peer.upgrade().send(frame(3)).read_close()
    for port in (target.port, server.port):
        try:
            with socket.create_connection((server.host, port), 60, source_address=(MALLORY, 0)) as raw:
                assert ended(raw)
        except ConnectionResetError:
            pass  # it was accepted and ended before connect() had looked
    with Bystander(target) as other:
        other.is_served()


def test_a_ping_between_fragments_is_answered_before_the_message(fortified):
    _, target = fortified(echo_path="/echo")
    with Peer(target).upgrade("/echo") as peer:
        peer.send(frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(0, b"b"))
        assert [peer.read_frame().payload for _ in range(2)] == [b"p", b"ab"]


def test_pongs_that_nobody_reads_do_not_pile_up(fortified):
    """Who pings and reads nothing has some pongs waiting, not one for each."""
    server, target = fortified(control_frames_per_second=0)
    before = resident_mb(server.pid)
    with Peer(target, receive_buffer_bytes=4096).upgrade() as peer, Bystander(target) as other:
        flood = frame(PING, b"p" * 125) * 50_000
        peer.push(flood)
        other.is_served()
        assert resident_mb(server.pid) < before + 16
    with Peer(target).upgrade() as peer:
        peer.read_until('"connected"')
        peer.send(frame(PING, b"last"))
        assert (answer := peer.read_frame()) is not None
        assert (answer.opcode, answer.payload) == (PONG, b"last")


# -- addresses

MALLORY, PROXY = "127.0.0.66", "127.0.0.10"


class From(Peer):
    """A TLS client from an address of its choice."""

    def __init__(self, target: OverTls, source: str) -> None:
        raw = socket.create_connection((target.host, target.port), 5, source_address=(source, 0))
        self.socket = target.tls.wrap_socket(raw, server_hostname="localhost")
        self.received = b""
        self.ended = False


def test_rules_about_addresses_hold_before_tls_and_on_a_reload(fortified, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[network]\ndeny = ["{MALLORY}"]\n')
    server, target = fortified(policy_path=policy, tcp_defer_accept_s=0)
    raw = socket.create_connection((target.host, target.port), 5, source_address=(MALLORY, 0))
    with raw:
        assert ended(raw)  # without a word, and without waiting for one
    assert metric(server, "tls_handshake_failures_total") == 0
    with From(target, PROXY) as there, Bystander(target) as other:
        there.upgrade().read_until('"connected"')
        policy.write_text(f'[network]\ndeny = ["{PROXY}"]\n')
        os.kill(server.pid, signal.SIGHUP)
        assert there.read_close() == 4507
        other.is_served()
    with From(target, MALLORY) as forgiven:
        forgiven.upgrade()


def test_a_header_of_a_trusted_proxy_decides_over_tls_too(fortified, tmp_path):
    policy = tmp_path / "policy.toml"
    rules = [
        f'trusted_proxies = ["{PROXY}"]',
        'proxy_header = "x-forwarded-for"',
        'deny = ["203.0.113.0/24"]',
    ]
    policy.write_text("\n".join(["[network]", *rules]))
    _, target = fortified(policy_path=policy)

    def said(source: str, value: str) -> int:
        with From(target, source) as peer:
            return peer.send(upgrade_request(None, f"X-Forwarded-For: {value}")).read_response().status

    assert said(PROXY, "198.51.100.7") == 101
    assert said(PROXY, "203.0.113.9") == 403
    assert said(PROXY, "198.51.100.7, 203.0.113.9") == 403
    assert said(PROXY, "203.0.113.9, 198.51.100.7") == 101
    assert said(PROXY, "nonsense") == 400
    assert said("127.0.0.1", "203.0.113.9") == 101  # whose word is not taken


def test_a_policy_that_the_door_cannot_keep_is_refused(fortified, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    server, target = fortified(policy_path=policy)
    policy.write_text(f'[network]\ntrusted_proxies = ["{PROXY}"]\nproxy_protocol = "required"\n')
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line("reload refused.*which tls_port cannot demand")
    with Bystander(target) as other:
        other.is_served()
