"""Sockets that systemd has made: real servers on them, by a stand-in for its fork and by its own tool."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

import pytest
from websockets.asyncio.client import connect

from realtime.edge import activation
from realtime.errors import StartupError
from tests.certificates import Authority
from tests.conftest import ROOT, Server
from tests.edge.activated import Activated, listening
from tests.edge.manager import ServiceManager
from tests.edge.peer import KEY, PATIENCE_S, bearer, closed, get, receive, refused, token
from tests.edge.workers import hang_up, on_each  # noqa: F401 - a fixture
from tests.postgres import free_port


@pytest.fixture
def manager(tmp_path):
    with ServiceManager(tmp_path) as hearing:
        yield hearing


@pytest.fixture
def activate(manager):
    """Start a server on sockets by name; `manager` hears it."""
    started = []

    def start(environ=None, /, **sockets):
        settings = sockets.pop("settings", {})
        said = {"NOTIFY_SOCKET": manager.address, **(environ or {})}
        started.append(Activated(sockets, settings, said))
        return started[-1]

    yield start
    for server in started:
        server.finish()


async def test_it_serves_on_the_socket_and_says_when_it_does(activate, manager):
    with listening() as held:
        server = activate(http=held)
        assert server.port == held.getsockname()[1]
        ready = manager.wait_for("READY", "1")
        assert ready.pid == server.pid
        async with connect(f"{server.ws_url}/alice") as ws:
            assert (await receive(ws))["type"] == "connected"
            assert (
                "1 connections, 0 rooms"
                in manager.wait_for("STATUS", "1 connections, 0 rooms").fields.values()
            )
        server.stop()
        assert manager.wait_for("STOPPING").fields["STATUS"] == "draining"
        assert manager.wait_for("EXTEND_TIMEOUT_USEC").fields == {"EXTEND_TIMEOUT_USEC": "25000000"}


def asked(port):
    """Ask for /health on a new connection, without waiting for the answer."""
    made = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    made.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return made


def answered(made):
    with made:
        return made.makefile("rb").read()


def test_who_connects_while_it_is_gone_waits_and_is_served(activate):
    with listening() as held:
        server = activate(http=held)
        server.kill()
        waiting = [asked(server.port) for _ in range(20)]
        server.start()
        assert [answered(each).split(b"\r\n")[0] for each in waiting] == [b"HTTP/1.1 200 OK"] * 20


async def test_while_it_drains_who_comes_is_told_to_come_back_and_does_not_wait_for_the_next(
    activate, manager
):
    with listening() as held:
        server = activate(http=held)
        lingering = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        with lingering:  # it reads nothing and so does not answer the close: draining takes its time
            lingering.sendall(UPGRADE)
            assert b"101 Switching" in lingering.recv(4096)
            ending = threading.Thread(target=server.stop)
            ending.start()
            manager.wait_for("STOPPING")
            response = await refused(f"{server.ws_url}/bob")
            assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
        ending.join()


UPGRADE = (
    b"GET /ws/alice HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_the_ports_of_tls_and_of_the_operator_come_by_their_names(activate, tmp_path):
    authority = Authority(tmp_path)
    settings = {
        "tls_port": free_port(),
        "admin_port": free_port(),
        "jwt_secret": KEY,
        "host": "0.0.0.0",
        **authority.sign().settings(),
    }
    with listening("0.0.0.0") as http, listening("0.0.0.0") as tls, listening() as admin:
        server = activate(tls=tls, admin=admin, http=http, settings=settings)
        port = tls.getsockname()[1]
        url = f"wss://localhost:{port}/ws/alice"
        async with connect(url, ssl=authority.trusting(), additional_headers=bearer(token())) as ws:
            assert (await receive(ws))["type"] == "connected"
        assert (await asyncio.to_thread(get, f"http://127.0.0.1:{admin.getsockname()[1]}/metrics"))[0] == 200
        with pytest.raises(ConnectionRefusedError):  # what the settings name is not opened beside them
            socket.create_connection(("127.0.0.1", settings["tls_port"]), timeout=PATIENCE_S)
        server.stop()


async def test_by_systemds_own_tool_the_first_client_starts_it(manager):
    assert shutil.which("systemd-socket-activate"), "apt-get install systemd"
    server = ByTool({"NOTIFY_SOCKET": manager.address})
    try:
        async with connect(f"ws://127.0.0.1:{server.port}/ws/alice") as ws:  # it was there before the server
            assert (await receive(ws))["type"] == "connected"
            assert manager.wait_for("READY", "1").pid == server.process.pid
            server.process.terminate()
            assert (await closed(ws))[0] == 1012
        assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0
    finally:
        server.process.kill()
        server.process.wait()


class ByTool:
    """systemd-socket-activate and what it becomes: one process, so it is the server's id."""

    def __init__(self, environ):
        self.port = free_port()
        given = {"REALTIME_SQLITE_PATH": "", "REALTIME_AUDIT_PATH": "", **environ}
        options = [f"--setenv={name}={value}" for name, value in given.items()]
        command = [sys.executable, "-m", "realtime", "serve"]
        self.process = subprocess.Popen(
            [
                "systemd-socket-activate",
                f"--listen=127.0.0.1:{self.port}",
                "--fdname=http",
                *options,
                *command,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stderr.readline()
        assert "Listening on" in line, line


# -- what cannot work


@pytest.mark.parametrize(
    ("names", "make", "said"),
    [
        (
            "web:http",
            lambda: [listening(), listening()],
            "named 'web': FileDescriptorName= is one of http, tls",
        ),
        ("http:http", lambda: [listening(), listening()], "two sockets named 'http'"),
        ("http", lambda: [listening(), listening()], "2 sockets and 1 names"),
        ("http", lambda: [socket.socket(type=socket.SOCK_DGRAM)], "is not of TCP"),
        ("http", lambda: [socket.socket(socket.AF_UNIX)], "is not of TCP"),
        ("http", lambda: [socket.socket()], "does not listen"),
        ("http", lambda: [open(os.devnull)], "is no socket"),  # noqa: SIM115
    ],
)
def test_sockets_that_are_none_of_ours_are_named(names, make, said):
    things = make()
    with pytest.raises(StartupError, match=said):
        take(things, names)


def take(things, names, pid=None):
    """Take what stands at descriptors of its own, side by side, which are closed again."""
    first = 500
    for place, thing in enumerate(things, start=first):
        os.dup2(thing.fileno(), place)
        thing.close()
    environ = {"LISTEN_FDS": str(len(things)), "LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDNAMES": names}
    try:
        taken = activation.taken(environ, os.getpid(), first=first)
    finally:
        assert environ == {}
    return taken


def test_one_alone_needs_no_name_and_anothers_is_not_taken():
    assert take([listening()], "realtime@0.socket").http is not None
    assert take([listening()], "http", pid=1) == activation.Sockets()
    assert activation.taken({}, os.getpid()) == activation.Sockets()
    os.close(500)


@pytest.mark.parametrize(
    ("names", "host", "settings", "said"),
    [
        ("http", "0.0.0.0", {}, "listens on 0.0.0.0 and host is 127.0.0.1, which only this machine reaches"),
        ("http:tls", "127.0.0.1", {}, "a socket for TLS, and tls_port is not set"),
        ("http:admin", "127.0.0.1", {}, "a socket for administration, and admin_port is not set"),
        ("http", "127.0.0.1", {"workers": 2, "redis_url": "redis://127.0.0.1:1"}, "one unit a core"),
    ],
)
def test_what_the_settings_say_otherwise_ends_the_start_with_a_line(names, host, settings, said):
    sockets = {name: listening(host) for name in names.split(":")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.edge.activated", names]
        + [",".join(str(each.fileno()) for each in sockets.values())]
        + [sys.executable, "-m", "realtime", "serve"]
        + [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if name == "workers"],
        env={**os.environ, **({"REDIS_URL": settings["redis_url"]} if settings else {})},
        cwd=ROOT,
        pass_fds=[each.fileno() for each in sockets.values()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    for each in sockets.values():
        each.close()
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# -- what systemd hears


def test_a_reload_has_a_beginning_and_an_end(activate, manager):
    with listening() as held:
        server = activate(http=held)
        manager.wait_for("READY")
        server.process.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC" in manager.wait_for("RELOADING", "1").fields
        assert manager.next().fields == {"READY": "1", "STATUS": "serving"}


def test_it_beats_as_often_as_systemd_wants_it_to(activate, manager):
    with listening() as held:
        server = activate({"WATCHDOG_USEC": "300000"}, http=held)
        for _ in range(5):
            assert manager.wait_for("WATCHDOG", "1").pid == server.pid
        os.kill(server.pid, signal.SIGSTOP)  # what hangs beats no more
        stopped(server.pid)
        manager.all()
        assert manager.hears_nothing(1.0)
        os.kill(server.pid, signal.SIGCONT)
        manager.wait_for("WATCHDOG", "1")


def stopped(pid):
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


async def test_a_supervisor_speaks_for_its_workers_and_ends_one_that_hangs(redis_cluster, manager):
    settings = {"redis_url": redis_cluster.url, "redis_prefix": f"t{free_port()}", "workers": 2, "node": "n"}
    server = Supervised(settings, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})
    try:
        assert manager.wait_for("READY", "1").pid == server.pid
        assert manager.wait_for("STATUS", "2 workers: 0 connections, 0 rooms").pid == server.pid
        async with connect(f"{server.ws_url}/alice") as ws:
            await receive(ws)
            manager.wait_for("STATUS", "2 workers: 1 connections, 0 rooms")
        worker = children(server.pid)[0]
        os.kill(worker, signal.SIGSTOP)
        server.wait_for_line(rf"pid {worker}\) hangs: silent for 3 s", timeout_s=60)
        server.wait_for_line(rf"pid {worker}\) was ended by SIGKILL", timeout_s=60)
        assert sorted(await on_each(server)) == ["n-1", "n-2"]
        assert {message.pid for message in manager.heard} == {server.pid}
    finally:
        server.finish()


class Supervised(Server):
    """A server with variables of its own."""

    def __init__(self, settings, environ):
        self._extra = environ
        super().__init__(settings)

    def _environ(self):
        return super()._environ() | self._extra


def children(pid):
    """The processes that `pid` has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        return [int(each) for each in listed.read().split()]
