"""delivery_cost: what do the histograms of deliveries and flushes add to a delivery?

Counted in instructions, which other work on a machine does not change. The hub is built twice, with and
without them. Both carry the same messages in one process under callgrind, which counts what they execute in
user space. The kernel's part, most of a delivery, it does not see, nor the clock, which is a system call
under callgrind and read once more for each flush. So the same load is timed without callgrind, in processor
time of the hub with the kernel's part, and a reading of the clock too: the last column is what the
instructions, at half a nanosecond each, and the clock come to of that. Needs valgrind and a C compiler.

    python -m bench.delivery_cost
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bench.build import compiled
from bench.report import headline

ROOT: Final = Path(__file__).resolve().parent.parent
SIZES: Final = (1, 10, 100, 1000)
DELIVERIES: Final = 20_000  # of each size
MESSAGES_MAX: Final = 2000
READ_EVERY: Final = 20  # messages: no socket is full by then
ROUNDS: Final = 5
INSTRUCTION_NS: Final = 0.5
PAYLOAD: Final = b"x" * 100
UPGRADE: Final = (
    b"GET /%d HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FLUSH: Final = "fanout_flush"
BATCH: Final = "run_batches"
CLOCK: Final = """
#include <stdio.h>
#include <time.h>
int main(void)
{
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (int i = 0; i < 10000000; i++) clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%f\\n", ((now.tv_sec - began.tv_sec) * 1e9 + (now.tv_nsec - began.tv_nsec)) / 1e7);
    return 0;
}
"""


class Cost(NamedTuple):
    """Instructions in user space: of all flushes, and of all the hub did from a frame's coming in on."""

    flushes: int
    batches: int


# ---------------------------------------------------------------- the load, under callgrind


def load(members: int, messages: int) -> None:
    """Publish `messages` to a room of `members` through a hub of this process; print what it counted."""
    from realtime.native.hub import Accept, Hub  # of the tree that is measured

    hub = Hub(
        on_handshake=lambda handshake: Accept(handshake.path),
        on_message=lambda state, payload: on_message(state, payload),
        on_close=lambda *told: None,
        on_http=lambda *told: None,
        on_wake=lambda delay_s: None,
    )
    log = hub.room()
    joined = set()

    def on_message(state: object, payload: bytes) -> None:
        if state in joined:
            log.append(payload)
        else:
            hub.current().join(log)
            joined.add(state)

    spent_ns = turns = 0

    def turn() -> bool:
        nonlocal spent_ns, turns
        began = time.thread_time_ns()
        more = hub.on_ready()
        spent_ns += time.thread_time_ns() - began
        turns += 1
        return more

    def until(done: Callable[[], bool]) -> None:
        while not done():
            select.select([hub.fileno()], [], [], 1.0)
            turn()

    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        hub.listen(listener.fileno())
        clients = []
        for number in range(members):
            client = socket.create_connection(listener.getsockname())
            client.sendall(UPGRADE % number + frame(b"join"))
            clients.append(client)
            until(lambda: len(joined) == len(clients))
        before, flushes = hub.stats(), sum(hub.timings()["flushes"][0])
        said = frame(PAYLOAD)
        spent_ns = turns = 0
        for number in range(1, messages + 1):
            clients[0].sendall(said)
            sent = before["deliveries"] + number * members
            until(lambda sent=sent: hub.stats()["deliveries"] >= sent and not turn())
            if number % READ_EVERY == 0:
                for client in clients:
                    client.recv(1 << 20)
        after = hub.stats()
        told = {
            "deliveries": after["deliveries"] - before["deliveries"],
            "sends": after["sends"] - before["sends"],
            "blocked": after["blocked"],
            "flushes": sum(hub.timings()["flushes"][0]) - flushes,
            "hub_ns": spent_ns - turns * looking_ns(),
        }
        print(json.dumps(told))


def looking_ns() -> int:
    """What two looks at the thread's processor time measure of each other."""
    return min(-time.thread_time_ns() + time.thread_time_ns() for _ in range(1000))


