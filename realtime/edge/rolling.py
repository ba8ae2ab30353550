"""A rolling upgrade of a supervisor: worker after worker is replaced, connections are made even where they
are not, and the supervisor goes on as the new program.

Connections stay where they are while their workers are replaced, so those that were even are so afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from realtime.core.cluster import WorkerId
from realtime.edge.handover_door import Asked, Shared, Upgraded
from realtime.edge.handover_wire import HandoverFailed
from realtime.edge.outsider import Outsider, Shares
from realtime.edge.publisher import Publisher
from realtime.edge.sharing import LOOK_EVERY_S, is_even, share_out
from realtime.edge.shed import SHED_RATIO
from realtime.edge.supervisor import Supervisor
from realtime.errors import RealtimeError, Unavailable
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

EVEN_S: Final = 120.0  # in which connections have to be even, as `realtime shed` waits


class Rolling:
    """One at a time, until `renew` has made another program of this process, where it can."""

    def __init__(self, settings: Settings, supervisor: Supervisor, renew: Callable[[], object]) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._renew = renew
        self._under_way = False

    async def upgrade(self, asked: Asked) -> Upgraded:
        """Replace all workers, and see to it that none has many more connections than the others.

        Raises:
            HandoverFailed: as `Supervisor.upgrade`. Connections that stay uneven are no failure.
        """
        if self._under_way:
            raise HandoverFailed("a hand-over is under way")
        self._under_way = True
        try:
            reports = await self._supervisor.upgrade()
        except BaseException:
            self._under_way = False
            raise
        return Upgraded(reports, await self._share() if asked.shed else None)

    def renew(self) -> None:
        """Go on as the program that is on the disk now; one that is to end does not."""
        if not self._supervisor.stopping:
            self._renew()
            self._under_way = False  # still here: there was no such program

    def begin(self) -> None:
        """Upgrade in the background, as by a signal; what comes of it is logged."""
        begun = asyncio.ensure_future(self.upgrade(Asked()))
        begun.add_done_callback(self._begun)

    def _begun(self, done: asyncio.Future[Upgraded]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self.renew()
        else:
            log.error("not all workers were replaced: %s", error)

    async def _share(self) -> Shared:
        """Share connections out where one worker has too many; give up when all of it is to end."""
        sharing = asyncio.ensure_future(self._shared())
        stopped = asyncio.ensure_future(self._supervisor.stopped())
        await asyncio.wait([sharing, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not sharing.done():
            sharing.cancel()
            return Shared(failed="it was told to stop")
        shared = sharing.result()
        if shared.failed:
            log.warning("whether connections are even is not known: %s", shared.failed)
        else:
            log.info("connections of the workers: %s, and now %s", shared.before, shared.after)
        return shared

    async def _shared(self) -> Shared:
        numbers = sorted(self._supervisor.children)
        workers = [WorkerId(self._supervisor.worker_id(number)) for number in numbers]
        before: list[int] = []
        try:
            async with Publisher(settings=self._settings) as outside:
                after = await self._make_even(outside, workers, before)
        except RealtimeError as error:
            return Shared(before, failed=error.message)
        return Shared(before, _counts(after, workers))

    async def _make_even(self, outside: Outsider, workers: Sequence[WorkerId], before: list[int]) -> Shares:
        """Return how many each has in the end; how many it was at first goes into `before`."""
        ratio = self._settings.shed_ratio or SHED_RATIO
        until = time.monotonic() + EVEN_S
        while True:
            try:
                found = await outside.shed(0.0, workers)
                before[:] = before or _counts(found, workers)
                if is_even(found, ratio):
                    return found
                patience_s = until - time.monotonic()
                return await share_out(outside, ratio, patience_s=patience_s, among=workers)
            except Unavailable:  # they have only just begun: one may be late with its answer
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(LOOK_EVERY_S)


def _counts(shares: Shares, workers: Sequence[WorkerId]) -> list[int]:
    return [shares.connections[worker] for worker in workers]
