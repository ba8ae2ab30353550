"""`python -m tests.chaos`: kill a server under chaotic clients as often as you like, or play a seed again."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.drive import chaos, on_postgres, on_sqlite
from tests.conftest import Server
from tests.postgres import PostgresServer


def main() -> int:
    """Run until the server has died so many times or a promise is broken; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how often the server is killed (200)")
    parser.add_argument("--members", type=int, default=12, help="clients (12)")
    parser.add_argument("--sdk", type=int, default=3, help="so many of them are our Python SDK (3)")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite", help="(sqlite)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 32), help="default: another each time"
    )
    parsed = parser.parse_args()
    print(f"seed {parsed.seed}", flush=True)
    with opened(parsed.store) as settings:
        server = Server(settings)
        try:
            run = chaos(
                server,
                parsed.seed,
                kills=parsed.kills,
                members=parsed.members,
                sdk=parsed.sdk,
                tell=lambda news: print(news, flush=True),
            )
            asyncio.run(run)
        finally:
            server.finish()
    return 0


@contextlib.contextmanager
def opened(store: str) -> Iterator[dict[str, object]]:
    """Yield the settings of a server that keeps durable rooms in a new file or a new database."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield on_sqlite(Path(folder))
        return
    postgres = PostgresServer().start()
    try:
        yield on_postgres(asyncio.run(postgres.new_database()))
    finally:
        postgres.remove()


if __name__ == "__main__":
    sys.exit(main())
