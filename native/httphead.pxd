"""The head of an HTTP/1.1 request as offsets into the buffer it was parsed from.

Ownership: nothing here allocates or keeps a pointer; a `Head` means something only beside its buffer.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    HEADERS_MAX = 100  # capacity of the field table; limits.headers_max is clipped to it


cdef struct Span:
    uint32_t start  # offset into the buffer that was parsed
    uint32_t length


cdef struct Field:
    Span name  # as sent, any case
    Span value  # without the white space around it; may hold obs-text (0x80 to 0xff)


cdef struct Limits:
    uint32_t head_bytes_max  # all of it, with the final empty line; beyond: 431
    uint32_t request_line_bytes_max  # with its CRLF; beyond: 414
    uint32_t headers_max  # field lines, at most HEADERS_MAX; beyond: 431


cdef struct Head:
    # Everything but `fields` past `header_count` is set by parse_head once it answers > 0.
    # After an answer < 0 only `reason` is: a static NUL-ended sentence, without CR or LF.
    const char* reason
    uint64_t content_length  # 0 where the field is absent; saturates at 2**63
    Span method
    Span target  # as sent
    Span path  # starts with '/' and is never empty, also for an absolute-form target without a path
    Span query  # after the first '?'; length 0 where there is none
    Span host  # authority of an absolute-form target, else the value of Host; length 0: none (1.0 only)
    Span key  # Sec-WebSocket-Key
    uint32_t header_count
    int minor_version  # 0 for HTTP/1.0, else 1: HTTP/1.2 to 1.9 are treated as 1.1 (RFC 9110, 2.5)
    int ws_version  # Sec-WebSocket-Version: 13, 0 where the field is absent, -1 for all else
    uint8_t is_get
    uint8_t host_count
    uint8_t key_count
    uint8_t key_valid  # 16 bytes in base64
    uint8_t content_length_count
    uint8_t chunked
    uint8_t has_body  # Content-Length over 0, or Transfer-Encoding
    uint8_t upgrade_websocket  # `websocket` is an element of Upgrade
    uint8_t connection_upgrade  # `upgrade` is an element of Connection
    uint8_t connection_close
    uint8_t connection_keep_alive
    uint8_t keep_alive  # may the connection serve another request after this one?
    Field fields[HEADERS_MAX]


# Set a head of 16 KiB, a request line of 8 KiB and 100 fields.
cdef void default_limits(Limits* limits) noexcept nogil

# Return > 0: bytes of the head, with CR LF CR LF and the one empty line that may come before it
# (RFC 9112, 2.2); 0: need more; < 0: -status (400, 414, 431, 501, 505).
# Stateless: call it again with the same bytes and more. An answer other than 0 stays the same
# whatever follows, and an error is answered at the first byte (for the meaning of a field: at the
# end of its line) that proves it.
cdef int parse_head(const uint8_t* data, size_t n, const Limits* limits, Head* head) noexcept nogil

# May it stand in a field that we write? Each answers True for no bytes at all.
cdef bint token_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil
cdef bint text_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil
cdef bint field_lines_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil  # each with its CR LF
