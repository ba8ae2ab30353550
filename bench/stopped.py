"""`python -m bench.stopped`: 1,000 members at full rate, and one stops reading. What does it cost, and whom?

For each policy of a room: the members alone, then beside one more that reads, stops for so many seconds while
they go on, and reads again. Printed are the others' rate with and without it (interleaved, every delivery
counted), the server's memory before, during and after, and how the stopped one came back: by gaps or by 4001
and recovery. Whatever it had been told by then, received and gaps, has to be all that was published.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import report
from bench.generator import Load, Result, WrongResultError, measure
from bench.peer import Peer
from bench.servers import Running, Traffic, policies_server, running

POLICIES = {"steady": "disconnect", "lossy": "drop_oldest", "state": "latest"}
SLOW_CONSUMER = 4001
RESET = 1006  # after the 4001, which lies behind what the peer did not read, it gave no answer in time
RECEIVE_BUFFER_BYTES = 64 << 10  # what the kernel takes for the stopped one is no lag of the server's


@dataclass
class Stopped:
    """What became of the member that stopped."""

    told: int = 0  # the offset up to which it knows what was published
    received: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    wrong: str = ""
    resumed_s: float = 0.0
    how: str = ""
    rss_kb: list[int] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 where something was lost in silence or a count did not come out."""
    parser = argparse.ArgumentParser(prog="python -m bench.stopped", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="that the one does not read (60)")
    parser.add_argument("--members", type=int, default=1000, help="beside it (1000)")
    parser.add_argument("--window", type=int, default=16, help="messages under way (16)")
    parser.add_argument("--lag-limit-bytes", type=int, default=4 << 20, help="of a room (4 MiB)")
    parser.add_argument("--rounds", type=int, default=1, help="of alone and beside for each policy (1)")
    parser.add_argument("--policies", default=",".join(POLICIES), help="kinds, of " + ", ".join(POLICIES))
    asked = parser.parse_args(argv)
    print(report.headline("stopped", (__doc__ or "").partition(": ")[2].partition("\n")[0]))
    print(f"  {asked.members} members, W={asked.window}, one stops for {asked.seconds:g} s")
    return max(_ask(kind, asked) for kind in asked.policies.split(","))


def traffic(kind: str) -> Traffic:
    """One publisher and many members of the room `kind:r0`."""
    return Traffic(
        "/ws/u%d",
        message=f'{{"type":"say","room":"{kind}:r%r","content":{{"m":"%m","pad":"%P"}}}}',
        init=f'{{"type":"join","id":1,"room":"{kind}:r%r"}}',
        ready="joined",
    )


def _ask(kind: str, asked: argparse.Namespace) -> int:
    load = Load("fanout", asked.members, window=asked.window, seconds=asked.seconds, warmup_s=1.0)
    alone: list[Result] = []
    beside: list[Result] = []
    came_back: list[Stopped] = []
    server = policies_server(room_lag_limit_bytes=str(asked.lag_limit_bytes))
    try:
        for _ in range(asked.rounds):
            with running(server) as up:
                alone.append(measure(up, traffic(kind), load))
            with running(server) as up:
                result, stopped = _beside(up, kind, load)
                beside.append(result)
                came_back.append(stopped)
    except WrongResultError as error:
        print(f"  {kind}: wrong result: {error}")
        return 1
    _print(kind, alone, beside, came_back)
    return 1 if any(stopped.wrong for stopped in came_back) else 0


def _beside(up: Running, kind: str, load: Load) -> tuple[Result, Stopped]:
    """Measure while one more member does not read, then let it read on."""
    room = f"{kind}:r0"
    stopped = Stopped(rss_kb=[rss_kb(up.pid)])
    peer = Peer(up.port, "stopped", receive_buffer_bytes=RECEIVE_BUFFER_BYTES)
    joined = peer.ask("join", room=room)["content"]
    stopped.told = joined["offset"]
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=[up.pid, stopped, done, load.seconds])
    watcher.start()
    try:
        result = measure(up, traffic(kind), load)
    finally:
        done.set()
        watcher.join()
    _resume(up, peer, room, joined["epoch"], stopped)
    stopped.rss_kb.append(rss_kb(up.pid))
    return result, stopped


