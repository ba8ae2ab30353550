"""Histograms of times, from 100 µs to 10 s: an addition a measurement, and nothing else until somebody asks.

All have the same bounds, so that those of several workers add up. 50 ms is one of them: the objective of
deliveries is a bucket, and no estimate.
"""

BOUNDS_S: tuple[float, ...]
"""The upper bounds of the buckets but the last, in seconds, rising."""

class Histogram:
    """Times by how long they were. Not thread-safe."""

    def observe(self, seconds: float, count: int = 1) -> None:
        """Count `count` measurements of `seconds`; what is below 0 counts as 0."""

    def taken(self) -> tuple[tuple[int, ...], float]:
        """Return how many fell into each bucket, one more than there are bounds, and their sum in seconds."""
