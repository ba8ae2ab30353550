# cython: language_level=3
"""The PROXY protocol, versions 1 and 2: the line or block in front of a connection that names its client.

After haproxy's doc/proxy-protocol.txt (2020/03/05). Strict: what the specification says a receiver may refuse
is refused. No memory is allocated and none is kept; a header is offsets into the caller's buffer until it is
whole. Whose word is taken is the caller's to decide: anybody can write such a header.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memset
from realtime.native.address cimport Address, address_parse, address_take

cdef enum:
    V1_START_BYTES = 6
    V2_START_BYTES = 12
    V2_HEAD_BYTES = 16          # the start, version and command, family, length
    LOCAL = 0x20                # version << 4 | command
    PROXY = 0x21
    UNSPEC = 0x00               # family << 4 | transport
    TCP4 = 0x11
    TCP6 = 0x21
    UNIX_STREAM = 0x31
    TYPE_CRC32C = 0x03
    TYPE_UNIQUE_ID = 0x05
    TYPE_SSL = 0x20
    UNIQUE_ID_BYTES_MAX = 128
    SSL_BYTES_MIN = 5           # what the client did, and whether its certificate holds
    CRC32C_POLYNOMIAL = 0x82F63B78

cdef const uint8_t* V1_START = <const uint8_t*>b"PROXY "
cdef const uint8_t* V2_START = <const uint8_t*>b"\r\n\r\n\0\r\nQUIT\n"

# CRC-32C by bytes, filled below at import and only read afterwards.
cdef uint32_t CRC[256]


cdef void fill_crc():
    cdef uint32_t i, value
    cdef int _
    for i in range(256):
        value = i
        for _ in range(8):
            value = value >> 1 ^ (<uint32_t>CRC32C_POLYNOMIAL if value & 1 else 0)
        CRC[i] = value


fill_crc()


cdef int proxy_begins(const uint8_t* data, size_t n) noexcept nogil:
    cdef size_t seen
    if n == 0:
        return 0
    if data[0] == V1_START[0]:
        seen = min(n, <size_t>V1_START_BYTES)
        return -1 if memcmp(data, V1_START, seen) else seen == V1_START_BYTES
    seen = min(n, <size_t>V2_START_BYTES)
    return -1 if memcmp(data, V2_START, seen) else seen == V2_START_BYTES


cdef int proxy_parse(const uint8_t* data, size_t n, ProxyHeader* header) noexcept nogil:
    cdef int begins = proxy_begins(data, n)
    memset(header, 0, sizeof(ProxyHeader))
    header.reason = ""
    if begins < 0:
        return _fail(header, "PROXY header: there is none, and none but a proxy connects here")
    if begins == 0:
        return 0
    return _parse_v1(data, n, header) if data[0] == V1_START[0] else _parse_v2(data, n, header)


cdef int _fail(ProxyHeader* header, const char* reason) noexcept nogil:
    header.reason = reason
    return -1


# --------------------------------------------------------------------------- version 1

cdef int _parse_v1(const uint8_t* data, size_t n, ProxyHeader* header) noexcept nogil:
    """`PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\\r\\n`, one blank between two words."""
    cdef size_t seen = min(n, <size_t>V1_BYTES_MAX)
    cdef const uint8_t* end = <const uint8_t*>memchr(data, c"\n", seen)
    cdef Words words
    cdef Address destination
    cdef int length
    if end == NULL:
        return _fail(header, "PROXY header: a line over 107 bytes") if seen == V1_BYTES_MAX else 0
    if (end - 1)[0] != c"\r":
        return _fail(header, "PROXY header: its line does not end in CR LF")
    length = <int>(end + 1 - data)
    words.at, words.end = data + V1_START_BYTES, end - 1
    _next_word(&words)
    if words.n == 7 and memcmp(words.word, b"UNKNOWN", 7) == 0:
        return length       # whatever stands behind it is not to be looked at
    if words.n != 4 or memcmp(words.word, b"TCP", 3) != 0 or words.word[3] not in (c"4", c"6"):
        return _fail(header, "PROXY header: the protocol is neither TCP4, TCP6 nor UNKNOWN")
    words.v6 = words.word[3] == c"6"
    if not _address(&words, &header.source) or not _address(&words, &destination):
        return _fail(header, "PROXY header: an address that is not of its protocol")
    if not _port(&words, &header.source.port) or not _port(&words, &destination.port):
        return _fail(header, "PROXY header: a port that is no number from 0 to 65535")
    if words.at <= words.end:
        return _fail(header, "PROXY header: more in its line than two addresses and two ports")
    return length


cdef struct Words:
    const uint8_t* at       # of the next word; behind `end` once there is none
    const uint8_t* end
    const uint8_t* word
    size_t n
    bint v6


cdef void _next_word(Words* words) noexcept nogil:
    """Go on to the next word, of no length where there is none."""
    cdef const uint8_t* stop
    words.word, words.n = words.at, 0
    if words.at > words.end:
        return
    stop = <const uint8_t*>memchr(words.at, c" ", words.end - words.at)
    stop = words.end if stop == NULL else stop
    words.n = stop - words.at
    words.at = stop + 1


cdef bint _address(Words* words, Address* to) noexcept nogil:
    _next_word(words)
    if (memchr(words.word, c":", words.n) != NULL) != words.v6:
        return False
    return address_parse(<const char*>words.word, words.n, to) == 0


cdef bint _port(Words* words, uint16_t* to) noexcept nogil:
    cdef uint32_t value = 0
    cdef size_t i
    _next_word(words)
    if not 1 <= words.n <= 5 or (words.word[0] == c"0" and words.n > 1):
        return False
    for i in range(words.n):
        if not c"0" <= words.word[i] <= c"9":
            return False
        value = value * 10 + words.word[i] - c"0"
    to[0] = <uint16_t>value
    return value <= 65535


# --------------------------------------------------------------------------- version 2

cdef int _parse_v2(const uint8_t* data, size_t n, ProxyHeader* header) noexcept nogil:
    cdef size_t length, addresses
    cdef uint8_t family
    if n < V2_HEAD_BYTES:
        return 0
    if data[12] != LOCAL and data[12] != PROXY:
        return _fail(header, "PROXY header: neither version 2, nor LOCAL or PROXY in it")
    family = data[13]
    length = V2_HEAD_BYTES + (<size_t>data[14] << 8 | data[15])
    if length > V2_BYTES_MAX:
        return _fail(header, "PROXY header: over 4096 bytes")
    addresses = _address_bytes(family)
    # A LOCAL header's family is not to be looked at (2.2): the proxy looks whether we live.
    if data[12] == PROXY and addresses > V2_BYTES_MAX:
        return _fail(header, "PROXY header: its family is unknown, or not one of streams")
    if data[12] == PROXY and length < V2_HEAD_BYTES + addresses:
        return _fail(header, "PROXY header: shorter than the addresses of its family")
    if n < length:
        return 0
    if data[12] == LOCAL:
        return <int>length
    if not _attached(data, V2_HEAD_BYTES + addresses, length, header):
        return -1
    if family == TCP4:
        address_take(&header.source, data + V2_HEAD_BYTES, 4)
        header.source.port = data[24] << 8 | data[25]
    elif family == TCP6:
        address_take(&header.source, data + V2_HEAD_BYTES, 16)
        header.source.port = data[48] << 8 | data[49]
    return <int>length


cdef size_t _address_bytes(uint8_t family) noexcept nogil:
    """Return the size of both addresses and ports; more than fits where the family may not stand here."""
    if family == TCP4:
        return 12
    if family == TCP6:
        return 36
    if family == UNIX_STREAM:
        return 216      # of a client on the proxy's own machine: it has no address for us
    return 0 if family == UNSPEC else V2_BYTES_MAX + 1


cdef bint _attached(const uint8_t* data, size_t at, size_t length, ProxyHeader* header) noexcept nogil:
    """Look through what is attached as type, length, value: all of it fits, and a checksum is right."""
    cdef size_t n
    cdef uint8_t kind
    while at < length:
        if length - at < 3:
            header.reason = "PROXY header: what is attached does not fit into it"
            return False
        kind = data[at]
        n = <size_t>data[at + 1] << 8 | data[at + 2]
        at += 3
        if n > length - at:
            header.reason = "PROXY header: what is attached does not fit into it"
            return False
        if kind == TYPE_CRC32C and (n != 4 or not _is_intact(data, length, at)):
            header.reason = "PROXY header: its CRC-32C is wrong"
            return False
        if (kind == TYPE_SSL and n < SSL_BYTES_MIN) or (kind == TYPE_UNIQUE_ID and n > UNIQUE_ID_BYTES_MAX):
            header.reason = "PROXY header: what is attached has not the length of its type"
            return False
        at += n
    return True


cdef bint _is_intact(const uint8_t* data, size_t length, size_t at) noexcept nogil:
    """Is the checksum at `at` that of the whole header with zeros in its place (2.2.3)?"""
    cdef uint32_t crc = 0xFFFFFFFF
    cdef uint32_t said = 0
    cdef size_t i
    for i in range(length):
        crc = crc >> 8 ^ CRC[(crc ^ (0 if at <= i < at + 4 else data[i])) & 0xFF]
    for i in range(at, at + 4):
        said = said << 8 | data[i]
    return crc ^ <uint32_t>0xFFFFFFFF == said


# --------------------------------------------------------------------------- Python's view

def parse_proxy_header(bytes data not None):
    """Return (bytes of the header, packed source address or None, source port), or None for more bytes.

    The address is None where the proxy speaks for itself, or for one that has no IP address.

    Raises:
        ValueError: it is no header, or a broken one.
    """
    cdef ProxyHeader header
    cdef int used = proxy_parse(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &header)
    if used < 0:
        raise ValueError(header.reason.decode("ascii"))
    if used == 0:
        return None
    if header.source.length == 0:
        return used, None, 0
    source = PyBytes_FromStringAndSize(<const char*>header.source.octets, header.source.length)
    return used, source, header.source.port
