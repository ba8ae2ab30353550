"""The questions about one server under pressure: memory, a saturated room, members that never read."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from dataclasses import replace

from bench import report
from bench.compare import Failures, Options, finish, progress
from bench.generator import Load, Result, WrongResultError, measure, read_report, start
from bench.servers import SERVERS, Running, Server, ServerUnavailableError, Traffic, running

MOST_BYTES = {"idle": 300, "joined": 1024}  # of user memory a connection
REST_PERCENT = 5.0  # memory "stops growing" when the last third of a run adds no more than this


def memory(options: Options) -> int:
    """How much user memory does a connection hold? (resident set; the kernel's buffers come on top)"""
    counts = (20, 40) if options.short else (1000, 10_000)
    failures = Failures()
    results: dict[str, dict[str, list[float]]] = {}
    for _ in range(1 if options.short else min(options.rounds, 3)):
        for server in options.chosen(("baseline", "hub", "realtime", "socketify")):
            for label, traffic in _connection_kinds(server):
                progress(f"memory  {server.name}  {label}")
                bytes_each = _per_connection(server, traffic, counts, failures)
                for kind, value in bytes_each.items():
                    results.setdefault(f"{label}, {kind}", {}).setdefault(server.name, []).append(value)
    progress("")
    print(report.headline("memory", memory.__doc__ or "", short=options.short))
    for label, by_server in results.items():
        for name, values in by_server.items():
            middle = statistics.median(values)
            said = f"{middle:.0f} B a connection"
            if name == "realtime" and not options.short:
                most = MOST_BYTES["idle" if label.startswith("idle") else "joined"]
                said += f", wanted <= {most}: {'yes' if middle <= most else 'NO'}"
            print(report.row(label, name, said, values))
    return finish("memory", results, failures, options)


def _connection_kinds(server: Server) -> list[tuple[str, Traffic]]:
    kinds = [("joined", server.room)]
    return [("idle", server.idle), *kinds] if server.idle else kinds


def _per_connection(
    server: Server, traffic: Traffic, counts: tuple[int, int], failures: Failures
) -> dict[str, float]:
    """Return bytes a connection: of all from an empty server, and of each further one."""
    rss_kb, from_empty = [], 0.0
    for connections in counts:
        # Joined members sit in rooms of 100, as people do.
        load = Load("idle", connections, rooms=max(1, connections // 100), seconds=0.2, warmup_s=0.0)
        try:
            with running(server) as up:
                result = measure(up, traffic, load)
        except ServerUnavailableError as error:
            failures.missing(server.name, error)
            return {}
        except WrongResultError as error:
            failures.wrong_result("memory", server.name, error)
            return {}
        rss_kb.append(result.rss_connected_kb)
        from_empty = result.rss_per_connection_bytes
    further = (rss_kb[1] - rss_kb[0]) * 1024 / (counts[1] - counts[0])
    return {"from empty": from_empty, "each further": further}


def saturated(options: Options) -> int:
    """How long does another client's echo take while a room of 8,000 is saturated?"""
    busy = options.sized(Load("fanout", 8000, window=16, warmup_s=1.0))
    # The probe starts once the room is busy and ends before it does.
    probe = Load("echo", 4, rate=50.0, seconds=max(0.2, busy.seconds - 0.5), warmup_s=0.5, nap_us=0)
    failures = Failures()
    results: dict[str, list[Result]] = {}
    if not _may_be_urgent():
        print("!!! no real-time priority here: the generator's own work delays the probe", file=sys.stderr)
    for number in range(options.rounds):
        for server in options.chosen(("baseline", "realtime", "socketify")):
            progress(f"saturated  round {number + 1}/{options.rounds}  {server.name}")
            try:
                result = _probe_beside(server, busy, probe)
            except ServerUnavailableError as error:
                failures.missing(server.name, error)
            except WrongResultError as error:
                failures.wrong_result("saturated", server.name, error)
            else:
                results.setdefault(server.name, []).append(result)
    progress("")
    print(report.headline("saturated", saturated.__doc__ or "", short=options.short))
    for name, runs in results.items():
        values = [run.p99_ms for run in runs]
        middle = statistics.median(values)
        said = f"echo p50 {statistics.median(run.p50_ms for run in runs):.2f} ms  p99 {middle:.2f} ms"
        if name == "realtime" and not options.short:
            said += f"  wanted <= 5 ms: {'yes' if middle <= 5 else 'NO'}"
        print(report.row(f"room of {busy.connections}", name, said, values))
    return finish("saturated", results, failures, options)


def _may_be_urgent() -> bool:
    if not shutil.which("chrt"):
        return False
    return subprocess.run(["chrt", "-f", "1", "true"], capture_output=True, check=False).returncode == 0


def _probe_beside(server: Server, busy: Load, probe: Load) -> Result:
    """Return the echo's figures while the room is kept busy; both have to come out right."""
    with running(server) as up:
        # Connecting thousands takes part of a second: the probe's warm-up begins behind it.
        room = start(up, server.room, replace(busy, seconds=busy.seconds + 2.0))
        try:
            result = _measure_urgently(up, server.echo, replace(probe, warmup_s=probe.warmup_s + 1.0))
        finally:
            if room.poll() is not None and room.returncode:
                print(f"  {server.name}: the room ended early", file=sys.stderr)
        read_report(room, busy)
        return result


def _measure_urgently(up: Running, traffic: Traffic, load: Load) -> Result:
    """Measure with real-time priority where it may be had: a probe must not wait for its own machine."""
    return read_report(start(up, traffic, load, urgent=_may_be_urgent()), load)


def slow(options: Options) -> int:
    """What do 1,000 members that never read cost the others, and the server's memory?"""
    # 0.8 MB/s a member: the kernel's buffers are full after a second, the room's lag limit after a few.
    fast = options.sized(Load("fanout", 100, rate=200.0, payload_bytes=4096, warmup_s=0.5))
    fast = fast if options.short else replace(fast, seconds=max(12.0, options.seconds))
    stopped = 10 if options.short else 1000
    crowd = replace(fast, connections=fast.connections + stopped, stopped=stopped)
    failures = Failures()
    results: dict[str, list[Result]] = {"alone": [], "beside": []}
    for number in range(1 if options.short else min(options.rounds, 2)):
        for label, load in (("alone", fast), ("beside", crowd)):
            progress(f"slow  round {number + 1}  {label}")
            try:
                with running(SERVERS["realtime"]) as up:
                    results[label].append(measure(up, SERVERS["realtime"].room, load))
            except ServerUnavailableError as error:
                failures.missing("realtime", error)
            except WrongResultError as error:
                failures.wrong_result(f"slow, {label}", "realtime", error)
    progress("")
    print(report.headline("slow", slow.__doc__ or "", short=options.short))
    for label, runs in results.items():
        for run in runs:
            figures = f"p50 {run.p50_ms:.2f} ms  p99 {run.p99_ms:.2f} ms  lost {run.lost}"
            print(f"  fast members {label:<8} {figures}")
            if label == "beside":
                _print_growth(run)
    if not options.short and all(results.values()):
        times = statistics.median(run.p99_ms for run in results["beside"]) / statistics.median(
            run.p99_ms for run in results["alone"]
        )
        print(f"  the fast members' p99 is x{times:.2f}  wanted < 2: {'yes' if times < 2 else 'NO'}")
    return finish("slow", results, failures, options)


def _print_growth(run: Result) -> None:
    samples = [kb / 1024 for kb in run.rss_kb]
    if len(samples) < 3:
        return
    third = samples[-1 - len(samples) // 3]
    growth = 100 * (samples[-1] - third) / third if third else 0.0
    rests = "rests" if growth <= REST_PERCENT else "STILL GROWS"
    print(f"  resident MB over the run: {' '.join(f'{mb:.0f}' for mb in samples)}; {rests}")
    print(f"  slow members cut: {run.stopped_cut} seen by their end of stream")
