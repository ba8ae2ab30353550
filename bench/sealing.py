"""What does encryption at rest cost: a box, a publication, and the time until it is acked?

    python -m bench.sealing [--short] [--seconds S] [--rounds N] [--only boxes,sqlite,redis]

`boxes` seals and opens in one process, by size. `sqlite` and `redis` go through the whole server: C
connections with W publishes each on their way to a room of its own, once with rooms as they are and once with
all of them encrypted, in turns, each on a fresh server. What was acked is counted, and has to be found: in
SQLite in the file, after the server was killed; in Redis as the rooms' offsets. Redis is a server of our own
on any core.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import report
from bench.build import BuildError
from bench.durable import check, kept, offsets
from bench.generator import Load, Result, WrongResultError, measure
from bench.raw import LostError
from bench.servers import Server, ServerUnavailableError, Traffic, publish_ack, realtime_command, running
from realtime.backends.redis_nodes import RedisNode
from realtime.backends.sealing.box import DataKey, new_key
from realtime.backends.sealing.store import push_place
from realtime.core.contracts import Position
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName

QUESTION = "what does encryption at rest cost a publication, and how much later is it acked?"
STORES = ("sqlite", "redis")
SIZES = ((1, 1), (100, 1), (100, 16))  # connections, publishes under way on each
BOX_BYTES = (100, 300, 1_000, 10_000, 64_000)
POLICY = '[[rooms]]\nrooms = ["*"]\nencrypted = true\n'
WAYS = ("plain", "sealed")


class Places:
    """Where each run keeps its rows: a file of its own, or a prefix of its own in `redis`."""

    def __init__(self, folder: Path, redis: RedisNode | None) -> None:
        self.runs = 0
        self._folder = folder
        self._redis = redis
        self._policy = folder / "policy.toml"
        self._policy.write_text(POLICY)
        self._keys = f"bench:{base64.b64encode(os.urandom(32)).decode()}"

    def server(self, store: str, way: str) -> Server:
        """Return the server for one more run."""
        self.runs += 1
        settings: dict[str, str] = {}
        environ: dict[str, str] = {}
        if store == "sqlite":
            settings["sqlite_path"] = str(self._folder / f"{way}-{self.runs}.sqlite")
        else:
            assert self._redis is not None
            environ["REDIS_URL"] = self._redis.url
            settings["redis_prefix"] = f"bench-{os.getpid()}-{self.runs}"
        if way == "sealed":
            environ["REALTIME_ENCRYPTION_KEYS"] = self._keys
            settings["policy_path"] = str(self._policy)
        return Server(
            name=f"{store}-{way}",
            what="realtime serve",
            command=lambda port: realtime_command(port, **settings),
            room=Traffic("/ws"),
            environ=environ,
        )


def ask(store: str, way: str, connections: int, window: int, seconds: float, places: Places) -> Result:
    """Measure one cell on a fresh server, and count what it has kept.

    Raises:
        ServerUnavailableError, WrongResultError, LostError: see there.
    """
    server = places.server(store, way)
    durable = store == "sqlite"
    own = f"{'playlist' if durable else 'events'}:{os.getpid()}-{places.runs}-"
    traffic = publish_ack(f"{own}%d", "collaboration_edit" if durable else "publish")
    load = Load("echo", connections, window=window, seconds=seconds, warmup_s=min(0.5, seconds))
    rooms = [f"{own}{number}" for number in range(connections)]
    with running(server) as up:
        result = measure(up, traffic, load)
        if not durable:
            check(result, sum(offsets(up.port, rooms).values()), server.name)
            return result
        up.process.send_signal(signal.SIGKILL)
        up.process.wait()
    with running(server) as again:
        check(result, kept(again.port, rooms), server.name)
    return result


def line(way: str, runs: Sequence[Result], plain: Sequence[Result]) -> str:
    """One line of the report, from the rounds of one cell; `plain` are those without encryption."""
    rates = [run.per_s for run in runs]
    text = (
        f"{report.scaled(statistics.median(rates)):>6} acked/s  "
        f"p50 {statistics.median(run.p50_ms for run in runs):6.2f} ms  "
        f"p99 {statistics.median(run.p99_ms for run in runs):6.2f} ms  "
        f"{statistics.median(map(cpu_us, runs)):5.1f} us CPU"
    )
    if way != "plain":
        more = statistics.median(cpu_us(run) - cpu_us(bare) for run, bare in zip(runs, plain, strict=True))
        text += f" {more:+.1f}  x{report.ratio(rates, [run.per_s for run in plain])[0]:.2f} of plain"
    return report.row("", way, text, rates)


def cpu_us(run: Result) -> float:
    """Return microseconds of the server's processor time a publication: steady where rates are not."""
    return run.server_cpu_share / run.per_s * 1e6 if run.per_s else 0.0


