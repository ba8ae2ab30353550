# cython: language_level=3
"""Networks to small numbers, by the longest prefix: what lists of addresses are compiled to.

A `CidrList` collects networks as text; its `table()` is a `CidrTable`, which does not change any more. There
the networks, nested as they are, have become spans that touch and do not overlap, and an address is found by
binary search: 5 bytes a span of IPv4, 17 of IPv6, at most two spans a network. A list owns its networks, a
table its spans. It leaves to others what a number means.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memchr, memcpy
from realtime.native.address cimport Address, address_parse, address_take, address_text

cdef enum:
    NETWORKS_MAX = 1000000
    BLOCK = 64                      # spans that one of the tops stands for
    A_LINE_OF_4 = 16                # numbers of 4 bytes in a line of the processor's cache
    A_LINE_OF_8 = 8
    DEPTH_MAX = 130                 # prefix lengths of IPv6, and one more
    MAPPED_BITS = 96                # of ::ffff:0:0, in front of an IPv4 address

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void* address) noexcept nogil

NOT_A_NETWORK = "{!r}: not an IPv4 or IPv6 address, nor a network such as 192.0.2.0/24 or 2001:db8::/32"
WIDER_THAN_MAPPED = "{!r}: more than all of IPv4 in IPv6's form (::ffff:0:0/96); all of IPv4 is 0.0.0.0/0"
TOO_MANY = f"over {NETWORKS_MAX} networks"


cdef class CidrList:
    """Networks, each with a number of 1 to 255. On the same prefix the greater number counts."""

    def __dealloc__(self):
        free(self.v4)
        free(self.v6)

    def __len__(self):
        return self.v4_count + self.v6_count

    def add(self, str network not None, int value):
        """Add a network, or a single address."""
        cdef bytes raw = network.encode("utf-8", "replace")
        self.take(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), value)

    def add_lines(self, bytes lines not None, int value):
        """Add the networks in the lines of a file; what stands behind a # is left out."""
        cdef const char* at = PyBytes_AS_STRING(lines)
        cdef const char* end = at + PyBytes_GET_SIZE(lines)
        cdef const char* stop
        cdef const char* last
        cdef const char* comment
        cdef size_t number = 0
        while at < end:
            number += 1
            stop = <const char*>memchr(at, c"\n", end - at)
            stop = end if stop == NULL else stop
            comment = <const char*>memchr(at, c"#", stop - at)
            last = stop if comment == NULL else comment
            while at < last and _is_blank(at[0]):
                at += 1
            while last > at and _is_blank((last - 1)[0]):
                last -= 1
            if last > at:
                try:
                    self.take(at, last - at, value)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from None
            at = stop + 1

    cdef int take(self, const char* text, size_t n, int value) except -1:
        cdef const char* slash = <const char*>memchr(text, c"/", n)
        cdef size_t address_bytes = n if slash == NULL else <size_t>(slash - text)
        cdef Address address
        cdef Network network
        cdef int bits, given
        cdef u128 hosts
        if not 1 <= value <= 255:
            raise ValueError(f"value is {value}: 1 to 255")
        if address_parse(text, address_bytes, &address) < 0:
            raise ValueError(_why_not(text[:n]))
        bits = 128 if memchr(text, c":", address_bytes) != NULL else 32
        given = bits if slash == NULL else _prefix(slash + 1, text + n, bits)
        if given < 0:
            said = f"{_shown(text[:n])!r}: the prefix of an {'IPv6' if bits == 128 else 'IPv4'} network"
            raise ValueError(f"{said} is a number from 0 to {bits}")
        if bits == 128 and address.length == 4:     # it came as ::ffff:192.0.2.0/120
            if given < MAPPED_BITS:
                raise ValueError(WIDER_THAN_MAPPED.format(_shown(text[:n])))
            bits, given = 32, given - MAPPED_BITS
        hosts = _ones(bits - given)
        network.first = _number(&address)
        network.last = network.first | hosts
        network.value = <uint8_t>value
        if network.first & hosts:
            raise ValueError(_host_bits(text[:n], network.first & ~hosts, bits, given))
        if self.v4_count + self.v6_count >= NETWORKS_MAX:
            raise ValueError(TOO_MANY)
        if bits == 32:
            _push(&self.v4, &self.v4_count, &self.v4_capacity, &network)
        else:
            _push(&self.v6, &self.v6_count, &self.v6_capacity, &network)
        return 0

    def table(self):
        """Return the table of all networks added so far."""
        cdef CidrTable table = CidrTable.__new__(CidrTable)
        cdef Network* spans
        cdef size_t count
        table.networks = self.v4_count + self.v6_count
        if self.v4_count:
            spans = _flatten(self.v4, self.v4_count, &count)
            try:
                _keep_v4(&table.v4, spans, count)
            finally:
                free(spans)
        if self.v6_count:
            spans = _flatten(self.v6, self.v6_count, &count)
            try:
                _keep_v6(&table.v6, spans, count)
            finally:
                free(spans)
        return table


