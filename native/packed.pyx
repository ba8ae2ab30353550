"""The scanner of what clients send as MessagePack: transcoding to JSON text, bounds-checked and iterative.

The text is written at `text.to`; `scan_msgpack` owns the buffer and makes it TEXT_GROWTH times as large as
the frame, which no value outgrows with its comma or colon: `false` is 1 byte and becomes 6, a control
character in a string too; a float has 5 or 9 and becomes 25 at most. No length that a peer declares is
believed before as many bytes are there. Faults are noted in a `Scanner` of the frame. A *structural* one
(truncated, a length that lies, the reserved byte) ends the frame: where the next value begins is not
known. Any other ends a message only: `skip_values` finds its end.
"""

from libc.math cimport isfinite
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from realtime.native.message cimport *
from realtime.native.scanner cimport *
from realtime.native.shortest cimport SHORTEST_BYTES_MAX, put_shortest
from realtime.native.text cimport digits_of, is_utf8, put_escaped

cdef enum:
    TEXT_GROWTH = 6

cdef enum Kind:
    KIND_NULL
    KIND_FALSE
    KIND_TRUE
    KIND_UNSIGNED
    KIND_SIGNED
    KIND_FLOAT
    KIND_STRING
    KIND_BINARY
    KIND_EXTENSION
    KIND_ARRAY
    KIND_MAP

ctypedef struct Token:
    Kind kind
    const uint8_t* head     # its first byte
    const uint8_t* data     # of a string
    uint64_t number         # value, two's complement where signed; bytes, elements or pairs of the rest
    double real

ctypedef struct Text:
    uint8_t* data
    uint8_t* to             # where the next byte goes

ctypedef struct Container:
    uint64_t left           # values still to come; a key is one too
    size_t base             # where the keys of a map begin on the key stack
    bint is_map
    bint begun              # something stands in it already


def scan_msgpack(bytes frame not None, Py_ssize_t max_messages, Py_ssize_t max_depth=64):
    cdef Scanner s
    cdef Text text
    if len(frame) == 0:
        return [empty_frame()]
    open_scanner(&s, frame, max_messages, max_depth)
    text.data = <uint8_t*>malloc(TEXT_GROWTH * (s.end - s.start))
    try:
        if text.data == NULL:
            raise MemoryError()
        return scan_packed(&s, &text, max_messages)
    finally:
        free(text.data)
        close_scanner(&s)


cdef list scan_packed(Scanner* s, Text* text, Py_ssize_t max_messages):
    cdef Token token
    cdef list found = []
    cdef const uint8_t* at = s.start
    cdef const uint8_t* begin
    cdef uint64_t i
    cdef uint64_t count = 1
    token.kind = KIND_NULL
    begin = read_token(s, at, &token)
    if begin != NULL and token.kind == KIND_ARRAY:
        count = token.number
        at = begin
    for i in range(count):
        if <Py_ssize_t>i == max_messages:
            found.append(too_many(max_messages))
            return found
        found.append(scan_packed_message(s, text, at))
        at = s.at
        if is_structural(s.fault):
            return found
    if at < s.end:
        refuse(s, at, FAULT_PACKED_TRAILING)
        if token.kind == KIND_ARRAY:
            found.append(refused(s, None))
        else:
            found[0] = refused(s, found[0].id)
    return found if found else [empty_frame()]


cdef object scan_packed_message(Scanner* s, Text* text, const uint8_t* at):
    """Return the Envelope or Malformed of the value at `at`; `s.at` is then what follows it."""
    cdef Span[<int>FIELDS] fields
    cdef uint64_t unread
    memset(fields, 0, sizeof(fields))
    text.to = text.data
    s.fault = FAULT_NONE
    s.key_count = 0
    s.arena_used = 0
    if read_members(s, text, at, fields, &unread) == 0:
        return envelope_of(s, fields)
    found = refused(s, id_of(s, &fields[<int>FIELD_ID]))
    if not is_structural(s.fault):
        at = skip_values(s, s.at, unread)
        if at != NULL:
            s.at = at
    return found


