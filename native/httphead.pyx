"""Parse the head of an HTTP/1.1 request: one pass over the bytes, no allocation, no Python.

It leaves to others: reading sockets and their deadlines, what a WebSocket handshake is
(`handshake`), bodies. Ownership: nothing is kept; a `Head` is offsets into the caller's buffer.

Strict on purpose: a form that two parsers could read differently (a bare CR or LF, white space before
the colon, folded lines, a repeated Host or Content-Length, both framings at once) is refused rather
than repaired. `tests/oracles/handshake.py` is the readable twin.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy


cdef enum:
    METHOD_BYTES_MAX = 24  # the longest registered method has 17
    KEY_BYTES = 24  # 16 bytes in base64
    TOKEN = 1  # tchar, RFC 9110 5.6.2
    TARGET = 2  # what a request target may hold
    HOST = 4  # reg-name
    BASE64 = 8

# Byte classes, filled below at import and only read afterwards.
cdef uint8_t CLASS[256]


cdef void fill_classes():
    cdef int c
    cdef bytes alnum = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    for c in range(256):
        CLASS[c] = 0
        # Browsers leave | ^ { } [ ] ` and \ as they are in a query (WHATWG URL), so every visible
        # character is taken but the four that no client sends: " < > and #, which starts a fragment.
        if 0x21 <= c <= 0x7e and c not in b'"<>#':
            CLASS[c] |= TARGET
        if c in alnum or c in b"!#$%&'*+-.^_`|~":
            CLASS[c] |= TOKEN
        # RFC 3986 reg-name without ',': two Host lines that a proxy joined must not look like one.
        if c in alnum or c in b"-._~%!$&'()*+;=":
            CLASS[c] |= HOST
        if c in alnum or c in b"+/":
            CLASS[c] |= BASE64


fill_classes()


cdef void default_limits(Limits* limits) noexcept nogil:
    limits.head_bytes_max = 16384
    limits.request_line_bytes_max = 8192
    limits.headers_max = HEADERS_MAX


# Parsing. Inside, positions are Py_ssize_t: > 0 go on there, 0 need more bytes, < 0 -status.

cdef int parse_head(const uint8_t* data, size_t n, const Limits* limits, Head* head) noexcept nogil:
    cdef Py_ssize_t end = <Py_ssize_t>min(n, <size_t>limits.head_bytes_max)
    cdef Py_ssize_t at
    clear(head)
    at = parse_request_line(data, end, limits, head)
    if at > 0:
        at = parse_fields(data, at, end, limits, head)
    if at == 0 and n >= limits.head_bytes_max:
        at = fail(head, 431, "request head too large")
    return <int>at


cdef inline void clear(Head* head) noexcept nogil:
    # Field by field and not memset: the table of 1600 bytes needs no clearing.
    head.reason = ""
    head.content_length = 0
    head.method.start = head.method.length = 0
    head.target.start = head.target.length = 0
    head.path.start = head.path.length = 0
    head.query.start = head.query.length = 0
    head.host.start = head.host.length = 0
    head.key.start = head.key.length = 0
    head.header_count = 0
    head.minor_version = 1
    head.ws_version = 0
    head.is_get = 0
    head.host_count = 0
    head.key_count = 0
    head.key_valid = 0
    head.content_length_count = 0
    head.chunked = 0
    head.has_body = 0
    head.upgrade_websocket = 0
    head.connection_upgrade = 0
    head.connection_close = 0
    head.connection_keep_alive = 0
    head.keep_alive = 0


cdef inline int fail(Head* head, int status, const char* reason) noexcept nogil:
    head.reason = reason
    return -status


cdef Py_ssize_t parse_request_line(
    const uint8_t* data, Py_ssize_t end, const Limits* limits, Head* head
) noexcept nogil:
    cdef Py_ssize_t start = 0, line_end, at
    if end == 0:
        return 0
    if data[0] == c"\r":  # one empty line before the request is tolerated (RFC 9112, 2.2)
        if end == 1:
            return 0
        if data[1] != c"\n":
            return fail(head, 400, "bare CR before the request line")
        start = 2
    line_end = min(end, start + <Py_ssize_t>limits.request_line_bytes_max)
    at = parse_method(data, start, line_end, head)
    if at > 0:
        at = parse_target(data, at, line_end, head)
    if at > 0:
        at = parse_version(data, at, line_end, head)
    if at == 0 and line_end - start == <Py_ssize_t>limits.request_line_bytes_max:
        return fail(head, 414, "request line too long")
    return at


cdef inline Py_ssize_t parse_method(
    const uint8_t* data, Py_ssize_t start, Py_ssize_t end, Head* head
) noexcept nogil:
    cdef Py_ssize_t at = start
    while at < end and CLASS[data[at]] & TOKEN:
        at += 1
        if at - start > METHOD_BYTES_MAX:
            return fail(head, 501, "unknown method")
    if at == end:
        return 0
    if at == start or data[at] != c" ":
        return fail(head, 400, "malformed method")
    set_span(&head.method, start, at)
    head.is_get = (
        at - start == 3 and data[start] == c"G" and data[start + 1] == c"E" and data[start + 2] == c"T"
    )
    return at + 1


cdef inline Py_ssize_t parse_target(
    const uint8_t* data, Py_ssize_t start, Py_ssize_t end, Head* head
) noexcept nogil:
    cdef Py_ssize_t at = start
    cdef Py_ssize_t path = start
    cdef const uint8_t* mark
    if at == end:
        return 0
    if data[at] != c"/":
        if data[at] | 0x20 != c"h":  # `*` and authority-form: not for an origin server's resources
            return fail(head, 400, "request target must start with / or http")
        at = parse_authority(data, start, end, head)
        if at <= 0:
            return at
        path = at
    while at < end and CLASS[data[at]] & TARGET:
        at += 1
    if at == end:
        return 0
    if data[at] != c" ":
        return fail(head, 400, "bad character in the request target")
    set_span(&head.target, start, at)
    set_span(&head.path, path, at)
    mark = <const uint8_t*>memchr(data + path, c"?", at - path)
    if mark != NULL:
        set_span(&head.path, path, mark - data)
        set_span(&head.query, mark - data + 1, at)
    if head.path.length == 0:
        # http://host?x has no path, which means "/": show the first slash of the "//".
        mark = <const uint8_t*>memchr(data + start, c"/", at - start)
        set_span(&head.path, mark - data, mark - data + 1)
    return at + 1


cdef Py_ssize_t parse_authority(
    const uint8_t* data, Py_ssize_t start, Py_ssize_t end, Head* head
) noexcept nogil:
    """Read http://host:port or https://host:port; the position after it is '/', '?' or ' '."""
    cdef const char* scheme = "http://"
    cdef Py_ssize_t at = start, host
    cdef int i
    for i in range(7):
        if i == 4 and at < end and data[at] | 0x20 == c"s":
            at += 1
        if at == end:
            return 0
        if (data[at] | 0x20 if i < 4 else data[at]) != <uint8_t>scheme[i]:
            return fail(head, 400, "request target is neither a path nor an http URL")
        at += 1
    host = at
    while at < end and (CLASS[data[at]] & HOST or data[at] == c":" or data[at] == c"[" or data[at] == c"]"):
        at += 1
    if at == end:
        return 0
    if data[at] != c"/" and data[at] != c"?" and data[at] != c" ":
        return fail(head, 400, "bad character in the authority of the request target")
    if not host_valid(data + host, at - host):
        return fail(head, 400, "malformed authority in the request target")
    set_span(&head.host, host, at)
    return at


