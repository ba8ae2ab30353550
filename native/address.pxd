# cython: language_level=3
"""Addresses of peers, packed and as text."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr_storage:
        uint16_t ss_family

# IPv4 that came as IPv6 is IPv4.
cdef struct Address:
    uint8_t[16] octets  # in network order, zeros behind the first `length`
    uint16_t port       # in host order, 0 where it is not known
    uint8_t length      # 4, 16, or 0 for none

cdef void address_of(const sockaddr_storage* peer, Address* to) noexcept nogil
cdef void address_take(Address* to, const uint8_t* octets, int length) noexcept nogil
# Return 0, or -1 where `text` is no address; `to` is then as it was.
cdef int address_parse(const char* text, size_t n, Address* to) noexcept nogil
cdef str address_text(const Address* address)
cdef str address_name(const Address* address)
