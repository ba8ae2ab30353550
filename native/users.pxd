# cython: language_level=3
"""Each user's connections, found by a key without an object for user or connection."""
from libc.stdint cimport uint32_t
from realtime.native.types cimport Connection, HubState

cdef int users_add(HubState* hub, Connection* connection, uint32_t key) except -1
cdef void users_drop(HubState* hub, Connection* connection) noexcept nogil
cdef void users_clear(HubState* hub) noexcept nogil


cdef inline Connection* users_bucket(HubState* hub, uint32_t key) noexcept nogil:
    """The first of the bucket that the connections of `key` stand in, among others."""
    return hub.users[key & (hub.users_size - 1)] if hub.users_size else NULL
