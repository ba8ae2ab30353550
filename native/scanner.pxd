"""What a scan keeps at hand: its bounds, the fault it met, the keys of open objects, unescaped strings.

A `Scanner` borrows the text. It owns `keys` and `arena`, which `message.close_scanner` frees.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc, realloc
from libc.string cimport memcmp

from realtime.native.text cimport hash_bytes, unescape

cdef enum:
    DEPTH_LIMIT = 512       # nesting that `max_depth` may ask for at most
    DIRECT_KEYS = 8         # keys of one object that are compared one by one

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_MEMORY
    FAULT_END               # the text ends inside a value
    FAULT_VALUE             # no value begins with this byte
    FAULT_COMMA_OBJECT      # neither "," nor "}"
    FAULT_COMMA_ARRAY       # neither "," nor "]"
    FAULT_KEY               # a key must be a string
    FAULT_COLON
    FAULT_CONTROL           # a raw control character in a string
    FAULT_ESCAPE
    FAULT_HEX
    FAULT_SURROGATE
    FAULT_ZERO              # leading zero
    FAULT_NUMBER
    FAULT_NAN
    FAULT_LITERAL
    FAULT_DEPTH
    FAULT_DUPLICATE
    FAULT_TRAILING
    FAULT_ENVELOPE          # a message must be an object
    FAULT_PACKED_END        # from here on: MessagePack
    FAULT_PACKED_LENGTH
    FAULT_PACKED_TRAILING
    FAULT_PACKED_RESERVED
    FAULT_PACKED_ENVELOPE
    FAULT_PACKED_KEY
    FAULT_PACKED_BINARY
    FAULT_PACKED_EXTENSION
    FAULT_PACKED_UTF8
    FAULT_PACKED_FINITE

ctypedef struct Key:
    uint64_t hash           # of the unescaped bytes
    const uint8_t* data     # unescaped; in the text, or in the arena where it had escapes
    uint32_t bytes
    uint32_t offset         # of the key in the text, for the reason

ctypedef struct Scanner:
    const uint8_t* start
    const uint8_t* end
    const uint8_t* at       # where the scan stopped at a fault
    const uint8_t* blame    # the byte the fault is about: `at`, or before it
    uint32_t max_depth
    int fault
    bint escaped            # the last string held an escape
    bint broken             # whitespace held a newline or carriage return
    Key* keys               # a stack: the keys of all open objects
    size_t key_count
    size_t key_capacity
    uint8_t* arena          # unescaped strings; as large as the text, so it never grows
    size_t arena_used


cdef inline int refuse(Scanner* s, const uint8_t* at, int fault) noexcept nogil:
    """Note `fault` at `at` and return -1. At the end of the text every fault is FAULT_END."""
    s.at = at
    s.blame = at
    s.fault = FAULT_END if at >= s.end and fault < FAULT_DUPLICATE else fault
    return -1


cdef inline const uint8_t* unescaped(
    Scanner* s, const uint8_t* at, const uint8_t* end, size_t* n
) noexcept nogil:
    """Return the string's bytes without escapes and put their number in `n`; NULL when out of memory."""
    cdef uint8_t* to
    if s.arena == NULL:
        s.arena = <uint8_t*>malloc(s.end - s.start)
        if s.arena == NULL:
            refuse(s, at, FAULT_MEMORY)
            return NULL
    to = s.arena + s.arena_used
    n[0] = unescape(at, end, to)
    s.arena_used += n[0]
    return to


cdef inline int compare_keys(const Key* a, const Key* b) noexcept nogil:
    """Total order by hash, length, bytes: equal hashes of different keys cost no more than others."""
    if a.hash != b.hash:
        return -1 if a.hash < b.hash else 1
    if a.bytes != b.bytes:
        return -1 if a.bytes < b.bytes else 1
    return memcmp(a.data, b.data, a.bytes)


cdef inline bint precedes(const Key* a, const Key* b) noexcept nogil:
    """The order that `sort_keys` makes: equal keys as they stand in the text."""
    cdef int order = compare_keys(a, b)
    return order < 0 or (order == 0 and a.offset < b.offset)


cdef inline void sift_down(Key* keys, size_t root, size_t n) noexcept nogil:
    cdef Key moving = keys[root]
    cdef size_t child = 2 * root + 1
    while child < n:
        if child + 1 < n and precedes(&keys[child], &keys[child + 1]):
            child += 1
        if not precedes(&moving, &keys[child]):
            break
        keys[root] = keys[child]
        root = child
        child = 2 * root + 1
    keys[root] = moving


cdef inline void sort_keys(Key* keys, size_t n) noexcept nogil:
    """Heapsort: in place and O(n log n) whatever a peer chose, which libc's qsort does not promise."""
    cdef size_t i = n // 2
    cdef Key top
    while i > 0:
        i -= 1
        sift_down(keys, i, n)
    while n > 1:
        n -= 1
        top = keys[0]
        keys[0] = keys[n]
        keys[n] = top
        sift_down(keys, 0, n)


cdef inline int add_key(
    Scanner* s, size_t base, const uint8_t* data, size_t n, const uint8_t* at
) noexcept nogil:
    """Push a key of the object whose keys begin at `base`; -1 when it is there already or memory is out."""
    cdef Key* grown
    cdef Key* key
    cdef size_t i
    if s.key_count == s.key_capacity:
        grown = <Key*>realloc(s.keys, 2 * s.key_capacity * sizeof(Key))
        if grown == NULL:
            return refuse(s, at, FAULT_MEMORY)
        s.keys = grown
        s.key_capacity *= 2
    key = &s.keys[s.key_count]
    key.hash = hash_bytes(data, n)
    key.data = data
    key.bytes = <uint32_t>n
    key.offset = <uint32_t>(at - s.start)
    if s.key_count - base < DIRECT_KEYS:
        for i in range(base, s.key_count):
            if s.keys[i].hash == key.hash and compare_keys(&s.keys[i], key) == 0:
                return refuse(s, at, FAULT_DUPLICATE)
    s.key_count += 1
    return 0


cdef inline int drop_keys(Scanner* s, size_t base, const uint8_t* at) noexcept nogil:
    """End an object at `at`: pop its keys, and compare them where `add_key` has not."""
    cdef Key* keys = s.keys + base
    cdef size_t n = s.key_count - base
    cdef size_t i
    cdef uint32_t first = <uint32_t>-1      # where the first key stands that was there before
    s.key_count = base
    if n <= DIRECT_KEYS:
        return 0
    sort_keys(keys, n)
    for i in range(1, n):
        if keys[i].offset < first and compare_keys(&keys[i - 1], &keys[i]) == 0:
            first = keys[i].offset
    if first == <uint32_t>-1:
        return 0
    refuse(s, at, FAULT_DUPLICATE)
    s.blame = s.start + first
    return -1
