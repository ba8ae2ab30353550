"""Several workers in a test's hand: worlds that share one clock, and a bus for what they share of rosters.

The bus keeps what each worker last shared of each room, as a broker does, and tells the others of it late,
or not at all. Entries of one worker come in order. `repair` tells everybody of what is, as a broker does
after it has subscribed anew.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Deliver, Others
from realtime.core.kinds import RoomKind
from realtime.core.limits import Limits
from realtime.ids import RoomId
from tests.core.world import Member, World
from tests.oracles.hub import FakeClock, FakeHub

Delay = Callable[[], "float | None"]
"""How many seconds a word is on its way to one worker; None: it is lost."""


def at_once() -> float:
    return 0.0


class Workers:
    """Worlds by name. A worker that ended never comes back under its name."""

    def __init__(self, count: int, limits: Limits, delay: Delay = at_once) -> None:
        self.clock = FakeClock()
        self.limits = limits
        self.delay = delay
        self.worlds: dict[str, World] = {}
        self.entries: dict[tuple[RoomId, str], bytes] = {}
        self.shares = 0  # how often something was shared
        self._listeners: dict[tuple[RoomId, str], Others] = {}
        self._told: dict[tuple[RoomId, str, str], bytes | None] = {}  # by (room, to, about)
        self._on_way: list[tuple[float, int, RoomId, str, str]] = []  # (when, order, room, to, about)
        self._words: dict[int, bytes | None] = {}
        self._order = itertools.count()
        self._names = (f"worker-{number}" for number in itertools.count(1))
        for _ in range(count):
            self.start()

    def start(self) -> World:
        """Start one more worker."""
        name = next(self._names)
        broker = BusBroker(self, name, MemoryBroker(self.clock, FakeHub(self.clock)))
        world = World(limits=self.limits, broker=broker, clock=self.clock)
        self.worlds[name] = world
        return world

    def crash(self, name: str, noticed_after_s: float = 0.0) -> None:
        """End a worker; the others hear of it `noticed_after_s` later."""
        del self.worlds[name]
        for key in [key for key in self._listeners if key[1] == name]:
            del self._listeners[key]
        for room, worker in [key for key in self.entries if key[1] == name]:
            del self.entries[room, worker]
            self._send(room, worker, None, lambda: noticed_after_s)

    def pass_time(self, seconds: float, step_s: float = 0.1) -> None:
        """Let time pass: what is due arrives, and everybody ticks."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.advance(min(step_s, end - self.clock.now))
            self.arrive()
            for world in list(self.worlds.values()):
                world.core.tick()
            self.arrive()

    def arrive(self) -> None:
        """Let arrive what is due, in order for each pair of workers."""
        due = sorted(word for word in self._on_way if word[0] <= self.clock.now)
        self._on_way = [word for word in self._on_way if word[0] > self.clock.now]
        for _, number, room, to, about in due:
            self._tell(room, to, about, self._words.pop(number))

    def repair(self) -> None:
        """Tell everybody of what is, and forget what is on its way."""
        self._on_way.clear()
        self._words.clear()
        for room, to in list(self._listeners):
            known = {about for key, listener, about in self._told if (key, listener) == (room, to)}
            for about in sorted(known | {worker for key, worker in self.entries if key == room}):
                if about != to:
                    self._tell(room, to, about, self.entries.get((room, about)))

    # -- what the brokers call ------------------------------------------------------------------------------

    def subscribe(self, room: RoomId, worker: str, others: Others) -> None:
        self._listeners[room, worker] = others
        for (key, about), _ in list(self.entries.items()):
            if key == room and about != worker:
                self._queue(room, worker, about, self.entries[key, about], 0.0)

    def share(self, room: RoomId, worker: str, entry: bytes | None) -> None:
        self.shares += 1
        assert entry is None or len(entry) <= 64 * 1024
        if entry is not None:
            self.entries[room, worker] = entry
        else:
            self.entries.pop((room, worker), None)
        self._send(room, worker, entry, self.delay)

    def unsubscribe(self, room: RoomId, worker: str) -> None:
        self._listeners.pop((room, worker), None)
        for key in [key for key in self._told if key[:2] == (room, worker)]:
            del self._told[key]
        if self.entries.pop((room, worker), None) is not None:
            self._send(room, worker, None, self.delay)

    def _send(self, room: RoomId, about: str, entry: bytes | None, delay: Delay) -> None:
        for key, to in list(self._listeners):
            if key == room and to != about:
                late_s = delay()
                if late_s is not None:
                    self._queue(room, to, about, entry, late_s)

    def _queue(self, room: RoomId, to: str, about: str, entry: bytes | None, late_s: float) -> None:
        before = [word[0] for word in self._on_way if word[2:] == (room, to, about)]
        number = next(self._order)
        self._words[number] = entry
        self._on_way.append((max([self.clock.now + late_s, *before]), number, room, to, about))

    def _tell(self, room: RoomId, to: str, about: str, entry: bytes | None) -> None:
        others = self._listeners.get((room, to))
        if others is not None:
            self._told[room, to, about] = entry
            others(about, entry)


class BusBroker:
    """A memory broker of one worker, whose streams share over the bus."""

    def __init__(self, bus: Workers, worker: str, inner: MemoryBroker) -> None:
        self._bus = bus
        self._worker = worker
        self._inner = inner

    def open(
        self, room: RoomId, kind: RoomKind, deliver: Deliver, lost: Any = None, others: Others | None = None
    ) -> BusStream:
        stream = BusStream(self._bus, room, self._worker, self._inner.open(room, kind, deliver, lost))
        if others is not None:
            self._bus.subscribe(room, self._worker, others)
        return stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class BusStream:
    """A stream of the memory broker that shares over the bus."""

    def __init__(self, bus: Workers, room: RoomId, worker: str, inner: Any) -> None:
        self._bus = bus
        self._room = room
        self._worker = worker
        self._inner = inner
        self._closed = False

    def share(self, entry: bytes | None) -> None:
        assert not self._closed, "shared after the end"
        self._bus.share(self._room, self._worker, entry)

    def close(self) -> None:
        self._closed = True
        self._bus.unsubscribe(self._room, self._worker)
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Watcher:
    """What one member makes of what it is told: the list it joined with, and all pushes since."""

    def __init__(self, member: Member, room: str) -> None:
        joined = member.join(room)
        self.member = member
        self.names: list[str] = joined["members"]
        self.count: int = joined["count"]
        self.left: list[str] = []  # everybody it was told of as gone
        self.joined: list[str] = []

    def read(self) -> Watcher:
        """Take what has come."""
        for push in self.member.pushes("presence"):
            content = push["content"]
            self.count = content["count"]
            gone = content.get("left", [])
            self.left += gone
            self.joined += content.get("joined", [])
            names = content.get("members", self.names)
            self.names = [each for each in names if each not in gone]
            self.names += [each for each in content.get("joined", []) if each not in self.names]
        return self


def seeded(seed: int, *, loss: float = 0.0, late_s: float = 0.0) -> tuple[random.Random, Delay]:
    """Dice of a seed, and a delay that rolls them."""
    dice = random.Random(seed)
    return dice, lambda: None if dice.random() < loss else dice.random() * late_s
