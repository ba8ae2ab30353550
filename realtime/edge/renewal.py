"""A supervisor that has replaced its workers replaces itself: the same process, by exec, and another program.

Its process id, its children, their leashes and the ports that it holds stay; everything else is begun anew.
It serves nobody, so nobody waits for it, and the new workers have shown that the new program starts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Final

import msgspec

from realtime.edge import leash
from realtime.edge.process import STOP_SIGNALS
from realtime.edge.supervisor import Child, Heir, Supervisor, WorkerProcess, command

log: Final = logging.getLogger("realtime.edge")

# Not one of our REALTIME_ variables: nobody is to set it, and it is gone once it is read.
VARIABLE: Final = "_REALTIME_SUPERVISOR"


class KeptWorker(msgspec.Struct, frozen=True):
    """A worker that runs: its number, its process, our end of its leash, and its id in the ring."""

    number: int
    pid: int
    fd: int
    worker: str


class Kept(msgspec.Struct, frozen=True):
    """What goes through the exec: descriptors of the ports that are held, the workers, and those `leaving`
    whose places they have taken: they are our children as well, and somebody has to hear how they end.
    """

    ports: list[int]
    workers: list[KeptWorker]
    leaving: list[KeptWorker] = []


class Adopted:
    """A child process that was started before the exec: what asyncio's `Process` is of others."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd = -1
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:  # it ended just before, and its exit code was read then
            self.returncode = 1

    async def wait(self) -> int:
        """Return its exit code once it has ended; below 0 the signal that did it."""
        if self.returncode is None:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()

            def settle() -> None:
                if not ended.done():
                    ended.set_result(None)

            loop.add_reader(self._fd, settle)
            try:
                await ended
            finally:
                loop.remove_reader(self._fd)
            if self.returncode is None:
                _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222 - it has ended
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""
        if self.returncode is None:
            signal.pidfd_send_signal(self._fd, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def taken(environ: MutableMapping[str, str]) -> Kept | None:
    """Take out of `environ` what came through an exec; None for a supervisor that begins."""
    text = environ.pop(VARIABLE, "")
    return msgspec.json.decode(text, type=Kept) if text else None


async def workers(kept: Kept) -> dict[int, Heir]:
    """Return the workers that run, by number. One that has ended meanwhile is found to have done so."""
    return {each.number: Heir(await _child(each), leash.Word(worker=each.worker)) for each in kept.workers}


async def leaving(kept: Kept) -> list[Child]:
    """Return those whose places others have taken. They, too, may have ended meanwhile."""
    return [await _child(each) for each in kept.leaving]


async def _child(kept: KeptWorker) -> Child:
    end = socket.socket(fileno=kept.fd)
    os.set_inheritable(kept.fd, False)
    end.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=end, limit=leash.WORD_BYTES_MAX)
    return WorkerProcess(Adopted(kept.pid), reader, writer, end)


def ports(kept: Kept) -> list[socket.socket]:
    """Return the sockets that hold the ports."""
    held = [socket.socket(fileno=fd) for fd in kept.ports]
    for each in held:
        each.set_inheritable(False)
    return held


def renew(supervisor: Supervisor, held: list[socket.socket], environ: Mapping[str, str]) -> None:
    """Go on as the program that is on the disk now. Whatever else is open closes. Where there is none to
    start, return: this program goes on.
    """
    serving = _kept((n, child, supervisor.worker_id(n)) for n, child in supervisor.children.items())
    leaving = _kept((0, child, "") for child in supervisor.leaving)
    for each in held:
        each.set_inheritable(True)
    said = msgspec.json.encode(Kept([each.fileno() for each in held], serving, leaving)).decode()
    # Until the new program heeds them, what is ignored is lost, and what is blocked waits: a stop has to.
    heeded = {early: signal.signal(early, signal.SIG_IGN) for early in (signal.SIGHUP, signal.SIGUSR2)}
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    sys.stdout.flush()
    try:
        os.execve(sys.executable, command(), {**environ, VARIABLE: said})
    except OSError as error:
        log.error("the supervisor goes on as the program it was: %s", error)
    for number, handler in heeded.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    for kept in (*serving, *leaving):
        os.close(kept.fd)


def _kept(children: Iterable[tuple[int, Child, str]]) -> list[KeptWorker]:
    """What goes through the exec of children, whose leashes do as well; without who has ended just now."""
    kept = []
    for number, child, worker in children:
        assert isinstance(child, WorkerProcess)
        if child.fileno() >= 0:
            fd = os.dup(child.fileno())
            os.set_inheritable(fd, True)
            kept.append(KeptWorker(number, child.pid, fd, worker))
    return kept
