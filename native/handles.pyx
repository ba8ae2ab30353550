# cython: language_level=3
"""What Python holds of the hub: handles of connections and logs, a handshake and the answers to it."""
import logging

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from realtime.native.address cimport address_name, address_text
from realtime.native.frames cimport (
    FIN_BIT,
    OPCODE_BINARY,
    OPCODE_TEXT,
    RSV1_BIT,
    SERVER_HEAD_BYTES_MAX,
    write_head,
)
from realtime.native.handshake cimport header_value, span_text
from realtime.native.hubbase cimport HubBase
from realtime.native.intake cimport connection_close
from realtime.native.lag cimport lag_park, lag_resume, lag_skip, lag_untold
from realtime.native.marks cimport marks_add, marks_free, marks_new, marks_reserve
from realtime.native.output cimport output_leave, output_take_over
from realtime.native.ratelimit cimport Allowance, Standing
from realtime.native.recorder cimport recorder_begin, recorder_end, recorder_taken
from realtime.native.roomlog cimport (
    log_add,
    log_clear,
    log_is_over,
    log_mark_dirty,
    log_reclaim,
    log_reserve,
    log_unlist,
    log_watch,
)
from realtime.native.roomparcel cimport room_pack
from realtime.native.types cimport (
    ABORT,
    BINARY,
    BLOCKED,
    DEAD,
    DISCONNECT,
    DROP_OLDEST,
    LAPSED,
    NOWHERE,
    OPEN,
    PENDING,
    PRIORITIES,
    HubState,
    Link,
    Log,
    Member,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill, output_reserve
from realtime.native.users cimport users_add
from realtime.native.wheel cimport TICK_MS, wheel_live

cdef enum:
    LOG_BACKLOG = 1 << 18           # bytes appended since the running pass began that throttle a publisher
    SLOW_CONSUMER = 4001
    INTERNAL = 4000

log = logging.getLogger("realtime.hub")
SLOW_READERS = ("disconnect", "drop_oldest", "latest")     # by their numbers in types.pxd
CLOSE_BOUNDS = "close code {} with a reason of {} bytes: 1000 to 4999, at most 123"


cdef class Handshake:
    """A client's upgrade request. Valid only while `on_handshake` runs; RuntimeError after it."""

    cdef int check(self) except -1:
        # The buffer and the connection go their own ways afterwards, whoever keeps this object.
        if self.head == NULL:
            raise RuntimeError("the handshake is over")
        return 0

    @property
    def path(self):
        self.check()
        return span_text(self.data, self.head.path)

    @property
    def query(self):
        self.check()
        return span_text(self.data, self.head.query)

    @property
    def remote(self):
        self.check()
        return address_name(&self.connection.address)

    @property
    def address(self):
        self.check()
        return address_text(&self.connection.address)

    @property
    def connection_id(self):
        self.check()
        return self.connection.id

    def header(self, str name not None):
        self.check()
        return header_value(self.data, self.head, name)


cdef class Accept:
    """The answer of `on_handshake` to a client that may come in."""

    def __init__(
        self, state, *, str subprotocol=None, str extensions=None, bint binary=False, int deflate_bits=0,
        bint echo=False, bint pending=False, bytes welcome=None, int close_code=0,
        bytes close_reason not None=b"", uint32_t user_key=0,
    ):
        if close_code and not 1000 <= close_code <= 4999 or PyBytes_GET_SIZE(close_reason) > 123:
            raise ValueError(CLOSE_BOUNDS.format(close_code, len(close_reason)))
        if deflate_bits and not 9 <= deflate_bits <= 15:
            raise ValueError(f"deflate_bits is {deflate_bits}: 0 or 9 to 15")
        self.state = state
        self.subprotocol_line = (subprotocol or "").encode("ascii")
        self.extensions = (extensions or "").encode("ascii")
        self.binary = binary
        self.deflate_bits = deflate_bits
        self.echo = echo
        self.pending = pending
        self.welcome = welcome
        self.close_code = close_code
        self.close_reason = close_reason
        self.user_key = user_key

    @property
    def subprotocol(self):
        return self.subprotocol_line.decode("ascii") or None


cdef class Refuse:
    """The answer of `on_handshake` to a client that may not come in: an HTTP status, then the end."""

    def __init__(self, int status, str body="", str headers="", *, bint blameless=False):
        if not 400 <= status <= 599:
            raise ValueError(f"status is {status}: 400 to 599")
        self.status = status
        self.body = body.encode()
        self.header_lines = headers.encode("latin-1")
        self.blameless = blameless

    @property
    def headers(self):
        return self.header_lines.decode("latin-1")


@cython.no_gc_clear    # __dealloc__ may run in a collection, and must find the hub still there
cdef class Connection:
    """A handle of one socket. It outlives the socket; `open` says whether that still stands."""

    def __dealloc__(self):
        if self.connection != NULL:
            self.connection.handle = NULL

    @property
    def id(self):
        return self.connection.id if self.connection != NULL else 0

    @property
    def remote(self):
        return address_name(&self.connection.address) if self.connection != NULL else ""

    @property
    def address(self):
        return address_text(&self.connection.address) if self.connection != NULL else ""

    @property
    def open(self):
        return self.connection != NULL and self.connection.state == OPEN

    @property
    def binary(self):
        return self.connection != NULL and self.connection.flags & BINARY != 0

    @property
    def variant(self):
        if self.connection == NULL:
            return 0
        return self.connection.deflate_bits << 1 | (self.connection.flags & BINARY != 0)

    def fileno(self):
        """Its socket, which stays the hub's; -1 once it is closed."""
        return self.connection.fd if self.connection != NULL else -1

    @property
    def queued_bytes(self):
        if self.connection == NULL or self.connection.output == NULL:
            return 0
        return self.connection.output.length

    @property
    def silent_s(self):
        if self.connection == NULL:
            return 0.0
        return (self.hub.state.tick - self.connection.last_seen) * TICK_MS / 1000.0

    @property
    def state(self):
        if self.connection == NULL or self.connection.state_object == NULL:
            return None
        return <object>self.connection.state_object

    @state.setter
    def state(self, value):
        if self.connection == NULL:
            return
        Py_INCREF(value)
        previous = self.connection.state_object
        self.connection.state_object = <void*>value
        if previous != NULL:
            Py_DECREF(<object>previous)

    cpdef bint send(self, bytes payload, bint urgent=False) except -1:
        """Queue one message; False when the connection does not take any more.

        An urgent one goes before all that waits but a half-sent frame and earlier urgent ones.
        """
        cdef CConnection* connection = self.connection
        cdef uint8_t opcode
        if payload is None:
            raise TypeError("payload is None, not bytes")
        if connection == NULL or connection.state != OPEN:
            return False
        opcode = OPCODE_BINARY if connection.flags & BINARY else OPCODE_TEXT
        if not self.hub.send_message(
            connection, opcode, <const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), urgent
        ):
            return False
        return self.keep_bounded()

    cdef uint8_t* reserve(self, size_t n) noexcept:
        """Queue one text message of `n` bytes and return where the caller writes them.

        NULL, and nothing done, where it is not simply collected with others: then `send` does it.
        """
        cdef CConnection* connection = self.connection
        cdef uint8_t* to
        if connection == NULL or connection.state != OPEN or connection.deflate_bits or (
            connection.recording != NULL
        ):
            return NULL
        to = output_reserve(&self.hub.state, connection, FIN_BIT | OPCODE_TEXT, n)
        if to != NULL:
            self.hub.state.counters.messages_out += 1
        return to

    cdef bint keep_bounded(self) except -1:
        """After queueing unicast: close a connection that holds too much of it; False when that is so."""
        cdef CConnection* connection = self.connection
        if not self.hub.running:
            self.hub.wake()
        if connection.output != NULL and connection.output.length > self.hub.state.unicast_limit:
            self.hub.state.counters.slow_consumers += 1
            slow_consumer(&self.hub.state, connection, b"unicast_limit_bytes", self.hub.state.unicast_limit)
            return False
        return True

    def close(self, int code, bytes reason not None=b""):
        """Begin the closing handshake; harmless on a connection that is closing already."""
        if not 1000 <= code <= 4999 or PyBytes_GET_SIZE(reason) > 123:
            raise ValueError(CLOSE_BOUNDS.format(code, len(reason)))
        if self.connection == NULL:
            return
        connection_close(&self.hub.state, self.connection, code, reason)
        self.hub.wake()

    def abort(self):
        """Close the socket at once, with a reset."""
        if self.connection == NULL:
            return
        self.connection.flags |= ABORT
        connection_kill(&self.hub.state, self.connection, 1006)
        self.hub.wake()

    def confirm(self):
        """The peer is authenticated: its handshake deadline ends, heartbeats begin."""
        if self.connection == NULL or not self.connection.flags & PENDING:
            return
        # Once it is closing, its deadline is that of the closing handshake.
        if self.connection.state == OPEN:
            self.connection.flags &= ~PENDING
            wheel_live(&self.hub.state, self.connection, self.hub.state.heartbeat_ticks)

    def record(self, uint32_t ring_bytes, uint32_t payload_bytes):
        """Record its frames from now on; hub.pyi says more."""
        if self.connection == NULL or self.connection.state_object == NULL or self.connection.state == DEAD:
            return False
        return recorder_begin(&self.hub.state, self.connection, ring_bytes, payload_bytes) == 0

    def recorded(self):
        """What is recorded of it; None where nothing is."""
        return recorder_taken(self.connection) if self.connection != NULL else None

    def stop_recording(self):
        """Record it no more, and forget what was."""
        if self.connection != NULL:
            recorder_end(&self.hub.state, self.connection)

    def belong(self, uint32_t user_key):
        """It is a user's from here on: `Hub.connections_of(user_key)` has it until it is gone."""
        if user_key == 0:
            raise ValueError("user_key is 0, which is nobody's")
        if self.connection != NULL and self.connection.state != DEAD:
            users_add(&self.hub.state, self.connection, user_key)

    def draw_on(self, Allowance allowance):
        """Let the rates of its tenant decide when it is served; None where it has none."""
        cdef CConnection* connection = self.connection
        cdef Standing* former
        cdef uint32_t i
        if connection == NULL or connection.state == DEAD:
            return
        former = connection.standing
        connection.standing = NULL
        if allowance is not None:
            Py_INCREF(allowance)
            connection.standing = &allowance.standing
        for i in range(connection.link_count):
            (<RoomLog>connection.links[i].log.owner).draw_on(allowance)
        if former != NULL:
            Py_DECREF(<object>former.owner)

    def join(self, RoomLog room not None):
        """Become a member at the log's end: what is appended from now on comes here, in order."""
        if self.connection == NULL or self.connection.state != OPEN:
            return
        if room.log.variant != self.variant:
            raise ValueError(f"a log of variant {room.log.variant}, a connection of variant {self.variant}")
        if log_add(&self.hub.state, &room.log, self.connection) < 0:
            raise MemoryError("no memory for another member")
        if self.connection.standing != NULL:
            room.draw_on(<Allowance>self.connection.standing.owner)

    def leave(self, RoomLog room not None):
        """Stop being a member at the log's end: what was appended before still comes, as unicast."""
        if self.connection == NULL:
            return
        if self.connection.flags & LAPSED:
            tell_lapses(self.hub, self.connection, &room.log)
        if self.connection == NULL:
            return
        if self.connection.state == OPEN:
            output_take_over(&self.hub.state, self.connection, &room.log)
        output_leave(&self.hub.state, self.connection, &room.log)
        self.keep_bounded()


