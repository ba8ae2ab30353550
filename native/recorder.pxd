# cython: language_level=3
"""The flight recorder: the last frames of a connection, in a ring."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.types cimport Connection, HubState, Log

cdef enum:
    RECORDED_IN = 1      # a frame of the peer
    RECORDED_OUT = 2     # one that it is sent
    RECORDED_HEAD = 3    # the head of one that was refused for it

cdef int recorder_begin(
    HubState* hub, Connection* connection, uint32_t limit, uint32_t payload_limit
) noexcept nogil
cdef void recorder_arrive(HubState* hub, Connection* connection) noexcept nogil
cdef void recorder_end(HubState* hub, Connection* connection) noexcept nogil
cdef void recorder_note(
    HubState* hub, Connection* connection, uint8_t kind, uint8_t first, const uint8_t* payload, size_t n
) noexcept nogil
cdef void recorder_head(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil
cdef void recorder_log(
    HubState* hub, Connection* connection, Log* log, uint64_t boundary, uint64_t until
) noexcept nogil
cdef object recorder_taken(const Connection* connection)
