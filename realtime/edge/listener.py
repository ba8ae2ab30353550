"""The listening socket: shared between workers by SO_REUSEPORT, and never by mistake."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, cast

from realtime.errors import StartupError
from realtime.settings import Settings

Address = tuple[str, int] | tuple[str, int, int, int]
ANYWHERE: Final = ("0.0.0.0", "::")  # addresses to listen on, but none that a browser can open


def listen(settings: Settings, port: int | None = None, *, shared: bool = False) -> socket.socket:
    """Return a listening, non-blocking socket. Of several addresses of a name, IPv4 comes first.

    `port` is another one than the settings name. `::` takes both families; with port 0 the system picks a
    port. A `shared` port may have other listeners, of the same user: connections are dealt out between them.

    Raises:
        StartupError: the name does not resolve, the address is not ours, or the port is taken or privileged.
    """
    family, address = _resolve(settings.host, settings.port if port is None else port)
    return _bind(family, address, settings, shared, listening=True)


def listen_admin(settings: Settings, number: int = 0) -> socket.socket | None:
    """Return a listening socket for `admin_port`: of a supervisor's worker `number`, or of an instance.

    Raises:
        StartupError: as `listen`.
    """
    above = number - 1 if number else max(0, settings.instance)
    return listen(settings, settings.admin_port + above) if settings.admin_port else None


def configure(listening: socket.socket, settings: Settings) -> None:
    """Give a socket that somebody else has made the options and the backlog of our own.

    Raises:
        StartupError: the system does not take one.
    """
    try:
        _set_options(listening, settings)
        listening.listen(settings.backlog)
    except OSError as error:
        raise StartupError(f"the listening socket cannot be configured: {error.strerror}") from error


def reserve(settings: Settings, port: int) -> socket.socket:
    """Return a socket that has the port and does not listen: workers that share it can.

    Raises:
        StartupError: as `listen`.
    """
    family, address = _resolve(settings.host, port)
    return _bind(family, address, settings, settings.share_port, listening=False)


def url(settings: Settings, listening: socket.socket | int, scheme: str = "http") -> str:
    """Where a browser on this machine finds what listens, or a port: `http://127.0.0.1:8000`."""
    host = "localhost" if settings.host in ANYWHERE else settings.host
    port = listening if isinstance(listening, int) else listening.getsockname()[1]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise StartupError(f"host {host!r} does not resolve: {error}") from error
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, cast(Address, address)  # the third form is a system's without IPv6


def _bind(
    family: socket.AddressFamily, address: Address, settings: Settings, shared: bool, *, listening: bool
) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_options(made, settings)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if not shared:
            _refuse_if_taken(family, address)
        made.bind(address)
        if listening:
            made.listen(settings.backlog)
    except OSError as error:
        made.close()
        raise StartupError(f"cannot listen on {address[0]} port {address[1]}: {_advice(error)}") from error
    return made


def _set_options(made: socket.socket, settings: Settings) -> None:
    """Set what accepted connections inherit."""
    if settings.send_buffer_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.send_buffer_bytes)
    if settings.unsent_bytes and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, settings.unsent_bytes)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if settings.tcp_defer_accept_s and hasattr(socket, "TCP_DEFER_ACCEPT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, settings.tcp_defer_accept_s)


def _refuse_if_taken(family: socket.AddressFamily, address: Address) -> None:
    """Raise OSError when somebody listens on the address already.

    SO_REUSEPORT would let a second server of the same user in without a word, and the kernel would deal its
    clients out to two sets of rooms.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def _advice(error: OSError) -> str:
    text = os.strerror(error.errno) if error.errno else str(error)
    hints = {
        errno.EADDRINUSE: "another program has it; choose another with --port",
        errno.EACCES: "ports below 1024 need a privilege; choose another with --port",
        errno.EADDRNOTAVAIL: "this machine has no such address; choose another with --host",
    }
    hint = hints.get(error.errno or 0)
    return f"{text} ({hint})" if hint else text
