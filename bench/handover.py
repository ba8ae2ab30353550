"""`python -m bench.handover`: live connections under traffic across `realtime upgrade`. Who notices what?

Members sit in rooms of different sizes. One of each room publishes at a fixed rate, numbered, each message
with the time it was due; some members read slowly. In the middle the service is upgraded, several times.
Counted are closes, publications that did not come, came twice or in another order, acks that did not come;
and for each connection how late the latest publication came, by when it was due, with an upgrade in the
window and without.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import report
from bench.raw import CLOSE, PING, PONG, TEXT, frame_at, masked, text_frame, upgrade
from bench.servers import realtime_command

PUSH = re.compile(rb'"content":\{"n":(\d+),"t":(\d+),')
ACK = re.compile(rb'^\{"type":"ack","id":(\d+)')
ROOMS = ((0.2, 1), (0.4, 10), (0.4, 100))  # shares of all connections, and over how many rooms
SLOW_EVERY = 50  # one in so many reads only now and then, a little
SLOW_BUFFER = 4096
SLOW_READ_S = 0.5
PAD = "x" * 100
WINDOW_S = 3.0  # in which an upgrade is looked at, from its order on


@dataclass(eq=False, slots=True)
class Member:
    """One connection: what came, what is expected next, and how late it was."""

    end: socket.socket
    room: int
    slow: bool
    data: bytearray = field(default_factory=bytearray)
    last: int = 0  # number of the last publication
    acked: int = 0
    late_ns: int = 0  # the latest in this window
    gap_ns: int = 0  # the longest without any
    heard_ns: int = 0
    ended: str = ""


@dataclass(slots=True)
class Counts:
    """What went wrong."""

    closed: int = 0
    lost: int = 0
    twice: int = 0
    out_of_order: int = 0
    acks_lost: int = 0
    received: int = 0


class Crowd:
    """All connections, on one epoll set."""

    def __init__(self, port: int, connections: int, rate: float) -> None:
        self.counts = Counts()
        self._poll = select.epoll()
        self._by_fd: dict[int, Member] = {}
        self.members: list[Member] = []
        self._every_ns = int(1e9 / rate)
        rooms = _rooms(connections)
        self._published = [0] * len(rooms)
        self._publishers: list[Member] = []
        self._due_ns: list[int] = []
        for room, size in enumerate(rooms):
            for number in range(size):
                member = self._connect(port, room, slow=number % SLOW_EVERY == SLOW_EVERY - 1)
                if not number:
                    self._publishers.append(member)
        self._slow = [each for each in self.members if each.slow]
        self._read_slow_at = 0.0

    def start(self) -> None:
        """Begin to publish, the rooms one after the other."""
        now = time.monotonic_ns()
        count = len(self._publishers)
        self._due_ns = [now + self._every_ns * room // count for room in range(count)]
        self.window()

    def window(self) -> list[int]:
        """Return how late the latest publication was for each connection, in ns, and begin anew."""
        now = time.monotonic_ns()
        found = [each.late_ns for each in self.members if not each.slow]
        for each in self.members:
            each.late_ns = each.gap_ns = 0
            each.heard_ns = now
        return found

    def gaps(self) -> list[int]:
        """Return for each connection the longest time without a publication, in ns."""
        return [each.gap_ns for each in self.members if not each.slow]

    def run(self, until: float, *, publish: bool = True) -> None:
        """Publish and read until then (monotonic seconds)."""
        while (now := time.monotonic()) < until:
            if publish:
                self._publish_due()
            for fd, _ in self._poll.poll(0.002):
                self._read(self._by_fd[fd], 65536)
            if now >= self._read_slow_at:
                self._read_slow_at = now + SLOW_READ_S
                for member in self._slow:
                    self._read(member, SLOW_BUFFER)

    def finish(self) -> None:
        """Read what is still to come, and count what did not."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until and not self._complete():
            self.run(time.monotonic() + 0.2, publish=False)
            for member in self._slow:
                self._read(member, 1 << 20)
        for member in self.members:
            if not member.ended:
                self.counts.lost += self._published[member.room] - member.last
        for room, publisher in enumerate(self._publishers):
            self.counts.acks_lost += self._published[room] - publisher.acked

    def close(self) -> None:
        """Let go of all."""
        for member in self.members:
            member.end.close()
        self._poll.close()

    def _complete(self) -> bool:
        return all(each.ended or each.last == self._published[each.room] for each in self.members)

    def _connect(self, port: int, room: int, *, slow: bool) -> Member:
        end = socket.socket()
        if slow:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        end.settimeout(30.0)
        end.connect(("127.0.0.1", port))
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.sendall(upgrade(f"/ws/u{len(self.members)}"))
        data = bytearray()
        while (head := data.find(b"\r\n\r\n")) < 0:
            data += end.recv(4096)
        join = {"type": "join", "id": 0, "room": f"events:h{room}"}
        end.sendall(text_frame(json.dumps(join).encode()))
        del data[: head + 4]
        while b'"type":"joined"' not in data:
            data += end.recv(65536)
        end.setblocking(False)
        member = Member(end, room, slow, data)
        self.members.append(member)
        self._by_fd[end.fileno()] = member
        if not slow:
            self._poll.register(end, select.EPOLLIN)
        self._take(member)
        return member

    def _publish_due(self) -> None:
        now = time.monotonic_ns()
        for room, due in enumerate(self._due_ns):
            if due > now:
                continue
            self._due_ns[room] = due + self._every_ns
            self._published[room] += 1
            number = self._published[room]
            said = (
                f'{{"type":"publish","id":{number},"room":"events:h{room}",'
                f'"content":{{"n":{number},"t":{due},"pad":"{PAD}"}}}}'
            )
            publisher = self._publishers[room]
            if not publisher.ended:
                publisher.end.setblocking(True)
                publisher.end.sendall(text_frame(said.encode()))
                publisher.end.setblocking(False)

    def _read(self, member: Member, size: int) -> None:
        if member.ended:
            return
        try:
            data = member.end.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(member, str(error))
            return
        if not data:
            self._end(member, "end of stream")
            return
        member.data += data
        self._take(member)

    def _take(self, member: Member) -> None:
        data, at = member.data, 0
        while (found := frame_at(data, at)) is not None and found[2] <= len(data):
            opcode, begin, at = found
            if opcode == TEXT:
                self._hear(member, data, begin, at)
            elif opcode == PING:
                member.end.send(masked(PONG, bytes(data[begin:at])))
            elif opcode == CLOSE:
                self._end(member, f"close {bytes(data[begin:at])!r}")
                return
        del data[:at]

    def _hear(self, member: Member, data: bytearray, begin: int, end: int) -> None:
        """Take one frame, in which several messages may be, one a line."""
        now = time.monotonic_ns()
        for line in bytes(data[begin:end]).split(b"\n"):
            push = PUSH.search(line)
            if push is not None:
                self._count(member, int(push[1]), now - int(push[2]), now)
            elif (ack := ACK.match(line)) is not None and int(ack[1]):
                member.acked += 1

    def _count(self, member: Member, number: int, late_ns: int, now: int) -> None:
        self.counts.received += 1
        if number <= member.last:
            self.counts.twice += 1
            return
        if number > member.last + 1:
            self.counts.out_of_order += 1
            self.counts.lost += number - member.last - 1
        member.last = number
        member.late_ns = max(member.late_ns, late_ns)
        if member.heard_ns:
            member.gap_ns = max(member.gap_ns, now - member.heard_ns)
        member.heard_ns = now

    def _end(self, member: Member, why: str) -> None:
        member.ended = why
        self.counts.closed += 1
        if not member.slow:
            self._poll.unregister(member.end)