def boxes(seconds: float) -> dict[int, tuple[float, float]]:
    """Return microseconds to seal a box and to open it, by size, with what it is bound to as for a row."""
    key = DataKey(DEFAULT_TENANT, 1, *new_key())
    room, found = RoomId(DEFAULT_TENANT, RoomName("chat:bench")), {}
    for size in BOX_BYTES:
        plain = os.urandom(size)
        times: list[list[float]] = [[], []]
        until = time.perf_counter() + seconds / len(BOX_BYTES)
        while time.perf_counter() < until:
            began = time.perf_counter()
            made = [key.seal(plain, push_place(room, Position(at, b"epoch"))) for at in range(100)]
            sealed = time.perf_counter()
            for at, box in enumerate(made):
                key.open(box, push_place(room, Position(at, b"epoch")))
            times[0].append((sealed - began) * 1e4)
            times[1].append((time.perf_counter() - sealed) * 1e4)
        found[size] = statistics.median(times[0]), statistics.median(times[1])
    return found


@contextlib.contextmanager
def opened(stores: Sequence[str]) -> Iterator[Places]:
    """Give every run its place; Redis is started where it is asked for."""
    with tempfile.TemporaryDirectory(prefix="realtime-bench-") as folder, contextlib.ExitStack() as ending:
        redis = None
        if "redis" in stores:
            home = Path(folder) / "redis"
            home.mkdir()
            redis = RedisNode(home)
            redis.start()
            ending.callback(redis.stop)
        yield Places(Path(folder), redis)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bench.sealing", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured a run (3)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--only", default="", metavar="A,B", help=f"of boxes, {', '.join(STORES)}")
    parsed = parser.parse_args(argv)
    wanted = [name for name in parsed.only.split(",") if name] or ["boxes", *STORES]
    if unknown := set(wanted) - {"boxes", *STORES}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: boxes, {', '.join(STORES)}")
    seconds, rounds = (0.3, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    print(report.headline("sealing", QUESTION, short=parsed.short), flush=True)
    if "boxes" in wanted:
        for size, (sealing, opening) in boxes(seconds).items():
            print(f"  a box of {size:6,} bytes: {sealing:6.2f} us to seal, {opening:6.2f} us to open")
    return measure_stores([name for name in STORES if name in wanted], seconds, rounds, short=parsed.short)


def measure_stores(stores: Sequence[str], seconds: float, rounds: int, *, short: bool) -> int:
    """Measure servers, print, keep; as `main`."""
    cells = {(store, size, way): [] for store in stores for size in SIZES for way in WAYS}
    runs: dict[tuple[str, tuple[int, int], str], list[Result]] = cells
    with opened(stores) as places:
        for _ in range(rounds):
            for (store, size, way), had in runs.items():
                try:
                    had.append(ask(store, way, *size, seconds, places))
                except BuildError as error:
                    print(f"bench: {error}", file=sys.stderr)
                    return 2
                except (ServerUnavailableError, WrongResultError, LostError) as error:
                    print(f"  {store} {way}: {error}", file=sys.stderr)
                    return 1
    for (store, size, way), had in runs.items():
        if way == "plain":
            print(f"  {store}: {size[0]} connections x {size[1]} under way")
        print(line(way, had, runs[store, size, "plain"]))
    if runs and not short:
        data = {f"{store} {size[0]}x{size[1]} {way}": had for (store, size, way), had in runs.items()}
        print(f"  kept in {report.keep('sealing', data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
