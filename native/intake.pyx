# cython: language_level=3
"""The way in: bytes of a socket to frames, frames to messages, and what RFC 6455 says to the wrong ones.

A connection has an `Input` only while a frame, a fragmented message or a request head is incomplete.
Reads go to the hub's scratch buffer; a remainder up to `CARRY` bytes is copied back in front of the next
read, a larger frame collects in a buffer of its own, which grows with what has arrived and never with what a
head merely announces.

One visit reads at most one chunk, and handles frames for about `VISIT_BUDGET_NS`, so that no connection keeps
the others waiting; what is left stands in `hub.readable`, and nothing more is read on top of it. The rate
limit counts frames, so that empty fragments and pings cost their sender too; that of bytes counts payloads,
of messages after inflating. Pings and pongs have a rate of their own besides, beyond which the connection
ends: no answer is cheap enough to be asked for without end.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove
from realtime.native.deflate cimport Inflater
from realtime.native.frames cimport (
    CONTROL_BIT,
    FIN_BIT,
    OPCODE_BINARY,
    OPCODE_CLOSE,
    OPCODE_CONTINUATION,
    OPCODE_PING,
    OPCODE_PONG,
    OPCODE_TEXT,
    RSV1_BIT,
    UTF8_ACCEPT,
    UTF8_REJECT,
    FrameHead,
    close_code_valid,
    parse_head,
    unmask,
    utf8_feed,
)
from realtime.native.output cimport output_leave_all, output_uncork
from realtime.native.posix cimport EAGAIN, EINTR, MSG_DONTWAIT, errno, monotonic_ns, recv
from realtime.native.ratelimit cimport Allowance, Standing, gcra
from realtime.native.recorder cimport RECORDED_IN, recorder_head, recorder_note
from realtime.native.types cimport (
    BEHIND,
    BINARY,
    CLOSING,
    DEAD,
    ECHO,
    FAILED,
    HANGUP,
    HANDSHAKE,
    IN_READABLE,
    LEAVING,
    OPEN,
    PAUSED,
    PEER_CLOSED,
    PINGED,
    THROTTLED,
    Connection,
    ConnectionList,
    HubState,
    Input,
)
from realtime.native.unicast cimport connection_kill, list_push, output_frame
from realtime.native.wheel cimport wheel_set

cdef enum:
    ECHO_MESSAGE_BYTES = 32 << 20    # the echo path serves conformance suites, which send 16 MiB
    TOO_MANY_ERRORS = 4509
    # A chunk of 64 KiB holds 600 compressed messages that inflate to 64 KiB each, 60 ms of work, or 3,000
    # requests. The clock is looked at once for so much of it: a frame is one, a KiB inflated another.
    VISIT_BUDGET_NS = 1000000
    VISIT_LOOK = 64
    BEHIND_LOOKS = 32                # at who is read after all others, for one that may be
    BEHIND_FRAMES = 2                # of whoever is over its rates, handled in one visit
    BEHIND_BYTES = 4096              # and read
    OVER_NS = 1000000000             # it counts as over its rates for so long after it last was


# --------------------------------------------------------------------------- reading

cdef void intake_later(HubState* hub, Connection* connection) noexcept nogil:
    """Visit `connection` again in the next round."""
    if not connection.flags & IN_READABLE and connection.state != DEAD:
        if list_push(&hub.readable, connection) == 0:
            connection.flags |= IN_READABLE


cdef void intake_visit(HubState* hub, Connection* connection, bint resumed):
    """Read one chunk and handle what is whole. `resumed`: handle what had been left first."""
    cdef Input* state = connection.input
    cdef uint8_t* data = hub.scratch
    cdef size_t have = state.raw_length if state != NULL else 0
    cdef size_t room = hub.read_chunk
    cdef ssize_t got
    if connection.flags & (PAUSED | THROTTLED | BEHIND) or connection.state >= LEAVING:
        return
    if resumed and have:
        _handle(hub, connection, state.raw, have)
        # Who stands in line again has whole frames left: read on top of them, they would pile up.
        if connection.flags & (PAUSED | THROTTLED | BEHIND | IN_READABLE) or connection.state >= LEAVING:
            return
        state = connection.input
        have = state.raw_length if state != NULL else 0
    if is_over(hub, connection):
        room = BEHIND_BYTES
    if have > CARRY:
        if not _grow(&state.raw, &state.raw_capacity, have + (have if have > room else room)):
            connection_kill(hub, connection, 1006)
            return
        data = state.raw
        room = state.raw_capacity - have
    elif have:
        memcpy(data, state.raw, have)
    got = recv(connection.fd, data + have, room, MSG_DONTWAIT)
    if got <= 0:
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return
        if got == 0 and connection.output != NULL and connection.state != HANDSHAKE:
            _let_listen(hub, connection)
        else:
            connection_kill(hub, connection, 1006)
        return
    hub.counters.bytes_in += got
    connection.last_seen = hub.tick
    connection.flags &= ~PINGED
    _handle(hub, connection, data, have + got)
    if (<size_t>got == room or connection.flags & HANGUP) and not connection.flags & BEHIND:
        intake_later(hub, connection)


cdef bint is_over(HubState* hub, const Connection* connection) noexcept nogil:
    """Is its tenant over its rates, so that it is read after all others?"""
    return (
        connection.standing != NULL
        and connection.standing.over_until_ns > hub.now_ns
        and connection.state == OPEN
    )


cdef void intake_behind(HubState* hub, Connection* connection) noexcept nogil:
    """Let it stand behind all whose tenants keep to their rates; whoever has hung up is not waited for."""
    if connection.flags & HANGUP:
        connection_kill(hub, connection, 1006)
    elif not connection.flags & BEHIND and connection.state != DEAD:
        if list_push(&hub.behind, connection) == 0:
            connection.flags |= BEHIND
            hub.counters.held_back += 1


cdef bint intake_visit_behind(HubState* hub):
    """Read a little of one whose tenant is over its rates, and may send again; False where none may."""
    cdef ConnectionList* behind = &hub.behind
    cdef Connection* connection
    cdef int _look
    for _look in range(BEHIND_LOOKS if behind.count else 0):
        if hub.behind_next >= behind.count:
            hub.behind_next = 0
        connection = behind.items[hub.behind_next]
        if is_over(hub, connection) and connection.standing.again_ns > hub.now_ns:
            hub.behind_next += 1
            continue
        behind.count -= 1
        behind.items[hub.behind_next] = behind.items[behind.count]
        hub.behind_next += 1    # whoever was put here has its turn in the next round of all
        connection.flags &= ~BEHIND
        intake_visit(hub, connection, True)     # of a dead one it reads nothing
        return True
    return False


cdef bint _must_wait(HubState* hub, Connection* connection, size_t octets, int handled):
    """Is a frame of so many bytes to wait, after so many that this visit has handled?

    Who is over its rates is told so once. What it sends after that is not refused, message by message, but
    left unread until it passes: its socket fills, and it is slowed down itself.
    """
    cdef Standing* standing = connection.standing
    cdef int64_t wait_ns = (<Allowance>standing.owner).longest_wait_ns(<double>octets, hub.now_ns)
    if wait_ns > 0:
        standing.again_ns = hub.now_ns + wait_ns
        standing.over_until_ns = hub.now_ns + OVER_NS
    elif handled < BEHIND_FRAMES:
        return False
    intake_behind(hub, connection)
    return True


cdef void _let_listen(HubState* hub, Connection* connection):
    """The peer says no more, and may still listen: what waits for it alone goes out, in whole frames."""
    output_leave_all(hub, connection)
    if connection.state != DEAD:
        if connection.close_code == 0:
            connection.close_code = 1006
        connection.state = LEAVING
        wheel_set(hub, connection, hub.close_ticks)


cdef void _handle(HubState* hub, Connection* connection, uint8_t* data, size_t n):
    """Handle the whole frames (or the request head) in `data`, cork the answers, keep the rest."""
    cdef size_t used = 0
    cdef long head_bytes
    hub.current = connection
    if connection.state == HANDSHAKE:
        head_bytes = hub.on_head(hub.owner, connection, data, n)
        if head_bytes < 0:
            hub.current = NULL
            hub.cork_length = hub.cork_front = 0
            return
        used = head_bytes
    if connection.state == OPEN or (connection.state == CLOSING and not connection.flags & FAILED):
        used += _frames(hub, connection, data + used, n - used)
    output_uncork(hub)
    if connection.state == DEAD:
        return
    # Only what an open connection sends is answered; a closing one is read on, up to its Close frame.
    if connection.state == OPEN and connection.output != NULL and connection.output.length > hub.high_water:
        connection.flags |= PAUSED
        hub.counters.pauses += 1
    if connection.flags & FAILED or connection.state == LEAVING:
        used = n
    if not _keep(connection, data, n, used):
        connection_kill(hub, connection, 1006)


cdef bint _grow(uint8_t** buffer, uint32_t* capacity, size_t need) noexcept nogil:
    cdef uint8_t* grown
    if need <= capacity[0]:
        return True
    grown = <uint8_t*>realloc(buffer[0], need)
    if grown == NULL:
        return False
    buffer[0] = grown
    capacity[0] = <uint32_t>need
    return True


cdef bint _keep(Connection* connection, uint8_t* data, size_t n, size_t used) noexcept nogil:
    """Keep data[used:n] for the next visit; without a rest, let the input go. False without memory."""
    cdef Input* state = connection.input
    cdef size_t rest = n - used
    if rest == 0:
        if state != NULL:
            state.raw_length = 0
            free(state.raw)
            state.raw = NULL
            state.raw_capacity = 0
            if state.opcode == 0 or connection.flags & FAILED or connection.state == LEAVING:
                intake_free(connection)
        return True
    if state == NULL:
        state = connection.input = <Input*>calloc(1, sizeof(Input))
        if state == NULL:
            return False
    if data != state.raw:
        if not _grow(&state.raw, &state.raw_capacity, rest):
            return False
        memcpy(state.raw, data + used, rest)
    elif used:
        memmove(state.raw, data + used, rest)
    state.raw_length = <uint32_t>rest
    return True


cdef void intake_free(Connection* connection) noexcept nogil:
    if connection.input != NULL:
        free(connection.input.raw)
        free(connection.input.message)
        free(connection.input)
        connection.input = NULL


# --------------------------------------------------------------------------- frames

cdef size_t _frames(HubState* hub, Connection* connection, uint8_t* data, size_t n):
    """Handle the frames in `data` up to the first incomplete one; return the bytes used."""
    cdef FrameHead head
    cdef const char* wrong
    cdef size_t used = 0
    cdef uint64_t work_look = hub.work + VISIT_LOOK
    cdef int64_t until_ns = 0
    cdef uint8_t first
    cdef int answer
    cdef int handled = 0
    while used < n:
        answer = parse_head(data + used, n - used, &head)
        wrong = "malformed frame head"
        if answer >= 0:
            wrong = _misplaced(connection, &head)
        if wrong != NULL:
            recorder_head(hub, connection, data + used, n - used)
            _fail(hub, connection, 1002, wrong)
            return used
        if head.header_bytes and _too_large(hub, connection, &head):
            recorder_head(hub, connection, data + used, n - used)
            _fail_over(
                hub, connection, 1009, b"message too large", b"max_message_bytes",
                _message_limit(connection, hub),
            )
            return used
        if answer == 0 or n - used < head.header_bytes + head.payload_bytes:
            return used
        if is_over(hub, connection):
            if _must_wait(hub, connection, head.payload_bytes, handled):
                return used
            handled += 1
        used += head.header_bytes
        unmask(data + used, head.payload_bytes, head.mask, 0)
        if connection.recording != NULL:
            first = data[used - head.header_bytes]
            recorder_note(hub, connection, RECORDED_IN, first, data + used, head.payload_bytes)
        hub.counters.frames_in += 1
        hub.work += 1
        if head.opcode & CONTROL_BIT:
            _control(hub, connection, &head, data + used)
        else:
            _data(hub, connection, &head, data + used)
        used += head.payload_bytes
        if connection.state > CLOSING or connection.flags & (FAILED | PAUSED | THROTTLED):
            return used
        # Answers that pile up in the cork count as queued: a burst of requests must not hide them.
        if hub.cork_length > hub.high_water or hub.congested:
            _rest(hub, connection)
            return used
        if hub.work >= work_look:
            if _has_had_its_time(&until_ns):
                intake_later(hub, connection)
                return used
            work_look = hub.work + VISIT_LOOK
    return used


cdef bint _has_had_its_time(int64_t* until_ns) noexcept nogil:
    """Has a visit had its time? The first look begins it, so that short visits need no clock."""
    cdef int64_t now_ns = monotonic_ns()
    if until_ns[0] == 0:
        until_ns[0] = now_ns + VISIT_BUDGET_NS
    return now_ns >= until_ns[0]


cdef void _rest(HubState* hub, Connection* connection):
    """Stop handling frames of `connection` until its room is flushed, or until the others had their turn."""
    if hub.congested:
        hub.congested = 0
        if list_push(&hub.throttled, connection) == 0:
            connection.flags |= THROTTLED
            hub.counters.pauses += 1
    else:
        intake_later(hub, connection)


cdef const char* _misplaced(Connection* connection, const FrameHead* head) noexcept nogil:
    """Return what RFC 6455 (5.2, 5.4) forbids about this frame at this place, or NULL."""
    cdef bint fragmented = connection.input != NULL and connection.input.opcode != 0
    if head.rsv:
        if head.rsv != RSV1_BIT or connection.deflate_bits == 0:
            return "reserved bit set"
        if head.opcode == OPCODE_CONTINUATION or head.opcode & CONTROL_BIT:
            return "compression bit on a continuation or control frame"
    if head.opcode & CONTROL_BIT:
        return NULL
    # Of a closing connection nothing is collected: its fragments are read for the Close frame behind them.
    if (head.opcode == OPCODE_CONTINUATION) == fragmented or connection.state != OPEN:
        return NULL
    return "new message inside a fragmented one" if fragmented else "continuation without a message"


cdef inline size_t _message_limit(const Connection* connection, const HubState* hub) noexcept nogil:
    return ECHO_MESSAGE_BYTES if connection.flags & ECHO else hub.max_message


cdef bint _too_large(HubState* hub, Connection* connection, const FrameHead* head) noexcept nogil:
    cdef uint64_t limit = _message_limit(connection, hub)
    cdef uint64_t before = connection.input.message_length if connection.input != NULL else 0
    return not head.opcode & CONTROL_BIT and head.payload_bytes + before > limit


cdef int64_t _charge(HubState* hub, Connection* connection, size_t n) noexcept nogil:
    """Count one frame of `n` bytes; return 0, or how long the connection must wait to be within its rates.

    In ns; negative where it is the bytes that are too many. The burst of bytes holds the largest message.
    """
    cdef int64_t wait_ns = 0
    if connection.flags & ECHO:
        return 0
    if hub.message_cost_ns:
        wait_ns = gcra(&connection.bucket, hub.now_ns, hub.message_cost_ns, hub.message_burst_ns)
    if hub.byte_cost_ns and wait_ns == 0:
        wait_ns = -gcra(
            &connection.byte_bucket, hub.now_ns, <int64_t>(n * hub.byte_cost_ns), hub.byte_burst_ns
        )
    return wait_ns


# --------------------------------------------------------------------------- messages

cdef int _data(HubState* hub, Connection* connection, const FrameHead* head, uint8_t* payload) except -1:
    cdef Input* state
    if connection.state != OPEN:
        return 0
    if head.fin and head.opcode != OPCODE_CONTINUATION:
        return _message(hub, connection, head.opcode, head.rsv != 0, False, payload, head.payload_bytes)
    state = connection.input
    if state == NULL:
        state = connection.input = <Input*>calloc(1, sizeof(Input))
    if state == NULL or not _fragment(hub, connection, state, head, payload) or not head.fin:
        return 0
    _message(
        hub, connection, state.opcode, state.compressed, True, state.message, state.message_length
    )
    state = connection.input
    if state != NULL:
        free(state.message)
        state.message = NULL
        state.message_length = state.message_capacity = state.fragments = 0
        state.opcode = 0
    return 0


cdef bint _fragment(
    HubState* hub, Connection* connection, Input* state, const FrameHead* head, const uint8_t* payload
):
    """Add one fragment; False when the connection was failed."""
    cdef size_t need
    cdef size_t capacity
    if head.opcode != OPCODE_CONTINUATION:
        state.opcode = head.opcode
        state.compressed = head.rsv != 0
        state.utf8 = UTF8_ACCEPT
    state.fragments += 1
    # Their bytes are counted with the message that they come to.
    if state.fragments > hub.max_fragments:
        _fail_over(hub, connection, 1009, b"too many fragments", b"max_fragments", hub.max_fragments)
        return False
    if _charge(hub, connection, 0) != 0:
        hub.counters.rate_limited += 1
        _fail_over(
            hub, connection, 1009, b"too many fragments", b"messages_per_second",
            1000000000 // hub.message_cost_ns,
        )
        return False
    if state.opcode == OPCODE_TEXT and not state.compressed:
        state.utf8 = utf8_feed(state.utf8, payload, head.payload_bytes)
        if state.utf8 == UTF8_REJECT:
            _fail(hub, connection, 1007, "text is not UTF-8")
            return False
    need = state.message_length + head.payload_bytes
    if need > state.message_capacity:
        capacity = need if need > 2 * <size_t>state.message_capacity else 2 * <size_t>state.message_capacity
        if not _grow(&state.message, &state.message_capacity, capacity):
            connection_kill(hub, connection, 1006)
            return False
    if head.payload_bytes:
        memcpy(state.message + state.message_length, payload, head.payload_bytes)
    state.message_length += <uint32_t>head.payload_bytes
    return True


cdef int _message(
    HubState* hub, Connection* connection, uint8_t opcode, bint compressed, bint fragmented,
    uint8_t* payload, size_t n
) except -1:
    """Handle one whole message: inflate, validate, echo or hand to Python."""
    cdef uint8_t* inflated = NULL
    cdef size_t limit = _message_limit(connection, hub)
    cdef uint32_t utf8 = connection.input.utf8 if fragmented and not compressed else UTF8_ACCEPT
    cdef int answer
    if compressed:
        answer = (<Inflater>hub.inflater).inflate_into(payload, n, &inflated, &n, limit)
        if answer < 0:
            if answer == -1009:
                _fail_over(hub, connection, 1009, b"message too large", b"max_message_bytes", limit)
            else:
                _fail(hub, connection, -answer, "bad compressed data")
            return 0
        payload = inflated
        hub.work += n >> 10
    if opcode == OPCODE_TEXT:
        if compressed or not fragmented:
            utf8 = utf8_feed(UTF8_ACCEPT, payload, n)
        if utf8 != UTF8_ACCEPT:
            _fail(hub, connection, 1007, "text is not UTF-8")
            return 0
    hub.counters.messages_in += 1
    if not connection.flags & ECHO and (opcode == OPCODE_BINARY) != (connection.flags & BINARY != 0):
        _fail(hub, connection, 1003, "text or binary frames, as the subprotocol says")
    else:
        hub.on_message(hub.owner, connection, opcode, payload, n, _charge(hub, connection, n))
    return 0


# --------------------------------------------------------------------------- control frames

cdef void _control(HubState* hub, Connection* connection, const FrameHead* head, uint8_t* payload):
    cdef bint is_over
    if head.opcode == OPCODE_CLOSE:
        _peer_close(hub, connection, payload, head.payload_bytes)
        return
    if head.opcode == OPCODE_PING:
        hub.counters.pings_in += 1
    else:
        hub.counters.pongs_in += 1
    if _flooded(hub, connection):
        return
    is_over = _charge(hub, connection, head.payload_bytes) != 0
    # RFC 6455, 5.5.3: of several pings only the latest needs an answer, so one over the rate gets none.
    if head.opcode == OPCODE_PING and connection.state == OPEN and not is_over:
        output_frame(hub, connection, FIN_BIT | OPCODE_PONG, payload, head.payload_bytes)


cdef bint _flooded(HubState* hub, Connection* connection):
    """Count one ping or pong; True when the connection was failed over their number."""
    if hub.control_cost_ns == 0 or connection.flags & ECHO or connection.state != OPEN:
        return False
    if gcra(&connection.control_bucket, hub.now_ns, hub.control_cost_ns, hub.control_burst_ns) == 0:
        return False
    hub.counters.rate_limited += 1
    _fail_over(
        hub, connection, TOO_MANY_ERRORS, b"too many control frames", b"control_frames_per_second",
        1000000000 // hub.control_cost_ns,
    )
    return True


cdef void _peer_close(HubState* hub, Connection* connection, const uint8_t* payload, size_t n):
    """Answer the peer's Close frame, or see our own answered."""
    cdef uint16_t code = 1005
    if n >= 2:
        code = <uint16_t>(payload[0] << 8 | payload[1])
    if n == 1 or (n >= 2 and not close_code_valid(code)):
        _fail(hub, connection, 1002, "bad close code")
        return
    if n > 2 and utf8_feed(UTF8_ACCEPT, payload + 2, n - 2) != UTF8_ACCEPT:
        _fail(hub, connection, 1007, "close reason is not UTF-8")
        return
    if connection.state == OPEN:
        connection.close_code = code
        _set_reason(connection, PyBytes_FromStringAndSize(<const char*>payload + 2, n - 2) if n > 2 else b"")
        output_leave_all(hub, connection)
        if output_frame(hub, connection, FIN_BIT | OPCODE_CLOSE, payload, 2 if n >= 2 else 0) < 0:
            return
    connection.flags |= PEER_CLOSED
    connection.state = LEAVING
    wheel_set(hub, connection, hub.close_ticks)


