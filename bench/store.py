"""How many publications a second does a store keep, and how long does one wait for it?

    python -m bench.store [--short] [--seconds S] [--rounds N] [--only sqlite-normal,postgres]

In a closed loop: so many publishers, each with one row on its way, in 64 rooms; no socket and no fan-out is
in the figures. Time runs from append to the callback. Every row is counted in the store afterwards.
PostgreSQL is a server of our own with fsync on, in the temporary directory as the SQLite files are, or
POSTGRES_URL.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import report
from bench.run import bounded
from realtime.backends.store_postgres import open_postgres
from realtime.backends.store_sqlite import open_sqlite
from realtime.core.clock import SystemClock
from realtime.core.contracts import Position, Row, Store
from realtime.errors import Unavailable
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName

QUESTION = "how many rows a second does a store keep, and when is one kept?"
STORES = ("sqlite-normal", "sqlite-full", "postgres")
PUBLISHERS = (1, 64, 4096)
ROOMS = 64
PUSH = b'{"type":"chat_message","room":"chat:0","from":"alice","content":{"text":"' + b"x" * 160 + b'"}}'


@dataclass(frozen=True)
class Run:
    """One measured span. Latencies in milliseconds."""

    store: str
    publishers: int
    rows_per_second: float
    p50_ms: float
    p99_ms: float
    rows_per_group: float
    cpu_us_per_row: float


class Load:
    """`publishers` rows on their way at any time, until `stop`."""

    def __init__(self, store: Store, publishers: int, offsets: dict[RoomId, int]) -> None:
        self._store = store
        self._publishers = publishers
        self._offsets = offsets
        self._rooms = list(offsets)
        self._appended_at: dict[tuple[RoomId, int], float] = {}
        self._stopping = False
        self._stopped = asyncio.Event()
        self.waits_s: list[float] = []
        self.error: Unavailable | None = None

    def start(self) -> None:
        for number in range(self._publishers):
            self._append(self._rooms[number % len(self._rooms)])

    async def stop(self) -> None:
        self._stopping = True
        await self._stopped.wait()
        if self.error is not None:
            raise self.error

    def _append(self, room: RoomId) -> None:
        offset = self._offsets[room] = self._offsets[room] + 1
        self._appended_at[room, offset] = time.perf_counter()
        self._store.append(
            Row(room, Position(offset, self._store.epoch), PUSH, b'"alice"', None, 0), self._kept
        )

    def _kept(self, row: Row, error: Unavailable | None) -> None:
        began = self._appended_at.pop((row.room, row.position.offset))
        self.waits_s.append(time.perf_counter() - began)
        self.error = self.error or error
        if not self._stopping and error is None:
            self._append(row.room)
        elif not self._appended_at:
            self._stopped.set()


async def measure(name: str, place: str, publishers: int, seconds: float) -> Run:
    """Load one store for `seconds`, and count what is in it.

    Raises:
        RuntimeError: rows are missing, or there are more than were kept.
    """
    async with opened(name, place) as store:
        rooms = [RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}")) for number in range(ROOMS)]
        offsets = {room: (await store.remembered(room, 0)).offset for room in rooms}
        before = sum(offsets.values())
        load = Load(store, publishers, offsets)
        groups = store.stats()["store_groups_total"]
        cpu, began = time.process_time(), time.perf_counter()
        load.start()
        await asyncio.sleep(seconds)
        await load.stop()
        taken, cpu = time.perf_counter() - began, time.process_time() - cpu
        found = sum([(await store.remembered(room, 0)).offset for room in rooms]) - before
        rows = len(load.waits_s)
        if found != rows:
            raise RuntimeError(f"{name}: {rows} rows were kept, and {found} are there")
        waits = sorted(load.waits_s)
        return Run(
            store=name,
            publishers=publishers,
            rows_per_second=rows / taken,
            p50_ms=statistics.median(waits) * 1e3,
            p99_ms=waits[int(len(waits) * 0.99)] * 1e3,
            rows_per_group=rows / (store.stats()["store_groups_total"] - groups),
            cpu_us_per_row=cpu / rows * 1e6,
        )


@contextlib.asynccontextmanager
async def opened(name: str, place: str) -> AsyncIterator[Store]:
    """A store, open; `place` is a URL of PostgreSQL or a folder."""
    store: Store
    if name == "postgres":
        store = await open_postgres(place, synchronous="normal", clock=SystemClock())
    else:
        path = Path(place) / f"{name}.sqlite"
        synchronous = "full" if name == "sqlite-full" else "normal"
        store = await open_sqlite(path, synchronous=synchronous, clock=SystemClock())
    try:
        yield store
    finally:
        await store.close()


@contextlib.contextmanager
def postgres_url():
    """POSTGRES_URL, or a database on a server that runs as long as this."""
    if given := os.environ.get("POSTGRES_URL"):
        yield given
        return
    from tests.postgres import PostgresServer

    server = PostgresServer().start()
    try:
        yield uvloop.run(server.new_database())
    finally:
        server.remove()


def line(runs: Sequence[Run]) -> str:
    """One line of the report, from the rounds of one cell."""
    rates = [run.rows_per_second for run in runs]

    def middle(what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs)

    text = (
        f"{report.scaled(statistics.median(rates)):>6} rows/s   p50 {middle('p50_ms'):7.2f} ms   "
        f"p99 {middle('p99_ms'):7.2f} ms   {middle('rows_per_group'):6.0f} rows a group   "
        f"{middle('cpu_us_per_row'):.1f} us CPU a row"
    )
    return report.row(f"{runs[0].publishers} on their way", runs[0].store, text, rates)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out."""
    parser = argparse.ArgumentParser(prog="python -m bench.store", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--seconds", type=bounded(float, 0.2, 60), default=3.0, help="measured a run (3)")
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=3, help="interleaved rounds (3)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of {', '.join(STORES)}")
    parsed = parser.parse_args(argv)
    names = [name for name in parsed.only.split(",") if name] or list(STORES)
    if unknown := set(names) - set(STORES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(STORES)}")
    seconds, rounds = (0.3, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    print(report.headline("store", QUESTION, short=parsed.short), flush=True)
    cells: dict[tuple[str, int], list[Run]] = {
        (name, publishers): [] for publishers in PUBLISHERS for name in names
    }
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-bench-"))
        url = stack.enter_context(postgres_url()) if "postgres" in names else ""
        for _ in range(rounds):
            for (name, publishers), runs in cells.items():
                place = url if name == "postgres" else folder
                try:
                    runs.append(uvloop.run(measure(name, place, publishers, seconds)))
                except RuntimeError as error:
                    print(f"  {error}", file=sys.stderr)
                    return 1
    for runs in cells.values():
        print(line(runs))
    print(f"  kept in {report.keep('store', {'runs': [run for runs in cells.values() for run in runs]})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
