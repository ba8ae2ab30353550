# cython: language_level=3
"""Reception: judging a new socket's request head, and the answer to it; and finding a user's connections.

Parsing and the rules of RFC 6455 are native (`httphead`, `handshake`); who may come in, `on_handshake` says.
A request that is no upgrade leaves the hub with its socket and the bytes read so far, through `on_http`.
"""
import logging

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from realtime.native.address cimport address_name, address_take
from realtime.native.frames cimport FIN_BIT, OPCODE_BINARY, OPCODE_TEXT
from realtime.native.handles cimport Accept, Handshake, Refuse, connection_handle
from realtime.native.handshake cimport header_value, judge_reason, judge_upgrade, write_accept, write_refusal
from realtime.native.httphead cimport Head, parse_head
from realtime.native.histogram cimport timings_add
from realtime.native.hubbase cimport HubBase
from realtime.native.intake cimport connection_close
from realtime.native.output cimport output_settle
from realtime.native.posix cimport EPOLL_CTL_DEL, MSG_DONTWAIT, MSG_NOSIGNAL, epoll_ctl, monotonic_ns, send
from realtime.native.proxyproto cimport ProxyHeader, proxy_begins, proxy_parse
from realtime.native.recorder cimport recorder_arrive
from realtime.native.types cimport (
    AWAITS_HEAD,
    AWAITS_PROXY,
    BINARY,
    CLOSING,
    DEAD,
    ECHO,
    FAILED,
    FORWARDED,
    OPEN,
    PENDING,
    PROXY_REQUIRED,
    HubState,
)
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport connection_kill, output_append, output_frame, output_seal
from realtime.native.users cimport users_add, users_bucket
from realtime.native.wheel cimport wheel_live, wheel_set

cdef enum:
    AGE_PERCENT_MIN = 90
    AGE_PERCENT_SPREAD = 20

log = logging.getLogger("realtime.hub")


cdef inline uint32_t expiry(HubState* state, const CConnection* connection) noexcept:
    """The tick at which a connection of now is too old: after 0.9 to 1.1 times the greatest age; 0 = never.

    By the golden ratio of its number, so that those that came together go as evenly as can be.
    """
    cdef double part = <double>((connection.id * <uint64_t>0x9E3779B97F4A7C15) >> 11) / 9007199254740992.0
    cdef uint32_t tick
    if state.max_age_ticks == 0:
        return 0
    tick = state.tick + <uint32_t>(
        state.max_age_ticks * (AGE_PERCENT_MIN + AGE_PERCENT_SPREAD * part) / 100 + 0.5
    )
    return tick if tick != 0 else 1


