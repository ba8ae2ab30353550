"""systemd/haproxy.cfg as it stands, in a real HAProxy before real servers: addresses and files differ."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.attacks.wire import Peer, upgrade_request
from tests.certificates import Authority
from tests.conftest import ROOT, Server
from tests.edge.peer import PATIENCE_S, ask, closed, receive
from tests.oracles.proxyproto import v2
from tests.ports import free_port

CONFIG = (ROOT / "systemd" / "haproxy.cfg").read_text(encoding="utf-8")
ROOM = "chat:lobby"
# Real addresses of this machine: HAProxy's own, a client's, one whom the policy denies, one of nobody.
PROXY, ALICE, MALLORY, STRANGER = "127.0.0.1", "127.0.0.50", "127.0.0.66", "127.0.0.77"
POLICY = f"""
[network]
trusted_proxies = ["{PROXY}"]
proxy_protocol = "required"
deny = ["{MALLORY}"]
"""


class HAProxy:
    """A running HAProxy with our configuration: `port` is that of TLS."""

    def __init__(self, folder: Path, authority: Authority, servers: list[Server], **replaced: str) -> None:
        program = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.fail("this test needs HAProxy: apt-get install haproxy", pytrace=False)
        self.host, self.port, self.plain_port = "127.0.0.1", free_port(), free_port()
        self.tls = authority.trusting()
        pair = authority.sign()
        (folder / "certs").mkdir()
        both = folder / "certs" / "site.pem"
        both.touch(mode=0o600)
        both.write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
        config = folder / "haproxy.cfg"
        config.write_text(self._placed(folder, servers, replaced))
        checked = subprocess.run([program, "-c", "-f", config], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "WARNING" not in checked.stderr, checked.stderr
        self._process = subprocess.Popen(
            [program, "-db", "-f", config], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _placed(self, folder: Path, servers: list[Server], replaced: dict[str, str]) -> str:
        """The configuration with the addresses of this test; what it replaces has to stand there."""
        lines = "".join(
            f"    server worker{number} {server.host}:{server.port}\n"
            for number, server in enumerate(servers, 1)
        )
        changes = {
            r"bind :443 ssl crt /etc/haproxy/certs/": f"bind 127.0.0.1:{self.port} ssl crt {folder}/certs/",
            r"bind :80\b": f"bind 127.0.0.1:{self.plain_port}",
            r"maxconn 200000": "maxconn 2000",  # as many files as this machine gives anybody
            r"log /dev/log local0 notice": "log stdout format raw local0 notice",
            r"(    server worker\d.*\n)+": lines,
            **replaced,
        }
        text = CONFIG
        for wanted, placed in changes.items():
            text, count = re.subn(wanted, placed.replace("\\", r"\\"), text)
            assert count == 1, wanted
        return text

    @property
    def wss(self) -> str:
        return f"wss://localhost:{self.port}/ws"

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self.said = self._process.communicate(timeout=PATIENCE_S)[0]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def before(tmp_path: Path, authority: Authority) -> Iterator[Callable[..., HAProxy]]:
    """Start HAProxy before servers; it has found them when it is returned."""
    started = []

    def start(*servers: Server, **replaced: str) -> HAProxy:
        proxy = HAProxy(tmp_path, authority, list(servers), **replaced)
        started.append(proxy)
        wait_until_ready(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.end()


def status(proxy: HAProxy, path: str, source: str = ALICE, *headers: str) -> int:
    return answer(proxy, path, source, *headers).status


def answer(proxy: HAProxy, path: str, source: str = ALICE, *headers: str):
    """What one request through HAProxy gets, from an address of the client's."""
    with Through(proxy, source) as peer:
        lines = "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers])
        return peer.send(f"{lines}\r\n\r\n".encode()).read_response()


class Through(Peer):
    """A raw client of HAProxy's TLS port, from an address of its choice."""

    def __init__(self, proxy: HAProxy, source: str = ALICE) -> None:
        raw = socket.create_connection((proxy.host, proxy.port), PATIENCE_S, source_address=(source, 0))
        self.socket = proxy.tls.wrap_socket(raw, server_hostname="localhost")
        self.received = b""
        self.ended = False


def wait_until_ready(proxy: HAProxy) -> None:
    """Ask until its checks have found a server."""
    for _ in range(10_000):
        try:
            if status(proxy, "/health") == 200:
                return
        except (ConnectionError, AssertionError, urllib.error.URLError):
            continue
    proxy.end()
    pytest.fail(f"HAProxy has found no server:\n{proxy.said}")


async def from_address(proxy: HAProxy, user: str, source: str):
    """A WebSocket through HAProxy, from an address of the client's."""
    return await connect(
        f"{proxy.wss}/{user}", ssl=proxy.tls, host=proxy.host, port=proxy.port, local_addr=(source, 0)
    )


