"""The TLS listener of a real server: what it shares with the plain one, and certificates that change."""

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys

import msgspec
import pytest
from cryptography import x509
from websockets.asyncio.client import connect

from realtime.client import connect as sdk_connect
from realtime.client.errors import Disconnected
from realtime.client.options import Options
from tests.attacks.wire import TEXT, Peer, frame, message
from tests.certificates import Authority
from tests.conftest import ROOT
from tests.edge.peer import JSON, KEY, MSGPACK, PATIENCE_S, ask, bearer, closed, get, metric, receive, token
from tests.edge.workers import deployment
from tests.ports import free_port

ROOM = "chat:lobby"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def start(serve, authority):
    """Start a server with TLS; it shows a certificate for localhost."""
    return lambda **settings: serve(
        **{"tls_port": free_port(), **authority.sign().settings(), "close_timeout_s": 1, **settings}
    )


def wss(server, user="alice"):
    return f"wss://localhost:{server.settings['tls_port']}/ws/{user}"


def over_tls(server, authority, user="alice", **how):
    return connect(wss(server, user), ssl=authority.trusting(), **how)


class Wire:
    """The TLS port of a server, for raw sockets."""

    def __init__(self, server, authority):
        self.host, self.port, self.tls = server.host, server.settings["tls_port"], authority.trusting()


def curl(server, authority, path, *options):
    """Return what curl says of an https page: the head, and the body."""
    command = ["curl", "-sS", "-i", "--cacert", authority.certificate, *options]
    url = f"https://localhost:{server.settings['tls_port']}{path}"
    done = subprocess.run([*command, url], capture_output=True, timeout=PATIENCE_S, check=True)
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    return head, body


def shown(server, name="localhost"):
    """The certificate that the TLS port shows to who asks for `name`; "" asks for none."""
    terms = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    terms.check_hostname, terms.verify_mode = False, ssl.CERT_NONE
    address = (server.host, server.settings["tls_port"])
    with (
        socket.create_connection(address, timeout=PATIENCE_S) as raw,
        terms.wrap_socket(raw, server_hostname=name or None) as tunnel,
    ):
        return x509.load_der_x509_certificate(tunnel.getpeercert(binary_form=True))


# -- one server, two ways in


async def test_who_comes_by_tls_is_in_the_same_rooms(start, authority):
    server = start()
    async with (
        over_tls(server, authority, "alice", subprotocols=[JSON]) as alice,
        over_tls(server, authority, "carol", subprotocols=[MSGPACK]) as carol,
        connect(f"{server.ws_url}/bob") as bob,
    ):
        hello = await receive(alice)
        assert (hello["type"], hello["content"]["user_id"]) == ("connected", "alice")
        await receive(carol)
        await receive(bob)
        for ws in (alice, bob):
            assert (await ask(ws, type="join", id=1, room=ROOM))["type"] == "joined"
        await carol.send(msgspec.msgpack.encode({"type": "join", "id": 1, "room": ROOM}))
        while (await receive(carol)).get("id") != 1:
            pass
        for number in range(20):
            for ws in (alice, bob):
                await ws.send(json.dumps({"type": "chat_message", "room": ROOM, "content": number}))

        async def hear(ws):
            got = []
            while len(got) < 40:
                message = await receive(ws)
                if message["type"] == "chat_message":
                    got.append((message["offset"], message["from"], message["content"]))
            return got

        heard = [await hear(ws) for ws in (alice, bob, carol)]
        assert [offset for offset, _, _ in heard[0]] == list(range(1, 41))
        assert heard[1] == heard[2] == heard[0]
        members = await ask(bob, type="presence", id=2, room=ROOM)
        assert sorted(members["content"]["members"]) == ["alice", "bob", "carol"]


