# cython: language_level=3
"""The way out of a connection.

Three sources want the socket: unicast bytes (replies, control frames), and the logs of its rooms.
The rule that keeps frames whole: while a frame is half sent, its source owns the connection, and
all else waits. Unicast goes first otherwise; then every room with something new, up to 16 pieces
in one `sendmsg`. While a connection cannot take data, its member entries are `busy`, so a flush
pass skips it, and its cursors are pinned in their logs.

`Output` exists only while something waits; a drained connection has none.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset
from realtime.native.frames cimport SERVER_HEAD_BYTES_MAX, write_head
from realtime.native.posix cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, SO_LINGER, SOL_SOCKET, close, errno, iovec, linger,
    msghdr, send, sendmsg, setsockopt, shutdown,
)
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
    ABORT,
    BLOCKED,
    CLOSING,
    DEAD,
    FAILED,
    IN_READABLE,
    IN_UNICAST,
    LEAVING,
    PAUSED,
    Chunk,
    Connection,
    ConnectionList,
    HubState,
    Link,
    Log,
    Member,
    Output,
)

cdef enum:
    PIECES = 16          # iovecs of one sendmsg
    OUTPUT_MIN = 512
    OUTPUT_MAX = 1 << 30
    CORKED_LINKS = 8     # a member of more rooms than this has none of them sent with its answers
    CORK_KEEP = 1 << 18  # a larger cork buffer is given back after use


cdef int list_push(ConnectionList* items, Connection* connection) noexcept nogil:
    """Append `connection`; return 0, or -1 without memory."""
    cdef Connection** grown
    cdef uint32_t capacity
    if items.count == items.capacity:
        capacity = items.capacity * 2 if items.capacity else 64
        grown = <Connection**>realloc(items.items, capacity * sizeof(Connection*))
        if grown == NULL:
            return -1
        items.items = grown
        items.capacity = capacity
    items.items[items.count] = connection
    items.count += 1
    return 0


# --------------------------------------------------------------------------- queueing

cdef Output* _output_of(Connection* connection) noexcept nogil:
    if connection.output == NULL:
        connection.output = <Output*>calloc(1, sizeof(Output))
    return connection.output


cdef inline bint _is_corked(HubState* hub, Connection* connection) noexcept nogil:
    """Is the connection being read, so that what it is sent is collected and goes out as one piece?"""
    return hub.current == connection and not connection.flags & BLOCKED and connection.output == NULL


cdef int output_append(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil:
    """Queue whole frames as unicast; return 0, or -1 without memory (the connection is dead then)."""
    cdef Output* output
    cdef uint8_t* grown
    cdef size_t need
    cdef size_t capacity
    if _is_corked(hub, connection):
        grown = _cork_room(hub, connection, n)
        if grown == NULL:
            return -1
        memcpy(grown, data, n)
        hub.cork_length += <uint32_t>n
        return 0
    output = _output_of(connection)
    if output == NULL:
        connection_kill(hub, connection, 1006)
        return -1
    need = <size_t>output.start + output.length + n
    if need > output.capacity and output.start:
        memmove(output.data, output.data + output.start, output.length)
        output.start = 0
        need = output.length + n
    if need > output.capacity:
        capacity = output.capacity if output.capacity else OUTPUT_MIN
        while capacity < need:
            capacity *= 2
        # realloc gives the old buffer away even when its answer is not used: judge the size before.
        grown = <uint8_t*>realloc(output.data, capacity) if capacity <= OUTPUT_MAX else NULL
        if grown == NULL:
            connection_kill(hub, connection, 1006)
            return -1
        output.data = grown
        output.capacity = <uint32_t>capacity
    memcpy(output.data + output.start + output.length, data, n)
    output.length += <uint32_t>n
    hub.counters.queued_bytes += n
    if not connection.flags & (IN_UNICAST | BLOCKED):
        _set_busy(connection, 1)
        if list_push(&hub.unicast, connection) == 0:
            connection.flags |= IN_UNICAST
    return 0


cdef uint8_t* _cork_room(HubState* hub, Connection* connection, size_t n) noexcept nogil:
    """Make room for `n` bytes behind what is corked; NULL without memory (the connection is dead then)."""
    cdef uint8_t* grown = NULL
    cdef size_t capacity = hub.cork_capacity
    if hub.cork_length + n > capacity:
        while capacity < hub.cork_length + n:
            capacity *= 2
        if capacity <= OUTPUT_MAX:
            grown = <uint8_t*>realloc(hub.cork, capacity)
        if grown == NULL:
            connection_kill(hub, connection, 1006)
            return NULL
        hub.cork = grown
        hub.cork_capacity = <uint32_t>capacity
    return hub.cork + hub.cork_length


cdef int output_frame(
    HubState* hub, Connection* connection, uint8_t first_byte, const uint8_t* payload, size_t n
) noexcept nogil:
    """Queue one frame as unicast; return 0, or -1 when the connection is dead or has no memory."""
    cdef uint8_t head[SERVER_HEAD_BYTES_MAX]
    cdef uint8_t* to = output_reserve(hub, connection, first_byte, n)
    if to != NULL:
        if n:
            memcpy(to, payload, n)
        return 0
    if connection.state == DEAD:
        return -1
    hub.counters.unicasts += 1
    if output_append(hub, connection, head, write_head(head, first_byte, n)) < 0:
        return -1
    return output_append(hub, connection, payload, n) if n else 0


cdef uint8_t* output_reserve(
    HubState* hub, Connection* connection, uint8_t first_byte, size_t n
) noexcept nogil:
    """Queue one frame as unicast whose `n` bytes the caller writes where the answer points.

    NULL, and nothing queued, unless the connection is being read and its answers are collected.
    """
    cdef uint8_t* to
    cdef size_t head_bytes
    if connection.state == DEAD or not _is_corked(hub, connection):
        return NULL
    to = _cork_room(hub, connection, n + SERVER_HEAD_BYTES_MAX)
    if to == NULL:
        return NULL
    hub.counters.unicasts += 1
    head_bytes = write_head(to, first_byte, n)
    hub.cork_length += <uint32_t>(head_bytes + n)
    return to + head_bytes


cdef void output_uncork(HubState* hub) noexcept nogil:
    """Send what was collected for the current connection, and end the corking.

    Bytes go to the cork only while the connection has no output and is not blocked, so what is
    corked is always older than anything queued.
    """
    cdef Connection* connection = hub.current
    cdef uint32_t n = hub.cork_length

    hub.current = NULL
    hub.cork_length = 0
    if n == 0:
        if connection.state == LEAVING and connection.output == NULL and not connection.flags & BLOCKED:
            connection_kill(hub, connection, connection.close_code)
        return
    if connection.state == DEAD:
        return
    output_settle(hub, connection, _send_cork(hub, connection, n))
    _shrink_cork(hub)


cdef int _send_cork(HubState* hub, Connection* connection, uint32_t n) noexcept nogil:
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
        used += _gather_rooms(connection, pieces + 1, sources + 1, PIECES - 1)
    written = _send_vector(hub, connection, pieces, used, &total)
    if written < 0:
        return -1
    if written < n:
        connection.flags |= BLOCKED    # so that the rest is queued and not corked again
        return 0 if output_append(hub, connection, hub.cork + written, n - written) == 0 else -1
    if used > 1:
        _advance(hub, connection, pieces + 1, sources + 1, used - 1, written - n)
    return 1 if <size_t>written == total else 0


cdef void _shrink_cork(HubState* hub) noexcept nogil:
    cdef uint8_t* smaller
    if hub.cork_capacity > CORK_KEEP:
        smaller = <uint8_t*>realloc(hub.cork, CORK_KEEP)
        if smaller != NULL:
            hub.cork = smaller
            hub.cork_capacity = CORK_KEEP


cdef void _prepend(HubState* hub, Connection* connection, const uint8_t* data, size_t n) noexcept nogil:
    """Put `data` before all queued unicast bytes."""
    cdef Output* output = connection.output
    cdef uint32_t length = output.length
    if output_append(hub, connection, data, n) < 0 or length == 0:
        return
    output = connection.output
    memmove(output.data + output.start + n, output.data + output.start, length)
    memcpy(output.data + output.start, data, n)


# --------------------------------------------------------------------------- sending

cdef void _set_busy(Connection* connection, uint8_t busy) noexcept nogil:
    cdef uint32_t i
    for i in range(connection.link_count):
        link_member(&connection.links[i]).busy = busy


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


cdef int _send_unicast(HubState* hub, Connection* connection) noexcept nogil:
    """Send the queued unicast bytes: 1 all, 0 the kernel is full, -1 the socket is broken."""
    cdef Output* output = connection.output
    cdef ssize_t written
    if output == NULL or output.length == 0:
        return 1
    written = send(connection.fd, output.data + output.start, output.length, MSG_DONTWAIT | MSG_NOSIGNAL)
    hub.counters.sends += 1
    if written < 0:
        return 0 if errno == EAGAIN or errno == EINTR else -1
    hub.counters.bytes_out += written
    hub.counters.queued_bytes -= written
    output.start += <uint32_t>written
    output.length -= <uint32_t>written
    return 1 if output.length == 0 else 0


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
        member.position += part
        written -= part
        if part == pieces[i].iov_len and member.position == link.log.end:
            continue
        frame_end = log_frame_end(link.log, boundary, member.position)
        if frame_end != member.position:
            output = _output_of(connection)
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


cdef int _gather_rooms(Connection* connection, iovec* pieces, Link** sources, int room) noexcept nogil:
    """Fill up to `room` pieces with what the rooms have for `connection`; return how many."""
    cdef Link* link
    cdef uint32_t i
    cdef int used = 0
    cdef int got
    cdef int k
    for i in range(connection.link_count):
        link = &connection.links[i]
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
        used = _gather_rooms(connection, pieces, sources, PIECES)
        if used == 0:
            return 1
        outcome = _send_pieces(hub, connection, pieces, sources, used)
        if outcome != 1:
            return outcome


cdef int output_drain(HubState* hub, Connection* connection) noexcept nogil:
    """Send what waits, in order of right: half-sent frame, unicast, rooms.

    Returns 1 when everything is out, 0 when the kernel is full, -1 when the socket is broken; the
    caller passes that to `output_settle`.
    """
    cdef int outcome
    if connection.output != NULL:
        if connection.output.owner != NULL:
            outcome = _finish_owner(hub, connection)
            if outcome != 1:
                return outcome
        outcome = _send_unicast(hub, connection)
        if outcome != 1:
            return outcome
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


# --------------------------------------------------------------------------- leaving and death

cdef void output_leave(HubState* hub, Connection* connection, Log* log) noexcept nogil:
    """Take `connection` out of `log`; the rest of a half-sent frame becomes unicast, before all other."""
    cdef Output* output = connection.output
    cdef iovec pieces[2]
    cdef uint32_t i
    cdef int used
    if output != NULL and output.owner == log and connection.state != DEAD:
        for i in range(connection.link_count):
            if connection.links[i].log == log:
                used = _gather_log(&connection.links[i], output.owner_until, pieces, 2)
                if used:    # one frame never crosses chunks, so one piece is all
                    _prepend(hub, connection, <const uint8_t*>pieces[0].iov_base, pieces[0].iov_len)
                break
        output.owner = NULL
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


cdef void connection_kill(HubState* hub, Connection* connection, uint16_t code) noexcept nogil:
    """Close the socket now; the struct lives until the batch ends. `code` counts if none is set yet."""
    cdef linger reset
    cdef uint32_t i
    if connection.state == DEAD:
        return
    if connection.close_code == 0:
        connection.close_code = code
    connection.state = DEAD
    for i in range(connection.link_count):
        link_member(&connection.links[i]).fd = -1
    if connection.flags & ABORT:
        reset.l_onoff = 1
        reset.l_linger = 0
        setsockopt(connection.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
    close(connection.fd)
    connection.fd = -1
    list_push(&hub.dead, connection)
