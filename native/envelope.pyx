"""The scanner of what clients send as JSON: one strict pass over a frame, message by message.

The pass finds the spans of `type`, `id`, `room`, `key` and `content` and proves the rest to be RFC 8259
JSON; the content stays text and is never decoded here. Scratch memory (key stack, arena) belongs to one
call. With `packed.scan_msgpack` and the encoders, which are passed on, it is all that core needs.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memset

from realtime.native.jsontext cimport *

# Named one by one: a cimported class would hide the Python name of the same class, which is passed on below.
from realtime.native.message cimport (
    FIELD_CONTENT,
    FIELD_ID,
    FIELD_KEY,
    FIELD_ROOM,
    FIELD_TYPE,
    FIELDS,
    Span,
    close_scanner,
    empty_frame,
    envelope_of,
    id_of,
    known_field,
    open_scanner,
    refused,
    too_many,
)
from realtime.native.scanner cimport *
from realtime.native.text cimport load8

from realtime.native.encode import encode_ack, encode_error, encode_push  # no-cython-lint
from realtime.native.encode import encode_reply, json_string  # no-cython-lint
from realtime.native.message import Envelope, Malformed  # no-cython-lint
from realtime.native.packed import scan_msgpack  # no-cython-lint


cpdef list scan(bytes frame, Py_ssize_t max_messages, Py_ssize_t max_depth=64):
    cdef Scanner s
    if frame is None:
        raise TypeError("frame is None, not bytes")
    open_scanner(&s, frame, max_messages, max_depth)
    try:
        return scan_lines(&s, max_messages)
    finally:
        close_scanner(&s)


cdef int scan_only(Scanner* s, Span* fields) noexcept nogil:
    """Scan a frame that is one sound message and nothing else, and note its spans; -1 for any other."""
    cdef const uint8_t* at = skip_blank(s, s.start)
    memset(fields, 0, <size_t>FIELDS * sizeof(Span))
    if at >= s.end or scan_members(s, at, fields) < 0:
        return -1
    return 0 if skip_blank(s, s.at) >= s.end else -1


cdef list scan_lines(Scanner* s, Py_ssize_t max_messages):
    cdef list found = None
    cdef const uint8_t* at = skip_blank(s, s.start)
    while at < s.end:
        if found is None:
            found = [scan_message(s, at)]
        elif len(found) < max_messages:
            found.append(scan_message(s, at))
        else:
            found.append(too_many(max_messages))
            return found
        at = skip_blank(s, resume(s, at) if s.fault else s.at)
    return found if found is not None else [empty_frame()]


cdef const uint8_t* resume(Scanner* s, const uint8_t* begin) noexcept nogil:
    """Return where to go on after a fault in the message at `begin`.

    That is the next line; or the byte of the fault, where it opens a line with "{": then the line
    before it was cut short, and this is a message of its own.
    """
    cdef const uint8_t* back = s.at
    if s.at > begin and s.at[0] == c"{":
        while (back - 1)[0] == 0x20 or (back - 1)[0] == 0x09:
            back -= 1
        if (back - 1)[0] == 0x0A:
            return s.at
    back = <const uint8_t*>memchr(s.at, 0x0A, s.end - s.at)
    return back if back != NULL else s.end


cdef object scan_message(Scanner* s, const uint8_t* at):
    """Return the Envelope or Malformed that begins at `at`; `s.at` is then what follows it."""
    cdef Span[<int>FIELDS] fields
    memset(fields, 0, sizeof(fields))
    s.fault = FAULT_NONE
    s.key_count = 0
    s.arena_used = 0
    if scan_members(s, at, fields) == 0:
        return envelope_of(s, fields)
    return refused(s, id_of(s, &fields[<int>FIELD_ID]))


cdef int scan_members(Scanner* s, const uint8_t* at, Span* fields) noexcept nogil:
    """Scan one whole message up to the end of its line and note the spans; -1 at a fault."""
    cdef Span* field
    if at[0] != c"{":
        return refuse(s, at, FAULT_ENVELOPE)
    at = skip_blank(s, at + 1)
    if at[0] != c"}":
        while True:
            at = scan_key(s, at, fields, &field)
            if at == NULL:
                return -1
            s.broken = False
            if field != NULL:
                field.at = at
            at = skip_value(s, at, 1)
            if at == NULL:
                if field != NULL:
                    field.at = NULL
                return -1
            if field != NULL:
                field.end = at
                field.escaped = s.escaped
                field.broken = s.broken
            at = skip_blank(s, at)
            if at[0] != c",":
                break
            at = skip_blank(s, at + 1)
        if at[0] != c"}":
            return refuse(s, at, FAULT_COMMA_OBJECT)
        if drop_keys(s, 0, at) < 0:
            return -1
    at += 1
    while at[0] == 0x20 or at[0] == 0x09 or at[0] == 0x0D:
        at += 1
    if at < s.end and at[0] != 0x0A:
        return refuse(s, at, FAULT_TRAILING)
    s.at = at
    return 0


cdef inline const uint8_t* scan_key(Scanner* s, const uint8_t* at, Span* fields, Span** field) noexcept nogil:
    """Return the first byte of the value of the top-level key at `at`, or NULL.

    `field` is set to the key's span, or to NULL for a key that the envelope does not know: such
    ones go on the key stack, the known ones need no hash to be found twice.
    """
    cdef const uint8_t* data = at + 1
    cdef const uint8_t* close
    cdef size_t n
    cdef int known
    if at[0] != c'"':
        refuse(s, at, FAULT_KEY)
        return NULL
    known = compact_field(at, s.end, &close)
    if known < 0:
        close = skip_string(s, data)
        if close == NULL:
            return NULL
        n = close - data
        if s.escaped:
            data = unescaped(s, data, close, &n)
            if data == NULL:
                return NULL
        known = known_field(data, n)
        if known < 0 and add_key(s, 0, data, n, at) < 0:
            return NULL
    field[0] = NULL
    if known >= 0:
        field[0] = &fields[known]
        if field[0].at != NULL:
            refuse(s, at, FAULT_DUPLICATE)
            return NULL
    return skip_colon(s, close + 1)


cdef inline int compact_field(const uint8_t* at, const uint8_t* end, const uint8_t** close) noexcept nogil:
    """Return the known key that stands at `at` (its quote) as plain text, and its closing quote; or -1.

    One eight-byte comparison in place of finding the end of the key first.
    """
    cdef uint64_t head
    if end - at < 16:
        return -1
    head = load8(at)
    if (head & <uint64_t>0x0000FFFFFFFFFFFF) == <uint64_t>0x226570797422:       # "type"
        close[0] = at + 5
        return FIELD_TYPE
    if (head & <uint64_t>0x00000000FFFFFFFF) == <uint64_t>0x22646922:           # "id"
        close[0] = at + 3
        return FIELD_ID
    if (head & <uint64_t>0x0000FFFFFFFFFFFF) == <uint64_t>0x226D6F6F7222:       # "room"
        close[0] = at + 5
        return FIELD_ROOM
    if head == <uint64_t>0x746E65746E6F6322 and at[8] == c'"':                  # "content"
        close[0] = at + 8
        return FIELD_CONTENT
    if (head & <uint64_t>0x000000FFFFFFFFFF) == <uint64_t>0x2279656B22:         # "key"
        close[0] = at + 4
        return FIELD_KEY
    return -1