def _watch(pid: int, stopped: Stopped, done: threading.Event, seconds: float) -> None:
    """Note the server's memory eight times while the load runs."""
    while not done.wait(max(seconds / 8, 0.1)):
        stopped.rss_kb.append(rss_kb(pid))


def _resume(up: Running, peer: Peer, room: str, epoch: str, stopped: Stopped) -> None:
    """Read on, and where the server has closed, come back and recover; judge what was told."""
    began = time.perf_counter()
    newest = _newest(up, room)
    try:
        while stopped.told < newest and peer.close_code is None:
            for message in peer.wait():
                _take(stopped, message)
    except TimeoutError as error:
        stopped.wrong = f"{error}; told up to {stopped.told} of {newest}"
        return
    if peer.close_code is None:
        stopped.how = f"{len(stopped.gaps)} gaps of {sum(b - a + 1 for a, b in stopped.gaps)} messages"
    elif peer.close_code in (SLOW_CONSUMER, RESET):
        again = Peer(up.port, "stopped")
        since = {"offset": stopped.told, "epoch": epoch}
        content = again.ask("join", room=room, content={"since": since})["content"]
        for message in content["messages"]:
            _take(stopped, message)
        if content["recovered"] and stopped.told != content["offset"]:
            stopped.wrong = f"recovered up to {stopped.told}, not {content['offset']}"
        said = "recovered" if content["recovered"] else "told that the history does not reach back so far"
        how = "closed with 4001" if peer.close_code == SLOW_CONSUMER else "closed and then reset"
        stopped.how = f"{how}; {stopped.received} messages received or recovered, {said}"
    else:
        stopped.wrong = f"closed with {peer.close_code}"
    stopped.resumed_s = time.perf_counter() - began


def _take(stopped: Stopped, message: dict[str, Any]) -> None:
    if message["type"] == "gap":
        first, last = message["content"]["from"], message["content"]["to"]
        stopped.gaps.append((first, last))
    elif "offset" in message:
        first = last = message["offset"]
        stopped.received += 1
    else:
        return
    if first != stopped.told + 1 or last < first:
        stopped.wrong = stopped.wrong or f"{message['type']} of {first} to {last} behind {stopped.told}"
    stopped.told = last


def _newest(up: Running, room: str) -> int:
    """The offset that the room has come to."""
    other = Peer(up.port, "other")
    offset: int = other.ask("join", room=room)["content"]["offset"]
    other.close()
    return offset


def rss_kb(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(next(line.split()[1] for line in status if line.startswith("VmRSS:")))


def _print(kind: str, alone: list[Result], beside: list[Result], came_back: list[Stopped]) -> None:
    for label, results in (("alone", alone), ("beside", beside)):
        rate = statistics.median(result.per_s for result in results)
        cost = statistics.median(result.per_cpu_s for result in results)
        late = statistics.median(result.p99_ms for result in results)
        print(
            f"  {kind:<7} {label:<7} {report.scaled(rate):>6} deliveries/s  {report.scaled(cost):>6} "
            f"per CPU s  p99 {late:.2f} ms  lost {sum(result.lost for result in results)}"
        )
    middle, least, most = report.ratio([b.per_cpu_s for b in beside], [a.per_cpu_s for a in alone])
    print(f"  {kind:<7} the others beside it: x{middle:.3f} ({least:.3f} to {most:.3f}) per CPU s")
    for stopped in came_back:
        before, *during, after = (kb / 1024 for kb in stopped.rss_kb)
        print(
            f"  {kind:<7} resident MB before {before:.0f}, during {' '.join(f'{mb:.0f}' for mb in during)}, "
            f"after {after:.0f}"
        )
        outcome = stopped.wrong or f"nothing lost in silence; {stopped.how}, in {stopped.resumed_s:.2f} s"
        print(f"  {kind:<7} {POLICIES[kind]}: {'WRONG: ' if stopped.wrong else ''}{outcome}")


if __name__ == "__main__":
    sys.exit(main())
