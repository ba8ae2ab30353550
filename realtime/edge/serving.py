"""A worker's process from when it is built to its end: told to stop, or another process in its place."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from realtime.core.clock import SystemClock
from realtime.core.contracts import Clock
from realtime.edge import notify
from realtime.edge.foundation import Foundation, open_foundation
from realtime.edge.handover import Handing
from realtime.edge.handover_door import Door
from realtime.edge.handover_taker import Taker, listening
from realtime.edge.handover_wire import Wire
from realtime.edge.heir import Inheritance
from realtime.edge.leash import Leash
from realtime.edge.process import STOP_SIGNALS, settle_gc
from realtime.edge.status import DRAIN
from realtime.edge.supervisor import STOP_GRACE_S
from realtime.edge.tls_worker import TlsWorker
from realtime.edge.worker import Worker
from realtime.errors import RealtimeError
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

Announce = Callable[[Settings, socket.socket], None]
"""Says on stdout that clients can come."""


def heed_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """Return what is set by SIGTERM or SIGINT. What upgrades is not known yet: until then it does nothing."""
    stop = asyncio.Event()
    for each in STOP_SIGNALS:
        loop.add_signal_handler(each, _stop_once, loop, stop.set)
    for each in (signal.SIGHUP, signal.SIGUSR2):
        loop.add_signal_handler(each, log.warning, "%s comes too early: nothing is done", each.name)
    return stop


def make_worker(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    connections_max: int,
    clock: Clock,
    foundation: Foundation,
) -> Worker:
    """Build the worker that the settings ask for."""
    made = TlsWorker if settings.tls_port else Worker
    return made(settings, loop, connections_max, clock, foundation)


async def serve_on(
    settings: Settings,
    worker: Worker,
    foundation: Foundation,
    own: Leash | None,
    stop: asyncio.Event,
    clients: socket.socket,
) -> None:
    """Serve until the end: drain when told to stop, and go without a word when another process serves."""
    loop = asyncio.get_running_loop()
    handing = Handing(worker, foundation, alone=own is None)
    loop.add_signal_handler(signal.SIGHUP, reload_by, worker.reload)
    worker.supervised = own is not None
    worker.reports.offer(DRAIN, partial(_stop_once, loop, stop.set))
    heart = _heart(loop, worker)
    door: Door | None = None
    if own is not None:
        own.heed(loop, stop.set, worker.reload, handing.give, worker.serve_admin)
        own.pulse(loop, lambda: worker.turns, worker.load)
        loop.add_signal_handler(signal.SIGUSR2, log.warning, "SIGUSR2 is for the supervisor: nothing is done")
    else:
        notify.ready("serving")
        heart.start()
        loop.add_signal_handler(signal.SIGUSR2, handing.begin)
        door = Door(settings, clients.getsockname()[1], handing.answer)
        await door.open()
    try:
        if await handing.either(stop):
            heart.stop()  # the other one's beats now
            if door is not None:
                await door.close()  # or the next upgrade would find two services while this one ends
            await handing.retire(stop)
            return
        tell_stopping(settings)
        left = await worker.drain()
        if left:
            log.warning("%d connections had not closed within %g s", left, settings.drain_timeout_s)
        worker.close()
        await worker.closed()
    finally:
        heart.stop()
        if door is not None:
            await door.close()


def _heart(loop: asyncio.AbstractEventLoop, worker: Worker) -> notify.Heartbeat:
    """What tells systemd, once started, that the worker still serves, and what it bears."""

    def bears() -> str:
        connections, rooms = worker.load()
        return f"{connections} connections, {rooms} rooms"

    watchdog_s = notify.watchdog_s(os.environ, os.getpid())
    return notify.Heartbeat(loop, lambda: worker.turns, bears, watchdog_s=watchdog_s)


def tell_stopping(settings: Settings) -> None:
    """Tell systemd that it drains: that takes what the settings say, whatever the unit says."""
    notify.stopping("draining")
    notify.extend_timeout(settings.drain_timeout_s + STOP_GRACE_S)


def reload_by(reload: Callable[[], object]) -> None:
    """Read anew what may change, and tell systemd when that is done."""
    notify.reloading("reading the policy")
    reload()
    notify.ready("serving")


async def succeed(
    settings: Settings, line: Wire, connections_max: int, own: Leash | None, announce: Announce
) -> int:
    """Take over from the process at the other end of `line`, and serve as it did; return the exit code.

    Where that comes to nothing the old one serves on, and this process only says why.
    """
    loop = asyncio.get_running_loop()
    stop = heed_signals(loop)
    taker = Taker(line)
    foundation: Foundation | None = None
    try:
        try:
            await taker.greet(settings)
            clock, number = SystemClock(), own.number if own else 0
            heir = Inheritance(taker.hello.node, taker.hello.worker, taker.files)
            foundation = await open_foundation(settings, clock, number, heir)
            worker = make_worker(settings, loop, connections_max, clock, foundation)
            worker.hub.freeze()
            settle_gc()
            await taker.take(worker)
        except RealtimeError as error:
            await taker.refuse(error.message)
            log.error("this process takes nobody's place: %s", error.message)
            if own is not None:
                own.failed(error.message)
            return 1
        clients = _start(worker, foundation, taker)
        if own is not None:
            own.listening(foundation.worker)
        else:
            announce(settings, clients)
        await serve_on(settings, worker, foundation, own, stop, clients)
        return 0
    finally:
        if foundation is not None:
            await foundation.close()


def _start(worker: Worker, foundation: Foundation, taker: Taker) -> socket.socket:
    """Serve, with all that was handed over; return the socket that clients come to."""
    clients = listening(taker.sockets)
    worker.start(clients, taker.sockets.get("admin"), kept=worker.keeps_listening)
    if isinstance(worker, TlsWorker) and "tls" in taker.sockets:
        worker.listen_tls(taker.sockets["tls"])
    worker.hub.thaw()
    worker.hub.on_ready()
    since_ns = time.monotonic_ns()
    foundation.take_over()
    taker.serving(worker, since_ns)
    worker.review()
    settle_gc()
    return clients


def _stop_once(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Begin to drain, and let the next signal have its default effect, which is to end the process."""
    for number in STOP_SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    stop()
