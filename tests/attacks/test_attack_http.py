"""Attacks by plain HTTP: a request that is no upgrade leaves the hub, and has to be bounded there as well."""

import contextlib
import time

import pytest

from tests.attacks.wire import Bystander, Peer, resident_mb, upgrade_request

GROWTH_MB = 32.0
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"


def request(path: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/../../../../etc/passwd",
        "/..%2f..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//....//etc/passwd",
        "/\\..\\..\\etc\\passwd",
        "/%00",
        "/index.html%00.js",
        "/%",
        "/%zz",
        "//evil.example/",
        "/health/../../realtime/settings.py",
        "/" + "a/" * 2000,
    ],
)
def test_a_path_that_is_none_of_ours_is_not_found(peer: Peer, path: str):
    response = peer.send(request(path)).read_response()
    assert response.status in (400, 404)
    assert b"root:" not in response.body
    assert path.encode() not in response.body, "a path is not reflected"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW", "get"])
def test_a_method_that_changes_things_is_refused(peer: Peer, method: str):
    response = peer.send(request("/health", method=method)).read_response()
    assert response.status in (400, 405, 501)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 1000000000000"], b"a" * 1000),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Transfer-Encoding: chunked"], b"FFFFFFFFFFFFFFFFF\r\n"),
        (["Transfer-Encoding: chunked"], b"-1\r\n"),
        (["Content-Length: 5", "Content-Length: 6"], b"hello"),
    ],
    ids=["a-terabyte", "length-and-chunks", "a-chunk-beyond-64-bits", "a-negative-chunk", "two-lengths"],
)
def test_a_hostile_body_is_refused_and_what_follows_is_no_request(
    peer: Peer, headers: list[str], body: bytes
):
    peer.send(request("/health", *headers, method="POST", body=body + HEALTH))
    response = peer.read_response()
    assert 400 <= response.status < 600
    assert response.status != 500
    assert b"HTTP/1.1 200" not in peer.read_to_end()


def test_pipelined_requests_are_all_answered_in_order(peer: Peer):
    count = 100
    paths = ["/health", "/nowhere"]
    peer.send(b"".join(request(paths[i % 2]) for i in range(count)))
    statuses = [peer.read_response().status for _ in range(count)]
    assert statuses == [200, 404] * (count // 2)


def test_a_request_behind_an_http_request_may_not_become_a_websocket_unseen(peer: Peer):
    """An upgrade on a connection that spoke plain HTTP before: refused or done, but one of both."""
    peer.send(HEALTH + upgrade_request())
    assert peer.read_response().status == 200
    with contextlib.suppress(AssertionError):  # the server may end the connection instead of an answer
        assert peer.read_response().status in (101, 400, 426, 501)


def test_answers_to_pipelined_requests_that_nobody_reads_do_not_pile_up(target, bystander: Bystander):
    before = resident_mb(target.pid)
    with Peer(target, receive_buffer_bytes=4096) as peer:
        for _ in range(10):
            if peer.push(request("/metrics") * 5000, stalled_s=0.2) == 0 or peer.ended:
                break
            bystander.is_served()
        assert resident_mb(target.pid) < before + GROWTH_MB


def test_a_page_fetched_by_readers_that_stop_midway_costs_no_memory(target, bystander: Bystander):
    before = resident_mb(target.pid)
    peers = [Peer(target, receive_buffer_bytes=2048).send(request("/")) for _ in range(300)]
    bystander.is_served()
    assert resident_mb(target.pid) < before + GROWTH_MB
    for peer in peers:
        peer.reset()


@pytest.mark.alone
def test_slow_plain_requests_are_cut_too(serve):
    """The head has come far enough to be no upgrade, and never ends; or its body never comes."""
    server = serve(handshake_timeout_s=0.5, tcp_defer_accept_s=0)
    began = time.monotonic()
    with Bystander(server) as other:
        slow = [
            Peer(server).send(part) for part in (HEALTH[:-2], b"POST /health HTTP/1.1\r\nHost: a\r\n") * 50
        ]
        for peer in slow:
            peer.read_to_end()  # fails where the server lets it stand
            peer.socket.close()
        other.is_served()
    assert time.monotonic() < began + 5
