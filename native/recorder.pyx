# cython: language_level=3
"""The flight recorder: the last frames of a connection, in a ring.

A connection that is recorded has a `Recording`; all others have NULL there, and pay for it with one
comparison a frame. Of each frame the ring holds when it was, which way it went, its first byte, how long its
payload was, and the beginning of that. What a room sends is copied for recorded members alone: they are
marked as `shared` in their logs, so that a flush pass takes the longer way for them and looks at nothing new
for the others.

A frame of the peer is noted once it is whole, unmasked and as it came (a compressed one compressed); one that
is refused for its head, by its head. What is sent to the connection alone is noted when it is queued, what a
room sends when its first byte went to the kernel.

Owns the rings. They grow by doubling from `FIRST_BYTES` on, and all of them together keep to
`HubState.recorder_memory`: beyond it a ring stays as large as it is, and whoever has none yet gets none.
Leaves to Python: what of it may be written down, where, and when.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from realtime.native.frames cimport OPCODE_CLOSE, server_frame_bytes
from realtime.native.posix cimport monotonic_ns
from realtime.native.roomlog cimport log_find, log_share
from realtime.native.types cimport Chunk, Connection, HubState, Log, Recording

cdef enum:
    FIRST_BYTES = 1024
    OPCODE_BITS = 0x0F

# What stands before each payload in the ring; realtime/edge/recording_frames.py reads it.
cdef struct Entry:
    int64_t time_ns      # CLOCK_MONOTONIC
    uint64_t length      # of the payload on the wire
    uint32_t kept        # of it in the ring
    uint8_t kind
    uint8_t first        # of the frame: FIN, RSV and opcode


cdef int recorder_begin(
    HubState* hub, Connection* connection, uint32_t limit, uint32_t payload_limit
) noexcept nogil:
    """Record `connection` in up to `limit` bytes, and up to `payload_limit` of each payload.

    One that is recorded already goes on with what it has, and the larger limits. Returns 0, or -1 where the
    rings have all the memory that they may have.
    """
    cdef Recording* recording = connection.recording
    if recording != NULL:
        if limit > recording.limit:
            recording.limit = limit
        if payload_limit > recording.payload_limit:
            recording.payload_limit = payload_limit
        return 0
    recording = <Recording*>calloc(1, sizeof(Recording))
    if recording == NULL:
        return -1
    recording.limit = limit if limit > FIRST_BYTES else FIRST_BYTES
    recording.payload_limit = payload_limit
    if not _grow(hub, recording):
        free(recording)
        hub.counters.recorder_refused += 1
        return -1
    connection.recording = recording
    hub.counters.recordings += 1
    log_share(connection)
    return 0


cdef void recorder_arrive(HubState* hub, Connection* connection) noexcept nogil:
    """Record a connection that has come in, where it is one of those that are recorded from the start.

    Ids count up; multiplied by this number (2**32 over the golden ratio, Knuth 6.4) any run of them is spread
    evenly, so that a tenth is one of ten.
    """
    cdef uint32_t place = <uint32_t>connection.id * <uint32_t>2654435769ULL
    if place < hub.recorder_sample:
        recorder_begin(hub, connection, hub.recorder_bytes, hub.recorder_payload)


cdef void recorder_end(HubState* hub, Connection* connection) noexcept nogil:
    """Record it no more, and forget what was."""
    cdef Recording* recording = connection.recording
    if recording != NULL:
        connection.recording = NULL
        hub.counters.recordings -= 1
        hub.counters.recorder_bytes -= recording.capacity
        free(recording.ring)
        free(recording)
        log_share(connection)


# --------------------------------------------------------------------------- noting

cdef void recorder_note(
    HubState* hub, Connection* connection, uint8_t kind, uint8_t first, const uint8_t* payload, size_t n
) noexcept nogil:
    """Note one frame of a connection that is recorded."""
    cdef Recording* recording = connection.recording
    cdef Entry entry
    memset(&entry, 0, sizeof(Entry))
    entry.time_ns = monotonic_ns()
    entry.length = n
    entry.kept = recording.payload_limit if n > recording.payload_limit else <uint32_t>n
    entry.kind = kind
    entry.first = first
    if (first & OPCODE_BITS) == OPCODE_CLOSE and recording.closer == 0:
        recording.closer = kind
    while recording.capacity - recording.length < sizeof(Entry) + entry.kept:
        if _grow(hub, recording):
            continue
        if recording.length == 0:
            entry.kept = recording.capacity - <uint32_t>sizeof(Entry)
        else:
            _evict(recording)
    recording.frames += 1
    _put(recording, <const uint8_t*>&entry, sizeof(Entry))
    _put(recording, payload, entry.kept)


cdef void recorder_head(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil:
    """Note what a frame begins with that is refused, without its masking key: up to 10 bytes of `data`.

    What follows in there may be a payload that was not masked, which is nobody's to read.
    """
    cdef size_t head_bytes = 2
    if connection.recording == NULL or n == 0:
        return
    if n > 1 and (data[1] & 0x7F) >= 126:
        head_bytes = 4 if (data[1] & 0x7F) == 126 else 10
    recorder_note(hub, connection, RECORDED_HEAD, data[0], data, head_bytes if head_bytes < n else n)


cdef void recorder_log(
    HubState* hub, Connection* connection, Log* log, uint64_t boundary, uint64_t until
) noexcept nogil:
    """Note the frames of `log` that begin from `boundary`, where one does, up to before `until`."""
    cdef Chunk* chunk
    cdef const uint8_t* frame
    cdef uint64_t size
    cdef size_t head_bytes
    while boundary < until:
        chunk = log_find(log, boundary)
        frame = chunk.data + (boundary - chunk.base)
        size = server_frame_bytes(frame)
        head_bytes = 2 if frame[1] < 126 else 4 if frame[1] == 126 else 10
        recorder_note(hub, connection, RECORDED_OUT, frame[0], frame + head_bytes, size - head_bytes)
        boundary += size


# --------------------------------------------------------------------------- the ring

cdef bint _grow(HubState* hub, Recording* recording) noexcept nogil:
    """Double the ring, what is in it comes first then; False where it has all that it may have."""
    cdef uint32_t capacity = recording.capacity * 2 if recording.capacity else FIRST_BYTES
    cdef uint8_t* ring
    if capacity > recording.limit:
        capacity = recording.limit
    if capacity <= recording.capacity:
        return False
    if hub.counters.recorder_bytes + capacity - recording.capacity > hub.recorder_memory:
        recording.limit = recording.capacity    # or it would ask again with every frame
        return False
    ring = <uint8_t*>malloc(capacity)
    if ring == NULL:
        recording.limit = recording.capacity
        return False
    _copy(recording, ring)
    free(recording.ring)
    hub.counters.recorder_bytes += capacity - recording.capacity
    recording.ring = ring
    recording.capacity = capacity
    recording.start = 0
    return True


cdef void _copy(const Recording* recording, uint8_t* to) noexcept nogil:
    """Copy what is in the ring, oldest first."""
    cdef uint32_t ahead = recording.capacity - recording.start
    if recording.length <= ahead:
        if recording.length:
            memcpy(to, recording.ring + recording.start, recording.length)
    else:
        memcpy(to, recording.ring + recording.start, ahead)
        memcpy(to + ahead, recording.ring, recording.length - ahead)


cdef void _put(Recording* recording, const uint8_t* data, uint32_t n) noexcept nogil:
    """Append `n` bytes, for which there is room."""
    cdef uint32_t at = <uint32_t>((<uint64_t>recording.start + recording.length) % recording.capacity)
    cdef uint32_t ahead = recording.capacity - at
    if n == 0:
        return
    if n <= ahead:
        memcpy(recording.ring + at, data, n)
    else:
        memcpy(recording.ring + at, data, ahead)
        memcpy(recording.ring, data + ahead, n - ahead)
    recording.length += n


cdef void _evict(Recording* recording) noexcept nogil:
    """Forget the oldest frame."""
    cdef Entry entry
    cdef uint8_t* to = <uint8_t*>&entry
    cdef uint32_t ahead = recording.capacity - recording.start
    cdef uint32_t size = sizeof(Entry)
    if size <= ahead:
        memcpy(to, recording.ring + recording.start, size)
    else:
        memcpy(to, recording.ring + recording.start, ahead)
        memcpy(to + ahead, recording.ring, size - ahead)
    size += entry.kept
    recording.start = <uint32_t>((<uint64_t>recording.start + size) % recording.capacity)
    recording.length -= size
    recording.evicted += 1


cdef object recorder_taken(const Connection* connection):
    """Return (entries, frames noted, frames overwritten, who closed first: a kind or 0); None unrecorded."""
    cdef const Recording* recording = connection.recording
    if recording == NULL:
        return None
    entries = PyBytes_FromStringAndSize(NULL, recording.length)
    _copy(recording, <uint8_t*>PyBytes_AS_STRING(entries))
    return entries, recording.frames, recording.evicted, recording.closer
