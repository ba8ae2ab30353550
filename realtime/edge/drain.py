"""Going down without a stampede: what is under way is answered, and the clients come back spread over time.

Whoever calls has seen to it that `/ready` says no and nobody gets in. Then: what handlers still owe is waited
for, connections get 1012 with a reconnect window in paced slices, and their closing handshakes are waited
for. All of it ends at `drain_timeout_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from realtime.errors import CloseCode
from realtime.protocol.closing import close_reason
from realtime.settings import Settings

log: Final = logging.getLogger("realtime.edge")

SLICE_INTERVAL_S: Final = 0.05
SLICE_MIN: Final = 100
# The part of the time that sending the closes may take; the rest is for the answers.
CLOSING_SHARE: Final = 0.5
# The part that the handlers under way may take before their connections are closed over them.
ANSWERING_SHARE: Final = 0.25
# Where nobody has measured it: about a quarter of a worker's 32,000 handshakes a second.
RETURNS_PER_SECOND: Final = 8_000.0


class Closable(Protocol):
    """The part of a connection that draining needs."""

    def close(self, code: int, reason: bytes = b"") -> None: ...


class Drainable(Protocol):
    """The part of the hub that draining needs."""

    def connections(self) -> Sequence[Closable]: ...


def reconnect_window(
    settings: Settings, connections: int, returns_per_second: float = RETURNS_PER_SECOND
) -> tuple[int, int]:
    """(min_ms, max_ms) that `connections` clients should come back within: wider the more there are, and the
    fewer a second those who take over can manage beside their work.
    """
    spread_ms = settings.reconnect_min_ms + int(connections * 1000 / returns_per_second)
    # A close reason has no room for more than 31 bits, and nobody waits for longer than an hour.
    return settings.reconnect_min_ms, min(3_600_000, max(settings.reconnect_max_ms, spread_ms))


def drain_reason(
    settings: Settings, connections: int, returns_per_second: float = RETURNS_PER_SECOND
) -> bytes:
    """The reason of the closes when `connections` clients have to go to another process."""
    least, most = reconnect_window(settings, connections, returns_per_second)
    return close_reason("drain", min_ms=least, max_ms=most)


def rebalance_reason(settings: Settings) -> bytes:
    """The reason of a close at the end of a connection's allowed age."""
    return close_reason(
        "rebalance",
        limit="max_connection_age_s",
        allowed=settings.max_connection_age_s,
        min_ms=settings.reconnect_min_ms,
        max_ms=max(settings.reconnect_min_ms, settings.reconnect_max_ms),
    )


def slice_size(connections: int, drain_timeout_s: float) -> int:
    """How many to close every `SLICE_INTERVAL_S`, so that all are told within `CLOSING_SHARE` of the time."""
    slices = max(1, int(drain_timeout_s * CLOSING_SHARE / SLICE_INTERVAL_S))
    return max(SLICE_MIN, -(-connections // slices))


async def drain(
    hub: Drainable,
    settings: Settings,
    *,
    pending: Callable[[], Collection[asyncio.Task[Any]]],
    returns_per_second: float = RETURNS_PER_SECOND,
    on_asked: Callable[[int], object] = int,
) -> int:
    """Close everything; return how many connections were still open when the time was up.

    `pending` are the handlers under way, `returns_per_second` what those who take over can manage; `on_asked`
    is told how many each slice was. Nobody must be let in any more.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.drain_timeout_s
    owed = pending()
    if owed:
        await asyncio.wait(owed, timeout=settings.drain_timeout_s * ANSWERING_SHARE)
    connections = hub.connections()
    least, most = reconnect_window(settings, len(connections), returns_per_second)
    log.info("draining %d connections; they return within %d to %d ms", len(connections), least, most)
    reason = drain_reason(settings, len(connections), returns_per_second)
    step = slice_size(len(connections), settings.drain_timeout_s)
    for start in range(0, len(connections), step):
        if start:
            await asyncio.sleep(SLICE_INTERVAL_S)
        slice = connections[start : start + step]
        for connection in slice:
            connection.close(CloseCode.SERVICE_RESTART, reason)
        on_asked(len(slice))
    while left := len(hub.connections()):
        if loop.time() >= deadline:
            break
        await asyncio.sleep(SLICE_INTERVAL_S)
    return left
