# cython: language_level=3
"""The PROXY protocol: what a proxy says in front of a connection about whose it is."""
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t
from realtime.native.address cimport Address

cdef enum:
    V1_BYTES_MAX = 107      # of a line with its CRLF, by the specification
    V2_BYTES_MAX = 4096     # of a header with what is attached; ours

cdef struct ProxyHeader:
    Address source          # length 0: the proxy speaks for itself, or for one without an address
    const char* reason      # why it is refused, after an answer < 0: a static sentence

# Begins `data` as a header does? 1: yes, 0: so far, -1: no.
cdef int proxy_begins(const uint8_t* data, size_t n) noexcept nogil
# Return > 0: bytes of the header; 0: need more; -1: it is none, or a broken one. Stateless: call it again
# with the same bytes and more.
cdef int proxy_parse(const uint8_t* data, size_t n, ProxyHeader* header) noexcept nogil