cdef class CidrTable:
    """Which number an address has: that of the longest prefix that covers it. `CidrList.table` makes it."""

    def __dealloc__(self):
        free(self.v4.tops)
        free(self.v4.starts)
        free(self.v4.values)
        free(self.v6.tops)
        free(self.v6.highs)
        free(self.v6.lows)
        free(self.v6.values)

    def __len__(self):
        return self.networks

    def find(self, bytes address not None):
        """Return the number of a packed address, 0 where no network covers it."""
        cdef Address packed
        cdef Py_ssize_t n = PyBytes_GET_SIZE(address)
        if n != 4 and n != 16:
            raise ValueError(f"a packed address has 4 or 16 bytes, not {n}")
        address_take(&packed, <const uint8_t*>PyBytes_AS_STRING(address), <int>n)
        return self.value_of(&packed)

    @property
    def memory_bytes(self):
        """What its spans take."""
        cdef size_t v4 = (self.v4.count + _blocks(self.v4.count)) * sizeof(uint32_t) + self.v4.count
        cdef size_t v6 = (2 * self.v6.count + _blocks(self.v6.count)) * sizeof(uint64_t) + self.v6.count
        return v4 + v6

    cdef int value_of(self, const Address* address) noexcept nogil:
        if address.length == 4:
            return _find4(&self.v4, _word(address.octets, 4)) if self.v4.count else 0
        if address.length == 16 and self.v6.count:
            return _find6(&self.v6, _word(address.octets, 8), _word(address.octets + 8, 8))
        return 0


# --------------------------------------------------------------------------- finding

cdef inline uint32_t _last4(const uint32_t* starts, uint32_t count, uint64_t address) noexcept nogil:
    """Return the last place whose start is not above `address`, 0 where there is none."""
    # Halving the rest without a branch keeps the processor from guessing wrong at every other step.
    cdef const uint32_t* base = starts
    cdef uint32_t half
    while count > 1:
        half = count >> 1
        base += half if base[half] <= address else 0
        count -= half
    return <uint32_t>(base - starts)


cdef inline uint32_t _last8(const uint64_t* starts, uint32_t count, uint64_t address) noexcept nogil:
    cdef const uint64_t* base = starts
    cdef uint32_t half
    while count > 1:
        half = count >> 1
        base += half if base[half] <= address else 0
        count -= half
    return <uint32_t>(base - starts)


