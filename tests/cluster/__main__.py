"""`python -m tests.cluster`: chaos over two hosts with workers and six Redis nodes, or a seed again."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.world import BrokenPromiseError
from tests.cluster.drive import ROOMS, SETTINGS, Outcome, Plan, Run
from tests.cluster.faults import FAULTS, OF_POSTGRES, Stage
from tests.cluster.hosts import Host
from tests.postgres import PostgresServer
from tests.redis_cluster import started_cluster


def main() -> int:
    """Run for so many seconds or until a promise is broken; return the exit code."""
    parsed = _parser().parse_args()
    plan = Plan(
        parsed.seed,
        seconds=parsed.seconds,
        members=parsed.members,
        sdk=parsed.sdk,
        rate=parsed.rate,
        faults=parsed.only,
    )
    print(f"seed {plan.seed}", flush=True)
    try:
        with cluster(parsed.workers, parsed.store) as scene:
            outcome = asyncio.run(scene.play(plan))
    except BrokenPromiseError as error:
        print(f"BROKEN: {error}", *error.__notes__, sep="\n", flush=True)
        print(f"again: python -m tests.cluster {' '.join(sys.argv[1:])} --seed {plan.seed}")
        return 1
    print("\n".join(report(outcome)))
    return 0


class Scene:
    """Hosts, Redis and perhaps PostgreSQL, all up."""

    def __init__(self, hosts: list[Host], redis: object, postgres: PostgresServer | None) -> None:
        self.hosts, self.redis, self.postgres = hosts, redis, postgres

    async def play(self, plan: Plan) -> Outcome:
        """Run the plan here."""

        def stage(world, rng):
            return Stage(world, self.hosts, ROOMS, rng, self.redis, self.postgres)

        durable = {"chat"} if self.postgres is not None else ()
        run = Run(plan, self.hosts, stage, durable, tell=lambda news: print(f"  {news}", flush=True))
        return await run.go()


@contextlib.contextmanager
def cluster(workers: int = 4, store: str = "none") -> Iterator[Scene]:
    """Start two hosts with half of the workers each, and 3 + 3 Redis nodes; logs are kept where it fails."""
    hosts: list[Host] = []
    with contextlib.ExitStack() as stack:
        redis = started_cluster()
        stack.callback(redis.remove)
        settings = {**SETTINGS, "redis_url": redis.url}
        postgres = None
        if store == "postgres":
            postgres = PostgresServer().start()
            stack.callback(postgres.remove)
            settings["postgres_url"] = asyncio.run(postgres.new_database())
        for number in range(2):
            hosts.append(Host(f"host-{'ab'[number]}", settings, max(1, workers // 2)))
            stack.callback(hosts[-1].end)
        try:
            yield Scene(hosts, redis, postgres)
        except BaseException:
            folder = Path(tempfile.mkdtemp(prefix="realtime-chaos-"))
            for host in hosts:
                host.keep_log(folder)
            for number, node in enumerate(redis.nodes):
                if node.log.exists():
                    shutil.copy(node.log, folder / f"redis-{number}-{node.port}.log")
            print(f"logs in {folder}", flush=True)
            raise
        for host in hosts:
            host.finish()


def report(outcome: Outcome) -> list[str]:
    """Return what happened, a line each."""
    counts = outcome.counts
    lines = [
        f"published {counts['sent']}, acked {counts['ack']} and {counts['duplicate']} again, "
        f"delivered {counts['push']}, recovered {counts['recovered']}, refused {counts['refused']}, "
        f"paged {counts['page']}, unavailable {counts['unavailable']}, no answer {counts['no answer']}",
        f"epochs {outcome.epochs}, members told of a new one {outcome.turns}, acked and lost with an epoch "
        f"{outcome.lost}, twice over epochs {outcome.doubled}, "
        f"gaps {sum(count for name, count in counts.items() if name.startswith('gap'))}",
    ]
    for kind, stalls_s in sorted(outcome.stalls_s.items()):
        p50, most = statistics.median(stalls_s) * 1000, max(stalls_s) * 1000
        lines.append(
            f"{kind:<24} x{outcome.faults[kind]:<4} stood still p50 {p50:6.0f} ms, max {most:6.0f} ms"
        )
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long there is trouble (120)")
    parser.add_argument("--workers", type=int, default=4, help="on both hosts together (4)")
    parser.add_argument("--members", type=int, default=12, help="clients (12)")
    parser.add_argument("--sdk", type=int, default=3, help="so many of them are our Python SDK (3)")
    parser.add_argument("--rate", type=float, default=300.0, help="publications/s of all together (300)")
    parser.add_argument("--store", choices=["none", "postgres"], default="none", help="(none)")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=[*FAULTS, *OF_POSTGRES], help="these faults; default: all"
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="default: another each time"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
