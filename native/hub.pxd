# cython: language_level=3
"""The hub's event loop side."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from realtime.native.deflate cimport Inflater
from realtime.native.handover cimport Handover
from realtime.native.posix cimport epoll_event
from realtime.native.types cimport Connection as CConnection


cdef class Hub(Handover):
    cdef Inflater inflater
    cdef int64_t read_until_ns      # reading beyond this waits for the next round
    cdef uint64_t read_look         # received bytes at which the clock is looked at again
    cdef uint64_t work_look         # and frames, with KiB inflated
    cdef int flush_chunk
    cdef uint64_t room_lag_limit_bytes
    cdef uint64_t room_lag_limit_messages

    cdef void run_batches(self)
    cdef void run_deadlines(self)
    cdef bint pending(self)
    cdef void handle_events(self, epoll_event* events, int count)
    cdef bint may_read(self) noexcept
    cdef void look_later(self) noexcept
    cdef void visit_readable(self)
    cdef void flush_unicast(self)
    cdef void drain(self, CConnection* connection)
    cdef void deliver(self, CConnection* connection, const uint8_t* payload, size_t n, int64_t wait_ns)
