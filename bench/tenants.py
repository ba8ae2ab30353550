"""Does a tenant at ten times its quota slow another one down?

    python -m bench.tenants [--rounds N] [--seconds S] [--times 10] [--check]

One server, two tenants. The first publishes at a moderate fixed rate in rooms of ten, and its latency is
taken from when each message was due to when each member had it. The second has a quota of 1,000 messages and
20,000 deliveries a second, and sends `times` as much over 40 connections: single messages, frames of several,
and to a room of 200 members. Rounds without and with the second one take turns; each round's ratio is of its
own two.

The server has core 0. The generators share core 1, the second tenant's with the lowest priority: what is
measured must not wait for what is sent to disturb it. Where it may be had, the server and the first tenant's
generator have real-time priority, so that what else runs on the machine is not measured.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import msgspec

from bench import report
from bench.generator import Load, Result, read_report, start
from bench.raw import text_frame, upgrade
from bench.servers import GENERATOR_CORE, Running, Server, Traffic, pinned, realtime_command, running

QUESTION = "does a tenant at ten times its quota slow another one down?"
RATIO_MAX = 1.25
MESSAGES, DELIVERIES = 1000, 20_000  # a second: the quota of the one that floods
CROWD, SENDERS, BIG_ROOM = 240, 40, 200
SETTLE_S = 3.0  # the flood's burst is spent by then
SLICE_S = 0.01
ROOM = "events:r%r"
VICTIM = Load("fanout", 100, rooms=10, publishers=10, rate=20.0, warmup_s=0.5, nap_us=0)


@dataclass(frozen=True)
class Round:
    """The first tenant's figures without and with the flood, and what the flood got through."""

    quiet: Result
    beside: Result
    offered_per_s: float
    taken_per_s: float

    @property
    def ratio(self) -> float:
        return self.beside.p99_ms / self.quiet.p99_ms


def token(tenant: str, key: str) -> str:
    """Return a token of `tenant` for the length of a run."""
    claims = {"sub": "load", "tenant": tenant, "exp": time.time() + 86_400}
    return jwt.encode(claims, key, algorithm="HS256")


def server_of(folder: Path, key: str) -> Server:
    """Return the server with its quotas."""
    policy = folder / "policy.toml"
    policy.write_text(
        f"[tenants.flood]\nmessages_per_second = {MESSAGES}\ndeliveries_per_second = {DELIVERIES}\n"
        "burst_s = 1.0\n",
        encoding="utf-8",
    )
    settings = {
        "policy_path": str(policy),
        "max_connections_per_user": "10000",
        "tenant_metrics": "flood",
    }
    path = f"/ws?token={token('calm', key)}"
    message = f'{{"type":"publish","room":"{ROOM}","content":{{"m":"%m","pad":"%P"}}}}'
    return Server(
        name="realtime",
        what="realtime serve, two tenants",
        command=lambda port: [*hurried(), *realtime_command(port, **settings)],
        room=Traffic(path, message=message, init=f'{{"type":"join","id":1,"room":"{ROOM}"}}', ready="joined"),
        environ={"REALTIME_JWT_SECRET": key, "REALTIME_ALLOW_QUERY_TOKEN": "true"},
    )


# -- the flood: a process of its own ------------------------------------------------------------------------


