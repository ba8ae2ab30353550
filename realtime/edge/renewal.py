"""A supervisor that has replaced its workers replaces itself: the same process, by exec, and another program.

Its process id, its children, their leashes and the ports that it holds stay; everything else is begun anew.
It serves nobody, so nobody waits for it, and the new workers have shown that the new program starts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, MutableMapping
from typing import Final, NoReturn

import msgspec

from realtime.edge import leash
from realtime.edge.supervisor import Heir, Supervisor, WorkerProcess, command

# Not one of our REALTIME_ variables: nobody is to set it, and it is gone once it is read.
VARIABLE: Final = "_REALTIME_SUPERVISOR"


class KeptWorker(msgspec.Struct, frozen=True):
    """A worker that runs: its number, its process, our end of its leash, and its id in the ring."""

    number: int
    pid: int
    fd: int
    worker: str


class Kept(msgspec.Struct, frozen=True):
    """What goes through the exec: descriptors of the ports that are held, and the workers."""

    ports: list[int]
    workers: list[KeptWorker]


class Adopted:
    """A child process that was started before the exec: what asyncio's `Process` is of others."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd = os.pidfd_open(pid)

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
    there = {}
    for each in kept.workers:
        end = socket.socket(fileno=each.fd)
        os.set_inheritable(each.fd, False)
        end.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=end, limit=leash.WORD_BYTES_MAX)
        child = WorkerProcess(Adopted(each.pid), reader, writer, end)
        there[each.number] = Heir(child, leash.Word(worker=each.worker))
    return there


def ports(kept: Kept) -> list[socket.socket]:
    """Return the sockets that hold the ports."""
    held = [socket.socket(fileno=fd) for fd in kept.ports]
    for each in held:
        each.set_inheritable(False)
    return held


def renew(supervisor: Supervisor, held: list[socket.socket], environ: Mapping[str, str]) -> NoReturn:
    """Go on as the program that is on the disk now. Whatever else is open closes."""
    kept = []
    for number, child in supervisor.children.items():
        assert isinstance(child, WorkerProcess)
        fd = os.dup(child.fileno())
        os.set_inheritable(fd, True)
        kept.append(KeptWorker(number, child.pid, fd, supervisor.worker_id(number)))
    for each in held:
        each.set_inheritable(True)
    said = msgspec.json.encode(Kept([each.fileno() for each in held], kept)).decode()
    for early in (signal.SIGHUP, signal.SIGUSR2):  # what is ignored stays so until the new program heeds it
        signal.signal(early, signal.SIG_IGN)
    sys.stdout.flush()
    os.execve(sys.executable, command(), {**environ, VARIABLE: said})
