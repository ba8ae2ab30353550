# cython: language_level=3
"""A room's log as a parcel: the frames that some member still lacks, and where each of them stands.

Positions travel as frame numbers and bytes into a frame, which cannot point between the frames. The log that
is made of a parcel begins at position 0, with chunks as long as what is in them. A lagging member's cursor is
pinned as it was; one whose socket takes data gets its part by the pass that the log is put in line for.

A member that has been sent a part of a frame goes on with the rest of the same one: its connection says that
it waits for that (OWED in `output.owner`), the parcel of the room says where.

Owns nothing: the log is the caller's, as is what `room_unpack` allocates, until `room_parcel_free`.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from realtime.native.marks cimport marks_add, marks_at, marks_reserve
from realtime.native.parcels cimport (
    ROOM_PARCEL,
    Rest,
    frames_walk,
    parcel_new,
    parcel_open,
    parcel_seal,
    take,
)
from realtime.native.roomlog cimport log_add, log_extend, log_mark_dirty, member_pin
from realtime.native.types cimport (
    BINARY,
    BLOCKED,
    DISCONNECT,
    LAPSED,
    LATEST,
    NOWHERE,
    OPEN,
    PRIORITIES,
    Chunk,
    Connection,
    HubState,
    Lapse,
    Link,
    Log,
    Mark,
    Member,
)


# --------------------------------------------------------------------------- packing

cdef bytes room_pack(Log* log):
    """Return the parcel of `log`. ValueError where it is too large, MemoryError without memory."""
    cdef uint64_t* starts
    cdef uint64_t lowest = _lowest(log)
    cdef Chunk* first = log.head
    cdef uint32_t frames = 0
    while first != NULL and first.base + first.length <= lowest:
        first = first.next
    if first != NULL:
        frames = <uint32_t>(log.messages - first.first)
    starts = <uint64_t*>malloc((<size_t>frames + 1) * sizeof(uint64_t))
    if starts == NULL:
        raise MemoryError("no memory to hand a room over")
    try:
        _note_starts(log, first, starts)
        return _packed(log, first, starts, frames, lowest)
    finally:
        free(starts)


cdef uint64_t _lowest(Log* log) noexcept nogil:
    """The lowest position that a member stands at, the log's end where all have everything."""
    cdef uint64_t lowest = log.end
    cdef uint32_t i
    for i in range(log.count):
        if log.members[i].position < lowest and log.members[i].fd >= 0:
            lowest = log.members[i].position
    return lowest


cdef void _note_starts(Log* log, Chunk* chunk, uint64_t* starts) noexcept nogil:
    """Write where each frame from `chunk` on begins, and where the log ends."""
    while chunk != NULL:
        starts += frames_walk(chunk.data, chunk.length, chunk.base, starts)
        chunk = chunk.next
    starts[0] = log.end


cdef uint32_t _frame_at(const uint64_t* starts, uint32_t frames, uint64_t position) noexcept nogil:
    """The frame that holds the byte at `position`, which is not before the first; `frames` for the end."""
    cdef uint32_t low = 0
    cdef uint32_t high = frames
    cdef uint32_t middle
    while low < high:
        middle = low + (high - low + 1) // 2
        if starts[middle] <= position:
            low = middle
        else:
            high = middle - 1
    return low


