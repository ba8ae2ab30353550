"""What does a publication cost Redis, and the worker that sends it?

    python -m bench.redis_publish [--short] [--seconds S] [--rounds N]

One worker's broker without sockets, on a Redis of its own, subscribed to the rooms that it publishes to. A
room has one blob on its way at a time: so many publications, all accepted at once, then the next. Redis' own
clock gives the time in the function (commandstats) and the processor time of the whole server, with reading,
writing and telling the subscriber; both are divided by the publications. At the end every room's offset is
held against what was published there, and what came back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import report
from bench.run import bounded
from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.library import ensure, source
from realtime.backends.cluster.stream import RedisStream
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_nodes import RedisNode
from realtime.core.clock import SystemClock
from realtime.core.contracts import Terms
from realtime.core.kinds import RoomKind
from realtime.errors import StartupError
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName

QUESTION = "what does a publication cost Redis, alone and with others in a blob?"
SHAPES = {
    "1 a blob": (1, False),
    "1 a blob, with a key": (1, True),
    "8 a blob": (8, False),
    "64 a blob": (64, False),
}
ROOMS = 16
CHAT = RoomKind(name="chat")
CONTENT = b'{"text":"' + b"x" * 100 + b'"}'


class Stamp:
    """One time for all: to make it is not what is asked here."""

    timestamp = b"2025-07-15T10:30:00.123Z"


@dataclass(frozen=True)
class Run:
    """One measured span; microseconds a publication."""

    shape: str
    publications_per_second: float
    function_us: float
    server_us: float
    worker_us: float


class Publisher:
    """Publishes to one room in blobs of `batch` until it is stopped."""

    def __init__(self, broker: RedisBroker, number: int, batch: int, keyed: bool) -> None:
        self.published = self.delivered = 0
        self._batch = batch
        self._keyed = keyed
        key = RoomId(DEFAULT_TENANT, RoomName(f"chat:{number}"))
        self.stream: RedisStream = broker.open(key, CHAT, self._deliver)

    async def run(self, until: float) -> None:
        while time.perf_counter() < until:
            receipts = []
            for _ in range(self._batch):
                self.published += 1
                terms = Terms(key=str(self.published)) if self._keyed else None
                receipts.append(self.stream.publish("chat_message", b'"alice"', CONTENT, terms))
            await receipts[-1]

    async def check(self) -> None:
        """Raise RuntimeError unless every publication has a place and came back."""
        found = self.stream.recover(None)
        offset = found.offset if isinstance(found, tuple) else (await found).offset
        if not self.published == self.delivered == offset:
            raise RuntimeError(f"published {self.published}, delivered {self.delivered}, offset {offset}")

    def _deliver(self, push: bytes, offset: int) -> None:
        self.delivered += 1


async def measure(node: RedisNode, shape: str, seconds: float) -> Run:
    """Publish for `seconds`; what Redis has used is asked before and after."""
    batch, keyed = SHAPES[shape]
    client = RedisClient(node.url, on_missing_function=source)
    await client.start()
    await ensure(client)
    broker = RedisBroker(client, SystemClock(), Stamp(), worker="bench", prefix=f"bench-{time.time_ns()}")
    publishers = [Publisher(broker, number, batch, keyed) for number in range(ROOMS)]
    for publisher in publishers:
        found = publisher.stream.recover(None)
        if not isinstance(found, tuple):
            await found
    before, began, cpu = used(node), time.perf_counter(), time.process_time()
    await asyncio.gather(*(publisher.run(began + seconds) for publisher in publishers))
    took, cpu, after = time.perf_counter() - began, time.process_time() - cpu, used(node)
    count = sum(publisher.published for publisher in publishers)
    for publisher in publishers:
        await publisher.check()
    await broker.close()
    await client.close()
    function_us, server_us = ((b - a) / count for a, b in zip(before, after, strict=True))
    return Run(shape, count / took, function_us, server_us, cpu * 1e6 / count)


def used(node: RedisNode) -> tuple[float, float]:
    """Return microseconds so far: in functions, and of the whole server's processor time."""
    calls = node.ask("INFO", "commandstats").get("cmdstat_fcall", {"usec": 0})
    cpu = node.ask("INFO", "cpu")
    return calls["usec"], (cpu["used_cpu_user"] + cpu["used_cpu_sys"]) * 1e6


def line(runs: Sequence[Run]) -> str:
    """One line of the report, from the rounds of one shape."""

    def middle(what: str) -> float:
        return statistics.median(getattr(run, what) for run in runs)

    text = (
        f"{middle('function_us'):5.2f} us in the function   {middle('server_us'):5.2f} us of the server   "
        f"{middle('worker_us'):5.2f} us of the worker"
    )
    rate = f"{report.scaled(middle('publications_per_second'))}/s"
    return report.row(runs[0].shape, rate, text, [run.function_us for run in runs])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out."""
    parser = argparse.ArgumentParser(prog="python -m bench.redis_publish", description=QUESTION)
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--seconds", type=bounded(float, 0.2, 60), default=2.0, help="measured a run (2)")
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=3, help="interleaved rounds (3)")
    parsed = parser.parse_args(argv)
    seconds, rounds = (0.3, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    print(report.headline("redis_publish", QUESTION, short=parsed.short), flush=True)
    cells: dict[str, list[Run]] = {shape: [] for shape in SHAPES}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-bench-"))
        node = RedisNode(Path(folder))
        stack.callback(node.kill)
        try:
            node.start()
            for _ in range(rounds):
                for shape, runs in cells.items():
                    runs.append(uvloop.run(measure(node, shape, seconds)))
        except (RuntimeError, StartupError) as error:
            print(f"  {error}", file=sys.stderr)
            return 1
    for runs in cells.values():
        print(line(runs))
    data = {"runs": [run for runs in cells.values() for run in runs]}
    print(f"  kept in {report.keep('redis_publish', data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
