"""`realtime failover-watch`: a process that watches a Redis Cluster, until SIGTERM. What it does stands in
`backends/redis_failover`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Final

import uvloop

from realtime.backends.redis_client.address import parse_url
from realtime.backends.redis_failover import FailoverWatch
from realtime.core.clock import SystemClock
from realtime.edge import notify
from realtime.edge.process import configure_logging, node_name
from realtime.errors import StartupError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings) -> int:
    """Watch until it is told to end; return the exit code.

    Raises:
        StartupError: there is no cluster to watch, or it refuses us.
    """
    if not settings.redis_url:
        raise StartupError("there is no Redis to watch: set REDIS_URL")
    if settings.failover_interval_ms * 2 > settings.failover_silence_ms:
        raise StartupError(
            f"failover_silence_ms {settings.failover_silence_ms} is below twice failover_interval_ms "
            f"{settings.failover_interval_ms}: a master is asked several times before it is taken for dead"
        )
    configure_logging(settings, node_name(settings))
    uvloop.run(_watch(settings))
    return 0


async def _watch(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    watch = FailoverWatch(
        parse_url(settings.redis_url),
        SystemClock(),
        interval_s=settings.failover_interval_ms / 1000,
        silence_s=settings.failover_silence_ms / 1000,
    )
    await watch.look()
    task = asyncio.ensure_future(watch.run())
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, task.cancel)
    heart = notify.Heartbeat(
        loop,
        lambda: watch.looks,
        lambda: watch.state,
        watchdog_s=notify.watchdog_s(os.environ, os.getpid()),
    )
    print(f"watching: {watch.state}", flush=True)
    notify.ready(watch.state)
    heart.start()
    try:
        await task
    except asyncio.CancelledError:
        notify.stopping("stopped")
    finally:
        heart.stop()
