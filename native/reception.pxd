# cython: language_level=3
"""Request heads and the answers to them."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from realtime.native.handles cimport Accept
from realtime.native.httphead cimport Head
from realtime.native.hubbase cimport HubBase
from realtime.native.types cimport Connection as CConnection


cdef class Reception(HubBase):
    cdef long head(self, CConnection* connection, uint8_t* data, size_t n)
    cdef long hear_proxy(self, CConnection* connection, const uint8_t* data, size_t n)
    cdef bint hear_forwarded(self, CConnection* connection, const uint8_t* data, const Head* head)
    cdef bint settle(self, CConnection* connection)
    cdef void accept(self, CConnection* connection, Accept accept, const uint8_t* data, const Head* head)
    cdef long refuse(self, CConnection* connection, int status, bytes headers, bytes body, bint blameless=*)
    cdef void hand_over(self, CConnection* connection, const uint8_t* data, size_t n)