cdef bytes _packed(Log* log, Chunk* first, const uint64_t* starts, uint32_t frames, uint64_t lowest):
    cdef RoomHead head
    cdef bytes parcel
    cdef uint8_t* to
    cdef Chunk* chunk = first
    cdef uint32_t skipped = _frame_at(starts, frames, lowest)   # all have these frames
    cdef uint32_t size, i
    head.lag_limit = log.lag_limit
    head.lag_limit_messages = log.lag_limit_messages
    head.last_offset = log.marks.last if log.marks != NULL else 0
    head.data_bytes = log.end - starts[skipped]
    head.variant = log.variant
    head.slow_reader = log.slow_reader
    head.priority = log.priority
    head.chunks = head.marks = head.members = head.lapses = 0
    if head.data_bytes:
        while chunk != NULL:
            head.chunks += 1
            chunk = chunk.next
    for i in range(log.marks.count if log.marks != NULL else 0):
        head.marks += marks_at(log.marks, i).end > starts[skipped]
    for i in range(log.count):
        if log.members[i].fd >= 0:
            head.members += 1
            head.lapses += _link_of(log, i).lapse != NULL
    parcel = parcel_new(
        ROOM_PARCEL,
        sizeof(RoomHead) + head.chunks * sizeof(uint32_t) + head.marks * sizeof(PackedMark)
        + head.members * sizeof(PackedMember) + head.lapses * sizeof(PackedLapse) + head.data_bytes, &to,
    )
    memcpy(to, &head, sizeof(RoomHead))
    to += sizeof(RoomHead)
    chunk = first
    for i in range(head.chunks):
        size = chunk.length
        if i == 0:
            size -= <uint32_t>(starts[skipped] - chunk.base)
        memcpy(to, &size, sizeof(uint32_t))
        to += sizeof(uint32_t)
        chunk = chunk.next
    to = _pack_marks(log, starts, frames, skipped, to)
    to = _pack_members(log, starts, frames, skipped, to)
    to = _pack_lapses(log, to)
    chunk = first
    for i in range(head.chunks):
        size = <uint32_t>(starts[skipped] - chunk.base) if i == 0 else 0
        memcpy(to, chunk.data + size, chunk.length - size)
        to += chunk.length - size
        chunk = chunk.next
    parcel_seal(parcel)
    return parcel


cdef Link* _link_of(Log* log, uint32_t index) noexcept nogil:
    cdef Connection* connection = log.members[index].connection
    cdef uint32_t i = 0
    while connection.links[i].log != log:
        i += 1
    return &connection.links[i]


cdef uint8_t* _pack_marks(
    Log* log, const uint64_t* starts, uint32_t frames, uint32_t skipped, uint8_t* to
) noexcept nogil:
    cdef PackedMark packed
    cdef Mark* mark
    cdef uint32_t i
    for i in range(log.marks.count if log.marks != NULL else 0):
        mark = marks_at(log.marks, i)
        if mark.end > starts[skipped]:
            packed.offset = mark.offset
            packed.frame = _frame_at(starts, frames, mark.end - 1) - skipped
            memcpy(to, &packed, sizeof(PackedMark))
            to += sizeof(PackedMark)
    return to


cdef uint8_t* _pack_members(
    Log* log, const uint64_t* starts, uint32_t frames, uint32_t skipped, uint8_t* to
) noexcept nogil:
    cdef PackedMember packed
    cdef Member* member
    cdef uint32_t i, frame
    for i in range(log.count):
        member = &log.members[i]
        if member.fd < 0:
            continue
        packed.id = member.connection.id
        packed.parked = member.parked
        frame = frames if member.position >= log.end else _frame_at(starts, frames, member.position)
        packed.frame = frame - skipped
        packed.into = <uint32_t>(member.position - starts[frame]) if frame < frames else 0
        memcpy(to, &packed, sizeof(PackedMember))
        to += sizeof(PackedMember)
    return to


cdef uint8_t* _pack_lapses(Log* log, uint8_t* to) noexcept nogil:
    cdef PackedLapse packed
    cdef Lapse* lapse
    cdef uint32_t i
    packed.member = 0
    for i in range(log.count):
        if log.members[i].fd < 0:
            continue
        lapse = _link_of(log, i).lapse
        if lapse != NULL:
            packed.after = lapse.after
            packed.last = lapse.last
            memcpy(to, &packed, sizeof(PackedLapse))
            to += sizeof(PackedLapse)
        packed.member += 1
    return to


# --------------------------------------------------------------------------- unpacking