cdef inline Py_ssize_t parse_version(
    const uint8_t* data, Py_ssize_t start, Py_ssize_t end, Head* head
) noexcept nogil:
    cdef const char* expected = "HTTP/1.1\r\n"
    cdef Py_ssize_t i
    cdef uint8_t c
    for i in range(10):
        if start + i == end:
            return 0
        c = data[start + i]
        if i == 5 and c != c"1" and c"0" <= c <= c"9":
            return fail(head, 505, "only HTTP/1.1 is spoken here")
        if i == 7 and c"0" <= c <= c"9":
            head.minor_version = 0 if c == c"0" else 1
        elif c != <uint8_t>expected[i]:
            return fail(head, 400, "malformed HTTP version")
    return start + 10


cdef Py_ssize_t parse_fields(
    const uint8_t* data, Py_ssize_t at, Py_ssize_t end, const Limits* limits, Head* head
) noexcept nogil:
    cdef uint32_t headers_max = min(limits.headers_max, <uint32_t>HEADERS_MAX)
    cdef Field* field
    cdef const char* wrong = ""
    cdef int verdict
    while at < end and data[at] != c"\r":
        if head.header_count == headers_max:
            return fail(head, 431, "too many header fields")
        field = &head.fields[head.header_count]
        at = parse_field(data, at, end, field, &wrong)
        if at < 0:
            return fail(head, 400, wrong)
        if at == 0:
            return 0
        head.header_count += 1
        verdict = note_field(data, field, head)
        if verdict < 0:
            return verdict
    if end - at < 2:
        return 0
    if data[at + 1] != c"\n":
        return fail(head, 400, "bare CR after the header fields")
    if head.host_count == 0 and head.minor_version > 0:
        return fail(head, 400, "Host is missing")
    head.has_body = head.chunked or head.content_length > 0
    head.keep_alive = not head.connection_close and (head.minor_version > 0 or head.connection_keep_alive)
    return at + 2


