"""The rules of a WebSocket upgrade and the answers to it.

Used by the hub for every new socket and by `realtime.edge.http` (through `Request`) for what is no
upgrade: one parser for both, so that the two never see different requests in the same bytes.

Ownership: the writers fill the caller's memory and no more, and keep no pointer.
"""

from libc.stdint cimport uint8_t

# Passed on, so that the hub cimports all it needs of a handshake from here.
from realtime.native.httphead cimport HEADERS_MAX, Field, Head, Limits, Span, default_limits, parse_head

cdef enum:
    ACCEPT_BYTES_MIN = 129  # a 101 with neither subprotocol nor extensions


# Return 0: plain HTTP; 1: a valid WebSocket upgrade; < 0: -status (400, 405, 426).
cdef int judge_upgrade(const Head* head) noexcept nogil

# Return the sentence to an answer < 0 of judge_upgrade: static, NUL-ended.
cdef const char* judge_reason(const Head* head) noexcept nogil

# Write the 101 and return its length. `key` is 24 bytes outside `to`. A length of 0: no such field.
# 0: does not fit, or subprotocol is no token or extensions no field value (header injection).
cdef size_t write_accept(
    uint8_t* to, size_t cap, const uint8_t* key, const char* subprotocol, size_t subprotocol_len,
    const char* extensions, size_t extensions_len,
) noexcept nogil

# Write the whole answer and return its length: status line, Date, Content-Type, Content-Length,
# Connection: close, what the status demands (Allow: GET on 405, Upgrade and Sec-WebSocket-Version on
# 426), `headers` (lines, each ending in CR LF), the empty line, `body`.
# 0: does not fit, or `headers` are not whole, valid field lines.
cdef size_t write_refusal(
    uint8_t* to, size_t cap, int status, const char* headers, size_t headers_len,
    const char* body, size_t body_len,
) noexcept nogil

# Return the field's value (latin-1; several lines joined by ", ") or None. Case-insensitive.
cdef object header_value(const uint8_t* data, const Head* head, str name)

# Return the bytes of a span as latin-1.
cdef str span_text(const uint8_t* data, Span span)


cdef class Request:
    cdef Head head
    cdef bytes data  # the head's own bytes, no more
    cdef const uint8_t* bytes_at(self) noexcept
