"""`realtime serve --workers N`: start N worker processes on one port, and keep them running.

A worker is this same command, started anew on a leash (`edge/leash`), with a listening socket of its own: the
kernel deals connections out between them (SO_REUSEPORT). The supervisor holds the port without listening, so
that it stays theirs while all of them are down. It serves nobody and knows no rooms.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from realtime.core.contracts import Clock
from realtime.edge import leash
from realtime.edge.handover_wire import HandoverFailed
from realtime.errors import StartupError

log: Final = logging.getLogger("realtime.edge")

BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 10.0
STEADY_S: Final = 60.0  # whoever ran for so long is started again at once, the next time
FAILED_STARTS_MAX: Final = 3
# Beyond its own `drain_timeout_s` a worker gets so long to end, then SIGKILL.
STOP_GRACE_S: Final = 5.0
# From SIGABRT, which shows where one hangs, to SIGKILL.
ABORT_GRACE_S: Final = 1.0


# Where a process finds the socket through which it takes another's place. Not one of our REALTIME_ variables:
# nobody is to set it, and it is gone once it is read.
PLACE_VARIABLE: Final = "_REALTIME_HANDOVER"


class Child(Protocol):
    """One worker process as the supervisor sees it."""

    @property
    def pid(self) -> int: ...

    async def word(self) -> leash.Word | None:
        """Return the next thing it says; None when it has ended, or closed its side."""
        ...

    def abort(self) -> None:
        """End it at once, and let it say where it was. One that is stopped does not hear it. Idempotent."""
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

    def hand_over(self, end: socket.socket) -> None:
        """Tell it to hand over to the process at the other end; what comes of it is its next word."""
        ...

    def kill(self) -> None:
        """End it at once. Idempotent."""
        ...

    async def metrics(self, timeout_s: float) -> str:
        """Return what it tells of itself. Raises OSError: nothing, or not in time."""
        ...


Spawn = Callable[[int, "socket.socket | None"], Awaitable[Child]]
"""Starts a worker by its number; with a socket one that takes another's place through it."""


class Heir(NamedTuple):
    """A worker that has taken another's place, and what it said when it did."""

    child: Child
    word: leash.Word | None