async def test_the_address_of_the_client_arrives_and_decides(serve, before, policy):
    """The policy denies Mallory: through HAProxy it is he who is refused, and not HAProxy."""
    proxy = await asyncio.to_thread(before, serve(policy_path=policy))
    ws = await from_address(proxy, "alice", ALICE)
    async with ws:
        assert (await receive(ws))["content"]["user_id"] == "alice"
        assert (await ask(ws, type="join", id=1, room=ROOM))["type"] == "joined"
    for headers in (
        (),
        (f"X-Forwarded-For: {ALICE}",),
        (f"Forwarded: for={ALICE}",),
        (f"X-Real-IP: {ALICE}",),
    ):
        with Through(proxy, MALLORY) as mallory:
            assert mallory.send(upgrade_request("/ws", *headers)).read_response().status == 403


async def test_a_new_policy_reaches_who_is_behind_the_proxy(serve, before, policy):
    server = serve(policy_path=policy)
    proxy = await asyncio.to_thread(before, server)
    alice, bob = [await from_address(proxy, *who) for who in (("alice", ALICE), ("bob", STRANGER))]
    async with alice, bob:
        await receive(alice)
        await receive(bob)
        policy.write_text(POLICY.replace(MALLORY, ALICE))
        os.kill(server.pid, signal.SIGHUP)
        assert (await closed(alice))[0] == 4507
        assert (await ask(bob, type="ping", id=1))["type"] == "pong"


def test_nobody_comes_in_around_it(serve, before, policy):
    """A header of the PROXY protocol is believed of HAProxy alone, and without one nobody is let in."""
    server = serve(policy_path=policy)
    before(server)
    claim = v2(ALICE, 1)
    for source, said in (
        (STRANGER, claim + upgrade_request()),
        (STRANGER, upgrade_request()),
        (PROXY, b"GET /"),
    ):
        raw = socket.create_connection((server.host, server.port), PATIENCE_S, source_address=(source, 0))
        with raw:
            raw.sendall(said)
            try:
                heard = raw.recv(4096)
            except ConnectionResetError:
                heard = b""
            assert b"101" not in heard[:12], source
            assert heard == b"" or b" 40" in heard[:13], heard


def test_pages_metrics_and_headers(serve, before, policy):
    proxy = before(serve(policy_path=policy))
    page = answer(proxy, "/")
    assert page.status == 200
    assert page.header("strict-transport-security") == "max-age=31536000"
    assert "default-src 'none'" in page.header("content-security-policy")
    assert status(proxy, "/metrics") == 404
    assert status(proxy, "/ready") == 200
    with socket.create_connection((proxy.host, proxy.plain_port), PATIENCE_S) as plain:
        plain.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert re.match(rb"HTTP/1.1 308 .*\r\nlocation: https://localhost/x\r\n", plain.recv(4096), re.S)


@pytest.mark.alone
async def test_an_idle_websocket_outlives_every_timeout_by_its_heartbeats(serve, before, policy):
    """Timeouts and heartbeats scaled down alike: 120 s of tunnel to 30 s of heartbeat are 1.2 s to 0.3 s."""
    scaled = {r"timeout tunnel 120s": "timeout tunnel 1200ms", r"timeout client 30s": "timeout client 400ms"}
    scaled[r"timeout server 30s"] = "timeout server 400ms"
    server = serve(policy_path=policy, heartbeat_interval_s=0.3)
    proxy = await asyncio.to_thread(lambda: before(server, **scaled))
    pings = asyncio.Queue()
    ws = await from_address(proxy, "alice", ALICE)
    taken = ws.protocol.recv_frame

    def count(frame):
        if frame.opcode == 9:
            pings.put_nowait(frame)
        return taken(frame)

    ws.protocol.recv_frame = count
    async with ws:
        await receive(ws)
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(8):  # 2.4 s in which it says nothing by itself
                await pings.get()
        assert (await ask(ws, type="ping", id=1))["type"] == "pong"


async def test_a_draining_worker_gets_nobody_new_and_its_clients_come_back_elsewhere(serve, before, policy):
    one, two = (serve(policy_path=policy, node=name) for name in ("one", "two"))
    proxy = await asyncio.to_thread(before, one, two)
    found = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 2:  # HAProxy's check finds each in its own time
            ws = await from_address(proxy, "alice", ALICE)
            node = (await receive(ws))["content"]["node"]
            if node in found:
                await ws.close()
            else:
                found[node] = ws
    one.process.send_signal(signal.SIGTERM)
    code, reason = await closed(found["one"])
    assert (code, json.loads(reason)["r"]) == (1012, "drain")
    assert await asyncio.to_thread(one.process.wait, PATIENCE_S) == 0
    for _ in range(5):
        back = await from_address(proxy, "alice", ALICE)
        async with back:
            assert (await receive(back))["content"]["node"] == "two"
    assert (await ask(found["two"], type="ping", id=1))["type"] == "pong"
    await found["two"].close()
