"""What systemd is told, by its own datagrams (sd_notify): ready, reloading, stopping, alive, and a status.

Where nobody listens (no NOTIFY_SOCKET) every call does nothing. Nothing here waits for long: a service
manager that does not read must not stop the loop.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Mapping
from typing import Final

log: Final = logging.getLogger("realtime.edge")

SOCKET_VARIABLE: Final = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE: Final = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE: Final = "WATCHDOG_PID"
LISTEN_VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
# How long what must arrive (ready, another main process) may wait for room in systemd's queue.
PATIENCE_S: Final = 0.5
# Beats a watchdog period: one may be late, and another lost, before systemd loses patience.
BEATS: Final = 3
STATUS_INTERVAL_S: Final = 5.0
STATUS_CHARS_MAX: Final = 200


def notify(*fields: str, wait_s: float = PATIENCE_S) -> bool:
    """Send `fields` ("READY=1", …) as one datagram; return whether it went out. Never raises OSError.

    A newline ends a field, so one inside a field becomes a space. With a full queue at the other end it waits
    `wait_s` at most.
    """
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address or not fields:
        return False
    if address[0] not in "/@":
        log.warning("%s=%s is neither a path nor an abstract name: nobody is told", SOCKET_VARIABLE, address)
        return False
    wire = "\n".join(" ".join(field.splitlines()) for field in fields).encode(errors="replace")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.settimeout(wait_s)
            sending.connect("\0" + address[1:] if address[0] == "@" else address)
            sending.send(wire)
    except OSError as error:
        # Of beats the next one comes soon; what is waited for is worth a line.
        level = logging.WARNING if wait_s else logging.DEBUG
        why = "its queue is full" if isinstance(error, TimeoutError) or error.errno == errno.EAGAIN else error
        log.log(level, "systemd was not told %s: %s", fields[0], why)
        return False
    return True


def ready(status: str = "") -> bool:
    """It serves, or has reloaded. `status` is a line for `systemctl status`."""
    return notify("READY=1", *([_status(status)] if status else ()))


def reloading(status: str = "") -> bool:
    """It reloads; `ready` ends it. The time tells systemd which of several reloads that `ready` answers."""
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={now_us}", *([_status(status)] if status else ()))


def stopping(status: str = "") -> bool:
    """It goes down, of itself or because it was told to."""
    return notify("STOPPING=1", *([_status(status)] if status else ()))


def status(text: str) -> bool:
    """A line for `systemctl status`."""
    return notify(_status(text), wait_s=0.0)


def main_pid(pid: int) -> bool:
    """Another process is the service from here on: its end is the service's, and its words are heard.

    Whoever is the main process so far has to say it, before it ends: with NotifyAccess=main nobody else is
    heard, and systemd reads what was said before it looks at who has died.
    """
    return notify(f"MAINPID={pid}")


def extend_timeout(seconds: float) -> bool:
    """What it does now (start, reload or stop) may take `seconds` more from here on."""
    return notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}")


def alive() -> bool:
    """Beat the watchdog once."""
    return notify("WATCHDOG=1", wait_s=0.0)


def watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """How often at least systemd wants to hear that process `pid` is alive; 0 where it does not care."""
    for_pid = environ.get(WATCHDOG_PID_VARIABLE, "")
    if for_pid and for_pid != str(pid):
        return 0.0
    period_us = environ.get(WATCHDOG_VARIABLE, "")
    return int(period_us) / 1_000_000 if period_us.isascii() and period_us.isdigit() else 0.0


def for_successor(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` for a process that takes this one's place, and talks to systemd from then on.

    Listening sockets reach it otherwise. What was said of our process id would keep it silent.
    """
    gone = (*LISTEN_VARIABLES, WATCHDOG_PID_VARIABLE)
    return {name: value for name, value in environ.items() if name not in gone}


def for_child(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` for a process that is not the service: it says nothing to systemd."""
    gone = (*LISTEN_VARIABLES, SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE)
    return {name: value for name, value in environ.items() if name not in gone}


class Heartbeat:
    """Beats systemd's watchdog from the event loop while `turns` goes up, and says the status now and then.

    `turns` counts what shows that the process serves, such as the hub's ticks: a loop that turns around a hub
    that does not is no life. A process that hangs, in Python or below it, beats no more, and is ended and
    started again by systemd.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        turns: Callable[[], int],
        describe: Callable[[], str],
        *,
        watchdog_s: float,
        status_interval_s: float = STATUS_INTERVAL_S,
    ) -> None:
        self._loop = loop
        self._turns = turns
        self._describe = describe
        self._watched = watchdog_s > 0
        self._interval_s = watchdog_s / BEATS if self._watched else status_interval_s
        self._status_interval_s = status_interval_s
        self._seen = -1
        self._said = ""
        self._say_at = 0.0
        self._timer: TimerHandle | None = None

    def start(self) -> None:
        """Begin with the first beat at once. Without a NOTIFY_SOCKET nothing runs."""
        if os.environ.get(SOCKET_VARIABLE):
            self._beat()

    def stop(self) -> None:
        """Beat no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._interval_s, self._beat)  # first: one failure ends nothing
        turns = self._turns()
        if turns == self._seen:
            return
        self._seen = turns
        if self._watched:
            alive()
        now = self._loop.time()
        if now >= self._say_at:
            self._say_at = now + self._status_interval_s
            text = self._describe()
            if text != self._said and status(text):
                self._said = text


def _status(text: str) -> str:
    return f"STATUS={text[:STATUS_CHARS_MAX]}"