class Post:
    """A worker in its place. All that it says is heard by `hearing`, so that there is one reader alone; where
    nothing hears it all the time, by whoever has `asked` it to hand over. `up` says that it serves, `leaving`
    ends with it, `heir` is who takes the place.
    """

    hearing: asyncio.Task[leash.Word | None]
    leaving: asyncio.Task[int]

    def __init__(self, child: Child, *, up: bool) -> None:
        self.child = child
        self.up = up
        self.heir: asyncio.Future[Post] = asyncio.get_running_loop().create_future()
        self.asked: asyncio.Future[leash.Word | None] | None = None

    def answered(self, word: leash.Word | None) -> None:
        """Pass on what it said of its hand-over, where somebody has asked; None: it says nothing more."""
        if self.asked is not None and not self.asked.done():
            self.asked.set_result(word)


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

    `spawn` starts worker `number` (from 1 on), with a socket one that is to take over through it. `there` are
    those that run already, from before the supervisor itself was replaced, and `leaving` those whose places
    they have taken, and who have not ended yet. `bury` tells the others at once
    that the worker of that id has died; whatever goes wrong with that is its own to log. `up` is called once,
    when all have listened. One that says nothing for `silence_s` hangs, and is ended and started again; 0
    looks at nobody.
    """

    def __init__(
        self,
        count: int,
        spawn: Spawn,
        *,
        clock: Clock,
        stop_timeout_s: float,
        bury: Callable[[str], Awaitable[None]],
        up: Callable[[], None],
        silence_s: float = 0.0,
        there: Mapping[int, Heir] = MappingProxyType({}),
        leaving: Sequence[Child] = (),
    ) -> None:
        self._spawn = spawn
        self._silence_s = silence_s
        self._said: dict[int, leash.Word] = {}
        self._clock = clock
        self._stop_timeout_s = stop_timeout_s
        self._bury = bury
        self._up = up
        self._not_up = set(range(1, count + 1))
        self._any_up = False
        self._all_up = False
        self._stopping = asyncio.Event()
        self._posts: dict[int, Post] = {}
        self._burials: set[asyncio.Task[None]] = set()
        self._there = dict(there)
        self._left = leaving
        self._upgrading: dict[int, asyncio.Future[None]] = {}
        self._ids: dict[int, str] = {}  # of the workers in the ring
        self._leaving: dict[asyncio.Task[int], Child] = {}  # whose places others have taken

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stopping.is_set()

    async def stopped(self) -> None:
        """Wait until it is told to stop."""
        await self._stopping.wait()

    @property
    def children(self) -> Mapping[int, Child]:
        """The workers that run, by number."""
        return {number: post.child for number, post in self._posts.items()}

    @property
    def leaving(self) -> Sequence[Child]:
        """Those whose places others have taken, and who have not ended yet."""
        return list(self._leaving.values())

    def worker_id(self, number: int) -> str:
        """Return the id in the ring of worker `number`; empty where it has not said it yet."""
        return self._ids.get(number, "")

    async def run(self) -> int:
        """Start them; return 0 when all have ended well after `stop`, and 1 where one did not.

        Raises:
            StartupError: the workers cannot start: one failed to three times in a row, and none ever has.
        """
        for number in self._there.keys() - self._not_up:  # before the exec there were more
            child = self._there.pop(number).child
            child.stop()
            self._see_off(child, asyncio.create_task(self._end_of(child)))
        for child in self._left:
            self._see_off(child, asyncio.create_task(self._end_of(child)))
        keepers = [asyncio.create_task(self._keep(number)) for number in sorted(self._not_up)]
        try:
            codes = await asyncio.gather(*keepers)
        except StartupError:
            self.stop()
            await asyncio.gather(*keepers, return_exceptions=True)
            raise
        finally:
            if rest := [*self._burials, *self._leaving]:
                await asyncio.wait(rest)
        return max(codes)

    async def upgrade(self) -> list[dict[str, Any]]:
        """Replace worker after worker by what is on the disk now; return their reports.

        Raises:
            HandoverFailed: it is under way already, or came to nothing with one of them: that one serves on,
                and those after it were not asked.
        """
        if self._upgrading:
            raise HandoverFailed("a hand-over is under way")
        if self._stopping.is_set() or self._not_up:
            raise HandoverFailed("not all workers run")
        reports = []
        for number in sorted(self._posts):
            self._upgrading[number] = asyncio.get_running_loop().create_future()
            try:
                reports.append({"worker": number, **await self._replace(number)})
            finally:
                self._upgrading.pop(number).set_result(None)
        return reports

    async def _replace(self, number: int) -> dict[str, Any]:
        """Start a worker that takes the place of another; return what is told of it."""
        old = self._posts.get(number)
        if old is None or not old.up:
            raise HandoverFailed(f"worker {number} is just being started: try again")
        ours, its = socket.socketpair()
        with its:
            try:
                new = await self._spawn(number, its)
            except OSError as error:
                ours.close()
                raise HandoverFailed(f"worker {number}: no process can be started: {error}") from error
        with ours:
            old.child.hand_over(ours)
        said, word = await self._answer_of(old), await new.word()
        if word is not None and word.worker:  # where the old one died and everything was over, it serves too
            # At once, and not when the old one has ended: it may see off its last clients for long.
            old.heir.set_result(self._take(number, Heir(new, word)))
            self._see_off(old.child, old.leaving)
            report = said.handed_over if said is not None and said.handed_over is not None else {}
            return {"pid": new.pid, **report}
        why = said.stays if said is not None and said.stays else "the old process died"
        _, late = await asyncio.wait([asyncio.ensure_future(new.ended())], timeout=STOP_GRACE_S)
        if late:
            new.kill()
        raise HandoverFailed(f"worker {number}: {why}")

    async def _answer_of(self, post: Post) -> leash.Word | None:
        """Return what it says of its hand-over; whoever hears it all the time passes that on."""
        if not self._silence_s:
            return await post.child.word()
        if post.hearing.done():
            return None
        post.asked = asyncio.get_running_loop().create_future()
        return await post.asked

    def _take(self, number: int, heir: Heir) -> Post:
        """Have a worker in its place; whether it is new, or said before that it serves."""
        post = self._posts[number] = Post(heir.child, up=heir.word is not None)
        post.hearing = asyncio.create_task(self._hear(number, post, heir.word))
        post.leaving = asyncio.create_task(self._end_of(heir.child))
        return post

    def _see_off(self, child: Child, leaving: asyncio.Task[int]) -> None:
        """Keep an eye on one whose place another has taken until it has ended."""
        self._leaving[leaving] = child
        leaving.add_done_callback(lambda done: self._leaving.pop(done))

    def stop(self) -> None:
        """Let all of them drain, and start none again."""
        self._stopping.set()
        for child in (*self.children.values(), *self.leaving):
            child.stop()

    def reload(self) -> None:
        """Let all of them read anew what may change while they run."""
        for child in self.children.values():
            child.reload()

    def describe(self) -> str:
        """What they bear, as far as they say so."""
        connections = sum(word.connections for word in self._said.values())
        rooms = sum(word.rooms for word in self._said.values())
        return f"{len(self._said)} workers: {connections} connections, {rooms} rooms"

    def kill(self) -> None:
        """End all of them at once."""
        self._stopping.set()
        for child in (*self.children.values(), *self.leaving):
            child.kill()

    async def _keep(self, number: int) -> int:
        """Run worker `number`, again and again; return what the last run ended with: 0 or 1."""
        restarts, failures, code = Restarts(), 0, 0
        there = self._there.pop(number, None)
        post = None if there is None else self._take(number, there)
        while not self._stopping.is_set() or post is not None:
            began = self._clock.monotonic()
            try:
                post = post or self._take(number, Heir(await self._spawn(number, None), None))
            except OSError as error:  # no process or file is free: perhaps later
                log.error("worker %d cannot be started: %s", number, error)
                await self._pause(restarts.delay_s(0.0))
                continue
            child = post.child
            if self._stopping.is_set():  # meanwhile
                child.stop()
            if (heir := await self._heir_of(number, post)) is not None:
                post = heir
                continue
            code, word = await post.leaving, await post.hearing
            post = None
            del self._posts[number]
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
            code = 0  # that is told: nobody ran who could end badly
        if code:
            log.error("worker %d %s while it was to end", number, _how(code))
        return 1 if code else 0

    async def _heir_of(self, number: int, post: Post) -> Post | None:
        """Wait until a worker's place has passed to another, and return that one; None: it has just ended."""
        either: list[asyncio.Future[Any]] = [post.leaving, post.heir]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if number in self._upgrading:  # it may have died when all had gone over: then the other one serves
            await asyncio.wait([self._upgrading[number]])
        return post.heir.result() if post.heir.done() else None

    async def _hear(self, number: int, post: Post, known: leash.Word | None) -> leash.Word | None:
        word = known or await post.child.word()
        if word is not None and word.failed:
            log.error("worker %d cannot start: %s", number, word.failed)
        elif word is not None:
            post.up = True
            self._ids[number] = word.worker
            self._any_up = True
            self._not_up.discard(number)
            if not self._not_up and not self._all_up:
                self._all_up = True
                self._up()
            if self._silence_s:
                await self._follow(number, post)
        return word

    async def _follow(self, number: int, post: Post) -> None:
        """Hear what it bears until it ends, and end it when it says nothing any more."""
        child, word = post.child, None
        try:
            while (word := await self._heard(child, self._silence_s)) is not None:
                if word.handed_over is not None:
                    return  # another one serves, and what this one still does is bounded otherwise
                if word.stays:
                    post.answered(word)
                else:
                    self._said[number] = word
        except TimeoutError:
            if self._stopping.is_set():
                return  # one that ends has said its last word, and its time is bounded otherwise
            log.error("worker %d (pid %d) hangs: silent for %g s", number, child.pid, self._silence_s)
            child.abort()
            with contextlib.suppress(TimeoutError):
                await self._heard(child, ABORT_GRACE_S)
            child.kill()
        finally:
            self._said.pop(number, None)
            post.answered(word)

    async def _heard(self, child: Child, timeout_s: float) -> leash.Word | None:
        async with asyncio.timeout(timeout_s):
            return await child.word()

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


