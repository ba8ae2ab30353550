"""What is done to a cluster under load: to its workers, to Redis, to what is between. Each heals by itself.

A fault is a coroutine that returns when it is over and what it touched stands again. What is known of it
beforehand, whether it may open epochs and lose what was acked, stands in `FAULTS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import redis
from redis.crc import key_slot

from realtime.backends.redis_nodes import RedisCluster, RedisNode
from realtime.errors import StartupError
from tests.chaos.world import BrokenPromiseError
from tests.cluster.hosts import Host
from tests.cluster.network import Network
from tests.cluster.world import ClusterWorld, after
from tests.postgres import PostgresServer

RING_TTL_S = 1.5
STARTS_S = 90.0  # until a host has all its workers again
LAGS_S = 1.5  # what a replica misses before its master dies
ALL_KINDS = ("normal", "pubsub")


@dataclass
class Stage:
    """What there is to do harm to."""

    world: ClusterWorld
    hosts: list[Host]
    rooms: list[str]
    rng: random.Random
    redis: RedisCluster
    postgres: PostgresServer | None = None
    network: Network | None = None

    def slot(self) -> int:
        """Return the slot of one of the rooms."""
        return key_slot(f"rt:{{default/{self.rng.choice(self.rooms)}}}".encode())

    async def master(self) -> RedisNode:
        """Return the master of one of the rooms."""
        return await asyncio.to_thread(self.redis.master_of, self.slot())

    async def whole(self) -> None:
        """Return when Redis serves all slots, and each replica follows its master."""
        await asyncio.to_thread(self.redis.wait_until_ok)
        await self.until(lambda: self._followed(), STARTS_S, "the replicas do not follow their masters")

    def _followed(self) -> bool:
        try:
            masters = self.redis.masters()
            return sum(len(self.redis.replicas_of(node)) for node in masters) == len(self.redis.nodes) - 3
        except redis.RedisError:
            return False

    async def until(self, holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Ask now and then until it holds.

        Raises:
            BrokenPromiseError: it does not after so many seconds, or the judge has found something.
        """
        end_s = self.world.now + seconds
        while not await asyncio.to_thread(holds):
            self.world.check()
            if self.world.now > end_s:
                raise BrokenPromiseError(f"{otherwise} within {seconds:.0f} s")
            await after(0.05)


async def kill_worker(stage: Stage) -> None:
    """SIGKILL to a worker."""
    host = stage.rng.choice(stage.hosts)
    before = host.workers()
    host.kill(stage.rng.choice(before))
    await _staffed(stage, host, before)


async def kill_worker_at_start(stage: Stage) -> None:
    """SIGKILL to a worker, and to the one that comes after it, somewhere in its start."""
    host = stage.rng.choice(stage.hosts)
    before = host.workers()
    host.kill(stage.rng.choice(before))
    fresh: list[int] = []

    def started() -> bool:
        fresh[:] = [pid for pid in host.workers() if pid not in before]
        return bool(fresh)

    await stage.until(started, STARTS_S, f"{host.name} starts no other worker")
    await after(stage.rng.random() * 0.5)
    with contextlib.suppress(ProcessLookupError):
        host.kill(fresh[0])
    await _staffed(stage, host, [*before, *fresh])


async def stop_worker(stage: Stage) -> None:
    """SIGSTOP to a worker for longer than the ring's TTL: to others it is cut off, and it wakes unaware."""
    host = stage.rng.choice(stage.hosts)
    host.stop(stage.rng.choice(host.workers()))
    await after(RING_TTL_S + 0.5 + stage.rng.random() * 2)
    host.resume()


async def restart_host(stage: Stage) -> None:
    """SIGTERM to a host, and start it again."""
    host = stage.rng.choice(stage.hosts)
    code = await asyncio.to_thread(host.restart)
    stage.world.judge.expect(code == 0, f"{host.name} ended with exit code {code} after SIGTERM")


async def kill_master(stage: Stage) -> None:
    """SIGKILL to a master; it comes back, empty, as a replica."""
    node = await stage.master()
    await asyncio.to_thread(node.kill)
    await _comes_back(stage, node)


async def stop_master(stage: Stage) -> None:
    """SIGSTOP to a master: short, and nothing may come of it, or so long that its replica takes over."""
    node = await stage.master()
    await asyncio.to_thread(node.freeze)
    await after(stage.rng.choice((0.3, 0.8, 2.5, 4.0)))
    await asyncio.to_thread(node.thaw)


async def fail_over(stage: Stage) -> None:
    """A planned failover: nothing may be lost."""
    await asyncio.to_thread(stage.redis.failover, stage.slot())


