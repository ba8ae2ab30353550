"""The ring's functions in a real Redis whose clock and mastership a test decides, and workers around it."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from realtime.backends.cluster.redis_ring import ring_keys
from realtime.backends.cluster.ring import News, Ring
from realtime.backends.redis_nodes import RedisNode
from realtime.core.cluster import Change, WorkerId

HEAD = """#!lua name=ring_test
local function now_ms() return tonumber(redis.call('GET', '{ring}test:now')) end
local function whole(number) return string.format('%.0f', number) end
local function boot_nonce() return redis.call('GET', '{ring}test:nonce') end
"""
TTL_MS = 1500
START_MS = 1_753_000_000_000


class RingStage:
    """Redis, as far as it has to do with the ring. `now_ms` is its clock."""

    def __init__(self, node: RedisNode) -> None:
        source = files("realtime.backends.cluster").joinpath("functions/20_ring.lua").read_text()
        node.ask("FUNCTION", "LOAD", "REPLACE", HEAD + source)
        node.ask("FLUSHALL")
        self._node = node
        self.keys = ring_keys("rt")
        self.now_ms = START_MS
        self.become("first")

    def become(self, nonce: str) -> None:
        """Be another mastership."""
        self._node.ask("SET", "{ring}test:nonce", nonce)

    def beat(self, worker: str, known: int, *, placed: bool) -> tuple[bool, News | None]:
        """Return whether the worker is in the ring, and the news."""
        reply = self.call("rt1_beat", worker, TTL_MS, known, int(placed))
        return bool(reply[0]), _news(reply)

    def bury(self, *workers: str) -> int:
        """Return the version."""
        version: int = self.call("rt1_bury", *workers)
        return version

    def look(self, known: int = 0) -> News | None:
        """Return the news, as who is not in the ring asks for them."""
        return _news(self.call("rt1_ring", known))

    def call(self, function: str, *arguments: str | int) -> Any:
        self._node.ask("SET", "{ring}test:now", self.now_ms)
        return self._node.ask("FCALL", function, 2, *self.keys, *arguments)

    def snapshot(self) -> list[bytes | None]:
        """Return all that is kept, as a replica has it."""
        return [self._node.redis.dump(key) for key in self.keys]

    def restore(self, kept: list[bytes | None]) -> None:
        """Put back what a replica had."""
        for key, value in zip(self.keys, kept, strict=True):
            self._node.ask("DEL", key)
            if value is not None:
                self._node.ask("RESTORE", key, 0, value)


class Worker:
    """A worker whose beats, answers and news come when the test lets them. `owned` is what its hooks said."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ring = Ring(WorkerId(name), TTL_MS / 1000)
        self.owned: dict[int, int] = {}  # slot -> the version that it came with
        self.held: list[tuple[int, int, int]] = []  # (slot, first, last version) of what it has lost
        self.version = 0  # the last one it was told
        self.mail: list[News] = []  # published, on its way
        self.replies: list[tuple[float, bool, bool, News | None]] = []  # on their way

    def took(self, change: Change | None) -> None:
        """Take what moved."""
        if change is None:
            return
        for slot in change.disowned:
            self.held.append((slot, self.owned.pop(slot), self.version))
        for slot in change.owned:
            assert slot not in self.owned, f"{self.name} owns slot {slot} twice"
            self.owned[slot] = change.version
        self.version = change.version


def _news(reply: list[Any]) -> News | None:
    if len(reply) < 4:
        return None
    return News(reply[1], reply[2], tuple(WorkerId(each.decode()) for each in reply[3]))
