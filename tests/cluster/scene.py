"""Two hosts with their workers, six Redis nodes, perhaps PostgreSQL: all up, on loopback or in namespaces."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from realtime.backends.redis_nodes import Home, RedisCluster
from tests.cluster.drive import ROOMS, Outcome, Plan, Run
from tests.cluster.faults import Stage
from tests.cluster.hosts import Host
from tests.cluster.network import Network, network
from tests.cluster.world import ClusterWorld
from tests.postgres import PostgresServer

HOSTS = ("host-a", "host-b")


@dataclass
class Scene:
    """What is up."""

    hosts: list[Host]
    redis: RedisCluster
    postgres: PostgresServer | None
    network: Network | None

    async def play(self, plan: Plan, tell: Callable[[str], None]) -> Outcome:
        """Run the plan here; `tell` hears of each fault."""
        durable = {"playlist"} if self.postgres is not None else ()
        return await Run(plan, self.hosts, self._stage, durable, tell=tell).go()

    def keep_logs(self) -> Path:
        """Copy all logs to a folder that stays; return it."""
        folder = Path(tempfile.mkdtemp(prefix="realtime-chaos-"))
        for host in self.hosts:
            host.keep_log(folder)
        for number, node in enumerate(self.redis.nodes):
            if node.log.exists():
                shutil.copy(node.log, folder / f"redis-{number}-{node.port}.log")
        return folder

    def _stage(self, world: ClusterWorld, rng: Random) -> Stage:
        return Stage(world, self.hosts, ROOMS, rng, self.redis, self.postgres, self.network)


@contextmanager
def scene(
    settings: Mapping[str, object], *, workers: int = 4, store: str = "none", namespaces: bool = False
) -> Iterator[Scene]:
    """Start everything, half of the workers on each host; end it by its process ids. Logs stay on failure."""
    with ExitStack() as stack:
        net = stack.enter_context(network()) if namespaces else None
        homes = [Home(place.address, place.launcher) for place in net.places] if net else [Home()]
        redis = RedisCluster(homes=homes)
        stack.callback(redis.remove)
        redis.start()
        own = {**settings, "redis_url": redis.url}
        postgres = None
        if store == "postgres":
            postgres = PostgresServer().start()
            stack.callback(postgres.remove)
            own["postgres_url"] = asyncio.run(postgres.new_database())
        made = Scene([], redis, postgres, net)
        try:
            for number, name in enumerate(HOSTS):
                place = net.places[number] if net else None
                made.hosts.append(Host(name, own, max(1, workers // len(HOSTS)), place))
                stack.callback(made.hosts[-1].end)
            yield made
            for host in made.hosts:
                host.finish()
        except BaseException:
            print(f"logs in {made.keep_logs()}", flush=True)
            raise
