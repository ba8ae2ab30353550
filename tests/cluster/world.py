"""What the clients of a cluster's run share: the hosts, a pace, the run's clock, how long things stood still.

The pace keeps the load below what the machine can do: here the faults are judged, not the speed.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from math import inf

from tests.chaos.judge import Judge
from tests.chaos.world import World
from tests.cluster.hosts import Host

COMES_BACK_S = 0.05  # a client that could not connect tries again after this, and up to as much more
PROBER = "probe"  # begins the names of those who only publish
PROBE_S = 0.1
PUBLISHES_A_TURN = 4.0  # on the average, of tests.chaos.member.ACTIONS


async def after(seconds: float) -> None:
    """Return in so many seconds: the pace of a client, or how long a fault lasts. Never a wait for news."""
    loop = asyncio.get_running_loop()
    passed = loop.create_future()
    handle = loop.call_later(seconds, lambda: passed.done() or passed.set_result(None))
    try:
        await passed
    finally:
        handle.cancel()


class Stalls:
    """When each room last had an ack, and so the longest time without one."""

    def __init__(self) -> None:
        self._acks: dict[str, list[float]] = defaultdict(list)

    def acked(self, room: str, at_s: float) -> None:
        """A publication to the room was acked for the first time."""
        self._acks[room].append(at_s)

    def last_s(self, room: str) -> float:
        """Return when the room last had one; minus infinity where it never had."""
        times = self._acks.get(room)
        return times[-1] if times else -inf

    def longest_s(self, begin_s: float, end_s: float) -> float:
        """Return the longest time that any room was without an ack, as far as it lies in this span."""
        longest = 0.0
        for times in self._acks.values():
            inside = [at_s for at_s in times if begin_s <= at_s <= end_s]
            marks = [begin_s, *inside, end_s]
            longest = max(longest, *(b - a for a, b in pairwise(marks)))
        return longest


class ClusterWorld(World):
    """One run on several hosts. `rate` is how much all members publish together, in publications/s."""

    def __init__(self, hosts: Sequence[Host], judge: Judge, seed: str, members: int, rate: float) -> None:
        super().__init__(hosts[0].server, judge, seed, members)
        self.hosts = hosts
        self.moves = Stalls()  # of all rooms
        self.stalls = Stalls()  # of those that probers publish to all the time
        self.counts_of_owners = Stalls()
        self.reading_at: Host | None = None  # where the last reader has to connect to
        self._rng = random.Random(f"{seed}:hosts")
        self._turn_s = members * PUBLISHES_A_TURN / rate

    @property
    def now(self) -> float:
        """The run's clock."""
        return asyncio.get_running_loop().time()

    @property
    def address(self) -> tuple[str, int]:
        """Where the next connection goes: to any host."""
        host = self.reading_at or self._rng.choice(self.hosts)
        return host.address

    def token(self, user: str) -> str | None:
        return self.hosts[0].token(user)

    async def wait_until_up(self) -> None:
        """Return in a moment: a host that takes no connections is met."""
        await after(COMES_BACK_S * (1 + self._rng.random()))

    async def turn(self, name: str) -> None:
        """Return when this member may do its next thing."""
        if not self.is_ending:
            probes = name.startswith(PROBER)
            await after(PROBE_S if probes else self._turn_s * 2 * self._rng.random())
