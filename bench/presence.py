"""How many members a second can join and leave a room that two workers share, whose members are told of it?

Two whole cores in one process, without sockets; what they share of their rosters goes over at
once. A part of the members stays; the others come and go in turn on both workers, `rate` of them in each
second of a clock that is given, with ten ticks in it. Prints the CPU time of a join and its leave, with all
that they cause on both workers (lists in the answers, entries, diffs), and so how many a core could do; and
what was shared. The rosters of both workers are compared with the truth at the end.

    python bench/presence.py [--rate N] [--seconds N] [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

from bench.report import headline
from realtime.backends.broker_memory import MemoryBroker
from realtime.core.auth import Identity
from realtime.core.catalog import Catalog
from realtime.core.core import Core
from realtime.core.limits import Limits
from realtime.core.session import Session
from realtime.features import discover
from realtime.ids import UserId

ROOM = "chat:crowd"
JOIN = b'{"type":"join","id":1,"room":"chat:crowd"}'
LEAVE = b'{"type":"leave","id":2,"room":"chat:crowd"}'
TICKS = 10  # a second
NAMED = 100
GRACE_S = 10.0


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)

    def time(self) -> float:
        return self.now


class Sink:
    """A connection, or a log, that takes everything and counts what a log is given."""

    binary = False
    open = True
    variant = 0

    def __init__(self, number: int = 0) -> None:
        self.id = number
        self.taken = 0

    def append(self, payload: bytes, offset: int = 0) -> None:
        self.taken += 1

    def ignore(self, *given: Any) -> None: ...

    send = belong = join = leave = close = ignore


class Hub:
    """Makes sinks; knows nobody."""

    timestamp = b"2025-07-15T10:30:00.123Z"

    def __init__(self) -> None:
        self.logs: list[Sink] = []

    def room(self, variant: int = 0, **policy: object) -> Sink:
        self.logs.append(Sink())
        return self.logs[-1]

    def count_of(self, user_key: int) -> int:
        return 0

    def connections_of(self, user_key: int) -> tuple[()]:
        return ()

    connections = connections_of


class Bus:
    """Gives what a worker shares to the others that have the room."""

    def __init__(self) -> None:
        self.listeners: dict[str, Any] = {}
        self.shared = 0
        self.bytes = 0

    def share(self, worker: str, entry: bytes | None) -> None:
        self.shared += 1
        self.bytes += len(entry or b"")
        for other, listener in self.listeners.items():
            if other != worker:
                listener(worker, entry)


class SharingBroker:
    """A memory broker whose streams share over the bus."""

    def __init__(self, bus: Bus, worker: str, inner: MemoryBroker) -> None:
        self._bus = bus
        self._worker = worker
        self._inner = inner

    def open(self, room: Any, kind: Any, deliver: Any, lost: Any = None, others: Any = None) -> Any:
        self._bus.listeners[self._worker] = others
        return SharingStream(self._inner.open(room, kind, deliver), self._bus, self._worker)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class SharingStream:
    """A stream of it."""

    def __init__(self, inner: Any, bus: Bus, worker: str) -> None:
        self._inner = inner
        self._bus = bus
        self._worker = worker

    def share(self, entry: bytes | None) -> None:
        self._bus.share(self._worker, entry)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Scene:
    """Two workers and one room with `staying` members on each."""

    def __init__(self, staying: int) -> None:
        self.clock = Clock()
        self.bus = Bus()
        self.hubs = [Hub(), Hub()]
        self.cores = [self._core(f"w-{number}", hub) for number, hub in enumerate(self.hubs)]
        self._count = 0
        self.staying = [self.session(self.cores[number % 2]) for number in range(2 * staying)]
        for number, session in enumerate(self.staying):
            self.cores[number % 2].receive(session, JOIN)
        self.pass_time(3 * TICKS)

    def _core(self, name: str, hub: Hub) -> Core:
        return Core(
            Catalog(discover()),
            SharingBroker(self.bus, name, MemoryBroker(self.clock, hub)),
            hub,
            self.clock,
            greet=lambda number, identity: b"{}",
            spawn=lambda coroutine: coroutine.close(),
            limits=Limits(
                connections_per_user=10**9,
                presence_members=NAMED,
                presence_grace_s=GRACE_S,
                presence_move_s=0.6,
            ),
        )

    def session(self, core: Core) -> Session:
        """Connect one more user."""
        self._count += 1
        identity = Identity(UserId(f"user-{self._count:07}"))
        core.admit(identity)
        return core.connect(Sink(self._count), identity)

    def pass_time(self, ticks: int) -> None:
        for _ in range(ticks):
            self.clock.now += 1 / TICKS
            for core in self.cores:
                core.tick()

    def churn(self, rate: int, seconds: int) -> float:
        """Let members come, and go a second later; return CPU seconds of one that does both."""
        coming = [self.session(self.cores[number % 2]) for number in range(rate * seconds)]
        a_tick = rate // TICKS
        began = time.process_time()
        for tick in range((seconds + 1) * TICKS):
            first = tick * a_tick
            for number in range(first, min(first + a_tick, len(coming))):
                self.cores[number % 2].receive(coming[number], JOIN)
            gone = first - rate
            for number in range(max(gone, 0), max(gone + a_tick, 0)):
                self.cores[number % 2].receive(coming[number], LEAVE)
            self.pass_time(1)
        return (time.process_time() - began) / len(coming)

    def check(self) -> None:
        """Fail unless both workers know who is there."""
        self.pass_time(int((GRACE_S + 3) * TICKS))
        for session in self.staying[:2]:
            count = len(session.live[ROOM].roster)
            assert count == len(self.staying), f"{count} of {len(self.staying)} members"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=1000, help="members that come, and that go, each second")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    print(headline("presence", "what does a member cost that joins and leaves, over two workers?"))
    scenes = (
        ("members named", 20, min(asked.rate, 50)),
        ("counted, a few over", 60, asked.rate),
        ("counted, 10,000", 5000, asked.rate),
    )
    for words, staying, rate in scenes:
        costs = []
        for _ in range(asked.runs):
            scene = Scene(staying)
            shared, size = scene.bus.shared, scene.bus.bytes
            costs.append(scene.churn(rate, asked.seconds))
            shared, size = scene.bus.shared - shared, scene.bus.bytes - size
            scene.check()
        middle = statistics.median(costs)
        spread = (max(costs) - min(costs)) / middle * 100
        print(
            f"  {words:<20} {2 * staying:>6} stay, {rate:>5}/s come and go: {middle * 1e6:6.1f} us each "
            f"({1 / middle:,.0f}/s a core; {asked.runs} runs, spread {spread:.0f} %), "
            f"{shared / (asked.seconds + 1):.1f} entries/s of {size // max(shared, 1)} bytes"
        )


if __name__ == "__main__":
    main()
