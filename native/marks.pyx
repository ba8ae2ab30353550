# cython: language_level=3
"""Where a log's publications end and which offsets they have: 16 bytes each, in a ring trimmed with the log.

Only a log that drops keeps them: they turn the bytes that a member skips into the offsets that it is told.
Offsets rise by one from mark to mark. The ring belongs to the log, which frees it.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from realtime.native.types cimport Mark, Marks

cdef enum:
    RING_MIN = 64
    RING_KEPT = 256      # slots that an empty ring keeps
    RING_MAX = 1 << 30


cdef Marks* marks_new() noexcept nogil:
    """Return an empty ring, or NULL without memory."""
    return <Marks*>calloc(1, sizeof(Marks))


cdef void marks_free(Marks* marks) noexcept nogil:
    """Free a ring; NULL is none."""
    if marks != NULL:
        free(marks.ring)
        free(marks)


cdef int marks_reserve(Marks* marks) noexcept nogil:
    """Make room for one mark; return 0, or -1 without memory."""
    return _grow(marks) if marks.count == marks.capacity else 0


cdef void marks_add(Marks* marks, uint64_t end, uint64_t offset) noexcept nogil:
    """Note in the room reserved that the publication `offset` ends at `end`."""
    cdef Mark* mark = marks_at(marks, marks.count)
    mark.end = end
    mark.offset = offset
    marks.count += 1
    marks.last = offset


cdef void marks_trim(Marks* marks, uint64_t position) noexcept nogil:
    """Forget the publications that end at or before `position`: the log does not hold them any more."""
    while marks.count and marks.ring[marks.start].end <= position:
        marks.start = (marks.start + 1) & (marks.capacity - 1)
        marks.count -= 1
    if marks.count == 0 and marks.capacity > RING_KEPT:
        free(marks.ring)
        marks.ring = NULL
        marks.capacity = marks.start = 0


cdef uint64_t marks_had(Marks* marks, uint64_t position) noexcept nogil:
    """Return the offset of the last publication that ends at or before `position`, which the log holds."""
    cdef uint32_t found = _first_from(marks, position + 1)
    if marks.count == 0:
        return marks.last
    return marks_at(marks, found).offset - 1 if found < marks.count else marks.last


cdef Mark* marks_from(Marks* marks, uint64_t position) noexcept nogil:
    """Return the first publication that ends at or behind `position`, NULL where there is none."""
    cdef uint32_t found = _first_from(marks, position)
    return marks_at(marks, found) if found < marks.count else NULL


cdef uint32_t _first_from(Marks* marks, uint64_t position) noexcept nogil:
    """Return the index of the first mark whose end is at least `position`; `count` where there is none."""
    cdef uint32_t low = 0
    cdef uint32_t high = marks.count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) >> 1
        if marks_at(marks, middle).end < position:
            low = middle + 1
        else:
            high = middle
    return low


cdef int _grow(Marks* marks) noexcept nogil:
    cdef uint32_t capacity = marks.capacity * 2 if marks.capacity else RING_MIN
    cdef Mark* ring = <Mark*>malloc(capacity * sizeof(Mark)) if capacity <= RING_MAX else NULL
    cdef uint32_t i
    if ring == NULL:
        return -1
    for i in range(marks.count):
        ring[i] = marks_at(marks, i)[0]
    free(marks.ring)
    marks.ring = ring
    marks.capacity = capacity
    marks.start = 0
    return 0
