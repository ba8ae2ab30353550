# cython: language_level=3
"""What every part of the hub needs of it."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t
from realtime.native.address cimport Address
from realtime.native.cidr cimport CidrTable
from realtime.native.httphead cimport Limits
from realtime.native.types cimport Connection as CConnection
from realtime.native.types cimport HubState


cdef class HubBase:
    cdef HubState state
    cdef Limits limits
    cdef CConnection* calling       # whose callback runs
    cdef object on_handshake
    cdef object on_message
    cdef object on_limited
    cdef object on_close
    cdef object on_http
    cdef object on_wake
    cdef object on_arrival          # (packed address) -> is it let in?; None where nobody asks
    cdef object on_offence          # (packed address, code, was it admitted); None where nobody asks
    cdef object on_departure        # (packed address): the connection is gone; None where nobody counts
    cdef list deflaters             # by window bits
    cdef bytes stamp
    cdef int64_t stamp_ms
    cdef int64_t stamp_batch_ns     # the batch that it was read in
    cdef int compression_level
    cdef Py_ssize_t compression_threshold
    cdef bint running               # inside on_ready
    cdef readonly bint frozen       # nothing is read, sent, accepted or timed

    cdef object on_untrusted        # (packed address, reason): refused over what it says, or does not say
    cdef object on_forwarded        # (packed address of a proxy, header) -> of the client, None: nonsense
    cdef str forwarded_header       # which one
    cdef CidrTable trusted          # whose word about addresses is taken; None: nobody's
    cdef int proxy_protocol         # a ProxyProtocol

    cdef void wake(self)
    cdef void offended(self, CConnection* connection, int code)
    cdef bint trusts(self, const Address* address) noexcept
    cdef int let_in(self, const Address* address)
    cdef void tell_untrusted(self, const Address* address, str reason)
    cdef bytes time_text(self)
    cdef bint send_message(
        self, CConnection* connection, uint8_t opcode, const uint8_t* payload, size_t n, bint urgent
    ) except -1
    cdef const uint8_t* compress(self, int bits, const uint8_t* payload, size_t* n) except NULL