cdef inline bint is_structural(int fault) noexcept nogil:
    """Does the fault hide where the next value begins?"""
    return fault == FAULT_PACKED_END or fault == FAULT_PACKED_LENGTH or fault == FAULT_PACKED_RESERVED


cdef int read_members(Scanner* s, Text* text, const uint8_t* at, Span* fields, uint64_t* unread) noexcept:
    """Transcode the map at `at` and note the spans in the text; -1 at a fault, as `transcode` has it."""
    cdef Token token
    cdef Span* field
    cdef uint64_t left
    unread[0] = 0
    at = read_token(s, at, &token)
    if at == NULL:
        return -1
    if token.kind != KIND_MAP:
        unread[0] = children(&token)
        refuse(s, token.head, FAULT_PACKED_ENVELOPE)
        s.at = at
        return -1
    left = 2 * token.number
    while left > 0:
        at = read_token(s, at, &token)
        if at == NULL:
            return -1
        left -= 1
        if read_key(s, &token, fields, &field) < 0:
            unread[0] = left + children(&token)
            s.at = at
            return -1
        left -= 1
        if field != NULL:
            field.at = text.to
        at = transcode(s, text, at, 1, unread)
        if at == NULL:
            unread[0] += left
            if field != NULL:
                field.at = NULL
            return -1
        if field != NULL:
            field.end = text.to
            field.escaped = s.escaped
    s.at = at
    if drop_keys(s, 0, at) < 0:
        return -1
    return 0


cdef inline int read_key(Scanner* s, const Token* token, Span* fields, Span** field) noexcept nogil:
    """Set `field` to the span of a top-level key, NULL where the envelope does not know it; -1 at a fault."""
    cdef int known
    if token.kind != KIND_STRING:
        return refuse(s, token.head, FAULT_PACKED_KEY)
    if not is_utf8(token.data, token.data + token.number):
        return refuse(s, token.head, FAULT_PACKED_UTF8)
    known = known_field(token.data, token.number)
    field[0] = NULL
    if known < 0:
        return add_key(s, 0, token.data, token.number, token.head)
    field[0] = &fields[known]
    if field[0].at != NULL:
        return refuse(s, token.head, FAULT_DUPLICATE)
    return 0


cdef inline uint64_t big_endian(const uint8_t* at, int n) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(n):
        value = value << 8 | at[i]
    return value


cdef inline int size_bytes(uint8_t head) noexcept nogil:
    """How many bytes after `head` hold its number or length: 0, 1, 2, 4 or 8; -1 for the reserved 0xc1."""
    if head <= 0xBF or head >= 0xE0:
        return 0
    if head <= 0xC3:
        return 0 if head != 0xC1 else -1
    if head <= 0xC9:
        return 1 << (head - 0xC4) % 3               # bin 8-32, ext 8-32
    if head <= 0xCB:
        return 4 << (head - 0xCA)                   # float 32, 64
    if head <= 0xD3:
        return 1 << (head & 3)                      # uint 8-64, int 8-64
    if head <= 0xD8:
        return 0                                    # fixext
    if head <= 0xDB:
        return 1 << (head - 0xD9)                   # str 8-32
    return 2 << (head & 1)                          # array and map 16, 32


cdef inline const uint8_t* read_token(Scanner* s, const uint8_t* at, Token* token) noexcept nogil:
    """Read the value at `at`; of an array or map its head only. Return what follows, or NULL (structural)."""
    cdef uint8_t head
    cdef int n
    if at >= s.end:
        refuse(s, at, FAULT_PACKED_END)
        return NULL
    head = at[0]
    n = size_bytes(head)
    if n < 0:
        refuse(s, at, FAULT_PACKED_RESERVED)
        return NULL
    if s.end - at - 1 < n:
        refuse(s, at, FAULT_PACKED_END)
        return NULL
    token.head = at
    at += 1
    read_head(head, at, n, token)
    at += n
    token.data = at
    if token.kind < KIND_STRING:
        return at
    if token.kind >= KIND_ARRAY:
        # Every value takes a byte at least, so a count past the bytes left is a lie.
        if token.number * (1 + (token.kind == KIND_MAP)) > <uint64_t>(s.end - at):
            refuse(s, token.head, FAULT_PACKED_LENGTH)
            return NULL
        return at
    if token.number > <uint64_t>(s.end - at):
        refuse(s, token.head, FAULT_PACKED_LENGTH)
        return NULL
    return at + token.number


