# cython: language_level=3
"""Addresses of peers: packed as `family` says, and as text: `127.0.0.1`, `[::1]:5555`.

Packed is 4 bytes for IPv4 and 16 for IPv6, in network order. An IPv4 address that came as an IPv6 one
(`::ffff:192.0.2.1`, RFC 4291, 2.5.5.2: a socket that takes both families says it so) is the IPv4 one from
the beginning, or a rule about it would have to be written twice. Nothing is owned here.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        pass
    cdef struct in6_addr:
        pass
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t ntohs(uint16_t port)

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET, AF_INET6
    const char* inet_ntop(int family, const void* address, char* text, uint32_t capacity)
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    TEXT_BYTES_MAX = 45     # of an IPv6 address that ends in an IPv4 one
    MAPPED_BYTES = 12       # of ::ffff:0:0/96, in front of an IPv4 address

cdef const uint8_t* MAPPED = <const uint8_t*>b"\0\0\0\0\0\0\0\0\0\0\xff\xff"


cdef void address_of(const sockaddr_storage* peer, Address* to) noexcept nogil:
    memset(to, 0, sizeof(Address))
    if peer.ss_family == AF_INET:
        memcpy(to.octets, &(<const sockaddr_in*>peer).sin_addr, 4)
        to.length = 4
        to.port = ntohs((<const sockaddr_in*>peer).sin_port)
    elif peer.ss_family == AF_INET6:
        address_take(to, <const uint8_t*>&(<const sockaddr_in6*>peer).sin6_addr, 16)
        to.port = ntohs((<const sockaddr_in6*>peer).sin6_port)


cdef void address_take(Address* to, const uint8_t* octets, int length) noexcept nogil:
    to.port = 0
    if length == 16 and memcmp(octets, MAPPED, MAPPED_BYTES) == 0:
        octets += MAPPED_BYTES
        length = 4
    memset(to.octets, 0, 16)
    memcpy(to.octets, octets, length)
    to.length = length


cdef int address_parse(const char* text, size_t n, Address* to) noexcept nogil:
    cdef char[TEXT_BYTES_MAX + 1] ended
    cdef uint8_t[16] octets
    cdef size_t i
    cdef bint v6 = False
    if n == 0 or n > TEXT_BYTES_MAX:
        return -1
    for i in range(n):
        v6 = v6 or text[i] == c":"
        if text[i] == 0:
            return -1
        ended[i] = text[i]
    ended[n] = 0
    if inet_pton(AF_INET6 if v6 else AF_INET, ended, octets) != 1:
        return -1
    address_take(to, octets, 16 if v6 else 4)
    return 0


cdef str address_text(const Address* address):
    """Return the address without its port; "" for none."""
    cdef char[64] text
    cdef int family = AF_INET if address.length == 4 else AF_INET6
    if address.length == 0 or inet_ntop(family, address.octets, text, sizeof(text)) == NULL:
        return ""
    return text.decode("ascii")


cdef str address_name(const Address* address):
    """Return the address with its port, such as `[::1]:5555`; "" for none."""
    if address.length == 0:
        return ""
    text = address_text(address)
    return f"[{text}]:{address.port}" if address.length == 16 else f"{text}:{address.port}"


def pack(str text not None):
    """Return the packed form of an IPv4 or IPv6 address, None where it is neither.

    An IPv4 address in IPv6's form is packed as IPv4. Short forms (`127.1`), leading zeros and zone ids
    (`fe80::1%eth0`) are no addresses.
    """
    cdef Address address
    cdef bytes raw = text.encode("utf-8", "replace")
    if address_parse(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), &address) < 0:
        return None
    return PyBytes_FromStringAndSize(<const char*>address.octets, address.length)


def unpack(bytes address not None):
    """Return a packed address (4 or 16 bytes) as text.

    Raises:
        ValueError: it has another length.
    """
    cdef Address packed
    if PyBytes_GET_SIZE(address) not in (4, 16):
        raise ValueError(f"a packed address has 4 or 16 bytes, not {len(address)}")
    address_take(&packed, <const uint8_t*>PyBytes_AS_STRING(address), <int>PyBytes_GET_SIZE(address))
    return address_text(&packed)
