"""permessage-deflate (RFC 7692) without context takeover: one z_stream each way, reset per message."""

from libc.stdint cimport uint8_t


cdef extern from "zlib.h" nogil:
    ctypedef struct z_stream:
        uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
        int data_type


cdef struct Output:
    uint8_t* data  # malloc'ed, NULL before the first message
    size_t capacity
    size_t used


cdef class Inflater:
    cdef z_stream stream
    cdef Output output
    cdef bint ready

    cdef int inflate_into(
        self, const uint8_t* data, size_t n, uint8_t** out, size_t* out_len, size_t limit
    ) noexcept nogil
    cdef int feed(self, const uint8_t* data, size_t n, size_t limit) noexcept nogil
    cdef int step(self, size_t limit) noexcept nogil


cdef class Deflater:
    cdef readonly int level
    cdef readonly int window_bits
    cdef z_stream stream
    cdef Output output
    cdef bint ready

    cdef int deflate_into(self, const uint8_t* data, size_t n, uint8_t** out, size_t* out_len) noexcept nogil
    cdef int step(self, int flush) noexcept nogil
