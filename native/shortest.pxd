"""The shortest decimal of a double, for C callers."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef enum:
    SHORTEST_BYTES_MAX = 32     # -2.2250738585072014e-308 has 24

# Write a finite `value` as Python's repr would; return the bytes written.
cdef size_t put_shortest(double value, uint8_t* to) noexcept nogil
