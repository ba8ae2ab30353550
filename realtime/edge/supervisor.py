"""`realtime serve --workers N`: start N worker processes on one port, and keep them running.

A worker is this same command, started anew on a leash (`edge/leash`), with a listening socket of its own: the
kernel deals connections out between them (SO_REUSEPORT). The supervisor holds the port without listening, so
that it stays theirs while all of them are down. It serves nobody and knows no rooms.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from realtime.core.contracts import Clock
from realtime.edge import leash
from realtime.errors import StartupError

log: Final = logging.getLogger("realtime.edge")

BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
STEADY_S: Final = 60.0  # whoever ran for so long is started again at once, the next time
FAILED_STARTS_MAX: Final = 3
# Beyond its own `drain_timeout_s` a worker gets so long to end, then SIGKILL.
STOP_GRACE_S: Final = 5.0


class Child(Protocol):
    """One worker process as the supervisor sees it."""

    @property
    def pid(self) -> int: ...

    async def word(self) -> leash.Word | None:
        """Return the next thing it says; None when it has ended, or closed its side."""
        ...

    async def ended(self) -> int:
        """Return its exit code once it has ended; below 0 the signal that did it."""
        ...

    def stop(self) -> None:
        """Tell it to drain and end. Idempotent."""
        ...

    def reload(self) -> None:
        """Tell it to read anew what may change while it runs."""
        ...

    def kill(self) -> None:
        """End it at once. Idempotent."""
        ...

    async def metrics(self, timeout_s: float) -> str:
        """Return what it tells of itself. Raises OSError: nothing, or not in time."""
        ...


class Restarts:
    """How long to wait before one worker is started again: doubling, and from the start when it ran well."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_MIN_S

    def delay_s(self, alive_s: float) -> float:
        """Return the delay after a run of `alive_s`."""
        if alive_s >= STEADY_S:
            self._next_s = BACKOFF_MIN_S
        delay = self._next_s
        self._next_s = min(delay * 2, BACKOFF_MAX_S)
        return delay


