# cython: language_level=3
"""A room's log: frames appended once, and a cursor per member into them.

The log is a list of chunks; a frame never crosses from one chunk to the next. A member is a
position (bytes since the log began) in a contiguous array, so a flush pass over members that keep
up reads 32 bytes each and nothing else. Chunks are counted by the *lagging* members that stand in
them, not by all: a member that keeps up is covered by the rule that a chunk is freed only after
a whole pass has gone beyond it. A log in which everyone has everything holds no chunk at all, so
an idle room costs its struct and its members.

Left to others: sending (output, fanout) and what happens to a member that lags too far (hub).
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from realtime.native.frames cimport server_frame_bytes
from realtime.native.marks cimport marks_trim
from realtime.native.types cimport (
    BLOCKED,
    Chunk,
    Connection,
    HubState,
    Link,
    Log,
    LogQueue,
    Member,
)

cdef enum:
    LARGE_CHUNK = 65536 - 64     # with the struct and malloc's own bytes it fits 16 pages
    SMALL_CHUNK = 4096 - 64
    SMALL_BURST = 2048           # a log whose last pass carried less starts with a small chunk
    POOLED_LIMIT = 64            # spare large chunks kept: 4 MiB
    CHUNK_MAX = 1 << 30          # of one frame that is larger than a large chunk; 32 bits hold it


# --------------------------------------------------------------------------- chunks

cdef Chunk* _chunk_new(HubState* hub, size_t capacity, uint64_t base) noexcept nogil:
    cdef Chunk* chunk
    if capacity == LARGE_CHUNK and hub.pool != NULL:
        chunk = hub.pool
        hub.pool = chunk.next
        hub.pooled -= 1
    else:
        chunk = <Chunk*>malloc(sizeof(Chunk) + capacity)
        if chunk == NULL:
            return NULL
    chunk.next = NULL
    chunk.data = <uint8_t*>(chunk + 1)
    chunk.base = base
    chunk.first = 0
    chunk.length = 0
    chunk.capacity = <uint32_t>capacity
    chunk.readers = 0
    hub.counters.chunks += 1
    return chunk


cdef void _chunk_free(HubState* hub, Chunk* chunk) noexcept nogil:
    hub.counters.chunks -= 1
    if chunk.capacity == LARGE_CHUNK and hub.pooled < POOLED_LIMIT:
        chunk.next = hub.pool
        hub.pool = chunk
        hub.pooled += 1
    else:
        free(chunk)


cdef void pool_clear(HubState* hub) noexcept nogil:
    """Free the spare chunks."""
    cdef Chunk* following
    while hub.pool != NULL:
        following = hub.pool.next
        free(hub.pool)
        hub.pool = following
    hub.pooled = 0


cdef uint8_t* log_reserve(HubState* hub, Log* log, size_t n) noexcept nogil:
    """Return `n` contiguous bytes (one frame) at the log's end, or NULL without memory or over CHUNK_MAX.

    The caller fills them before anything else runs.
    """
    cdef Chunk* chunk = log.tail
    cdef size_t capacity
    if chunk == NULL or chunk.capacity - chunk.length < n:
        if n > CHUNK_MAX:
            return NULL
        capacity = SMALL_CHUNK if log.head == NULL and log.burst < SMALL_BURST else LARGE_CHUNK
        if n > capacity:
            capacity = LARGE_CHUNK if n <= LARGE_CHUNK else n
        chunk = _add_chunk(hub, log, capacity)
        if chunk == NULL:
            return NULL
    chunk.length += <uint32_t>n
    log.end += n
    log.messages += 1
    return chunk.data + chunk.length - n


cdef uint8_t* log_extend(HubState* hub, Log* log, uint32_t n) noexcept nogil:
    """Return `n` contiguous bytes (some frames, at least one) at the log's end, in a chunk of their own.

    The caller fills them and counts the frames; NULL without memory.
    """
    cdef Chunk* chunk = _add_chunk(hub, log, n)
    if chunk == NULL:
        return NULL
    chunk.length = n
    log.end += n
    return chunk.data


cdef Chunk* _add_chunk(HubState* hub, Log* log, size_t capacity) noexcept nogil:
    cdef Chunk* chunk = _chunk_new(hub, capacity, log.end)
    if chunk == NULL:
        return NULL
    chunk.first = log.messages
    if log.tail == NULL:
        log.head = chunk
    else:
        log.tail.next = chunk
    log.tail = chunk
    return chunk


cdef void log_mark_dirty(HubState* hub, Log* log) noexcept nogil:
    """Put `log` in line for a flush pass, behind those of its priority, or behind all where its tenant is
    over its rates.
    """
    cdef LogQueue* queue
    if log.dirty:
        return
    if not log.passing:     # the pass that runs and the one that it is in line for are in one queue
        log.queue = log.priority + 1
        if log.standing != NULL and log.standing.over_until_ns > hub.now_ns:
            log.queue = 0
    queue = &hub.queues[log.queue]
    hub.active |= 1 << log.queue
    log.dirty = 1
    log.since_ns = hub.now_ns
    log.next_dirty = NULL
    if queue.dirty_tail != NULL:
        queue.dirty_tail.next_dirty = log
    else:
        queue.dirty_head = log
    queue.dirty_tail = log


cdef void log_reclaim(HubState* hub, Log* log) noexcept nogil:
    """Free the chunks at the head that nobody needs any more; not while a pass runs.

    Members that keep up stand at `pass_end` or later, lagging ones are counted in their chunk.
    """
    cdef Chunk* head
    if log.passing:
        return
    while log.head != NULL:
        head = log.head
        if head.readers != 0 or head.base + head.length > log.pass_end:
            break
        log.head = head.next
        if log.head == NULL:
            log.tail = NULL
        _chunk_free(hub, head)
    if log.marks != NULL:
        marks_trim(log.marks, log.head.base if log.head != NULL else log.end)


cdef void log_clear(HubState* hub, Log* log) noexcept nogil:
    """Free all chunks: nobody reads the log."""
    cdef Chunk* head
    while log.head != NULL:
        head = log.head
        log.head = head.next
        _chunk_free(hub, head)
    log.tail = NULL
    log.pass_end = log.end
    if log.marks != NULL:
        marks_trim(log.marks, log.end)


cdef void log_unlist(HubState* hub, Log* log) noexcept nogil:
    """Take `log` out of the dirty and the passing list (it is about to be freed)."""
    cdef LogQueue* queue = &hub.queues[log.queue]
    cdef Log* previous = NULL
    cdef Log* walk = queue.dirty_head
    while walk != NULL:
        if walk == log:
            if previous == NULL:
                queue.dirty_head = log.next_dirty
            else:
                previous.next_dirty = log.next_dirty
            if queue.dirty_tail == log:
                queue.dirty_tail = previous
            break
        previous = walk
        walk = walk.next_dirty
    previous = NULL
    walk = queue.passing
    while walk != NULL:
        if walk == log:
            if previous == NULL:
                queue.passing = log.next_passing
            else:
                previous.next_passing = log.next_passing
            break
        previous = walk
        walk = walk.next_passing
    log.dirty = 0
    log.passing = 0


# --------------------------------------------------------------------------- positions

cdef Chunk* log_find(Log* log, uint64_t position) noexcept nogil:
    """Return the chunk that holds the byte at `position`, which must be in the log and before its end."""
    cdef Chunk* chunk = log.tail
    if position >= chunk.base:
        return chunk
    chunk = log.head
    while position >= chunk.base + chunk.length:
        chunk = chunk.next
    return chunk


cdef uint64_t log_frame_end(Log* log, uint64_t boundary, uint64_t position) noexcept nogil:
    """Return the first frame boundary at or after `position`, walking heads from a known `boundary`."""
    cdef Chunk* chunk
    if boundary >= position:
        return boundary
    chunk = log_find(log, boundary)
    while boundary < position:
        if boundary == chunk.base + chunk.length:
            chunk = chunk.next
        boundary += server_frame_bytes(chunk.data + (boundary - chunk.base))
    return boundary


# --------------------------------------------------------------------------- members

cdef void member_pin(Log* log, Member* member) noexcept nogil:
    """Keep the chunk of a lagging member alive; move the pin along when it has advanced.

    A parked member stands nowhere, which is behind every end.
    """
    cdef Chunk* chunk
    if member.position >= log.end:
        member_unpin(log, member)
        return
    chunk = log_find(log, member.position)
    if member.chunk == chunk:
        return
    if member.chunk == NULL:
        log.laggards += 1
    else:
        member.chunk.readers -= 1
    member.chunk = chunk
    chunk.readers += 1
    log_watch(log, member)


cdef void log_watch(Log* log, Member* member) noexcept nogil:
    """Have the log looked at when `member`, which lags, may lag more than it allows."""
    cdef Chunk* following = member.chunk.next
    cdef uint64_t first = following.first if following != NULL else log.messages
    if member.position + log.lag_limit < log.look_end:
        log.look_end = member.position + log.lag_limit
    if log.lag_limit_messages and first + log.lag_limit_messages < log.look_messages:
        log.look_messages = first + log.lag_limit_messages


cdef bint log_is_over(Log* log, Member* member) noexcept nogil:
    """Whether `member`, which lags, lacks more than the log allows.

    Messages are counted from the first chunk on of which it has nothing: never too many, and too few by
    what its own chunk still holds for it.
    """
    if log.end - member.position > log.lag_limit:
        return True
    if log.lag_limit_messages == 0 or member.chunk.next == NULL:
        return False
    return log.messages - member.chunk.next.first > log.lag_limit_messages


cdef void member_unpin(Log* log, Member* member) noexcept nogil:
    if member.chunk != NULL:
        member.chunk.readers -= 1
        member.chunk = NULL
        log.laggards -= 1


cdef Link* _find_link(Connection* connection, Log* log) noexcept nogil:
    cdef uint32_t i
    for i in range(connection.link_count):
        if connection.links[i].log == log:
            return &connection.links[i]
    return NULL


cdef void log_share(Connection* connection) noexcept nogil:
    """Tell every member entry of `connection` whether there are others, or it is recorded."""
    cdef bint shared = connection.link_count > 1 or connection.recording != NULL
    cdef uint32_t i
    for i in range(connection.link_count):
        connection.links[i].log.members[connection.links[i].index].shared = shared


cdef int log_add(HubState* hub, Log* log, Connection* connection) noexcept nogil:
    """Add `connection` at the log's end. Return 1, 0 if it is a member already, -1 without memory."""
    cdef Member* members
    cdef Member* member
    cdef Link* links
    cdef uint32_t capacity
    if _find_link(connection, log) != NULL:
        return 0
    if log.count == log.capacity:
        capacity = log.capacity * 2 if log.capacity else 2
        members = <Member*>realloc(log.members, capacity * sizeof(Member))
        if members == NULL:
            return -1
        log.members = members
        log.capacity = capacity
    if connection.link_count == connection.link_capacity:
        capacity = connection.link_capacity * 2 if connection.link_capacity else 1
        if capacity > 65535:
            return -1
        links = <Link*>realloc(connection.links, capacity * sizeof(Link))
        if links == NULL:
            return -1
        connection.links = links
        connection.link_capacity = <uint16_t>capacity
    connection.links[connection.link_count].log = log
    connection.links[connection.link_count].lapse = NULL
    connection.links[connection.link_count].index = log.count
    connection.link_count += 1
    member = &log.members[log.count]
    log.count += 1
    hub.counters.members += 1
    memset(member, 0, sizeof(Member))
    member.connection = connection
    member.fd = connection.fd
    member.position = log.end
    member.busy = 1 if connection.flags & BLOCKED or connection.output != NULL else 0
    log_share(connection)
    return 1


