"""How many messages a second are acked, and how late, when an ack says that the message is on disk?

    python -m bench.durable [--short] [--seconds S] [--rounds N] [--only memory,sqlite-normal]

Through the whole server: C connections, each with W publishes on their way to a room of its own, and the push
of each to its sender on top. `memory` is the same load in rooms of a kind that is not durable, for what
durability costs. The generator counts every ack; then the server is killed, started again on what it has
left, and all history is paged: it has to hold exactly what was acked. PostgreSQL is a server of our own with
fsync on, on any core, or the database of POSTGRES_URL.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import report
from bench.build import BuildError
from bench.generator import Load, Result, WrongResultError, measure
from bench.raw import Client, LostError
from bench.servers import Server, ServerUnavailableError, Traffic, publish_ack, realtime_command, running

QUESTION = "how many messages a second are acked, and how late, when an ack means that it is kept?"
BACKENDS = ("memory", "sqlite-normal", "sqlite-full", "postgres")
SIZES = ((1, 1), (100, 1), (100, 16))  # connections, publishes under way on each
PAGE = 500


class Places:
    """Where each run keeps its rows: a file of its own, or the database that `postgres_url` returns."""

    def __init__(self, folder: Path, postgres_url: Callable[[], str]) -> None:
        self.runs = 0
        self._folder = folder
        self._postgres_url = postgres_url

    def server(self, backend: str) -> Server:
        """Return the server for one more run."""
        self.runs += 1
        settings, environ = {}, {}
        if backend == "postgres":
            environ = {"POSTGRES_URL": self._postgres_url()}
        elif backend != "memory":
            path = self._folder / f"{backend}-{self.runs}.sqlite"
            settings = {"sqlite_path": str(path), "store_synchronous": backend.removeprefix("sqlite-")}
        return Server(
            name=backend,
            what="realtime serve",
            command=lambda port: realtime_command(port, **settings),
            room=Traffic("/ws"),
            environ=environ,
        )


def ask(backend: str, connections: int, window: int, seconds: float, places: Places) -> Result:
    """Measure one cell on a fresh server, and count what it has kept.

    Raises:
        ServerUnavailableError, WrongResultError, LostError: see there.
    """
    server = places.server(backend)
    # Rooms of its own for each run: they may share a database.
    own = f"{'events' if backend == 'memory' else 'playlist'}:{os.getpid()}-{places.runs}-"
    traffic = publish_ack(f"{own}%d", "publish" if backend == "memory" else "collaboration_edit")
    load = Load("echo", connections, window=window, seconds=seconds, warmup_s=min(0.5, seconds))
    rooms = [f"{own}{number}" for number in range(connections)]
    with running(server) as up:
        result = measure(up, traffic, load)
        if backend == "memory":
            check(result, sum(offsets(up.port, rooms).values()), backend)
            return result
        up.process.send_signal(signal.SIGKILL)
        up.process.wait()
    with running(server) as again:
        check(result, kept(again.port, rooms), backend)
    return result


def check(result: Result, found: int, backend: str) -> None:
    """Raise WrongResultError unless as many are found as were acked."""
    if result.delivered != found:
        raise WrongResultError(f"{backend}: {result.delivered} were acked, and {found} are there")


def offsets(port: int, rooms: Sequence[str]) -> dict[str, int]:
    """Return how far each room is."""
    with Client(port, "reader") as client:
        return {room: client.ask({"type": "join", "id": room, "room": room})["offset"] for room in rooms}


def kept(port: int, rooms: Sequence[str]) -> int:
    """Page through the history of all rooms; return how many publications there are.

    Raises:
        WrongResultError: one is missing, or out of order.
    """
    found = 0
    with Client(port, "reader") as client:
        for room in rooms:
            client.ask({"type": "join", "id": room, "room": room})
            last, more = 0, True
            while more:
                asked = {"after": last, "limit": PAGE}
                page = client.ask({"type": "history", "id": f"{last}", "room": room, "content": asked})
                got = [message["offset"] for message in page["messages"]]
                if got != list(range(last + 1, last + 1 + len(got))):
                    raise WrongResultError(f"{room}: {got[:3]}… after {last}")
                more = page["more"]
                last += len(got)
            found += last
            client.ask({"type": "leave", "id": room, "room": room})
    return found


def line(backend: str, runs: Sequence[Result], memory: Sequence[Result]) -> str:
    """One line of the report, from the rounds of one cell; `memory` are the same rounds without a store."""
    rates = [run.per_s for run in runs]
    text = (
        f"{report.scaled(statistics.median(rates)):>6} acked/s  "
        f"p50 {statistics.median(run.p50_ms for run in runs):6.2f} ms  "
        f"p99 {statistics.median(run.p99_ms for run in runs):6.2f} ms  "
        f"server {statistics.median(run.server_cpu_share for run in runs):4.0%}"
    )
    if memory and backend != "memory":
        text += f"  x{report.ratio(rates, [run.per_s for run in memory])[0]:.2f} of memory"
    return report.row("", backend, text, rates)


@contextlib.contextmanager
def opened(backends: Sequence[str]) -> Iterator[Places]:
    """Give every run its place; PostgreSQL is started where it is asked for."""
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as folder:
        if "postgres" not in backends or "POSTGRES_URL" in os.environ:
            yield Places(Path(folder), lambda: os.environ["POSTGRES_URL"])
            return
        from tests.postgres import PostgresServer

        server = PostgresServer().start()
        try:
            yield Places(Path(folder), lambda: asyncio.run(server.new_database()))
        finally:
            server.remove()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bench.durable", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured a run (3)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(BACKENDS)}")
    parsed = parser.parse_args(argv)
    backends = [name for name in parsed.only.split(",") if name] or list(BACKENDS)
    if unknown := set(backends) - set(BACKENDS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BACKENDS)}")
    seconds, rounds = (0.3, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    print(report.headline("durable", QUESTION, short=parsed.short), flush=True)
    cells: dict[tuple[int, int], dict[str, list[Result]]] = {
        size: {backend: [] for backend in backends} for size in SIZES
    }
    with opened(backends) as places:
        for _ in range(rounds):
            for (connections, window), by_backend in cells.items():
                for backend, runs in by_backend.items():
                    try:
                        runs.append(ask(backend, connections, window, seconds, places))
                    except BuildError as error:
                        print(f"bench: {error}", file=sys.stderr)
                        return 2
                    except (ServerUnavailableError, WrongResultError, LostError) as error:
                        print(f"  {connections} x {window} {backend}: {error}", file=sys.stderr)
                        return 1
    for (connections, window), by_backend in cells.items():
        print(f"  {connections} connections x {window} under way")
        for backend, runs in by_backend.items():
            print(line(backend, runs, by_backend.get("memory", [])))
    if not parsed.short:
        data = {f"{connections}x{window}": runs for (connections, window), runs in cells.items()}
        print(f"  kept in {report.keep('durable', data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
