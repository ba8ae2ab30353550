# cython: language_level=3
"""A room's log as a parcel."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from realtime.native.types cimport Connection, HubState, Log

# How a parcel begins; arrays of these numbers of chunks, marks, members and lapses follow, then the frames.
cdef packed struct RoomHead:
    uint64_t lag_limit
    uint64_t lag_limit_messages
    uint64_t last_offset    # of the publications appended, 0 = none; only of a log that drops
    uint64_t data_bytes
    uint32_t chunks
    uint32_t marks
    uint32_t members
    uint32_t lapses
    uint8_t variant
    uint8_t slow_reader
    uint8_t priority

cdef packed struct PackedMark:
    uint64_t offset
    uint32_t frame          # the publication is this one, from 0 on

cdef packed struct PackedMember:
    uint64_t id
    uint32_t frame          # the next one to send, from 0 on; the number of frames where it has them all
    uint32_t into           # bytes of it that are out already
    uint8_t parked

cdef packed struct PackedLapse:
    uint64_t after
    uint64_t last
    uint32_t member         # in the array of members, rising

# A parcel that has been looked through: the arrays stand in it, unaligned.
cdef struct RoomParcel:
    RoomHead head
    const uint8_t* chunks   # a size of 32 bits each
    const PackedMark* marks
    const PackedMember* members
    const PackedLapse* lapses
    const uint8_t* data
    uint64_t* starts        # where each frame begins, and behind the last one where that ends; owned
    uint32_t frames

cdef enum:
    OWED = 1                # stands for the log whose half-sent frame a connection waits for

cdef bytes room_pack(Log* log)
cdef int room_unpack(bytes parcel, RoomParcel* to) except -1
cdef void room_parcel_free(RoomParcel* parcel) noexcept nogil
cdef int room_fill(HubState* hub, Log* log, const RoomParcel* parcel, Connection** members) except -1
