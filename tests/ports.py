"""Ports for what tests start, where nobody else takes them in between.

The kernel deals out ports of its own range to connections, so a port of that range which is free now may be
somebody's before a server has it, or while a server is down that is to come back on it. These are below that
range, and below those of Redis (realtime/backends/redis_nodes.py). Each process of a parallel run has a part
of its own, and gives out none twice before it has been around.
"""

import contextlib
import itertools
import os
import random
import socket

FIRST, PARTS, PART = 10_000, 8, 1_200
_number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PARTS
# Whoever else runs tests on this machine began elsewhere.
_turn = itertools.count(random.SystemRandom().randrange(PART))


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that nobody listens on."""
    while True:
        wanted = [next(_turn) % PART for _ in range(count)]
        if wanted != list(range(wanted[0], wanted[0] + count)):
            continue  # around the end
        first = FIRST + _number * PART + wanted[0]
        with contextlib.ExitStack() as taken:
            try:
                for port in range(first, first + count):
                    taken.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
