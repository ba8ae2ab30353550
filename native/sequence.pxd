"""A room's order in this process: offsets, pushes, and as many of them as are kept."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef class Budget:
    cdef readonly int64_t used
    cdef readonly int64_t limit

cdef class Sequence:
    cdef readonly bytes room_json
    cdef readonly bytes epoch
    cdef readonly uint64_t offset
    cdef readonly Py_ssize_t size_bytes
    cdef readonly Py_ssize_t messages_max
    cdef readonly Py_ssize_t bytes_max
    cdef public object deliver
    cdef Budget budget
    cdef PyObject** pushes      # a ring of `capacity` slots (a power of two): `count` from `start` on
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start
    cdef Py_ssize_t count
    cdef bytes order(self, str type, bytes sender, bytes content, bytes timestamp)
    cdef bytes order_text(
        self, const uint8_t* type, size_t type_bytes, bytes sender, const uint8_t* content,
        size_t content_bytes, bytes timestamp
    )
    cdef bytes add(self, bytes push)
    cdef int keep(self, bytes push) except -1
    cdef void forget_oldest(self) noexcept
    cdef int grow(self) except -1
