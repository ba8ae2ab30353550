"""What does it cost that several workers are one server?

    python -m bench.cluster latency      publish -> deliver on another worker, by rate; saturation; Redis' CPU
    python -m bench.cluster scale        deliveries/s of two workers against one, interleaved
    python -m bench.cluster joins        rooms joined and left a second
    python -m bench.cluster resubscribe  all subscriptions cut: until they stand again
    python -m bench.cluster failover     no ack for how long, when a master is killed, stopped, or steps down
    python -m bench.cluster              all of them

Every run starts three Redis masters (for `failover` with replicas) and its workers, each on a port of its
own. Latency runs from when a message was due. Workers, Redis and the generator share the machine's cores, so
the CPU that each has used is printed beside what the clock says.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import report
from bench.build import BuildError
from bench.cluster_scene import Cost, Worker, cost, fail, load, redis_nodes, workers
from bench.cluster_trouble import failover, joins, resubscribe
from bench.generator import WrongResultError
from bench.raw import LostError
from bench.servers import ServerUnavailableError
from realtime.backends.redis_nodes import RedisCluster
from realtime.errors import StartupError

QUESTION = "what does it cost that several workers are one server?"
ROOMS = 16
WINDOW = 32
MESSAGE = '{"type":"publish","room":"events:r%r","content":{"m":"%m","pad":"%P"}}'
JOIN = '{"type":"join","id":1,"room":"events:r%r"}'
BOUNDS = {"max_connections_per_user": "1000"}


@dataclass(frozen=True)
class Measured:
    """One run of the generator, and what everybody has used meanwhile."""

    per_s: float
    sent_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    seconds: float
    worker_cpu_s: list[float]
    redis: Cost
    sent: int


def measured(nodes: RedisCluster, up: Sequence[Worker], options: dict[str, object], *flags: str) -> Measured:
    """Run the generator once. Its CPU and ours are counted over warm-up and drain, too, as its sends are."""
    given = {
        "path": "/ws/u%d",
        "init": JOIN,
        "ready": "joined",
        "message": MESSAGE,
        "size": 128,
        "warmup": 0.5,
        "nap": 100,
        **options,
    }
    before, cpu = cost(nodes), [worker.cpu_s for worker in up]
    told = load([worker.port for worker in up], given, *flags)
    used = [worker.cpu_s - was for worker, was in zip(up, cpu, strict=True)]
    connections, rooms = int(str(given["connections"])), int(str(given["rooms"]))
    late = told["latency_us"]
    return Measured(
        per_s=told["per_s"],
        sent_per_s=told["sent_per_s"],
        p50_ms=late["p50"] / 1e3,
        p99_ms=late["p99"] / 1e3,
        max_ms=late["max"] / 1e3,
        seconds=told["seconds"],
        worker_cpu_s=used,
        redis=cost(nodes).since(before),
        sent=told["delivered"] * rooms // connections,
    )


def latency(seconds: float, rounds: int, rates: Sequence[int]) -> dict[str, object]:
    """Each room has a sender on one worker and one more member on another."""
    print("  publish -> deliver on another worker, 16 rooms, 128 bytes")
    runs: dict[str, list[Measured]] = {}
    with redis_nodes() as nodes, workers(nodes.url, 2, **BOUNDS) as up:
        base = {"connections": 2 * ROOMS, "rooms": ROOMS, "publishers": ROOMS, "seconds": seconds}
        for _ in range(rounds):
            for rate in rates:
                own = base | {"rate": rate / ROOMS}
                runs.setdefault(f"{rate:,}/s", []).append(measured(nodes, up, own, "--far"))
            full = base | {"window": WINDOW}
            runs.setdefault("saturated", []).append(measured(nodes, up, full, "--far"))
    for name, found in runs.items():
        print(_latency_line(name, found))
    return dict(runs)


def _latency_line(name: str, runs: Sequence[Measured]) -> str:
    def middle(of: Callable[[Measured], float]) -> float:
        return statistics.median(map(of, runs))

    text = (
        f"{report.scaled(middle(lambda run: run.sent_per_s)):>6}/s  "
        f"p50 {middle(lambda run: run.p50_ms):6.2f}  p99 {middle(lambda run: run.p99_ms):6.2f}  "
        f"max {middle(lambda run: run.max_ms):6.1f} ms  "
        f"Redis {middle(lambda run: run.redis.cpu_s / run.sent * 1e6):.1f} us CPU, "
        f"{middle(lambda run: run.redis.call_us / run.sent):.1f} us in FCALL, "
        f"{middle(lambda run: run.sent / max(1, run.redis.calls)):.1f} a call"
    )
    return report.row(name, "", text, [run.p99_ms for run in runs])


def scale(seconds: float, rounds: int, members: int) -> dict[str, object]:
    """The same rooms and members on one worker and dealt out to two, one run after the other."""
    print(f"  deliveries/s, {ROOMS} rooms of {members // ROOMS} members")
    one: list[Measured] = []
    two: list[Measured] = []
    options: dict[str, object] = {"connections": members, "rooms": ROOMS, "publishers": 2 * ROOMS}
    options |= {"window": 64, "seconds": seconds}
    with redis_nodes() as nodes, workers(nodes.url, 2, **BOUNDS) as up:
        for _ in range(rounds):
            one.append(measured(nodes, up[:1], options))
            two.append(measured(nodes, up, options))
    for name, runs in (("one worker", one), ("two workers", two)):
        rates = [run.per_s for run in runs]
        cpu = " + ".join(
            f"{statistics.median(cpus):.2f}" for cpus in zip(*(run.worker_cpu_s for run in runs), strict=True)
        )
        busiest = statistics.median(_per_own_core(run) for run in runs)
        text = f"{report.scaled(statistics.median(rates)):>6}/s  workers' CPU {cpu} s  "
        text += f"{report.scaled(busiest)}/s of the busiest one's CPU"
        print(report.row(name, "", text, rates))
    ratio, least, most = report.ratio([run.per_s for run in two], [run.per_s for run in one])
    print(f"  by the clock x{ratio:.2f} ({least:.2f} to {most:.2f}): all share the cores of this machine")
    ratio, least, most = report.ratio(list(map(_per_own_core, two)), list(map(_per_own_core, one)))
    print(f"  with a core for each worker x{ratio:.2f} ({least:.2f} to {most:.2f}): by the busiest one's CPU")
    return {"one": one, "two": two}


def _per_own_core(run: Measured) -> float:
    """Deliveries a second of the busiest worker's CPU: the rate, were each on a core that is its own."""
    members = run.per_s / run.sent_per_s
    return run.sent * members / max(run.worker_cpu_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, keep; return 0, or 1 where a count did not come out, 2 where it cannot run."""
    parsed = _parser().parse_args(argv)
    seconds, rounds = (0.5, 1) if parsed.short else (parsed.seconds, parsed.rounds)
    verbs: dict[str, Callable[[], dict[str, object]]] = {
        "latency": lambda: latency(seconds, rounds, parsed.rates),
        "scale": lambda: scale(seconds, rounds, 160 if parsed.short else 1600),
        "joins": lambda: joins(rounds, 1000 if parsed.short else 20_000),
        "resubscribe": lambda: resubscribe(rounds, 2000 if parsed.short else parsed.resubscribed),
        "failover": lambda: failover(rounds),
    }
    print(report.headline("cluster", QUESTION, short=parsed.short), flush=True)
    kept: dict[str, object] = {}
    for verb in parsed.verbs or verbs:
        try:
            kept[verb] = verbs[verb]()
        except BuildError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 2
        except (ServerUnavailableError, StartupError, WrongResultError, LostError) as error:
            return fail(error)
    if not parsed.short:
        print(f"  kept in {report.keep('cluster', kept)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.cluster", description=QUESTION)
    verbs = ("latency", "scale", "joins", "resubscribe", "failover")
    parser.add_argument("verbs", nargs="*", metavar="VERB", help=f"of {', '.join(verbs)} (all)")
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured a run (3)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (3)")
    parser.add_argument("--rates", type=int, nargs="*", default=[1000, 10_000, 30_000], help="messages/s")
    parser.add_argument("--resubscribed", type=int, default=100_000, help="rooms (100000)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
