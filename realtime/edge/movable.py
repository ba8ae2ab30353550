"""The part of a worker that another process takes over: it stands still, goes on, or lets go and ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection
from typing import Any, Final

from realtime.core.contracts import Connection
from realtime.core.core import Core
from realtime.core.room_rules import RoomRules
from realtime.core.session import Session
from realtime.edge.drain import drain_reason
from realtime.edge.foundation import Foundation
from realtime.edge.gate import Gate
from realtime.edge.http import HttpServer
from realtime.edge.network import NetworkRules
from realtime.edge.recorder import Recorder
from realtime.edge.returns import Returns
from realtime.errors import CloseCode
from realtime.native.hub import Hub
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

LOOK_S: Final = 0.1


class Movable:
    """What `edge/handover` asks of a worker, whose own all of these are."""

    hub: Hub
    core: Core
    http: HttpServer
    gate: Gate
    network: NetworkRules
    recorder: Recorder
    foundation: Foundation
    _loop: asyncio.AbstractEventLoop
    settings: Settings
    _rules: RoomRules
    _returns: Returns
    _tasks: set[asyncio.Task[None]]
    _ticker: asyncio.TimerHandle | None
    _listening: socket.socket | None
    _retired: bool
    handover_phase: int = 0  # of a hand-over that is under way: 0 where none is, or one of `Phase`

    @property
    def ring_id(self) -> str:
        """Its id in the ring; empty where there is none."""
        return self.foundation.worker

    @property
    def busy(self) -> int:
        """How much is under way that cannot be handed over: it ends by itself, and soon."""
        return len(self._tasks) + self.core.handover.busy + self.foundation.busy

    def pause(self) -> None:
        """Serve nobody until `resume`, without a word to anybody; what is under way ends meanwhile."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._loop.remove_reader(self.hub.fileno())  # it stays readable, and the loop would turn for nothing
        self.hub.freeze()

    def resume(self) -> None:
        """Go on after `pause`, or begin where another process has stopped."""
        self.hub.thaw()
        self._loop.add_reader(self.hub.fileno(), self.hub.on_ready)
        self._schedule_tick()
        self._on_wake(0.0)

    def review(self) -> None:
        """Look again at all that another process let in, by what the policy says now: it may be another."""
        self.network.review_all()
        if not self.core.access.open or self._rules.any:
            self.core.review()

    def sockets(self) -> dict[str, int]:
        """Return the listening sockets, by what they are for."""
        admin = self.http.listening
        found = {"clients": self._listening, "admin": admin}
        return {name: each.fileno() for name, each in found.items() if each is not None}

    def foreign(self) -> Collection[Connection]:
        """Return the connections that are not the hub's own: they cannot move."""
        return ()

    async def retire(self, moved: Collection[Connection]) -> None:
        """Let go of what another process serves now, see off who could not move, and end.

        What is published here from now on nobody gets, so those are closed at once and not in slices; their
        reconnect window spreads them.
        """
        self._retired = self.gate.draining = True
        for connection in moved:
            self._let_go(connection)
        self._stop_listening()
        self.http.close()
        self.resume()
        rest = self.hub.connections()
        reason = drain_reason(self.settings, len(rest), self._returns.per_second)
        for connection in rest:
            if isinstance(connection.state, Session):
                connection.state.close(CloseCode.SERVICE_RESTART, reason)
            else:
                connection.close(CloseCode.SERVICE_RESTART, reason)
        until = self._loop.time() + self.settings.drain_timeout_s
        while self.hub.connections() or self.http.connections:
            if self._loop.time() >= until:
                break
            await asyncio.sleep(LOOK_S)
        self.close()
        await self.recorder.closed()

    def _let_go(self, connection: Any) -> None:
        try:
            self.hub.release(connection)
        except ValueError as error:  # it has ended by itself: the other process finds that out
            log.debug("connection %d was not let go of: %s", connection.id, error)

    def close(self) -> None:
        """Stop at once."""
        raise NotImplementedError

    def _stop_listening(self) -> None:
        raise NotImplementedError

    def _schedule_tick(self) -> None:
        raise NotImplementedError

    def _on_wake(self, delay_s: float) -> None:
        raise NotImplementedError
