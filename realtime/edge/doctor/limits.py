"""Whether this machine's limits let through what the settings promise: files, queues, buffers, ports."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator

from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.edge.doctor.host import KB, MB, Host
from realtime.edge.process import CONNECTIONS_MAX, SPARE_FILES, connections_allowed
from realtime.settings import Settings

# What the kernel keeps for a connection that is open and silent: two sockets' worth of structures, no data.
KERNEL_BYTES_PER_CONNECTION = 4 * KB
# With a few KB on the way to it, which is what a room of any traffic means.
BUSY_BYTES_PER_CONNECTION = 16 * KB
FILES_WANTED = 65_536
PORTS_WANTED = 20_000
PAGE = 4 * KB


def wanted_connections(settings: Settings) -> int:
    """How many connections a worker is to hold, as far as settings and open files say."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return connections_allowed(sys.maxsize if hard == resource.RLIM_INFINITY else hard, settings)


def limits(settings: Settings, host: Host, workers: int) -> Iterator[Diagnosis]:
    """Look at one limit after another."""
    connections = wanted_connections(settings) * workers
    yield open_files(settings)
    yield from files_of_all(host, connections, workers)
    yield from queues(settings, host)
    yield from buffers(settings, host)
    yield from tcp_memory(host, connections)
    yield from ports(settings, host)
    yield from conntrack(host, connections)
    yield from watches(host, connections)


