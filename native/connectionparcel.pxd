# cython: language_level=3
"""A connection as a parcel."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from realtime.native.parcels cimport Rest
from realtime.native.types cimport Connection as CConnection
from realtime.native.types cimport HubState

# How a parcel begins; reason, raw input, message so far and output follow. Times by CLOCK_MONOTONIC, in ns.
cdef packed struct ConnectionHead:
    uint64_t id
    int64_t deadline_ns         # 0 = none
    int64_t last_seen_ns
    int64_t expires_ns          # 0 = never
    int64_t bucket
    int64_t byte_bucket
    int64_t control_bucket
    uint32_t user_key
    uint32_t reason_bytes
    uint32_t raw_bytes
    uint32_t message_bytes
    uint32_t fragments
    uint32_t utf8
    uint32_t output_bytes
    uint32_t front
    uint16_t flags
    uint16_t close_code
    uint16_t port
    uint8_t[16] octets
    uint8_t address_bytes
    uint8_t arrival
    uint8_t state
    uint8_t deflate_bits
    uint8_t opcode
    uint8_t compressed
    uint8_t has_state           # a state object comes with it
    uint8_t owed                # the rest of a half-sent frame stands in the log of a room

cdef bytes connection_pack(HubState* hub, int64_t began_ns, CConnection* connection)
cdef int connection_read(bytes parcel, ConnectionHead* head, Rest* rest) except -1
cdef int connection_unpack(
    HubState* hub, int64_t began_ns, CConnection* connection, const ConnectionHead* head, Rest* rest
) except -1
cdef void connection_free(CConnection* connection)
cdef int32_t ticks_to(const HubState* hub, int64_t began_ns, int64_t time_ns) noexcept nogil
