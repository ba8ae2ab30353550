"""The cluster of one: a worker that serves alone owns every room and asks itself."""

from __future__ import annotations

from collections.abc import Callable, Collection

from realtime.core.cluster import SLOTS, Answer, Change, NotServed, WorkerId
from realtime.core.contracts import Clock
from realtime.core.router import Spawn
from realtime.core.verbs import Verbs, fitting
from realtime.ids import RoomId

ALONE = WorkerId("local")


class LocalCluster:
    """Owns all rooms from its start on, under one fence: the time of the start in ms.

    A later process has a higher fence, so that what keeps fences would not refuse it.
    """

    ok = True

    def __init__(self, clock: Clock, spawn: Spawn, worker: WorkerId = ALONE) -> None:
        self.worker = worker
        self.workers: Collection[WorkerId] = (worker,)
        self._fence = int(clock.time() * 1000)
        self._verbs = Verbs(spawn)

    def fence(self, room: RoomId) -> int:
        """Return the one there is."""
        return self._fence

    def owner(self, room: RoomId) -> WorkerId:
        """Return this worker."""
        return self.worker

    def watch(self, on_change: Callable[[Change], None]) -> None:
        """Call `on_change` once, now: everything is owned, and nothing will change."""
        on_change(Change(self._fence, self.workers, (), range(SLOTS), ()))

    def answer(self, verb: str, answer: Answer) -> None:
        """Let `answer` take `verb`, as `Cluster.answer`."""
        self._verbs.add(verb, answer)

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        """Return what this worker answers, as `Cluster.ask`; there is no other."""
        if worker != self.worker:
            raise NotServed(f"there is no worker {worker!r}")
        outcome = self._verbs.asked(worker, verb, fitting(body))
        return outcome if isinstance(outcome, bytes) else await outcome

    def tell(self, verb: str, body: bytes, worker: WorkerId | None = None) -> None:
        """Tell it to this worker; what is for another one is lost."""
        fitting(body)
        if worker is None or worker == self.worker:
            self._verbs.told(self.worker, verb, body)

    def tick(self) -> None:
        """There is nothing to do."""

    def stats(self) -> dict[str, int]:
        """There is nothing to count."""
        return {}
