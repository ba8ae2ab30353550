# cython: language_level=3
"""How connections end: deadlines and heartbeats, which the hub ends them by, and what is freed and told then.

Owns nothing: `forget` frees what a connection owns (`types.pxd`), at the end of a batch.
"""
import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from realtime.native.address cimport Address
from realtime.native.doorway cimport Doorway
from realtime.native.frames cimport FIN_BIT, OPCODE_PING
from realtime.native.handles cimport Connection as Handle
from realtime.native.handles cimport connection_handle
from realtime.native.intake cimport connection_close, intake_free
from realtime.native.output cimport output_leave_all
from realtime.native.posix cimport IPPROTO_TCP, TCP_INFO, getsockopt, tcp_info
from realtime.native.recorder cimport recorder_end, recorder_taken
from realtime.native.types cimport (
    ABORT,
    BEHIND,
    BLOCKED,
    CLOSING,
    COUNTED,
    DISCONNECT,
    HANDSHAKE,
    IN_READABLE,
    IN_UNICAST,
    LEAVING,
    OPEN,
    PAUSED,
    PEER_CLOSED,
    PENDING,
    PINGED,
    THROTTLED,
    HubState,
    Log,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill, output_frame
from realtime.native.users cimport users_drop
from realtime.native.wheel cimport wheel_drop, wheel_live

cdef enum:
    HEARTBEAT_LOST = 4002
    PROBES_MS = 150000              # over TCP_RTO_MAX, the longest time between two probes of a closed window
    REBALANCE = 4006
    NOT_AUTHENTICATED_IN_TIME = 4502

log = logging.getLogger("realtime.hub")


cdef class Endings(Doorway):
    """The part of a hub that ends connections, and lets go of those that have ended."""

    cdef name_limits(self, double handshake_timeout_s):
        """Word the answers of limits, which are the same each time."""
        took_s = _number(handshake_timeout_s)
        self.full = b"max_connections: this server has its %d connections\n" % self.max_connections
        self.slow_handshake = b"handshake_timeout_s: the request took over %b s\n" % took_s
        self.slow_authentication = (
            b'{"r":"authentication_timeout","limit":"handshake_timeout_s","allowed":%b}' % took_s
        )

    cdef void deadline(self, CConnection* connection):
        cdef HubState* state = &self.state
        if connection.state == HANDSHAKE:
            state.counters.handshake_timeouts += 1
            # Browsers open connections to have them when they need one, and say nothing for as long.
            self.refuse(connection, 408, b"", self.slow_handshake, connection.input == NULL)
        elif connection.state == CLOSING or connection.state == LEAVING:
            connection.flags |= ABORT
            connection_kill(state, connection, connection.close_code)
        elif connection.state == OPEN and connection.flags & PENDING:
            state.counters.handshake_timeouts += 1
            connection_close(state, connection, NOT_AUTHENTICATED_IN_TIME, self.slow_authentication)
        elif connection.state == OPEN and connection.expires and (
            <int>(connection.expires - state.tick) <= 0
        ):
            state.counters.aged += 1
            connection_close(state, connection, REBALANCE, self.max_age_reason)
        elif connection.state == OPEN and state.heartbeat_ticks:
            self.heartbeat(connection)

    cdef void heartbeat(self, CConnection* connection):
        """Ping a peer that was silent for one interval, close one that stayed silent for another."""
        cdef HubState* state = &self.state
        cdef uint32_t silent = state.tick - connection.last_seen
        if silent < state.heartbeat_ticks:
            wheel_live(state, connection, state.heartbeat_ticks - silent)
        elif not connection.flags & PINGED:
            connection.flags |= PINGED
            output_frame(state, connection, FIN_BIT | OPCODE_PING, NULL, 0)
            wheel_live(state, connection, state.heartbeat_ticks)
        elif (
            connection.flags & BEHIND or not connection.flags & PAUSED and is_spared(connection)
        ) and _answers_probes(connection.fd):
            # A room bounds what waits for it, and our ping lies behind that; or its pong lies unread.
            wheel_live(state, connection, state.heartbeat_ticks)
        else:
            state.counters.heartbeat_timeouts += 1
            connection_close(state, connection, HEARTBEAT_LOST, b'{"r":"no_heartbeat"}')

    # ----------------------------------------------------------------------- what has ended

    cdef void reap(self):
        """Free what has died, and tell Python; only here, because a dead struct may stand in the batch."""
        cdef HubState* state = &self.state
        cdef CConnection* connection
        cdef uint32_t i = 0
        cdef uint32_t kept = 0
        while i < state.dead.count:
            connection = state.dead.items[i]
            i += 1
            if connection.flags & (IN_READABLE | IN_UNICAST | THROTTLED | BEHIND):
                state.dead.items[kept] = connection
                kept += 1
            else:
                state.counters.closed += 1
                self.forget(connection)
        state.dead.count = kept

    cdef void forget(self, CConnection* connection):
        cdef HubState* state = &self.state
        cdef CConnection* last
        wheel_drop(state, connection)
        users_drop(state, connection)
        output_leave_all(state, connection)
        intake_free(connection)
        if connection.recording != NULL:
            self.tell_recorded(connection)
            recorder_end(state, connection)
        if connection.output != NULL:
            state.counters.queued_bytes -= connection.output.length
            free(connection.output.data)
            free(connection.output)
            connection.output = NULL
        state.connections -= 1
        last = state.table[state.connections]
        state.table[connection.index] = last
        last.index = connection.index
        if connection.arrival & COUNTED and self.on_departure is not None:
            self.tell_departed(connection)
        if connection.state_object != NULL:
            if self.on_close is not None:
                self.tell_closed(connection)
        # Before the state goes: its end may run Python code that asks the handle for it.
        if connection.handle != NULL:
            (<Handle>connection.handle).connection = NULL
        if connection.state_object != NULL:
            Py_DECREF(<object>connection.state_object)
        if connection.close_reason != NULL:
            Py_DECREF(<object>connection.close_reason)
        if connection.standing != NULL:
            Py_DECREF(<object>connection.standing.owner)
        free(connection)

    cdef void tell_departed(self, CConnection* connection):
        cdef const Address* address = &connection.address
        try:
            self.on_departure(PyBytes_FromStringAndSize(<const char*>address.octets, address.length))
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_departure of connection %d", connection.id)

    def record_to(
        self, on_recorded, *, uint32_t ring_bytes, uint32_t payload_bytes, uint64_t memory_bytes,
        double share=1.0,
    ):
        """Record connections that come in from now on; hub.pyi says more."""
        self.on_recorded = on_recorded
        self.state.recorder_bytes = ring_bytes
        self.state.recorder_payload = payload_bytes
        self.state.recorder_memory = memory_bytes
        self.state.recorder_sample = <uint64_t>(min(max(share, 0.0), 1.0) * 4294967296.0)

    cdef void tell_recorded(self, CConnection* connection):
        if self.on_recorded is None or connection.state_object == NULL:
            return
        self.calling = connection
        try:
            self.on_recorded(
                connection_handle(self, connection), connection.close_code, recorder_taken(connection)
            )
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_recorded of connection %d", connection.id)
        self.calling = NULL

    cdef void tell_closed(self, CConnection* connection):
        reason = <object>connection.close_reason if connection.close_reason != NULL else b""
        self.calling = connection
        try:
            self.on_close(
                <object>connection.state_object, connection.close_code, reason,
                connection.flags & PEER_CLOSED != 0,
            )
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_close of connection %d", connection.id)
        self.calling = NULL


cdef bytes _number(double value):
    """The number as text, without a fraction where it has none."""
    return b"%d" % <long>value if value == <long>value else repr(value).encode()


cdef bint is_spared(const CConnection* connection) noexcept nogil:
    """Does it not take what a room has for it that rather drops than disconnects?"""
    cdef uint32_t i
    cdef const Log* log
    if connection.flags & BLOCKED:
        for i in range(connection.link_count):
            log = connection.links[i].log
            if log.slow_reader != DISCONNECT and log.members[connection.links[i].index].position != log.end:
                return True
    return False


cdef bint _answers_probes(int fd) noexcept nogil:
    """Is the peer's kernel there, though nobody reads? Ours asks it for room at least every 120 s."""
    cdef tcp_info info
    cdef uint32_t size = sizeof(tcp_info)
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0 and info.tcpi_last_ack_recv < PROBES_MS