class Flooder:
    """Connections that send what they are given, and throw away what comes."""

    def __init__(self, port: int, path: str, times: float) -> None:
        self._address = ("127.0.0.1", port)
        self._upgrade = upgrade(path)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._rooms: dict[int, str] = {}
        self._rest: dict[int, bytes] = {}  # of a frame that the kernel took a part of
        self._per_slice = MESSAGES * times * SLICE_S
        self.offered = 0
        self.closed = 0
        for number in range(CROWD):
            big = number % 4 == 0 if number < SENDERS else number < BIG_ROOM
            self._open("events:big" if big else f"events:small{number % 8}")

    def run(self) -> None:
        """Send on a fixed schedule until somebody ends the process."""
        began, slices, carried = time.monotonic(), 0, 0.0
        while True:
            slices += 1
            carried += self._per_slice
            for fd in list(self._sockets)[:SENDERS]:
                self._send(fd, int(carried / SENDERS))
            carried -= int(carried / SENDERS) * SENDERS
            self._read(max(0.0, began + slices * SLICE_S - time.monotonic()))

    def _open(self, room: str) -> None:
        connection = socket.create_connection(self._address)
        connection.sendall(self._upgrade)
        connection.sendall(text_frame(msgspec.json.encode({"type": "join", "room": room})))
        connection.setblocking(False)
        self._poll.register(connection, select.EPOLLIN)
        self._sockets[connection.fileno()], self._rooms[connection.fileno()] = connection, room

    def _send(self, fd: int, count: int) -> None:
        """Offer `count` messages; what the socket has no room for is lost to who offers it."""
        self.offered += count
        one = {"type": "publish", "room": self._rooms[fd], "content": {"pad": "x" * 100}}
        text = msgspec.json.encode(one)
        # Every second connection packs four into a frame.
        frames = text_frame(b"\n".join([text] * 4)) * (count // 4) if fd % 2 else text_frame(text) * count
        data = self._rest.pop(fd, b"") or frames
        try:
            sent = self._sockets[fd].send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._reopen(fd)
            return
        if sent < len(data):
            self._rest[fd] = data[sent:]

    def _read(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while True:
            for fd, _ in self._poll.poll(max(0.0, deadline - time.monotonic())):
                try:
                    if not self._sockets[fd].recv(1 << 18):
                        self._reopen(fd)
                except BlockingIOError:
                    continue
                except OSError:
                    self._reopen(fd)
            if time.monotonic() >= deadline:
                return

    def _reopen(self, fd: int) -> None:
        """Whoever is closed comes back at once: it is a flood."""
        self.closed += 1
        self._poll.unregister(fd)
        self._sockets.pop(fd).close()
        self._rest.pop(fd, None)
        self._open(self._rooms.pop(fd))


def flood(port: int, path: str, times: float) -> None:
    """Flood until SIGTERM, then print what was offered."""
    os.nice(19)
    flooder = Flooder(port, path, times)

    def end(*_: object) -> None:
        print(
            msgspec.json.encode({"offered": flooder.offered, "closed": flooder.closed}).decode(), flush=True
        )
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print("up", flush=True)
    flooder.run()


# -- rounds -------------------------------------------------------------------------------------------------


def hurried() -> list[str]:
    """What a command begins with that is to have real-time priority; nothing where that may not be had."""
    try:
        done = subprocess.run(["chrt", "-f", "1", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return [] if done.returncode else ["chrt", "-f", "1"]


def one_round(up: Running, load: Load, key: str, times: float) -> Round:
    """Measure without the flood, then with it."""
    hurry = bool(hurried())
    quiet = read_report(start(up, up.server.room, load, urgent=hurry), load)
    path = f"/ws?token={token('flood', key)}"
    command = [sys.executable, "-m", "bench.tenants", "--flood", str(up.port), path, str(times)]
    flooding = subprocess.Popen(pinned(GENERATOR_CORE, command), stdout=subprocess.PIPE, text=True)
    assert flooding.stdout is not None
    try:
        if flooding.stdout.readline() != "up\n":
            raise RuntimeError("the flood does not come about")
        time.sleep(SETTLE_S)
        before, began = taken(up.port), time.monotonic()
        beside = read_report(start(up, up.server.room, load, urgent=hurry), load)
        rate = (taken(up.port) - before) / (time.monotonic() - began)
    finally:
        flooding.terminate()
        said = flooding.communicate()[0]
    offered = msgspec.json.decode(said.strip() or b'{"offered":0}')["offered"]
    return Round(quiet, beside, offered / (time.monotonic() - began + SETTLE_S), rate)


def taken(port: int) -> float:
    """How many messages of the flooding tenant the server has taken so far."""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: raw.recv(65536), b"")).decode()
    start_ = 'realtime_tenant_messages_total{tenant="flood"} '
    return next(float(line.removeprefix(start_)) for line in text.splitlines() if line.startswith(start_))


def line(name: str, runs: Sequence[Result]) -> str:
    """Return the medians of some runs, and how far apart they are."""
    p50, p99 = [run.p50_ms for run in runs], [run.p99_ms for run in runs]
    spread = (max(p99) - min(p99)) / statistics.median(p99)
    cpu = statistics.median(run.server_cpu_share for run in runs)
    return (
        f"  {name:<16} p50 {statistics.median(p50):.3f} ms  p99 {statistics.median(p99):.3f} ms  "
        f"(spread {spread:.0%}, server {cpu:.0%} of a core)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the question; with --check, 1 where the answer is more than wanted."""
    parser = argparse.ArgumentParser(prog="python -m bench.tenants", description=QUESTION)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    options: Any = parser.parse_args(arguments)
    if options.flood:
        flood(int(options.flood[0]), options.flood[1], float(options.flood[2]))
    key = os.urandom(24).hex()
    load = Load(**{**VICTIM.__dict__, "seconds": options.seconds})
    rounds = []
    with tempfile.TemporaryDirectory() as folder, running(server_of(Path(folder), key)) as up:
        for number in range(options.rounds):
            rounds.append(one_round(up, load, key, options.times))
            print(f"round {number + 1}: {rounds[-1].ratio:.2f}", file=sys.stderr)
    ratios = [each.ratio for each in rounds]
    print(report.headline("tenants", QUESTION))
    print(line("alone", [each.quiet for each in rounds]))
    print(line("beside the flood", [each.beside for each in rounds]))
    offered = statistics.median(each.offered_per_s for each in rounds)
    got = statistics.median(each.taken_per_s for each in rounds)
    print(f"  the flood: {offered:,.0f} messages/s offered, {got:,.0f} taken, quota {MESSAGES:,}")
    middle = statistics.median(ratios)
    print(f"  p99 ratio {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), wanted <= {RATIO_MAX}")
    return 1 if options.check and middle > RATIO_MAX else 0


if __name__ == "__main__":
    sys.exit(main())
