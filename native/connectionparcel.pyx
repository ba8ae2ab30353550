# cython: language_level=3
"""A connection as a parcel: its state, what it has half received, and what it has not been sent yet.

Times travel as CLOCK_MONOTONIC has them, which is one clock for all processes of a host: deadlines, ages and
rates go on as they stood. What the hub's lists say of it (readable, behind, throttled) is for the hub, its
rooms are in their own parcels (roomparcel), its tenant's rates are Python's.

Owns nothing: the connection is the caller's, to be freed by `connection_free` if it never enters a hub.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from realtime.native.frames cimport OPCODE_BINARY, OPCODE_TEXT
from realtime.native.intake cimport intake_free
from realtime.native.parcels cimport (
    CONNECTION_PARCEL,
    Rest,
    frames_walk,
    parcel_new,
    parcel_open,
    parcel_seal,
    take,
)
from realtime.native.roomparcel cimport OWED
from realtime.native.types cimport (
    AWAITS_HEAD,
    AWAITS_PROXY,
    BINARY,
    BLOCKED,
    COUNTED,
    ECHO,
    FAILED,
    FORWARDED,
    HANDSHAKE,
    HANGUP,
    IN_READABLE,
    LEAVING,
    OPEN,
    PAUSED,
    PEER_CLOSED,
    PENDING,
    PINGED,
    HubState,
    Input,
    Log,
    Output,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.wheel cimport SLOTS, TICK_MS

cdef enum:
    MOVED = BLOCKED | PAUSED | IN_READABLE | PINGED | PENDING | ECHO | BINARY | HANGUP | PEER_CLOSED | FAILED
    ARRIVALS = AWAITS_PROXY | AWAITS_HEAD | COUNTED | FORWARDED
    TICKS_MAX = 1 << 30
    REASON_BYTES_MAX = 123
    UTF8_STATES = 64


cdef int64_t TICK_NS = <int64_t>TICK_MS * 1000000
cdef int64_t LATEST_NS = <int64_t>1 << 61       # beyond, times may not be added up (ratelimit.pxd)


# --------------------------------------------------------------------------- packing


cdef bytes connection_pack(HubState* hub, int64_t began_ns, CConnection* connection):
    """Return the parcel of `connection`, of a hub whose ticks began at `began_ns`. ValueError: too large."""
    cdef ConnectionHead head
    cdef Input* input_state = connection.input
    cdef Output* output = connection.output
    cdef uint8_t* to
    cdef bytes parcel
    memset(&head, 0, sizeof(ConnectionHead))
    head.id = connection.id
    if _is_timed(hub, connection):
        head.deadline_ns = _time_of(hub, began_ns, connection.deadline)
    head.last_seen_ns = _time_of(hub, began_ns, connection.last_seen)
    if connection.expires:
        head.expires_ns = _time_of(hub, began_ns, connection.expires)
    head.bucket = connection.bucket
    head.byte_bucket = connection.byte_bucket
    head.control_bucket = connection.control_bucket
    head.user_key = connection.user_key
    head.flags = connection.flags & MOVED
    head.close_code = connection.close_code
    head.port = connection.address.port
    memcpy(head.octets, connection.address.octets, 16)
    head.address_bytes = connection.address.length
    head.arrival = connection.arrival
    head.state = connection.state
    head.deflate_bits = connection.deflate_bits
    head.has_state = connection.state_object != NULL
    if connection.close_reason != NULL:
        head.reason_bytes = <uint32_t>PyBytes_GET_SIZE(<bytes>connection.close_reason)
    if input_state != NULL:
        head.raw_bytes = input_state.raw_length
        head.message_bytes = input_state.message_length
        head.fragments = input_state.fragments
        head.utf8 = input_state.utf8
        head.opcode = input_state.opcode
        head.compressed = input_state.compressed
    if output != NULL:
        head.output_bytes = output.length
        head.front = output.front
        head.owed = output.owner != NULL
    parcel = parcel_new(
        CONNECTION_PARCEL,
        sizeof(ConnectionHead) + head.reason_bytes + <size_t>head.raw_bytes + head.message_bytes
        + head.output_bytes, &to,
    )
    memcpy(to, &head, sizeof(ConnectionHead))
    to += sizeof(ConnectionHead)
    if head.reason_bytes:
        memcpy(to, PyBytes_AS_STRING(<bytes>connection.close_reason), head.reason_bytes)
    to += head.reason_bytes
    if head.raw_bytes:
        memcpy(to, input_state.raw, head.raw_bytes)
    to += head.raw_bytes
    if head.message_bytes:
        memcpy(to, input_state.message, head.message_bytes)
    to += head.message_bytes
    if head.output_bytes:
        memcpy(to, output.data + output.start, head.output_bytes)
    parcel_seal(parcel)
    return parcel


cdef bint _is_timed(HubState* state, const CConnection* connection) noexcept nogil:
    """Does it stand on the wheel?"""
    return connection.wheel_previous != NULL or state.wheel[connection.deadline % SLOTS] == connection


cdef int64_t _time_of(const HubState* hub, int64_t began_ns, uint32_t tick) noexcept nogil:
    """When a tick is, or was. Ticks wrap: one before the hub began is one before 0."""
    cdef int32_t ahead = <int32_t>(tick - hub.tick)
    return began_ns + (<int64_t>hub.tick + ahead) * TICK_NS

# --------------------------------------------------------------------------- unpacking


cdef int connection_read(bytes parcel, ConnectionHead* head, Rest* rest) except -1:
    """Read what a parcel begins with. ValueError where it fits neither itself nor what follows."""
    cdef const uint8_t* at
    parcel_open(parcel, CONNECTION_PARCEL, rest)
    at = take(rest, sizeof(ConnectionHead))
    if at == NULL:
        raise ValueError("a parcel of a connection that is cut short")
    memcpy(head, at, sizeof(ConnectionHead))
    if rest.left != (
        <uint64_t>head.reason_bytes + <uint64_t>head.raw_bytes + <uint64_t>head.message_bytes
        + <uint64_t>head.output_bytes
    ):
        raise ValueError("the sizes in the parcel of a connection do not add up")
    if head.id == 0 or head.state > LEAVING or head.flags & ~MOVED or head.arrival & ~ARRIVALS:
        raise ValueError("no such state of a connection")
    # An open one is called back with its state; one that has not come in yet gets its own when it does.
    if head.has_state > 1 or head.state == OPEN and not head.has_state or (
        head.state == HANDSHAKE and head.has_state
    ):
        raise ValueError("a connection with a state of its own before it has come in, or without after it")
    if head.deflate_bits and not 9 <= head.deflate_bits <= 15 or head.reason_bytes > REASON_BYTES_MAX:
        raise ValueError("a connection with an impossible window, or reason to close")
    if head.address_bytes not in (0, 4, 16):
        raise ValueError("no address of a connection")
    _check_times(head)
    if head.opcode not in (0, OPCODE_TEXT, OPCODE_BINARY) or head.compressed > (head.deflate_bits != 0) or (
        head.utf8 >= UTF8_STATES
    ) or not head.opcode and (head.message_bytes or head.fragments):
        raise ValueError("no message that could have begun")
    at = rest.at + head.reason_bytes + head.raw_bytes + head.message_bytes
    if head.front > head.output_bytes or head.owed > 1 or (
        frames_walk(at + head.front, head.output_bytes - head.front, 0, NULL) < 0
    ):
        raise ValueError("what waits for a connection is not made of frames")
    return 0


cdef int _check_times(const ConnectionHead* head) except -1:
    cdef int64_t[6] times
    cdef int i
    times[:] = [
        head.deadline_ns, head.expires_ns, head.bucket, head.byte_bucket, head.control_bucket,
        # It may have been before the host began to count, by what the rounding to ticks takes.
        head.last_seen_ns + TICK_NS,
    ]
    for i in range(6):
        if not 0 <= times[i] < LATEST_NS:
            raise ValueError("a time of a connection that cannot be")
    return 0


cdef int connection_unpack(
    HubState* hub, int64_t began_ns, CConnection* connection, const ConnectionHead* head, Rest* rest
) except -1:
    """Fill in what `connection_read` has found good; the caller puts it into the hub's lists.

    MemoryError without memory: what is filled in already is for `connection_free`.
    """
    # One after the other: C does not say in which order the arguments of a call are worked out.
    cdef const uint8_t* reason = take(rest, head.reason_bytes)
    cdef const uint8_t* raw = take(rest, head.raw_bytes)
    cdef const uint8_t* message = take(rest, head.message_bytes)
    cdef const uint8_t* output = take(rest, head.output_bytes)
    connection.id = head.id
    connection.state = head.state
    connection.flags = head.flags & ~IN_READABLE
    connection.deflate_bits = head.deflate_bits
    connection.close_code = head.close_code
    connection.bucket = head.bucket
    connection.byte_bucket = head.byte_bucket
    connection.control_bucket = head.control_bucket
    connection.arrival = head.arrival
    connection.address.port = head.port
    connection.address.length = head.address_bytes
    memcpy(connection.address.octets, head.octets, 16)
    # Seen in a tick to come, it would have been silent for 13 years.
    connection.last_seen = hub.tick + <uint32_t>min(
        0, ticks_to(hub, began_ns, head.last_seen_ns - TICK_NS // 2)
    )
    if head.expires_ns:
        connection.expires = hub.tick + <uint32_t>ticks_to(hub, began_ns, head.expires_ns)
        connection.expires += connection.expires == 0
    _fill_input(connection, head, raw, message)
    _fill_output(connection, head, output)
    if head.reason_bytes:
        text = PyBytes_FromStringAndSize(<const char*>reason, head.reason_bytes)
        Py_INCREF(text)
        connection.close_reason = <void*>text
    return 0


cdef int32_t ticks_to(const HubState* hub, int64_t began_ns, int64_t time_ns) noexcept nogil:
    """How many ticks after the hub's present one a time is, negative before it; 3 years at most."""
    cdef int64_t ns = time_ns - began_ns - <int64_t>hub.tick * TICK_NS
    cdef int64_t ticks = (ns + TICK_NS // 2) // TICK_NS if ns >= 0 else -((TICK_NS // 2 - ns) // TICK_NS)
    return <int32_t>(TICKS_MAX if ticks > TICKS_MAX else -TICKS_MAX if ticks < -TICKS_MAX else ticks)


cdef int _fill_input(
    CConnection* connection, const ConnectionHead* head, const uint8_t* raw, const uint8_t* message
) except -1:
    cdef Input* state
    if not head.raw_bytes and not head.opcode:
        return 0
    state = connection.input = <Input*>calloc(1, sizeof(Input))
    if state == NULL:
        raise MemoryError("no memory for what a connection has received")
    state.raw = _copy(raw, head.raw_bytes)
    state.raw_length = state.raw_capacity = head.raw_bytes
    state.message = _copy(message, head.message_bytes)
    state.message_length = state.message_capacity = head.message_bytes
    state.fragments = head.fragments
    state.utf8 = head.utf8
    state.opcode = head.opcode
    state.compressed = head.compressed
    return 0


cdef int _fill_output(CConnection* connection, const ConnectionHead* head, const uint8_t* data) except -1:
    cdef Output* output
    if head.output_bytes or head.owed:
        output = connection.output = <Output*>calloc(1, sizeof(Output))
        if output == NULL:
            raise MemoryError("no memory for what waits for a connection")
        output.data = _copy(data, head.output_bytes)
        output.length = output.capacity = head.output_bytes
        output.front = head.front
        output.owner = <Log*><size_t>(OWED if head.owed else 0)
    return 0


cdef uint8_t* _copy(const uint8_t* data, size_t n) except? NULL:
    cdef uint8_t* to
    if n == 0:
        return NULL
    to = <uint8_t*>malloc(n)
    if to == NULL:
        raise MemoryError("no memory for what a connection has brought along")
    memcpy(to, data, n)
    return to


cdef void connection_free(CConnection* connection):
    """Free one that has not entered the hub."""
    intake_free(connection)
    if connection.output != NULL:
        free(connection.output.data)
        free(connection.output)
    if connection.close_reason != NULL:
        Py_DECREF(<object>connection.close_reason)
    free(connection)
