# cython: language_level=3
"""The way out of a connection: unicast bytes, the owner of a half-sent frame, room data, death."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from realtime.native.types cimport Connection, ConnectionList, HubState, Log

cdef int list_push(ConnectionList* items, Connection* connection) noexcept nogil
cdef int output_append(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil
cdef int output_frame(
    HubState* hub, Connection* connection, uint8_t first_byte, const uint8_t* payload, size_t n
) noexcept nogil
cdef uint8_t* output_reserve(
    HubState* hub, Connection* connection, uint8_t first_byte, size_t n
) noexcept nogil
cdef void output_uncork(HubState* hub) noexcept nogil
cdef int output_drain(HubState* hub, Connection* connection) noexcept nogil
cdef int output_take_over(HubState* hub, Connection* connection, Log* log) noexcept nogil
cdef void output_leave_all(HubState* hub, Connection* connection) noexcept nogil
cdef void output_leave(HubState* hub, Connection* connection, Log* log) noexcept nogil
cdef int output_send_room(HubState* hub, Log* log, uint32_t index) noexcept nogil
cdef void output_block(HubState* hub, Connection* connection) noexcept nogil
cdef void output_settle(HubState* hub, Connection* connection, int outcome) noexcept nogil
cdef void connection_kill(HubState* hub, Connection* connection, uint16_t code) noexcept nogil
