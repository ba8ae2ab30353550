"""How long until everybody is back, when all connections break at once and each has missed messages?

    python -m bench.storm [--clients 5000] [--behind 200] [--rounds N] [--short]

All clients are members of rooms of 100. They are cut together, `behind` messages are published to each room,
and all come back at once with `join {since}`. Time runs for every client from the moment when the first one
tries, until it has its whole `joined`; afterwards each answer is read and counted: every message that was
missed, in order, with what was published in it. Twice: out of the rooms' memory (an ephemeral kind), and out
of the store after the server has been killed and started again (a durable kind, SQLite).

The clients are one Python process on one epoll set, on core 1; its share of that core is printed, because
above 95 % it is what is being measured.
"""

from __future__ import annotations

import argparse
import os
import resource
import select
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import report
from bench.raw import TEXT, Client, LostError, frame_at, text_frame, upgrade
from bench.servers import (
    GENERATOR_CORE,
    Running,
    Server,
    ServerUnavailableError,
    Traffic,
    realtime_command,
    running,
)

QUESTION = "how long until everybody has what they missed, when all come back at once?"
MEMBERS = 100
STORM_S = 60.0
# So many connect between two looks at what has come. Each client of a real storm has a kernel of its own that
# answers at once; 5,000 connects in one go leave as many half open, more than the server's kernel holds, and
# what is measured then is how long SYNs take to be sent again: 1 s, 3 s, 7 s.
TOGETHER = 64
BATCH = 50  # publications in one frame
KINDS = {"ring": ("events", "publish"), "store": ("playlist", "collaboration_edit")}


class WrongResultError(RuntimeError):
    """Somebody did not get what was missed: all of it, in order."""


@dataclass(frozen=True)
class Run:
    """One storm. Times in milliseconds from its beginning."""

    last_ms: float
    p50_ms: float
    p99_ms: float
    handshakes_per_s: float
    server_cpu_s: float
    server_peak_mb: float
    client_cpu_share: float
    megabytes: float
    overflows: int  # connects that the kernel's queue of 4096 had no place for: each costs a second


class Comer:
    """One client of the storm."""

    __slots__ = ("data", "done_s", "join", "path", "socket", "stands_s", "upgraded")

    def __init__(self, number: int, join: bytes) -> None:
        self.path = f"/ws/u{number}"
        self.join = join
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.data = bytearray()
        self.upgraded = False
        self.stands_s = self.done_s = 0.0

    def connect(self, port: int) -> None:
        """Begin to connect."""
        self.socket.connect_ex(("127.0.0.1", port))

    def writable(self) -> None:
        """It is connected: shake hands."""
        self.socket.send(upgrade(self.path))

    def readable(self, now: float) -> bool:
        """Read what is there; return whether it has its answer."""
        try:
            while data := self.socket.recv(1 << 18):
                self.data += data
        except BlockingIOError:
            pass
        else:
            raise WrongResultError(f"{self.path}: the server closed: {bytes(self.data[-200:])!r}")
        if not self.upgraded:
            if b"\r\n\r\n" not in self.data:
                return False
            if not self.data.startswith(b"HTTP/1.1 101 "):
                raise WrongResultError(f"{self.path}: refused: {bytes(self.data[:200])!r}")
            self.upgraded, self.stands_s = True, now
            self.socket.send(text_frame(self.join))
            del self.data[: self.data.index(b"\r\n\r\n") + 4]
        return self._joined() is not None

    def answer(self) -> bytes:
        """Return the `joined` that it was waiting for."""
        found = self._joined()
        assert found is not None
        return bytes(self.data[found[0] : found[1]])

    def _joined(self) -> tuple[int, int] | None:
        """Return where the whole `joined` is, None while it is not there."""
        at = 0
        while (found := frame_at(self.data, at)) is not None:
            opcode, begin, end = found
            if end > len(self.data):
                return None
            if opcode == TEXT and self.data.startswith(b'{"type":"joined"', begin):
                return begin, end
            at = end
        return None


def storm(port: int, joins: Sequence[bytes]) -> tuple[list[Comer], float]:
    """Connect everybody at once and wait until all have their answers; return them, and when it began.

    Raises:
        WrongResultError: somebody was refused or cut, or it took longer than STORM_S.
    """
    comers = [Comer(number, join) for number, join in enumerate(joins)]
    crowd = Crowd(comers)
    try:
        for number, comer in enumerate(comers, start=1):
            comer.connect(port)
            crowd.add(comer)
            if number % TOGETHER == 0:
                crowd.look(0.0)
        while crowd.waiting:
            crowd.look(1.0)
            if time.perf_counter() > crowd.began + STORM_S:
                raise WrongResultError(f"{crowd.waiting} clients wait after {STORM_S:.0f} s")
    finally:
        crowd.close()
    return comers, crowd.began


