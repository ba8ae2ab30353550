"""The server under load, as far as it can be watched: processes of this machine, or metrics.

What cannot be watched is left out of the result; nothing is guessed.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

LISTENING: Final = "0A"
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
PATIENCE_S: Final = 5.0
_SAMPLE: Final = re.compile(
    r"^(?:realtime_)?(process_cpu_seconds_total|process_resident_memory_bytes)(?:\{[^}]*\})? (\S+)$",
    re.MULTILINE,
)


class Usage(NamedTuple):
    """What the server has used so far, and has now."""

    cpu_s: float
    memory_bytes: int


class Subject:
    """The processes `pids`, or else the workers whose /metrics are at `metrics`."""

    def __init__(self, pids: Sequence[int], metrics: Sequence[str]) -> None:
        self.pids = tuple(pids)
        self.metrics = tuple(metrics)

    @property
    def watched(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self.pids or self.metrics)

    async def usage(self) -> Usage | None:
        """Return what all of it has used; None where part of it cannot be seen."""
        try:
            if self.pids:
                return Usage(sum(map(_cpu_s, self.pids)), sum(map(_memory_bytes, self.pids)))
            if self.metrics:
                texts = await asyncio.gather(*(asyncio.to_thread(_fetch, url) for url in self.metrics))
                return _sum(map(read_metrics, texts))
        except (OSError, ValueError):
            return None
        return None


def find(url_host: str, port: int) -> list[int]:
    """Return the processes of this machine that listen where the URL leads; none where that is elsewhere, or
    they are another user's.
    """
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(url_host, port, type=socket.SOCK_STREAM)}
    except OSError:
        return []
    if not all(_ours(str(address)) for address in addresses):
        return []
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    return sorted(pid for pid in _processes() if sockets & set(_files(pid))) if sockets else []


def read_metrics(text: str) -> Usage:
    """Read what a worker's /metrics says of its process.

    Raises:
        ValueError: it does not say it.
    """
    found = dict(_SAMPLE.findall(text))
    if len(found) < 2:
        raise ValueError("no process metrics")
    return Usage(
        float(found["process_cpu_seconds_total"]), int(float(found["process_resident_memory_bytes"]))
    )


def _sum(usages: Iterable[Usage]) -> Usage:
    all_of_it = list(usages)
    return Usage(sum(each.cpu_s for each in all_of_it), sum(each.memory_bytes for each in all_of_it))


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        text: bytes = answer.read(ANSWER_BYTES_MAX)
    return text.decode("utf-8", "replace")


def _ours(address: str) -> bool:
    """Whether an address is this machine's: only then may a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _listeners(port: int) -> set[str]:
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", name).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                found.add(words[9])
    return found


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _files(pid: int) -> list[str]:
    try:
        folder = f"/proc/{pid}/fd"
        return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
    except OSError:
        return []  # another user's, or gone


def _cpu_s(pid: int) -> float:
    """Seconds on a CPU of all threads that live: schedstat is exact where stat counts ticks of 10 ms."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
