# cython: language_level=3
"""Handing connections over from one process to another."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from realtime.native.endings cimport Endings
from realtime.native.parcels cimport Rest
from realtime.native.types cimport Connection as CConnection

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


cdef class Handover(Endings):
    cdef int64_t started_ns
    cdef int64_t behind_wake_ns     # until when a look at who is read after all others is arranged
    cdef int64_t rest_wake_ns       # until when a wake for a resting log is arranged
    cdef int64_t catch_up_until_ns  # until when at the latest deadlines wait for what has arrived meanwhile
    cdef dict adopted               # addresses of connections by id, while frozen

    cdef bint is_catching_up(self) noexcept
    cdef int check_frozen(self) except -1
    cdef void quiesce(self)
    cdef void look_at(self, CConnection* connection)
    cdef bytes pack(self, CConnection* connection)
    cdef int unpack(self, CConnection* connection, const ConnectionHead* head, Rest* rest) except -1
    cdef int watch(self, CConnection* connection, int fd) except -1
    cdef void enter(self, CConnection* connection, const ConnectionHead* head)
    cdef int32_t ticks_to(self, int64_t time_ns) noexcept
    cdef int64_t time_of(self, uint32_t tick) noexcept
    cdef dict by_id(self)
