# cython: language_level=3
"""Handing connections over: a hub that stands still, what one packs of them, and what the next unpacks.

A frozen hub reads, sends, accepts and times nothing, so what it has packed stays true until it goes on, or
has released what another has adopted. Nothing is dropped by freezing: what was sent while frozen waits.

A socket is shared by both processes until one closes it: it leaves the epoll set before (a set holds on to
the socket, not to the descriptor), and no byte and no end of stream is sent by that. A set that a socket is
added to tells of what is there already, so nothing that arrived meanwhile is missed.

Owns what it unpacks as the hub owns its connections. Left to others: which process does what when, the
sessions, and sending descriptors.
"""
import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
from realtime.native.endings cimport Endings
from realtime.native.fanout cimport fanout_release
from realtime.native.frames cimport OPCODE_BINARY, OPCODE_TEXT
from realtime.native.handles cimport Connection as Handle
from realtime.native.handles cimport RoomLog as Room
from realtime.native.handles cimport connection_handle
from realtime.native.intake cimport intake_free, intake_later
from realtime.native.parcels cimport (
    CONNECTION_PARCEL,
    Rest,
    frames_walk,
    parcel_new,
    parcel_open,
    parcel_seal,
    take,
)
from realtime.native.posix cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    F_SETFD,
    FD_CLOEXEC,
    close,
    epoll_ctl,
    epoll_event,
    errno,
    fcntl,
    monotonic_ns,
)
from realtime.native.ratelimit cimport Allowance
from realtime.native.roomparcel cimport OWED, RoomParcel, room_fill, room_parcel_free, room_unpack
from realtime.native.types cimport (
    AWAITS_HEAD,
    AWAITS_PROXY,
    BEHIND,
    BINARY,
    BLOCKED,
    COUNTED,
    DEAD,
    ECHO,
    FAILED,
    FORWARDED,
    HANDSHAKE,
    HANGUP,
    IN_READABLE,
    IN_UNICAST,
    LAPSED,
    LEAVING,
    OPEN,
    PAUSED,
    PEER_CLOSED,
    PENDING,
    PINGED,
    ConnectionList,
    HubState,
    Input,
    Log,
    Output,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill, list_push
from realtime.native.users cimport users_add, users_drop
from realtime.native.wheel cimport SLOTS, TICK_MS, wheel_set

from realtime.native.handles import SLOW_READERS
from realtime.native.parcels import FORMAT_VERSION

cdef enum:
    MOVED = BLOCKED | PAUSED | IN_READABLE | PINGED | PENDING | ECHO | BINARY | HANGUP | PEER_CLOSED | FAILED
    ARRIVALS = AWAITS_PROXY | AWAITS_HEAD | COUNTED | FORWARDED
    CATCH_UP_NS = 1000000000
    TICKS_MAX = 1 << 30
    REASON_BYTES_MAX = 123
    UTF8_STATES = 64

cdef int64_t TICK_NS = <int64_t>TICK_MS * 1000000
cdef int64_t LATEST_NS = <int64_t>1 << 61       # beyond, times may not be added up (ratelimit.pxd)

HANDOVER_VERSION = FORMAT_VERSION
log = logging.getLogger("realtime.hub")


cdef class Handover(Endings):
    """The part of a hub that is handed over, or takes over."""

    # ----------------------------------------------------------------------- standing still

    def freeze(self):
        """Stand still from here on; hub.pyi says how."""
        if self.running:
            raise RuntimeError("a callback of the hub runs: it can be frozen between its batches")
        if not self.frozen:
            self.frozen = True
            self.quiesce()

    cdef void quiesce(self):
        """Tell of all that have ended, and leave nobody in a list but who is to be read."""
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef uint32_t i, kept
        self.running = True     # on_close runs in here
        while True:
            fanout_release(state)
            for i in range(state.behind.count):
                state.behind.items[i].flags &= ~BEHIND
                intake_later(state, state.behind.items[i])
            for i in range(state.unicast.count):
                state.unicast.items[i].flags &= ~IN_UNICAST
            state.behind.count = state.unicast.count = 0
            kept = 0
            for i in range(state.readable.count):
                connection = state.readable.items[i]
                if connection.state == DEAD:
                    connection.flags &= ~IN_READABLE
                else:
                    state.readable.items[kept] = connection
                    kept += 1
            state.readable.count = kept
            if state.dead.count == 0:
                break
            self.reap()         # which may end others
        self.running = False

    def thaw(self):
        """Go on where it stood; hub.pyi says how."""
        cdef HubState* state = &self.state
        cdef uint32_t i
        if self.running:
            raise RuntimeError("a callback of the hub runs: it can be thawed between its batches")
        if not self.frozen:
            return
        self.frozen = False
        self.adopted = None
        for i in range(state.connections):
            self.look_at(state.table[i])
        # Wakes that were asked for meanwhile have come to nothing.
        self.rest_wake_ns = self.behind_wake_ns = 0
        state.waking = 0
        self.catch_up_until_ns = monotonic_ns() + CATCH_UP_NS
        self.wake()
        if self.accept_after_ns > state.now_ns:
            self.on_wake((self.accept_after_ns - state.now_ns) * 1e-9)

    cdef void look_at(self, CConnection* connection):
        """Put a connection in line again for what it has to send."""
        cdef HubState* state = &self.state
        if connection.state == DEAD:
            return
        if connection.output != NULL and connection.output.owner == <Log*><size_t>OWED:
            log.error("connection %d: the room of its half-sent frame has not come along", connection.id)
            connection.output.owner = NULL
            connection_kill(state, connection, 1006)
        elif not connection.flags & (BLOCKED | IN_UNICAST) and (
            connection.output != NULL or connection.flags & LAPSED
        ):
            if list_push(&state.unicast, connection) == 0:
                connection.flags |= IN_UNICAST

    cdef bint is_catching_up(self) noexcept:
        """Has what arrived while the hub stood still not been read yet? Then nobody's time is up.

        A pong may be among it. For a second at most: under load there is always something to read.
        """
        return self.catch_up_until_ns != 0 and monotonic_ns() < self.catch_up_until_ns

    cdef int check_frozen(self) except -1:
        if not self.frozen:
            raise RuntimeError("the hub is not frozen")
        return 0

    @property
    def last_id(self):
        return self.state.last_id

    @last_id.setter
    def last_id(self, uint64_t value):
        if value < self.state.last_id:
            raise ValueError(f"ids up to {self.state.last_id} have been given already")
        self.state.last_id = value

    def all_connections(self):
        """Handles of all that are not gone; hub.pyi says which."""
        cdef uint32_t i
        return [
            connection_handle(self, self.state.table[i])
            for i in range(self.state.connections) if self.state.table[i].state != DEAD
        ]

    # ----------------------------------------------------------------------- packing

    def export(self, Handle connection not None):
        """What `adopt` makes the same connection of, with its socket; hub.pyi says more."""
        self.check_frozen()
        if connection.connection == NULL or connection.connection.state == DEAD:
            raise ValueError("the connection has ended")
        if connection.hub is not self:
            raise ValueError("the connection is another hub's")
        return self.pack(connection.connection)

    def export_all(self):
        """All at once: id, socket, state and parcel of each."""
        cdef CConnection* connection
        cdef uint32_t i
        self.check_frozen()
        packed = []
        for i in range(self.state.connections):
            connection = self.state.table[i]
            if connection.state != DEAD:
                state = <object>connection.state_object if connection.state_object != NULL else None
                packed.append((connection.id, connection.fd, state, self.pack(connection)))
        return packed

    cdef bytes pack(self, CConnection* connection):
        cdef ConnectionHead head
        cdef Input* input_state = connection.input
        cdef Output* output = connection.output
        cdef uint8_t* to
        cdef bytes parcel
        memset(&head, 0, sizeof(ConnectionHead))
        head.id = connection.id
        if _is_timed(&self.state, connection):
            head.deadline_ns = self.time_of(connection.deadline)
        head.last_seen_ns = self.time_of(connection.last_seen)
        if connection.expires:
            head.expires_ns = self.time_of(connection.expires)
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

    def release(self, Handle connection not None):
        """Forget a connection that another process has; hub.pyi says more."""
        cdef HubState* state = &self.state
        cdef CConnection* one = connection.connection
        self.check_frozen()
        if one == NULL:
            return
        if connection.hub is not self:
            raise ValueError("the connection is another hub's")
        if one.state == DEAD:
            raise ValueError("the connection has ended")
        if self.adopted is not None:
            self.adopted.pop(one.id, None)
        epoll_ctl(state.epoll_fd, EPOLL_CTL_DEL, one.fd, NULL)
        close(one.fd)
        one.fd = -1
        one.state = DEAD
        _unlist(&state.readable, one)
        if one.flags & IN_UNICAST:
            _unlist(&state.unicast, one)
        # Nobody is told: whoever counts it counts it in the other process.
        one.arrival &= ~COUNTED
        held = None
        if one.state_object != NULL:
            held = <object>one.state_object
            Py_DECREF(held)
            one.state_object = NULL
        state.counters.released += 1
        self.forget(one)

    # ----------------------------------------------------------------------- unpacking

    def adopt(self, int fd, bytes blob not None, state):
        """Make the connection whose socket is `fd` of what `export` packed; hub.pyi says more."""
        cdef ConnectionHead head
        cdef Rest rest
        cdef CConnection* connection
        self.check_frozen()
        parcel_open(blob, CONNECTION_PARCEL, &rest)
        _read_head(&rest, &head)
        if not head.has_state and state is not None:
            raise ValueError("a connection that has no state yet, and a state for it")
        if head.id in self.by_id():
            raise ValueError(f"connection {head.id} is there already")
        if not self.grow_table():
            raise MemoryError("no memory for another connection")
        connection = <CConnection*>calloc(1, sizeof(CConnection))
        if connection == NULL:
            raise MemoryError("no memory for another connection")
        try:
            self.unpack(connection, &head, &rest)
            self.watch(connection, fd)
        except BaseException:
            users_drop(&self.state, connection)
            _free(connection)
            raise
        if head.has_state:
            Py_INCREF(state)
            connection.state_object = <void*>state
        self.enter(connection, &head)
        return connection_handle(self, connection)

    cdef int unpack(self, CConnection* connection, const ConnectionHead* head, Rest* rest) except -1:
        """Fill in all but what the state of the hub is part of."""
        cdef HubState* state = &self.state
        cdef const uint8_t* reason = take(rest, head.reason_bytes)
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
        connection.last_seen = state.tick + <uint32_t>min(0, self.ticks_to(head.last_seen_ns - TICK_NS // 2))
        if head.expires_ns:
            connection.expires = state.tick + <uint32_t>self.ticks_to(head.expires_ns)
            connection.expires += connection.expires == 0
        _fill_input(connection, head, take(rest, head.raw_bytes), take(rest, head.message_bytes))
        _fill_output(connection, head, take(rest, head.output_bytes))
        if head.reason_bytes:
            text = PyBytes_FromStringAndSize(<const char*>reason, head.reason_bytes)
            Py_INCREF(text)
            connection.close_reason = <void*>text
        if head.user_key:
            users_add(state, connection, head.user_key)
        return 0

    cdef int watch(self, CConnection* connection, int fd) except -1:
        """Have the socket told of. Of one that is ready already, the set tells at once."""
        cdef epoll_event event
        if fcntl(fd, F_SETFD, FD_CLOEXEC) != 0:
            raise OSError(errno, "fcntl on the socket of a connection")
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data.ptr = connection
        if epoll_ctl(self.state.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
            raise OSError(errno, "epoll_ctl on the socket of a connection")
        connection.fd = fd
        return 0

    cdef void enter(self, CConnection* connection, const ConnectionHead* head):
        """Put it into the table, the wheel, the dict, and in line where it was."""
        cdef HubState* state = &self.state
        connection.index = state.connections
        state.table[state.connections] = connection
        state.connections += 1
        state.counters.adopted += 1
        if connection.id > state.last_id:
            state.last_id = connection.id
        if connection.output != NULL:
            state.counters.queued_bytes += connection.output.length
        if head.deadline_ns:
            wheel_set(state, connection, <uint32_t>max(1, self.ticks_to(head.deadline_ns)))
        if connection.flags & PAUSED and connection.output == NULL and not connection.flags & BLOCKED:
            connection.flags &= ~PAUSED     # nothing will be drained that could end it
            intake_later(state, connection)
        elif head.flags & IN_READABLE:
            intake_later(state, connection)
        self.adopted[connection.id] = <size_t>connection

    cdef int32_t ticks_to(self, int64_t time_ns) noexcept:
        """How many ticks after the hub's present one a time is, negative before it; 3 years at most."""
        cdef int64_t ns = time_ns - self.started_ns - <int64_t>self.state.tick * TICK_NS
        cdef int64_t ticks = (ns + TICK_NS // 2) // TICK_NS if ns >= 0 else -((TICK_NS // 2 - ns) // TICK_NS)
        return <int32_t>max(-TICKS_MAX, min(TICKS_MAX, ticks))

    cdef int64_t time_of(self, uint32_t tick) noexcept:
        """When a tick is, or was. Ticks wrap: one before the hub began is one before 0."""
        cdef int32_t ahead = <int32_t>(tick - self.state.tick)
        return self.started_ns + (<int64_t>self.state.tick + ahead) * TICK_NS

    cdef dict by_id(self):
        """The connections that are there by their ids; their addresses are right while the hub is frozen."""
        cdef HubState* state = &self.state
        cdef uint32_t i
        if self.adopted is None:
            self.adopted = {
                state.table[i].id: <size_t>state.table[i] for i in range(state.connections)
            }
            if state.connections == 0:      # nor has the wheel anybody: it need not turn to now
                state.tick = <uint32_t>((monotonic_ns() - self.started_ns) // TICK_NS)
        return self.adopted

    def adopt_room(self, bytes blob not None, on_gap=None):
        """Make the log that `RoomLog.export` packed; hub.pyi says more."""
        cdef RoomParcel parcel
        cdef CConnection** members = NULL
        cdef CConnection* connection
        cdef Room room
        cdef uint32_t i
        self.check_frozen()
        memset(&parcel, 0, sizeof(RoomParcel))
        try:
            room_unpack(blob, &parcel)
            members = <CConnection**>calloc(parcel.head.members + 1, sizeof(CConnection*))
            if members == NULL:
                raise MemoryError("no memory to take a room over")
            found = self.by_id()
            for i in range(parcel.head.members):
                connection = <CConnection*><size_t>found.get(parcel.members[i].id, 0)
                if connection != NULL and connection.state != DEAD:
                    members[i] = connection
            room = Room.__new__(
                Room, self, parcel.head.variant, parcel.head.lag_limit, parcel.head.lag_limit_messages,
                SLOW_READERS[parcel.head.slow_reader], parcel.head.priority, on_gap,
            )
            room_fill(&self.state, &room.log, &parcel, members)
            for i in range(parcel.head.members):
                if members[i] != NULL and members[i].standing != NULL:
                    room.draw_on(<Allowance>members[i].standing.owner)
            return room
        finally:
            free(members)
            room_parcel_free(&parcel)


# --------------------------------------------------------------------------- helpers

cdef bint _is_timed(HubState* state, const CConnection* connection) noexcept nogil:
    """Does it stand on the wheel?"""
    return connection.wheel_previous != NULL or state.wheel[connection.deadline % SLOTS] == connection


cdef void _unlist(ConnectionList* items, CConnection* connection) noexcept nogil:
    """Take it out; the others keep their order."""
    cdef uint32_t kept = 0
    cdef uint32_t i
    for i in range(items.count):
        if items.items[i] != connection:
            items.items[kept] = items.items[i]
            kept += 1
    items.count = kept


cdef void _free(CConnection* connection):
    """Free one that has not entered the hub."""
    intake_free(connection)
    if connection.output != NULL:
        free(connection.output.data)
        free(connection.output)
    if connection.close_reason != NULL:
        Py_DECREF(<object>connection.close_reason)
    free(connection)


cdef int _read_head(Rest* rest, ConnectionHead* head) except -1:
    """Read what a parcel begins with. ValueError where it fits neither itself nor what follows."""
    cdef const uint8_t* at = take(rest, sizeof(ConnectionHead))
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