cdef inline Py_ssize_t parse_field(
    const uint8_t* data, Py_ssize_t at, Py_ssize_t end, Field* field, const char** wrong
) noexcept nogil:
    """One line, `name: value CR LF`; on an error `wrong` says which and the answer is -1."""
    cdef Py_ssize_t start = at
    while at < end and CLASS[data[at]] & TOKEN:
        at += 1
    if at == end:
        return 0
    if at == start or data[at] != c":":
        wrong[0] = "malformed header field name"
        return -1
    set_span(&field.name, start, at)
    at += 1
    while at < end and (data[at] == c" " or data[at] == c"\t"):
        at += 1
    start = at
    at = skip_text(data, at, end)
    if at == end:
        return 0
    if data[at] != c"\r":
        wrong[0] = "control character in a header field"
        return -1
    if at + 1 == end:
        return 0
    if data[at + 1] != c"\n":
        wrong[0] = "bare CR in a header field"
        return -1
    end = at
    while end > start and (data[end - 1] == c" " or data[end - 1] == c"\t"):
        end -= 1
    set_span(&field.value, start, end)
    return at + 2


cdef inline Py_ssize_t skip_text(const uint8_t* data, Py_ssize_t at, Py_ssize_t end) noexcept nogil:
    """Return the position of the first control character but TAB at or after `at`, or `end`."""
    cdef uint64_t word, low, deleted
    while True:
        while at + 8 <= end:
            memcpy(&word, data + at, 8)
            # Eight bytes at a time: the top bit of `low` is set where a byte is under 0x20, that of
            # `deleted` where it is 0x7f (exact for "any", whatever the byte order).
            low = (word - 0x2020202020202020u) & ~word
            deleted = word ^ 0x7f7f7f7f7f7f7f7fu
            deleted = (deleted - 0x0101010101010101u) & ~deleted
            if (low | deleted) & 0x8080808080808080u:
                break
            at += 8
        while at < end and (data[at] >= 0x20 and data[at] != 0x7f):
            at += 1
        if at == end or data[at] != c"\t":
            return at
        at += 1