@cython.no_gc_clear    # __dealloc__ may run in a collection, and needs the hub to detach the members
cdef class RoomLog:
    """The log of one room in one variant. Members of a deleted log are detached from it."""

    def __cinit__(
        self, HubBase hub not None, int variant, uint64_t lag_limit_bytes, uint64_t lag_limit_messages,
        str slow_reader, int priority, on_gap,
    ):
        if variant >> 1 and not 9 <= variant >> 1 <= 15:
            raise ValueError(f"variant is {variant}: window bits (0 or 9 to 15) << 1 | binary")
        if slow_reader not in SLOW_READERS:
            raise ValueError(f"slow_reader is {slow_reader!r}: {', '.join(SLOW_READERS)}")
        if not 0 <= priority < PRIORITIES:
            raise ValueError(f"priority is {priority}: 0 to {PRIORITIES - 1}")
        if slow_reader != "disconnect" and on_gap is None:
            raise ValueError(f"a log of {slow_reader!r} needs on_gap: what is dropped has to be told")
        memset(&self.log, 0, sizeof(Log))
        self.hub = hub
        self.on_gap = on_gap
        self.log.owner = <void*>self
        self.log.variant = variant
        self.log.lag_limit = lag_limit_bytes
        self.log.lag_limit_messages = lag_limit_messages
        self.log.look_end = self.log.look_messages = NOWHERE
        self.log.slow_reader = SLOW_READERS.index(slow_reader)
        self.log.priority = priority
        hub.state.priorities |= 1 << priority
        if self.log.slow_reader != DISCONNECT:
            self.log.marks = marks_new()
            if self.log.marks == NULL:
                raise MemoryError("no memory for the room's log")

    def __dealloc__(self):
        cdef Log* room = &self.log
        if self.hub is None:
            return
        while room.count:
            output_leave(&self.hub.state, room.members[room.count - 1].connection, room)
        log_clear(&self.hub.state, room)
        log_unlist(&self.hub.state, room)
        marks_free(room.marks)

    @property
    def variant(self):
        return self.log.variant

    @property
    def members(self):
        return self.log.count

    @property
    def laggards(self):
        """How many members have not been sent everything because their sockets are full."""
        return self.log.laggards

    @property
    def queued_bytes(self):
        """Bytes held in memory for this log."""
        return self.log.end - self.log.head.base if self.log.head != NULL else 0

    def append(self, bytes payload, uint64_t offset=0):
        """Add one message for every member. Sent at the end of the batch, together with its neighbours."""
        if payload is None:
            raise TypeError("payload is None, not bytes")
        self.put(<const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), offset)

    cdef int put(self, const uint8_t* data, size_t n, uint64_t offset) except -1:
        """The same with a message that stands somewhere else; it is copied."""
        cdef HubState* state = &self.hub.state
        cdef Log* room = &self.log
        cdef uint8_t head[SERVER_HEAD_BYTES_MAX]
        cdef size_t head_bytes
        cdef uint8_t first = FIN_BIT | (OPCODE_BINARY if room.variant & 1 else OPCODE_TEXT)
        cdef uint8_t* target
        if room.count == 0:
            return 0
        if room.variant > 1 and <Py_ssize_t>n >= self.hub.compression_threshold:
            data = self.hub.compress(room.variant >> 1, data, &n)
            first |= RSV1_BIT
        head_bytes = write_head(head, first, n)
        if room.marks != NULL and marks_reserve(room.marks) < 0:
            raise MemoryError("no memory for the offsets in the room's log")
        target = log_reserve(state, room, head_bytes + n)
        if target == NULL:
            raise MemoryError("no memory for the room's log")
        memcpy(target, head, head_bytes)
        memcpy(target + head_bytes, data, n)
        if room.marks != NULL and offset:
            marks_add(room.marks, room.end, offset)
        state.counters.appended += 1
        state.counters.appended_bytes += n
        state.counters.deliveries += room.count
        if not self.hub.running:
            self.hub.wake()     # first: outside of a batch it tells the time
        log_mark_dirty(state, room)
        if room.rest_until_ns <= state.now_ns:
            state.queues[room.queue].rest_until_ns = 0
        if room.end - room.pass_end > LOG_BACKLOG and state.current != NULL:
            state.congested = 1
        if room.end > room.look_end or room.messages > room.look_messages:
            self.judge_laggards()
        return 0

    def export(self):
        """What `Hub.adopt_room` makes the same log of; hub.pyi says more."""
        if not self.hub.frozen:
            raise RuntimeError("the hub is not frozen")
        return room_pack(&self.log)

    cdef void draw_on(self, Allowance allowance):
        """Let the rates of the members' tenant decide when it is flushed; they all have the same one."""
        self.allowance = allowance
        self.log.standing = NULL if allowance is None else &allowance.standing

    cdef void judge_laggards(self):
        """Do with every member that lags too far what the room's kind says; note when to look again."""
        cdef Log* room = &self.log
        cdef uint32_t i = room.count
        room.look_end = room.look_messages = NOWHERE
        # Backwards, because closing takes the member out and fills its place from behind.
        while i > 0:
            i -= 1
            if i < room.count and room.members[i].chunk != NULL and room.members[i].fd >= 0:
                if not log_is_over(room, &room.members[i]):
                    log_watch(room, &room.members[i])
                elif self.judge(i) < 0:
                    connection_kill(&self.hub.state, room.members[i].connection, 1006)
        log_reclaim(&self.hub.state, room)

    cdef int judge(self, uint32_t index) noexcept:
        """Disconnect, move on or park a member that lags too far; -1 without memory."""
        cdef HubState* state = &self.hub.state
        cdef Member* member = &self.log.members[index]
        if not member.connection.flags & BLOCKED:
            log_watch(&self.log, member)    # its socket takes data: it has its turn in this batch
        elif self.log.slow_reader == DISCONNECT:
            state.counters.slow_consumers += 1
            if self.log.end - member.position > self.log.lag_limit:
                slow_consumer(state, member.connection, b"room_lag_limit_bytes", self.log.lag_limit)
            else:
                slow_consumer(
                    state, member.connection, b"room_lag_limit_messages", self.log.lag_limit_messages
                )
        elif self.log.slow_reader == DROP_OLDEST:
            if lag_skip(state, &self.log, member) < 0:
                return -1
            if member.chunk != NULL:
                log_watch(&self.log, member)
        else:
            return lag_park(state, &self.log, member)
        return 0


