"""Attacks on the handshake: each gets the RFC's answer and a closed connection, never an upgrade."""

import select
import time

import pytest

from tests.attacks.wire import KEY, ON_TCP, Bystander, Peer, message, upgrade_request

SLOW_PEERS = 500


def refused(peer: Peer, request: bytes, *statuses: int) -> None:
    """Send `request`; the answer has one of `statuses`, a length, and the end of the connection behind it."""
    response = peer.send(request).read_response()
    assert response.status in statuses, response
    assert response.header("Content-Length") is not None
    assert peer.read_to_end() == b"", "something followed the refusal"


MALFORMED = {
    "no-host": (upgrade_request(without=("Host",)), 400),
    "two-hosts": (upgrade_request(None, "Host: evil.example"), 400),
    "the-same-host-twice": (upgrade_request(None, "Host: 127.0.0.1"), 400),
    "no-key": (upgrade_request(without=("Sec-WebSocket-Key",)), 400),
    "two-keys": (upgrade_request(None, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    "the-same-key-twice": (upgrade_request(None, f"Sec-WebSocket-Key: {KEY}"), 400),
    "empty-key": (upgrade_request(Sec_WebSocket_Key=""), 400),
    "key-of-15-bytes": (upgrade_request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAA"), 400),
    "key-of-17-bytes": (upgrade_request(Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAAA="), 400),
    "key-without-padding": (upgrade_request(Sec_WebSocket_Key=KEY.rstrip("=")), 400),
    "key-that-is-no-base64": (upgrade_request(Sec_WebSocket_Key="!!!!!!!!!!!!!!!!!!!!!!=="), 400),
    "key-with-a-space-inside": (upgrade_request(Sec_WebSocket_Key="dGhlIHNhbXBs ZSBub25jZQ="), 400),
    "version-12": (upgrade_request(Sec_WebSocket_Version="12"), 426),
    "version-8": (upgrade_request(Sec_WebSocket_Version="8"), 426),
    "version-0": (upgrade_request(Sec_WebSocket_Version="0"), 426),
    "version-99": (upgrade_request(Sec_WebSocket_Version="99"), 426),
    "version-list": (upgrade_request(Sec_WebSocket_Version="13, 8"), 400, 426),
    "version-256+13": (upgrade_request(Sec_WebSocket_Version="269"), 400, 426),
    "version-word": (upgrade_request(Sec_WebSocket_Version="latest"), 400, 426),
    "version-negative": (upgrade_request(Sec_WebSocket_Version="-13"), 400, 426),
    "no-version": (upgrade_request(without=("Sec-WebSocket-Version",)), 400, 426),
    "two-versions": (upgrade_request(None, "Sec-WebSocket-Version: 13"), 400),
    "http-1.0": (upgrade_request(version="HTTP/1.0"), 400, 426, 505),
    "http-2.0": (upgrade_request(version="HTTP/2.0"), 400, 505),
    "http-lower-case": (upgrade_request(version="http/1.1"), 400),
    "http-1.10": (upgrade_request(version="HTTP/1.10"), 400, 505),
    "no-http-version": (upgrade_request(version=""), 400),
    "http-0.9": (b"GET /\r\n\r\n", 400),
    "post": (upgrade_request(method="POST"), 400, 405),
    "put": (upgrade_request(method="PUT"), 400, 405, 501),
    "head": (upgrade_request(method="HEAD"), 400, 405),
    "options": (upgrade_request(method="OPTIONS"), 400, 405, 501),
    "lower-case-get": (upgrade_request(method="get"), 400, 405, 501),
    "made-up-method": (upgrade_request(method="BREW"), 400, 405, 501),
    "connection-without-upgrade": (upgrade_request(Connection="keep-alive"), 400, 426),
    "connection-that-only-looks-like-it": (upgrade_request(Connection="Upgraded"), 400, 426),
    "no-connection": (upgrade_request(without=("Connection",)), 400, 426),
    "upgrade-to-something-else": (upgrade_request(Upgrade="websockets"), 400, 426),
    "path-with-a-space": (upgrade_request("/ws/a b"), 400),
    "path-with-a-control-character": (upgrade_request("/ws/a\x01"), 400),
    "path-with-del": (upgrade_request("/ws/a\x7f"), 400),
    "path-beyond-ascii": (upgrade_request("/ws/\xe9"), 400),
    "no-path": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "relative-path": (upgrade_request("ws/mallory"), 400),
    "path-of-20000-bytes": (upgrade_request("/ws/" + "a" * 20_000), 414, 431),
    "request-line-that-never-ends": (b"GET /" + b"a" * 100_000, 414, 431),
    "value-of-70000-bytes": (upgrade_request(None, "X-A: " + "a" * 70_000), 431),
    "name-of-70000-bytes": (upgrade_request(None, "a" * 70_000 + ": x"), 431),
    "a-thousand-headers": (upgrade_request(None, *(f"X-{i}: y" for i in range(1000))), 431),
    "header-that-never-ends": (upgrade_request()[:-2] + b"X-A: " + b"a" * 100_000, 431),
    "bare-lf-in-the-head": (upgrade_request().replace(b"\r\n", b"\n"), 400),
    "bare-lf-in-a-value": (upgrade_request(None, "X-A: a\nX-B: b"), 400),
    "bare-cr-in-a-value": (upgrade_request(None, "X-A: a\rX-B: b"), 400),
    "nul-in-a-value": (upgrade_request(None, "X-A: a\0b"), 400),
    "nul-in-a-name": (upgrade_request(None, "X\0A: b"), 400),
    "folded-value": (upgrade_request(None, "X-A: a\r\n b"), 400),
    "folded-first-header": (b"GET /ws HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space-before-the-colon": (upgrade_request(None, "X-A : b"), 400),
    "tab-before-the-colon": (upgrade_request(None, "X-A\t: b"), 400),
    "no-colon": (upgrade_request(None, "X-A"), 400),
    "empty-name": (upgrade_request(None, ": b"), 400),
    "name-in-brackets": (upgrade_request(None, "(X): b"), 400),
    "name-beyond-ascii": (upgrade_request(None, "X-\xe9: b"), 400),
    "control-character-in-a-value": (upgrade_request(None, "X-A: \x01"), 400),
    "subprotocol-with-control-character": (upgrade_request(None, "Sec-WebSocket-Protocol: a\x02b"), 400),
    "body-by-length": (upgrade_request(None, "Content-Length: 5") + b"hello", 400),
    "body-by-chunks": (upgrade_request(None, "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "length-and-chunks": (
        upgrade_request(None, "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        400,
    ),
    "two-lengths": (upgrade_request(None, "Content-Length: 0", "Content-Length: 5"), 400),
    "the-same-length-twice": (upgrade_request(None, "Content-Length: 5", "Content-Length: 5"), 400),
    "negative-length": (upgrade_request(None, "Content-Length: -1"), 400),
    "signed-length": (upgrade_request(None, "Content-Length: +5"), 400),
    "length-list": (upgrade_request(None, "Content-Length: 5, 5"), 400),
    "hexadecimal-length": (upgrade_request(None, "Content-Length: 0x5"), 400),
    "length-beyond-64-bits": (upgrade_request(None, "Content-Length: 99999999999999999999"), 400, 413),
    "chunked-with-a-space": (upgrade_request(None, "Transfer-Encoding : chunked"), 400),
    "chunked-twice": (upgrade_request(None, "Transfer-Encoding: chunked, chunked"), 400, 501),
    "identity-coding": (upgrade_request(None, "Transfer-Encoding: identity"), 400, 501),
    "plain-http-with-length-and-chunks": (
        b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        400,
    ),
    "tls-client-hello": (bytes.fromhex("16030100f8010000f40303") + bytes(240), 400),
    "ssh-banner": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 400),
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 405, 501, 505),
    "zeros": (bytes(4096), 400),
    "line-noise": (bytes(range(128, 256)) * 8, 400),
}


@pytest.mark.parametrize("attack", MALFORMED)
def test_a_malformed_handshake_is_refused(peer: Peer, attack: str):
    request, *statuses = MALFORMED[attack]
    refused(peer, request, *statuses)


@pytest.mark.parametrize("version", ["8", "12", "14"])
def test_a_refused_version_names_the_supported_one(peer: Peer, version: str):
    response = peer.send(upgrade_request(Sec_WebSocket_Version=version)).read_response()
    assert (response.status, response.header("Sec-WebSocket-Version")) == (426, "13")


def test_nothing_behind_a_refused_request_is_read_as_another(peer: Peer):
    smuggled = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    request = upgrade_request(None, f"Content-Length: {len(smuggled)}") + smuggled
    refused(peer, request, 400)  # which also sees that nothing follows


@pytest.mark.parametrize(
    "path", ["/ws/a%0d%0aSet-Cookie:%20x=1", "/ws/%00", "/ws/..%2f..%2fetc", "/nowhere%0d%0aX:%20y"]
)
def test_an_escaped_line_break_never_becomes_a_header(peer: Peer, path: str):
    peer.send(upgrade_request(path))
    response = peer.read_response()
    assert response.status == 101 or 400 <= response.status < 500
    assert "set-cookie" not in response.headers
    assert "x" not in response.headers


@pytest.mark.parametrize(
    "value", ["a\tb", "realtime.v1.json;x", "bearer.a.b.c, realtime.v1.json", ", ,", "%0d%0aX: y"]
)
def test_an_odd_subprotocol_is_never_reflected_as_it_came(peer: Peer, value: str):
    response = peer.send(upgrade_request(None, f"Sec-WebSocket-Protocol: {value}")).read_response()
    assert response.status in (101, 400, 401)
    assert response.header("Sec-WebSocket-Protocol") in (None, "realtime.v1.json")


ACCEPTED = {
    "connection-list": {"Connection": "keep-alive, Upgrade"},
    "connection-list-without-a-space": {"Connection": "keep-alive,Upgrade"},
    "connection-in-lower-case": {"Connection": "upgrade"},
    "upgrade-in-capitals": {"Upgrade": "WebSocket"},
    "connection-with-tabs": {"Connection": "\tUpgrade\t"},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_handshake_as_browsers_and_proxies_write_it_is_accepted(peer: Peer, case: str):
    assert peer.send(upgrade_request(**ACCEPTED[case])).read_response().status == 101


def test_connection_may_be_spread_over_two_lines(peer: Peer):
    request = upgrade_request(None, "Connection: Upgrade", Connection="keep-alive")
    assert peer.send(request).read_response().status == 101


def test_an_empty_body_is_no_body(peer: Peer):
    assert peer.send(upgrade_request(None, "Content-Length: 0")).read_response().status == 101


def test_a_handshake_sent_byte_by_byte_is_accepted(peer: Peer):
    for byte in upgrade_request():
        peer.send(bytes([byte]))
    assert peer.read_response().status == 101


def test_frames_behind_the_request_in_one_send_are_read(peer: Peer):
    peer.send(upgrade_request() + message('{"type":"ping","id":7}'))
    assert peer.read_response().status == 101
    assert '"id":7' in peer.read_until('"pong"')


DECLINED_OFFERS = [
    "permessage-deflate; foo",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=-1",
    "permessage-deflate; server_max_window_bits=abc",
    "permessage-deflate; server_max_window_bits=08",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; client_max_window_bits=0",
    "permessage-deflate; client_max_window_bits=99999999999999999999",
    "permessage-deflate; client_no_context_takeover=1",
    "permessage-deflate; server_no_context_takeover=true",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; client_max_window_bits=9; client_max_window_bits=10",
    "x-webkit-deflate-frame",
    "permessage-bzip2",
    "PERMESSAGE_DEFLATE",
]


@pytest.mark.parametrize("offer", DECLINED_OFFERS)
def test_an_invalid_compression_offer_is_declined(peer: Peer, offer: str):
    response = peer.send(upgrade_request(None, f"Sec-WebSocket-Extensions: {offer}")).read_response()
    assert (response.status, response.header("Sec-WebSocket-Extensions")) == (101, None)


@pytest.mark.parametrize(
    "offer", [";;", 'permessage-deflate; x="', "permessage-deflate;;", "=", ",,,", "a b"]
)
def test_an_unreadable_extension_header_opens_nothing(peer: Peer, offer: str):
    response = peer.send(upgrade_request(None, f"Sec-WebSocket-Extensions: {offer}")).read_response()
    assert response.status in (101, 400)
    assert response.header("Sec-WebSocket-Extensions") is None


@ON_TCP
def test_a_valid_offer_behind_an_invalid_one_is_accepted(peer: Peer):
    offers = "permessage-deflate; server_max_window_bits=7, permessage-deflate"
    response = peer.send(upgrade_request(None, f"Sec-WebSocket-Extensions: {offers}")).read_response()
    assert response.status == 101
    assert (response.header("Sec-WebSocket-Extensions") or "").startswith("permessage-deflate")


ORIGIN = "https://app.example.com"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory):
    """A server with a list of origins."""
    from tests.conftest import Server

    running = Server({"allowed_origins": ORIGIN})
    yield running
    running.finish()


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "",
        "null",
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://app.example.com.evil.example",
        "https://evilapp.example.com",
        "https://app.example.com@evil.example",
        "https://app.example.com/",
        "app.example.com",
        "*",
    ],
)
def test_a_wrong_origin_is_refused(guarded, origin: str | None):
    with Peer(guarded) as peer:
        refused(peer, upgrade_request(None, *([] if origin is None else [f"Origin: {origin}"])), 403)


def test_two_origins_are_refused(guarded):
    with Peer(guarded) as peer:
        refused(peer, upgrade_request(None, f"Origin: {ORIGIN}", "Origin: https://evil.example"), 400, 403)


def test_the_right_origin_is_accepted(guarded):
    with Peer(guarded) as peer:
        assert peer.send(upgrade_request(None, f"Origin: {ORIGIN}")).read_response().status == 101


@pytest.mark.parametrize("trickle", [True, False], ids=["byte-by-byte", "stopped-midway"])
@pytest.mark.alone
def test_500_slow_handshakes_are_cut_by_a_total_deadline(serve, trickle: bool):
    timeout_s = 1.0
    server = serve(handshake_timeout_s=timeout_s, tcp_defer_accept_s=0)
    head = upgrade_request()[:-4]  # valid, and never complete
    with Bystander(server) as other:
        peers = [Peer(server).send(head[:30]) for _ in range(SLOW_PEERS)]
        last = time.monotonic()
        sent = 30
        waiting = {peer.socket: peer for peer in peers}
        while waiting:
            # A byte now and then must not start the deadline anew.
            for sock in select.select(list(waiting), [], [], 0.1)[0]:
                waiting.pop(sock).read_to_end()
            other.is_served()
            assert time.monotonic() < last + 3 * timeout_s, f"{len(waiting)} slow handshakes still open"
            if trickle and sent < len(head):
                for peer in waiting.values():
                    peer.send(head[sent : sent + 1])
                sent += 1
        for peer in peers:
            peer.socket.close()


@pytest.mark.alone
def test_connections_that_say_nothing_are_cut_by_the_same_deadline(serve):
    server = serve(handshake_timeout_s=0.5, tcp_defer_accept_s=0)
    with Bystander(server) as other:
        silent = [Peer(server) for _ in range(100)]
        for peer in silent:
            peer.read_to_end()  # fails when the server lets it stand
            peer.socket.close()
        other.is_served()
