"""What came of a run: the machine, counts that must come out, percentiles, and what limited it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from realtime import __version__
from realtime.client.bench.plan import Calibrated, Connected, Done, Plan, Progress
from realtime.client.bench.subject import Usage
from realtime.native.tally import Histogram

PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)
# For the curve: each nine in ten steps.
CURVE: Final = tuple(100 - 50 * 10 ** (-step / 10) for step in range(41))
BUSY_SHARE: Final = 0.85
WAITED_SHARE: Final = 0.1
LATE_MS: Final = 5.0


class Latency(msgspec.Struct, frozen=True):
    """Durations in milliseconds. `curve` has pairs of percent and duration."""

    count: int
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    curve: list[tuple[float, float]]


class Second(msgspec.Struct):
    """One second of the run, all processes together; durations in milliseconds."""

    second: int
    connected: int = 0
    sent: int = 0
    delivered: int = 0
    acked: int = 0
    errors: int = 0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0
    late_p99: float = 0.0
    lag_p99: float = 0.0
    generator_cpu_share: float = 0.0


class Server(msgspec.Struct, frozen=True):
    """What the server used, where it could be watched. `cpu_us_per_connect` is what letting one in and into
    its room took, `cpu_us_per_connection_s` what each took in a second of the run, its messages included.
    """

    processes: int
    cpu_share: float
    cpu_us_per_delivery: float
    cpu_us_per_connect: float
    cpu_us_per_connection_s: float
    memory_before_bytes: int
    memory_connected_bytes: int
    memory_after_bytes: int
    memory_per_connection_bytes: float


class Generator(msgspec.Struct, frozen=True):
    """What made the load, and whether that was enough. Shares are of a core, for each process: in use, and
    waited for while others had it. `calibrated` is what each process can do by itself, `messages_per_s` what
    that comes to for messages of this plan with all that follows from them; 0: not known.
    """

    cpu_share: list[float]
    waited_share: list[float]
    loop_lag: Latency
    calibrated: list[Calibrated]
    messages_per_s: float
    limits: list[str]
    verdict: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run, whole. Where `generator.limits` says something, figures are the generator's."""

    machine: dict[str, str]
    when: str
    plan: Plan
    connections: int
    connect_failures: dict[str, int]
    connect_s: float
    connect: Latency
    join: Latency
    sent: int
    sent_per_s: float
    unsent: int
    acked: int
    delivered: int
    expected: int
    delivered_per_s: float
    lost: int
    duplicated: int
    gaps: int
    closed: dict[str, int]
    errors: dict[str, int]
    received_bytes: int
    ack: Latency
    delivery: Latency
    late: Latency
    seconds: list[Second]
    generator: Generator
    server: Server | None

    @property
    def ok(self) -> bool:
        """Whether everybody was let in and stayed, and everything arrived once and in order."""
        wrong = self.lost + self.duplicated + self.gaps + self.unsent
        return not (wrong or self.connect_failures or self.closed or self.errors) and self.connections > 0


def latency(dumps: Iterable[Sequence[int]]) -> Latency:
    """Put the histograms of several processes together."""
    whole = Histogram()
    for dump in dumps:
        whole.merge(dump)

    def at(percent: float) -> float:
        return round(whole.percentile(percent) / 1e6, 4)

    curve = [(round(percent, 4), at(percent)) for percent in CURVE] if whole.count else []
    return Latency(whole.count, at(50), at(90), at(99), at(99.9), round(whole.max_ns / 1e6, 4), curve)


def timeline(told: Iterable[Progress]) -> list[Second]:
    """Put the seconds of all processes together: counts become those of each second alone."""
    by_second: dict[int, list[Progress]] = {}
    for each in told:
        if each.second > 0:
            by_second.setdefault(int(each.second), []).append(each)
    rows = []
    before: Counter[str] = Counter()
    for number, parts in sorted(by_second.items()):
        spent, late = latency(part.lately for part in parts), latency(part.late for part in parts)
        lag = latency(part.lag for part in parts)
        sums = {
            name: sum(getattr(part, name) for part in parts)
            for name in ("sent", "delivered", "acked", "errors")
        }
        rows.append(
            Second(
                number,
                connected=sum(part.connected for part in parts),
                **{name: total - before[name] for name, total in sums.items()},
                p50=spent.p50,
                p99=spent.p99,
                max=spent.max,
                late_p99=late.p99,
                lag_p99=lag.p99,
                generator_cpu_share=round(max(part.cpu_share for part in parts), 3),
            )
        )
        before = Counter(sums)
    return rows


def expected(connected: Sequence[Connected], done: Sequence[Done]) -> int:
    """How many deliveries there have to be: what was sent to each room, times its members."""
    members: Counter[str] = Counter()
    for each in connected:
        members.update(each.members)
    return sum(count * members[room] for books in done for room, count in books.sent_by_room.items())


