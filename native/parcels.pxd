# cython: language_level=3
"""What one process packs and another unpacks: an envelope, and a reader that stays inside of it."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    CONNECTION_PARCEL = 67      # "C"
    ROOM_PARCEL = 82            # "R"
    PARCEL_MAX = 1 << 30        # bytes; sizes inside are 32 bits, and sums of them must not wrap

# What is left to read of a parcel's content.
cdef struct Rest:
    const uint8_t* at
    size_t left

cdef bytes parcel_new(uint8_t kind, size_t content_bytes, uint8_t** content)
cdef int parcel_seal(bytes parcel) except -1
cdef int parcel_open(bytes parcel, uint8_t kind, Rest* rest) except -1
cdef int frames_walk(const uint8_t* data, size_t n, uint64_t base, uint64_t* starts) noexcept nogil


cdef inline const uint8_t* take(Rest* rest, size_t n) noexcept nogil:
    """The next `n` bytes, NULL where fewer are left."""
    cdef const uint8_t* at = rest.at
    if n > rest.left:
        return NULL
    rest.at += n
    rest.left -= n
    return at
