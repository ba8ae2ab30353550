# cython: language_level=3
"""The offsets of the publications that a log still holds."""
from libc.stdint cimport uint64_t
from realtime.native.types cimport Mark, Marks

cdef Marks* marks_new() noexcept nogil
cdef void marks_free(Marks* marks) noexcept nogil
cdef int marks_reserve(Marks* marks) noexcept nogil
cdef void marks_add(Marks* marks, uint64_t end, uint64_t offset) noexcept nogil
cdef void marks_trim(Marks* marks, uint64_t position) noexcept nogil
cdef uint64_t marks_had(Marks* marks, uint64_t position) noexcept nogil
cdef Mark* marks_from(Marks* marks, uint64_t position) noexcept nogil


cdef inline Mark* marks_at(Marks* marks, uint64_t i) noexcept nogil:
    return &marks.ring[(marks.start + i) & (marks.capacity - 1)]