cdef int room_unpack(bytes parcel, RoomParcel* to) except -1:
    """Look a parcel through, and find its parts. ValueError where they do not fit each other.

    `to.starts` is the caller's then, by `room_parcel_free`, also after an error; NULL it before.
    """
    cdef Rest rest
    cdef const uint8_t* at
    cdef uint64_t need
    parcel_open(parcel, ROOM_PARCEL, &rest)
    at = take(&rest, sizeof(RoomHead))
    if at == NULL:
        raise ValueError("a parcel of a room that is cut short")
    memcpy(&to.head, at, sizeof(RoomHead))
    # Sums of products of 32 bits with small sizes stay far below 64 bits.
    need = (
        <uint64_t>to.head.chunks * sizeof(uint32_t) + <uint64_t>to.head.marks * sizeof(PackedMark)
        + <uint64_t>to.head.members * sizeof(PackedMember) + <uint64_t>to.head.lapses * sizeof(PackedLapse)
    )
    if need > rest.left or to.head.data_bytes != rest.left - need:
        raise ValueError("the sizes in the parcel of a room do not add up")
    to.chunks = take(&rest, to.head.chunks * sizeof(uint32_t))
    to.marks = <const PackedMark*>take(&rest, to.head.marks * sizeof(PackedMark))
    to.members = <const PackedMember*>take(&rest, to.head.members * sizeof(PackedMember))
    to.lapses = <const PackedLapse*>take(&rest, to.head.lapses * sizeof(PackedLapse))
    to.data = rest.at
    if to.head.slow_reader > LATEST or to.head.priority >= PRIORITIES:
        raise ValueError("no such policy or priority of a room")
    if to.head.slow_reader == DISCONNECT and to.head.marks + to.head.lapses:
        raise ValueError("marks or lapses in a room that does not drop")
    _find_frames(to)
    _check_marks(to)
    _check_members(to)
    return 0


cdef void room_parcel_free(RoomParcel* parcel) noexcept nogil:
    free(parcel.starts)
    parcel.starts = NULL


cdef inline uint32_t _chunk_bytes(const RoomParcel* parcel, uint32_t i) noexcept nogil:
    cdef uint32_t size
    memcpy(&size, parcel.chunks + i * sizeof(uint32_t), sizeof(uint32_t))
    return size


