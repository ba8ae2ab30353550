"""`python -m bench.abuse`: what does an honest client wait beside floods of handshakes, pings and bombs?

One honest client asks 200 times a second (a `ping` of the protocol and its `pong`); time runs from when a
question was due. Quiet phases and phases beside one attacker alternate. The attacker is a process of its own,
on the generator's core and of low priority, so that what the honest client waits is the server's doing. It
comes from another address, which is limited and punished as any is; with `--unpunished` the server has no
limits per address, no penalties and no rate of control frames, and the attack is whole.

    handshakes   connect, shake hands, reset, as fast as it goes
    half-heads   connect, send half a request, and keep a thousand such
    pings        eight connections of nothing but pings, made anew when they are cut
    bombs        eight of compressed messages of 60 bytes that are 64 KiB each
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import socket
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any

from bench import report
from bench.raw import Client, upgrade
from bench.servers import GENERATOR_CORE, SERVERS, Running, running
from realtime.settings import KNOBS

SPACING_S = 0.005
ATTACKER = "127.66.6.6"
ATTACKERS = 8
HALF_HEADS = 1000
NICE = 10
UNPUNISHED = {
    "penalty_threshold": "0",
    "connections_per_second_per_address": "0",
    "max_connections_per_address": "0",
    "control_frames_per_second": "0",
}
RESET = struct.pack("ii", 1, 0)


@dataclass
class Phase:
    """What the honest client waited, in ns from when each question was due, and how often it was attacked."""

    late_ns: list[int]
    attacks_per_s: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.abuse", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of a quiet and an attacked phase each (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="a phase (2)")
    parser.add_argument("--attack", choices=sorted(ATTACKS), action="append", help="only these (all)")
    parser.add_argument("--unpunished", action="store_true", help="without limits and penalties per address")
    asked = parser.parse_args(argv)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {GENERATOR_CORE})
    print(report.headline("abuse", (__doc__ or "").partition(": ")[2].partition("\n")[0]))
    settings = {"exempt_addresses": "127.0.0.1", "compression": "true", "max_connections_per_user": "100000"}
    if asked.unpunished:
        settings |= UNPUNISHED
    server = replace(
        SERVERS["realtime"], environ={KNOBS[name].variable: value for name, value in settings.items()}
    )
    for name in asked.attack or sorted(ATTACKS):
        with running(server) as up:  # one of its own, or the penalty of one would be the peace of the next
            _measure(up, name, asked)
    return 0


def _measure(up: Running, name: str, asked: argparse.Namespace) -> None:
    phases: dict[str, list[Phase]] = {"quiet": [], "beside": []}
    with Client(up.port, "honest") as honest:
        _phase(honest, 0.3)
        for _ in range(asked.rounds):
            phases["quiet"].append(_phase(honest, asked.seconds))
            with _attack(name, up.port) as count:
                _phase(honest, 0.3)  # until it has begun
                before, began = count.value, time.monotonic()
                phase = _phase(honest, asked.seconds)
                phase.attacks_per_s = (count.value - before) / (time.monotonic() - began)
            phases["beside"].append(phase)
            _phase(honest, 0.3)  # until what it has left behind is gone
    _print(name, phases)


def _phase(honest: Client, seconds: float) -> Phase:
    """Ask every SPACING_S; who is late asks at once, and its time runs from when it was due."""
    late_ns: list[int] = []
    began = time.perf_counter_ns()
    for number in range(int(seconds / SPACING_S)):
        due = began + int(number * SPACING_S * 1e9)
        while (now := time.perf_counter_ns()) < due:
            time.sleep((due - now) / 1e9)
        honest.ask({"type": "ping", "id": number})
        late_ns.append(time.perf_counter_ns() - due)
    return Phase(late_ns)


def _print(name: str, phases: dict[str, list[Phase]]) -> None:
    found = {kind: [_percentiles(phase.late_ns) for phase in each] for kind, each in phases.items()}
    rate = statistics.median(phase.attacks_per_s for phase in phases["beside"])
    for kind, each in found.items():
        p50, p99, worst = (statistics.median(values) for values in zip(*each, strict=True))
        beside = f"  {report.scaled(rate)}/s of it" if kind == "beside" else ""
        print(f"  {name:<10} {kind:<6} p50 {p50:.3f} ms  p99 {p99:.3f} ms  longest {worst:.2f} ms{beside}")
    for number, label in ((0, "p50"), (1, "p99")):
        beside, quiet = ([each[number] for each in found[kind]] for kind in ("beside", "quiet"))
        middle, least, most = report.ratio(beside, quiet)
        print(f"  {name:<10} {label} beside/quiet x{middle:.2f} ({least:.2f} to {most:.2f})")


def _percentiles(late_ns: list[int]) -> tuple[float, float, float]:
    ordered = sorted(late_ns)
    return ordered[len(ordered) // 2] / 1e6, ordered[int(len(ordered) * 0.99)] / 1e6, ordered[-1] / 1e6


# ---------------------------------------------------------------- the attacker


@contextlib.contextmanager
def _attack(name: str, port: int) -> Any:
    """Attack as long as this lasts; yields the count of what was done."""
    count = multiprocessing.Value("Q", 0)
    stop = multiprocessing.Event()
    process = multiprocessing.Process(target=_run, args=(name, port, count, stop))
    process.start()
    try:
        yield count
    finally:
        stop.set()
        process.join()


def _run(name: str, port: int, count: Synchronized[int], stop: Event) -> None:
    os.nice(NICE)
    step = ATTACKS[name](port)
    while not stop.is_set():
        done = step()
        with count.get_lock():
            count.value += done


def _connect(port: int) -> socket.socket:
    made = socket.socket()
    made.bind((ATTACKER, 0))
    made.settimeout(1.0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    made.connect(("127.0.0.1", port))
    return made


def _handshakes(port: int) -> Callable[[], int]:
    request = upgrade("/ws")

    def step() -> int:
        with contextlib.suppress(OSError), _connect(port) as made:
            made.sendall(request)
            made.recv(4096)
        return 1

    return step


def _half_heads(port: int) -> Callable[[], int]:
    request = upgrade("/ws")[:40]
    held: list[socket.socket] = []

    def step() -> int:
        with contextlib.suppress(OSError):
            made = _connect(port)
            made.sendall(request)
            held.append(made)
        if len(held) > HALF_HEADS:
            held.pop(0).close()
        return 1

    return step


def _flood(part: bytes, extension: str = "") -> Callable[[int], Callable[[], int]]:
    """Return the attack of several connections that send `part` without end."""
    chunk = part * max(1, 60_000 // len(part))

    def attack(port: int) -> Callable[[], int]:
        flooders: list[tuple[socket.socket, list[memoryview]]] = []

        def step() -> int:
            if len(flooders) < ATTACKERS:
                with contextlib.suppress(OSError):
                    flooders.append((_opened(port, extension), [memoryview(chunk)]))
                return 0
            return sum(_push(flooders, each, chunk) for each in list(flooders)) // len(part)

        return step

    return attack


def _opened(port: int, extension: str) -> socket.socket:
    made = _connect(port)
    made.sendall(upgrade("/ws").replace(b"\r\n\r\n", f"\r\n{extension}\r\n".encode()))
    if not made.recv(4096).startswith(b"HTTP/1.1 101 "):
        raise ConnectionRefusedError
    made.setblocking(False)
    return made


def _push(flooders: list[Any], each: tuple[socket.socket, list[memoryview]], chunk: bytes) -> int:
    """Send as much as the socket takes and read what came; a connection that was cut is let go of."""
    made, rest = each
    sent = 0
    try:
        with contextlib.suppress(BlockingIOError):
            sent = made.send(rest[0])
            rest[0] = rest[0][sent:] or memoryview(chunk)
        with contextlib.suppress(BlockingIOError):
            if not made.recv(1 << 20):
                raise ConnectionResetError
    except OSError:
        made.close()
        flooders.remove(each)
    return sent


def _masked_frame(first: int, payload: bytes) -> bytes:
    """A client's frame under a masking key of zeros."""
    head = bytes([first, 0x80 | len(payload)]) if len(payload) < 126 else b""
    head = head or struct.pack("!BBH", first, 0xFE, len(payload))
    return head + bytes(4) + payload


def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b'{"type":"ping","content":"' + b"a" * 65_000 + b'"}')
    return _masked_frame(0xC1, (packed + packer.flush(zlib.Z_SYNC_FLUSH))[:-4])


ATTACKS: dict[str, Callable[[int], Callable[[], int]]] = {
    "handshakes": _handshakes,
    "half-heads": _half_heads,
    "pings": _flood(_masked_frame(0x89, b"p" * 8)),
    "bombs": _flood(_bomb(), "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
}


if __name__ == "__main__":
    sys.exit(main())
