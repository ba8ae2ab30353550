# cython: language_level=3
"""Handing connections over from one process to another."""
from libc.stdint cimport int64_t
from realtime.native.connectionparcel cimport ConnectionHead
from realtime.native.endings cimport Endings
from realtime.native.types cimport Connection as CConnection


cdef class Handover(Endings):
    cdef int64_t started_ns
    cdef int64_t behind_wake_ns     # until when a look at who is read after all others is arranged
    cdef int64_t rest_wake_ns       # until when a wake for a resting log is arranged
    cdef int64_t catch_up_until_ns  # until when at the latest deadlines wait for what has arrived meanwhile
    cdef dict adopted               # addresses of connections by id, while frozen

    cdef bint is_catching_up(self) noexcept
    cdef int check_frozen(self) except -1
    cdef void quiesce(self)
    cdef void look_at(self, CConnection* connection)
    cdef int watch(self, CConnection* connection, int fd) except -1
    cdef void enter(self, CConnection* connection, const ConnectionHead* head)
    cdef dict by_id(self)
