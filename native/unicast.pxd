# cython: language_level=3
"""What waits for one connection alone: replies and control frames, urgent ones in front; and its death."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from realtime.native.types cimport Connection, ConnectionList, HubState, Output

cdef int list_push(ConnectionList* items, Connection* connection) noexcept nogil
cdef Output* output_of(Connection* connection) noexcept nogil
cdef int output_append(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil
cdef int output_frame(
    HubState* hub, Connection* connection, uint8_t first_byte, const uint8_t* payload, size_t n
) noexcept nogil
cdef uint8_t* output_reserve(
    HubState* hub, Connection* connection, uint8_t first_byte, size_t n
) noexcept nogil
cdef int output_urgent(
    HubState* hub, Connection* connection, uint8_t first_byte, const uint8_t* payload, size_t n
) noexcept nogil
cdef void output_seal(HubState* hub) noexcept nogil
cdef void output_prepend(
    HubState* hub, Connection* connection, const uint8_t* data, size_t n
) noexcept nogil
cdef void output_set_busy(Connection* connection, uint8_t busy) noexcept nogil
cdef int output_send(HubState* hub, Connection* connection) noexcept nogil
cdef uint32_t front_after(const uint8_t* data, uint32_t front, uint32_t written) noexcept nogil
cdef void output_shrink_cork(HubState* hub) noexcept nogil
cdef void connection_kill(HubState* hub, Connection* connection, uint16_t code) noexcept nogil
