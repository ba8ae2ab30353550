"""The shortest decimal that reads back as the same double, written as Python's repr writes it.

Python's own way (D. Gay's dtoa) turns to long arithmetic where a double is very small or very large: up to
2 us each, so that a message of 64 KiB of such floats held up a worker for 13 ms and more. This is Schubfach
(R. Giulietti, "The Schubfach way to render doubles", 2020): of the decimals in the interval that rounds to
the double, the one with the fewest digits, and of several the nearest, by three products of 64 by 128 bits.
45 ns, whatever the double. Nothing is owned here; the powers of ten are made at import.
"""

from libc.math cimport isfinite
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from realtime.native.text cimport digits_of

cdef extern from *:
    ctypedef unsigned long long u128 "unsigned __int128"    # arithmetic on it is C's, whatever Cython thinks

cdef enum:
    POWER_MIN = -292            # of ten, that a double may need
    POWERS = 617                # from there on, up to 10 ** 324
    SIGNIFICAND_BITS = 52
    EXPONENT_MASK = 0x7FF
    BIAS = 1075                 # of the exponent, for the significand as an integer
    DIGITS_MAX = 20             # of 64 bits
    POINT_MIN = -4              # repr turns to exponents where the point is here or further left,
    POINT_MAX = 16              # or further right than this

cdef uint64_t[POWERS] POWERS_HIGH
cdef uint64_t[POWERS] POWERS_LOW


cdef inline int64_t floor_log2_of_power(int64_t power) noexcept nogil:
    """floor(log2(10 ** power)), for |power| up to 1233."""
    return (power * 1741647) >> 19


def fill_powers():
    """Make the 126 to 128 leading bits of each power of ten, rounded up."""
    for i in range(POWERS):
        power = POWER_MIN + i
        shift = 127 - floor_log2_of_power(power)
        if power >= 0:
            scaled = 10**power << shift if shift >= 0 else 10**power >> -shift
        else:
            scaled = (1 << shift) // 10**-power
        scaled += 1
        POWERS_HIGH[i] = scaled >> 64
        POWERS_LOW[i] = scaled & 0xFFFFFFFFFFFFFFFF


fill_powers()

ctypedef struct Decimal:
    uint64_t digits
    int exponent                # of ten, behind the last digit


cdef inline uint64_t round_to_odd(int power, uint64_t factor) noexcept nogil:
    """The upper 64 bits of a product with a power of ten; the last is set where anything is below them."""
    cdef u128 low = <u128>POWERS_LOW[power - POWER_MIN] * factor
    cdef u128 high = <u128>POWERS_HIGH[power - POWER_MIN] * factor + <uint64_t>(low >> 64)
    return <uint64_t>(high >> 64) | (<uint64_t>high > 1)


cdef inline Decimal decimal_of(uint64_t significand, int exponent) noexcept nogil:
    """Section 9 of the paper, by the names that it has there; the double is above 0 and finite."""
    cdef Decimal found
    cdef uint64_t c, lower, upper, middle, s, tens
    cdef int64_t q, k
    cdef int h
    cdef bint is_closer = significand == 0 and exponent > 1   # the next smaller double is half as far away
    cdef bint is_odd, down, up
    if exponent:
        c = significand | <uint64_t>1 << SIGNIFICAND_BITS
        q = exponent - BIAS
        if -SIGNIFICAND_BITS <= q <= 0 and c & ((<uint64_t>1 << -q) - 1) == 0:
            found.digits, found.exponent = c >> -q, 0         # a whole number below 2 ** 53
            return found
    else:
        c, q = significand, 1 - BIAS
    is_odd = c & 1
    k = (q * 1262611 - (524031 if is_closer else 0)) >> 22    # floor(log10(2 ** q)), or of 3/4 of it
    h = <int>(q + floor_log2_of_power(-k) + 1)
    lower = round_to_odd(<int>-k, (4 * c - 2 + is_closer) << h) + is_odd
    middle = round_to_odd(<int>-k, 4 * c << h)
    upper = round_to_odd(<int>-k, (4 * c + 2) << h) - is_odd
    s = middle >> 2
    if s >= 10:
        tens = s // 10
        down = lower <= 40 * tens
        up = 40 * tens + 40 <= upper
        if down != up:
            found.digits, found.exponent = tens + up, <int>k + 1
            return found
    down = lower <= 4 * s
    up = 4 * s + 4 <= upper
    if down == up:
        up = middle > 4 * s + 2 or (middle == 4 * s + 2 and s & 1)
    found.digits, found.exponent = s + up, <int>k
    return found


cdef size_t put_shortest(double value, uint8_t* to) noexcept nogil:
    cdef uint64_t bits
    cdef uint8_t* begin = to
    cdef uint8_t[DIGITS_MAX] digits     # at the end of it
    cdef Decimal found
    cdef size_t n
    cdef int point
    memcpy(&bits, &value, 8)
    if bits >> 63:
        to[0] = c"-"
        to += 1
    bits &= ~(<uint64_t>1 << 63)
    if bits == 0:
        memcpy(to, b"0.0", 3)
        return to + 3 - begin
    found = decimal_of(bits & ((<uint64_t>1 << SIGNIFICAND_BITS) - 1), <int>(bits >> SIGNIFICAND_BITS))
    while found.digits % 10 == 0:
        found.digits //= 10
        found.exponent += 1
    n = digits_of(found.digits, digits)
    point = <int>n + found.exponent     # so many digits stand before the point
    if POINT_MIN < point <= POINT_MAX:
        to = put_plain(to, digits + DIGITS_MAX - n, n, point)
    else:
        to = put_exponential(to, digits + DIGITS_MAX - n, n, point - 1)
    return to - begin


cdef uint8_t* put_plain(uint8_t* to, const uint8_t* digits, size_t n, int point) noexcept nogil:
    """Write `0.00123`, `12.3` or `1230.0`; return what follows."""
    cdef size_t whole
    if point <= 0:
        memcpy(to, b"0.", 2)
        memset(to + 2, c"0", -point)
        memcpy(to + 2 - point, digits, n)
        return to + 2 - point + n
    whole = point
    if whole >= n:
        memcpy(to, digits, n)
        memset(to + n, c"0", whole - n)
        memcpy(to + whole, b".0", 2)
        return to + whole + 2
    memcpy(to, digits, whole)
    to[whole] = c"."
    memcpy(to + whole + 1, digits + whole, n - whole)
    return to + n + 1


cdef uint8_t* put_exponential(uint8_t* to, const uint8_t* digits, size_t n, int exponent) noexcept nogil:
    """Write `1.23e-05`, the exponent in two digits at least; return what follows."""
    to[0] = digits[0]
    to += 1
    if n > 1:
        to[0] = c"."
        memcpy(to + 1, digits + 1, n - 1)
        to += n
    to[0] = c"e"
    to[1] = c"-" if exponent < 0 else c"+"
    to += 2
    exponent = -exponent if exponent < 0 else exponent
    if exponent >= 100:
        to[0] = <uint8_t>(c"0" + exponent // 100)
        to += 1
    to[0] = <uint8_t>(c"0" + exponent // 10 % 10)
    to[1] = <uint8_t>(c"0" + exponent % 10)
    return to + 2


def shortest(double value):
    cdef uint8_t[SHORTEST_BYTES_MAX] text
    if not isfinite(value):
        raise ValueError(f"no decimal is {value}")
    return (<char*>text)[: put_shortest(value, text)]
