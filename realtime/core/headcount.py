"""The contract of who counts tenants' connections over all workers. A worker alone needs nobody to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from realtime.core.cluster import Evict
from realtime.core.quotas import QuotaBook
from realtime.ids import TenantId, UserId


class Headcount(Protocol):
    """How many connections each tenant has elsewhere, and which part of its rates is this worker's.

    What it says is of a moment ago: two workers may both let in the last one. Then the later of the two is
    closed again. While nobody can be asked, the last answer holds.
    """

    def open(self, quotas: QuotaBook, evict: Evict, on_share: Callable[[TenantId], None]) -> None:
        """Begin: `evict` closes connections of this worker, `on_share` hears of other shares."""
        ...

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count connection `number` of this worker."""
        ...

    def left(self, tenant: TenantId, number: int) -> None:
        """Count it no longer."""
        ...

    def elsewhere(self, tenant: TenantId) -> int:
        """Return how many connections the tenant has on other workers, as far as is known."""
        ...

    def share_of(self, tenant: TenantId) -> float:
        """Return which part of the tenant's rates is this worker's, above 0 up to 1."""
        ...

    def tick(self) -> None:
        """Tell again what is due. Called about ten times a second; never blocks."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...
