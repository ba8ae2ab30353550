"""Judge a WebSocket upgrade, write the answer to it, and show a parsed request to Python.

Hot path of reconnect storms: no allocation and no Python before the answer. It leaves to others:
parsing (`httphead`), sockets and deadlines (the hub), Origin and tokens (the edge).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset, strlen
from libc.time cimport time, time_t, tm

from realtime.native.httphead cimport field_lines_valid, text_valid, token_valid
from realtime.native.sha1 cimport sha1_rounds, sha1_schedule, sha1_start, write_base64

cdef extern from "<time.h>" nogil:
    tm* gmtime_r(const time_t* moment, tm* parts)


cdef enum:
    KEY_BYTES = 24
    REFUSAL_START_BYTES = 512  # room for what write_refusal writes before the caller's own headers


# Judging.

cdef int judge_upgrade(const Head* head) noexcept nogil:
    cdef const char* reason
    return judge(head, &reason)


cdef const char* judge_reason(const Head* head) noexcept nogil:
    cdef const char* reason = ""
    judge(head, &reason)
    return reason


cdef inline int judge(const Head* head, const char** reason) noexcept nogil:
    if not (head.upgrade_websocket or head.key_count or head.ws_version):
        return 0
    if not head.is_get:
        reason[0] = "a WebSocket handshake is a GET"
        return -405
    if head.minor_version == 0:
        reason[0] = "a WebSocket handshake needs HTTP/1.1"
        return -400
    if head.has_body:
        reason[0] = "a WebSocket handshake has no body"
        return -400
    if not head.upgrade_websocket:
        reason[0] = "Upgrade does not name websocket"
        return -400
    if not head.connection_upgrade:
        reason[0] = "Connection does not name Upgrade"
        return -400
    if head.ws_version != 13:
        reason[0] = "Sec-WebSocket-Version must be 13"
        return -426
    if not head.key_valid:
        reason[0] = "Sec-WebSocket-Key must be 16 bytes in base64"
        return -400
    return 1


# Answering.

cdef const char* GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
cdef const char* ACCEPT_START = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


cdef size_t write_accept(
    uint8_t* to, size_t cap, const uint8_t* key, const char* subprotocol, size_t subprotocol_len,
    const char* extensions, size_t extensions_len,
) noexcept nogil:
    cdef size_t at, needed = ACCEPT_BYTES_MIN
    if subprotocol_len > cap or extensions_len > cap:
        return 0
    if subprotocol_len:
        needed += 26 + subprotocol_len
    if extensions_len:
        needed += 28 + extensions_len
    if needed > cap:
        return 0
    if not token_valid(<const uint8_t*>subprotocol, subprotocol_len):
        return 0
    if not text_valid(<const uint8_t*>extensions, extensions_len):
        return 0
    at = put(to, 0, ACCEPT_START, strlen(ACCEPT_START))
    write_accept_key(to + at, key)
    at = put(to, at + 28, "\r\n", 2)
    if subprotocol_len:
        at = put(to, at, "Sec-WebSocket-Protocol: ", 24)
        at = put(to, at, subprotocol, subprotocol_len)
        at = put(to, at, "\r\n", 2)
    if extensions_len:
        at = put(to, at, "Sec-WebSocket-Extensions: ", 26)
        at = put(to, at, extensions, extensions_len)
        at = put(to, at, "\r\n", 2)
    return put(to, at, "\r\n", 2)


cdef inline size_t put(uint8_t* to, size_t at, const char* text, size_t n) noexcept nogil:
    memcpy(to + at, text, n)
    return at + n


# Whatever a refusal says, and whoever wrote a part of it, no browser takes it for a page.
cdef const char* SECURITY_FIELDS = (
    "X-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
)


cdef size_t write_refusal(
    uint8_t* to, size_t cap, int status, const char* headers, size_t headers_len,
    const char* body, size_t body_len,
) noexcept nogil:
    cdef char start[REFUSAL_START_BYTES]
    cdef char date[32]
    cdef size_t at
    cdef int n
    if headers_len > cap or body_len > cap or not field_lines_valid(<const uint8_t*>headers, headers_len):
        return 0
    write_date(date)
    n = snprintf(
        start, REFUSAL_START_BYTES,
        "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Length: %zu\r\n%s%s",
        status, reason_phrase(status), date, body_len, SECURITY_FIELDS, demanded_fields(status),
    )
    if n < 0 or n >= REFUSAL_START_BYTES or <size_t>n + headers_len + 2 + body_len > cap:
        return 0
    at = put(to, 0, start, <size_t>n)
    at = put(to, at, headers, headers_len)
    at = put(to, at, "\r\n", 2)
    return put(to, at, body, body_len)


cdef const char* demanded_fields(int status) noexcept nogil:
    """Return the lines a status needs (RFC 9110, 15.5.6 and 15.5.22; RFC 6455, 4.4)."""
    if status == 405:
        return "Connection: close\r\nAllow: GET\r\n"
    if status == 426:
        return "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    return "Connection: close\r\n"


cdef const char* reason_phrase(int status) noexcept nogil:
    """Return the standard's phrase; empty, as RFC 9112 allows, for a status that is not ours."""
    if status == 400:
        return "Bad Request"
    if status == 401:
        return "Unauthorized"
    if status == 403:
        return "Forbidden"
    if status == 404:
        return "Not Found"
    if status == 405:
        return "Method Not Allowed"
    if status == 408:
        return "Request Timeout"
    if status == 413:
        return "Content Too Large"
    if status == 414:
        return "URI Too Long"
    if status == 426:
        return "Upgrade Required"
    if status == 429:
        return "Too Many Requests"
    if status == 431:
        return "Request Header Fields Too Large"
    if status == 500:
        return "Internal Server Error"
    if status == 501:
        return "Not Implemented"
    if status == 503:
        return "Service Unavailable"
    if status == 505:
        return "HTTP Version Not Supported"
    return ""


