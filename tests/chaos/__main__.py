"""`python -m tests.chaos`: kill a server under chaotic clients as often as you like, or play a seed again."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.drive import chaos, settings
from tests.conftest import Server


def main() -> int:
    """Run until the server has died so many times or a promise is broken; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often the server is killed (200)")
    parser.add_argument("--members", type=int, default=12, help="clients (12)")
    parser.add_argument("--sdk", type=int, default=3, help="so many of them are our Python SDK (3)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="default: another each time"
    )
    parsed = parser.parse_args()
    print(f"seed {parsed.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(settings(Path(folder)))
        try:
            run = chaos(server, parsed.seed, kills=parsed.kills, members=parsed.members, sdk=parsed.sdk)
            print(asyncio.run(run))
        finally:
            server.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
