# cython: language_level=3
"""What every part of the hub needs of it: the C state, waking the loop, sending, compressing, the time."""
import logging

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec
from realtime.native.address cimport Address, address_text
from realtime.native.deflate cimport Deflater
from realtime.native.frames cimport FIN_BIT, RSV1_BIT
from realtime.native.posix cimport monotonic_ns
from realtime.native.types cimport COUNTED, HANDSHAKE, PENDING, HubState
from realtime.native.types cimport Connection as CConnection
from realtime.native.unicast cimport output_frame, output_urgent

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct tm:
        int tm_year
        int tm_mon
        int tm_mday
        int tm_hour
        int tm_min
        int tm_sec
    tm* gmtime_r(const time_t* moment, tm* parts)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char* to, size_t capacity, const char* form, ...)


log = logging.getLogger("realtime.hub")


cdef class HubBase:
    """The part of a hub that its connections and logs lean on."""

    def __cinit__(self):
        memset(&self.state, 0, sizeof(HubState))
        self.state.epoll_fd = -1
        self.deflaters = [None] * 16
        self.stamp = b""
        self.stamp_ms = -1

    cdef void wake(self):
        """Ask for a call of `on_ready` once, unless it runs now."""
        if not self.running and not self.state.waking:
            self.state.waking = 1
            self.state.now_ns = monotonic_ns()
            self.on_wake(0.0)

    cdef void offended(self, CConnection* connection, int code):
        """Tell `on_offence` that a connection ends with a close code, or an HTTP status."""
        cdef const Address* address = &connection.address
        if self.trusts(address):
            return      # for whom a proxy speaks has not been said
        admitted = connection.state != HANDSHAKE and not connection.flags & PENDING
        try:
            self.on_offence(
                PyBytes_FromStringAndSize(<const char*>address.octets, address.length), code, admitted
            )
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_offence of connection %d", connection.id)

    cdef bint trusts(self, const Address* address) noexcept:
        return self.trusted is not None and self.trusted.value_of(address) != 0

    cdef int let_in(self, const Address* address):
        """Ask `on_arrival` about a client's address; return the bits of its Arrival, -1 to let it not in.

        Where asking fails nobody is let in.
        """
        welcome = self.on_arrival is None
        if not welcome:
            try:
                welcome = self.on_arrival(
                    PyBytes_FromStringAndSize(<const char*>address.octets, address.length)
                )
            except BaseException:   # whatever it is, the batch goes on
                log.exception("on_arrival of %s", address_text(address))
        if welcome:
            return COUNTED if self.on_departure is not None else 0
        self.state.counters.denied_arrivals += 1
        return -1

    cdef void tell_untrusted(self, const Address* address, str reason):
        self.state.counters.denied_arrivals += 1
        if self.on_untrusted is None:
            return
        try:
            self.on_untrusted(
                PyBytes_FromStringAndSize(<const char*>address.octets, address.length), reason
            )
        except BaseException:   # whatever it is, the batch goes on
            log.exception("on_untrusted of %s", address_text(address))

    cdef bint send_message(
        self, CConnection* connection, uint8_t opcode, const uint8_t* payload, size_t n, bint urgent
    ) except -1:
        cdef uint8_t first = FIN_BIT | opcode
        if connection.deflate_bits and <Py_ssize_t>n >= self.compression_threshold:
            payload = self.compress(connection.deflate_bits, payload, &n)
            first |= RSV1_BIT
        self.state.counters.messages_out += 1
        if urgent:
            return output_urgent(&self.state, connection, first, payload, n) == 0
        return output_frame(&self.state, connection, first, payload, n) == 0

    cdef const uint8_t* compress(self, int bits, const uint8_t* payload, size_t* n) except NULL:
        cdef uint8_t* compressed = NULL
        if self.deflaters[bits] is None:
            self.deflaters[bits] = Deflater(self.compression_level, bits)
        if (<Deflater>self.deflaters[bits]).deflate_into(payload, n[0], &compressed, n) < 0:
            raise MemoryError("no memory to compress a message")
        return compressed

    @property
    def timestamp(self):
        return self.time_text()

    cdef bytes time_text(self):
        """The time as `2025-07-15T10:30:00.123Z`; inside a batch, of its beginning."""
        cdef timespec now
        cdef int64_t ms
        if self.running and self.stamp_batch_ns == self.state.now_ns:
            return self.stamp
        self.stamp_batch_ns = self.state.now_ns
        clock_gettime(CLOCK_REALTIME, &now)
        ms = <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000
        if ms != self.stamp_ms:
            self.stamp_ms = ms
            self.stamp = _format_timestamp(now.tv_sec, now.tv_nsec // 1000000)
        return self.stamp


cdef bytes _format_timestamp(time_t seconds, int ms):
    cdef tm parts
    cdef char text[64]
    gmtime_r(&seconds, &parts)
    cdef int n = snprintf(
        text, sizeof(text), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", parts.tm_year + 1900, parts.tm_mon + 1,
        parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, ms,
    )
    return PyBytes_FromStringAndSize(text, n)
