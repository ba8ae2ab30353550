# cython: language_level=3
"""The listening socket and new connections."""
from libc.stdint cimport int64_t, uint8_t
from realtime.native.address cimport Address
from realtime.native.reception cimport Reception


cdef class Doorway(Reception):
    cdef int64_t accept_after_ns    # when accepting begins again after a shortage, 0 = it goes on
    cdef int64_t accept_cost_ns     # 0 = accepting is not limited
    cdef int64_t accept_burst_ns
    cdef int64_t accept_bucket
    cdef bytes full                 # what is answered over max_connections
    cdef int listener
    cdef int accept_batch
    cdef int max_connections
    cdef bint listening

    cdef limit_accepts(self, double per_second, double burst)
    cdef void accept_again(self, int64_t now_ns)
    cdef void rest_listener(self, int64_t rest_ns)
    cdef int watch_listener(self) except -1
    cdef bint accept_some(self)
    cdef void turn_away(self, int fd)
    cdef void first_visit(self, int fd, const Address* address, uint8_t arrival)
    cdef int arrival_of(self, const Address* address)
    cdef bint grow_table(self)
