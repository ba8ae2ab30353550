# cython: language_level=3
"""The hub's event loop side."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from realtime.native.deflate cimport Inflater
from realtime.native.posix cimport epoll_event
from realtime.native.reception cimport Reception
from realtime.native.types cimport Connection as CConnection


cdef class Hub(Reception):
    cdef Inflater inflater
    cdef int64_t started_ns
    cdef int64_t accept_after_ns    # when accepting begins again after a shortage, 0 = it goes on
    cdef int64_t rest_wake_ns       # until when a wake for a resting log is arranged
    cdef int64_t read_until_ns      # reading beyond this waits for the next round
    cdef int listener
    cdef int accept_batch
    cdef int max_connections
    cdef int flush_chunk
    cdef uint64_t room_lag_limit_bytes
    cdef uint64_t room_lag_limit_messages
    cdef bint listening

    cdef void run_batches(self)
    cdef void run_deadlines(self)
    cdef bint pending(self)
    cdef int watch_listener(self) except -1
    cdef void handle_events(self, epoll_event* events, int count)
    cdef void visit_readable(self)
    cdef void flush_unicast(self)
    cdef void drain(self, CConnection* connection)
    cdef bint accept_some(self)
    cdef void first_visit(self, int fd)
    cdef bint grow_table(self)
    cdef void reap(self)
    cdef void forget(self, CConnection* connection)
    cdef void tell_closed(self, CConnection* connection)
    cdef void deadline(self, CConnection* connection)
    cdef void heartbeat(self, CConnection* connection)
    cdef void deliver(self, CConnection* connection, const uint8_t* payload, size_t n, int64_t wait_ns)
