"""RFC 6455 frames for C callers: heads, masking, UTF-8 and close codes, on buffers the caller owns.

Nothing here allocates, keeps a pointer, or needs the GIL. Which frame may follow which, what RSV1 means
and how large a message may be is for the caller (`native/hub.pyx`, and `frames.Reader` for tests).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef enum:
    OPCODE_CONTINUATION = 0x0
    OPCODE_TEXT = 0x1
    OPCODE_BINARY = 0x2
    OPCODE_CLOSE = 0x8
    OPCODE_PING = 0x9
    OPCODE_PONG = 0xA

    FIN_BIT = 0x80
    RSV1_BIT = 0x40
    RSV_BITS = 0x70
    CONTROL_BIT = 0x08  # in an opcode: close, ping, pong and their reserved neighbours

    CLIENT_HEAD_BYTES_MAX = 14  # two bytes, 64-bit length, masking key
    SERVER_HEAD_BYTES_MAX = 10
    CONTROL_PAYLOAD_BYTES_MAX = 125

cdef enum:
    UTF8_ACCEPT = 0  # between two characters: where a message may end
    UTF8_REJECT = 1  # for good; any other state is inside a character


ctypedef struct FrameHead:
    uint8_t fin  # 0 or 1
    uint8_t rsv  # the three bits where they stand, RSV_BITS
    uint8_t opcode
    uint8_t masked  # always 1 in a complete head
    uint32_t header_bytes  # 6, 8 or 14; 0 while the length is not known yet
    uint64_t payload_bytes
    uint8_t mask[4]


cdef inline int parse_head(const uint8_t* data, size_t available, FrameHead* head) noexcept nogil:
    """Read a client's frame head: 1 complete, 0 more bytes needed, else minus the close code (RFC 6455, 5.2).

    An error is told at the byte that proves it: a reserved opcode or a fragmented control frame at the first,
    no mask or a control frame over 125 bytes at the second, the top bit of a 64-bit length at the third, a
    length not in its shortest form at the fourth or eighth. With 0, what is known stands in `head`:
    `fin`, `rsv` and `opcode` once one byte is there, and `payload_bytes` once `header_bytes` is not 0.
    RSV bits are the caller's to judge.
    """
    cdef uint8_t length
    head.header_bytes = 0
    if available == 0:
        return 0
    head.fin = data[0] >> 7
    head.rsv = data[0] & RSV_BITS
    head.opcode = data[0] & 0x0F
    if (head.opcode & 7) > 2:  # 3-7 and 11-15 are reserved
        return -1002
    if head.opcode & CONTROL_BIT and not head.fin:
        return -1002
    if available == 1:
        return 0
    head.masked = data[1] >> 7
    if not head.masked:
        return -1002
    length = data[1] & 0x7F
    if length < 126:
        head.payload_bytes = length
        head.header_bytes = 6
    elif head.opcode & CONTROL_BIT:
        return -1002
    elif length == 126:
        if available < 4:
            return 0
        head.payload_bytes = (<uint64_t> data[2] << 8) | data[3]
        if head.payload_bytes < 126:
            return -1002
        head.header_bytes = 8
    else:
        return parse_long_head(data, available, head)
    if available < head.header_bytes:
        return 0
    memcpy(head.mask, data + head.header_bytes - 4, 4)
    return 1


cdef inline int parse_long_head(const uint8_t* data, size_t available, FrameHead* head) noexcept nogil:
    """The rest of `parse_head` for a 64-bit length, which only payloads over 65,535 bytes may use."""
    cdef size_t i
    cdef uint64_t payload_bytes = 0
    if available < 3:
        return 0
    if data[2] & 0x80:
        return -1002
    if available < 8:
        return 0
    for i in range(2, 8):
        payload_bytes = (payload_bytes << 8) | data[i]
    if payload_bytes == 0:
        return -1002
    if available < 10:
        return 0
    head.payload_bytes = (payload_bytes << 16) | (<uint64_t> data[8] << 8) | data[9]
    head.header_bytes = 14
    if available < 14:
        return 0
    memcpy(head.mask, data + 10, 4)
    return 1


cdef inline void unmask(uint8_t* payload, size_t n, const uint8_t* mask, size_t phase) noexcept nogil:
    """XOR `n` bytes in place with the masking key; `payload[0]` is byte `phase` (mod 4) of its frame.

    Any length and alignment: blocks are moved with memcpy, which compilers turn into vector loads.
    """
    cdef uint8_t[8] key
    cdef uint64_t wide, block
    cdef size_t i
    for i in range(8):
        key[i] = mask[(phase + i) & 3]
    memcpy(&wide, key, 8)
    for i in range(n >> 3):
        memcpy(&block, payload + (i << 3), 8)
        block ^= wide
        memcpy(payload + (i << 3), &block, 8)
    for i in range(n & ~<size_t> 7, n):
        payload[i] ^= key[i & 7]


cdef inline size_t write_head(uint8_t* to, uint8_t first_byte, uint64_t payload_bytes) noexcept nogil:
    """Write a server's frame head (never masked) and return its size, 2, 4 or 10 bytes.

    `first_byte` is FIN, RSV1 and opcode together; `to` has room for SERVER_HEAD_BYTES_MAX.
    """
    cdef size_t i
    to[0] = first_byte
    if payload_bytes < 126:
        to[1] = <uint8_t> payload_bytes
        return 2
    if payload_bytes < 65536:
        to[1] = 126
        to[2] = <uint8_t> (payload_bytes >> 8)
        to[3] = <uint8_t> payload_bytes
        return 4
    to[1] = 127
    for i in range(8):
        to[2 + i] = <uint8_t> (payload_bytes >> (56 - 8 * i))
    return 10


cdef inline uint64_t server_frame_bytes(const uint8_t* head) noexcept nogil:
    """Return the size of a server's frame, head and payload, that `write_head` began."""
    cdef uint64_t payload = head[1]
    cdef int i
    if payload < 126:
        return 2 + payload
    if payload == 126:
        return 4 + (<uint64_t> head[2] << 8 | head[3])
    payload = 0
    for i in range(2, 10):
        payload = payload << 8 | head[i]
    return 10 + payload


cdef inline int close_code_valid(uint16_t code) noexcept nogil:
    """Whether a peer may send this close code: RFC 6455, 7.4, and what IANA registered since (1012-1014).

    Not 1004 (reserved), nor 1005, 1006 and 1015, which only say that no code came.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


cdef uint32_t utf8_feed(uint32_t state, const uint8_t* data, size_t n) noexcept nogil
