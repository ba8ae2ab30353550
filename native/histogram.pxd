# cython: language_level=3
"""Histograms of times: one set of bounds for all of them, and an addition a measurement."""
from libc.stdint cimport int64_t, uint64_t

cdef enum:
    TIME_BUCKETS = 18

cdef struct Timings:
    uint64_t[18] counts     # TIME_BUCKETS: as many as the bounds, and one for what is over them all
    uint64_t total_ns

cdef void timings_add(Timings* timings, int64_t ns, uint64_t count) noexcept nogil
cdef tuple timings_taken(const Timings* timings)


cdef class Histogram:
    cdef Timings timings

    cpdef void observe(self, double seconds, uint64_t count=*)