cdef void write_date(char* to) noexcept nogil:
    """Write an IMF-fixdate, 29 characters and a NUL; strftime would follow the locale."""
    cdef const char* days = "SunMonTueWedThuFriSat"
    cdef const char* months = "JanFebMarAprMayJunJulAugSepOctNovDec"
    cdef time_t now = time(NULL)
    cdef tm parts
    gmtime_r(&now, &parts)
    snprintf(
        to, 32, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * parts.tm_wday, parts.tm_mday,
        months + 3 * parts.tm_mon, (parts.tm_year + 1900) % 10000, parts.tm_hour, parts.tm_min, parts.tm_sec,
    )


# Sec-WebSocket-Accept: base64(SHA-1(key + GUID)).

# 60 bytes are hashed, always: one block ends with the 0x80 mark, and the second holds nothing but the
# length in bits, so its words are the same for every key. Filled below at import, read-only afterwards.
cdef uint32_t LENGTH_WORDS[80]


cdef void fill_length_words():
    cdef uint8_t block[64]
    memset(block, 0, 64)
    block[62] = 480 >> 8
    block[63] = 480 & 0xff
    sha1_schedule(LENGTH_WORDS, block)


fill_length_words()


cdef void write_accept_key(uint8_t* to, const uint8_t* key) noexcept nogil:
    """Write the 28 characters that answer the 24 of `key`."""
    cdef uint8_t block[64]
    cdef uint32_t words[80]
    cdef uint32_t state[5]
    memcpy(block, key, KEY_BYTES)
    memcpy(block + KEY_BYTES, GUID, 36)
    block[60] = 0x80
    block[61] = block[62] = block[63] = 0
    sha1_start(state)
    sha1_schedule(words, block)
    sha1_rounds(state, words)
    sha1_rounds(state, LENGTH_WORDS)
    write_base64(to, state)


# Python's view.

cdef str span_text(const uint8_t* data, Span span):
    return PyUnicode_DecodeLatin1(<const char*>data + span.start, span.length, NULL)


cdef object header_value(const uint8_t* data, const Head* head, str name):
    cdef bytes wanted = name.lower().encode("latin-1", "replace")
    cdef const char* lower = wanted
    cdef uint32_t i, length = <uint32_t>PyBytes_GET_SIZE(wanted)
    cdef str found = None
    cdef Field field
    for i in range(head.header_count):
        field = head.fields[i]
        if field.name.length == length and same_name(data + field.name.start, lower, length):
            text = span_text(data, field.value)
            found = text if found is None else f"{found}, {text}"
    return found


cdef inline bint same_name(const uint8_t* name, const char* lower, uint32_t n) noexcept nogil:
    """Compare with any caller's `lower`, which `same` could take for another name ('^' for '~')."""
    cdef uint32_t i
    cdef uint8_t c
    for i in range(n):
        c = name[i]
        if (c | 0x20 if c"A" <= c <= c"Z" else c) != <uint8_t>lower[i]:
            return False
    return True


