"""Run a load generator against a server and read its report: ours, or wsload where it lies beside us.

Both generators know the same templates; their reports are brought to one form here. wsload is somebody
else's program in a sibling folder: where it is, it is the independent check of ours.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.build import BIN, compiled, program
from bench.servers import GENERATOR_CORE, ROOT, Running, Traffic, pinned

WSLOAD_SOURCE = ROOT.parent / "shared" / "tools" / "wsload.c"
SPARE_S = 90.0  # connecting, draining and a slow start, on top of what was asked for


class WrongResultError(RuntimeError):
    """The generator could not connect, or its count of deliveries did not come out."""


@dataclass(frozen=True)
class Load:
    """What to do to a server. `rate` (messages/s a sender) is open loop and excludes `window`."""

    mode: str  # fanout | echo | idle | handshakes
    connections: int = 100
    rooms: int = 1
    publishers: int = 1
    window: int = 1
    rate: float = 0.0
    stopped: int = 0
    seconds: float = 3.0
    warmup_s: float = 0.5
    nap_us: int = 100
    payload_bytes: int = 128
    concurrency: int = 64


@dataclass(frozen=True)
class Result:
    """One run: rates are per second of server CPU or of the clock, latencies in milliseconds."""

    per_cpu_s: float
    per_s: float
    p50_ms: float
    p99_ms: float
    lost: int
    duplicated: int
    closed_early: int
    server_cpu_share: float
    generator_cpu_share: float
    handshakes_per_s: float = 0.0
    handshakes_per_cpu_s: float = 0.0
    rss_per_connection_bytes: float = 0.0
    rss_connected_kb: int = 0
    rss_kb: list[int] = field(default_factory=list)
    stopped_cut: int = 0
    delivered: int = 0  # all that came, outside of the measured span too


def wsload() -> Path | None:
    """Return the compiled wsload, or None where its source is not at hand."""
    return compiled(WSLOAD_SOURCE, BIN / "wsload") if WSLOAD_SOURCE.exists() else None


def measure(running: Running, traffic: Traffic, load: Load, *, independent: bool = False) -> Result:
    """Run one load and return its figures, lost and duplicated deliveries having been ruled out.

    Raises:
        WrongResultError: something was lost, duplicated, closed early, or no connection came about.
    """
    return read_report(start(running, traffic, load, independent=independent), load)


def start(
    running: Running, traffic: Traffic, load: Load, *, independent: bool = False, urgent: bool = False
) -> subprocess.Popen[str]:
    """Start the generator on its core. `urgent` gives it real-time priority, for a probe beside another."""
    tool = wsload() if independent else None
    command = _wsload_command(tool, running, traffic, load) if tool else _load_command(running, traffic, load)
    if urgent:
        command = ["chrt", "-f", "1", *command]
    return subprocess.Popen(
        pinned(GENERATOR_CORE, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def read_report(process: subprocess.Popen[str], load: Load) -> Result:
    """Wait for a started generator and return its figures; see `measure` for the error."""
    try:
        output, errors = process.communicate(timeout=load.seconds + load.warmup_s + SPARE_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise WrongResultError("the generator did not end") from error
    if not output.strip():
        raise WrongResultError(errors.strip() or f"the generator ended with {process.returncode}")
    report = json.loads(output)
    result = _from_wsload(report) if "client" in report else _from_load(report)
    if process.returncode:
        raise WrongResultError(
            f"lost {result.lost}, duplicated {result.duplicated}, closed early {result.closed_early}, "
            f"stalled {report.get('stalled')} {errors.strip()[-300:]}"
        )
    return result


def _common_options(traffic: Traffic, load: Load) -> dict[str, str]:
    options = {
        "connections": load.connections,
        "rooms": load.rooms,
        "size": load.payload_bytes,
        "seconds": load.seconds,
        "warmup": load.warmup_s,
        "nap": load.nap_us,
        "concurrency": load.concurrency,
        "message": traffic.message,
        "init": traffic.init,
        "ready": traffic.ready,
    }
    if load.mode == "fanout":
        options["publishers"] = load.publishers
    if load.rate:
        options["rate"] = load.rate
    return {f"--{name}": str(value) for name, value in options.items() if value is not None}


def _load_command(running: Running, traffic: Traffic, load: Load) -> list[str]:
    options = _common_options(traffic, load) | {"--path": traffic.path, "--pid": str(running.pid)}
    options |= {"--window": str(load.window), "--stopped": str(load.stopped)}
    return [str(program("load")), load.mode, str(running.port), *_flat(options)]


def _wsload_command(tool: Path, running: Running, traffic: Traffic, load: Load) -> list[str]:
    options = _common_options(traffic, load) | {"--pid": str(running.pid), "--settle": "0.2"}
    if not load.rate:
        options["--inflight" if load.mode == "echo" else "--window"] = str(load.window)
    url = f"ws://127.0.0.1:{running.port}{traffic.path}"
    return [str(tool), load.mode, url, "--quiet", *_flat(options)]


def _flat(options: dict[str, str]) -> list[str]:
    return [part for pair in options.items() for part in pair]


def _from_load(report: dict[str, Any]) -> Result:
    latency = report["latency_us"]
    return Result(
        per_cpu_s=report["per_cpu_s"],
        per_s=report["per_s"],
        p50_ms=latency["p50"] / 1e3,
        p99_ms=latency["p99"] / 1e3,
        lost=report["lost"],
        duplicated=report["duplicated"],
        closed_early=report["cut"],
        server_cpu_share=report["server_cpu_share"],
        generator_cpu_share=report["generator_cpu_share"],
        handshakes_per_s=report.get("handshakes_per_s", 0.0),
        handshakes_per_cpu_s=report.get("handshakes_per_cpu_s", 0.0),
        rss_per_connection_bytes=report["rss_per_connection_bytes"],
        rss_connected_kb=report["rss_connected_kb"],
        rss_kb=report["rss_kb"],
        stopped_cut=report["stopped_cut"],
        delivered=report["delivered"],
    )


def _from_wsload(report: dict[str, Any]) -> Result:
    server, connect = report["server"], report["connect"]
    latency = report.get("latency_us", {"p50": 0.0, "p99": 0.0})
    echo = report["mode"] == "echo"
    return Result(
        per_cpu_s=server.get("requests_per_cpu_s" if echo else "deliveries_per_cpu_s", 0.0),
        per_s=report.get("requests_per_s" if echo else "deliveries_per_s", 0.0),
        p50_ms=latency["p50"] / 1e3,
        p99_ms=latency["p99"] / 1e3,
        lost=report.get("lost", 0),
        duplicated=report.get("duplicated", 0),
        closed_early=report["closed_early"],
        server_cpu_share=server["cpu_share"],
        generator_cpu_share=report["client"]["cpu_share"],
        handshakes_per_s=connect["per_s"],
        handshakes_per_cpu_s=connect["per_server_cpu_s"],
        rss_per_connection_bytes=server["rss_per_connection"],
        rss_connected_kb=server["rss_connected_kb"],
        rss_kb=[server["rss_base_kb"], server["rss_peak_kb"]],
    )
