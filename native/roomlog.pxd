# cython: language_level=3
"""A room's log: frames appended once, and a cursor per member into them."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.types cimport Chunk, Connection, HubState, Link, Log, Member

cdef uint8_t* log_reserve(HubState* hub, Log* log, size_t n) noexcept nogil
cdef uint8_t* log_extend(HubState* hub, Log* log, uint32_t n) noexcept nogil
cdef void log_mark_dirty(HubState* hub, Log* log) noexcept nogil
cdef void log_reclaim(HubState* hub, Log* log) noexcept nogil
cdef void log_clear(HubState* hub, Log* log) noexcept nogil
cdef void log_unlist(HubState* hub, Log* log) noexcept nogil
cdef Chunk* log_find(Log* log, uint64_t position) noexcept nogil
cdef uint64_t log_frame_end(Log* log, uint64_t boundary, uint64_t position) noexcept nogil
cdef int log_add(HubState* hub, Log* log, Connection* connection) noexcept nogil
cdef void log_remove(HubState* hub, Log* log, Connection* connection) noexcept nogil
cdef void log_share(Connection* connection) noexcept nogil
cdef void member_pin(Log* log, Member* member) noexcept nogil
cdef void member_unpin(Log* log, Member* member) noexcept nogil
cdef void log_watch(Log* log, Member* member) noexcept nogil
cdef bint log_is_over(Log* log, Member* member) noexcept nogil
cdef void pool_clear(HubState* hub) noexcept nogil


cdef inline Member* link_member(Link* link) noexcept nogil:
    return &link.log.members[link.index]
