"""Several workers in one process: a ring without Redis, where everybody hears everybody at once."""

from __future__ import annotations

from typing import Any

from realtime.core.cluster import WorkerId
from realtime.core.cluster_local import LocalCluster
from realtime.errors import Unavailable
from realtime.ids import TenantId, UserId
from tests.core.world import World
from tests.oracles.hub import FakeClock


class Ring:
    """Its members by name; who is `deaf` gets nothing and answers nothing."""

    def __init__(self) -> None:
        self.members: dict[WorkerId, RingMember] = {}
        self.deaf: set[str] = set()

    def world(self, name: str, **options: Any) -> World:
        """A worker of the ring."""
        return World(cluster=RingMember(self, name), **options)


class RingMember(LocalCluster):
    """One worker's view of it."""

    def __init__(self, ring: Ring, name: str) -> None:
        super().__init__(FakeClock(), self._cannot_wait, WorkerId(name))
        self._ring = ring
        ring.members[self.worker] = self

    @property
    def workers(self) -> Any:
        return tuple(self._ring.members)

    @workers.setter
    def workers(self, alone: Any) -> None:
        """What a worker alone sets is not asked for."""

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        if worker in self._ring.deaf or worker not in self._ring.members:
            raise Unavailable("no answer")
        outcome = self._ring.members[worker]._verbs.asked(self.worker, verb, body)
        return outcome if isinstance(outcome, bytes) else await outcome

    def tell(self, verb: str, body: bytes, worker: WorkerId | None = None) -> None:
        for name, member in self._ring.members.items():
            if worker in (None, name) and name not in self._ring.deaf:
                member._verbs.told(self.worker, verb, body)

    @staticmethod
    def _cannot_wait(coroutine: Any) -> None:
        raise AssertionError("nothing that is told here has to wait")


class FakeWhereabouts:
    """Keeps what it is told. `elsewhere` are connections by (tenant, user) and worker; None: no answer."""

    def __init__(self) -> None:
        self.here: list[tuple[TenantId, UserId, int]] = []
        self.elsewhere: dict[tuple[str, str], dict[WorkerId, int]] | None = {}

    def open(self, evict: Any) -> None:
        self.evict = evict

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        self.here.append((tenant, user, number))

    def left(self, tenant: TenantId, user: UserId, number: int) -> None:
        if (tenant, user, number) in self.here:
            self.here.remove((tenant, user, number))

    async def find(self, tenant: TenantId, user: UserId) -> dict[WorkerId, int]:
        if self.elsewhere is None:
            raise Unavailable("Redis is away")
        return dict(self.elsewhere.get((tenant, user), {}))

    def tick(self) -> None:
        pass

    def stats(self) -> dict[str, int]:
        return {}