cdef inline void set_span(Span* span, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    span.start = <uint32_t>start
    span.length = <uint32_t>(end - start)


# What the fields mean.

cdef inline int note_field(const uint8_t* data, Field* field, Head* head) noexcept nogil:
    """Take down what the field says; 0, or -status where it must not be there like this."""
    cdef const uint8_t* name = data + field.name.start
    cdef const uint8_t* value = data + field.value.start
    cdef uint32_t n = field.value.length
    cdef uint32_t length = field.name.length
    if length == 4 and same(name, "host", 4):
        return note_host(value, n, field, head)
    if length == 7 and same(name, "upgrade", 7):
        note_list(value, n, head, True)
    elif length == 10 and same(name, "connection", 10):
        note_list(value, n, head, False)
    elif length == 14 and same(name, "content-length", 14):
        return note_content_length(value, n, head)
    elif length == 17 and same(name, "sec-websocket-key", 17):
        return note_key(value, n, field, head)
    elif length == 17 and same(name, "transfer-encoding", 17):
        return note_transfer_encoding(value, n, head)
    elif length == 21 and same(name, "sec-websocket-version", 21):
        if head.ws_version != 0:
            return fail(head, 400, "more than one Sec-WebSocket-Version")
        head.ws_version = 13 if n == 2 and value[0] == c"1" and value[1] == c"3" else -1
    return 0


cdef inline bint same(const uint8_t* token, const char* lower, uint32_t n) noexcept nogil:
    """Compare `n` bytes without regard to case. `lower` holds a-z, digits and '-'.

    Setting bit 5 maps only 'A' on 'a' and, on '-', only CR, which no token holds.
    """
    cdef uint32_t i
    for i in range(n):
        if token[i] | 0x20 != <uint8_t>lower[i]:
            return False
    return True


cdef int note_host(const uint8_t* value, uint32_t n, Field* field, Head* head) noexcept nogil:
    if head.host_count:
        return fail(head, 400, "more than one Host")
    if not host_valid(value, n):
        return fail(head, 400, "malformed Host")
    head.host_count = 1
    if head.host.length == 0:  # an absolute-form target wins over Host (RFC 9112, 3.2.2)
        head.host = field.value
    return 0


cdef bint host_valid(const uint8_t* host, Py_ssize_t n) noexcept nogil:
    """Is it `name`, `name:port`, `[address]` or `[address]:port`? A port has at most five digits."""
    cdef Py_ssize_t at = 0, port
    if n > 0 and host[0] == c"[":
        at = 1
        while at < n and host[at] != c"]" and (CLASS[host[at]] & HOST or host[at] == c":"):
            at += 1
        if at < 3 or at == n or host[at] != c"]":
            return False
        at += 1
    else:
        while at < n and CLASS[host[at]] & HOST:
            at += 1
        if at == 0:
            return False
    if at < n:
        if host[at] != c":":
            return False
        at += 1
    port = at
    while at < n and c"0" <= host[at] <= c"9":
        at += 1
    return at == n and at - port <= 5


cdef int note_content_length(const uint8_t* value, uint32_t n, Head* head) noexcept nogil:
    cdef uint32_t i
    cdef uint64_t total = 0
    if head.content_length_count or head.chunked:
        return fail(head, 400, "ambiguous body length")
    for i in range(n):
        if not c"0" <= value[i] <= c"9":
            n = 0
            break
        total = total * 10 + (value[i] - c"0") if total < 100000000000000000u else 1ull << 63
    if n == 0:
        return fail(head, 400, "malformed Content-Length")
    head.content_length_count = 1
    head.content_length = total
    return 0


cdef int note_transfer_encoding(const uint8_t* value, uint32_t n, Head* head) noexcept nogil:
    if head.content_length_count or head.chunked or head.minor_version == 0:
        return fail(head, 400, "ambiguous body length")
    if n != 7 or not same(value, "chunked", 7):
        return fail(head, 501, "transfer coding not supported")
    head.chunked = 1
    return 0


cdef int note_key(const uint8_t* value, uint32_t n, Field* field, Head* head) noexcept nogil:
    cdef uint32_t i
    if head.key_count:
        return fail(head, 400, "more than one Sec-WebSocket-Key")
    head.key_count = 1
    head.key = field.value
    if n != KEY_BYTES or value[22] != c"=" or value[23] != c"=":
        return 0
    for i in range(22):
        if not CLASS[value[i]] & BASE64:
            return 0
    head.key_valid = 1
    return 0


cdef void note_list(const uint8_t* value, uint32_t n, Head* head, bint upgrade) noexcept nogil:
    """Look through the elements of Upgrade or else Connection; empty ones are allowed."""
    cdef uint32_t start = 0, stop, length
    while start < n:
        stop = start
        while stop < n and value[stop] != c",":
            stop += 1
        length = stop - start
        while length and (value[start] == c" " or value[start] == c"\t"):
            start += 1
            length -= 1
        while length and (value[start + length - 1] == c" " or value[start + length - 1] == c"\t"):
            length -= 1
        if upgrade:
            if length == 9 and same(value + start, "websocket", 9):
                head.upgrade_websocket = 1
        elif length == 7 and same(value + start, "upgrade", 7):
            head.connection_upgrade = 1
        elif length == 5 and same(value + start, "close", 5):
            head.connection_close = 1
        elif length == 10 and same(value + start, "keep-alive", 10):
            head.connection_keep_alive = 1
        start = stop + 1


# For those who write fields.

cdef bint token_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if not CLASS[text[i]] & TOKEN:
            return False
    return True


cdef bint text_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil:
    return skip_text(text, 0, n) == n


cdef bint field_lines_valid(const uint8_t* text, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Field field
    cdef const char* wrong = ""
    while at < n:
        at = parse_field(text, at, n, &field, &wrong)
        if at <= 0:
            return False
    return True
