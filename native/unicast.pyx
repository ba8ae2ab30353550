# cython: language_level=3
"""What waits for one connection alone: replies and control frames, urgent ones in front; and its death.

`Output` exists only while something waits; a drained connection has none. While a connection is being read,
what it is sent is collected in the hub's cork instead, which goes out in one piece.

The first `front` bytes of either are a half-sent frame and then the urgent frames: nothing goes before them.
"""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, realloc
from libc.string cimport memcpy, memmove
from realtime.native.frames cimport SERVER_HEAD_BYTES_MAX, server_frame_bytes, write_head
from realtime.native.posix cimport (
    EAGAIN,
    EINTR,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SO_LINGER,
    SOL_SOCKET,
    close,
    errno,
    linger,
    send,
    setsockopt,
)
from realtime.native.recorder cimport RECORDED_OUT, recorder_note
from realtime.native.roomlog cimport link_member
from realtime.native.types cimport (
    ABORT,
    BLOCKED,
    DEAD,
    IN_UNICAST,
    Connection,
    ConnectionList,
    HubState,
    Output,
)

cdef enum:
    OUTPUT_MIN = 512
    OUTPUT_MAX = 1 << 30
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

cdef Output* output_of(Connection* connection) noexcept nogil:
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
    output = output_of(connection)
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
        output_set_busy(connection, 1)
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
    cdef uint8_t* to
    if connection.recording != NULL and connection.state != DEAD:
        recorder_note(hub, connection, RECORDED_OUT, first_byte, payload, n)
    to = output_reserve(hub, connection, first_byte, n)
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

    NULL, and nothing queued, unless the connection is being read and its answers are collected. It is not
    recorded here: nobody knows yet what the frame will hold.
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


cdef int output_urgent(
    HubState* hub, Connection* connection, uint8_t first_byte, const uint8_t* payload, size_t n
) noexcept nogil:
    """Queue one frame before all unicast but the front; as `output_frame` else."""
    cdef Output* output
    cdef uint8_t* data
    cdef uint8_t head[SERVER_HEAD_BYTES_MAX]
    cdef size_t head_bytes = write_head(head, first_byte, n)
    cdef size_t size = head_bytes + n
    cdef uint32_t front
    cdef bint corked = _is_corked(hub, connection)
    if output_frame(hub, connection, first_byte, payload, n) < 0:
        return -1
    if corked:
        data = hub.cork + hub.cork_front
        memmove(data + size, data, hub.cork_length - hub.cork_front - size)
        hub.cork_front += <uint32_t>size
    else:
        output = connection.output
        front = output.front
        data = output.data + output.start + front
        memmove(data + size, data, output.length - front - size)
        output.front = front + <uint32_t>size
    memcpy(data, head, head_bytes)
    if n:
        memcpy(data + head_bytes, payload, n)
    return 0


cdef void output_seal(HubState* hub) noexcept nogil:
    """Let nothing go before what the cork holds: the answer to the handshake, and what welcomes."""
    hub.cork_front = hub.cork_length


cdef void output_prepend(
    HubState* hub, Connection* connection, const uint8_t* data, size_t n
) noexcept nogil:
    """Put the rest of a half-sent frame before all queued unicast bytes."""
    cdef Output* output = connection.output
    cdef uint32_t length = output.length
    if output_append(hub, connection, data, n) < 0:
        return
    output.front += <uint32_t>n
    if length:
        memmove(output.data + output.start + n, output.data + output.start, length)
        memcpy(output.data + output.start, data, n)


cdef void output_shrink_cork(HubState* hub) noexcept nogil:
    cdef uint8_t* smaller
    if hub.cork_capacity > CORK_KEEP:
        smaller = <uint8_t*>realloc(hub.cork, CORK_KEEP)
        if smaller != NULL:
            hub.cork = smaller
            hub.cork_capacity = CORK_KEEP


cdef void output_set_busy(Connection* connection, uint8_t busy) noexcept nogil:
    cdef uint32_t i
    for i in range(connection.link_count):
        link_member(&connection.links[i]).busy = busy


# --------------------------------------------------------------------------- sending and death

cdef int output_send(HubState* hub, Connection* connection) noexcept nogil:
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
    output.front = front_after(output.data + output.start, output.front, <uint32_t>written)
    output.start += <uint32_t>written
    output.length -= <uint32_t>written
    return 1 if output.length == 0 else 0


cdef uint32_t front_after(const uint8_t* data, uint32_t front, uint32_t written) noexcept nogil:
    """Return what is left of the front of `data` once `written` bytes of it are out.

    What lies behind the front are whole frames; one that is cut becomes the front.
    """
    cdef uint64_t boundary = front
    while boundary < written:
        boundary += server_frame_bytes(data + boundary)
    return <uint32_t>(boundary - written)


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