class ChildProcess(Protocol):
    """The part of asyncio's `Process` that a `WorkerProcess` needs."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class WorkerProcess:
    """A `Child` that is a process: this command, started anew."""

    def __init__(
        self,
        process: ChildProcess,
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
    async def start(
        cls,
        command: Sequence[str],
        number: int,
        port: int,
        place: socket.socket | None = None,
        silence_s: float = 0.0,
    ) -> WorkerProcess:
        """Start worker `number` on `port`, with a `place` to take through that socket; it hangs when it is
        silent for `silence_s`, 0: whatever.
        """
        ours, its = socket.socketpair()
        with its:
            ours.setblocking(False)
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=leash.WORD_BYTES_MAX)
            env = leash.given(os.environ, number, port, its.fileno(), silence_s)
            if place is not None:
                env[PLACE_VARIABLE] = str(place.fileno())
            process = await asyncio.create_subprocess_exec(
                *command,
                env=env,
                pass_fds=[its.fileno(), *([] if place is None else [place.fileno()])],
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

    def abort(self) -> None:
        """See `Child`."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGABRT)

    def fileno(self) -> int:
        """Our end of its leash."""
        return self._leashed.fileno()

    def hand_over(self, end: socket.socket) -> None:
        """See `Child`."""
        try:
            socket.send_fds(self._leashed, [leash.HAND_OVER], [end.fileno()])
        except OSError as error:  # it has died, which its keeper finds
            log.warning("pid %d cannot be told to hand over: %s", self.pid, error)

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