def measure(connections: int, times: int, rate: float, settings: dict[str, str]) -> dict[str, Any]:
    """Return what was counted, and how late what was: by upgrade, and without any."""
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder), settings) as (port, ask):
        crowd = Crowd(port, connections, rate)
        try:
            crowd.start()
            crowd.run(time.monotonic() + 1.0)
            ordinary, upgrades = [], []
            for _ in range(times):
                crowd.window()
                crowd.run(time.monotonic() + WINDOW_S)
                ordinary.append((_of(crowd.gaps()), _of(crowd.window())))
                upgrades.append(_one_upgrade(crowd, ask))
            crowd.finish()
            why = sorted({each.ended for each in crowd.members if each.ended})[:5]
        finally:
            crowd.close()
    names = ("gap", "late")
    return {
        "connections": connections,
        "rooms": len(_rooms(connections)),
        "publications_per_second_and_room": rate,
        "counts": {name: getattr(crowd.counts, name) for name in Counts.__slots__},
        "why_closed": why,
        "ordinary_ms": [dict(zip(names, each, strict=True)) for each in ordinary],
        "upgrades_ms": upgrades,
    }


def _one_upgrade(crowd: Crowd, ask: Sequence[str]) -> dict[str, Any]:
    began = time.monotonic()
    upgrading = subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while upgrading.poll() is None:
        crowd.run(time.monotonic() + 0.05)
    took = time.monotonic() - began
    crowd.run(time.monotonic() + WINDOW_S)
    assert upgrading.stdout is not None
    said = upgrading.stdout.read().strip()
    if upgrading.returncode:
        raise RuntimeError(f"no upgrade: {said}")
    gaps = _of(crowd.gaps())
    return {"said": said, "took_s": round(took, 2), "gap": gaps, "late": _of(crowd.window())}


