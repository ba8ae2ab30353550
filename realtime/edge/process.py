"""What a worker asks of its process: log lines, open files, and a garbage collector out of the way."""

from __future__ import annotations

import gc
import logging
import os
import re
import resource
import signal
import socket
import sys
from typing import Final

from realtime.edge.logs import JsonFormatter, LimitedHandler, Redactor, TextFormatter, secrets_of
from realtime.errors import StartupError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# Beside the connections: listening sockets, epoll sets, logs, databases, HTTP requests being answered.
SPARE_FILES: Final = 128
CONNECTIONS_MAX: Final = 10_000_000
NODE_CHARS_MAX: Final = 32
# Collections of the youngest generation come after so many new containers. The default of 700 is a handful of
# handshakes; almost nothing of ours is cyclic, so a longer wait costs nothing.
GC_THRESHOLDS: Final = (50_000, 50, 100)


def configure_logging(settings: Settings, node: str = "") -> None:
    """Send log lines of `log_level` and worse to stderr, as text or as one JSON object a line.

    They name the `node` where one is given: where several workers write to one place.
    """
    handler = LimitedHandler(sys.stderr, settings.log_lines_per_second, settings.log_lines_burst)
    redact = Redactor(secrets_of(settings))
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    handler.setFormatter(formatter(node, redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())


def node_name(settings: Settings, number: int = 0) -> str:
    """Return what a worker is called: by the settings, or by the host; with its number, or its process id.

    Worker `number` of a supervisor keeps its name over restarts, and so does an instance of systemd's; 0 is a
    worker that nobody supervises.
    """
    numbered = number or settings.instance >= 0
    if settings.node and not numbered:
        return settings.node
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0]).strip("-") or "node"
    tail = f"-{number or (settings.instance if numbered else os.getpid())}"
    return (settings.node or host[:20])[: NODE_CHARS_MAX - len(tail)] + tail


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def worker_count(settings: Settings) -> int:
    """Return how many worker processes the settings ask for; `auto` is one a core that we may use.

    Raises:
        StartupError: more than one, or a port to share, and no Redis between them.
    """
    auto = settings.workers == "auto"
    count = len(os.sched_getaffinity(0)) if auto else int(settings.workers)
    if settings.redis_url:
        return count
    if count > 1:
        raise StartupError(
            f"{count} workers{' (auto: one a core)' if auto else ''} need a Redis between them, or members "
            "of one room would not see each other: set REDIS_URL (`realtime dev-cluster` starts one), or "
            "--workers 1"
        )
    if settings.share_port:
        raise StartupError(
            "share_port needs a Redis between those who share it, or members of one room would not see each "
            "other: set REDIS_URL"
        )
    return count


def connections_allowed(files: int, settings: Settings) -> int:
    """How many connections fit: `max_connections`, and never more than `files` open files leave room for."""
    room = max(1, min(files - SPARE_FILES, CONNECTIONS_MAX))
    return min(settings.max_connections, room) if settings.max_connections else room


def file_limit_warning(files: int, settings: Settings) -> str:
    """One line about `max_connections` not fitting into `files` open files; empty when it fits."""
    room = connections_allowed(files, settings)
    if settings.max_connections <= room:
        return ""
    return (
        f"max_connections is {settings.max_connections} but the open file limit leaves room for {room}; "
        "raise it (ulimit -n, LimitNOFILE= of systemd) or lower max_connections"
    )


def settle_gc() -> None:
    """Keep the collector away from what lives as long as the process. Call when all is built."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