def limits(late: Latency, lag: Latency, busy: float, waited: float) -> list[str]:
    """Say why the generator, and not the server, set the figures; nothing where it did not."""
    found = []
    if busy > BUSY_SHARE:
        found.append(
            f"the generator was busy {_percent(busy)} of its core: the server may do more "
            "(deal the load out with --processes)"
        )
    if waited > WAITED_SHARE:
        found.append(
            f"the generator waited {_percent(waited)} of the time for a core that others had: give it one of "
            "its own, or a machine of its own"
        )
    if late.p99 > LATE_MS:
        found.append(
            f"1 in 100 messages was sent {late.p99:.1f} ms late or more: latencies have that in them, and it "
            "is not the server's"
        )
    elif lag.p99 > LATE_MS:
        found.append(
            f"1 time in 100 the generator looked {lag.p99:.1f} ms late or more: what came meanwhile counts "
            "as so late"
        )
    return found


def alone(plan: Plan, calibrated: Sequence[Calibrated]) -> float:
    """Return how many messages a second the generator can send, and take what follows from them: an ack, and
    a delivery to each member. 0 where that is not known.
    """
    if not calibrated or not all(each.send_us and each.read_us for each in calibrated):
        return 0.0
    send_us = sum(each.send_us for each in calibrated) / len(calibrated)
    read_us = sum(each.read_us for each in calibrated) / len(calibrated)
    cores = min(plan.processes, os.cpu_count() or 1)
    return round(cores * 1e6 / (send_us + read_us * (1 + plan.connections / plan.rooms)), 1)


def generator(plan: Plan, calibrated: Sequence[Calibrated], done: Sequence[Done], late: Latency) -> Generator:
    """Put together what made the load."""
    shares, waits = (
        [round(each.cpu_share, 3) for each in done],
        [round(each.waited_share, 3) for each in done],
    )
    lag = latency(each.lag for each in done)
    busy = max(shares, default=0.0)
    found = limits(late, lag, busy, max(waits, default=0.0))
    if found:
        verdict = "The generator was the limit, or may have been: figures are not the server's alone."
    else:
        verdict = (
            f"The generator was not the limit: busy {_percent(busy)} of its core, its loop late by "
            f"{lag.p99:.1f} ms (p99)."
        )
    return Generator(shares, waits, lag, list(calibrated), alone(plan, calibrated), found, verdict)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def server(
    plan: Plan, processes: int, usages: Sequence[Usage | None], connections: int, delivered: int
) -> Server | None:
    """What the server used: `usages` before anybody connected, when all had, when sending began, after it."""
    before, connected, began, ended = usages
    if before is None or connected is None or began is None or ended is None:
        return None
    spent_s, span_s = max(0.0, ended.cpu_s - began.cpu_s), plan.warmup_s + plan.duration_s
    there = max(1, connections)
    return Server(
        processes=processes,
        cpu_share=round(spent_s / span_s, 3),
        cpu_us_per_delivery=round(spent_s * 1e6 / delivered, 3) if delivered else 0.0,
        cpu_us_per_connect=round(max(0.0, connected.cpu_s - before.cpu_s) * 1e6 / there, 1),
        cpu_us_per_connection_s=round(spent_s * 1e6 / span_s / there, 1),
        memory_before_bytes=before.memory_bytes,
        memory_connected_bytes=connected.memory_bytes,
        memory_after_bytes=ended.memory_bytes,
        memory_per_connection_bytes=round((connected.memory_bytes - before.memory_bytes) / there, 1),
    )


def put_together(
    plan: Plan,
    calibrated: Sequence[Calibrated],
    connected: Sequence[Connected],
    told: Sequence[Progress],
    done: Sequence[Done],
    processes: int,
    usages: Sequence[Usage | None],
) -> Result:
    """Make the result of what all processes said."""
    due = expected(connected, done)
    delivered = sum(each.delivered for each in done)
    connections = sum(each.connections for each in connected)
    late = latency(each.late for each in done)
    return Result(
        machine=machine(),
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        plan=plan,
        connections=connections,
        connect_failures=_sum(each.failures for each in connected),
        connect_s=round(max(each.seconds for each in connected), 3),
        connect=latency(each.connect for each in connected),
        join=latency(each.join for each in connected),
        sent=sum(each.sent for each in done),
        sent_per_s=round(sum(each.sent_in_time for each in done) / plan.duration_s, 1),
        unsent=sum(each.unsent for each in done),
        acked=sum(each.acked for each in done),
        delivered=delivered,
        expected=due,
        delivered_per_s=round(sum(each.delivered_in_time for each in done) / plan.duration_s, 1),
        lost=max(0, due - delivered),
        duplicated=sum(each.duplicated for each in done),
        gaps=sum(each.skipped for each in done),
        closed=_sum(each.closed for each in done),
        errors=_sum(each.errors for each in done),
        received_bytes=sum(each.received_bytes for each in done),
        ack=latency(each.ack for each in done),
        delivery=latency(each.delivery for each in done),
        late=late,
        seconds=timeline(told),
        generator=generator(plan, calibrated, done, late),
        server=server(plan, processes, usages, connections, delivered),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    whole: Counter[str] = Counter()
    for each in counts:
        whole.update(each)
    return dict(whole.most_common(20))


def machine() -> dict[str, str]:
    """What figures depend on, of the machine that the load came from."""
    return {
        "realtime": __version__,
        "commit": _commit(),
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "load average": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _commit() -> str:
    """The commit of this checkout; "none" for an installed package."""
    folder = Path(__file__).resolve().parents[3]
    if shutil.which("git") is None or not (folder / ".git").exists():
        return "none"
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "none"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
