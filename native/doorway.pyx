# cython: language_level=3
"""The listening socket: accepting within a rate and a number, and the first look at a new connection.

What is over the rate stays in the kernel's backlog, and the listening socket out of the epoll set until there
is room: nothing turns while nobody may come in. The socket is the caller's.
"""
import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, realloc
from realtime.native.address cimport Address, address_of, sockaddr_storage
from realtime.native.cidr cimport CidrTable
from realtime.native.intake cimport connection_close, intake_visit
from realtime.native.posix cimport (
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLET,
    EPOLLIN,
    EPOLLOUT,
    EPOLLRDHUP,
    F_GETFL,
    F_SETFL,
    O_NONBLOCK,
    SOCK_CLOEXEC,
    SO_LINGER,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    accept4,
    close,
    epoll_ctl,
    epoll_event,
    errno,
    fcntl,
    monotonic_ns,
    linger,
    setsockopt,
    sockaddr,
)
from realtime.native.ratelimit cimport gcra
from realtime.native.reception cimport Reception
from realtime.native.types cimport (
    ABORT,
    AWAITS_HEAD,
    AWAITS_PROXY,
    DEAD,
    HANDSHAKE,
    OPEN,
    PROXY_OFF,
    PROXY_REQUIRED,
    HubState,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill
from realtime.native.wheel cimport wheel_set

cdef enum:
    ACCEPT_PAUSE_NS = 100000000     # after the process ran out of file descriptors
    ACCEPT_REST_NS = 10000000       # the shortest rest over the accept rate, where the burst holds two

LOOP_TIMER_S = 0.001    # a loop may round a timer down to the millisecond

PROXY_PROTOCOLS = ("off", "optional", "required")     # by their numbers in types.pxd

log = logging.getLogger("realtime.hub")


cdef class Doorway(Reception):
    """The part of a hub that accepts."""

    def __cinit__(self):
        self.listener = -1

    cdef limit_accepts(self, double per_second, double burst):
        if per_second > 0:
            self.accept_cost_ns = <int64_t>(1e9 / per_second)
            self.accept_burst_ns = <int64_t>(max(burst, 1.0) * 1e9 / per_second)

    def guard(self, on_arrival, on_departure):
        """Replace both callbacks; connections that are there stay, counted or not as they came."""
        self.on_arrival, self.on_departure = on_arrival, on_departure

    def trust(
        self, CidrTable trusted, *, str proxy_protocol="off", str forwarded_header="", on_forwarded=None,
        on_untrusted=None,
    ):
        """Take the word of `trusted` peers about whose connections theirs are; hub.pyi says how."""
        if proxy_protocol not in PROXY_PROTOCOLS:
            raise ValueError(f"proxy_protocol is {proxy_protocol!r}: {', '.join(PROXY_PROTOCOLS)}")
        self.trusted = trusted
        self.proxy_protocol = PROXY_PROTOCOLS.index(proxy_protocol)
        self.forwarded_header = forwarded_header
        self.on_forwarded = on_forwarded if forwarded_header else None
        self.on_untrusted = on_untrusted

    def review(self, welcomes, *, uint32_t cursor, uint32_t count, int code, bytes reason not None):
        """Close up to `count` connections below `cursor` whose address is not welcome any more."""
        cdef HubState* state = &self.state
        cdef CConnection* connection
        # Downwards, because the last connection fills the place of one that is freed: who has not been
        # looked at stands below the cursor always, and who has come since was asked when it came.
        cursor = min(cursor, state.connections)
        while cursor and count:
            cursor -= 1
            count -= 1
            connection = state.table[cursor]
            if connection.arrival & (AWAITS_PROXY | AWAITS_HEAD) or connection.state not in (HANDSHAKE, OPEN):
                continue
            if welcomes(PyBytes_FromStringAndSize(
                <const char*>connection.address.octets, connection.address.length
            )):
                continue
            if connection.state == OPEN:
                connection_close(state, connection, code, reason)
            else:
                connection.flags |= ABORT
                connection_kill(state, connection, 1006)
        self.wake()
        return cursor

    def listen(self, int fd):
        """Accept from the listening socket `fd`, which stays the caller's; it is made non-blocking."""
        if fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0:
            raise OSError(errno, "fcntl on the listening socket")
        self.listener = fd
        self.listening = True
        self.watch_listener()

    def stop_listening(self):
        """Accept no more; connections stay."""
        if self.listening:
            epoll_ctl(self.state.epoll_fd, EPOLL_CTL_DEL, self.listener, NULL)
            self.listening = False

    cdef void accept_again(self, int64_t now_ns):
        """Look at the listening socket again, where it has rested long enough."""
        if now_ns < self.accept_after_ns or not self.listening:
            return
        try:
            self.watch_listener()
        except OSError:
            log.exception("the listening socket cannot be watched; tried again in 100 ms")
            self.accept_after_ns = now_ns + ACCEPT_PAUSE_NS

    cdef void rest_listener(self, int64_t rest_ns):
        """Leave new connections to the kernel's backlog for so long."""
        epoll_ctl(self.state.epoll_fd, EPOLL_CTL_DEL, self.listener, NULL)
        self.accept_after_ns = self.state.now_ns + rest_ns

    cdef int watch_listener(self) except -1:
        cdef epoll_event event
        self.accept_after_ns = 0
        event.events = EPOLLIN
        event.data.ptr = NULL
        if epoll_ctl(self.state.epoll_fd, EPOLL_CTL_ADD, self.listener, &event) != 0:
            raise OSError(errno, "epoll_ctl on the listening socket")
        return 0

    cdef bint accept_some(self):
        """Accept up to a batch; the rest waits in the kernel, seen again at once or when the rate allows."""
        cdef int fd
        cdef int64_t wait_ns
        cdef int accepted, arrival
        cdef sockaddr_storage peer
        cdef Address address
        cdef uint32_t length
        for accepted in range(self.accept_batch):
            if self.accept_cost_ns:
                wait_ns = gcra(
                    &self.accept_bucket, self.state.now_ns, self.accept_cost_ns, self.accept_burst_ns
                )
                if wait_ns > 0 and accepted:
                    return True     # if somebody waits, epoll says so: then it rests
                if wait_ns > 0:
                    self.state.counters.accept_rests += 1
                    # A few at a time, or the listener would be watched and left for each one.
                    wait_ns = max(wait_ns, min(ACCEPT_REST_NS, self.accept_burst_ns // 2))
                    self.rest_listener(wait_ns)
                    self.on_wake(wait_ns * 1e-9 + LOOP_TIMER_S)
                    return False
            length = sizeof(peer)
            fd = accept4(self.listener, <sockaddr*>&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if fd < 0:
                if errno == EMFILE or errno == ENFILE or errno == ENOBUFS or errno == ENOMEM:
                    log.warning("accepting pauses for 100 ms: out of file descriptors or memory")
                    self.rest_listener(ACCEPT_PAUSE_NS)
                self.accept_bucket -= self.accept_cost_ns    # nobody came
                return False
            address_of(&peer, &address)
            arrival = self.arrival_of(&address)
            if arrival < 0:
                self.turn_away(fd)
            else:
                self.first_visit(fd, &address, <uint8_t>arrival)
        return True

    cdef int arrival_of(self, const Address* address):
        """Return what has to be heard before the client's address is known, as Arrival; -1: turn it away."""
        if self.proxy_protocol != PROXY_OFF or self.on_forwarded is not None:
            if self.trusts(address):
                return AWAITS_HEAD if self.proxy_protocol == PROXY_OFF else AWAITS_PROXY
            if self.proxy_protocol == PROXY_REQUIRED:
                self.tell_untrusted(address, "not_a_proxy")
                return -1
        return self.let_in(address)

    cdef void turn_away(self, int fd):
        """Close a socket that nothing was made for: with a reset, which leaves the kernel nothing to keep.

        It has cost hardly anything, so it does not count against the accept rate either: whoever floods from
        where nobody is let in would use up what others come in by.
        """
        cdef linger reset
        reset.l_onoff = 1
        reset.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset))
        close(fd)
        self.accept_bucket -= self.accept_cost_ns

    cdef void first_visit(self, int fd, const Address* address, uint8_t arrival):
        """Make a connection of a new socket and read it: with TCP_DEFER_ACCEPT its request is there."""
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef epoll_event event
        if not self.grow_table():
            close(fd)
            return
        connection = <CConnection*>calloc(1, sizeof(CConnection))
        if connection == NULL:
            close(fd)
            return
        state.last_id += 1
        connection.id = state.last_id
        connection.fd = fd
        connection.address = address[0]
        connection.arrival = arrival
        connection.state = HANDSHAKE
        connection.last_seen = state.tick
        connection.bucket = monotonic_ns()
        connection.index = state.connections
        state.table[state.connections] = connection
        state.connections += 1
        state.counters.accepted += 1
        wheel_set(state, connection, state.handshake_ticks)
        if <int>state.connections > self.max_connections:
            state.counters.full += 1
            self.refuse(connection, 503, b"Retry-After: 5\r\n", self.full)
            if <int>state.connections > 2 * self.max_connections:
                connection_kill(state, connection, 1013)
                return
        event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
        event.data.ptr = connection
        if connection.state == HANDSHAKE:
            intake_visit(state, connection, False)
        if connection.state != DEAD and epoll_ctl(state.epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0:
            connection_kill(state, connection, 1006)

    cdef bint grow_table(self):
        cdef HubState* state = &self.state
        cdef CConnection** table
        cdef uint32_t size = state.table_size * 2 if state.table_size else 64
        if state.connections < state.table_size:
            return True
        table = <CConnection**>realloc(state.table, size * sizeof(CConnection*))
        if table == NULL:
            return False
        state.table = table
        state.table_size = size
        return True
