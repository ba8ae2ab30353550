"""SHA-1 of a block (FIPS 180-4, 6.1.2) and base64, as far as Sec-WebSocket-Accept needs them.

Inline, no state of its own: the caller owns every buffer. Not for secrets: RFC 6455 takes SHA-1 only
to prove that the server read the key.
"""

from libc.stdint cimport uint8_t, uint32_t


cdef inline uint32_t rotate(uint32_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (32 - bits))


cdef inline void sha1_start(uint32_t* state) noexcept nogil:
    state[0] = 0x67452301u
    state[1] = 0xEFCDAB89u
    state[2] = 0x98BADCFEu
    state[3] = 0x10325476u
    state[4] = 0xC3D2E1F0u


cdef inline void sha1_schedule(uint32_t* w, const uint8_t* block) noexcept nogil:
    """Expand 64 bytes to the 80 words of the rounds."""
    cdef int t
    for t in range(16):
        w[t] = (
            <uint32_t>block[4 * t] << 24 | <uint32_t>block[4 * t + 1] << 16
            | <uint32_t>block[4 * t + 2] << 8 | block[4 * t + 3]
        )
    for t in range(16, 80):
        w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1)


cdef inline uint32_t choose(uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    return (d ^ (b & (c ^ d))) + 0x5A827999u


cdef inline uint32_t parity(uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    return b ^ c ^ d


cdef inline uint32_t majority(uint32_t b, uint32_t c, uint32_t d) noexcept nogil:
    return ((b & c) | (d & (b | c))) + 0x8F1BBCDCu


cdef inline void step(uint32_t a, uint32_t* b, uint32_t* e, uint32_t addend) noexcept nogil:
    e[0] += rotate(a, 5) + addend
    b[0] = rotate(b[0], 30)


cdef inline void sha1_rounds(uint32_t* state, const uint32_t* w) noexcept nogil:
    """Mix one block's words into `state`. Five steps a turn, so that the five variables keep their places."""
    cdef uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4]
    cdef int t
    for t in range(0, 20, 5):
        step(a, &b, &e, choose(b, c, d) + w[t])
        step(e, &a, &d, choose(a, b, c) + w[t + 1])
        step(d, &e, &c, choose(e, a, b) + w[t + 2])
        step(c, &d, &b, choose(d, e, a) + w[t + 3])
        step(b, &c, &a, choose(c, d, e) + w[t + 4])
    for t in range(20, 40, 5):
        step(a, &b, &e, parity(b, c, d) + 0x6ED9EBA1u + w[t])
        step(e, &a, &d, parity(a, b, c) + 0x6ED9EBA1u + w[t + 1])
        step(d, &e, &c, parity(e, a, b) + 0x6ED9EBA1u + w[t + 2])
        step(c, &d, &b, parity(d, e, a) + 0x6ED9EBA1u + w[t + 3])
        step(b, &c, &a, parity(c, d, e) + 0x6ED9EBA1u + w[t + 4])
    for t in range(40, 60, 5):
        step(a, &b, &e, majority(b, c, d) + w[t])
        step(e, &a, &d, majority(a, b, c) + w[t + 1])
        step(d, &e, &c, majority(e, a, b) + w[t + 2])
        step(c, &d, &b, majority(d, e, a) + w[t + 3])
        step(b, &c, &a, majority(c, d, e) + w[t + 4])
    for t in range(60, 80, 5):
        step(a, &b, &e, parity(b, c, d) + 0xCA62C1D6u + w[t])
        step(e, &a, &d, parity(a, b, c) + 0xCA62C1D6u + w[t + 1])
        step(d, &e, &c, parity(e, a, b) + 0xCA62C1D6u + w[t + 2])
        step(c, &d, &b, parity(d, e, a) + 0xCA62C1D6u + w[t + 3])
        step(b, &c, &a, parity(c, d, e) + 0xCA62C1D6u + w[t + 4])
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e


cdef inline void write_base64(uint8_t* to, const uint32_t* state) noexcept nogil:
    """Write the 28 characters of a digest, still in its five words."""
    cdef const char* alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    cdef uint8_t digest[21]
    cdef uint32_t group
    cdef int i
    for i in range(20):
        digest[i] = <uint8_t>(state[i >> 2] >> (24 - 8 * (i & 3)))
    digest[20] = 0  # seven groups of three
    for i in range(7):
        group = <uint32_t>digest[3 * i] << 16 | <uint32_t>digest[3 * i + 1] << 8 | digest[3 * i + 2]
        to[4 * i] = alphabet[group >> 18]
        to[4 * i + 1] = alphabet[group >> 12 & 63]
        to[4 * i + 2] = alphabet[group >> 6 & 63]
        to[4 * i + 3] = alphabet[group & 63]
    to[27] = c"="
