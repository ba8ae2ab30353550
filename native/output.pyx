# cython: language_level=3
"""The way out of a connection.

Two kinds of sources want the socket: unicast bytes (replies, control frames), and the logs of its rooms.
The rule that keeps frames whole: while a frame is half sent, its source owns the connection, and
all else waits. Unicast goes first otherwise; then every room with something new, those of a higher
priority first, up to 16 pieces in one `sendmsg`. While a connection cannot take data, its member
entries are `busy`, so a flush pass skips it, and its cursors are pinned in their logs.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from realtime.native.posix cimport (
    EAGAIN,
    EINTR,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SHUT_WR,
    errno,
    iovec,
    msghdr,
    send,
    sendmsg,
    shutdown,
)
from realtime.native.recorder cimport recorder_log
from realtime.native.roomlog cimport (
    link_member,
    log_find,
    log_frame_end,
    log_reclaim,
    log_remove,
    member_pin,
    member_unpin,
)
from realtime.native.types cimport (
    BLOCKED,
    CLOSING,
    DEAD,
    FAILED,
    IN_READABLE,
    LAPSED,
    LEAVING,
    PAUSED,
    PRIORITIES,
    Chunk,
    Connection,
    HubState,
    Link,
    Log,
    Member,
    Output,
)
from realtime.native.unicast cimport (
    connection_kill,
    front_after,
    list_push,
    output_append,
    output_of,
    output_prepend,
    output_send,
    output_shrink_cork,
)

cdef enum:
    PIECES = 16          # iovecs of one sendmsg
    CORKED_LINKS = 8     # a member of more rooms than this has none of them sent with its answers


cdef void output_uncork(HubState* hub) noexcept nogil:
    """Send what was collected for the current connection, and end the corking.

    Bytes go to the cork only while the connection has no output and is not blocked, so what is
    corked is always older than anything queued.
    """
    cdef Connection* connection = hub.current
    cdef uint32_t n = hub.cork_length
    cdef uint32_t front = hub.cork_front
    hub.current = NULL
    hub.cork_length = hub.cork_front = 0
    if n == 0:
        if connection.state == LEAVING and connection.output == NULL and not connection.flags & BLOCKED:
            connection_kill(hub, connection, connection.close_code)
        return
    if connection.state == DEAD:
        return
    output_settle(hub, connection, _send_cork(hub, connection, n, front))
    output_shrink_cork(hub)


cdef int _send_cork(HubState* hub, Connection* connection, uint32_t n, uint32_t front) noexcept nogil:
    """Send the corked bytes and, in the same call, what the rooms have: 1 all, 0 kernel full, -1 broken.

    A publisher's answer and its own copy of what it published are one send that way, not two.
    """
    cdef iovec pieces[PIECES]
    cdef Link* sources[PIECES]
    cdef ssize_t written
    cdef size_t total
    cdef int used = 1
    pieces[0].iov_base = hub.cork
    pieces[0].iov_len = n
    if 0 < connection.link_count <= CORKED_LINKS:
        used += _gather_rooms(hub, connection, pieces + 1, sources + 1, PIECES - 1)
    written = _send_vector(hub, connection, pieces, used, &total)
    if written < 0:
        return -1
    if written < n:
        connection.flags |= BLOCKED    # so that the rest is queued and not corked again
        if output_append(hub, connection, hub.cork + written, n - written) < 0:
            return -1
        connection.output.front = front_after(hub.cork, front, <uint32_t>written)
        return 0
    if used > 1:
        _advance(hub, connection, pieces + 1, sources + 1, used - 1, written - n)
    return 1 if <size_t>written == total else 0


# --------------------------------------------------------------------------- sending

cdef void output_block(HubState* hub, Connection* connection) noexcept nogil:
    """Note that the kernel takes no more: EPOLLOUT will call `output_drain`."""
    cdef uint32_t i
    cdef Link* link
    cdef Member* member
    connection.flags |= BLOCKED
    hub.counters.blocked += 1
    for i in range(connection.link_count):
        link = &connection.links[i]
        member = link_member(link)
        member.busy = 1
        member_pin(link.log, member)
        log_reclaim(hub, link.log)


cdef int _gather_log(Link* link, uint64_t until, iovec* pieces, int room) noexcept nogil:
    """Fill up to `room` pieces with the log's bytes from the member's position to `until`."""
    cdef Member* member = link_member(link)
    cdef uint64_t position = member.position
    cdef Chunk* chunk
    cdef uint64_t end
    cdef int used = 0
    if position >= until:
        return 0
    chunk = log_find(link.log, position)
    while chunk != NULL and used < room and position < until:
        end = chunk.base + chunk.length
        if end > until:
            end = until
        pieces[used].iov_base = chunk.data + (position - chunk.base)
        pieces[used].iov_len = end - position
        used += 1
        position = end
        chunk = chunk.next
    return used


cdef void _advance(
    HubState* hub, Connection* connection, iovec* pieces, Link** sources, int used, size_t written
) noexcept nogil:
    """Move the cursors by what the kernel took; a frame cut in two makes its log the owner."""
    cdef Output* output = connection.output
    cdef Member* member
    cdef Link* link
    cdef uint64_t boundary
    cdef uint64_t frame_end
    cdef size_t part
    cdef int i
    for i in range(used):
        if written == 0:
            return
        link = sources[i]
        member = link_member(link)
        part = pieces[i].iov_len if pieces[i].iov_len < written else written
        boundary = member.position
        if output != NULL and output.owner == link.log:
            boundary = output.owner_until
            output.owner = NULL
        if connection.recording != NULL:
            recorder_log(hub, connection, link.log, boundary, member.position + part)
        member.position += part
        written -= part
        if part == pieces[i].iov_len and member.position == link.log.end:
            continue
        frame_end = log_frame_end(link.log, boundary, member.position)
        if frame_end != member.position:
            output = output_of(connection)
            if output == NULL:
                connection_kill(hub, connection, 1006)
                return
            output.owner = link.log
            output.owner_until = frame_end


cdef ssize_t _send_vector(
    HubState* hub, Connection* connection, iovec* pieces, int used, size_t* total
) noexcept nogil:
    """Hand the pieces to the kernel; return the bytes it took, 0 when it is full, -1 when broken."""
    cdef msghdr message
    cdef ssize_t written
    cdef int i
    total[0] = 0
    for i in range(used):
        total[0] += pieces[i].iov_len
    if used == 1:
        written = send(connection.fd, pieces[0].iov_base, total[0], MSG_DONTWAIT | MSG_NOSIGNAL)
    else:
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = used
        written = sendmsg(connection.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
    hub.counters.sends += 1
    if written < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -1
    hub.counters.bytes_out += written
    return written


cdef int _send_pieces(
    HubState* hub, Connection* connection, iovec* pieces, Link** sources, int used
) noexcept nogil:
    """Send gathered pieces of logs: 1 all, 0 the kernel is full, -1 the socket is broken."""
    cdef size_t total
    cdef ssize_t written = _send_vector(hub, connection, pieces, used, &total)
    if written < 0:
        return -1
    _advance(hub, connection, pieces, sources, used, written)
    return 1 if <size_t>written == total else 0


cdef int _finish_owner(HubState* hub, Connection* connection) noexcept nogil:
    """Send the rest of the half-sent frame of a log, and nothing beyond it."""
    cdef iovec pieces[2]
    cdef Link* sources[2]
    cdef uint32_t i
    cdef int used
    for i in range(connection.link_count):
        if connection.links[i].log == connection.output.owner:
            used = _gather_log(&connection.links[i], connection.output.owner_until, pieces, 2)
            sources[0] = sources[1] = &connection.links[i]
            return _send_pieces(hub, connection, pieces, sources, used)
    connection.output.owner = NULL
    return 1


cdef int _gather_rooms(
    HubState* hub, Connection* connection, iovec* pieces, Link** sources, int room
) noexcept nogil:
    """Fill up to `room` pieces with what the rooms have for `connection`, by priority; return how many."""
    cdef uint32_t had = hub.priorities
    cdef int used = 0
    cdef int priority = PRIORITIES
    if had & (had - 1) == 0 or connection.link_count == 1:
        return _gather_some(connection, had, pieces, sources, room)
    while priority > 0 and used < room:
        priority -= 1
        if had & (1 << priority):
            used += _gather_some(connection, 1 << priority, pieces + used, sources + used, room - used)
    return used


cdef int _gather_some(
    Connection* connection, uint32_t priorities, iovec* pieces, Link** sources, int room
) noexcept nogil:
    """The same of the rooms of these priorities, a bit each."""
    cdef Link* link
    cdef uint32_t i
    cdef int used = 0
    cdef int got
    cdef int k
    for i in range(connection.link_count):
        link = &connection.links[i]
        if not priorities & (1 << link.log.priority):
            continue
        got = _gather_log(link, link.log.end, pieces + used, room - used)
        for k in range(got):
            sources[used + k] = link
        used += got
        if used == room:
            break
    return used


cdef int _send_rooms(HubState* hub, Connection* connection) noexcept nogil:
    """Send all that the rooms have for `connection`: 1 caught up, 0 the kernel is full, -1 broken."""
    cdef iovec pieces[PIECES]
    cdef Link* sources[PIECES]
    cdef int used
    cdef int outcome
    while True:
        used = _gather_rooms(hub, connection, pieces, sources, PIECES)
        if used == 0:
            return 1
        outcome = _send_pieces(hub, connection, pieces, sources, used)
        if outcome != 1:
            return outcome


cdef int output_drain(HubState* hub, Connection* connection) noexcept nogil:
    """Send what waits, in order of right: half-sent frame, unicast, rooms.

    Returns 1 when everything is out, 0 when the kernel is full, -1 when the socket is broken; the
    caller passes that to `output_settle`. UNTOLD: the peer has to be told what it missed before its
    rooms go on; the caller has it told and drains again.
    """
    cdef int outcome
    if connection.output != NULL:
        if connection.output.owner != NULL:
            outcome = _finish_owner(hub, connection)
            if outcome != 1:
                return outcome
        outcome = output_send(hub, connection)
        if outcome != 1:
            return outcome
    if connection.flags & LAPSED:
        return UNTOLD
    return _send_rooms(hub, connection) if connection.link_count else 1


cdef void output_settle(HubState* hub, Connection* connection, int outcome) noexcept nogil:
    """Draw the conclusions of a drain: block, die, or be free again."""
    cdef uint32_t i
    cdef Link* link
    if outcome < 0:
        connection_kill(hub, connection, 1006)
        return
    if outcome == 0:
        output_block(hub, connection)
        return
    if connection.flags & BLOCKED or connection.output != NULL:
        connection.flags &= ~BLOCKED
        if connection.output != NULL:
            free(connection.output.data)
            free(connection.output)
            connection.output = NULL
        for i in range(connection.link_count):
            link = &connection.links[i]
            link_member(link).busy = 0
            if link_member(link).chunk != NULL:
                member_unpin(link.log, link_member(link))
                log_reclaim(hub, link.log)
    if connection.state == LEAVING:
        connection_kill(hub, connection, connection.close_code)
    elif connection.state == CLOSING and connection.flags & FAILED:
        shutdown(connection.fd, SHUT_WR)
    elif connection.flags & PAUSED:
        connection.flags &= ~PAUSED
        if not connection.flags & IN_READABLE and list_push(&hub.readable, connection) == 0:
            connection.flags |= IN_READABLE


cdef int output_send_room(HubState* hub, Log* log, uint32_t index) noexcept nogil:
    """A flush pass visits member `index`: send it what it lacks; return 1 if a send was made."""
    cdef Member* member = &log.members[index]
    cdef Connection* connection
    cdef Chunk* chunk
    cdef ssize_t written
    cdef uint64_t n
    if member.fd < 0 or member.position == log.end:
        return 0
    if member.busy:
        member_pin(log, member)
        return 0
    if not member.shared:
        chunk = log_find(log, member.position)
        if chunk.next == NULL:
            n = log.end - member.position
            written = send(
                member.fd, chunk.data + (member.position - chunk.base), n, MSG_DONTWAIT | MSG_NOSIGNAL
            )
            hub.counters.sends += 1
            if written == <ssize_t>n:
                hub.counters.bytes_out += n
                member.position = log.end
                return 1
            _after_short_send(hub, log, member, written)
            return 1
    connection = member.connection
    output_settle(hub, connection, _send_rooms(hub, connection))
    return 1


cdef void _after_short_send(HubState* hub, Log* log, Member* member, ssize_t written) noexcept nogil:
    cdef Connection* connection = member.connection
    cdef iovec piece
    cdef Link* source = &connection.links[0]
    if written < 0:
        output_settle(hub, connection, 0 if errno == EAGAIN or errno == EINTR else -1)
        return
    piece.iov_base = NULL
    piece.iov_len = log.end - member.position
    hub.counters.bytes_out += written
    _advance(hub, connection, &piece, &source, 1, written)
    output_settle(hub, connection, 0)


# --------------------------------------------------------------------------- leaving

cdef void output_release(HubState* hub, Connection* connection, Log* log) noexcept nogil:
    """Let the cursor in `log` free: the rest of a half-sent frame becomes unicast, before all other."""
    cdef Output* output = connection.output
    cdef iovec pieces[2]
    cdef uint32_t i
    cdef int used
    if output != NULL and output.owner == log and connection.state != DEAD:
        for i in range(connection.link_count):
            if connection.links[i].log == log:
                used = _gather_log(&connection.links[i], output.owner_until, pieces, 2)
                if used:    # one frame never crosses chunks, so one piece is all
                    output_prepend(hub, connection, <const uint8_t*>pieces[0].iov_base, pieces[0].iov_len)
                break
        output.owner = NULL


cdef void output_leave(HubState* hub, Connection* connection, Log* log) noexcept nogil:
    """Take `connection` out of `log`; a half-sent frame is finished first."""
    output_release(hub, connection, log)
    log_remove(hub, log, connection)


cdef int output_take_over(HubState* hub, Connection* connection, Log* log) noexcept nogil:
    """Make unicast of what `log` still holds for `connection`, so that leaving loses nothing said before.

    The rest of a half-sent frame is left to `output_leave`. Returns 0, or -1 when the connection is dead.
    """
    cdef Output* output = connection.output
    cdef Chunk* chunk
    cdef uint64_t position
    cdef size_t n
    cdef uint32_t i
    for i in range(connection.link_count):
        if connection.links[i].log == log:
            position = link_member(&connection.links[i]).position
            if output != NULL and output.owner == log:
                position = output.owner_until
            if connection.recording != NULL:
                recorder_log(hub, connection, log, position, log.end)
            while position < log.end:
                chunk = log_find(log, position)
                n = chunk.base + chunk.length - position
                if output_append(hub, connection, chunk.data + (position - chunk.base), n) < 0:
                    return -1
                position += n
            return 0
    return 0


cdef void output_leave_all(HubState* hub, Connection* connection) noexcept nogil:
    while connection.link_count:
        output_leave(hub, connection, connection.links[connection.link_count - 1].log)
