"""Bytes of text, many at a time: JSON strings read and written, UTF-8 checked, hashes, digits.

Nothing here allocates or needs the GIL; callers own every buffer and see to its bounds.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "realtime.native scans eight bytes at a time and needs a little-endian machine"
    #endif

    /* Skip bytes of a string that need no look of their own, many at a time: stop at a quote, a
       backslash, a byte below 0x20, or when fewer are left than one step takes. */
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline const unsigned char* skip_ordinary(const unsigned char* at, const unsigned char* end) {
        const __m128i quote = _mm_set1_epi8(0x22), slash = _mm_set1_epi8(0x5C), control = _mm_set1_epi8(0x1f);
        while (end - at >= 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i*)at);
            int hits = _mm_movemask_epi8(_mm_or_si128(
                _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, slash)),
                _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes)));
            if (hits) return at + __builtin_ctz(hits);
            at += 16;
        }
        return at;
    }
    #else
    static inline const unsigned char* skip_ordinary(const unsigned char* at, const unsigned char* end) {
        const unsigned long long ones = 0x0101010101010101ull;
        while (end - at >= 8) {
            unsigned long long bytes, quote, slash, hits;
            __builtin_memcpy(&bytes, at, 8);
            quote = bytes ^ ones * 0x22;
            slash = bytes ^ ones * 0x5C;
            /* The lowest bit set is exact; above it a borrow may show one that is none. */
            hits = (((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((bytes - ones * 0x20) & ~bytes))
                & ones * 0x80;
            if (hits) return at + (__builtin_ctzll(hits) >> 3);
            at += 8;
        }
        return at;
    }
    #endif
    """
    const uint8_t* skip_ordinary(const uint8_t* at, const uint8_t* end) noexcept nogil


cdef inline uint64_t load8(const uint8_t* at) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, at, 8)
    return word


cdef inline uint32_t load4(const uint8_t* at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, 4)
    return word


cdef inline uint64_t hash_bytes(const uint8_t* data, size_t n) noexcept nogil:
    """A quick 64-bit hash. Collisions cost a comparison, never a wrong answer."""
    cdef uint64_t prime = <uint64_t>0x9E3779B97F4A7C15
    cdef uint64_t h = <uint64_t>n * prime
    cdef uint64_t word
    while n > 8:
        h = (h ^ load8(data)) * prime
        h ^= h >> 29
        data += 8
        n -= 8
    if n == 8:
        word = load8(data)
    elif n >= 4:
        word = <uint64_t>load4(data) << 32 | load4(data + n - 4)
    elif n > 0:
        word = <uint64_t>data[0] << 16 | <uint64_t>data[n >> 1] << 8 | data[n - 1]
    else:
        word = 0
    h = (h ^ word) * prime
    return h ^ (h >> 32)


cdef inline bint is_utf8(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Is it UTF-8 (RFC 3629: shortest forms, no surrogates, nothing above U+10FFFF)?"""
    cdef uint8_t first
    cdef uint32_t point
    cdef int more, i
    while at < end:
        first = at[0]
        at += 1
        if first < 0x80:
            continue
        if first < 0xC2 or first > 0xF4:
            return False
        more = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if end - at < more:
            return False
        point = first & (0x3F >> more)
        for i in range(more):
            if at[i] & 0xC0 != 0x80:
                return False
            point = point << 6 | (at[i] & 0x3F)
        if more == 2 and (point < 0x800 or 0xD800 <= point <= 0xDFFF):
            return False
        if more == 3 and (point < 0x10000 or point > 0x10FFFF):
            return False
        at += more
    return True


cdef inline int32_t hex4(const uint8_t* at) noexcept nogil:
    """The value of four hexadecimal digits, or -1. Stops at the first byte that is none."""
    cdef int32_t value = 0
    cdef int i, digit
    for i in range(4):
        digit = at[i]
        if 0x30 <= digit <= 0x39:
            digit -= 0x30
        elif 0x61 <= (digit | 0x20) <= 0x66:
            digit = (digit | 0x20) - 0x57
        else:
            return -1
        value = value << 4 | digit
    return value


cdef inline size_t put_utf8(uint8_t* to, uint32_t point) noexcept nogil:
    if point < 0x80:
        to[0] = <uint8_t>point
        return 1
    if point < 0x800:
        to[0] = <uint8_t>(0xC0 | point >> 6)
        to[1] = <uint8_t>(0x80 | (point & 0x3F))
        return 2
    if point < 0x10000:
        to[0] = <uint8_t>(0xE0 | point >> 12)
        to[1] = <uint8_t>(0x80 | (point >> 6 & 0x3F))
        to[2] = <uint8_t>(0x80 | (point & 0x3F))
        return 3
    to[0] = <uint8_t>(0xF0 | point >> 18)
    to[1] = <uint8_t>(0x80 | (point >> 12 & 0x3F))
    to[2] = <uint8_t>(0x80 | (point >> 6 & 0x3F))
    to[3] = <uint8_t>(0x80 | (point & 0x3F))
    return 4


cdef inline size_t unescape(const uint8_t* at, const uint8_t* end, uint8_t* to) noexcept nogil:
    """Write the string `at..end`, which `skip_string` accepted; return its bytes (never more than it had)."""
    cdef uint8_t* begin = to
    cdef uint8_t letter
    cdef uint32_t point
    while at < end:
        if at[0] != c"\\":
            to[0] = at[0]
            to += 1
            at += 1
            continue
        letter = at[1]
        if letter == c"u":
            point = <uint32_t>hex4(at + 2)
            at += 6
            if 0xD800 <= point <= 0xDBFF:
                point = 0x10000 + ((point - 0xD800) << 10) + (<uint32_t>hex4(at + 2) - 0xDC00)
                at += 6
            to += put_utf8(to, point)
            continue
        if letter == c"n":
            letter = 0x0A
        elif letter == c"t":
            letter = 0x09
        elif letter == c"r":
            letter = 0x0D
        elif letter == c"b":
            letter = 0x08
        elif letter == c"f":
            letter = 0x0C
        to[0] = letter
        to += 1
        at += 2
    return to - begin


cdef inline uint8_t* put_escaped(uint8_t* to, const uint8_t* at, size_t n) noexcept nogil:
    """Write UTF-8 as the inside of a JSON string: at most 6 bytes for each; return what follows."""
    cdef const char* hexadecimal = b"0123456789abcdef"
    cdef const char* short_form = b"btn?fr"         # for 0x08 to 0x0d
    cdef const uint8_t* end = at + n
    cdef const uint8_t* next
    while at < end:
        next = skip_ordinary(at, end)
        memcpy(to, at, next - at)
        to += next - at
        at = next
        if at == end:
            break
        if at[0] >= 0x20 and at[0] != c'"' and at[0] != c"\\":
            to[0] = at[0]
            to += 1
        else:
            to[0] = c"\\"
            if at[0] >= 0x20:
                to[1] = at[0]
            elif 0x08 <= at[0] <= 0x0D and at[0] != 0x0B:
                to[1] = short_form[at[0] - 0x08]
            else:
                memcpy(to + 1, b"u00", 3)
                to[4] = hexadecimal[at[0] >> 4]
                to[5] = hexadecimal[at[0] & 15]
                to += 4
            to += 2
        at += 1
    return to


cdef inline size_t digits_of(uint64_t value, uint8_t* digits) noexcept nogil:
    """Write `value` at the END of the 20 bytes at `digits`; return how many digits it has."""
    cdef size_t n = 0
    while True:
        n += 1
        digits[20 - n] = <uint8_t>(0x30 + value % 10)
        value //= 10
        if value == 0:
            return n
