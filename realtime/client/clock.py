"""Time for the client, behind one small interface, so that tests need not wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A call that is due later."""

    def cancel(self) -> None:
        """Forget it. Idempotent."""
        ...


class Clock(Protocol):
    """Monotonic time for spans, wall time for people, and calls in the future."""

    def monotonic(self) -> float:
        """Seconds, from an arbitrary start."""
        ...

    def time(self) -> float:
        """Unix seconds."""
        ...

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call `call` in the event loop, `delay_s` seconds from now."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds."""
        ...


class SystemClock:
    """The machine's clock and the running event loop."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, call)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