async def test_a_message_of_the_largest_size_comes_whole_in_fragments(start, authority):
    server = start(max_message_bytes=1_000_000)
    async with over_tls(server, authority) as alice:
        await receive(alice)
        await ask(alice, type="join", id=1, room=ROOM)
        text = "ä" * 450_000
        whole = json.dumps({"type": "chat_message", "room": ROOM, "content": text}, ensure_ascii=False)
        await alice.send(whole[start : start + 10_000] for start in range(0, len(whole), 10_000))
        while (push := await receive(alice))["type"] != "chat_message":
            pass
        assert push["content"] == text


async def test_how_long_a_tls_handshake_took_is_measured(start, authority):
    server = start()
    assert metric(server, "tls_handshake_seconds_count") == 0
    async with over_tls(server, authority, "alice") as alice, over_tls(server, authority, "bob") as bob:
        await receive(alice)
        await receive(bob)
    assert metric(server, "tls_handshake_seconds_count") == 2


async def test_the_own_sdk_speaks_it(start, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    server = start()
    url = f"wss://localhost:{server.settings['tls_port']}/ws"
    async with sdk_connect(url, user="alice") as client:
        room = await client.join(ROOM)
        receipt = await room.publish("chat_message", {"text": "hello"})
        assert receipt.offset == 1


async def test_tokens_decide_here_too(start, authority):
    server = start(jwt_secret=KEY, handshake_timeout_s=0.5)
    async with over_tls(server, authority, additional_headers=bearer(token("alice"))) as alice:
        assert (await receive(alice))["content"]["user_id"] == "alice"
    async with over_tls(server, authority, subprotocols=[JSON]) as late:
        assert (await closed(late))[0] == 4502
    async with over_tls(server, authority, subprotocols=[JSON]) as first:
        answer = await ask(first, type="connect", id=1, content={"token": token("alice")})
        assert answer["content"]["user_id"] == "alice"
    raw = Peer(Wire(server, authority))
    with raw:
        bad = "Authorization: Bearer nonsense"
        assert raw.send(handshake(bad)).read_response().status == 401


def handshake(*headers):
    lines = [
        *("GET /ws HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", *headers),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


async def test_the_limit_of_a_users_connections_counts_both_ways_in(start, authority):
    server = start(max_connections_per_user=2)
    async with over_tls(server, authority) as one, connect(f"{server.ws_url}/alice") as two:
        await receive(one)
        await receive(two)
        async with over_tls(server, authority) as three, connect(f"{server.ws_url}/alice") as four:
            assert (await closed(three))[0] == 4504
            assert (await closed(four))[0] == 4504


# -- how it ends


async def test_a_drain_closes_it_with_a_window(start, authority):
    server = start()
    async with over_tls(server, authority) as alice:
        await receive(alice)
        server.process.send_signal(signal.SIGTERM)
        code, reason = await closed(alice)
        assert (code, json.loads(reason)["r"]) == (1012, "drain")
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0


@pytest.mark.alone
def test_a_silent_peer_is_pinged_and_then_closed(start, authority):
    server = start(heartbeat_interval_s=0.3)
    with Peer(Wire(server, authority)).upgrade() as silent:
        assert silent.read_close() == 4002
    with Peer(Wire(server, authority)).upgrade() as alive:
        for _ in range(4):
            while (got := alive.read_frame()).opcode != 9:
                assert got.opcode == TEXT
            alive.send(frame(10, got.payload))
    assert metric(server, "heartbeat_timeouts_total") == 1


async def test_it_is_closed_at_its_age(start, authority):
    server = start(max_connection_age_s=0.3)
    async with over_tls(server, authority) as alice:
        assert (await closed(alice))[0] == 4006


def test_who_does_not_read_is_cut_in_bounded_memory(start, authority):
    """What the kernel and the transport do not take waits in the outbox, which is bounded."""
    server = start(room_lag_limit_bytes=300_000, echo_path="/echo")
    wire = Wire(server, authority)
    with Peer(wire, receive_buffer_bytes=4096) as slow, Peer(wire) as publisher:
        slow.upgrade().join("events:x")
        publisher.upgrade().join("events:x")
        content = json.dumps({"type": "publish", "room": "events:x", "content": "x" * 20_000})
        for _ in range(600):
            publisher.send(message(content))
            publisher.read_until('"x')
        assert slow.read_close() in (4001, None)
    assert metric(server, "slow_consumers_total") == 1


def test_a_close_of_the_peer_is_answered_with_its_code(start, authority):
    server = start()
    with Peer(Wire(server, authority)).upgrade() as peer:
        peer.send(frame(8, struct.pack("!H", 4711) + b"bye"))
        while (got := peer.read_frame()).opcode != 8:
            pass
        assert got.code == 4711
        assert peer.read_to_end() == b""


# -- pages


def test_pages_are_served_with_every_header_and_hsts_is_not_for_loopback(start, authority):
    server = start()
    head, body = curl(server, authority, "/")
    assert "<title>" in body
    for name in ("content-security-policy", "cross-origin-opener-policy", "x-content-type-options"):
        assert f"\r\n{name}:" in head.lower()
    assert "strict-transport-security" not in head.lower()
    assert curl(server, authority, "/ws")[0].startswith("HTTP/1.1 426")
    assert curl(server, authority, "/nothing", "--http2")[0].startswith("HTTP/1.1 404")


def test_hsts_is_said_by_tls_alone(start, authority):
    server = start(host="0.0.0.0", jwt_secret=KEY, tls_hsts_s=3600)
    assert "\r\nStrict-Transport-Security: max-age=3600" in curl(server, authority, "/health")[0]
    assert get(f"{server.url}/health")[1]["Strict-Transport-Security"] is None


def test_strangers_see_no_metrics_and_no_version(start, authority):
    admin = free_port()
    server = start(host="0.0.0.0", jwt_secret=KEY, admin_port=admin)
    for status, body in (
        (curl(server, authority, "/metrics")[0].split()[1], curl(server, authority, "/health")[1]),
        (str(get(f"{server.url}/metrics")[0]), get(f"{server.url}/health")[2].decode()),
    ):
        assert status == "404"
        assert json.loads(body).keys() == {"ok", "node"}
    assert get(f"http://127.0.0.1:{admin}/metrics")[0] == 200
    assert json.loads(get(f"http://127.0.0.1:{admin}/health")[2])["version"]


def test_metrics_for_everybody_are_a_decision(start):
    assert get(f"{start(public_metrics='no').url}/metrics")[0] == 404
    server = start(host="0.0.0.0", jwt_secret=KEY, public_metrics="yes", tls_port=free_port())
    assert get(f"{server.url}/metrics")[0] == 200


def test_the_protocol_agreed_on_is_http_1_1(start, authority):
    server = start()
    terms = authority.trusting()
    terms.set_alpn_protocols(["h2", "http/1.1"])
    wire = Wire(server, authority)
    wire.tls = terms
    with Peer(wire) as peer:
        assert peer.socket.selected_alpn_protocol() == "http/1.1"


# -- certificates that change


async def test_certificates_are_replaced_without_a_restart(start, authority):
    """SIGHUP: who is connected stays and is served, who comes gets the new one; what is broken is refused."""
    server = start()
    before = shown(server).serial_number
    async with over_tls(server, authority) as alice:
        await receive(alice)
        assert (await ask(alice, type="join", id=1, room=ROOM))["type"] == "joined"
        renewed = authority.sign()
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_line, "reloaded certificates")
        after = shown(server).serial_number
        assert after != before
        async with over_tls(server, authority, "bob") as bob:
            await receive(bob)
            await ask(bob, type="join", id=1, room=ROOM)
            await bob.send(json.dumps({"type": "chat_message", "room": ROOM, "content": "after"}))
            while (push := await receive(alice))["type"] != "chat_message":
                pass
            assert push["content"] == "after"

        renewed.key.write_bytes(authority.sign("another").key.read_bytes())
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.to_thread(server.wait_for_line, "reload refused.*the key is another certificate's")
        assert shown(server).serial_number == after
        assert (await ask(alice, type="ping", id=2))["type"] == "pong"


def test_each_worker_serves_it_and_reads_it_anew(serve, redis_cluster, authority):
    port = free_port()
    settings = {"workers": 2, "node": "n", "tls_port": port, **authority.sign().settings()}
    server = serve(**deployment(redis_cluster.url, **settings))
    seen = set()
    for _ in range(200):
        with Peer(Wire(server, authority)).upgrade() as peer:
            seen.add(json.loads(peer.read_until('"connected"'))["content"]["node"])
        if seen == {"n-1", "n-2"}:
            break
    assert seen == {"n-1", "n-2"}
    renewed = authority.sign()
    os.kill(server.pid, signal.SIGHUP)
    server.wait_for_line(r"n-1 realtime\.edge: reloaded")
    server.wait_for_line(r"n-2 realtime\.edge: reloaded")
    wanted = x509.load_pem_x509_certificate(renewed.certificate.read_bytes()).serial_number
    assert {shown(server).serial_number for _ in range(20)} == {wanted}


def test_the_certificate_shown_is_the_one_with_the_name_asked_for(start, authority):
    one, two = authority.sign("localhost"), authority.sign("b.example", "*.c.example", file="two")
    files = {
        "tls_certificate": (str(one.certificate), str(two.certificate)),
        "tls_key": (str(one.key), str(two.key)),
    }
    server = start(**files)
    serials = [
        x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number for pair in (one, two)
    ]
    for name, place in {"localhost": 0, "B.example": 1, "x.c.example": 1, "a.b.c.example": 0, "": 0}.items():
        assert shown(server, name).serial_number == serials[place], name


def test_an_expiry_that_is_near_is_told_everywhere(start, authority):
    pair = authority.sign("localhost", days=3, file="soon")
    server = start(**pair.settings())
    server.wait_for_line("certificate expires in 3.0 days")
    assert 2 * 86_400 < metric(server, "tls_certificate_expires_seconds") < 3.1 * 86_400
    said = check("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    assert "warn  tls: the TLS certificate expires in 3.0 days" in said.stdout
    assert said.returncode == 0


def check(*options):
    command = [sys.executable, "-m", "realtime", "check", "--port", "0", "--sqlite-path", ""]
    command += ["--tls-port", str(free_port()), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def test_check_says_what_is_wrong_with_a_certificate(authority):
    pair = authority.sign()
    assert "ok    tls: can listen on https://127.0.0.1" in check(*options_of(pair)).stdout
    pair.key.chmod(0o604)
    said = check(*options_of(pair))
    assert said.returncode == 1
    assert "fail  tls: tls_key" in said.stdout


def options_of(pair):
    return "--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls-port", "8443"], "tls_port 8443 needs a tls_certificate"),
        (["--tls-port", "8443", "--port", "8443", "--tls-certificate", "a"], "the port of something else"),
        (
            ["--tls-port", "8443", "--tls-certificate", "a,b", "--tls-key", "c"],
            "one key for each",
        ),
        (["--tls-port", "8443", "--tls-certificate", "none.pem"], "none.pem: No such file"),
    ],
)
def test_settings_that_will_not_do_end_the_start_in_one_line(options, said):
    command = [sys.executable, "-m", "realtime", "serve", "--sqlite-path", "", *options]
    if "--port" not in options:
        command += ["--port", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


async def test_our_own_client_checks_certificates_as_it_is_told(start, authority):
    server = start()
    url = wss(server).removesuffix("/alice")
    async with sdk_connect(url, user="alice", options=Options(ssl=authority.trusting())) as alice:
        room = await alice.join("chat:lobby")
        assert (await room.publish("chat_message", {"text": "hi"})).offset == 1
    stranger = sdk_connect(url, user="alice", options=Options(open_timeout_s=0.5))
    with pytest.raises(Disconnected):
        await stranger.__aenter__()
