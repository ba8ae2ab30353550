"""The process that comes: it prepares beside the one that serves, takes over all it has, and serves on.

Until it hears `Go` it touches no socket. Whoever handed over says `Abort` before it serves on; so where it
ends without that word after everything came over, it has died, and this one serves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from realtime import __version__
from realtime.core.session import Session
from realtime.edge import handover_wire as wire
from realtime.edge.handover_state import adopt_connection, adopt_edge, check_settings, edge_decoder
from realtime.edge.handover_wire import FORMAT, HandoverFailed, Wire
from realtime.errors import RealtimeError, StartupError
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.edge.worker import Worker
    from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

HELLO_S: Final = 10.0
SLICE_S: Final = 30.0  # between two frames, when the old process goes over to the transfer
GO_S: Final = 30.0  # longer than the old one would wait: it decides


class Taker:
    """One hand-over, from `greet` to `take` and `serve`. `hello` and `files` are there after the first."""

    hello: wire.Hello

    def __init__(self, line: Wire) -> None:
        self._line = line
        self.files: dict[str, int] = {}
        self.sockets: dict[str, socket.socket] = {}
        self._sessions: dict[int, Session] = {}
        self._connections = 0
        self._rooms = 0
        self._frozen_ns = 0

    async def greet(self, settings: Settings) -> None:
        """Hear who it is whose place is to be taken.

        Raises:
            HandoverFailed: another format, other settings than may be, or nobody.
        """
        said, fds = await self._line.receive(timeout_s=HELLO_S)
        if not isinstance(said, wire.Hello):
            raise HandoverFailed(f"the old process says {type(said).__name__} instead of Hello")
        self.hello = said
        self.files = dict(zip(said.files, fds, strict=True))
        wire.check_format(said.format, said.version)
        check_settings(settings, said.settings)

    async def refuse(self, reason: str) -> None:
        """Say why it cannot be; whoever is gone need not hear it."""
        if not self._line.ended:
            with contextlib.suppress(HandoverFailed):
                await self._line.send(wire.Refused(reason), timeout_s=HELLO_S)

    async def take(self, worker: Worker) -> None:
        """Say that all is ready, take over everything, and return when this process is the one that serves.

        Raises:
            HandoverFailed: the old one serves on, or nobody does.
        """
        await self._line.send(wire.Ready(FORMAT, __version__, os.getpid()), timeout_s=HELLO_S)
        while True:
            said, fds = await self._line.receive(timeout_s=SLICE_S)
            self._heed(worker, said, fds)
            if isinstance(said, wire.Listening):
                break
        until = time.monotonic() + GO_S
        while not isinstance(said, wire.End):
            said, fds = self._line.receive_now(until=until)
            self._heed(worker, said, fds)
        self._await_go(said, until)

    def serving(self, worker: Worker, since_ns: int) -> None:
        """Note since when this one serves, and let the old one know; it may have died."""
        worker.record.done += 1
        worker.record.adopted += self._connections
        worker.record.paused((since_ns - self._frozen_ns) / 1e9)
        with contextlib.suppress(HandoverFailed):
            self._line.send_now(wire.Serving(since_ns), until=time.monotonic() + 1.0)
        self._line.close()

    def _await_go(self, end: wire.End, until: float) -> None:
        if (end.connections, end.rooms) != (self._connections, self._rooms):
            raise HandoverFailed(
                f"{self._connections} connections and {self._rooms} rooms came, "
                f"of {end.connections} and {end.rooms}"
            )
        self._line.send_now(wire.Adopted(self._connections, self._rooms), until=until)
        try:
            said, _ = self._line.receive_now(until=until)
        except HandoverFailed:
            if not self._line.ended:
                raise
            # It has stopped to serve, and did not say that it serves on: it has died with all of it here.
            log.warning("the old process died when everything had been handed over: this one serves")
            return
        if isinstance(said, wire.Abort):
            raise HandoverFailed(said.reason)
        if not isinstance(said, wire.Go):
            raise HandoverFailed(f"the old process says {type(said).__name__} instead of Go")

    def _heed(self, worker: Worker, said: wire.Said, fds: list[int]) -> None:
        """Take over what one frame brought.

        Raises:
            HandoverFailed: it cannot be taken over; the message says what.
        """
        try:
            self._adopt(worker, said, fds)
        except HandoverFailed:
            raise
        except (RealtimeError, ValueError, KeyError, IndexError, OSError) as error:
            text = error.message if isinstance(error, RealtimeError) else f"{type(error).__name__}: {error}"
            raise HandoverFailed(f"{type(said).__name__} cannot be taken over: {text}") from error

    def _adopt(self, worker: Worker, said: wire.Said, fds: list[int]) -> None:
        core = worker.core.handover
        match said:
            case wire.Streams(streams):
                for state in streams:
                    core.adopt_stream(state)
            case wire.Rooms(rooms):
                core.keep_only([RoomId(*each) for each in rooms])
            case wire.Listening(names):
                for name, fd in zip(names, fds, strict=True):
                    self.sockets[name] = socket.socket(fileno=fd)
                    self.sockets[name].setblocking(False)
            case wire.State(state, foundation, edge):
                worker.foundation.adopt(foundation)
                core.adopt_state(state)
                kept = edge_decoder.decode(edge)
                self._frozen_ns = kept.frozen_ns
                adopt_edge(worker, kept)
            case wire.Connections(connections):
                self._adopt_connections(worker, connections, fds)
            case wire.LiveRooms(rooms):
                for room in rooms:
                    core.adopt_room(room, self._sessions)
                self._rooms += len(rooms)
            case wire.Rosters(rosters, stayed, addresses):
                worker.record.drained += len(addresses)
                core.adopt_rosters(rosters, stayed)
                for address in addresses:
                    worker.guard.depart(address)
            case wire.End():
                pass
            case wire.Abort(reason):
                raise HandoverFailed(reason)
            case _:
                raise HandoverFailed(f"the old process says {type(said).__name__} out of turn")

    def _adopt_connections(self, worker: Worker, connections: list[wire.Moved], fds: list[int]) -> None:
        # Where one fails this process ends, and with it all descriptors.
        for moved, fd in zip(connections, fds, strict=True):
            connection = adopt_connection(worker, fd, moved)
            if isinstance(connection.state, Session):
                self._sessions[connection.id] = connection.state
        self._connections += len(connections)


def listening(sockets: Mapping[str, socket.socket]) -> socket.socket:
    """Return the socket that clients come to. Raises StartupError: it did not come over."""
    found = sockets.get("clients")
    if found is None:
        raise StartupError("the old process handed over no listening socket")
    return found