cdef void tell_lapses(HubBase hub, CConnection* connection, Log* only):
    """Tell `connection` what it has missed of the log `only`, or of all its logs where that is NULL.

    What is sent to it for that goes out before its rooms go on.

    The callbacks are Python: while one runs, rooms may be left, lapses may begin, the connection may close.
    """
    cdef HubState* state = &hub.state
    cdef Link* link
    cdef RoomLog room
    cdef uint64_t after, last
    if only == NULL:
        connection.flags &= ~LAPSED
    while connection.state == OPEN:
        room = None     # perhaps its end, which moves links: before one is looked up
        link = lag_untold(connection, only)
        if link == NULL:
            return
        room = <RoomLog>link.log.owner
        lag_resume(link, &after, &last)
        state.counters.gaps += 1
        try:
            state.counters.dropped += room.on_gap(<object>connection.state_object, after, last)
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_gap of connection %d", connection.id)
            connection_close(state, connection, INTERNAL, b'{"r":"internal"}')


cdef void slow_consumer(HubState* state, CConnection* connection, bytes limit, uint64_t allowed):
    """Close a connection that reads too slowly, and say over which limit."""
    reason = b'{"r":"slow_consumer","limit":"%b","allowed":%d}' % (limit, allowed)
    connection_close(state, connection, SLOW_CONSUMER, reason)


cdef Connection connection_handle(HubBase hub, CConnection* connection):
    """Return the one handle of `connection`, made on first use."""
    cdef Connection handle
    if connection.handle != NULL:
        return <Connection>connection.handle
    handle = Connection.__new__(Connection)
    handle.connection, handle.hub = connection, hub
    connection.handle = <void*>handle
    return handle
