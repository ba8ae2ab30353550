"""One worker process from start to exit: logs, limits, sockets, the loop, signals."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from typing import Final

import uvloop

from realtime import __version__
from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock, Store
from realtime.edge import listener
from realtime.edge.process import (
    configure_logging,
    connections_allowed,
    file_limit_warning,
    raise_file_limit,
    settle_gc,
)
from realtime.edge.store import open_store
from realtime.edge.worker import Worker
from realtime.features import discover
from realtime.loading import Loaded
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def serve(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code. A second signal exits at once.

    Raises:
        StartupError: it cannot listen where the settings say, or has no store there.
    """
    settings = loaded.settings
    configure_logging(settings)
    files = raise_file_limit()
    listening = listener.listen(settings)
    for warning in (
        *loaded.warnings,
        file_limit_warning(files, settings),
        _unused(settings),
        _forgetful(settings),
    ):
        if warning:
            log.warning(warning)
    uvloop.run(_serve(settings, listening, connections_allowed(files, settings)))
    return 0


async def _serve(settings: Settings, listening: socket.socket, connections_max: int) -> None:
    clock = SystemClock()
    store = await open_store(settings, clock, discover())
    try:
        await _serve_on(store, settings, clock, listening, connections_max)
    finally:
        if store is not None:
            await store.close()


async def _serve_on(
    store: Store | None, settings: Settings, clock: Clock, listening: socket.socket, connections_max: int
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    worker = Worker(settings, loop, connections_max, clock, store)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _stop_once, loop, stop)
    worker.start(listening)
    settle_gc()
    page, endpoint = listener.url(settings, listening), listener.url(settings, listening, "ws")
    print(
        f"realtime {__version__}: {page}/ is the demo page, {endpoint}{settings.ws_path} the endpoint",
        flush=True,
    )
    await stop.wait()
    left = await worker.drain()
    if left:
        log.warning("%d connections had not closed within %g s", left, settings.drain_timeout_s)
    worker.close()


def _stop_once(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Begin to drain, and let the next signal have its default effect, which is to end the process."""
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    stop.set()


def _unused(settings: Settings) -> str:
    if not settings.redis_url:
        return ""
    return "redis_url will be ignored: this version runs embedded, in one process"


def _forgetful(settings: Settings) -> str:
    if settings.postgres_url or settings.sqlite_path:
        return ""
    return "no sqlite_path, no postgres_url: durable rooms are kept in memory only, and lost with the process"
