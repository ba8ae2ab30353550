"""A worker of a cluster: Redis between the workers, the ring, and in PostgreSQL what must be found again."""

from __future__ import annotations

from realtime.core.contracts import Clock
from realtime.edge.embedded import Embedded
from realtime.errors import StartupError
from realtime.settings import Settings


async def open_clustered(settings: Settings, clock: Clock, number: int) -> Embedded:
    """Connect to Redis and make what stands on it.

    Raises:
        StartupError: Redis refuses us.
    """
    raise StartupError("redis_url: the parts of a cluster are not put together yet")


async def bury(settings: Settings, worker: str) -> None:
    """Tell the others that `worker` has died."""