cdef class Reception(HubBase):
    """The part of a hub that lets connections in."""

    cdef long head(self, CConnection* connection, uint8_t* data, size_t n):
        """Judge a request head: bytes used, 0 for more, -1 when the connection is not ours any more."""
        cdef Head head
        cdef long skipped = 0
        cdef int length, verdict
        cdef Handshake request
        if connection.arrival & AWAITS_PROXY:
            skipped = self.hear_proxy(connection, data, n)
            if skipped < 0 or connection.arrival & AWAITS_PROXY or <size_t>skipped == n:
                return skipped
            data += skipped
            n -= skipped
        length = parse_head(data, n, &self.limits, &head)
        if length == 0:
            return skipped
        if length < 0:
            return self.refuse(connection, -length, b"", head.reason)
        if connection.arrival & AWAITS_HEAD and not self.hear_forwarded(connection, data, &head):
            return -1
        verdict = judge_upgrade(&head)
        if verdict == 0:
            self.hand_over(connection, data, n)
            return -1
        if verdict < 0:
            return self.refuse(connection, -verdict, b"", judge_reason(&head))
        request = Handshake.__new__(Handshake)
        request.data, request.head, request.connection = data, &head, connection
        try:
            verdict_object = self.on_handshake(request)
        except BaseException:   # whatever it is, it is this connection's alone
            log.exception("on_handshake of connection %d", connection.id)
            verdict_object = None
        finally:
            request.head = NULL
        if connection.state == DEAD:
            return -1
        if type(verdict_object) is Accept:
            self.accept(connection, <Accept>verdict_object, data, &head)
            return skipped + length
        if type(verdict_object) is Refuse:
            return self.refuse(
                connection, (<Refuse>verdict_object).status, (<Refuse>verdict_object).header_lines,
                (<Refuse>verdict_object).body, (<Refuse>verdict_object).blameless,
            )
        return self.refuse(connection, 500, b"", b"the handshake failed on our side")

    cdef long hear_proxy(self, CConnection* connection, const uint8_t* data, size_t n):
        """Read the PROXY header of a trusted peer: its bytes, -1 when the connection is not ours any more.

        While more of it is needed the connection still AWAITS_PROXY.
        """
        cdef ProxyHeader header
        cdef int used = 0
        if self.proxy_protocol == PROXY_REQUIRED or proxy_begins(data, n) >= 0:
            used = proxy_parse(data, n, &header)
            if used == 0:
                return 0
            if used < 0:
                self.tell_untrusted(&connection.address, "proxy_header")
                return self.refuse(connection, 400, b"", header.reason)
            if header.source.length:
                connection.address = header.source
        connection.arrival = AWAITS_HEAD
        if self.on_forwarded is not None and self.trusts(&connection.address):
            return used     # another proxy, which speaks through the request
        return used if self.settle(connection) else -1

    cdef bint hear_forwarded(self, CConnection* connection, const uint8_t* data, const Head* head):
        """Take a trusted peer's word for whose request it is; False when the connection is refused."""
        value = None if self.on_forwarded is None else header_value(data, head, self.forwarded_header)
        if value is None:
            return self.settle(connection)
        try:
            address = self.on_forwarded(
                PyBytes_FromStringAndSize(
                    <const char*>connection.address.octets, connection.address.length
                ), value,
            )
        except BaseException:   # whatever it is, it is this connection's alone
            log.exception("on_forwarded of connection %d", connection.id)
            address = None
        if not isinstance(address, bytes) or len(address) not in (4, 16):
            self.tell_untrusted(&connection.address, "forwarded_header")
            self.refuse(connection, 400, b"", f"{self.forwarded_header}: cannot be read".encode())
            return False
        address_take(
            &connection.address, <const uint8_t*>PyBytes_AS_STRING(address), <int>PyBytes_GET_SIZE(address)
        )
        if not self.settle(connection):
            return False
        connection.arrival |= FORWARDED
        return True

    cdef bint settle(self, CConnection* connection):
        """The client's address is known: is it let in? Refused by an answer, for the proxy has to tell its
        client something, and might take a reset for a broken server."""
        cdef int arrival = self.let_in(&connection.address)
        if arrival < 0:
            connection.arrival = 0
            self.refuse(connection, 403, b"", b"this address may not connect")
            return False
        connection.arrival = arrival
        return True

    cdef void accept(self, CConnection* connection, Accept accept, const uint8_t* data, const Head* head):
        cdef HubState* state = &self.state
        cdef uint8_t answer[1024]
        cdef size_t n = write_accept(
            answer, sizeof(answer), data + head.key.start,
            PyBytes_AS_STRING(accept.subprotocol_line), PyBytes_GET_SIZE(accept.subprotocol_line),
            PyBytes_AS_STRING(accept.extensions), PyBytes_GET_SIZE(accept.extensions),
        )
        if n == 0:
            log.error(
                "subprotocol %r or extensions %r cannot be sent", accept.subprotocol_line, accept.extensions
            )
            self.refuse(connection, 500, b"", b"the handshake failed on our side")
            return
        if accept.user_key:
            try:
                users_add(state, connection, accept.user_key)
            except MemoryError:
                self.refuse(connection, 503, b"", b"no memory for another connection")
                return
        Py_INCREF(accept.state)
        connection.state_object = <void*>accept.state
        connection.state = OPEN
        connection.deflate_bits = accept.deflate_bits
        connection.flags |= (
            (BINARY if accept.binary else 0)
            | (ECHO if accept.echo else 0)
            | (PENDING if accept.pending or accept.close_code else 0)   # who is let in to be closed is nobody
        )
        state.counters.handshakes += 1
        timings_add(&state.handshakes, monotonic_ns() - connection.bucket, 1)
        connection.bucket = 0
        output_append(state, connection, answer, n)
        if state.recorder_bytes:
            recorder_arrive(state, connection)
        if accept.welcome is not None:
            output_frame(
                state, connection, FIN_BIT | (OPCODE_BINARY if accept.binary else OPCODE_TEXT),
                <const uint8_t*>PyBytes_AS_STRING(accept.welcome), PyBytes_GET_SIZE(accept.welcome),
            )
        output_seal(state)
        connection.expires = expiry(state, connection)
        if not accept.pending:
            wheel_live(state, connection, state.heartbeat_ticks)
        if accept.close_code:
            connection_close(state, connection, accept.close_code, accept.close_reason)

    cdef long refuse(
        self, CConnection* connection, int status, bytes headers, bytes body, bint blameless=False
    ):
        """Answer with an HTTP error, then discard until the peer closes, so that it can read that.

        Whoever is `blameless` has not offended, whatever the status may mean elsewhere.
        """
        cdef HubState* state = &self.state
        cdef uint8_t answer[2048]
        cdef size_t n = write_refusal(
            answer, sizeof(answer), status, PyBytes_AS_STRING(headers), PyBytes_GET_SIZE(headers),
            PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body),
        )
        state.counters.refused += 1
        if state.on_offence != NULL and not blameless:
            self.offended(connection, status)
        connection.close_code = 1006
        if n == 0:
            log.error("the refusal %d %r %r cannot be sent", status, headers, body)
            connection_kill(state, connection, 1006)
            return -1
        send(connection.fd, answer, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        connection.state = CLOSING
        connection.flags |= FAILED
        wheel_set(state, connection, state.close_ticks)
        output_settle(state, connection, 1)
        return -1

    cdef void hand_over(self, CConnection* connection, const uint8_t* data, size_t n):
        """Give the socket and the bytes read so far to `on_http`; the hub forgets it."""
        cdef int fd = connection.fd
        cdef HubState* state = &self.state
        epoll_ctl(state.epoll_fd, EPOLL_CTL_DEL, fd, NULL)
        remote = address_name(&connection.address)
        forwarded = connection.arrival & FORWARDED != 0
        received = PyBytes_FromStringAndSize(<const char*>data, n)
        # connection_kill closes its descriptor, and this one lives on.
        connection.fd = -1
        connection_kill(state, connection, 1000)
        state.counters.handed_over += 1
        try:
            self.on_http(fd, received, remote, forwarded)
        except BaseException:
            # The descriptor is the callee's even now: closed twice, its number may be another socket's.
            log.exception("on_http")

    # ----------------------------------------------------------------------- who has come in

    def find(self, uint64_t number):
        """The handle of connection `number`, None where there is none that has completed its handshake."""
        cdef uint32_t i
        for i in range(self.state.connections):
            if self.state.table[i].id == number and self.state.table[i].state_object != NULL:
                return connection_handle(self, self.state.table[i])
        return None

    def count_of(self, uint32_t user_key):
        """How many connections belong to `user_key`, those that are closing included."""
        cdef CConnection* connection = users_bucket(&self.state, user_key)
        cdef int count = 0
        while connection != NULL:
            count += connection.user_key == user_key and connection.state != DEAD
            connection = connection.user_next
        return count

    def connections_of(self, uint32_t user_key):
        """Handles of the connections that belong to `user_key`, oldest first, those closing included."""
        cdef CConnection* connection = users_bucket(&self.state, user_key)
        found = []
        while connection != NULL:
            if connection.user_key == user_key and connection.state != DEAD:
                found.append(connection_handle(self, connection))
            connection = connection.user_next
        found.sort(key=_number)
        return found

    def take_id(self):
        """A connection id that none of this hub's connections will have."""
        self.state.last_id += 1
        return self.state.last_id


def _number(connection):
    return connection.id
