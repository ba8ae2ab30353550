"""The fake server, and a clock that stands still until a test moves it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from realtime.client import Options
from tests.client.fake_server import FakeServer


class FakeTimer:
    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeClock:
    """`advance` runs what falls due. `sleeps` has every delay that was asked for, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []
        self._timers: list[FakeTimer] = []
        self._changed = asyncio.Event()

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def call_later(self, delay_s: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.now + delay_s, call)
        self._timers.append(timer)
        return timer

    async def sleep(self, delay_s: float) -> None:
        done = asyncio.get_running_loop().create_future()
        timer = self.call_later(delay_s, lambda: done.done() or done.set_result(None))
        self.sleeps.append(delay_s)
        self._changed.set()
        try:
            await done
        finally:
            timer.cancel()

    def advance(self, span_s: float) -> None:
        self.now += span_s
        due = sorted((timer for timer in self._timers if timer.due <= self.now), key=lambda timer: timer.due)
        self._timers = [timer for timer in self._timers if timer.due > self.now]
        for timer in due:
            if not timer.cancelled:
                timer.call()

    async def until_asleep(self, condition: Callable[[list[float]], bool]) -> None:
        """Wait until `condition(sleeps)` holds."""
        async with asyncio.timeout(60):
            while not condition(self.sleeps):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def at_once() -> Options:
    """Reconnects without a delay: the jitter is always at its lowest, and the fake names no window."""
    return Options(uniform=lambda: 0.0)


@pytest.fixture
async def fake() -> AsyncIterator[FakeServer]:
    async with FakeServer() as running:
        yield running
