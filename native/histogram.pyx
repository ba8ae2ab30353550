# cython: language_level=3
"""Histograms of times, 100 µs to 10 s; see histogram.pyi. The hub keeps some as plain `Timings`."""
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

cdef int64_t[17] BOUNDS_NS
BOUNDS_NS[:] = [
    100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
    75_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000,
    10_000_000_000,
]
BOUNDS_S = tuple([bound / 1e9 for bound in BOUNDS_NS])


cdef void timings_add(Timings* timings, int64_t ns, uint64_t count) noexcept nogil:
    """Count `count` measurements of `ns`; a time below 0, which no clock should give, is one of 0."""
    cdef int place = 0
    cdef int high = TIME_BUCKETS - 1
    cdef int middle
    if ns < 0:
        ns = 0
    if ns > BOUNDS_NS[0]:   # most are not
        place = 1
        while place < high:
            middle = (place + high) >> 1
            if ns > BOUNDS_NS[middle]:
                place = middle + 1
            else:
                high = middle
    timings.counts[place] += count
    timings.total_ns += <uint64_t>ns * count


cdef tuple timings_taken(const Timings* timings):
    """Return (the counts of the buckets, the sum in seconds)."""
    return tuple([timings.counts[place] for place in range(TIME_BUCKETS)]), timings.total_ns / 1e9


cdef class Histogram:
    """Times by how long they were."""

    def __cinit__(self):
        memset(&self.timings, 0, sizeof(Timings))

    cpdef void observe(self, double seconds, uint64_t count=1):
        """Count `count` measurements of `seconds`."""
        timings_add(&self.timings, <int64_t>(min(seconds, 1e6) * 1e9), count)

    def taken(self):
        """Return what was counted."""
        return timings_taken(&self.timings)
