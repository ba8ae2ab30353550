"""`realtime dev-cluster`: a Redis Cluster of three masters and three replicas, until it is told to end."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Final

from realtime.backends.redis_nodes import RedisCluster

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(port_base: int, directory: Path | None) -> int:
    """Start the nodes, print what REDIS_URL is, wait for SIGTERM or SIGINT, end them; return the exit code.

    Ports are `port_base` to `port_base` + 5, or free ones where it is 0; files lie in `directory`, or on None
    in a temporary one that is removed at the end.

    Raises:
        StartupError: there is no redis-server, or it cannot start with these ports.
    """
    cluster = RedisCluster(port_base=port_base, directory=directory)
    # Blocked from here on: whoever is told to end while the nodes start ends them first.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    cluster.start()
    try:
        print(f"REDIS_URL={cluster.url}", flush=True)
        print(f"three masters, three replicas, in {cluster.directory}; ^C ends them", file=sys.stderr)
        signal.sigwait(STOP_SIGNALS)
    finally:
        cluster.remove()
    return 0
