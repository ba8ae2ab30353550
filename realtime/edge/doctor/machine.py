"""The machine: kernel, processors, memory and clock, as far as a server of many connections hangs on them."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import socket
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from realtime.edge.doctor.diagnosis import Diagnosis, doubt, fault, fine
from realtime.edge.doctor.host import GB, KB, MB, Host
from realtime.edge.doctor.limits import KERNEL_BYTES_PER_CONNECTION, wanted_connections
from realtime.edge.process import CONNECTIONS_MAX
from realtime.settings import Settings

KERNEL_OLDEST: Final = (5, 4)
OPTIONS: Final = {
    "SO_REUSEPORT": "workers cannot share a port",
    "TCP_DEFER_ACCEPT": "each handshake wakes a worker twice",
    "TCP_NOTSENT_LOWAT": "urgent messages wait behind what the kernel has buffered",
}
SLOW_CLOCKS: Final = {"hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit"}
# Of struct timex of <sys/timex.h>: the status bit of a clock that nobody keeps.
STA_UNSYNC: Final = 0x40
OFF_MAX_S: Final = 0.5
OUR_BYTES_PER_CONNECTION: Final = 512


def machine(settings: Settings, host: Host, workers: int) -> Iterator[Diagnosis]:
    """Look at kernel, processors, memory and clock."""
    yield from kernel(host)
    yield from processors(host, workers)
    yield from memory(settings, host, workers)
    yield from clock(host, clock_state())


# ---------------------------------------------------------------- kernel


def kernel(host: Host, release: str = "") -> Iterator[Diagnosis]:
    """Its version, and the features that are used, by asking it for each."""
    release = release or platform.release()
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else KERNEL_OLDEST
    if platform.system() != "Linux":
        yield fault("kernel", f"{platform.system()}: the hub needs Linux (epoll)", "run it on Linux")
        return
    lacking = [name for name in OPTIONS if not _takes(name)]
    for name in lacking:
        yield doubt("kernel", f"no {name}: {OPTIONS[name]}", "use a kernel, or a sandbox, that has it")
    if version < KERNEL_OLDEST:
        oldest = ".".join(map(str, KERNEL_OLDEST))
        yield doubt("kernel", f"{release} is older than {oldest}", f"use {oldest} or later")
    elif not lacking:
        yield fine("kernel", f"{release}: {', '.join(OPTIONS)}")


def _takes(name: str) -> bool:
    """Whether a socket takes the option here: a sandbox may know the name and refuse it."""
    option = getattr(socket, name, None)
    if option is None:
        return False
    level = socket.SOL_SOCKET if name.startswith("SO_") else socket.IPPROTO_TCP
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(level, option, 1)
        except OSError:
            return False
    return True


# ---------------------------------------------------------------- processors


def processors(host: Host, workers: int) -> Iterator[Diagnosis]:
    """How many we may use, and whether they are throttled."""
    area, cores = "processors", len(os.sched_getaffinity(0))
    quota = host.cpu_quota()
    if workers > cores:
        yield doubt(
            area,
            f"{workers} workers on {cores} cores: they take turns",
            "set workers to auto, or widen CPUAffinity",
        )
    elif quota is not None and quota < workers:
        yield doubt(
            area,
            f"the control group may use {quota:g} processors and there are {workers} workers: when it is "
            "used up all of them stand still for the rest of a period",
            "raise CPUQuota= (cpu.max), or run fewer workers",
        )
    else:
        yield fine(area, f"{cores} for {workers} worker{'s' if workers > 1 else ''}")
    slow = sorted(set(host.each("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")) & {"powersave"})
    driver = host.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_driver")
    if slow and driver not in ("intel_pstate", "amd-pstate-epp"):  # theirs follows the load too
        yield doubt(
            "cpu governor",
            "powersave: the first messages after a pause meet a slow processor",
            "cpupower frequency-set -g performance (or schedutil)",
        )


# ---------------------------------------------------------------- memory


def memory(settings: Settings, host: Host, workers: int) -> Iterator[Diagnosis]:
    """Whether what is free holds the connections that are allowed, and the rooms."""
    found = host.memory_bytes()
    if found is None:
        return
    total, free = found
    connections = wanted_connections(settings) * workers
    if connections < CONNECTIONS_MAX:
        each = OUR_BYTES_PER_CONNECTION + KERNEL_BYTES_PER_CONNECTION
        need = connections * each + workers * settings.memory_bytes
        if need > total:
            yield doubt(
                "memory",
                f"{_size(total)} in all; {connections} idle connections and memory_bytes of {workers} "
                f"workers come to {_size(need)}",
                "set max_connections and memory_bytes to what fits, or add memory",
            )
            return
    if free < 256 * MB:
        yield doubt("memory", f"{_size(free)} of {_size(total)} is free", "end what else runs, or add memory")
    else:
        yield fine("memory", f"{_size(free)} of {_size(total)} is free")


def _size(count: int) -> str:
    for unit, name in ((GB, "GB"), (MB, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / KB:.0f} KB"


# ---------------------------------------------------------------- clock


class ClockState(NamedTuple):
    """What the kernel says of its clock: whether somebody keeps it, and by how much it may be off."""

    synchronised: bool
    error_max_s: float


class _Timex(ctypes.Structure):
    # The head of struct timex; what follows is written by the kernel and not read here.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def clock_state() -> ClockState | None:
    """Ask adjtimex(2), changing nothing; None where it is not to be had."""
    timex = _Timex()  # modes 0: only look
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "adjtimex") or libc.adjtimex(ctypes.byref(timex)) < 0:
        return None
    return ClockState(not timex.status & STA_UNSYNC, timex.maxerror / 1e6)


def clock(host: Host, state: ClockState | None) -> Iterator[Diagnosis]:
    """Whether the time is kept, and cheap to ask for."""
    year = time.gmtime().tm_year
    if year < 2025:
        yield fault(
            "clock",
            f"it is the year {year} here: every token is refused",
            "set the clock (chrony, timesyncd)",
        )
    elif state is None:
        yield fine("clock", "nobody can be asked whether it is kept")
    elif not state.synchronised:
        yield doubt(
            "clock",
            "nothing keeps it: tokens of other machines end early or late, and latencies between machines "
            "mean nothing",
            "run chrony or systemd-timesyncd here; in a container, on its host",
        )
    elif state.error_max_s > OFF_MAX_S:
        yield doubt("clock", f"it may be off by {state.error_max_s:.1f} s", "look at `chronyc tracking`")
    else:
        yield fine("clock", f"kept, within {state.error_max_s * 1000:.0f} ms")
    source = host.text("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source in SLOW_CLOCKS:
        yield doubt(
            "clock source",
            f"{source}: each look at the clock costs a system call, several for every batch of messages",
            "use tsc or kvm-clock (/sys/devices/system/clocksource/clocksource0/current_clocksource)",
        )
