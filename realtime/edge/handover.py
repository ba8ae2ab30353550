"""Taking a worker's place without a disconnect: who starts whom, what is told to whom, and when which one
ends.

A server alone starts its successor itself, as it was started; a supervisor starts its workers', and gives the
old one its end of the socket over the leash. `handover_giver` and `handover_taker` are the two sides,
`handover_wire` what they say, docs/upgrade.md what operators are told.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Final

from realtime.edge import notify
from realtime.edge.foundation import Foundation
from realtime.edge.handover_door import Asked, Upgraded
from realtime.edge.handover_giver import Giver, Report
from realtime.edge.handover_wire import HandoverFailed, Wire
from realtime.edge.supervisor import PLACE_VARIABLE, command

if TYPE_CHECKING:
    from realtime.edge.worker import Worker

log: Final = logging.getLogger("realtime.edge")

END_S: Final = 5.0  # for a successor that was told to end
ORPHANED_LOOK_S: Final = 0.001


class Handing:
    """What a worker's process does about hand-overs: one at a time, and after one that went well no more.

    `alone`: nobody supervises it, so it is the one that its successor hears of a stop from.
    """

    def __init__(self, worker: Worker, foundation: Foundation, *, alone: bool) -> None:
        self._worker = worker
        self._foundation = foundation
        self._alone = alone
        self._giver: Giver | None = None
        self._task: asyncio.Task[Report] | None = None
        self._gone = asyncio.Event()
        self.successor = 0  # its process id, once it serves

    @property
    def gone(self) -> bool:
        """Whether another process serves now."""
        return self._gone.is_set()

    async def upgrade(self) -> Report:
        """Start this very command anew, and hand over to it.

        Raises:
            HandoverFailed: it did not come to pass, and this process serves on.
        """
        self._check()
        ours, its = socket.socketpair()
        with its:
            process = start(its)
        try:
            return await self.give(ours)
        except BaseException:
            if not self.gone:
                await _see_off(process)
            raise
        finally:
            if self.gone:
                process.returncode = 0  # it outlives us: nobody is to wait for it, nor to complain

    async def answer(self, asked: Asked) -> Upgraded:
        """Do as `upgrade`, for `handover_door`: one process alone has nobody to be even with."""
        return Upgraded([await self.upgrade()])

    async def give(self, end: socket.socket) -> Report:
        """Hand over to the process at the other end of a socket, as `upgrade`."""
        line = Wire(end)
        try:
            self._check()
            giver = self._giver = Giver(self._worker, line, self._foundation.files(), self._committed)
            self._task = asyncio.ensure_future(giver.give())
            report = await asyncio.shield(self._task)
            told = report.pid, report.connections, report.rooms, report.stayed, report.pause_ms
            words = "process %d serves: %d connections in %d rooms went over, %d stay"
            log.info(f"{words}; nobody was served for %g ms", *told)
            return report
        except HandoverFailed as error:
            self._worker.record.refused += 1
            log.error("no hand-over, this process serves on: %s", error.message)
            raise
        finally:
            self._task = None
            line.close()

    async def either(self, stop: asyncio.Event) -> bool:
        """Wait until this process is told to stop, or another one serves; return whether one does.

        A hand-over that is under way when it is told to stop is given up; where that is too late, the other
        process is told to stop.
        """
        waits = [asyncio.ensure_future(each.wait()) for each in (stop, self._gone)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if not self.gone and self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        return self.gone

    async def retire(self, stop: asyncio.Event) -> None:
        """End well after another process has taken over.

        Whoever tells this one to stop means the service, where it is alone. A supervisor tells each by
        itself, and one that has gone on as another program lets go of this one's leash: that is no word.
        """
        assert self._giver is not None
        if self._task is not None:
            await asyncio.wait([self._task])  # until the other one says that it serves
        retiring = asyncio.ensure_future(self._worker.retire(self._giver.moved))
        told = asyncio.ensure_future(stop.wait())
        await asyncio.wait([retiring, told], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set() and self._alone:
            os.kill(self.successor, signal.SIGTERM)
        told.cancel()
        await retiring

    def begin(self) -> None:
        """Upgrade in the background, as by a signal; what comes of it is logged."""
        begun = asyncio.ensure_future(self.upgrade())
        begun.add_done_callback(_note)

    def _check(self) -> None:
        if self._task is not None:
            raise HandoverFailed("a hand-over is under way")
        if self.gone or self._worker.stopping:
            raise HandoverFailed("this process is about to end")

    def _committed(self, successor: int) -> None:
        """The other process serves from here on."""
        self.successor = successor
        self._foundation.hand_over()
        notify.main_pid(successor)  # systemd hears it of us, or nobody: it is us that it listens to
        self._gone.set()


def start(end: socket.socket) -> subprocess.Popen[bytes]:
    """Start this command anew, to take over through `end`."""
    # Not asyncio's: that ends its children with the loop, and this one is to outlive us.
    return subprocess.Popen(
        command(), env=given(notify.for_successor(os.environ), end), pass_fds=[end.fileno()]
    )


def given(environ: Mapping[str, str], end: socket.socket) -> dict[str, str]:
    """Return `environ` for a process that is to take over through `end`, which it inherits."""
    return {**environ, PLACE_VARIABLE: str(end.fileno())}


def taken(environ: MutableMapping[str, str]) -> Wire | None:
    """Take the way to the old process out of `environ`; None for one that takes nobody's place."""
    text = environ.pop(PLACE_VARIABLE, "")
    return Wire(socket.socket(fileno=int(text))) if text else None


def leave_parent(environ: Mapping[str, str]) -> None:
    """Go on in a child that belongs to the service manager, where there is one; call it before any thread.

    Of a main process that another process has started (our predecessor, which lives on until its requests are
    answered) systemd takes note, once and for all, that it will not hear of its end: a stop would then be
    SIGTERM and SIGKILL in one breath, and no drain.
    """
    if not environ.get(notify.SOCKET_VARIABLE):
        return
    ours = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == ours:
        time.sleep(ORPHANED_LOOK_S)


async def _see_off(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a successor that is none; it has been told, or has said so itself."""
    loop = asyncio.get_running_loop()
    try:
        await asyncio.wait_for(loop.run_in_executor(None, process.wait, END_S), END_S + 1.0)
    except (subprocess.TimeoutExpired, TimeoutError):
        process.kill()
        process.wait()


def _note(done: asyncio.Future[Report]) -> None:
    """What came of it has been logged; of a mistake of ours the rest is told."""
    if not done.cancelled() and (error := done.exception()) and not isinstance(error, HandoverFailed):
        log.error("the hand-over failed", exc_info=error)
