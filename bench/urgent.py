"""`python -m bench.urgent`: how much later is a CRITICAL message when the same client is behind with bulk?

One client reads as fast as it can (it decodes every message) with a bounded receive buffer. It is a member of
an urgent room and of a bulk room. In the loaded phases the server keeps the bulk room's log filled with
megabytes that this client has not taken; idle and loaded phases alternate. Urgent messages come to the urgent
room and, as a notification would, to the connection alone. Time runs from the sender's send() to the message
being decoded, on one clock: sender and reader are one process.

What no priority can overtake is what has left the server's user memory: the kernel's unsent bytes
(`unsent_bytes`), the client's receive buffer and what it has read and not decoded yet. That is reported as
the time this client takes for so many bytes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench import report
from bench.peer import Peer
from bench.servers import GENERATOR_CORE, Running, policies_server, running
from realtime.settings import Settings

BULK, URGENT = "bulk:b", "urgent:u"
BACKLOG_BYTES = 2 << 20
READ_BYTES = 16 << 10
SPACING_S = 0.004
GOAL = 2.0
CHUNK_BYTES = 64 << 10


@dataclass
class Phase:
    """What one phase saw: latencies by kind of urgent message, and how fast bulk was read."""

    late_ns: dict[str, list[int]] = field(default_factory=lambda: {"room": [], "unicast": []})
    bulk_bytes: int = 0
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where urgent messages got lost or the backlog was not there."""
    parser = argparse.ArgumentParser(prog="python -m bench.urgent", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of an idle and a loaded phase each (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="a phase (2)")
    parser.add_argument(
        "--receive-buffer", type=int, default=32 << 10, help="SO_RCVBUF of the client (32768)"
    )
    parser.add_argument("--unsent-bytes", type=int, default=None, help="of the server (its default)")
    asked = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {GENERATOR_CORE})
    settings = {"room_lag_limit_bytes": str(4 * BACKLOG_BYTES)}
    if asked.unsent_bytes is not None:
        settings["unsent_bytes"] = str(asked.unsent_bytes)
    with running(policies_server(**settings)) as up:
        return _measure(up, asked)


def _measure(up: Running, asked: argparse.Namespace) -> int:
    reader = Peer(up.port, "reader", receive_buffer_bytes=asked.receive_buffer)
    sender = Peer(up.port, "sender")
    reader.ask("join", room=BULK)
    reader.ask("join", room=URGENT)
    reader.ask("listen")
    phases: dict[str, list[Phase]] = {"idle": [], "loaded": []}
    backlogs: list[int] = []
    chunks: list[int] = []
    for _ in range(asked.rounds):
        phases["idle"].append(_phase(reader, sender, asked.seconds))
        sender.ask("fill", room=BULK, content={"bytes": BACKLOG_BYTES})
        _phase(reader, sender, 0.2)  # until it is full
        phases["loaded"].append(_phase(reader, sender, asked.seconds))
        chunks.append(_metric(up.port, "realtime_room_log_chunks"))
        backlogs.append(sender.ask("drain", room=BULK)["content"]["offset"])
        _read_to_the_end(reader)
    return _print(phases, backlogs, chunks, asked)


def _phase(reader: Peer, sender: Peer, seconds: float) -> Phase:
    """Send an urgent message every SPACING_S, of either kind in turn, and read on all the time."""
    phase = Phase()
    began = time.perf_counter_ns()
    due, end, sent = began, began + int(seconds * 1e9), 0
    got = 0
    while due < end or got < sent:
        now = time.perf_counter_ns()
        if now >= due and due < end:
            kind = "room" if sent % 2 else "unicast"
            text = f"{kind} {time.perf_counter_ns()}"
            if kind == "room":
                sender.send("say", room=URGENT, content=text)
            else:
                sender.send("alert", content={"user": "reader", "text": text})
            sent, due = sent + 1, due + int(SPACING_S * 1e9)
        for message in reader.read(READ_BYTES):
            if message.get("room") == BULK:
                phase.bulk_bytes += len(message.get("content", "")) + 150
            elif message["type"] in ("say", "alert"):
                kind, _, stamp = message["content"].partition(" ")
                phase.late_ns[kind].append(time.perf_counter_ns() - int(stamp))
                got += 1
        if now > end + 10_000_000_000:
            raise TimeoutError(f"{sent - got} urgent messages did not come")
    phase.seconds = (time.perf_counter_ns() - began) / 1e9
    return phase


def _read_to_the_end(reader: Peer) -> None:
    try:
        while True:
            for _ in reader.wait(0.2):
                pass
    except TimeoutError:
        return


def _metric(port: int, name: str) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(f"{name} "))))


def _print(
    phases: dict[str, list[Phase]], backlogs: list[int], chunks: list[int], asked: argparse.Namespace
) -> int:
    print(report.headline("urgent", (__doc__ or "").partition(": ")[2].partition("\n")[0]))
    loaded = phases["loaded"]
    rate = statistics.median(phase.bulk_bytes / phase.seconds for phase in loaded)
    full = min(chunks) * CHUNK_BYTES >= BACKLOG_BYTES // 2
    print(
        f"  loaded: the client reads {rate / 1e6:.0f} MB/s; the server holds {min(chunks)} to {max(chunks)} "
        f"chunks of 64 KiB for it, {min(backlogs) // 1024} KiB at the least: {'full' if full else 'NOT FULL'}"
    )
    unsent = Settings().unsent_bytes if asked.unsent_bytes is None else asked.unsent_bytes
    buffers = unsent + 2 * asked.receive_buffer + READ_BYTES
    kept = f"{unsent} B unsent" if unsent else "what the kernel likes of unsent bytes"
    print(
        f"  behind the server: {kept}, {2 * asked.receive_buffer} B received, {READ_BYTES} B read: "
        f"{buffers / rate * 1e3:.2f} ms of this client's time"
    )
    for kind in ("room", "unicast"):
        idle, busy = ([_percentiles(phase.late_ns[kind]) for phase in phases[name]] for name in phases)
        for name, each in (("idle", idle), ("loaded", busy)):
            p50, p99 = (statistics.median(values) for values in zip(*each, strict=True))
            count = sum(len(phase.late_ns[kind]) for phase in phases[name])
            print(f"  urgent {kind:<8} {name:<7} p50 {p50:.3f} ms  p99 {p99:.3f} ms  ({count} messages)")
        middle, least, most = report.ratio([b[1] for b in busy], [i[1] for i in idle])
        verdict = f"wanted <= {GOAL:g}: {'yes' if middle <= GOAL else 'NO'}"
        print(f"  urgent {kind:<8} p99 loaded/idle x{middle:.2f} ({least:.2f} to {most:.2f})  {verdict}")
    return 0 if full else 1


def _percentiles(late_ns: list[int]) -> tuple[float, float]:
    ordered = sorted(late_ns)
    return ordered[len(ordered) // 2] / 1e6, ordered[int(len(ordered) * 0.99)] / 1e6


if __name__ == "__main__":
    sys.exit(main())
