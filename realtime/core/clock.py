"""The real clock. Everything that depends on time takes a `Clock` and gets this one outside tests."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)
    time = staticmethod(time.time)
