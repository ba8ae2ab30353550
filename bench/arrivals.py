"""What does a connection cost that is not let in, and one that is, with rules about addresses and without?

    python -m bench.arrivals [--rounds 5] [--short]

A hub by hand, without an event loop, and a process that connects to it from addresses of 127.0.0.0/8, as fast
as it can, one connection after the other. What is counted is the CPU of the hub's process, the kernel's part
included, for each connection; and every connection is counted: turned away, or through its handshake.

Then the table of networks by itself: look-ups from Python, of addresses at random.
"""

from __future__ import annotations

import argparse
import ipaddress
import multiprocessing
import os
import random
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report
from realtime.core.audit import NO_AUDITOR
from realtime.core.clock import SystemClock
from realtime.edge.doorkeeper import Doorkeeper
from realtime.edge.network import NetworkRules
from realtime.native.cidr import CidrList, CidrTable
from realtime.native.hub import Accept, Hub
from realtime.policy.loading import read_policy

QUESTION = "arrivals"
DATABASE = Path(__file__).parents[1] / "tests" / "data" / "maxmind" / "GeoIP2-Country-Test.mmdb"
STRANGER, FRIEND = "127.0.0.66", "127.0.0.1"
SEED = 20250715
UPGRADE = (
    b"GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FLOOD = 10_000  # a second: what one that is turned away costs is said as a share of a core at this rate


def random_networks(count: int, bits: int) -> list[str]:
    """Networks of the lengths that lists of bad addresses have; the same ones each time."""
    dice = random.Random(SEED)
    kind = ipaddress.IPv4Address if bits == 32 else ipaddress.IPv6Address
    lengths = (24, 28, 30, 32) if bits == 32 else (48, 56, 64, 128)
    # None of 127.0.0.0/8, from where this benchmark itself connects.
    top = (
        (lambda: dice.randrange(128 << 24, 224 << 24))
        if bits == 32
        else (lambda: 2 << 124 | dice.getrandbits(124))
    )
    found = []
    for _ in range(count):
        length = dice.choice(lengths)
        found.append(f"{kind(top() >> (bits - length) << (bits - length))}/{length}")
    return found


def policies(listed: int) -> dict[str, tuple[str, dict[str, object] | None]]:
    """Who connects, and under which rules; None for no rules."""
    long_list = random_networks(listed, 32)
    return {
        "let in, no rules": (FRIEND, None),
        f"let in, {listed:,} networks denied": (FRIEND, {"deny": long_list}),
        "let in, by country": (
            FRIEND,
            {"geo_database": str(DATABASE), "countries_deny": ["KP"]},
        ),
        "turned away by a list": (STRANGER, {"deny": [*long_list, STRANGER]}),
        "turned away by country": (
            STRANGER,
            {"geo_database": str(DATABASE), "countries_allow": ["SE"]},
        ),
    }


def connect(address: str, port: int, count: int, speaks: bool) -> None:
    """Connect `count` times, one after the other; one that `speaks` waits for the answer to its handshake."""
    reset = struct.pack("ii", 1, 0)
    for _ in range(count):
        with socket.socket() as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            made.bind((address, 0))
            made.connect(("127.0.0.1", port))
            if speaks:
                made.sendall(UPGRADE)
                assert made.recv(4096).startswith(b"HTTP/1.1 101")


def cost_us(address: str, rules: dict[str, object] | None, count: int) -> float:
    """CPU of the hub's process in microseconds a connection."""

    def never(*told: object) -> None:
        raise AssertionError(told)

    hub = Hub(
        on_handshake=lambda shake: Accept(None),
        on_message=never,
        on_close=lambda *told: None,
        on_http=never,
        on_wake=lambda delay_s: None,
    )
    keeper = Doorkeeper(SystemClock())
    keeper.serve(hub)
    NetworkRules(hub, keeper, audit=NO_AUDITOR).prepare(read_policy({"network": rules or {}}, "bench"))()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        hub.listen(listener.fileno())
        port = listener.getsockname()[1]
        client = multiprocessing.Process(target=connect, args=(address, port, count, address == FRIEND))
        client.start()
        began = time.process_time()
        counted = "handshakes" if address == FRIEND else "denied_arrivals"
        while hub.stats()[counted] < count or hub.stats()["connections"]:
            select.select([hub.fileno()], [], [], 0.1)
            hub.on_ready()
            hub.tick()
            assert client.is_alive() or client.exitcode == 0, "the client failed"
        took = time.process_time() - began
        client.join()
    return took / count * 1e6


def look_ups(table: CidrTable, bits: int, count: int) -> float:
    """Look-ups a second, of addresses that have not been looked up before."""
    dice = random.Random(SEED + 1)
    asked = [dice.randbytes(bits // 8) if bits == 32 else b"\x20" + dice.randbytes(15) for _ in range(count)]
    find = table.find
    began = time.process_time()
    for address in asked:
        find(address)
    return count / (time.process_time() - began)


def table_of(count: int, bits: int) -> CidrTable:
    """A table of networks, half of each list."""
    networks = CidrList()
    texts = random_networks(count, bits)
    networks.add_lines("\n".join(texts[::2]).encode(), 1)
    networks.add_lines("\n".join(texts[1::2]).encode(), 2)
    return networks.table()


def line(name: str, values: Sequence[float], unit: str, more: str = "") -> str:
    """One line of the report: the median, its spread, what it means."""
    spread = report.spread_percent(values)
    figure = report.scaled(statistics.median(values))
    return f"  {name:<36} {figure:>6} {unit}   ({len(values)} runs, spread {spread:.0f} %){more}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask both questions and print the answers."""
    parser = argparse.ArgumentParser(prog="bench.arrivals", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 101), metavar="1-100")
    parser.add_argument("--short", action="store_true", help="few connections: shows that it runs")
    options = parser.parse_args(arguments)
    count, listed, largest = (200, 1000, 10_000) if options.short else (20_000, 50_000, 1_000_000)
    os.sched_setaffinity(0, {0})
    print(report.headline(QUESTION, "what does one that is turned away cost?", short=options.short))
    cases = policies(listed)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (address, rules) in cases.items():
            taken[name].append(cost_us(address, rules, count))
    for name, values in taken.items():
        median = statistics.median(values)
        share = f"   {FLOOD:,}/s are {median * FLOOD / 1e4:.0f} % of a core, {1e6 / median:,.0f}/s all of it"
        print(line(name, values, "us CPU a connection", share if name.startswith("turned") else ""))
    for size in (1000, largest // 10, largest):
        for bits, family in ((32, "IPv4"), (128, "IPv6")):
            table = table_of(size, bits)
            rates = [look_ups(table, bits, count * 10) for _ in range(options.rounds)]
            print(line(f"look-ups in {size:,} networks, {family}", rates, "/s"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
