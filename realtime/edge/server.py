"""`realtime serve` from start to exit: one worker in this process, or a supervisor of several."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import uvloop

from realtime import __version__
from realtime.core.clock import SystemClock
from realtime.edge import leash, listener
from realtime.edge.cluster import bury
from realtime.edge.foundation import open_foundation
from realtime.edge.leash import Leash
from realtime.edge.process import (
    configure_logging,
    connections_allowed,
    file_limit_warning,
    node_name,
    raise_file_limit,
    settle_gc,
    worker_count,
)
from realtime.edge.status import DRAIN
from realtime.edge.supervisor import STOP_GRACE_S, Supervisor, WorkerProcess, command
from realtime.edge.tls import load_certificates
from realtime.edge.tls_worker import TlsWorker
from realtime.edge.watch import Watch
from realtime.edge.worker import Worker
from realtime.errors import SettingsError, StartupError
from realtime.loading import Loaded
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def serve(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code. A second signal exits at once.

    On SIGHUP the policy file, and all else that may change while it runs, is read anew.

    Raises:
        StartupError: it cannot listen where the settings say, or what it stands on cannot be used.
    """
    settings = loaded.settings
    own = leash.taken(os.environ)
    if own is not None:
        return _serve_leashed(settings, own)
    count = worker_count(settings)
    configure_logging(settings, node_name(settings) if settings.redis_url else "")
    files = raise_file_limit()
    for warning in (*loaded.warnings, file_limit_warning(files, settings), _forgetful(settings)):
        if warning:
            log.warning(warning)
    if count > 1:
        if settings.tls_port:
            load_certificates(settings)  # before the workers do: their start is tried again and again
        return uvloop.run(_supervise(settings, count, _reserve(settings)))
    listening = listener.listen(settings, shared=settings.share_port)
    uvloop.run(_serve(settings, listening, connections_allowed(files, settings), None))
    return 0


def _serve_leashed(settings: Settings, own: Leash) -> int:
    """Serve as one worker of a supervisor; it says what goes wrong at the start, once for all of them."""
    configure_logging(settings, node_name(settings, own.number))
    files = raise_file_limit()
    try:
        listening = listener.listen(settings, own.port, shared=True)
        uvloop.run(_serve(settings, listening, connections_allowed(files, settings), own))
    except (SettingsError, StartupError) as error:
        own.failed(error.message)
        return 1
    return 0


async def _serve(
    settings: Settings, listening: socket.socket, connections_max: int, own: Leash | None
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, _stop_once, loop, stop.set)
    clock, number = SystemClock(), own.number if own else 0
    shared = own is not None or settings.share_port
    tls = listener.listen(settings, settings.tls_port, shared=shared) if settings.tls_port else None
    foundation = await open_foundation(settings, clock, number)
    try:
        worker = (TlsWorker if settings.tls_port else Worker)(
            settings, loop, connections_max, clock, foundation
        )
        loop.add_signal_handler(signal.SIGHUP, worker.reload)
        worker.supervised = own is not None
        if own is not None:
            own.heed(loop, stop.set, worker.reload, worker.serve_admin)
        worker.reports.offer(DRAIN, partial(_stop_once, loop, stop.set))
        worker.start(listening, listener.listen_admin(settings, number))
        if tls is not None:
            assert isinstance(worker, TlsWorker)
            worker.listen_tls(tls)
        settle_gc()
        if own is None:
            _announce(settings, listening)
        else:
            own.listening(foundation.worker)
        await stop.wait()
        left = await worker.drain()
        if left:
            log.warning("%d connections had not closed within %g s", left, settings.drain_timeout_s)
        worker.close()
        await worker.closed()
    finally:
        await foundation.close()


def _reserve(settings: Settings) -> list[socket.socket]:
    """The ports of the workers, so that they stay theirs while all of them are down; the first is `port`."""
    ports = [settings.port, *([settings.tls_port] if settings.tls_port else [])]
    return [listener.reserve(settings, port) for port in ports]


async def _supervise(settings: Settings, count: int, reserved: list[socket.socket]) -> int:
    loop = asyncio.get_running_loop()
    line = command()
    port = reserved[0].getsockname()[1]
    supervisor = Supervisor(
        count,
        lambda number: WorkerProcess.start(line, number, port),
        clock=SystemClock(),
        stop_timeout_s=settings.drain_timeout_s + STOP_GRACE_S,
        bury=partial(bury, settings),
        up=lambda: _announce(settings, reserved[0], f"; {count} workers"),
    )

    def stop() -> None:
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, supervisor.kill)
        supervisor.stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    with contextlib.ExitStack() as held:
        for each in reserved:
            held.enter_context(each)
        held.enter_context(contextlib.closing(Watch(settings, count, supervisor)))
        return await supervisor.run()


def _announce(settings: Settings, listening: socket.socket, more: str = "") -> None:
    page, endpoint = listener.url(settings, listening), listener.url(settings, listening, "ws")
    if settings.tls_port:
        more = f"; by TLS {listener.url(settings, settings.tls_port, 'https')}/{more}"
    print(
        f"realtime {__version__}: {page}/ is the demo page, {endpoint}{settings.ws_path} the endpoint{more}",
        flush=True,
    )


def _stop_once(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Begin to drain, and let the next signal have its default effect, which is to end the process."""
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    stop()


def _forgetful(settings: Settings) -> str:
    if settings.postgres_url:
        return ""
    if settings.redis_url:
        return "no postgres_url: durable rooms are kept in Redis only, for recovery_window_s"
    if settings.sqlite_path:
        return ""
    return "no sqlite_path, no postgres_url: durable rooms are kept in memory only, and lost with the process"