cdef int _find_frames(RoomParcel* to) except -1:
    """Check that every chunk is made of whole frames, and note where they begin."""
    cdef uint64_t at = 0
    cdef uint64_t size
    cdef uint32_t i
    cdef int frames
    # A frame has 2 bytes at least: what is allocated is bounded by what has come.
    to.starts = <uint64_t*>malloc((to.head.data_bytes // 2 + 1) * sizeof(uint64_t))
    if to.starts == NULL:
        raise MemoryError("no memory to take a room over")
    to.frames = 0
    for i in range(to.head.chunks):
        size = _chunk_bytes(to, i)
        frames = -1
        if 0 < size <= to.head.data_bytes - at:
            frames = frames_walk(to.data + at, size, at, to.starts + to.frames)
        if frames < 0:
            raise ValueError("a chunk of a room's log is not made of frames")
        to.frames += frames
        at += size
    if at != to.head.data_bytes:
        raise ValueError("the chunks of a room's log are not all of it")
    to.starts[to.frames] = at
    return 0


cdef int _check_marks(const RoomParcel* parcel) except -1:
    cdef uint64_t least = 0
    cdef uint32_t i
    for i in range(parcel.head.marks):
        if not least <= parcel.marks[i].frame < parcel.frames:
            raise ValueError("the marks of a room are out of order")
        least = <uint64_t>parcel.marks[i].frame + 1
    return 0


cdef int _check_members(const RoomParcel* parcel) except -1:
    cdef const PackedMember* member
    cdef uint64_t size
    cdef uint32_t lapse = 0
    cdef uint32_t i
    cdef bint lapsed
    for i in range(parcel.head.members):
        member = &parcel.members[i]
        lapsed = lapse < parcel.head.lapses and parcel.lapses[lapse].member == i
        lapse += lapsed
        if member.frame > parcel.frames or member.parked > 1:
            raise ValueError("a member of a room stands outside of its log")
        size = parcel.starts[member.frame + 1] - parcel.starts[member.frame] if (
            member.frame < parcel.frames
        ) else 1
        if member.into >= size:
            raise ValueError("a member of a room stands outside of its frame")
        if member.parked and (not lapsed or member.frame != parcel.frames):
            raise ValueError("a parked member of a room that misses nothing, or stands somewhere")
    if lapse != parcel.head.lapses:
        raise ValueError("a lapse of nobody in a room")
    return 0


cdef int room_fill(HubState* hub, Log* log, const RoomParcel* parcel, Connection** members) except -1:
    """Make `log`, which is new, what the parcel says. `members`: for each of its members the connection, or
    NULL where that has not come along.

    ValueError where a member cannot be one, MemoryError without memory; the log is then to be let go.
    """
    cdef Connection* connection
    cdef uint32_t i
    for i in range(parcel.head.members):
        connection = members[i]
        if connection == NULL:
            continue
        if connection.state != OPEN or _variant(connection) != log.variant:
            raise ValueError(f"connection {connection.id} cannot be a member of the room")
        if parcel.members[i].into and (connection.output == NULL or connection.output.owner != _owed()):
            raise ValueError(f"connection {connection.id} waits for no half-sent frame")
    _fill_chunks(hub, log, parcel)
    _fill_marks(log, parcel)
    _fill_members(hub, log, parcel, members)
    if log.head != NULL:
        log_mark_dirty(hub, log)
    return 0


cdef inline Log* _owed() noexcept nogil:
    return <Log*><size_t>OWED


cdef inline uint8_t _variant(const Connection* connection) noexcept nogil:
    return connection.deflate_bits << 1 | (connection.flags & BINARY != 0)


cdef int _fill_chunks(HubState* hub, Log* log, const RoomParcel* parcel) except -1:
    cdef uint64_t at = 0
    cdef uint32_t size, i
    cdef uint8_t* to
    for i in range(parcel.head.chunks):
        size = _chunk_bytes(parcel, i)
        to = log_extend(hub, log, size)
        if to == NULL:
            raise MemoryError("no memory for the room's log")
        memcpy(to, parcel.data + at, size)
        at += size
        log.tail.first = _frame_at(parcel.starts, parcel.frames, log.tail.base)
    log.messages = parcel.frames
    return 0


cdef int _fill_marks(Log* log, const RoomParcel* parcel) except -1:
    cdef uint32_t i
    if log.marks == NULL:
        return 0
    for i in range(parcel.head.marks):
        if marks_reserve(log.marks) < 0:
            raise MemoryError("no memory for the offsets in the room's log")
        marks_add(log.marks, parcel.starts[parcel.marks[i].frame + 1], parcel.marks[i].offset)
    log.marks.last = parcel.head.last_offset
    return 0


cdef int _fill_members(HubState* hub, Log* log, const RoomParcel* parcel, Connection** members) except -1:
    cdef Connection* connection
    cdef Member* member
    cdef Lapse* lapse
    cdef uint32_t next_lapse = 0
    cdef uint32_t i
    for i in range(parcel.head.members):
        lapse = NULL
        connection = members[i]
        if next_lapse < parcel.head.lapses and parcel.lapses[next_lapse].member == i:
            next_lapse += 1
            if connection != NULL:
                lapse = <Lapse*>malloc(sizeof(Lapse))
                if lapse == NULL:
                    raise MemoryError("no memory for what a member missed")
                lapse.after = parcel.lapses[next_lapse - 1].after
                lapse.last = parcel.lapses[next_lapse - 1].last
        if connection == NULL:
            continue
        if log_add(hub, log, connection) != 1:
            free(lapse)
            raise ValueError(f"connection {connection.id} cannot be a member of the room")
        connection.links[connection.link_count - 1].lapse = lapse
        if lapse != NULL:
            connection.flags |= LAPSED
        member = &log.members[log.count - 1]
        member.position = parcel.starts[parcel.members[i].frame] + parcel.members[i].into
        if parcel.members[i].into:
            connection.output.owner = log
            connection.output.owner_until = parcel.starts[parcel.members[i].frame + 1]
        if parcel.members[i].parked:
            member.parked = 1
            member.position = NOWHERE
        elif connection.flags & BLOCKED:
            member_pin(log, member)
    return 0