cdef void _move(Log* log, uint32_t source, uint32_t target) noexcept nogil:
    if source == target:
        return
    log.members[target] = log.members[source]
    _find_link(log.members[target].connection, log).index = target


cdef void log_remove(HubState* hub, Log* log, Connection* connection) noexcept nogil:
    """Take `connection` out; harmless when it is no member.

    While a pass runs, the hole in its visited part is filled from the visited part, so that
    no unvisited member is moved to where the pass has been.
    """
    cdef Link* link = _find_link(connection, log)
    cdef uint32_t hole
    if link == NULL:
        return
    hole = link.index
    member_unpin(log, &log.members[hole])
    free(link.lapse)
    connection.link_count -= 1
    link[0] = connection.links[connection.link_count]
    if connection.link_count == 0:
        free(connection.links)
        connection.links = NULL
        connection.link_capacity = 0
    else:
        log_share(connection)
    if log.passing and hole < log.pass_index:
        log.pass_index -= 1
        _move(log, log.pass_index, hole)
        hole = log.pass_index
    _move(log, log.count - 1, hole)
    log.count -= 1
    hub.counters.members -= 1
    if log.count == 0:
        free(log.members)
        log.members = NULL
        log.capacity = 0
        log_clear(hub, log)
    elif log.capacity > 16 and log.count < log.capacity / 4:
        _shrink(log)
    log_reclaim(hub, log)


cdef void _shrink(Log* log) noexcept nogil:
    cdef uint32_t capacity = log.capacity / 2
    cdef Member* members = <Member*>realloc(log.members, capacity * sizeof(Member))
    if members != NULL:
        log.members = members
        log.capacity = capacity
