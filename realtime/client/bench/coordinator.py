"""A run from start to end: generator processes started, let go together, watched, their books added up."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from realtime.client.bench.plan import (
    Calibrated,
    Connected,
    Done,
    Go,
    Plan,
    Progress,
    Said,
    Start,
    Stop,
    Told,
)
from realtime.client.bench.result import Result, put_together
from realtime.client.bench.subject import Subject
from realtime.errors import RealtimeError
from realtime.native.tally import now_ns

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
# Between "go" and the first message: every process has read it by then.
LEAD_NS: Final = 200_000_000
# Nothing more for so long: what is missing then is lost.
QUIET_S: Final = 2.0

Message = TypeVar("Message")


class BenchFailed(RealtimeError):  # noqa: N818 - named like its siblings in realtime.errors
    """The load could not be made; the message says why."""

    code = "bench_failed"
    number = 500
    retryable = False


class Generators:
    """The processes of a run."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    @classmethod
    async def start(cls, plan: Plan, tokens: list[str]) -> Generators:
        """Start them, and let each connect its part."""
        command = (sys.executable, "-m", "realtime.client.bench.generator")
        started = [
            await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=LINE_BYTES_MAX)
            for _ in range(plan.processes)
        ]
        self = cls(started)
        for number, process in enumerate(started):
            self._tell(process, Start(plan, number, tokens))
        return self

    def tell(self, what: Told) -> None:
        """Tell all of them the same."""
        for process in self._processes:
            self._tell(process, what)

    async def hear(self, kind: type[Message], heed: Callable[[Progress], None]) -> list[Message]:
        """Wait for what each of them says of `kind`; what they say of their progress goes to `heed`.

        Raises:
            BenchFailed: one of them ended.
        """
        return list(await asyncio.gather(*(self._hear(each, kind, heed) for each in self._processes)))

    async def end(self) -> None:
        """End those that run on, and wait for all."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._processes))

    def _tell(self, process: Process, what: Told) -> None:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(what) + b"\n")

    async def _hear(self, process: Process, kind: type[Message], heed: Callable[[Progress], None]) -> Message:
        assert process.stdout is not None
        while True:
            line = await process.stdout.readline()
            if not line:
                raise BenchFailed(f"a generator ended with exit code {await process.wait()}")
            said: Said = msgspec.json.decode(line, type=Said)
            if isinstance(said, kind):
                return said
            if isinstance(said, Progress):
                heed(said)


async def run(
    plan: Plan,
    tokens: list[str],
    subject: Subject,
    heed: Callable[[Progress], None] = lambda told: None,
    on_calibrated: Callable[[Sequence[Calibrated]], None] = lambda told: None,
) -> Result:
    """Carry the plan out; `heed` hears of every second of every process, `on_calibrated` before all of that
    what each process can do by itself.

    Raises:
        BenchFailed: nobody could be connected, or a generator ended.
    """
    told: list[Progress] = []

    def note(progress: Progress) -> None:
        told.append(progress)
        heed(progress)

    before = await subject.usage()
    generators = await Generators.start(plan, tokens)
    try:
        calibrated = await generators.hear(Calibrated, note)
        on_calibrated(calibrated)
        connected = await generators.hear(Connected, note)
        if not sum(each.connections for each in connected):
            reasons = {reason: count for each in connected for reason, count in each.failures.items()}
            raise BenchFailed(
                f"nobody was let in: {', '.join(f'{count} x {why}' for why, count in reasons.items())}"
            )
        usage_connected = await subject.usage()
        began = now_ns() + LEAD_NS
        generators.tell(Go(began))
        span_s = LEAD_NS / 1e9 + plan.warmup_s + plan.duration_s
        hearing = asyncio.create_task(generators.hear(Done, note))
        await asyncio.wait([hearing], timeout=span_s)
        ended = await subject.usage()
        await _all_arrived(plan, connected, told, hearing)
        generators.tell(Stop())
        done = await hearing
    finally:
        await generators.end()
    usages = (before, usage_connected, usage_connected, ended)
    watched = len(subject.pids or subject.metrics)
    return put_together(plan, calibrated, connected, told, done, watched, usages)


async def _all_arrived(
    plan: Plan, connected: Sequence[Connected], told: list[Progress], hearing: asyncio.Task[list[Done]]
) -> None:
    """Wait until nothing arrives any more: for a moment where all has, else `QUIET_S` after the last."""
    quiet_since, last = now_ns(), -1
    while not hearing.done() and now_ns() - quiet_since < QUIET_S * 1e9:
        newest = {each.process: each for each in told}
        delivered = sum(each.delivered for each in newest.values())
        arriving = len(newest) == plan.processes and all(each.second < 0 for each in newest.values())
        if arriving and delivered == _expected(plan, connected, newest):
            return
        if delivered != last or not arriving:
            quiet_since, last = now_ns(), delivered
        await asyncio.wait([hearing], timeout=0.05)


def _expected(plan: Plan, connected: Sequence[Connected], newest: dict[int, Progress]) -> int:
    """How many deliveries there have to be where all rooms are alike; -1 where they are not: then the end is
    that nothing comes any more.
    """
    members = set(_members(connected).values())
    if len(members) != 1:
        return -1
    return members.pop() * sum(each.sent for each in newest.values())


def _members(connected: Sequence[Connected]) -> dict[str, int]:
    members: dict[str, int] = {}
    for each in connected:
        for room, count in each.members.items():
            members[room] = members.get(room, 0) + count
    return members
