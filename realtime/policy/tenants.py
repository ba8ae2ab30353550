"""`[tenants.<id>]`: how much each tenant may take; `[tenants."*"]` is for what their tables leave open."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from realtime.policy.section import Section

COUNT_MAX = 1_000_000_000
STORAGE_BYTES_MAX = 1 << 50

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Rate = Annotated[float, Meta(ge=0, le=COUNT_MAX)]


class Quotas(Section, frozen=True, kw_only=True):
    """How much one tenant may take; 0 does not limit.

    What a tenant's table leaves out is as `[tenants."*"]` says, and what that leaves out as the setting
    `<quota>_per_tenant` does (of `burst_s`: `rate_burst_s`). So a table for one thing lifts no other limit.
    """

    connections: Count | None = None  # at once, over all workers
    rooms: Count | None = None  # with members, on each worker
    messages_per_second: Rate | None = None  # this and the next two over all workers
    bytes_per_second: Rate | None = None
    deliveries_per_second: Rate | None = None  # a publication makes as many as its room has members
    storage_bytes: Annotated[int, Meta(ge=0, le=STORAGE_BYTES_MAX)] | None = None  # of durable publications
    burst_s: Annotated[float, Meta(gt=0, le=3600)] | None = None  # seconds of the rates that may come at once

    def check(self) -> None:
        """Raise ValueError for a rate too small to be counted."""
        for name in ("messages_per_second", "bytes_per_second", "deliveries_per_second"):
            rate = getattr(self, name)
            if rate and rate < 1e-3:
                raise ValueError(f"{name} is {rate:g}; it is 0 (no limit), or at least 0.001")
