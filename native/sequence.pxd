"""A room's order in this process: offsets, pushes, and as many of them as are kept."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from realtime.native.encode cimport Push

cdef class Budget:
    cdef readonly int64_t used
    cdef readonly int64_t limit

ctypedef struct Kept:
    uint32_t start              # of a push in the arena
    uint32_t size

cdef class Sequence:
    cdef readonly bytes room_json
    cdef readonly bytes epoch
    cdef readonly uint64_t offset
    cdef readonly Py_ssize_t size_bytes
    cdef readonly Py_ssize_t messages_max
    cdef readonly Py_ssize_t bytes_max
    cdef public object deliver
    cdef Budget budget
    cdef uint8_t* arena         # of `arena_bytes`, used as a ring: each push in one piece, in order
    cdef size_t arena_bytes
    cdef size_t head            # where the last push ends
    cdef Kept* kept             # a ring of `capacity` slots (a power of two): `count` from `start` on
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start
    cdef Py_ssize_t count
    cdef const uint8_t* order(self, Push* push, bytes sender, bytes timestamp, size_t* size) except NULL
    cdef uint8_t* take(self, size_t size) except NULL
    cdef uint8_t* place(self, size_t size) except NULL
    cdef void forget_oldest(self) noexcept
    cdef int grow(self) except -1
    cdef int move(self, size_t arena_bytes) except -1
