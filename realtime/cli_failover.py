"""`realtime failover-watch`: have a dead Redis master replaced sooner."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from realtime.settings import Settings


def add_command(
    commands: Any,
    add_knobs: Callable[[argparse.ArgumentParser], None],
    read: Callable[[argparse.Namespace], Settings],
) -> None:
    """Add it to the parser's `commands`."""
    parser = commands.add_parser(
        "failover-watch",
        help="force the failover of a Redis master that is dead",
        description="Watch the Redis Cluster of REDIS_URL until SIGTERM, and ask a replica to take over from "
        "a master that is dead by our own tries and the word of most masters, who then vote: in tenths of "
        "a second instead of seconds. There may be several. See docs/failover.md.",
    )
    add_knobs(parser)

    def run(parsed: argparse.Namespace) -> int:
        settings = read(parsed)
        from realtime.edge import failover

        return failover.run(settings)

    parser.set_defaults(run=run)
