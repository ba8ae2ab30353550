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

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from realtime.native.connectionparcel cimport (
    ConnectionHead,
    connection_free,
    connection_pack,
    connection_read,
    connection_unpack,
    ticks_to,
)
from realtime.native.endings cimport Endings
from realtime.native.fanout cimport fanout_release
from realtime.native.handles cimport Connection as Handle
from realtime.native.handles cimport RoomLog as Room
from realtime.native.handles cimport connection_handle
from realtime.native.intake cimport intake_later
from realtime.native.parcels cimport Rest
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
from realtime.native.recorder cimport recorder_arrive
from realtime.native.roomparcel cimport OWED, RoomParcel, room_fill, room_parcel_free, room_unpack
from realtime.native.types cimport (
    BEHIND,
    BLOCKED,
    COUNTED,
    DEAD,
    IN_READABLE,
    IN_UNICAST,
    LAPSED,
    OPEN,
    PAUSED,
    ConnectionList,
    HubState,
    Log,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill, list_push
from realtime.native.users cimport users_add, users_drop
from realtime.native.wheel cimport TICK_MS, wheel_set

from realtime.native.handles import SLOW_READERS

cdef enum:
    CATCH_UP_NS = 1000000000
    TICK_NS = TICK_MS * 1000000

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
        return connection_pack(&self.state, self.started_ns, connection.connection)

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
                packed.append((
                    connection.id, connection.fd, state,
                    connection_pack(&self.state, self.started_ns, connection),
                ))
        return packed

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
        connection_read(blob, &head, &rest)
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
            connection_unpack(&self.state, self.started_ns, connection, &head, &rest)
            if head.user_key:
                users_add(&self.state, connection, head.user_key)
            self.watch(connection, fd)
        except BaseException:
            users_drop(&self.state, connection)
            connection_free(connection)
            raise
        if head.has_state:
            Py_INCREF(state)
            connection.state_object = <void*>state
        self.enter(connection, &head)
        return connection_handle(self, connection)

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
        if state.recorder_bytes and connection.state == OPEN:
            recorder_arrive(state, connection)
        if connection.id > state.last_id:
            state.last_id = connection.id
        if connection.output != NULL:
            state.counters.queued_bytes += connection.output.length
        if head.deadline_ns:
            wheel_set(state, connection, <uint32_t>max(1, ticks_to(state, self.started_ns, head.deadline_ns)))
        if connection.flags & PAUSED and connection.output == NULL and not connection.flags & BLOCKED:
            connection.flags &= ~PAUSED     # nothing will be drained that could end it
            intake_later(state, connection)
        elif head.flags & IN_READABLE:
            intake_later(state, connection)
        self.adopted[connection.id] = <size_t>connection

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

cdef void _unlist(ConnectionList* items, CConnection* connection) noexcept nogil:
    """Take it out; the others keep their order."""
    cdef uint32_t kept = 0
    cdef uint32_t i
    for i in range(items.count):
        if items.items[i] != connection:
            items.items[kept] = items.items[i]
            kept += 1
    items.count = kept
