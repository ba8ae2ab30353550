"""What the clients of a run share: the server's state, what has happened so far, and when it is killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from tests.chaos.judge import Judge
from tests.conftest import Server

STALL_S = 60.0  # without any event for so long, something hangs
# The server is killed at the n-th of these events after its start, n drawn from 1 to the number here.
FUSES = {"ack": 800, "sent": 800, "push": 4000, "join": 40, "recovered": 20, "duplicate": 5, "up": 1}
SENT_MAX = 3000  # in a life, whatever the fuse: some events may not come again
FUSE_WEIGHTS = (6, 6, 3, 3, 3, 1, 1)


class BrokenPromiseError(AssertionError):
    """The server, or the test, did something wrong. The text says what."""


class StalledError(BrokenPromiseError):
    """Nothing happens any more, and something is still to come."""


class World:
    """One run. `happened` counts an event and may kill the server at this very moment."""

    def __init__(self, server: Server, judge: Judge, seed: str, members: int) -> None:
        self.server = server
        self.judge = judge
        self.counts: Counter[str] = Counter()
        self.is_ending = False  # no more trouble: everybody comes back and catches up
        self.is_over = False
        self._random = random.Random(seed)
        self._resting_max = max(1, members // 3)
        self._resting = 0
        self._up = asyncio.Event()
        self._changed = asyncio.Event()
        self._fuse: tuple[str, int] | None = None
        self._fuse_end = 0
        self._errors: list[BaseException] = []

    @property
    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    async def wait_until_up(self) -> None:
        """Return when the server takes connections."""
        await self._up.wait()

    def token(self, user: str) -> str | None:
        """Return what a user proves who it is with: nothing where the server runs open."""
        return None

    async def turn(self, name: str) -> None:
        """Return when this member may do its next thing: here at once."""

    def up(self) -> None:
        """The server takes connections from now on."""
        self._up.set()
        self.happened("up")

    def down(self) -> None:
        """Nobody needs to try before it is up again."""
        self._up.clear()

    def light_fuse(self) -> None:
        """Draw the event at which the server will be killed."""
        (event,) = self._random.choices(list(FUSES), FUSE_WEIGHTS)
        self._fuse = event, self.counts[event] + self._random.randint(1, FUSES[event])
        self._fuse_end = self.counts["sent"] + SENT_MAX

    @property
    def is_burnt(self) -> bool:
        """Whether the server has been killed since the fuse was lit."""
        return self._fuse is None

    def happened(self, event: str, many: int = 1) -> None:
        """Count an event; kill the server if it was the one."""
        self.counts[event] += many
        self._changed.set()
        if self._fuse is None:
            return
        if self.counts[self._fuse[0]] >= self._fuse[1] or self.counts["sent"] >= self._fuse_end:
            self._fuse = None
            self.down()
            self.server.process.kill()

    def fail(self, error: BaseException) -> None:
        """End the run with this error."""
        self._errors.append(error)
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds.

        Raises:
            BrokenPromiseError: a fault, an error in a client, or nothing has happened for STALL_S.
        """
        while not holds():
            self._changed.clear()
            try:
                async with asyncio.timeout(STALL_S):
                    await self._changed.wait()
            except TimeoutError:
                raise StalledError(f"nothing has happened for {STALL_S} s") from None
            self.check()

    def check(self) -> None:
        """Raise the first faults, if there are any."""
        if self.judge.faults:
            raise BrokenPromiseError("\n".join(self.judge.faults[:20]))
        if self._errors:
            raise BrokenPromiseError(f"a client broke: {self._errors[0]!r}") from self._errors[0]

    def may_rest(self) -> bool:
        """Whether one more member may wait for what others do; then it has to `rest`."""
        return self._resting < self._resting_max and not self.is_ending

    async def rest(self, pushes: int) -> None:
        """Return when all members together have received so many more, or the end is near."""
        goal = self.counts["push"] + pushes
        self._resting += 1
        try:
            await self.until(lambda: self.is_ending or self.counts["push"] >= goal)
        finally:
            self._resting -= 1
