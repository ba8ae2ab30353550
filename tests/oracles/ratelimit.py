"""A token bucket as one draws it, in whole nanoseconds: the twin of `ratelimit.gcra`."""


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