cdef inline void read_head(uint8_t head, const uint8_t* at, int n, Token* token) noexcept nogil:
    """Set kind and number of `token` by its first byte and the `n` bytes at `at`."""
    cdef uint32_t bits
    token.number = big_endian(at, n)
    token.real = 0
    if head <= 0x7F:
        token.kind, token.number = KIND_UNSIGNED, head
    elif head <= 0x8F:
        token.kind, token.number = KIND_MAP, head & 0x0F
    elif head <= 0x9F:
        token.kind, token.number = KIND_ARRAY, head & 0x0F
    elif head <= 0xBF:
        token.kind, token.number = KIND_STRING, head & 0x1F
    elif head == 0xC0:
        token.kind = KIND_NULL
    elif head <= 0xC3:
        token.kind = KIND_TRUE if head == 0xC3 else KIND_FALSE
    elif head <= 0xC6:
        token.kind = KIND_BINARY
    elif head <= 0xC9:
        token.kind = KIND_EXTENSION
        token.number += 1                           # the type
    elif head == 0xCA:
        token.kind = KIND_FLOAT
        bits = <uint32_t>token.number
        token.real = (<float*>&bits)[0]
    elif head == 0xCB:
        token.kind = KIND_FLOAT
        token.real = (<double*>&token.number)[0]
    elif head <= 0xCF:
        token.kind = KIND_UNSIGNED
    elif head <= 0xD3:
        read_signed(token, n)
    elif head <= 0xD8:
        token.kind, token.number = KIND_EXTENSION, 1 + (1 << (head - 0xD4))
    elif head <= 0xDB:
        token.kind = KIND_STRING
    elif head <= 0xDD:
        token.kind = KIND_ARRAY
    elif head <= 0xDF:
        token.kind = KIND_MAP
    else:
        token.number = head
        read_signed(token, 1)


cdef inline void read_signed(Token* token, int n) noexcept nogil:
    """Take `token.number` as a signed integer of `n` bytes."""
    cdef int64_t value = <int64_t>token.number
    if n == 1:
        value = <int8_t>token.number
    elif n == 2:
        value = <int16_t>token.number
    elif n == 4:
        value = <int32_t>token.number
    token.kind = KIND_SIGNED if value < 0 else KIND_UNSIGNED
    token.number = <uint64_t>value


cdef inline uint64_t children(const Token* token) noexcept nogil:
    """How many values follow `token` as parts of it."""
    if token.kind == KIND_MAP:
        return 2 * token.number
    return token.number if token.kind == KIND_ARRAY else 0


cdef inline const uint8_t* skip_values(Scanner* s, const uint8_t* at, uint64_t count) noexcept nogil:
    """Return what follows the next `count` values, of any depth; NULL at a structural fault."""
    cdef Token token
    while count > 0:
        if count > <uint64_t>(s.end - at):
            refuse(s, at, FAULT_PACKED_END)
            return NULL
        at = read_token(s, at, &token)
        if at == NULL:
            return NULL
        count += children(&token) - 1
    return at


cdef inline void put_text(Text* text, const void* data, size_t n) noexcept nogil:
    memcpy(text.to, data, n)
    text.to += n


cdef inline int put_string(Scanner* s, Text* text, const Token* token) noexcept nogil:
    """Write a string in its quotes; -1 where it is no UTF-8. Sets `s.escaped`."""
    cdef uint8_t* begin = text.to + 1
    cdef uint8_t* end
    if not is_utf8(token.data, token.data + token.number):
        return refuse(s, token.head, FAULT_PACKED_UTF8)
    text.to[0] = c'"'
    end = put_escaped(begin, token.data, token.number)
    end[0] = c'"'
    text.to = end + 1
    s.escaped = <uint64_t>(end - begin) != token.number
    return 0


cdef inline int put_float(Scanner* s, Text* text, const Token* token) noexcept:
    """Write the shortest decimal that reads back as the same double; -1 where it is not finite."""
    cdef uint8_t[SHORTEST_BYTES_MAX] digits
    if not isfinite(token.real):
        return refuse(s, token.head, FAULT_PACKED_FINITE)
    put_text(text, <const char*>digits, put_shortest(token.real, digits))
    return 0


