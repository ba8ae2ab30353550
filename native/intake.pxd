# cython: language_level=3
"""The way in: bytes of a socket to messages."""
from libc.stdint cimport uint16_t, uint32_t
from realtime.native.types cimport Connection, HubState

cdef enum:
    CARRY = 32768    # a remainder up to this size is carried to the next read in the shared scratch buffer

cdef void intake_visit(HubState* hub, Connection* connection, bint resumed)
cdef void intake_later(HubState* hub, Connection* connection) noexcept nogil
cdef bint is_over(HubState* hub, const Connection* connection) noexcept nogil
cdef void intake_behind(HubState* hub, Connection* connection) noexcept nogil
cdef void intake_free(Connection* connection) noexcept nogil
cdef void connection_close(HubState* hub, Connection* connection, uint16_t code, bytes reason)