def frame(payload: bytes) -> bytes:
    """A client's frame, whose mask of zeros masks nothing."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


# ---------------------------------------------------------------- two trees


def tree(folder: Path, timed: bool) -> Path:
    """Make a tree in `folder` with all of the package as it is, and a `fanout` that is built so."""
    native = folder / "realtime" / "native"
    native.mkdir(parents=True)
    (folder / "bench").symlink_to(ROOT / "bench")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for source, target in ((ROOT / "realtime", native.parent), (ROOT / "native", native)):
        for path in source.iterdir():
            if path.name not in ("native", "__pycache__", f"fanout{suffix}"):
                (target / path.name).symlink_to(path)
    built = folder / "built"
    environ = os.environ | {
        "REALTIME_BUILD_ONLY": "fanout",
        "CFLAGS": f"{os.environ.get('CFLAGS', '')} -DREALTIME_TIMED={int(timed)}",
    }
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        f"--build-lib={built}",
        f"--build-temp={folder / 't'}",
    ]
    subprocess.run(command, cwd=ROOT, env=environ, check=True)
    shutil.copy(built / "realtime" / "native" / f"fanout{suffix}", native)
    return folder


def of_messages(where: Path, members: int, messages: int) -> tuple[Cost, dict[str, int]]:
    """As `run`, less what it takes to let the members in."""
    arrival, _ = run(where, members, 0)
    cost, counted = run(where, members, messages)
    return Cost(cost.flushes - arrival.flushes, cost.batches - arrival.batches), counted


def run(where: Path, members: int, messages: int) -> tuple[Cost, dict[str, int]]:
    """Run the load in a tree under callgrind; return its instructions, and what the hub counted."""
    found = where / "callgrind.out"
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={found}", "--error-exitcode=0", "-q"),
            *(sys.executable, "-m", "bench.delivery_cost", "--load", str(members), str(messages)),
        ],
        cwd=where,
        env=os.environ | {"PYTHONPATH": str(where), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = subprocess.run(
        ["callgrind_annotate", "--inclusive=yes", "--threshold=100", "--auto=no", str(found)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return Cost(inclusive(said, FLUSH), inclusive(said, BATCH)), json.loads(done.stdout.splitlines()[-1])


def timed(where: Path, members: int, messages: int) -> int:
    """Run the load in a tree as it is; return the hub's ns of processor time, with the kernel's part."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.delivery_cost", "--load", str(members), str(messages)],
        cwd=where,
        env=os.environ | {"PYTHONPATH": str(where)},
        capture_output=True,
        text=True,
        check=True,
    )
    hub_ns: int = json.loads(done.stdout.splitlines()[-1])["hub_ns"]
    return hub_ns


def inclusive(said: str, function: str) -> int:
    """What callgrind_annotate says of a function and all that it calls."""
    found = [
        int(match[1].replace(",", ""))
        for match in re.finditer(rf"^\s*([\d,]+) .*?:\S*{function}(?:'\d+)? \[", said, re.MULTILINE)
    ]
    return max(found, default=0)  # a room that nobody has spoken in was never flushed


# ---------------------------------------------------------------- the report


def clock_ns(folder: Path) -> float:
    """How long one reading of the clock takes, in life."""
    source = folder / "clock.c"
    source.write_text(CLOCK, encoding="utf-8")
    program = compiled(source, folder / "clock")
    return min(
        float(subprocess.run([program], capture_output=True, text=True, check=True).stdout) for _ in range(5)
    )


def report(folder: Path, sizes: list[int]) -> None:
    """Measure all sizes and print them."""
    with_them, without = tree(folder / "with", timed=True), tree(folder / "without", timed=False)
    reading_ns = clock_ns(folder)
    print(headline("delivery_cost", "what the histograms of deliveries and flushes add to a delivery"))
    print(f"  instructions in user space, by callgrind; a reading of the clock takes {reading_ns:.0f} ns")
    print("  members   instructions a delivery: without   with        ns of CPU a delivery   added")
    for members in sizes:
        messages = min(MESSAGES_MAX, DELIVERIES // members)
        off, counted = of_messages(without, members, messages)
        on, again = of_messages(with_them, members, messages)
        deliveries = counted["deliveries"]
        assert deliveries == again["deliveries"] == members * messages, (counted, again)
        assert min(off.flushes, on.flushes) > 0, "callgrind saw no flush"
        assert counted["blocked"] == again["blocked"] == 0, "a socket was full: another load than the other's"
        more = on.batches - off.batches
        whole_ns = statistics.median(timed(with_them, members, messages) for _ in range(ROUNDS))
        added_ns = more * INSTRUCTION_NS + again["flushes"] * reading_ns
        print(
            f"  {members:7d} {off.batches / deliveries:33.1f} {on.batches / deliveries:8.1f}"
            f" {more / off.batches:+7.1%} {whole_ns / deliveries:14.0f}"
            f" {added_ns / deliveries:11.2f} ns {added_ns / whole_ns:6.2%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="members of a room")
    parsed = parser.parse_args()
    if parsed.load:
        load(*parsed.load)
        return
    for tool in ("valgrind", "callgrind_annotate"):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is missing: apt-get install valgrind")
    began = time.monotonic()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder:
        report(Path(folder), parsed.sizes)
    print(f"  {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
