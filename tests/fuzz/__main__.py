"""`python -m tests.fuzz`: fuzz a server for as long as you like, or play one batch again."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.conftest import Server
from tests.fuzz.drive import SETTINGS, fuzz, play


def main() -> int:
    """Run until the time is up or something undocumented happens; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="default: another each time"
    )
    parser.add_argument("--batch", metavar="SEED:N", help="play this one batch and no more")
    parsed = parser.parse_args()
    server = Server(dict(SETTINGS))
    try:
        if parsed.batch:
            print(dict(play(server, parsed.batch)))
        else:
            print(f"seed {parsed.seed}", flush=True)
            _run(server, parsed.seed, parsed.seconds)
    finally:
        server.finish()
    return 0


def _run(server: Server, seed: int, seconds: float) -> None:
    tally, said = None, time.monotonic()
    for tally in fuzz(server, seed, seconds):
        if time.monotonic() > said + 10:
            said = time.monotonic()
            print(tally, flush=True)
    print(tally)


if __name__ == "__main__":
    sys.exit(main())
