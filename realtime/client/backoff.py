"""How long to wait before a reconnect: full jitter over a window that doubles. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec


class Window(NamedTuple):
    """Bounds of a delay in seconds: never sooner than `min_s`, spread evenly up to `max_s`."""

    min_s: float
    max_s: float


class CloseReason(NamedTuple):
    """A close frame's reason: what happened, and when to come back where the server says so."""

    text: str
    window: Window | None


class _Reason(msgspec.Struct):
    r: str = ""
    min: float | None = None
    max: float | None = None


_reason_decoder = msgspec.json.Decoder(_Reason)


def read_close_reason(reason: str) -> CloseReason:
    """Read `{"r":"drain","min":500,"max":15000}` (milliseconds); other text stands for itself."""
    try:
        read = _reason_decoder.decode(reason)
    except (msgspec.DecodeError, UnicodeEncodeError):
        # Plain text and nothing at all are both allowed, and carry no window.
        return CloseReason(reason, None)
    return CloseReason(read.r, window_ms(read.min, read.max))


def window_ms(min_ms: object, max_ms: object) -> Window | None:
    """Return the window between two numbers of milliseconds, None where they are no such window."""
    if not isinstance(min_ms, int | float) or not isinstance(max_ms, int | float):
        return None
    if not 0 <= min_ms <= max_ms:
        return None
    return Window(min_ms / 1000, max_ms / 1000)


class Backoff:
    """The delays of one client, from the loss of a connection to the next that stands.

    The window is the server's where it named one, else [0, `base_s`]. Its width doubles with every attempt,
    up to `cap_s` or the server's own width, whichever is more. `random` is uniform in [0, 1).
    """

    def __init__(self, base_s: float, cap_s: float, random: Callable[[], float]) -> None:
        self._own = Window(0.0, base_s)
        self._cap_s = cap_s
        self._random = random
        self._window = self._own
        self._attempt = 0

    def succeeded(self, advice: Window | None) -> None:
        """A connection stands; `advice` is the window it named for the case that it breaks."""
        self._attempt = 0
        self._window = advice if advice is not None and advice.max_s > 0 else self._own

    def advised(self, window: Window) -> None:
        """The server has just said when to come back: that replaces what was known before."""
        self._attempt = 0
        self._window = window

    def next_s(self) -> float:
        """Return the delay before the next attempt, in seconds."""
        width = self._window.max_s - self._window.min_s
        # 30 doublings are past any cap; more would only overflow after a night without network.
        spread = min(width * 2.0 ** min(self._attempt, 30), max(self._cap_s, width))
        self._attempt += 1
        return self._window.min_s + self._random() * spread