@contextlib.contextmanager
def _service(folder: Path, settings: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a service, and the command that upgrades it; whoever serves in the end is ended."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {"runtime_path": str(folder), "messages_per_second": "100000"} | settings
    process = subprocess.Popen(realtime_command(port, **given))
    try:
        _wait_for(port)
        yield (
            port,
            [sys.executable, "-m", "realtime", "upgrade", f"--port={port}", f"--runtime-path={folder}"],
        )
    finally:
        for path in folder.glob("*.sock"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.stem.rpartition("-")[2]), signal.SIGTERM)
        process.wait(30)


def _wait_for(port: int) -> None:
    until = time.monotonic() + 30.0
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def _rooms(connections: int) -> list[int]:
    """Return the sizes of the rooms."""
    sizes = []
    for share, count in ROOMS:
        count = min(count, max(1, int(connections * share) // 2))
        sizes += [int(connections * share) // count] * count
    return sizes


def _of(values: Sequence[int]) -> dict[str, float]:
    """Return the percentiles of nanoseconds, in ms."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "p50": round(cuts[49] / 1e6, 1),
        "p99": round(cuts[98] / 1e6, 1),
        "max": round(max(values) / 1e6, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m bench.handover", description=__doc__)
    parser.add_argument("--connections", type=int, default=5000, help="live ones (5000)")
    parser.add_argument("--times", type=int, default=3, help="upgrades in a row (3)")
    parser.add_argument("--rate", type=float, default=2.0, help="publications a second in each room (2)")
    parser.add_argument("--sqlite", action="store_true", help="with an SQLite store")
    parser.add_argument("--json", metavar="FILE", help="write it there, too")
    asked = parser.parse_args(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(report.headline("handover", "what do live connections notice of an upgrade?"))
    with tempfile.TemporaryDirectory() as folder:
        settings = {"sqlite_path": f"{folder}/realtime.sqlite3"} if asked.sqlite else {}
        found = measure(asked.connections, asked.times, asked.rate, settings)
    for number, (ordinary, done) in enumerate(
        zip(found["ordinary_ms"], found["upgrades_ms"], strict=True), start=1
    ):
        print(f"  upgrade {number}: {done['said']}; ordered and done in {done['took_s']} s")
        for name, words in (("late", "latest publication, after it was due"), ("gap", "longest silence")):
            print(f"    {words:38} ordinary {_line(ordinary[name])}   upgrade {_line(done[name])}")
    counts = found["counts"]
    print("  " + "   ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items()))
    for why in found["why_closed"]:
        print(f"    closed: {why}")
    if asked.json:
        Path(asked.json).write_text(json.dumps({"machine": report.machine(), **found}, indent=2) + "\n")
    return int(any(count for name, count in counts.items() if name != "received"))


def _line(values: dict[str, float]) -> str:
    return f"p50 {values['p50']:6.1f}  p99 {values['p99']:6.1f}  max {values['max']:6.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
