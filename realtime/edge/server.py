"""`realtime serve` from start to exit: one worker in this process, or a supervisor of several."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
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
from realtime.edge import activation, leash, listener, notify
from realtime.edge.activation import Sockets
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

    On SIGHUP the policy file, and all else that may change while it runs, is read anew. Sockets that systemd
    has made are served on instead of our own, and systemd hears how we are.

    Raises:
        StartupError: it cannot listen where the settings say, or what it stands on cannot be used.
    """
    faulthandler.enable()  # SIGABRT, by which a hung process is ended, shows where it hangs
    settings = loaded.settings
    own = leash.taken(os.environ)
    if own is not None:
        return _serve_leashed(settings, own)
    sockets = activation.taken(os.environ, os.getpid())
    activation.configure(sockets, settings)
    count = worker_count(settings)
    configure_logging(settings, node_name(settings) if settings.redis_url else "")
    files = raise_file_limit()
    for warning in (*loaded.warnings, file_limit_warning(files, settings), _forgetful(settings)):
        if warning:
            log.warning(warning)
    if count > 1:
        if any(sockets):
            raise StartupError(
                f"{count} workers and the one socket of systemd: run one unit a core (`realtime "
                "install-units`), or several workers under a service without a socket unit"
            )
        if settings.tls_port:
            load_certificates(settings)  # before the workers do: their start is tried again and again
        return uvloop.run(_supervise(settings, count, _reserve(settings)))
    listening = sockets.http or listener.listen(settings, shared=settings.share_port)
    uvloop.run(_serve(settings, listening, connections_allowed(files, settings), None, sockets))
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
    settings: Settings,
    listening: socket.socket,
    connections_max: int,
    own: Leash | None,
    sockets: Sockets = Sockets(),  # noqa: B008 - it cannot be changed
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, _stop_once, loop, stop.set)
    clock, number = SystemClock(), own.number if own else 0
    shared = own is not None or settings.share_port
    tls = sockets.tls
    if tls is None and settings.tls_port:
        tls = listener.listen(settings, settings.tls_port, shared=shared)
    foundation = await open_foundation(settings, clock, number)
    try:
        worker = (TlsWorker if settings.tls_port else Worker)(
            settings, loop, connections_max, clock, foundation
        )
        loop.add_signal_handler(signal.SIGHUP, _reload, worker.reload)
        worker.supervised = own is not None
        if own is not None:
            own.heed(loop, stop.set, worker.reload, worker.serve_admin)
        worker.reports.offer(DRAIN, partial(_stop_once, loop, stop.set))
        admin = sockets.admin or listener.listen_admin(settings, number)
        worker.start(listening, admin, kept=sockets.http is not None)
        if tls is not None:
            assert isinstance(worker, TlsWorker)
            worker.listen_tls(tls)
        settle_gc()
        heart = _tell(settings, loop, worker, own, listening, foundation.worker)
        await stop.wait()
        _tell_stopping(settings)
        left = await worker.drain()
        if left:
            log.warning("%d connections had not closed within %g s", left, settings.drain_timeout_s)
        worker.close()
        await worker.closed()
        heart.stop()
    finally:
        await foundation.close()


def _tell(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    worker: Worker,
    own: Leash | None,
    listening: socket.socket,
    name: str,
) -> notify.Heartbeat:
    """Say that the worker serves, to whoever has started it, and from here on that it still does."""
    heart = notify.Heartbeat(
        loop,
        lambda: worker.turns,
        lambda: _bears(*worker.load()),
        watchdog_s=notify.watchdog_s(os.environ, os.getpid()),
    )
    if own is not None:
        own.listening(name)
        own.pulse(loop, lambda: worker.turns, worker.load)
    else:
        _announce(settings, listening)
        notify.ready("serving")
        heart.start()
    return heart


def _tell_stopping(settings: Settings) -> None:
    """Say that it drains: that takes what the settings say, whatever the unit says."""
    notify.stopping("draining")
    notify.extend_timeout(settings.drain_timeout_s + STOP_GRACE_S)


def _reload(reload: Callable[[], object]) -> None:
    notify.reloading("reading the policy")
    reload()
    notify.ready("serving")


def _bears(connections: int, rooms: int) -> str:
    return f"{connections} connections, {rooms} rooms"


def _reserve(settings: Settings) -> list[socket.socket]:
    """The ports of the workers, so that they stay theirs while all of them are down; the first is `port`."""
    ports = [settings.port, *([settings.tls_port] if settings.tls_port else [])]
    return [listener.reserve(settings, port) for port in ports]


async def _supervise(settings: Settings, count: int, reserved: list[socket.socket]) -> int:
    loop = asyncio.get_running_loop()
    line = command()
    port = reserved[0].getsockname()[1]
    # systemd looks at us, and we at them: with its patience, where it has any.
    silence_s = notify.watchdog_s(os.environ, os.getpid())

    def up() -> None:
        _announce(settings, reserved[0], f"; {count} workers")
        notify.ready("serving")

    supervisor = Supervisor(
        count,
        lambda number: WorkerProcess.start(line, number, port, silence_s),
        clock=SystemClock(),
        stop_timeout_s=settings.drain_timeout_s + STOP_GRACE_S,
        bury=partial(bury, settings),
        up=up,
        silence_s=silence_s,
    )
    # That its loop turns is all that a supervisor does for anybody.
    heart = notify.Heartbeat(loop, itertools.count().__next__, supervisor.describe, watchdog_s=silence_s)

    def stop() -> None:
        _tell_stopping(settings)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, supervisor.kill)
        supervisor.stop()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, _reload, supervisor.reload)
    heart.start()
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