async def migrate_slot(stage: Stage) -> None:
    """Move the slot of a room to another master, with its keys, and others of no room beside it."""
    slot = stage.slot()
    here = await asyncio.to_thread(stage.redis.master_of, slot)
    others = [node for node in await asyncio.to_thread(stage.redis.masters) if node is not here]
    await asyncio.to_thread(stage.redis.migrate_slot, slot, stage.rng.choice(others))


async def lose_a_tail(stage: Stage) -> None:
    """Let a replica fall behind, then kill its master: what was acked meanwhile is really gone.

    A stopped replica would not do: what its master sent lies in its socket and is read when it wakes up. So
    it is kept from connecting by a password that the master does not know.
    """
    master = await stage.master()
    (replica,) = await asyncio.to_thread(stage.redis.replicas_of, master)
    await asyncio.to_thread(replica.ask, "CONFIG", "SET", "masterauth", "nobody knows it")
    await asyncio.to_thread(master.ask, "CLIENT", "KILL", "TYPE", "replica")
    await after(LAGS_S)
    await asyncio.to_thread(master.kill)
    await asyncio.to_thread(replica.ask, "CONFIG", "SET", "masterauth", "")
    await _comes_back(stage, master)


async def cut_connections(stage: Stage) -> None:
    """Close the workers' connections to a master: subscriptions miss what comes until they stand again."""
    node = await stage.master()
    for _ in range(stage.rng.randint(1, 4)):
        kind = stage.rng.choice(ALL_KINDS)
        await asyncio.to_thread(node.ask, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        await after(stage.rng.random() * 0.3)


async def no_redis(stage: Stage) -> None:
    """All of Redis stands still, and goes on."""
    for node in stage.redis.nodes:
        await asyncio.to_thread(node.freeze)
    await after(stage.rng.choice((0.5, 2.0, 4.0)))
    for node in stage.redis.nodes:
        await asyncio.to_thread(node.thaw)


async def split_network(stage: Stage) -> None:
    """Cut the cable between the hosts: each keeps its own Redis nodes and clients; one has the majority."""
    assert stage.network is not None
    await asyncio.to_thread(stage.network.cut)
    await after(stage.rng.choice((0.5, 2.0, 4.0)))
    await asyncio.to_thread(stage.network.mend)


async def kill_postgres(stage: Stage) -> None:
    """SIGKILL to all of PostgreSQL, and start it again."""
    assert stage.postgres is not None
    await asyncio.to_thread(stage.postgres.kill)
    await after(stage.rng.random())
    await asyncio.to_thread(stage.postgres.start)


class Fault(NamedTuple):
    """One kind of fault."""

    do: Callable[[Stage], Awaitable[None]]
    opens_epochs: bool = False
    loses: bool = False


FAULTS = {
    "worker killed": Fault(kill_worker),
    "worker killed at start": Fault(kill_worker_at_start),
    "worker stopped": Fault(stop_worker),
    "host restarted": Fault(restart_host),
    "master killed": Fault(kill_master, opens_epochs=True, loses=True),
    "master stopped": Fault(stop_master, opens_epochs=True, loses=True),
    "planned failover": Fault(fail_over, opens_epochs=True),
    "slot moved": Fault(migrate_slot, opens_epochs=True),
    "tail lost": Fault(lose_a_tail, opens_epochs=True, loses=True),
    "connections cut": Fault(cut_connections),
    "no Redis": Fault(no_redis, opens_epochs=True, loses=True),
}
OF_NETWORK = {"network split": Fault(split_network, opens_epochs=True, loses=True)}
OF_POSTGRES = {"PostgreSQL killed": Fault(kill_postgres)}


def faults_on(stage: Stage) -> dict[str, Fault]:
    """Return all that can be done there."""
    found = dict(FAULTS)
    if stage.network is not None:
        found |= OF_NETWORK
    if stage.postgres is not None:
        found |= OF_POSTGRES
    return found


async def _staffed(stage: Stage, host: Host, gone: list[int]) -> None:
    """Return when the host has all its workers again, one of them new."""

    def staffed() -> bool:
        workers = host.workers()
        return len(workers) == host.count and not set(gone) >= set(workers)

    await stage.until(staffed, STARTS_S, f"{host.name} does not have its workers again")


async def _comes_back(stage: Stage, node: RedisNode) -> None:
    """Let its replica take over; then start the dead node, which follows it."""
    slot_holders = [other for other in stage.redis.nodes if other is not node]

    def taken_over() -> bool:
        try:
            return len([one for one in slot_holders if one in stage.redis.masters()]) == 3
        except (redis.RedisError, StartupError):
            return False

    await stage.until(taken_over, STARTS_S, f"no replica takes over from port {node.port}")
    await after(stage.rng.random())
    await asyncio.to_thread(node.start)