class Crowd:
    """The epoll set of a storm. `waiting` counts who has not got its answer."""

    def __init__(self, comers: Sequence[Comer]) -> None:
        self.waiting = len(comers)
        self._by_fd: dict[int, Comer] = {}
        self._connected: set[int] = set()
        self._epoll = select.epoll(len(comers))
        self.began = time.perf_counter()

    def add(self, comer: Comer) -> None:
        """Watch one that has begun to connect."""
        fd = comer.socket.fileno()
        self._by_fd[fd] = comer
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def look(self, wait_s: float) -> None:
        """Do what there is to do; wait so long for something to do."""
        events = self._epoll.poll(wait_s, 512)
        now = time.perf_counter()
        for fd, event in events:
            comer = self._by_fd[fd]
            if event & select.EPOLLOUT and fd not in self._connected:
                self._connected.add(fd)
                comer.writable()
            if event & select.EPOLLIN and not comer.done_s and comer.readable(now):
                comer.done_s = time.perf_counter()
                self.waiting -= 1

    def close(self) -> None:
        """Watch nobody any more."""
        self._epoll.close()


class Missed(msgspec.Struct):
    """What is checked of a publication."""

    offset: int
    epoch: str
    content: dict[str, Any]


class Joined(msgspec.Struct):
    """What is checked of a `joined`."""

    offset: int
    epoch: str
    recovered: bool
    messages: list[Missed]


class Answer(msgspec.Struct):
    """A `joined`."""

    content: Joined


def check(comers: Sequence[Comer], since: Sequence[tuple[int, str]], behind: int) -> int:
    """Check every answer; return how many messages they hold together.

    Raises:
        WrongResultError: a client did not get every message that it had missed, in order.
    """
    decode = msgspec.json.Decoder(Answer).decode
    for comer, (offset, epoch) in zip(comers, since, strict=True):
        joined = decode(comer.answer()).content
        got = [(one.offset, one.epoch, one.content["n"]) for one in joined.messages]
        wanted = [(offset + number, epoch, number) for number in range(1, behind + 1)]
        if not joined.recovered or got != wanted:
            raise WrongResultError(
                f"{comer.path}: recovered {joined.recovered} at {joined.epoch}/{joined.offset}, "
                f"{len(got)} messages since {epoch}/{offset}, not {behind} in order"
            )
    return len(comers) * behind


