# cython: language_level=3
"""What Python holds of the hub."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.httphead cimport Head
from realtime.native.hubbase cimport HubBase
from realtime.native.types cimport Connection as CConnection
from realtime.native.types cimport Log


cdef class Handshake:
    cdef const uint8_t* data
    cdef const Head* head
    cdef CConnection* connection

    cdef int check(self) except -1


cdef class Accept:
    cdef object state
    cdef bytes subprotocol
    cdef bytes extensions
    cdef bytes welcome
    cdef bytes close_reason
    cdef int close_code
    cdef int deflate_bits
    cdef bint binary
    cdef bint echo
    cdef bint pending


cdef class Refuse:
    cdef int status
    cdef bytes body
    cdef bytes headers


cdef class Connection:
    cdef CConnection* connection
    cdef HubBase hub

    cpdef bint send(self, bytes payload, bint urgent=*) except -1
    cdef uint8_t* reserve(self, size_t n) noexcept
    cdef bint keep_bounded(self) except -1


cdef class RoomLog:
    cdef Log log
    cdef HubBase hub
    cdef object on_gap              # (state, after, last) -> offsets really dropped

    cdef int put(self, const uint8_t* data, size_t n, uint64_t offset) except -1
    cdef void judge_laggards(self)
    cdef int judge(self, uint32_t index) noexcept


cdef void tell_lapses(HubBase hub, CConnection* connection, Log* only)
cdef Connection connection_handle(HubBase hub, CConnection* connection)
