# cython: language_level=3
"""Networks to small numbers, by the longest prefix."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.address cimport Address

cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"    # arithmetic on it is C's, whatever Cython thinks

# One network: the addresses `first` to `last`, IPv4 in the lowest 32 bits.
cdef struct Network:
    u128 first
    u128 last
    uint8_t value

# The addresses from starts[i] up to the next start have values[i]; starts[0] is 0. `tops` has the first of
# every BLOCK starts: what all searches begin with stays in the processor's cache.
cdef struct Spans4:
    uint32_t* tops
    uint32_t* starts
    uint8_t* values
    uint32_t count

# The same with addresses in two halves: most searches end in the high ones.
cdef struct Spans6:
    uint64_t* tops      # high halves alone
    uint64_t* highs
    uint64_t* lows
    uint8_t* values
    uint32_t count


cdef class CidrList:
    cdef Network* v4
    cdef Network* v6
    cdef size_t v4_count, v6_count, v4_capacity, v6_capacity

    cdef int take(self, const char* text, size_t n, int value) except -1


cdef class CidrTable:
    cdef Spans4 v4
    cdef Spans6 v6
    cdef Py_ssize_t networks

    cdef int value_of(self, const Address* address) noexcept nogil