class Supervisor:
    """Keeps `count` workers running until `stop`.

    `spawn` starts worker `number` (from 1 on). `bury` tells the others at once that the worker of that id has
    died; whatever goes wrong with that is its own to log. `up` is called once, when all have listened.
    """

    def __init__(
        self,
        count: int,
        spawn: Callable[[int], Awaitable[Child]],
        *,
        clock: Clock,
        stop_timeout_s: float,
        bury: Callable[[str], Awaitable[None]],
        up: Callable[[], None],
    ) -> None:
        self._spawn = spawn
        self._clock = clock
        self._stop_timeout_s = stop_timeout_s
        self._bury = bury
        self._up = up
        self._not_up = set(range(1, count + 1))
        self._any_up = False
        self._all_up = False
        self._stopping = asyncio.Event()
        self._children: dict[int, Child] = {}
        self._burials: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start them; return 0 when all have ended well after `stop`, and 1 where one did not.

        Raises:
            StartupError: the workers cannot start: one failed to three times in a row, and none ever has.
        """
        keepers = [asyncio.create_task(self._keep(number)) for number in sorted(self._not_up)]
        try:
            codes = await asyncio.gather(*keepers)
        except StartupError:
            self.stop()
            await asyncio.gather(*keepers, return_exceptions=True)
            raise
        finally:
            if self._burials:
                await asyncio.wait(self._burials)
        return max(codes)

    def stop(self) -> None:
        """Let all of them drain, and start none again."""
        self._stopping.set()
        for child in self._children.values():
            child.stop()

    def reload(self) -> None:
        """Let all of them read anew what may change while they run."""
        for child in self._children.values():
            child.reload()

    @property
    def children(self) -> Mapping[int, Child]:
        """Those that run, by their numbers."""
        return self._children

    def kill(self) -> None:
        """End all of them at once."""
        self._stopping.set()
        for child in self._children.values():
            child.kill()

    async def _keep(self, number: int) -> int:
        """Run worker `number`, again and again; return what the last run ended with: 0 or 1."""
        restarts, failures, code = Restarts(), 0, 0
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            try:
                child = self._children[number] = await self._spawn(number)
            except OSError as error:  # no process or file is free: perhaps later
                log.error("worker %d cannot be started: %s", number, error)
                await self._pause(restarts.delay_s(0.0))
                continue
            if self._stopping.is_set():  # meanwhile
                child.stop()
            hearing = asyncio.create_task(self._hear(number, child))
            code = await self._end_of(child)
            word = await hearing
            del self._children[number]
            if word is not None and word.worker and code:
                self._mourn(word.worker)
            if self._stopping.is_set():
                break
            failures = failures + 1 if word and word.failed else 0
            if failures == FAILED_STARTS_MAX and not self._any_up:
                assert word is not None
                raise StartupError(word.failed)
            delay_s = restarts.delay_s(self._clock.monotonic() - began)
            log.error(
                "worker %d (pid %d) %s; it is started again in %g s", number, child.pid, _how(code), delay_s
            )
            await self._pause(delay_s)
        if code:
            log.error("worker %d %s while it was to end", number, _how(code))
        return 1 if code else 0

    async def _hear(self, number: int, child: Child) -> leash.Word | None:
        word = await child.word()
        if word is not None and word.failed:
            log.error("worker %d cannot start: %s", number, word.failed)
        elif word is not None:
            self._any_up = True
            self._not_up.discard(number)
            if not self._not_up and not self._all_up:
                self._all_up = True
                self._up()
        return word

    async def _end_of(self, child: Child) -> int:
        """Wait until it has ended: however long it runs, and a bounded time once it was told to stop."""
        ended = asyncio.create_task(child.ended())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([ended, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _, late = await asyncio.wait([ended], timeout=self._stop_timeout_s)
        if late:
            log.error(
                "pid %d has not ended %g s after it was told to: it is killed",
                child.pid,
                self._stop_timeout_s,
            )
            child.kill()
        return await ended

    def _mourn(self, worker: str) -> None:
        burial = asyncio.ensure_future(self._bury(worker))
        self._burials.add(burial)
        burial.add_done_callback(self._burials.discard)

    async def _pause(self, delay_s: float) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([stopped], timeout=delay_s)
        stopped.cancel()


class WorkerProcess:
    """A `Child` that is a process: this command, started anew."""

    def __init__(
        self,
        process: Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        leashed: socket.socket,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._leashed = leashed
        self._asked: asyncio.Task[str] | None = None

    @classmethod
    async def start(cls, command: Sequence[str], number: int, port: int) -> WorkerProcess:
        """Start worker `number` on `port`."""
        ours, its = socket.socketpair()
        with its:
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=leash.WORD_BYTES_MAX)
            process = await asyncio.create_subprocess_exec(
                *command,
                env=leash.given(os.environ, number, port, its.fileno()),
                pass_fds=[its.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                # ^C goes to the supervisor alone, which tells them: a second signal would end them at once.
                start_new_session=True,
            )
        return cls(process, reader, writer, ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def word(self) -> leash.Word | None:
        """See `Child`."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        return leash.heard(line) if line.endswith(b"\n") else None

    async def ended(self) -> int:
        """See `Child`."""
        code = await self._process.wait()
        self._writer.close()
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
        return code

    def stop(self) -> None:
        """See `Child`."""
        self._writer.write(leash.STOP)

    def reload(self) -> None:
        """See `Child`."""
        self._writer.write(leash.RELOAD)

    def kill(self) -> None:
        """See `Child`."""
        if self._process.returncode is None:
            self._process.kill()

    async def metrics(self, timeout_s: float) -> str:
        """See `Child`. One question is open at a time: to a worker that stands still no more is sent."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        answered, _ = await asyncio.wait([self._asked], timeout=timeout_s)
        if not answered:
            raise TimeoutError(f"no answer in {timeout_s:g} s")
        return self._asked.result()

    async def _ask(self) -> str:
        ours, its = socket.socketpair()
        with its:
            ours.setblocking(False)
            try:
                socket.send_fds(self._leashed, [leash.SERVE], [its.fileno()])
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")
            head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.close()
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ConnectionError(f"answered {head[:40]!r}")
        return body.decode()


def command() -> list[str]:
    """What this process was started with, by which its workers are too."""
    return [sys.executable, *sys.orig_argv[1:]]


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