cdef int _find4(const Spans4* spans, uint64_t address) noexcept nogil:
    cdef uint32_t block = _last4(spans.tops, _blocks(spans.count), address) * BLOCK
    cdef uint32_t line
    # All that is read from here on lies far apart from what was read before: asked for at once, it comes at
    # once (1,000,000 networks, addresses at random: 2.1 M lookups/s without tops, bench/arrivals.py).
    prefetch(spans.values + block)
    for line in range(<uint32_t>(BLOCK // A_LINE_OF_4)):
        prefetch(spans.starts + block + line * A_LINE_OF_4)
    block += _last4(spans.starts + block, min(spans.count - block, <uint32_t>BLOCK), address)
    return spans.values[block]


cdef int _find6(const Spans6* spans, uint64_t high, uint64_t low) noexcept nogil:
    cdef uint32_t block = _last8(spans.tops, _blocks(spans.count), high) * BLOCK
    cdef uint32_t line, at
    prefetch(spans.values + block)
    for line in range(<uint32_t>(BLOCK // A_LINE_OF_8)):
        prefetch(spans.highs + block + line * A_LINE_OF_8)
    at = block + _last8(spans.highs + block, min(spans.count - block, <uint32_t>BLOCK), high)
    if spans.highs[at] == high and spans.lows[at] > low:
        at = _before(spans, at, high, low)
    return spans.values[at]


cdef uint32_t _before(const Spans6* spans, uint32_t at, uint64_t high, uint64_t low) noexcept nogil:
    """Return the last place that is not above an address, below `at`, the last with its high half."""
    cdef uint32_t lower = 0
    cdef uint32_t middle
    while at - lower > 1:
        middle = lower + (at - lower) // 2
        if spans.highs[middle] < high or spans.lows[middle] <= low:
            lower = middle
        else:
            at = middle
    return lower


cdef inline uint32_t _blocks(uint32_t count) noexcept nogil:
    return (count + BLOCK - 1) // BLOCK


# --------------------------------------------------------------------------- compiling

cdef Network* _flatten(Network* networks, size_t count, size_t* spans_count) except NULL:
    """Return what nested networks say as spans that touch, of which only `first` and `value` count."""
    cdef Network[DEPTH_MAX] open    # those that contain the place, outermost first
    cdef Network* spans = <Network*>malloc((2 * count + 1) * sizeof(Network))
    cdef size_t made = 1
    cdef int depth = 1
    cdef size_t i
    if spans == NULL:
        raise MemoryError("no memory to compile a list of networks")
    with nogil:
        qsort(networks, count, sizeof(Network), &_compare)
        open[0].first = open[0].value = 0
        open[0].last = ~<u128>0
        spans[0] = open[0]
        for i in range(count):
            # Of equal networks that with the greatest value is last: it overwrites those before it.
            while open[depth - 1].last < networks[i].first:
                depth -= 1
                made = _begin(spans, made, open[depth].last + 1, open[depth - 1].value)
            if networks[i].first == open[depth - 1].first and networks[i].last == open[depth - 1].last:
                depth -= depth > 1
            made = _begin(spans, made, networks[i].first, networks[i].value)
            open[depth] = networks[i]
            depth += 1
        while depth > 1 and open[depth - 1].last != open[0].last:
            depth -= 1
            made = _begin(spans, made, open[depth].last + 1, open[depth - 1].value)
    spans_count[0] = made
    return spans


cdef size_t _begin(Network* spans, size_t made, u128 first, uint8_t value) noexcept nogil:
    """Let `value` hold from `first` on; return the number of spans now."""
    if spans[made - 1].first == first:
        made -= 1
    if made and spans[made - 1].value == value:
        return made
    spans[made].first = first
    spans[made].value = value
    return made + 1


cdef int _compare(const void* left, const void* right) noexcept nogil:
    """Order by the first address, then the larger network, then the smaller value."""
    cdef const Network* a = <const Network*>left
    cdef const Network* b = <const Network*>right
    if a.first != b.first:
        return -1 if a.first < b.first else 1
    if a.last != b.last:
        return -1 if a.last > b.last else 1
    return <int>a.value - <int>b.value


cdef int _keep_v4(Spans4* to, const Network* spans, size_t count) except -1:
    cdef size_t i
    if spans[count - 1].first >> 32:
        count -= 1      # what holds behind the last address of IPv4
    to.tops = <uint32_t*>malloc(_blocks(<uint32_t>count) * sizeof(uint32_t))
    to.starts = <uint32_t*>malloc(count * sizeof(uint32_t))
    to.values = <uint8_t*>malloc(count)
    if to.tops == NULL or to.starts == NULL or to.values == NULL:
        raise MemoryError("no memory for a table of networks")
    for i in range(count):
        to.starts[i] = <uint32_t>spans[i].first
        to.values[i] = spans[i].value
        if i % BLOCK == 0:
            to.tops[i // BLOCK] = to.starts[i]
    to.count = <uint32_t>count
    return 0


cdef int _keep_v6(Spans6* to, const Network* spans, size_t count) except -1:
    cdef size_t i
    to.tops = <uint64_t*>malloc(_blocks(<uint32_t>count) * sizeof(uint64_t))
    to.highs = <uint64_t*>malloc(count * sizeof(uint64_t))
    to.lows = <uint64_t*>malloc(count * sizeof(uint64_t))
    to.values = <uint8_t*>malloc(count)
    if not (to.tops and to.highs and to.lows and to.values):
        raise MemoryError("no memory for a table of networks")
    for i in range(count):
        to.highs[i] = <uint64_t>(spans[i].first >> 64)
        to.lows[i] = <uint64_t>spans[i].first
        to.values[i] = spans[i].value
        if i % BLOCK == 0:
            to.tops[i // BLOCK] = to.highs[i]
    to.count = <uint32_t>count
    return 0


cdef int _push(Network** to, size_t* count, size_t* capacity, const Network* network) except -1:
    cdef Network* grown
    cdef size_t size
    if count[0] == capacity[0]:
        size = capacity[0] * 2 if capacity[0] else 16
        grown = <Network*>realloc(to[0], size * sizeof(Network))
        if grown == NULL:
            raise MemoryError("no memory for a list of networks")
        to[0] = grown
        capacity[0] = size
    to[0][count[0]] = network[0]
    count[0] += 1
    return 0


# --------------------------------------------------------------------------- reading

cdef inline bint _is_blank(char c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r"


cdef int _prefix(const char* at, const char* end, int bits) noexcept nogil:
    """Return the number from `at` to `end`, -1 where it is none, is over `bits`, or begins with a zero."""
    cdef int value = 0
    if end - at < 1 or end - at > 3 or (at[0] == c"0" and end - at > 1):
        return -1
    while at < end:
        if not c"0" <= at[0] <= c"9":
            return -1
        value = value * 10 + at[0] - c"0"
        at += 1
    return value if value <= bits else -1


cdef inline uint64_t _word(const uint8_t* octets, int n) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(n):
        value = value << 8 | octets[i]
    return value


cdef u128 _number(const Address* address) noexcept nogil:
    if address.length == 4:
        return _word(address.octets, 4)
    return <u128>_word(address.octets, 8) << 64 | _word(address.octets + 8, 8)


cdef u128 _ones(int n) noexcept nogil:
    return ~<u128>0 >> (128 - n) if n else 0


# --------------------------------------------------------------------------- what is wrong

cdef str _shown(bytes text):
    return text[:80].decode("utf-8", "replace")


cdef str _why_not(bytes text):
    if b"%" in text:
        return f"{_shown(text)!r}: a zone id means something on one machine alone; leave it out"
    return NOT_A_NETWORK.format(_shown(text))


cdef str _host_bits(bytes text, u128 first, int bits, int prefix):
    cdef Address address
    cdef uint8_t[16] octets
    cdef int length = bits // 8
    cdef int i
    for i in range(length):
        octets[i] = <uint8_t>(first >> (bits - 8 - 8 * i))
    address.length = length
    address.port = 0
    memcpy(address.octets, octets, length)
    return f"{_shown(text)!r}: host bits are set; the network is {address_text(&address)}/{prefix}"
