"""`python -m bench QUESTION...`: measure servers beside each other, and print figures anybody can repeat.

Every server runs pinned to core 0, the generator on core 1, in interleaved rounds with a fresh server each;
only processes that were started here are ended. `--short` is for CI: it proves in seconds that the programs
run and that every delivery is counted, and judges no time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench import pressure, questions
from bench.build import BuildError
from bench.compare import Options
from bench.servers import SERVERS

Number = TypeVar("Number", int, float)
QUESTIONS: dict[str, Callable[[Options], int]] = {
    "fanout": questions.fanout,
    "uncoalesced": questions.uncoalesced,
    "echo": questions.echo,
    "ack": questions.ack,
    "handshakes": questions.handshakes,
    "latency": questions.latency,
    "peers": questions.peers,
    "memory": pressure.memory,
    "saturated": pressure.saturated,
    "slow": pressure.slow,
}
SHORT = ("fanout", "uncoalesced", "echo", "ack", "handshakes", "latency", "memory", "saturated", "slow")


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the questions; return 0, or 1 where a count did not come out or a server of ours did not run."""
    parsed = _parser().parse_args(argv)
    only = tuple(name for name in parsed.only.split(",") if name)
    if unknown := set(only) - set(SERVERS):
        print(f"bench: unknown: {', '.join(sorted(unknown))}; known: {', '.join(SERVERS)}", file=sys.stderr)
        return 2
    options = Options(
        rounds=1 if parsed.short else parsed.rounds,
        seconds=parsed.seconds,
        short=parsed.short,
        independent=parsed.wsload,
        only=only or (("baseline", "baseline-uncoalesced", "hub", "realtime") if parsed.short else ()),
    )
    code = 0
    try:
        for name in parsed.questions or (SHORT if parsed.short else QUESTIONS):
            code = max(code, QUESTIONS[name](options))
    except BuildError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    lines = "\n".join(f"  {name:<12} {ask.__doc__}" for name, ask in QUESTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure servers beside each other.",
        epilog=f"questions (all, where none is named):\n{lines}\n\nservers:\n"
        + "\n".join(f"  {server.name:<22} {server.what}" for server in SERVERS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", choices=[*QUESTIONS, []])
    parser.add_argument("--rounds", type=bounded(int, 1, 50), default=4, help="interleaved rounds (4)")
    parser.add_argument("--seconds", type=bounded(float, 0.2, 60), default=3.0, help="measured a run (3)")
    parser.add_argument("--only", default="", metavar="A,B", help="only these servers")
    parser.add_argument("--short", action="store_true", help="a few seconds: counts are asserted, no time is")
    parser.add_argument("--wsload", action="store_true", help="let wsload, where present, generate the load")
    return parser


def bounded(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """Return what reads a number of a command line, and refuses one that is out of bounds."""

    def convert(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not within {least} to {most}")
        return value

    return convert


if __name__ == "__main__":
    sys.exit(main())
