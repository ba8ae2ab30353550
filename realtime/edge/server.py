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
from functools import partial
from typing import Final

import uvloop

from realtime import __version__
from realtime.core.clock import SystemClock
from realtime.edge import activation, handover, leash, listener, notify, renewal
from realtime.edge.activation import Sockets
from realtime.edge.cluster import bury
from realtime.edge.foundation import open_foundation
from realtime.edge.handover_door import Door
from realtime.edge.handover_wire import Wire
from realtime.edge.leash import Leash
from realtime.edge.process import (
    STOP_SIGNALS,
    configure_logging,
    connections_allowed,
    file_limit_warning,
    node_name,
    raise_file_limit,
    settle_gc,
    worker_count,
)
from realtime.edge.rolling import Rolling
from realtime.edge.serving import (
    heed_signals,
    make_worker,
    reload_by,
    serve_on,
    succeed,
    tell_stopping,
)
from realtime.edge.supervisor import STOP_GRACE_S, Supervisor, WorkerProcess, command
from realtime.edge.tls import load_certificates
from realtime.edge.tls_worker import TlsWorker
from realtime.edge.watch import Watch
from realtime.errors import SettingsError, StartupError
from realtime.loading import Loaded
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")


def serve(loaded: Loaded) -> int:
    """Serve until SIGTERM or SIGINT, drain, and return the exit code. A second signal exits at once.

    On SIGHUP the policy file, and all else that may change while it runs, is read anew. Sockets that systemd
    has made are served on instead of our own, and systemd hears how we are.

    Raises:
        StartupError: it cannot listen where the settings say, or what it stands on cannot be used.
    """
    faulthandler.enable()  # SIGABRT, by which a hung process is ended, shows where it hangs
    settings = loaded.settings
    own, line = leash.taken(os.environ), handover.taken(os.environ)
    if own is not None:
        return _serve_leashed(settings, own, line)
    if line is not None:
        handover.leave_parent(os.environ)
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
        return uvloop.run(_supervise(settings, count))
    if line is not None:
        return uvloop.run(succeed(settings, line, connections_allowed(files, settings), None, _announce))
    listening = sockets.http or listener.listen(settings, shared=settings.share_port)
    uvloop.run(_serve(settings, listening, connections_allowed(files, settings), None, sockets))
    return 0


def _serve_leashed(settings: Settings, own: Leash, line: Wire | None) -> int:
    """Serve as one worker of a supervisor; it says what goes wrong at the start, once for all of them."""
    configure_logging(settings, node_name(settings, own.number))
    files = raise_file_limit()
    try:
        if line is not None:
            return uvloop.run(succeed(settings, line, connections_allowed(files, settings), own, _announce))
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
    stop = heed_signals(loop)
    clock, number = SystemClock(), own.number if own else 0
    shared = own is not None or settings.share_port
    tls = sockets.tls
    if tls is None and settings.tls_port:
        tls = listener.listen(settings, settings.tls_port, shared=shared)
    foundation = await open_foundation(settings, clock, number)
    try:
        worker = make_worker(settings, loop, connections_max, clock, foundation)
        admin = sockets.admin or listener.listen_admin(settings, number)
        worker.start(listening, admin, kept=sockets.http is not None)
        if tls is not None:
            assert isinstance(worker, TlsWorker)
            worker.listen_tls(tls)
        settle_gc()
        if own is None:
            _announce(settings, listening)
        else:
            own.listening(foundation.worker)
        await serve_on(settings, worker, foundation, own, stop, listening)
    finally:
        await foundation.close()


def _reserve(settings: Settings) -> list[socket.socket]:
    """The ports of the workers, so that they stay theirs while all of them are down; the first is `port`."""
    ports = [settings.port, *([settings.tls_port] if settings.tls_port else [])]
    return [listener.reserve(settings, port) for port in ports]


async def _supervise(settings: Settings, count: int) -> int:
    loop = asyncio.get_running_loop()
    line = command()
    kept = renewal.taken(os.environ)
    reserved = _reserve(settings) if kept is None else renewal.ports(kept)
    port = reserved[0].getsockname()[1]
    # systemd looks at us, and we at them: with its patience, where it has any.
    silence_s = notify.watchdog_s(os.environ, os.getpid())

    def up() -> None:
        _announce(settings, reserved[0], f"; {count} workers")
        notify.ready("serving")

    supervisor = Supervisor(
        count,
        lambda number, place: WorkerProcess.start(line, number, port, place, silence_s),
        clock=SystemClock(),
        stop_timeout_s=settings.drain_timeout_s + STOP_GRACE_S,
        bury=partial(bury, settings),
        up=up,
        silence_s=silence_s,
        there={} if kept is None else await renewal.workers(kept),
        leaving=() if kept is None else await renewal.leaving(kept),
    )
    # That its loop turns is all that a supervisor does for anybody.
    heart = notify.Heartbeat(loop, itertools.count().__next__, supervisor.describe, watchdog_s=silence_s)
    if kept is not None:
        log.info("the supervisor goes on with %d workers, version %s", len(kept.workers), __version__)

    def stop() -> None:
        tell_stopping(settings)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, supervisor.kill)
        supervisor.stop()

    rolling = Rolling(settings, supervisor, lambda: renewal.renew(supervisor, reserved, os.environ))
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # since `renewal.renew`
    loop.add_signal_handler(signal.SIGHUP, reload_by, supervisor.reload)
    loop.add_signal_handler(signal.SIGUSR2, rolling.begin)
    heart.start()
    door = Door(settings, port, rolling.upgrade, after=rolling.renew)
    await door.open()
    with contextlib.ExitStack() as held:
        for each in reserved:
            held.enter_context(each)
        held.enter_context(contextlib.closing(Watch(settings, count, supervisor)))
        try:
            return await supervisor.run()
        finally:
            await door.close()


def _announce(settings: Settings, listening: socket.socket, more: str = "") -> None:
    page, endpoint = listener.url(settings, listening), listener.url(settings, listening, "ws")
    if settings.tls_port:
        more = f"; by TLS {listener.url(settings, settings.tls_port, 'https')}/{more}"
    print(
        f"realtime {__version__}: {page}/ is the demo page, {endpoint}{settings.ws_path} the endpoint{more}",
        flush=True,
    )


def _forgetful(settings: Settings) -> str:
    if settings.postgres_url:
        return ""
    if settings.redis_url:
        return "no postgres_url: durable rooms are kept in Redis only, for recovery_window_s"
    if settings.sqlite_path:
        return ""
    return "no sqlite_path, no postgres_url: durable rooms are kept in memory only, and lost with the process"