class BadRequest(ValueError):
    """The bytes are no request that may be served; `status` is the HTTP answer, `reason` says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


cdef class Request:
    """One parsed request head, with its own copy of the bytes. Made by `Request.parse` only."""

    def __init__(self):
        raise TypeError("use Request.parse")

    @staticmethod
    def parse(
        bytes data not None, *, uint32_t head_bytes_max=16384, uint32_t request_line_bytes_max=8192,
        uint32_t headers_max=HEADERS_MAX,
    ):
        """Return the request whose head `data` starts with, or None where more bytes are needed.

        Raises:
            BadRequest: it can become no valid request, whatever follows.
        """
        cdef Request request = Request.__new__(Request)
        cdef Limits limits
        cdef int answer
        limits.head_bytes_max = head_bytes_max
        limits.request_line_bytes_max = request_line_bytes_max
        limits.headers_max = headers_max
        answer = parse_head(
            <const uint8_t*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data), &limits, &request.head
        )
        if answer < 0:
            raise BadRequest(-answer, request.head.reason.decode("ascii"))
        if answer == 0:
            return None
        request.data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), answer)
        return request

    cdef const uint8_t* bytes_at(self) noexcept:
        return <const uint8_t*>PyBytes_AS_STRING(self.data)

    @property
    def head_bytes(self) -> int:
        """How many bytes the head took; what follows in the input is a body or the next request."""
        return PyBytes_GET_SIZE(self.data)

    @property
    def method(self) -> str:
        return span_text(self.bytes_at(), self.head.method)

    @property
    def target(self) -> str:
        return span_text(self.bytes_at(), self.head.target)

    @property
    def path(self) -> str:
        """Percent-encoded as sent, without the query, and never empty."""
        return span_text(self.bytes_at(), self.head.path)

    @property
    def query(self) -> str:
        return span_text(self.bytes_at(), self.head.query)

    @property
    def host(self) -> str:
        """The authority asked for: the target's own where it has one, else Host; "" in HTTP/1.0."""
        return span_text(self.bytes_at(), self.head.host)

    @property
    def version(self) -> str:
        return "1.1" if self.head.minor_version else "1.0"

    @property
    def headers(self) -> list:
        """All fields in the order sent, names as sent."""
        cdef uint32_t i
        return [
            (span_text(self.bytes_at(), self.head.fields[i].name),
             span_text(self.bytes_at(), self.head.fields[i].value))
            for i in range(self.head.header_count)
        ]

    def header(self, str name not None):
        """Return a field's value, the lines of a repeated one joined by ", ", or None."""
        return header_value(self.bytes_at(), &self.head, name)

    @property
    def content_length(self) -> int:
        return self.head.content_length

    @property
    def has_body(self) -> bool:
        return bool(self.head.has_body)

    @property
    def keep_alive(self) -> bool:
        return bool(self.head.keep_alive)

    def is_upgrade(self) -> bool:
        """Say whether this is a WebSocket handshake that may be accepted; False for plain HTTP.

        Raises:
            BadRequest: it asks for a WebSocket, but not as RFC 6455 wants it (400, 405 or 426).
        """
        cdef int answer = judge_upgrade(&self.head)
        if answer < 0:
            raise BadRequest(-answer, judge_reason(&self.head).decode("ascii"))
        return answer == 1


def accept_response(
    bytes key not None, bytes subprotocol not None=b"", bytes extensions not None=b"", *, size_t capacity=4096
) -> bytes:
    """Return the 101 that answers `key` (24 bytes).

    Raises:
        ValueError: `key` has another length, a value would break the header, or it is all longer than
            `capacity` bytes.
    """
    cdef bytes out
    cdef size_t n
    if len(key) != KEY_BYTES:
        raise ValueError("a Sec-WebSocket-Key has 24 characters")
    out = PyBytes_FromStringAndSize(NULL, capacity)
    n = write_accept(
        <uint8_t*>PyBytes_AS_STRING(out), capacity, <const uint8_t*>PyBytes_AS_STRING(key),
        PyBytes_AS_STRING(subprotocol), len(subprotocol), PyBytes_AS_STRING(extensions), len(extensions),
    )
    if n == 0:
        raise ValueError("subprotocol or extensions do not fit, or hold what no header field may")
    return out[:n]


def refusal_response(
    int status, bytes body not None=b"", bytes headers not None=b"", *, size_t capacity=4096
) -> bytes:
    """Return the whole answer of a refused request; `headers` are lines, each ending in CR LF.

    Raises:
        ValueError: `headers` are not whole, valid field lines, or it is all longer than `capacity` bytes.
    """
    cdef bytes out = PyBytes_FromStringAndSize(NULL, capacity)
    cdef size_t n = write_refusal(
        <uint8_t*>PyBytes_AS_STRING(out), capacity, status, PyBytes_AS_STRING(headers), len(headers),
        PyBytes_AS_STRING(body), len(body),
    )
    if n == 0:
        raise ValueError("headers or body do not fit, or headers are not valid field lines")
    return out[:n]
