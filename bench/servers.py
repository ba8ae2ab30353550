"""The servers under measurement: how each is started, and how a generator talks to it.

A server runs as a child process pinned to core 0, on a port of its own, and is ended by its process id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.build import BENCH, BIN, program

ROOT = BENCH.parent
START_S = 20.0
STOP_S = 10.0
# Core 0 serves and core 1 generates; on a single core both share it, and the figures say less.
SERVER_CORE, GENERATOR_CORE = 0, min(1, (os.cpu_count() or 1) - 1)


class ServerUnavailableError(RuntimeError):
    """The server cannot run here: not built, not installed, or it ended while starting."""


@dataclass(frozen=True)
class Traffic:
    """What a connection says, as templates of the generators (the head of bench/c/load.c lists them)."""

    path: str
    message: str = '{"m":"%m","pad":"%P"}'
    init: str | None = None
    ready: str | None = None


@dataclass(frozen=True)
class Server:
    """One contestant. `room` is its fan-out, `echo` its native echo, `requests` its own request → reply."""

    name: str
    what: str
    command: Callable[[int], list[str]]
    room: Traffic
    echo: Traffic = Traffic("/echo")
    requests: Traffic | None = None
    idle: Traffic | None = None
    environ: Mapping[str, str] = field(default_factory=dict)  # secrets are taken from there alone


@dataclass(frozen=True)
class Running:
    """A started server."""

    server: Server
    port: int
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


def _python_module(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _peer(name: str, port: int) -> list[str]:
    return [str(peers_python(name)), str(BENCH / "peers" / f"{name}_room.py"), str(port)]


def peers_python(package: str) -> Path:
    """Return an interpreter that has the peer: BENCH_PEERS_PYTHON, or bench/bin/peers, made on demand.

    Raises:
        ServerUnavailableError: pip could not install it.
    """
    given = os.environ.get("BENCH_PEERS_PYTHON")
    python = Path(given) if given else BIN / "peers" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BIN / "peers")], check=True)
    found = subprocess.run([python, "-c", f"import {package}, uvloop"], capture_output=True, check=False)
    if found.returncode:
        done = subprocess.run([python, "-m", "pip", "install", "-q", package, "uvloop"], check=False)
        if done.returncode:
            raise ServerUnavailableError(f"pip could not install {package}")
    return python


def realtime_command(port: int, module: str = "realtime", **given: str) -> list[str]:
    """Return how to start our own server; without further settings it keeps nothing on the disk.

    `module` runs it: `realtime`, or one that adds features to it (bench/policies.py).
    """
    settings = {"port": str(port), "echo": "/echo", "log_level": "warning"}
    settings |= {"sqlite_path": "", "audit_path": ""} | given
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    return _python_module(module, "serve", *options)


_PUBLISH = '{"type":"publish","room":"events:r%r","content":{"m":"%m","pad":"%P"}}'
_JOIN = '{"type":"join","id":1,"room":"events:r%r"}'

SERVERS = {
    server.name: server
    for server in [
        Server(
            name="baseline",
            what="plain C, bench/c/room.c",
            command=lambda port: [str(program("room")), str(port)],
            room=Traffic("/room%r"),
        ),
        Server(
            name="baseline-uncoalesced",
            what="plain C, one send per delivery",
            command=lambda port: [str(program("room")), str(port), "--uncoalesced"],
            room=Traffic("/room%r"),
        ),
        Server(
            name="hub",
            what="the native hub, one trivial Python callback per inbound message",
            command=lambda port: _python_module("bench.hub_server", str(port)),
            room=Traffic("/room%r", init="join", ready="joined"),
        ),
        Server(
            name="realtime",
            what="realtime serve: the JSON protocol with everything on",
            command=realtime_command,
            room=Traffic("/ws/u%d", message=_PUBLISH, init=_JOIN, ready="joined"),
            requests=Traffic("/ws/u%d", message='{"type":"ping","id":"%m"}', ready="connected"),
            idle=Traffic("/ws/u%d", ready="connected"),
        ),
        Server(
            name="socketify",
            what="socketify: uWebSockets behind cffi",
            command=lambda port: _peer("socketify", port),
            room=Traffic("/room%r"),
        ),
        Server(
            name="picows",
            what="picows on uvloop",
            command=lambda port: _peer("picows", port),
            room=Traffic("/room%r"),
        ),
    ]
}


def policies_server(**settings: str) -> Server:
    """Return the server with rooms of every policy and priority, with these settings."""
    return Server(
        name="policies",
        what="realtime serve with rooms of every policy and priority",
        command=lambda port: realtime_command(port, "bench.policies", **settings),
        room=SERVERS["realtime"].room,
    )


# A publish that is acked, in a room of the sender's own: the push to itself comes on top of each ack.
def publish_ack(room: str, type_: str) -> Traffic:
    """Publishes to `room`, a template that gives each sender its own, each answered by its ack."""
    return Traffic(
        "/ws/u%d",
        message=f'{{"type":"{type_}","id":"%m","room":"{room}","content":{{"pad":"%P"}}}}',
        init=f'{{"type":"join","id":1,"room":"{room}"}}',
        ready="joined",
    )


PUBLISH_ACK = publish_ack("events:own%d", "publish")


def pinned(core: int, command: list[str]) -> list[str]:
    """Return `command` bound to `core`; as it is where there is no taskset."""
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command


def free_port() -> int:
    """Return a port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start `server`, yield it once it accepts connections, end it.

    Raises:
        ServerUnavailableError: it ended, or did not listen within START_S.
    """
    port = free_port()
    # Variables of the caller's own configuration must not decide a measurement.
    ours = ("REALTIME_", "MAX_WS_", "WS_", "MESSAGE_", "NOTIFICATION_", "REDIS_", "POSTGRES_")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environ |= {"PYTHONPATH": str(ROOT), **server.environ}
    command = pinned(SERVER_CORE, server.command(port))
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would stop a talkative server
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        try:
            _await_listener(server, process, port, log)
            yield Running(server, port, process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_listener(server: Server, process: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            raise ServerUnavailableError(f"{server.name} ended with {process.returncode}: {said[-500:]}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise ServerUnavailableError(f"{server.name} does not listen on port {port} after {START_S:.0f} s")
