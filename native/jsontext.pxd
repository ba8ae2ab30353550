"""The grammar of RFC 8259, scanned where the text lies: no Python object is made and nothing recurses.

Each function reads `at < end` of a buffer that the caller keeps alive and that has one NUL byte at `end`, as
every `bytes` object does: the NUL is no legal byte outside a string and a control character inside one, so
it stops each loop. What an accepted text still may hold is bad UTF-8; the hub has checked that before.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from realtime.native.scanner cimport *
from realtime.native.text cimport hex4, load4, skip_ordinary

cdef enum:
    LITERAL_TRUE = 0x65757274       # "true", as four bytes are loaded
    LITERAL_NULL = 0x6C6C756E
    LITERAL_ALSE = 0x65736C61       # "false" without its first byte


cdef inline const uint8_t* skip_blank(Scanner* s, const uint8_t* at) noexcept nogil:
    while at[0] <= 0x20:
        if at[0] == 0x0A or at[0] == 0x0D:
            s.broken = True
        elif at[0] != 0x20 and at[0] != 0x09:
            break
        at += 1
    return at


cdef inline const uint8_t* skip_escape(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return what follows the escape at `at` (its backslash), or NULL with the fault noted."""
    cdef uint8_t letter = at[1]
    cdef int32_t unit, second
    s.escaped = True
    if letter != c"u":
        if letter in (c'"', c"\\", c"/", c"b", c"f", c"n", c"r", c"t"):
            return at + 2
        refuse(s, at + 1, FAULT_ESCAPE)
        return NULL
    unit = hex4(at + 2)
    if unit < 0:
        refuse(s, at, FAULT_HEX)
        return NULL
    if unit < 0xD800 or unit > 0xDFFF:
        return at + 6
    if unit < 0xDC00 and at[6] == c"\\" and at[7] == c"u":
        second = hex4(at + 8)
        if 0xDC00 <= second <= 0xDFFF:
            return at + 12
    refuse(s, at, FAULT_SURROGATE)
    return NULL


cdef inline const uint8_t* skip_string(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return the closing quote of the string whose first byte after the quote is `at`, or NULL."""
    s.escaped = False
    while True:
        at = skip_ordinary(at, s.end)
        if at[0] == c'"':
            return at
        if at[0] == c"\\":
            at = skip_escape(s, at)
            if at == NULL:
                return NULL
        elif at[0] < 0x20:
            refuse(s, at, FAULT_CONTROL)
            return NULL
        else:
            at += 1


cdef inline const uint8_t* skip_number(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return what follows the number at `at` (a digit or a minus), or NULL."""
    cdef const uint8_t* begin = at
    if at[0] == c"-":
        at += 1
    if at[0] == c"0":
        at += 1
        if 0x30 <= at[0] <= 0x39:
            refuse(s, at - 1, FAULT_ZERO)
            return NULL
    elif 0x31 <= at[0] <= 0x39:
        while 0x30 <= at[0] <= 0x39:
            at += 1
    else:
        refuse(s, at, FAULT_NAN if at[0] == c"I" else FAULT_NUMBER)
        return NULL
    if at[0] == c".":
        at += 1
        begin = at
        while 0x30 <= at[0] <= 0x39:
            at += 1
        if at == begin:
            refuse(s, at, FAULT_NUMBER)
            return NULL
    if at[0] == c"e" or at[0] == c"E":
        at += 1
        if at[0] == c"+" or at[0] == c"-":
            at += 1
        begin = at
        while 0x30 <= at[0] <= 0x39:
            at += 1
        if at == begin:
            refuse(s, at, FAULT_NUMBER)
            return NULL
    return at


cdef inline const uint8_t* skip_word(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return what follows the `true`, `false` or `null` at `at`, or NULL with the fault noted."""
    cdef uint8_t first = at[0]
    if s.end - at >= 4:
        if load4(at) == LITERAL_TRUE or load4(at) == LITERAL_NULL:
            return at + 4
        if first == c"f" and s.end - at >= 5 and load4(at + 1) == LITERAL_ALSE:
            return at + 5
    if first == c"N" or first == c"I":
        refuse(s, at, FAULT_NAN)
    elif first == c"t" or first == c"f" or first == c"n":
        refuse(s, at, FAULT_LITERAL)
    else:
        refuse(s, at, FAULT_VALUE)
    return NULL


cdef inline const uint8_t* skip_colon(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return the first byte of the value after the colon at `at` (blanks around it allowed), or NULL."""
    at = skip_blank(s, at)
    if at[0] != c":":
        refuse(s, at, FAULT_COLON)
        return NULL
    return skip_blank(s, at + 1)


cdef inline const uint8_t* skip_key(Scanner* s, const uint8_t* at, size_t base) noexcept nogil:
    """Note the key at `at` (its quote) and return the first byte of its value, or NULL."""
    cdef const uint8_t* data = at + 1
    cdef const uint8_t* close
    cdef size_t n
    if at[0] != c'"':
        refuse(s, at, FAULT_KEY)
        return NULL
    close = skip_string(s, data)
    if close == NULL:
        return NULL
    n = close - data
    if s.escaped:
        data = unescaped(s, data, close, &n)
        if data == NULL:
            return NULL
    if add_key(s, base, data, n, at) < 0:
        return NULL
    return skip_colon(s, close + 1)


cdef inline const uint8_t* skip_scalar(Scanner* s, const uint8_t* at) noexcept nogil:
    """Return what follows the string, number or word at `at`, or NULL."""
    if at[0] == c'"':
        at = skip_string(s, at + 1)
        return at + 1 if at != NULL else NULL
    if at[0] == c"-" or 0x30 <= at[0] <= 0x39:
        return skip_number(s, at)
    return skip_word(s, at)


cdef inline const uint8_t* skip_value(Scanner* s, const uint8_t* at, uint32_t depth) noexcept nogil:
    """Return what follows the value at `at`, which stands inside `depth` containers; NULL at a fault.

    `bases` holds for each open container where its keys begin, or ARRAY.
    """
    cdef size_t[DEPTH_LIMIT] bases
    cdef size_t array = <size_t>-1
    cdef uint32_t open_count = 0
    cdef size_t base
    while True:
        if at[0] == c"{" or at[0] == c"[":
            if depth + open_count >= s.max_depth:
                refuse(s, at, FAULT_DEPTH)
                return NULL
            base = s.key_count if at[0] == c"{" else array
            bases[open_count] = base
            open_count += 1
            at = skip_blank(s, at + 1)
            if at[0] != (c"]" if base == array else c"}"):
                if base != array:
                    at = skip_key(s, at, base)
                    if at == NULL:
                        return NULL
                continue
            open_count -= 1
            at += 1
        else:
            at = skip_scalar(s, at)
            if at == NULL:
                return NULL
        while True:         # a value has ended: so may the containers around it
            if open_count == 0:
                return at
            base = bases[open_count - 1]
            at = skip_blank(s, at)
            if at[0] == c",":
                at = skip_blank(s, at + 1)
                if base != array:
                    at = skip_key(s, at, base)
                    if at == NULL:
                        return NULL
                break
            if at[0] != (c"]" if base == array else c"}"):
                refuse(s, at, FAULT_COMMA_ARRAY if base == array else FAULT_COMMA_OBJECT)
                return NULL
            if base != array and drop_keys(s, base, at) < 0:
                return NULL
            open_count -= 1
            at += 1
