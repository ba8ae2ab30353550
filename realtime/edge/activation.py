"""Listening sockets that systemd has made and hands to us (socket activation), by their names.

They outlive the process: whoever connects while it is restarted waits in the kernel's queue and is refused by
nobody, and a port below 1024 takes no privilege of ours. `http` is `port`, `tls` is `tls_port` and `admin` is
`admin_port`, by FileDescriptorName= of the socket units; a single one with another name is `http`.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import stat
from collections.abc import MutableMapping
from typing import Final, NamedTuple

from realtime.edge import listener
from realtime.errors import StartupError
from realtime.settings import Settings

FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
FDS_MAX: Final = 1024
HTTP: Final = "http"
TLS: Final = "tls"
ADMIN: Final = "admin"
NAMES: Final = (HTTP, TLS, ADMIN)


class Sockets(NamedTuple):
    """What was handed over, already listening; None where we open our own."""

    http: socket.socket | None = None
    tls: socket.socket | None = None
    admin: socket.socket | None = None


def taken(environ: MutableMapping[str, str], pid: int, *, first: int = FIRST_FD) -> Sockets:
    """Take the sockets that are for process `pid` out of `environ`, which our children must not see them in.

    Raises:
        StartupError: one is no listening TCP socket, or has a name that says nothing to us, or another's.
    """
    count, whose = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    given = environ.pop("LISTEN_FDNAMES", "")
    if not count or whose != str(pid):
        return Sockets()
    if not (count.isascii() and count.isdigit() and int(count) <= FDS_MAX):
        raise StartupError(f"LISTEN_FDS={count} is no number of sockets")
    numbers = range(first, first + int(count))
    for number in numbers:
        fcntl.fcntl(number, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    names = given.split(":") if given else [HTTP] * len(numbers)
    if len(names) != len(numbers):
        raise StartupError(f"systemd gave {len(numbers)} sockets and {len(names)} names: {given}")
    if len(names) == 1 and names[0] not in NAMES:
        names = [HTTP]
    return Sockets(**_by_name(names, numbers))


def configure(sockets: Sockets, settings: Settings) -> None:
    """Give them the options that `listener` gives its own, which connections inherit.

    Raises:
        StartupError: one is for something that the settings turn off, or can be reached by more than them.
    """
    if sockets.tls is not None and not settings.tls_port:
        raise StartupError(
            "systemd gave a socket for TLS, and tls_port is not set: set REALTIME_TLS_PORT and "
            "REALTIME_TLS_CERTIFICATE, or stop the socket's unit"
        )
    if sockets.admin is not None and not settings.admin_port:
        raise StartupError(
            "systemd gave a socket for administration, and admin_port is not set: set REALTIME_ADMIN_PORT, "
            "or stop the socket's unit"
        )
    for each in (sockets.http, sockets.tls):
        if each is not None:
            _refuse_strangers(each, settings)
    for each in sockets:
        if each is not None:
            listener.configure(each, settings)


def _refuse_strangers(given: socket.socket, settings: Settings) -> None:
    """Raise StartupError where it can be reached from outside and `host` cannot.

    What only loopback may do, such as to serve without a key, goes by `host`.
    """
    address = str(given.getsockname()[0])
    if settings.loopback and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise StartupError(
            f"the socket of systemd listens on {address} and host is {settings.host}, which only this "
            f"machine reaches: set REALTIME_HOST={address}, or ListenStream= of its unit to {settings.host}"
        )


def _by_name(names: list[str], numbers: range) -> dict[str, socket.socket]:
    found: dict[str, socket.socket] = {}
    for name, number in zip(names, numbers, strict=True):
        if name not in NAMES:
            raise StartupError(
                f"systemd gave a socket named {name!r}: FileDescriptorName= is one of {', '.join(NAMES)}"
            )
        if name in found:
            raise StartupError(
                f"systemd gave two sockets named {name!r}, and a worker listens on one: run one unit a core"
            )
        found[name] = _listening(name, number)
    return found


def _listening(name: str, number: int) -> socket.socket:
    """Return descriptor `number` as a socket; StartupError where it is none that listens."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError as error:
        raise StartupError(f"descriptor {number}, which systemd names {name!r}: {error.strerror}") from error
    if not is_socket:
        raise StartupError(f"descriptor {number}, which systemd names {name!r}, is no socket")
    made = socket.socket(fileno=number)
    if made.family not in (socket.AF_INET, socket.AF_INET6) or made.type != socket.SOCK_STREAM:
        raise StartupError(f"the socket {name!r} of systemd is not of TCP: ListenStream= names a port")
    if not made.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise StartupError(f"the socket {name!r} of systemd does not listen: Accept=no is what we need")
    made.setblocking(False)
    return made
