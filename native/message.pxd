"""What both scanners make of a message once its text is known to be sound; see `message.pyx`."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from realtime.native.scanner cimport Scanner

cdef enum Field:
    FIELD_TYPE, FIELD_ID, FIELD_ROOM, FIELD_KEY, FIELD_CONTENT, FIELDS

ctypedef struct Span:
    const uint8_t* at       # first byte of the value; NULL where the key is absent
    const uint8_t* end
    bint escaped            # a string with an escape in it
    bint broken             # newlines between its tokens


cdef class Envelope:
    cdef str type
    cdef bytes id
    cdef str room
    cdef str key
    cdef bytes content


cdef class Malformed:
    cdef readonly str reason
    cdef readonly bytes id
    cdef readonly Py_ssize_t messages_max


cdef inline int known_field(const uint8_t* data, size_t n) noexcept nogil:
    """Return which key of the envelope the `n` bytes name, or -1."""
    if n == 4:
        if memcmp(data, b"type", 4) == 0:
            return FIELD_TYPE
        return FIELD_ROOM if memcmp(data, b"room", 4) == 0 else -1
    if n == 2:
        return FIELD_ID if data[0] == c"i" and data[1] == c"d" else -1
    if n == 7:
        return FIELD_CONTENT if memcmp(data, b"content", 7) == 0 else -1
    if n == 3:
        return FIELD_KEY if memcmp(data, b"key", 3) == 0 else -1
    return -1


cdef int open_scanner(Scanner* s, bytes frame, Py_ssize_t max_messages, Py_ssize_t max_depth) except -1
cdef void close_scanner(Scanner* s) noexcept
cdef object envelope_of(Scanner* s, Span* fields)
cdef bytes id_of(Scanner* s, Span* span)
cdef bint id_is_good(Scanner* s, Span* span) except -1
cdef Malformed malformed(str reason, bytes id)
cdef Malformed refused(Scanner* s, bytes id)
cdef Malformed empty_frame()
cdef Malformed too_many(Py_ssize_t max_messages)