def open_files(settings: Settings) -> Diagnosis:
    """The process's own limit; the server raises the soft one by itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    room = wanted_connections(settings)
    todo = (
        "LimitNOFILE=1048576 in the unit, or `ulimit -Hn 1048576` before the start (limits.conf: hard nofile)"
    )
    area = "open files"
    if settings.max_connections > room:
        return fault(
            area, f"max_connections is {settings.max_connections}, and {files} open files hold {room}", todo
        )
    if files < FILES_WANTED and not settings.max_connections:
        return doubt(area, f"the hard limit is {files}: at most {room} connections a worker", todo)
    shown = "unlimited" if room == CONNECTIONS_MAX else str(room)
    return fine(area, f"room for {shown} connections a worker")


def files_of_all(host: Host, connections: int, workers: int) -> Iterator[Diagnosis]:
    """The limit of all processes together."""
    most, wanted = host.sysctl("fs.file-max"), connections + workers * SPARE_FILES
    if most is not None and connections < CONNECTIONS_MAX and most < wanted:
        yield doubt(
            "open files",
            f"fs.file-max is {most}, and all workers together may open {wanted}",
            f"sysctl -w fs.file-max={wanted * 2}",
        )


def queues(settings: Settings, host: Host) -> Iterator[Diagnosis]:
    """The queues that a listening socket has: the kernel cuts what is asked for to these, without a word."""
    for name, what in (
        ("net.core.somaxconn", "waiting connections"),
        ("net.ipv4.tcp_max_syn_backlog", "half-open ones"),
    ):
        value = host.sysctl(name)
        if value is None:
            continue
        if value < settings.backlog:
            yield doubt(
                name,
                f"{value}, below backlog {settings.backlog}: the queue of {what} is cut to it, and a crowd "
                "that comes back is met with resets",
                f"sysctl -w {name}={settings.backlog}, and the same in /etc/sysctl.d/",
            )
        else:
            yield fine(name, f"{value}, backlog is {settings.backlog}")
    if host.sysctl("net.ipv4.tcp_syncookies") == 0:
        yield doubt(
            "net.ipv4.tcp_syncookies",
            "0: a flood of half-open connections keeps everybody out",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        )


def buffers(settings: Settings, host: Host) -> Iterator[Diagnosis]:
    """What sockets may buffer: too little cuts throughput, too much hides slow readers in the kernel."""
    most = host.sysctl("net.core.wmem_max")
    if most is not None and settings.send_buffer_bytes > most:
        yield doubt(
            "net.core.wmem_max",
            f"{most}, below send_buffer_bytes {settings.send_buffer_bytes}: the kernel grants no more",
            f"sysctl -w net.core.wmem_max={settings.send_buffer_bytes}",
        )
    for name in ("net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"):
        three = host.numbers(f"/proc/sys/{name.replace('.', '/')}")
        if len(three) != 3:
            continue
        if three[2] < MB // 2:
            yield doubt(
                name,
                f"at most {three[2]} bytes: clients far away are served slower than their line is",
                f'sysctl -w {name}="4096 131072 6291456"',
            )
        else:
            yield fine(name, f"{three[0]} to {three[2]} bytes, {three[1]} at first")


def tcp_memory(host: Host, connections: int) -> Iterator[Diagnosis]:
    """The memory of all TCP sockets together: above the second number the kernel trims every buffer."""
    pages = host.numbers("/proc/sys/net/ipv4/tcp_mem")
    if len(pages) != 3 or connections >= CONNECTIONS_MAX:
        return
    share = pages[1] * PAGE // max(1, connections)
    if share < BUSY_BYTES_PER_CONNECTION and pages[1] * PAGE < 512 * MB:
        wanted = connections * BUSY_BYTES_PER_CONNECTION // PAGE
        yield doubt(
            "net.ipv4.tcp_mem",
            f"pressure begins at {pages[1] * PAGE // MB} MB, which is {share} bytes for each of "
            f"{connections} connections",
            f'sysctl -w net.ipv4.tcp_mem="{wanted * 3 // 4} {wanted} {wanted * 3 // 2}", or lower '
            "max_connections",
        )
    else:
        yield fine("net.ipv4.tcp_mem", f"pressure begins at {pages[1] * PAGE // MB} MB")


def ports(settings: Settings, host: Host) -> Iterator[Diagnosis]:
    """The ports that outgoing connections take: ours must not be among them, and a proxy needs many."""
    area, between = "ephemeral ports", host.numbers("/proc/sys/net/ipv4/ip_local_port_range")
    if len(between) != 2:
        return
    low, high = between
    reserved = _reserved(host.text("/proc/sys/net/ipv4/ip_local_reserved_ports") or "")
    named = {"port": settings.port, "tls_port": settings.tls_port, "admin_port": settings.admin_port}
    taken = [name for name, port in named.items() if low <= port <= high and port not in reserved]
    if taken:
        numbers = ",".join(str(named[name]) for name in taken)
        yield doubt(
            area,
            f"{' and '.join(taken)} ({numbers}) lies in {low} to {high}: any program's outgoing connection "
            "may have it when the server starts again",
            f"sysctl -w net.ipv4.ip_local_reserved_ports={numbers}",
        )
    if high - low + 1 < PORTS_WANTED:
        yield doubt(
            area,
            f"{low} to {high}: a proxy on this machine has no more than {high - low + 1} connections to a "
            "port",
            'sysctl -w net.ipv4.ip_local_port_range="15000 65535"',
        )
    elif not taken:
        yield fine(area, f"{low} to {high}")


def _reserved(text: str) -> set[int]:
    """The ports of a list such as 8000,9100-9110."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        low, _, high = part.partition("-")
        if low.isdigit() and (high or low).isdigit():
            found.update(range(int(low), int(high or low) + 1))
    return found


def conntrack(host: Host, connections: int) -> Iterator[Diagnosis]:
    """The firewall's table: when it is full, new connections are dropped without a word to anybody."""
    most = host.sysctl("net.netfilter.nf_conntrack_max")
    if most is None:
        return
    used = host.sysctl("net.netfilter.nf_conntrack_count") or 0
    area, wanted = "conntrack", min(connections, CONNECTIONS_MAX) * 5 // 4
    if used > most * 0.8 or (connections < CONNECTIONS_MAX and most < wanted):
        yield doubt(
            area,
            f"{used} of {most} entries in use, and {connections} connections are allowed: when it is full "
            "the kernel drops whoever comes",
            f"sysctl -w net.netfilter.nf_conntrack_max={max(wanted, most * 2)}, or a NOTRACK rule for the "
            "port",
        )
    else:
        yield fine(area, f"{used} of {most} entries in use")


def watches(host: Host, connections: int) -> Iterator[Diagnosis]:
    """What one user's epoll sets may hold."""
    most = host.sysctl("fs.epoll.max_user_watches")
    if most is not None and connections < CONNECTIONS_MAX and most < connections:
        yield doubt(
            "fs.epoll.max_user_watches",
            f"{most}, and {connections} connections are allowed",
            f"sysctl -w fs.epoll.max_user_watches={connections * 2}",
        )
