"""What the benchmarks of a cluster stand on: Redis nodes, workers on ports of their own, the CPU of each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.build import program
from bench.generator import WrongResultError
from bench.servers import ROOT, START_S, STOP_S, ServerUnavailableError, free_port, realtime_command
from realtime.backends.redis_nodes import RedisCluster

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Worker:
    """A worker that is alone on its port, so that one can say on which worker a connection is."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU that it has used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@dataclass(frozen=True)
class Cost:
    """What Redis has used so far, on all nodes together: CPU, and FCALL's own count of calls and time."""

    cpu_s: float
    calls: int
    call_us: float

    def since(self, before: Cost) -> Cost:
        """Return what has been used from `before` to here."""
        return Cost(
            self.cpu_s - before.cpu_s, self.calls - before.calls, round(self.call_us - before.call_us)
        )


@contextlib.contextmanager
def redis_nodes(masters: int = 3, replicas: int = 0) -> Iterator[RedisCluster]:
    """Yield a Redis Cluster that is up."""
    nodes = RedisCluster(masters, replicas)
    nodes.start()
    try:
        yield nodes
    finally:
        nodes.remove()


@contextlib.contextmanager
def workers(redis_url: str, count: int, **settings: str) -> Iterator[list[Worker]]:
    """Yield so many workers that are ready; an empty `redis_url` is one that is embedded.

    Raises:
        ServerUnavailableError: one ended, or was not ready within START_S.
    """
    started: list[Worker] = []
    environ = os.environ | {"PYTHONPATH": str(ROOT), "REDIS_URL": redis_url}
    with tempfile.TemporaryFile() as log:
        try:
            for _ in range(count):
                port = free_port()
                process = subprocess.Popen(
                    realtime_command(port, **settings), cwd=ROOT, env=environ, stdout=log, stderr=log
                )
                started.append(Worker(port, process))
            for worker in started:
                _wait_until_ready(worker, log)
            yield started
        finally:
            for worker in started:
                worker.process.terminate()
            for worker in started:
                try:
                    worker.process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    worker.process.kill()
                    worker.process.wait()


def cost(nodes: RedisCluster) -> Cost:
    """Ask all nodes that run what they have used."""
    cpu_s, calls, call_us = 0.0, 0, 0.0
    for node in nodes.nodes:
        if node.running:
            cpu = node.ask("INFO", "cpu")
            cpu_s += cpu["used_cpu_user"] + cpu["used_cpu_sys"]
            fcall = node.ask("INFO", "commandstats").get("cmdstat_fcall", {"calls": 0, "usec": 0})
            calls, call_us = calls + fcall["calls"], call_us + fcall["usec"]
    return Cost(cpu_s, calls, call_us)


def load(ports: Sequence[int], options: dict[str, object], *flags: str) -> dict[str, Any]:
    """Run the generator's fan-out over these ports; return its report.

    Raises:
        WrongResultError: something was lost, doubled or cut, or it could not connect.
    """
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [str(program("load")), "fanout", ",".join(map(str, ports)), *given, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise WrongResultError(f"{done.stdout[-300:]} {done.stderr.strip()[-300:]}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _wait_until_ready(worker: Worker, log: Any) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if worker.process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip()
            raise ServerUnavailableError(f"a worker ended with {worker.process.returncode}: {said[-800:]}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{worker.port}/ready", timeout=1):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
    log.seek(0)
    said = log.read().decode(errors="replace").strip()
    raise ServerUnavailableError(f"a worker is not ready after {START_S:.0f} s: {said[-800:]}")


def fail(error: Exception) -> int:
    """Say what went wrong; return the exit code."""
    print(f"bench: {error}", file=sys.stderr)
    return 1
