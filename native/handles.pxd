# cython: language_level=3
"""What Python holds of the hub."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.httphead cimport Head
from realtime.native.hubbase cimport HubBase
from realtime.native.ratelimit cimport Allowance
from realtime.native.types cimport Connection as CConnection
from realtime.native.types cimport Log


cdef class Handshake:
    cdef const uint8_t* data
    cdef const Head* head
    cdef CConnection* connection

    cdef int check(self) except -1


cdef class Accept:
    cdef readonly object state
    cdef bytes subprotocol_line
    cdef bytes extensions
    cdef readonly bytes welcome
    cdef readonly bytes close_reason
    cdef readonly int close_code
    cdef int deflate_bits
    cdef readonly bint binary
    cdef bint echo
    cdef readonly bint pending
    cdef readonly uint32_t user_key


cdef class Refuse:
    cdef readonly int status
    cdef readonly bytes body
    cdef readonly bint blameless     # it is no offence, whatever its status
    cdef bytes header_lines


cdef class Connection:
    cdef CConnection* connection
    cdef HubBase hub

    cpdef bint send(self, bytes payload, bint urgent=*) except -1
    cdef uint8_t* reserve(self, size_t n) noexcept
    cdef bint keep_bounded(self) except -1


cdef class RoomLog:
    cdef Log log
    cdef HubBase hub
    cdef Allowance allowance        # of the members' tenant, None where it has no rates
    cdef object on_gap              # (state, after, last) -> offsets really dropped

    cdef int put(self, const uint8_t* data, size_t n, uint64_t offset) except -1
    cdef void draw_on(self, Allowance allowance)
    cdef void judge_laggards(self)
    cdef int judge(self, uint32_t index) noexcept


cdef void tell_lapses(HubBase hub, CConnection* connection, Log* only)
cdef Connection connection_handle(HubBase hub, CConnection* connection)
