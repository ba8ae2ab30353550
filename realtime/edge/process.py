"""What a worker asks of its process: log lines, open files, and a garbage collector out of the way."""

from __future__ import annotations

import gc
import json
import logging
import resource
import sys
import time
from typing import Final

from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

# Beside the connections: listening sockets, epoll sets, logs, databases, HTTP requests being answered.
SPARE_FILES: Final = 128
CONNECTIONS_MAX: Final = 10_000_000
# Collections of the youngest generation come after so many new containers. The default of 700 is a handful of
# handshakes; almost nothing of ours is cyclic, so a longer wait costs nothing.
GC_THRESHOLDS: Final = (50_000, 50, 100)


def configure_logging(settings: Settings) -> None:
    """Send log lines of `log_level` and worse to stderr, as text or as one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        line = logging.Formatter(
            "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
        line.converter = time.gmtime
        handler.setFormatter(line)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "timestamp": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


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