cdef inline int put_scalar(Scanner* s, Text* text, const Token* token) noexcept:
    """Write what is neither array nor map as JSON; -1 where JSON has no such thing."""
    cdef uint8_t[20] digits
    cdef size_t n
    if token.kind == KIND_STRING:
        return put_string(s, text, token)
    if token.kind == KIND_FLOAT:
        return put_float(s, text, token)
    if token.kind == KIND_BINARY:
        return refuse(s, token.head, FAULT_PACKED_BINARY)
    if token.kind == KIND_EXTENSION:
        return refuse(s, token.head, FAULT_PACKED_EXTENSION)
    if token.kind == KIND_NULL:
        put_text(text, b"null", 4)
    elif token.kind == KIND_TRUE:
        put_text(text, b"true", 4)
    elif token.kind == KIND_FALSE:
        put_text(text, b"false", 5)
    else:
        if token.kind == KIND_SIGNED:
            put_text(text, b"-", 1)
        n = digits_of(token.number if token.kind == KIND_UNSIGNED else 0 - token.number, digits)
        put_text(text, digits + 20 - n, n)
    return 0


cdef inline int put_key(Scanner* s, Text* text, const Token* token, size_t base) noexcept nogil:
    """Write a key of the map whose keys begin at `base`, and its colon; -1 at a fault."""
    if token.kind != KIND_STRING:
        return refuse(s, token.head, FAULT_PACKED_KEY)
    if put_string(s, text, token) < 0 or add_key(s, base, token.data, token.number, token.head) < 0:
        return -1
    put_text(text, b":", 1)
    return 0


cdef inline const uint8_t* transcode(Scanner* s, Text* text, const uint8_t* at, uint32_t depth,
                                     uint64_t* unread) noexcept:
    """Write the value at `at`, inside `depth` containers, as JSON; return what follows it.

    NULL at a fault: then `s.at` is what follows the last value read, and `unread` counts the values after
    it that belong to this one; it is 0 and means nothing after a structural fault.
    """
    cdef Container[DEPTH_LIMIT] containers
    cdef Container* around
    cdef Token token
    cdef uint32_t open_count = 0
    cdef int result
    unread[0] = 0
    while True:
        around = &containers[open_count - 1] if open_count else NULL
        if around != NULL and around.left == 0:
            open_count -= 1
            put_text(text, b"}" if around.is_map else b"]", 1)
            result = drop_keys(s, around.base, at) if around.is_map else 0
            if result == 0:
                if open_count == 0:
                    return at
                continue
            token.kind = KIND_NULL
        else:
            at = read_token(s, at, &token)
            if at == NULL:
                return NULL
            result = put_next(s, text, &token, around)
            if result > 0:
                if depth + open_count >= s.max_depth:
                    result = refuse(s, token.head, FAULT_DEPTH)
                else:
                    open_container(s, &containers[open_count], &token)
                    open_count += 1
                    continue
            if result == 0:
                if open_count == 0:
                    return at
                continue
        while open_count > 0:
            open_count -= 1
            unread[0] += containers[open_count].left
        unread[0] += children(&token)
        s.at = at
        return NULL


cdef inline void open_container(Scanner* s, Container* made, const Token* token) noexcept nogil:
    made.left = children(token)
    made.base = s.key_count
    made.is_map = token.kind == KIND_MAP
    made.begun = False


cdef inline int put_next(Scanner* s, Text* text, const Token* token, Container* around) noexcept:
    """Write one token: 0 done, 1 it opens a container and only its bracket is written, -1 at a fault."""
    if around != NULL:
        around.left -= 1
        if around.begun and not (around.is_map and not around.left & 1):
            put_text(text, b",", 1)
        around.begun = True
        if around.is_map and around.left & 1:
            return put_key(s, text, token, around.base)
    if token.kind < KIND_ARRAY:
        return put_scalar(s, text, token)
    put_text(text, b"{" if token.kind == KIND_MAP else b"[", 1)
    return 1
