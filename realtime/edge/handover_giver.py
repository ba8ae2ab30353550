"""The process that goes: it hands all that it has to the one that comes, or serves on as if nothing had been.

While the new one prepares, and is told in advance what will hardly change, this one serves. Then nothing is
read or sent, what is under way ends, and everything goes over in one turn of the event loop, so that nothing
else can change meanwhile. `Go` is the point of no return: until it is sent every failure lets this one serve
on; from then on it never touches what it gave, and only sees those off who could not move.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

from realtime import __version__
from realtime.core.contracts import STATE_BYTES, Connection, Position, StreamState
from realtime.core.session import Session
from realtime.edge import handover_wire as wire
from realtime.edge.handover_state import edge_encoder, export_connection, export_edge, fixed_settings
from realtime.edge.handover_wire import FORMAT, HandoverFailed, Moved, Wire
from realtime.ids import RoomId
from realtime.native.address import pack

if TYPE_CHECKING:
    from realtime.edge.worker import Worker

log: Final = logging.getLogger("realtime.edge")

PREPARE_S: Final = 60.0  # in which the new process has to be ready
QUIET_S: Final = 15.0  # in which there has to be a moment with nothing under way
FROZEN_WAIT_S: Final = (
    0.1  # how long nobody is served for such a moment; then they are, and it is tried again
)
FROZEN_LOOK_S: Final = 0.001
BREATH_S: Final = 0.05  # between two tries
TRANSFER_S: Final = 5.0  # for everything to go over while nobody is served; far above what it takes
ABORT_S: Final = 1.0
SLICE: Final = 200  # connections in one frame


class Phase(IntEnum):
    """How far a hand-over has come: `realtime_handover_phase`."""

    PREPARING = 1  # the new process starts
    TELLING = 2  # it is told in advance what will hardly change
    STILL = 3  # nobody is served


class Report(msgspec.Struct, frozen=True):
    """What came of it: to whom it went, how many moved, who stayed, and for how long nobody was served."""

    pid: int
    version: str
    connections: int
    stayed: int
    rooms: int
    pause_ms: float


class Giver:
    """One hand-over of one worker. `files` are descriptors that the new process needs first, by name;
    `committed` is told its id as soon as it is the one that serves.
    """

    def __init__(
        self, worker: Worker, line: Wire, files: dict[str, int], committed: Callable[[int], object]
    ) -> None:
        self._worker = worker
        self._core = worker.core.handover
        self._line = line
        self._files = files
        self._committed = committed
        self._known: dict[RoomId, Position] = {}
        self._until = 0.0
        self._frozen_ns = 0  # since when nobody is served
        self.moved: list[Connection] = []
        self._addresses: list[str] = []  # of those who stay
        self._aborted = False
        self._pidfd = -1  # of the new process

    async def give(self) -> Report:
        """Hand over, and return what came of it.

        Raises:
            HandoverFailed: it did not come to pass, and this process serves on.
        """
        try:
            self._worker.handover_phase = Phase.PREPARING
            ready = await self._prepare()
            self._worker.handover_phase = Phase.TELLING
            await self._tell_in_advance()
            self._worker.handover_phase = Phase.STILL
            await self._still()
            try:
                connections, rooms = self._transfer()
            except BaseException as error:
                self._abort(error)  # first: the other one takes our silent end for our death
                self._worker.resume()
                raise
        except BaseException as error:
            self._abort(error)
            raise
        finally:
            self._worker.handover_phase = 0
            if self._pidfd >= 0:
                os.close(self._pidfd)
        self._committed(ready.pid)
        since_ns = await self._heard_serving()
        return Report(
            ready.pid,
            ready.version,
            connections,
            len(self._addresses),
            rooms,
            round((since_ns - self._frozen_ns) / 1e6, 1),
        )

    # -- while this one serves ------------------------------------------------------------------------------

    async def _prepare(self) -> wire.Ready:
        worker = self._worker
        hello = wire.Hello(
            FORMAT,
            __version__,
            worker.node,
            worker.ring_id,
            fixed_settings(worker.settings),
            list(self._files),
        )
        await self._line.send(hello, list(self._files.values()), timeout_s=PREPARE_S)
        said, _ = await self._line.receive(timeout_s=PREPARE_S)
        if isinstance(said, wire.Refused):
            raise HandoverFailed(said.reason)
        if not isinstance(said, wire.Ready):
            raise HandoverFailed(f"the new process says {type(said).__name__} instead of Ready")
        wire.check_format(said.format, said.version)
        self._pidfd = os.pidfd_open(said.pid)
        return said

    async def _tell_in_advance(self) -> None:
        """Hand over what rooms have kept so far: of it only what comes from now on is left for later."""
        for slice in _slices(self._core.streams({})):
            await self._line.send(wire.Streams(slice), timeout_s=PREPARE_S)
            for state in slice:
                room = RoomId(state.tenant, state.room)
                self._known[room] = Position(state.offset + len(state.pushes), state.epoch)

    async def _still(self) -> None:
        """Stop serving at a moment when nothing is under way; wait for one as long as that takes.

        Raises:
            HandoverFailed: there was none in `QUIET_S`.
        """
        worker, until = self._worker, time.monotonic() + QUIET_S
        while True:
            await self._core.settle()
            self._frozen_ns = time.monotonic_ns()
            worker.pause()
            try:
                if await self._quiet(time.monotonic() + FROZEN_WAIT_S):
                    return
            except BaseException:
                worker.resume()
                raise
            busy = worker.busy
            worker.resume()
            if time.monotonic() >= until:
                raise HandoverFailed(f"{busy} handlers, acks and writes did not end in {QUIET_S:g} s")
            await asyncio.sleep(BREATH_S)

    async def _quiet(self, until: float) -> bool:
        """Wait until nothing is under way any more; False where it still is `until` then."""
        settling = asyncio.ensure_future(self._core.settle())
        try:
            while not settling.done() or self._worker.busy:
                if time.monotonic() >= until:
                    return False
                await asyncio.sleep(FROZEN_LOOK_S)
        finally:
            if not settling.done():  # the writes go on by themselves
                settling.add_done_callback(lambda done: done.cancelled() or done.exception())
        return True

    def _abort(self, error: BaseException) -> None:
        """Have the new process end. Where it cannot be told so it is killed: else it would read all of this
        some time later, find us silent, and serve beside us.
        """
        if self._aborted or self._line.ended:
            return
        self._aborted = True
        reason = error.message if isinstance(error, HandoverFailed) else "the old process serves on"
        try:
            self._line.send_now(wire.Abort(reason), until=time.monotonic() + ABORT_S)
        except HandoverFailed as unheard:
            if self._pidfd >= 0 and not self._line.ended:
                log.error("the new process is killed: %s", unheard.message)
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                select.select([self._pidfd], [], [], ABORT_S)

    # -- while nobody serves --------------------------------------------------------------------------------

    def _transfer(self) -> tuple[int, int]:
        """Hand over everything, up to `Go`; return how many connections and rooms that were.

        Raises:
            HandoverFailed: the other process is gone, slow, or does not have all of it.
        """
        self._until = time.monotonic() + TRANSFER_S
        worker, core = self._worker, self._core
        for slice in _slices(core.streams(self._known)):
            self._say(wire.Streams(slice))
        self._say(wire.Rooms(list(core.kept_rooms)))
        sockets = worker.sockets()
        self._say(wire.Listening(list(sockets)), list(sockets.values()))
        edge = edge_encoder.encode(export_edge(worker, self._frozen_ns))
        self._say(wire.State(core.state(), worker.foundation.export(), edge))
        moving, staying = self._send_connections()
        rooms = 0
        stayed = []
        for state in core.rooms(moving, staying):
            stayed.append(state.stayed)
            self._say(wire.LiveRooms([state]))
            rooms += 1
        addresses = [packed for each in self._addresses if (packed := pack(each)) is not None]
        self._say(wire.Rosters(core.rosters(), stayed, addresses))
        self._say(wire.End(len(self.moved), rooms))
        said, _ = self._line.receive_now(until=self._until)
        if isinstance(said, wire.Refused):
            raise HandoverFailed(said.reason)
        if said != wire.Adopted(len(self.moved), rooms):
            raise HandoverFailed(f"of {len(self.moved)} connections and {rooms} rooms it has {said}")
        self._say(wire.Go())
        return len(self.moved), rooms

    def _send_connections(self) -> tuple[list[Session], list[Session]]:
        """Hand over all that can move; return the sessions that move, and those that stay."""
        moving, staying = [], []
        why: dict[str, int] = {}
        slice: list[Moved] = []
        fds: list[int] = []
        for connection in sorted(self._worker.hub.all_connections(), key=lambda each: each.id):
            state = connection.state
            try:
                moved = export_connection(self._worker, connection)
            except ValueError as error:
                why[str(error)] = why.get(str(error), 0) + 1
                self._addresses.append(connection.address)
                if isinstance(state, Session):
                    staying.append(state)
                continue
            slice.append(moved)
            fds.append(connection.fileno())
            self.moved.append(connection)
            if isinstance(state, Session):
                moving.append(state)
            if len(slice) == SLICE:
                self._say(wire.Connections(slice), fds)
                slice, fds = [], []
        if slice:
            self._say(wire.Connections(slice), fds)
        for reason, count in why.items():
            log.info("%d connections stay: %s", count, reason)
        foreign = self._worker.foreign()
        self._addresses += [each.address for each in foreign]
        return moving, [*staying, *(each.state for each in foreign if isinstance(each.state, Session))]

    def _say(self, frame: wire.Frame, fds: Sequence[int] = ()) -> None:
        self._line.send_now(frame, fds, until=self._until)

    # -- when the other one serves --------------------------------------------------------------------------

    async def _heard_serving(self) -> int:
        """Return since when the new process serves; where it dies at once, now."""
        try:
            said, _ = await self._line.receive(timeout_s=PREPARE_S)
        except HandoverFailed as error:
            log.error("the new process has taken over, and is not heard of any more: %s", error.message)
            return time.monotonic_ns()
        return said.since_ns if isinstance(said, wire.Serving) else time.monotonic_ns()


def _slices(states: Iterator[StreamState]) -> Iterator[list[StreamState]]:
    """Yield them in lists of about `STATE_BYTES`."""
    some: list[StreamState] = []
    size = 0
    for state in states:
        some.append(state)
        size += 256 + sum(map(len, state.pushes)) + 64 * len(state.keys)
        if size > STATE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