def measure(source: str, clients: int, behind: int, folder: Path) -> Run:
    """Make one storm against a fresh server.

    Raises:
        ServerUnavailableError, WrongResultError, LostError: see there.
    """
    kind, type_ = KINDS[source]
    rooms = [f"{kind}:r{number}" for number in range(max(1, clients // MEMBERS))]
    options = {
        "sqlite_path": str(folder / f"storm-{time.monotonic_ns()}.sqlite"),
        "history_messages": str(max(1000, behind)),
    }
    server = Server(
        name="realtime", what="", command=lambda port: realtime_command(port, **options), room=Traffic("/ws")
    )
    with running(server) as up:
        await_service(up.port)
        everybody = [msgspec.json.encode({"type": "join", "id": 1, "room": room}) for room in rooms]
        joins = [everybody[number % len(rooms)] for number in range(clients)]
        before, _ = storm(up.port, joins)
        places = [msgspec.json.decode(comer.answer())["content"] for comer in before]
        since = [(place["offset"], place["epoch"]) for place in places]
        for comer in before:
            comer.socket.close()
        publish(up.port, rooms, type_, behind)
        if source == "ring":
            return _measure(up, clients, rooms, since, behind)
        up.process.send_signal(signal.SIGKILL)
        up.process.wait()
    with running(server) as up:
        await_service(up.port)
        return _measure(up, clients, rooms, since, behind)


def await_service(port: int) -> None:
    """Return when the server answers: it listens a moment earlier."""
    with Client(port, "first") as client:
        client.read()


def publish(port: int, rooms: Sequence[str], type_: str, behind: int) -> None:
    """Publish so many messages to every room, each acked."""
    with Client(port, "publisher") as client:
        for room in rooms:
            client.ask({"type": "join", "id": room, "room": room})
            for first in range(1, behind + 1, BATCH):
                numbers = range(first, min(first + BATCH, behind + 1))
                client.send(
                    *(
                        {"type": type_, "id": n, "room": room, "content": {"n": n, "text": "x" * 100}}
                        for n in numbers
                    )
                )
                missing = set(numbers)
                while missing:
                    said = client.read()
                    if said["type"] == "error":
                        raise WrongResultError(f"{room}: {said}")
                    if said["type"] == "ack":
                        missing.discard(said["id"])


def _measure(
    up: Running, clients: int, rooms: Sequence[str], since: Sequence[tuple[int, str]], behind: int
) -> Run:
    joins = [
        msgspec.json.encode(
            {
                "type": "join",
                "id": 1,
                "room": rooms[number % len(rooms)],
                "content": {"since": {"offset": offset, "epoch": epoch}},
            }
        )
        for number, (offset, epoch) in enumerate(since)
    ]
    reset_peak(up.pid)
    cpu, own, dropped = cpu_s(up.pid), time.process_time(), overflows()
    comers, began = storm(up.port, joins)
    took = time.perf_counter() - began
    cpu, own = cpu_s(up.pid) - cpu, time.process_time() - own
    peak = peak_mb(up.pid)
    check(comers, since, behind)
    megabytes = sum(len(comer.data) for comer in comers) / 1e6
    for comer in comers:
        comer.socket.close()
    arrived = sorted((comer.done_s - began) * 1e3 for comer in comers)
    return Run(
        last_ms=arrived[-1],
        p50_ms=statistics.median(arrived),
        p99_ms=arrived[int(len(arrived) * 0.99)],
        handshakes_per_s=clients / (max(comer.stands_s for comer in comers) - began),
        server_cpu_s=cpu,
        server_peak_mb=peak,
        client_cpu_share=own / took,
        megabytes=megabytes,
        overflows=overflows() - dropped,
    )


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, all threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def reset_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pid: int) -> float:
    """Return the peak of resident memory since `reset_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def overflows() -> int:
    """Return how many connections this machine has turned away because a listener's queue was full."""
    names, values = Path("/proc/net/netstat").read_text().splitlines()[:2]
    return int(values.split()[names.split().index("ListenOverflows")])


def line(source: str, runs: Sequence[Run]) -> str:
    """One line of the report."""

    def middle(figure: Callable[[Run], float]) -> float:
        return statistics.median(map(figure, runs))

    dropped = sum(run.overflows for run in runs)
    share = middle(lambda run: run.client_cpu_share)
    text = (
        f"the last after {middle(lambda r: r.last_ms):5.0f} ms  p50 {middle(lambda r: r.p50_ms):5.0f}  "
        f"p99 {middle(lambda r: r.p99_ms):5.0f}  "
        f"{report.scaled(middle(lambda r: r.handshakes_per_s))} handshakes/s  "
        f"server {middle(lambda r: r.server_cpu_s):.2f} CPU s, "
        f"peak {middle(lambda r: r.server_peak_mb):.0f} MB  {middle(lambda r: r.megabytes):.0f} MB sent, "
        f"clients' CPU {share:.0%}" + (f", {dropped} SYNs dropped" if dropped else "")
    )
    return report.row(f"from the {source}", "realtime", text, [run.last_ms for run in runs])


def main(argv: Sequence[str] | None = None) -> int:
    """Make the storms, print, keep; return 0, or 1 where somebody did not get everything."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=QUESTION)
    parser.add_argument("--clients", type=int, default=5000, help="who come back at once (5000)")
    parser.add_argument("--behind", type=int, default=200, help="messages that each has missed (200)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parsed = parser.parse_args(argv)
    clients = min(parsed.clients, 200) if parsed.short else parsed.clients
    behind = min(parsed.behind, 20) if parsed.short else parsed.behind
    rounds = 1 if parsed.short else parsed.rounds
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    os.sched_setaffinity(0, {GENERATOR_CORE})
    print(report.headline("storm", f"{QUESTION} {clients} clients, {behind} behind", short=parsed.short))
    runs: dict[str, list[Run]] = {source: [] for source in KINDS}
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as folder:
        for _ in range(rounds):
            for source, those in runs.items():
                try:
                    those.append(measure(source, clients, behind, Path(folder)))
                except (ServerUnavailableError, WrongResultError, LostError) as error:
                    print(f"  from the {source}: {error}", file=sys.stderr)
                    return 1
    for source, those in runs.items():
        print(line(source, those))
    if not parsed.short:
        print(f"  kept in {report.keep('storm', {'clients': clients, 'behind': behind, 'runs': runs})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
