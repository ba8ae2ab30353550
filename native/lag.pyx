# cython: language_level=3
"""What becomes of a member that lags too far behind a log that drops: it skips, or it is parked.

What it misses by that is its lapse, one span of offsets for each of its rooms however often it skips. The
peer is told when its socket has taken everything else that waits, and before the room goes on: `output_drain`
asks for it, the hub has it told. Until then the rooms of the connection wait.

Only members whose sockets are full come here. A half-sent frame is finished first: its rest becomes unicast.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from realtime.native.marks cimport marks_at, marks_from, marks_had
from realtime.native.output cimport output_release
from realtime.native.roomlog cimport link_member, member_pin, member_unpin
from realtime.native.types cimport (
    LAPSED,
    NOWHERE,
    Connection,
    HubState,
    Lapse,
    Link,
    Log,
    Mark,
    Marks,
    Member,
)


cdef int lag_skip(HubState* hub, Log* log, Member* member) noexcept nogil:
    """Move the cursor to where it lags at most half of what is allowed; return 0, or -1 without memory.

    Half, so that the next skip is not the next message's.
    """
    cdef Lapse* lapse = _lapse_of(log, member)
    if lapse == NULL:
        return -1
    output_release(hub, member.connection, log)
    member.position = _landing(log, member.position)
    lapse.last = marks_had(log.marks, member.position)
    hub.counters.skipped += 1
    member_pin(log, member)
    return 0


cdef int lag_park(HubState* hub, Log* log, Member* member) noexcept nogil:
    """Take the cursor out of the log until `lag_resume`; return 0, or -1 without memory."""
    if _lapse_of(log, member) == NULL:
        return -1
    output_release(hub, member.connection, log)
    member_unpin(log, member)
    member.position = NOWHERE
    member.parked = 1
    hub.counters.parked += 1
    return 0


cdef Link* lag_untold(Connection* connection, Log* log) noexcept nogil:
    """Return the link to `log`, or the first one where that is NULL, that has a lapse; NULL without one."""
    cdef uint32_t i
    for i in range(connection.link_count):
        if connection.links[i].lapse != NULL and (log == NULL or connection.links[i].log == log):
            return &connection.links[i]
    return NULL


cdef void lag_resume(Link* link, uint64_t* after, uint64_t* last) noexcept nogil:
    """End the lapse of `link`: the offsets above `after` up to `last`. Who is parked goes on at the end."""
    cdef Member* member = link_member(link)
    cdef Log* log = link.log
    after[0] = link.lapse.after
    last[0] = link.lapse.last
    if member.parked:
        last[0] = log.marks.last
        member.parked = 0
        member.position = log.end
    free(link.lapse)
    link.lapse = NULL


cdef Lapse* _lapse_of(Log* log, Member* member) noexcept nogil:
    """Return the lapse of `member` in `log`, begun now where it has none; NULL without memory."""
    cdef Connection* connection = member.connection
    cdef uint64_t position = member.position
    cdef uint32_t i = 0
    cdef Link* link
    cdef Lapse* lapse
    while connection.links[i].log != log:
        i += 1
    link = &connection.links[i]
    if link.lapse != NULL:
        return link.lapse
    lapse = link.lapse = <Lapse*>malloc(sizeof(Lapse))
    if lapse == NULL:
        return NULL
    if connection.output != NULL and connection.output.owner == log:
        position = connection.output.owner_until
    lapse.after = lapse.last = marks_had(log.marks, position)
    connection.flags |= LAPSED
    return lapse


cdef uint64_t _landing(Log* log, uint64_t beyond) noexcept nogil:
    """Return the end of the first publication behind which there is at most half of what is allowed.

    Where none ends behind `beyond`, because what is there has no offsets, it is the end of the log.
    """
    cdef Marks* marks = log.marks
    cdef uint64_t half = log.lag_limit >> 1
    cdef uint64_t messages = log.lag_limit_messages >> 1
    cdef uint64_t position
    cdef Mark* found = marks_from(marks, log.end - half if log.end > half else 0)
    if found == NULL:
        return log.end
    position = found.end
    if log.lag_limit_messages and marks.count > messages:
        found = marks_at(marks, marks.count - messages - 1)
        if found.end > position:
            position = found.end
    return position if position > beyond else log.end