cdef void _set_reason(Connection* connection, bytes reason):
    if connection.close_reason == NULL and reason:
        Py_INCREF(reason)
        connection.close_reason = <void*>reason


cdef void _fail(HubState* hub, Connection* connection, uint16_t code, const char* reason):
    """Fail the WebSocket connection (RFC 6455, 7.1.7): close frame, then discard until end of file."""
    _fail_with(hub, connection, code, b'{"r":"%b"}' % <bytes>reason)


cdef void _fail_over(
    HubState* hub, Connection* connection, uint16_t code, bytes reason, bytes limit, uint64_t allowed
):
    """Fail it over a limit, with the limit's name and what it allows."""
    _fail_with(hub, connection, code, b'{"r":"%b","limit":"%b","allowed":%d}' % (reason, limit, allowed))


cdef void _fail_with(HubState* hub, Connection* connection, uint16_t code, bytes reason):
    hub.counters.protocol_errors += 1
    if connection.state == OPEN:
        connection_close(hub, connection, code, reason)
    connection.flags |= FAILED


cdef void connection_close(HubState* hub, Connection* connection, uint16_t code, bytes reason):
    """Begin the closing handshake: leave all rooms, queue the Close frame, wait for the peer's."""
    cdef uint8_t payload[125]
    cdef size_t n = PyBytes_GET_SIZE(reason)
    if connection.state != OPEN:
        return
    if hub.on_offence != NULL:
        hub.on_offence(hub.owner, connection, code)
    n = n if n <= 123 else 123
    payload[0] = <uint8_t>(code >> 8)
    payload[1] = <uint8_t>(code & 255)
    memcpy(payload + 2, PyBytes_AS_STRING(reason), n)
    connection.close_code = code
    _set_reason(connection, reason)
    output_leave_all(hub, connection)
    if output_frame(hub, connection, FIN_BIT | OPCODE_CLOSE, payload, n + 2) < 0:
        return
    connection.state = CLOSING
    if connection.flags & PAUSED:
        # No event will tell again of what has arrived meanwhile.
        connection.flags &= ~PAUSED
        intake_later(hub, connection)
    wheel_set(hub, connection, hub.close_ticks)
