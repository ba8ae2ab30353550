# cython: language_level=3
"""A timing wheel: one deadline a connection, set and dropped in constant time."""
from libc.stdint cimport uint32_t
from realtime.native.types cimport Connection, HubState

cdef enum:
    TICK_MS = 100
    SLOTS = 1024

cdef void wheel_set(HubState* hub, Connection* connection, uint32_t ticks) noexcept nogil
cdef void wheel_live(HubState* hub, Connection* connection, uint32_t ticks) noexcept nogil
cdef void wheel_drop(HubState* hub, Connection* connection) noexcept nogil
cdef Connection* wheel_take_slot(HubState* hub) noexcept nogil
