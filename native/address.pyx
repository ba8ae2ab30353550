# cython: language_level=3
"""Socket addresses as text: `127.0.0.1:5555`, `[::1]:5555`."""
from libc.stdint cimport uint16_t, uint32_t

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
    cdef struct sockaddr_storage:
        uint16_t ss_family
    uint16_t ntohs(uint16_t port)

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET, AF_INET6
    const char* inet_ntop(int family, const void* address, char* text, uint32_t capacity)

cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    int getpeername(int fd, sockaddr* address, uint32_t* length)


cdef str peer_address(int fd):
    """Return the peer's IP address without its port, an IPv4 one in its own form however it came; "" for none."""
    cdef sockaddr_storage address
    cdef uint32_t length = sizeof(address)
    cdef char[64] text
    cdef const void* ip
    if fd < 0 or getpeername(fd, <sockaddr*>&address, &length) != 0:
        return ""
    ip = &(<sockaddr_in*>&address).sin_addr
    if address.ss_family == AF_INET6:
        ip = &(<sockaddr_in6*>&address).sin6_addr
    elif address.ss_family != AF_INET:
        return ""
    if inet_ntop(address.ss_family, ip, text, 64) == NULL:
        return ""
    return text.decode("ascii").removeprefix("::ffff:")


cdef str peer_name(int fd):
    """Return the peer's address, or "" when the socket has none (closed, or not IP)."""
    cdef sockaddr_storage address
    cdef uint32_t length = sizeof(address)
    cdef char[64] text
    if fd < 0 or getpeername(fd, <sockaddr*>&address, &length) != 0:
        return ""
    if address.ss_family == AF_INET:
        if inet_ntop(AF_INET, &(<sockaddr_in*>&address).sin_addr, text, 64) == NULL:
            return ""
        return f"{text.decode('ascii')}:{ntohs((<sockaddr_in*>&address).sin_port)}"
    if address.ss_family == AF_INET6:
        if inet_ntop(AF_INET6, &(<sockaddr_in6*>&address).sin6_addr, text, 64) == NULL:
            return ""
        return f"[{text.decode('ascii')}]:{ntohs((<sockaddr_in6*>&address).sin6_port)}"
    return ""
