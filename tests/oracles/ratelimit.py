"""Token buckets as one draws them, in whole nanoseconds: the twins of `ratelimit.gcra` and `Allowance`."""

from __future__ import annotations

from collections.abc import Sequence


class Bucket:
    """Holds `capacity_ns`, starts full, and refills by one nanosecond's worth a nanosecond."""

    def __init__(self, capacity_ns: int, now_ns: int) -> None:
        self.capacity_ns = capacity_ns
        self.held_ns = capacity_ns
        self.filled_at_ns = now_ns

    def take(self, cost_ns: int, now_ns: int) -> int:
        """Take `cost_ns` and return 0, or take nothing and return the nanoseconds until it would be there."""
        self.held_ns = min(self.capacity_ns, self.held_ns + now_ns - self.filled_at_ns)
        self.filled_at_ns = now_ns
        if cost_ns > self.held_ns:
            return cost_ns - self.held_ns
        self.held_ns -= cost_ns
        return 0


class Purse:
    """Three buckets, and three more above: a bucket may be overdrawn, but only from full."""

    def __init__(
        self, rates: Sequence[float], burst_s: float, now_ns: int, above: Purse | None = None
    ) -> None:
        self.rates = rates
        self.above = above
        self.buckets = [Bucket(round(burst_s * 1e9), now_ns) for _ in rates]

    def take(self, amounts: Sequence[float], now_ns: int) -> int:
        """Take all and return 0, or nothing and return the nanoseconds until it would be there."""
        wait_ns = max(self.waits(amounts, now_ns))
        if wait_ns == 0:
            self.spend(amounts)
        return wait_ns

    def waits(self, amounts: Sequence[float], now_ns: int) -> list[int]:
        waits = [] if self.above is None else self.above.waits(amounts, now_ns)
        for bucket, cost_ns in zip(self.buckets, self.costs(amounts), strict=True):
            bucket.held_ns = min(bucket.capacity_ns, bucket.held_ns + now_ns - bucket.filled_at_ns)
            bucket.filled_at_ns = now_ns
            waits.append(max(0, min(cost_ns, bucket.capacity_ns) - bucket.held_ns) if cost_ns else 0)
        return waits

    def spend(self, amounts: Sequence[float]) -> None:
        for bucket, cost_ns in zip(self.buckets, self.costs(amounts), strict=True):
            bucket.held_ns -= cost_ns
        if self.above is not None:
            self.above.spend(amounts)

    def costs(self, amounts: Sequence[float]) -> list[int]:
        return [
            round(amount * 1e9 / rate) if rate else 0
            for amount, rate in zip(amounts, self.rates, strict=True)
        ]
