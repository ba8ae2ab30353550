# cython: language_level=3
"""The hub: one epoll set with all of a worker's sockets, nested in the event loop by one `add_reader`.

A batch is: look at the sockets (`epoll_wait` without waiting), read and hand every whole message to Python,
send what was collected for single connections, send one chunk of the running flush passes, free what has
died. While passes are unfinished it begins again, so that reading and flushing alternate; after
`BATCH_BUDGET_NS` the event loop gets its turn.

Owns the connections (`types.pxd` says what each of them owns) and their sockets; a socket whose request is no
WebSocket upgrade is handed over with the bytes read so far. Leaves to Python: who may come in, what a message
means, which room it goes to.
"""
import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from realtime.native.deflate cimport Inflater
from realtime.native.endings cimport is_spared
from realtime.native.fanout cimport (
    fanout_flush,
    fanout_pending,
    fanout_release,
    fanout_rests_until,
    fanout_settle,
)
from realtime.native.handles cimport RoomLog as Room
from realtime.native.handles cimport connection_handle, tell_lapses
from realtime.native.histogram cimport timings_taken
from realtime.native.handover cimport Handover
from realtime.native.httphead cimport default_limits
from realtime.native.intake cimport (
    CARRY,
    connection_close,
    intake_behind,
    intake_later,
    intake_visit,
    intake_visit_behind,
    is_over,
)
from realtime.native.output cimport UNTOLD, output_drain, output_settle
from realtime.native.posix cimport (
    EPOLL_CLOEXEC,
    EPOLLERR,
    EPOLLHUP,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    close,
    epoll_create1,
    epoll_event,
    epoll_wait,
    errno,
    monotonic_ns,
)
from realtime.native.roomlog cimport pool_clear
from realtime.native.types cimport (
    BEHIND,
    BLOCKED,
    DEAD,
    ECHO,
    HANGUP,
    IN_READABLE,
    IN_UNICAST,
    PAUSED,
    PINGED,
    THROTTLED,
    HubState,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill
from realtime.native.users cimport users_clear
from realtime.native.wheel cimport TICK_MS, wheel_take_slot

from realtime.native.handles import Accept, Connection, Handshake, Refuse, RoomLog

__all__ = ["Accept", "Connection", "Handshake", "Hub", "Refuse", "RoomLog"]

cdef enum:
    EVENTS = 512                    # of one epoll_wait
    BATCH_BUDGET_NS = 4000000       # then the event loop gets its turn
    READ_BUDGET_NS = 2000000        # of reading before a chunk is flushed; the rest is read next
    READ_LOOK_BYTES = 16384         # between two looks at the clock: it costs as much as a short message
    READ_LOOK_WORK = 1024           # frames, and KiB inflated: what is small on the way need not be small
    BEHIND_WAKE_NS = 1000000        # to the next look, where none may be
    INTERNAL = 4000

log = logging.getLogger("realtime.hub")


cdef long _head(void* owner, CConnection* connection, uint8_t* data, size_t n) noexcept:
    return (<Hub>owner).head(connection, data, n)


cdef void _deliver(
    void* owner, CConnection* connection, uint8_t opcode, const uint8_t* payload, size_t n, int64_t wait_ns
) noexcept:
    if connection.flags & ECHO:
        (<Hub>owner).send_message(connection, opcode, payload, n, False)
    else:
        (<Hub>owner).deliver(connection, payload, n, wait_ns)


cdef void _offended(void* owner, CConnection* connection, int code) noexcept:
    (<Hub>owner).offended(connection, code)


cdef class Hub(Handover):
    """All WebSocket connections of one worker. Not thread-safe: all happens on the event loop's thread.

    `on_wake(delay_s)` must arrange for one call of `on_ready()` after that time (0.0: the next turn).
    """

    def __init__(
        self, *, on_handshake, on_message, on_close, on_http, on_wake, on_limited=None,
        on_arrival=None, on_departure=None, on_offence=None, double control_frames_per_second=0.0,
        double control_frames_burst=1.0,
        int max_connections=100_000, uint32_t max_message_bytes=65_536, uint32_t max_head_bytes=16_384,
        uint32_t max_fragments=131_072, double handshake_timeout_s=10.0, double heartbeat_s=30.0,
        double close_timeout_s=5.0, double messages_per_second=0.0, double message_burst=1.0,
        uint64_t unicast_limit_bytes=1 << 20, uint32_t read_chunk_bytes=65_536, int flush_chunk=256,
        int accept_batch=64, double bytes_per_second=0.0, double bytes_burst=0.0,
        double accepts_per_second=0.0, double accepts_burst=1.0, double max_age_s=0.0,
        bytes max_age_reason not None=b'{"r":"rebalance"}', double rest_ratio=0.0,
        double rest_max_s=0.02, int compression_level=1, Py_ssize_t compression_threshold=256,
        uint64_t room_lag_limit_bytes=1 << 20, uint64_t room_lag_limit_messages=0,
    ):
        cdef HubState* state = &self.state
        if state.epoll_fd >= 0:
            raise RuntimeError("a hub is made once")
        self.on_handshake, self.on_message, self.on_close = on_handshake, on_message, on_close
        self.on_http, self.on_wake, self.on_limited = on_http, on_wake, on_limited
        self.guard(on_arrival, on_departure)
        self.on_offence = on_offence
        if on_offence is not None:
            state.on_offence = _offended
        self.max_connections, self.accept_batch, self.flush_chunk = max_connections, accept_batch, flush_chunk
        self.compression_level, self.compression_threshold = compression_level, compression_threshold
        self.room_lag_limit_bytes = room_lag_limit_bytes
        self.room_lag_limit_messages = room_lag_limit_messages
        self.inflater = Inflater()
        default_limits(&self.limits)
        self.limits.head_bytes_max = max_head_bytes
        state.owner = <void*>self
        state.inflater = <void*>self.inflater
        state.on_head = _head
        state.on_message = _deliver
        state.max_message = max_message_bytes
        state.max_fragments = max_fragments
        state.unicast_limit = unicast_limit_bytes
        state.high_water = min(unicast_limit_bytes // 2, 1 << 18)
        state.read_chunk = read_chunk_bytes
        state.handshake_ticks = _ticks(handshake_timeout_s)
        state.heartbeat_ticks = _ticks(heartbeat_s) if heartbeat_s > 0 else 0
        state.close_ticks = _ticks(close_timeout_s)
        if messages_per_second > 0:
            state.message_cost_ns = <int64_t>(1e9 / messages_per_second)
            state.message_burst_ns = <int64_t>(max(message_burst, 1.0) * 1e9 / messages_per_second)
        if control_frames_per_second > 0:
            state.control_cost_ns = <int64_t>(1e9 / control_frames_per_second)
            state.control_burst_ns = <int64_t>(
                max(control_frames_burst, 1.0) * 1e9 / control_frames_per_second
            )
        if bytes_per_second > 0:
            state.byte_cost_ns = 1e9 / bytes_per_second
            state.byte_burst_ns = <int64_t>(max(bytes_burst, max_message_bytes) * state.byte_cost_ns) + 1
        self.limit_accepts(accepts_per_second, accepts_burst)
        state.max_age_ticks = max(max_age_s, 0.0) * 1000 / TICK_MS
        self.max_age_reason = max_age_reason
        self.name_limits(handshake_timeout_s)
        state.rest_ratio = rest_ratio
        state.rest_max_ns = <int64_t>(rest_max_s * 1e9)
        state.cork_capacity = 1 << 16
        state.cork = <uint8_t*>malloc(state.cork_capacity)
        state.scratch = <uint8_t*>malloc(CARRY + read_chunk_bytes)
        if state.cork == NULL or state.scratch == NULL:
            raise MemoryError("no memory for the hub's buffers")
        state.now_ns = self.started_ns = monotonic_ns()
        state.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if state.epoll_fd < 0:
            raise OSError(errno, "epoll_create1")

    def __dealloc__(self):
        cdef HubState* state = &self.state
        cdef uint32_t i
        state.on_offence = NULL
        # Nobody is told: whoever listened is being freed too.
        self.on_close = self.on_departure = self.on_recorded = None
        for i in range(state.connections):
            connection_kill(state, state.table[i], 1006)
        while state.connections:
            self.forget(state.table[state.connections - 1])
        pool_clear(state)
        users_clear(state)
        free(state.table)
        free(state.dead.items)
        free(state.readable.items)
        free(state.unicast.items)
        free(state.throttled.items)
        free(state.behind.items)
        free(state.cork)
        free(state.scratch)
        if state.epoll_fd >= 0:
            close(state.epoll_fd)

    # ----------------------------------------------------------------------- the loop's side

    def fileno(self):
        """The epoll set; readable when `on_ready` has something to do."""
        return self.state.epoll_fd

    def deliver_to(self, on_message):
        """Replace `on_message`: what takes the messages is often built later than the hub, on top of it."""
        self.on_message = on_message

    def on_ready(self):
        """Run batches until nothing is left or the budget is spent; True when there is more to do."""
        cdef int64_t rests_until
        if self.running or self.frozen:
            return False
        self.running = True
        try:
            self.run_batches()
        finally:
            self.running = False
        if self.pending():
            self.wake()
            return True
        rests_until = fanout_rests_until(&self.state)
        if rests_until > self.rest_wake_ns:
            self.rest_wake_ns = rests_until
            self.on_wake(max(0, rests_until - self.state.now_ns) * 1e-9)
        if self.state.behind.count and self.behind_wake_ns <= self.state.now_ns:
            self.behind_wake_ns = self.state.now_ns + BEHIND_WAKE_NS
            self.on_wake(2 * BEHIND_WAKE_NS * 1e-9)     # a timer may fire a millisecond early
        return False

    cdef void run_batches(self):
        cdef HubState* state = &self.state
        cdef epoll_event[EVENTS] events
        cdef int64_t until = monotonic_ns() + BATCH_BUDGET_NS
        cdef int count
        state.waking = 0
        state.congested = 0
        if self.accept_after_ns:
            self.accept_again(until - BATCH_BUDGET_NS)
        state.counters.wakes += 1
        while True:
            state.now_ns = monotonic_ns()
            fanout_settle(state, state.now_ns)
            self.read_until_ns = state.now_ns + READ_BUDGET_NS
            self.look_later()
            count = epoll_wait(state.epoll_fd, events, EVENTS, 0)
            state.counters.polls += 1
            if count > 0:
                state.counters.events += count
                self.handle_events(events, count)
            self.visit_readable()
            self.flush_unicast()
            if state.active:
                # With the GIL: another thread's garbage collection must not free a log in mid-pass.
                fanout_flush(state, self.flush_chunk)
                if state.behind.count or state.dead.count:
                    fanout_settle(state, monotonic_ns())    # what comes now is no part of it
            count = max(count, intake_visit_behind(state) if state.behind.count else 0)
            self.reap()
            # It looks again where it has found something: that is cheaper than a turn of the event loop.
            if count <= 0 and not self.pending():
                self.catch_up_until_ns = 0
                break
            if state.now_ns > until:
                break
        if state.flush_began_ns:
            fanout_settle(state, monotonic_ns())

    cdef bint pending(self):
        return (
            self.state.readable.count > 0 or self.state.unicast.count > 0 or fanout_pending(&self.state)
        )

    def tick(self):
        """Handle the deadlines that have come; to be called about every 100 ms."""
        if self.running or self.frozen or self.is_catching_up():
            return
        self.running = True     # on_close runs in here too
        try:
            self.run_deadlines()
        finally:
            self.running = False
        if self.pending() or self.state.behind.count:
            self.wake()

    cdef void run_deadlines(self):
        cdef HubState* state = &self.state
        cdef CConnection* due
        cdef CConnection* connection
        state.now_ns = monotonic_ns()
        while state.tick < <uint32_t>((state.now_ns - self.started_ns) // (TICK_MS * 1000000)):
            due = wheel_take_slot(state)
            while due != NULL:
                connection = due
                due = due.wheel_next
                connection.wheel_next = NULL
                self.deadline(connection)
        if self.accept_after_ns:
            self.accept_again(state.now_ns)
        fanout_release(state)
        self.flush_unicast()
        self.reap()

    # ----------------------------------------------------------------------- sockets

    cdef void handle_events(self, epoll_event* events, int count):
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef uint32_t what
        cdef int i
        for i in range(count):
            connection = <CConnection*>events[i].data.ptr
            what = events[i].events
            if connection == NULL:
                self.accept_some()
                continue
            if connection.state == DEAD:
                continue
            if what & EPOLLOUT and connection.flags & BLOCKED:
                if connection.flags & PAUSED or is_spared(connection):
                    # Its pongs lie unread, or our ping does; that it takes what it is sent is sign enough.
                    connection.last_seen = state.tick
                    connection.flags &= ~PINGED
                self.drain(connection)
            if what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
                connection.flags |= HANGUP
                if connection.flags & BEHIND or what & (EPOLLHUP | EPOLLERR) and (
                    connection.flags & (PAUSED | THROTTLED)
                ):
                    connection_kill(state, connection, 1006)
            if what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) and (
                not connection.flags & (IN_READABLE | BEHIND)
            ):
                # Edge-triggered: what is not read now must be remembered.
                if is_over(state, connection):
                    intake_behind(state, connection)
                elif self.may_read():
                    intake_visit(state, connection, False)
                else:
                    intake_later(state, connection)

    cdef bint may_read(self) noexcept:
        """Is there time for one more visit before a chunk is flushed?"""
        if self.state.counters.bytes_in < self.read_look and self.state.work < self.work_look:
            return True
        if monotonic_ns() >= self.read_until_ns:
            return False
        self.look_later()
        return True

    cdef void look_later(self) noexcept:
        """Look at the clock after so many bytes more, or so much work, whichever comes first."""
        self.read_look = self.state.counters.bytes_in + READ_LOOK_BYTES
        self.work_look = self.state.work + READ_LOOK_WORK

    cdef void visit_readable(self):
        """Read on where the last round stopped, oldest first; who has more then stands at the end again."""
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef uint32_t count = state.readable.count
        cdef uint32_t visited = 0
        cdef uint32_t i
        while visited < count and (visited == 0 or self.may_read()):
            connection = state.readable.items[visited]
            visited += 1
            connection.flags &= ~IN_READABLE
            if is_over(state, connection):
                intake_behind(state, connection)
            elif connection.state != DEAD:
                intake_visit(state, connection, True)
        state.readable.count -= visited
        for i in range(state.readable.count if visited else 0):
            state.readable.items[i] = state.readable.items[visited + i]

    cdef void flush_unicast(self):
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef uint32_t i = 0
        while i < state.unicast.count:      # who is told of a gap may be sent something, and grow the list
            connection = state.unicast.items[i]
            i += 1
            connection.flags &= ~IN_UNICAST
            if connection.state != DEAD and not connection.flags & BLOCKED:
                self.drain(connection)
        state.unicast.count = 0

    cdef void drain(self, CConnection* connection):
        """Send what waits for `connection`; where its rooms have skipped something, it is told in between."""
        cdef HubState* state = &self.state
        cdef int outcome = output_drain(state, connection)
        while outcome == UNTOLD:
            tell_lapses(self, connection, NULL)
            outcome = output_drain(state, connection)
        output_settle(state, connection, outcome)

    # ----------------------------------------------------------------------- messages

    cdef void deliver(self, CConnection* connection, const uint8_t* payload, size_t n, int64_t wait_ns):
        cdef HubState* state = &self.state
        state_object = <object>connection.state_object
        self.calling = connection
        try:
            if wait_ns == 0:
                self.on_message(state_object, PyBytes_FromStringAndSize(<const char*>payload, n))
            else:
                state.counters.rate_limited += 1
                if self.on_limited is not None:
                    self.on_limited(
                        state_object, PyBytes_FromStringAndSize(<const char*>payload, n),
                        "messages_per_second" if wait_ns > 0 else "bytes_per_second", abs(wait_ns) * 1e-9,
                    )
        except BaseException:
            log.exception("on_message of connection %d", connection.id)
            connection_close(state, connection, INTERNAL, b'{"r":"internal"}')
        self.calling = NULL

    def current(self):
        """The connection whose callback runs. Raises RuntimeError outside of on_message and on_close."""
        if self.calling == NULL:
            raise RuntimeError("no connection's callback is running")
        return connection_handle(self, self.calling)

    def connections(self):
        """Handles of all connections that have completed their handshake."""
        cdef uint32_t i
        return [
            connection_handle(self, self.state.table[i])
            for i in range(self.state.connections)
            if self.state.table[i].state != DEAD and self.state.table[i].state_object != NULL
        ]

    def room(
        self, int variant=0, *, uint64_t lag_limit_bytes=0, uint64_t lag_limit_messages=0,
        str slow_reader="disconnect", int priority=1, on_gap=None,
    ):
        """Make a log for one room in one variant; hub.pyi says what the arguments mean."""
        return Room.__new__(
            Room, self, variant, lag_limit_bytes or self.room_lag_limit_bytes,
            lag_limit_messages or self.room_lag_limit_messages, slow_reader, priority, on_gap,
        )

    def stats(self):
        """Counters since the start, and gauges of now, by name."""
        stats = dict(self.state.counters)
        stats["connections"] = self.state.connections
        stats["connection_bytes"] = sizeof(CConnection)
        return stats

    def timings(self):
        """What was measured since the start, by name; hub.pyi says what."""
        return {
            "deliveries": timings_taken(&self.state.deliveries),
            "flushes": timings_taken(&self.state.flushes),
            "handshakes": timings_taken(&self.state.handshakes),
        }


cdef uint32_t _ticks(double seconds) except? 0:
    if not 0 < seconds <= 86_400:
        raise ValueError(f"{seconds} s: a timeout is over 0 and at most 86400 s")
    return max(1, <uint32_t>(seconds * 1000 / TICK_MS + 0.5))
