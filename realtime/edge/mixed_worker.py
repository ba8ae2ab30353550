"""A worker whose hub has foreign connections beside its own: what is common to all that it did not accept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Final

from realtime.core.contracts import Clock, Connection
from realtime.edge.foreign import ForeignConnection, Meter
from realtime.edge.foundation import Foundation
from realtime.edge.mixed import MixedHub
from realtime.edge.worker import Worker
from realtime.errors import CloseCode
from realtime.protocol.closing import close_reason
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")


class MixedWorker(Worker):
    """Takes frames of foreign connections as it takes those of its own hub."""

    hub: MixedHub
    hub_type = MixedHub

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        connections_max: int,
        clock: Clock,
        foundation: Foundation,
    ) -> None:
        super().__init__(settings, loop, connections_max, clock, foundation)
        self._connections_max = connections_max
        self._meter = Meter(settings)

    def close(self) -> None:
        """Stop at once: what is still open is cut."""
        for connection in self.hub.foreign:
            connection.abort()
        super().close()

    def foreign(self) -> Collection[Connection]:
        """See `Worker`."""
        return [each for each in self.hub.foreign if isinstance(each, ForeignConnection)]

    def full(self) -> bool:
        """Whether there are as many connections as there may be, of all kinds; it is counted."""
        if self.hub.stats()["connections"] < self._connections_max:
            return False
        self.hub.counts["full"] += 1
        return True

    def _on_frame(self, connection: ForeignConnection, payload: bytes) -> None:
        """Handle one frame; whatever goes wrong with it is this connection's alone."""
        try:
            limit, wait_s = self._meter.charge(connection.id, len(payload))
            if wait_s:
                self._refuse_frame(connection, payload, limit, wait_s)
            else:
                self._receive(self._session(connection.state, connection), payload)
        except Exception:
            log.exception("a frame failed", extra={"connection": connection.id})
            connection.close(CloseCode.INTERNAL, close_reason("internal"))
