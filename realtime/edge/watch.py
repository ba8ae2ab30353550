"""A supervisor's eye on its workers: their metrics on `metrics_port`, and when there should be more."""

from __future__ import annotations

import asyncio
from typing import Final

from realtime.backends.http_post import notify
from realtime.core.clock import SystemClock
from realtime.edge import listener
from realtime.edge.autoscale import Autoscaler
from realtime.edge.fleet import Fleet, FleetServer
from realtime.edge.process import node_name
from realtime.edge.supervisor import Supervisor
from realtime.settings import Settings

LOOK_S: Final = 5.0  # a text of 40 KB from each worker


class Watch:
    """Begins when it is made, on the running loop. It looks by itself only where somebody is to be told.

    Raises:
        StartupError: it cannot listen on `metrics_port`.
    """

    def __init__(self, settings: Settings, count: int, supervisor: Supervisor) -> None:
        clock = SystemClock()
        self._fleet = Fleet(
            count,
            lambda: supervisor.children,
            clock=clock.monotonic,
            more=lambda: self._autoscaler.metrics(),
        )
        self._autoscaler = Autoscaler(
            settings, clock, notify, who=node_name(settings), workers=lambda: self._fleet.up
        )
        self._server: FleetServer | None = None
        self._task: asyncio.Task[None] | None = None
        if settings.metrics_port:
            self._server = FleetServer(self._fleet, listener.listen(settings, settings.metrics_port))
        if settings.metrics_port or settings.autoscale_webhook_url:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """End it."""
        self._autoscaler.close()
        if self._task is not None:
            self._task.cancel()
        if self._server is not None:
            self._server.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._fleet.look()
            if (load := self._fleet.load) is not None:
                self._autoscaler.look(load)
