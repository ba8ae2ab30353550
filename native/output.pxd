# cython: language_level=3
"""The way out of a connection: the owner of a half-sent frame, unicast, rooms by priority."""
from libc.stdint cimport uint32_t
from realtime.native.types cimport Connection, HubState, Log

cdef enum:
    UNTOLD = 2           # an outcome of `output_drain`

cdef void output_uncork(HubState* hub) noexcept nogil
cdef int output_drain(HubState* hub, Connection* connection) noexcept nogil
cdef int output_take_over(HubState* hub, Connection* connection, Log* log) noexcept nogil
cdef void output_leave_all(HubState* hub, Connection* connection) noexcept nogil
cdef void output_leave(HubState* hub, Connection* connection, Log* log) noexcept nogil
cdef void output_release(HubState* hub, Connection* connection, Log* log) noexcept nogil
cdef int output_send_room(HubState* hub, Log* log, uint32_t index) noexcept nogil
cdef void output_settle(HubState* hub, Connection* connection, int outcome) noexcept nogil
