"""`python -m tests.cluster`: chaos over two hosts with workers and six Redis nodes, or a seed again."""

from __future__ import annotations

import argparse
import asyncio
import random
import shlex
import statistics
import sys

from tests.chaos.world import BrokenPromiseError
from tests.cluster.drive import SETTINGS, Outcome, Plan
from tests.cluster.faults import FAULTS, OF_NETWORK, OF_POSTGRES
from tests.cluster.network import possible
from tests.cluster.scene import scene


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
    if parsed.namespaces and (why := possible()):
        print(f"{why}: both hosts are on loopback, and the network is not split", flush=True)
        parsed.namespaces = False
    try:
        with scene(
            SETTINGS, workers=parsed.workers, store=parsed.store, namespaces=parsed.namespaces
        ) as here:
            outcome = asyncio.run(here.play(plan, lambda news: print(f"  {news}", flush=True)))
    except BrokenPromiseError as error:
        print(f"BROKEN: {error}", *error.__notes__, sep="\n", flush=True)
        given = [word for word in sys.argv[1:] if word not in ("--seed", str(plan.seed))]
        print(f"again: python -m tests.cluster {shlex.join([*given, '--seed', str(plan.seed)])}")
        return 1
    print("\n".join(report(outcome)))
    return 0


def report(outcome: Outcome) -> list[str]:
    """Return what happened, a line each."""
    counts = outcome.counts
    gaps = sum(count for name, count in counts.items() if name.startswith("gap"))
    lines = [
        f"published {counts['sent']}, acked {counts['ack']} and {counts['duplicate']} again, "
        f"delivered {counts['push']}, recovered {counts['recovered']}, refused {counts['refused']}, "
        f"paged {counts['page']}, unavailable {counts['unavailable']}, no answer {counts['no answer']}",
        f"epochs {outcome.epochs}, members told of a new one {outcome.turns}, gaps {gaps}; "
        f"acked and lost with an epoch {outcome.lost}, twice over epochs {outcome.doubled}, "
        f"signals that came twice {outcome.echoes}",
        f"owners wrote {outcome.written}, and changed {outcome.owners} times",
    ]
    for kind, stalls_s in sorted(outcome.stalls_s.items()):
        owners_s = outcome.owners_s[kind]
        still = f"rooms stood still p50 {_ms(stalls_s)} ms, commands p50 {_ms(owners_s)} ms"
        lines.append(f"{kind:<24} x{outcome.faults[kind]:<4} {still}")
    return lines


def _ms(spans_s: list[float]) -> str:
    return f"{statistics.median(spans_s) * 1000:5.0f}, max {max(spans_s) * 1000:5.0f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long there is trouble (120)")
    parser.add_argument("--workers", type=int, default=4, help="on both hosts together (4)")
    parser.add_argument("--members", type=int, default=12, help="clients (12)")
    parser.add_argument("--sdk", type=int, default=3, help="so many of them are our Python SDK (3)")
    parser.add_argument("--rate", type=float, default=300.0, help="publications/s of all together (300)")
    parser.add_argument("--store", choices=["none", "postgres"], default="none", help="(none)")
    parser.add_argument(
        "--namespaces",
        action="store_true",
        help="each host in a network namespace, for splits of the network (root); without a store",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        choices=[*FAULTS, *OF_NETWORK, *OF_POSTGRES],
        help="these faults; default: all",
    )
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="default: another each time"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
