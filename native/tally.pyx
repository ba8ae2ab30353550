"""The books of a load generator: what its connections receive, counted and timed without a Python object.

A `Peer` is the reading side of one client connection: it finds frames in what arrives, and in them the
markers that its publications carry: `~<16 hex: ns when due><8 hex: sequence>~` in the content of a push,
`^...^` in the id of an ack. Time runs from when a message was due, not from when it was sent. The bytes that
`receive` is given stay the caller's; a peer owns what is left of an unfinished frame.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from realtime.native.frames cimport server_frame_bytes

cdef extern from *:
    """
    #include <string.h>
    #include <time.h>
    static inline unsigned long long tally_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (unsigned long long)t.tv_sec * 1000000000ull + (unsigned long long)t.tv_nsec;
    }
    static inline int tally_leading_zeros(unsigned long long value) { return __builtin_clzll(value); }
    """
    uint64_t tally_now_ns() noexcept nogil
    int tally_leading_zeros(uint64_t value) noexcept nogil
    void* memmem(const void* haystack, size_t n, const void* needle, size_t m) noexcept nogil
    void* memchr(const void* haystack, int c, size_t n) noexcept nogil

cdef enum:
    STEPS = 128  # 64 to 128 linear steps in each power of two: within 1.6 %
    BUCKETS = 58 * STEPS
    MARKER_BYTES = 26
    OFFSET_WITHIN = 512  # of a push's bytes: the envelope stands before the content
    FRAME_BYTES_MAX = 64 * 1024 * 1024


def now_ns():
    """Return the monotonic clock, the same in all processes of a machine."""
    return tally_now_ns()


cdef class Histogram:
    """Counts of durations in logarithmic buckets, from 1 ns to 500 years."""

    cdef uint64_t[BUCKETS] buckets
    cdef readonly uint64_t count
    cdef readonly uint64_t max_ns

    def __cinit__(self):
        self.clear()

    cdef inline void note(self, uint64_t ns) noexcept nogil:
        cdef int shift = 0 if ns < STEPS else 57 - tally_leading_zeros(ns)
        self.buckets[shift * STEPS + <int> (ns >> shift)] += 1
        self.count += 1
        if ns > self.max_ns:
            self.max_ns = ns

    cpdef void clear(self):
        """Forget everything."""
        memset(self.buckets, 0, sizeof(self.buckets))
        self.count = self.max_ns = 0

    def record(self, ns):
        """Count one duration."""
        self.note(ns)

    def dump(self):
        """Return what was counted as a list: the longest in ns, then (bucket, count) in turn."""
        cdef list found = [self.max_ns]
        cdef int i
        for i in range(BUCKETS):
            if self.buckets[i]:
                found.append(i)
                found.append(self.buckets[i])
        return found

    def merge(self, dumped):
        """Count what another one has dumped. Raises ValueError: that is no dump."""
        cdef Py_ssize_t i
        if len(dumped) % 2 != 1:
            raise ValueError("a histogram's dump has an odd number of items")
        self.max_ns = max(self.max_ns, dumped[0])
        for i in range(1, len(dumped), 2):
            if not 0 <= dumped[i] < BUCKETS:
                raise ValueError(f"a histogram has no bucket {dumped[i]}")
            self.buckets[<int> dumped[i]] += dumped[i + 1]
            self.count += dumped[i + 1]

    def percentile(self, percent):
        """Return the ns that `percent` of all were not above, in the middle of their bucket; 0 for none."""
        cdef double rank = self.count * <double> percent / 100.0
        cdef uint64_t seen = 0
        cdef int i, shift
        if percent >= 100:
            return self.max_ns
        for i in range(BUCKETS):
            seen += self.buckets[i]
            if self.buckets[i] and seen >= rank:
                shift = i // STEPS
                return min(self.max_ns, (<uint64_t> (i % STEPS) << shift) + ((<uint64_t> 1 << shift) >> 1))
        return 0


cdef class Tally:
    """What all peers of one process received. Only what was due from `since` to before `until` is timed."""

    cdef readonly uint64_t delivered, acked, duplicated, skipped, others, received_bytes, delivered_in_time
    cdef public uint64_t since, until
    cdef readonly Histogram delivery, ack, lately

    def __cinit__(self):
        self.delivery, self.ack, self.lately = Histogram(), Histogram(), Histogram()
        self.since, self.until = 0, <uint64_t> -1


cdef inline uint64_t hex_number(const uint8_t* at, int digits) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(digits):  # '0'..'9' and 'a'..'f' without a table
        value = value << 4 | <uint64_t> ((at[i] & 15) + 9 * (at[i] >> 6))
    return value


cdef inline const uint8_t* marker_in(const uint8_t* data, size_t n, uint8_t bracket) noexcept nogil:
    """Return where a marker begins, or NULL."""
    cdef const uint8_t* end = data + n
    cdef const uint8_t* at = data
    while <size_t> (end - at) >= MARKER_BYTES:
        at = <const uint8_t*> memchr(at, bracket, end - at - MARKER_BYTES + 1)
        if at == NULL:
            return NULL
        if at[MARKER_BYTES - 1] == bracket:
            return at
        at += 1
    return NULL


cdef inline int64_t offset_in(const uint8_t* data, size_t n) noexcept nogil:
    """Return a push's offset; -1 where it has none."""
    cdef size_t within = n if n < OFFSET_WITHIN else OFFSET_WITHIN
    cdef const uint8_t* at = <const uint8_t*> memmem(data, within, b'"offset":', 9)
    cdef const uint8_t* end = data + n
    cdef int64_t value = 0
    if at == NULL:
        return -1
    at += 9
    while at < end and at[0] == 32:
        at += 1
    while at < end and 48 <= at[0] <= 57:
        value = value * 10 + (at[0] - 48)
        at += 1
    return value


cdef class Peer:
    """The reading side of one connection, from behind the handshake on, and the frames that it sends.

    `head` and `tail` are what stands around the two markers of a publication, between them `between`.
    """

    cdef Tally tally
    cdef uint8_t* carry
    cdef size_t carried, room
    cdef int64_t offset
    cdef public bint joined
    cdef readonly uint64_t sent
    cdef bytes head, between, tail

    def __cinit__(self, Tally tally, bytes head, bytes between, bytes tail):
        self.tally = tally
        self.carry = NULL
        self.offset = -1
        self.head, self.between, self.tail = head, between, tail

    def __dealloc__(self):
        free(self.carry)

    def publication(self, uint64_t due_ns):
        """Return the next publication as a masked frame, and count it."""
        cdef bytes marker = b"%016x%08x" % (due_ns, self.sent & 0xFFFFFFFF)
        self.sent += 1
        return client_frame(
            1, b"%b^%b^%b~%b~%b" % (self.head, marker, self.between, marker, self.tail), <uint32_t> due_ns
        )

    def receive(self, bytes data):
        """Take what has arrived; return what is for others to look at, a list of (opcode, payload), or None.

        That is everything until `joined` is set, then errors, pings and closes.

        Raises:
            ValueError: a frame is larger than anybody would send.
        """
        cdef const uint8_t* at = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef size_t n = PyBytes_GET_SIZE(data)
        cdef uint64_t now = tally_now_ns()
        cdef size_t used
        cdef list found = None
        self.tally.received_bytes += n
        if self.carried:
            self.keep(at, n)
            at, n = self.carry, self.carried
        used = 0
        while True:
            size = self.frame(at + used, n - used)
            if size == 0:
                break
            found = self.take(at + used, size, now, found)
            used += size
        if at == self.carry:
            self.carried = n - used
            if used and self.carried:
                memcpy_down(self.carry, self.carry + used, self.carried)
        elif used < n:
            self.keep(at + used, n - used)
        return found

    cdef size_t frame(self, const uint8_t* at, size_t n) except? 0:
        """Return the size of the frame at `at` where all of it is there, else 0."""
        cdef size_t head
        cdef uint64_t size
        if n < 2:
            return 0
        head = 2 if at[1] < 126 else 4 if at[1] == 126 else 10
        if n < head:
            return 0
        size = server_frame_bytes(at)
        if size > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {size} bytes")
        return <size_t> size if size <= n else 0

    cdef int keep(self, const uint8_t* at, size_t n) except -1:
        """Put an unfinished frame behind what there is of it."""
        cdef size_t need = self.carried + n
        cdef void* grown
        if need > self.room:
            grown = realloc(self.carry, need * 2)
            if grown == NULL:
                raise MemoryError
            self.carry = <uint8_t*> grown
            self.room = need * 2
        memcpy(self.carry + self.carried, at, n)
        self.carried = need
        return 0

    cdef list take(self, const uint8_t* at, size_t size, uint64_t now, list found):
        """Count one whole frame, or add it to `found`."""
        cdef size_t head = 2 if at[1] < 126 else 4 if at[1] == 126 else 10
        cdef const uint8_t* payload = at + head
        cdef size_t n = size - head
        cdef uint8_t opcode = at[0] & 15
        if self.joined and opcode == 1:
            if self.counted(payload, n, now):
                return found
            if memmem(payload, n if n < 64 else 64, b'"error"', 7) == NULL:
                self.tally.others += 1
                return found
        if found is None:
            found = []
        found.append((opcode, PyBytes_FromStringAndSize(<const char*> payload, n)))
        return found

    cdef bint counted(self, const uint8_t* payload, size_t n, uint64_t now) noexcept nogil:
        """Count a push or an ack of ours; False where it is neither."""
        cdef const uint8_t* marker = marker_in(payload, n, c"~")
        cdef uint64_t due
        if marker != NULL:
            self.order(offset_in(payload, n))
            self.tally.delivered += 1
            due = hex_number(marker + 1, 16)
            if self.tally.since <= due < self.tally.until:
                self.tally.delivered_in_time += 1
                self.tally.delivery.note(now - due if now > due else 0)
                self.tally.lately.note(now - due if now > due else 0)
            return True
        marker = marker_in(payload, n, c"^")
        if marker == NULL or memmem(payload, n if n < 64 else 64, b'"ack"', 5) == NULL:
            return False
        self.tally.acked += 1
        due = hex_number(marker + 1, 16)
        if self.tally.since <= due < self.tally.until:
            self.tally.ack.note(now - due if now > due else 0)
        return True

    cdef void order(self, int64_t offset) noexcept nogil:
        """Offsets of a room go up by one, for every member."""
        if offset < 0:
            return
        if self.offset >= 0 and offset != self.offset + 1:
            if offset <= self.offset:
                self.tally.duplicated += 1
                return
            self.tally.skipped += offset - self.offset - 1
        self.offset = offset


cdef inline void memcpy_down(uint8_t* to, const uint8_t* source, size_t n) noexcept nogil:
    """Move bytes towards the front: the ranges may overlap."""
    cdef size_t i
    for i in range(n):
        to[i] = source[i]


def client_frame(int opcode, bytes payload, uint32_t mask):
    """Return one whole masked frame. A load needs no mask that nobody can guess."""
    cdef size_t n = PyBytes_GET_SIZE(payload)
    cdef size_t head = 6 if n < 126 else 8 if n < 65536 else 14
    cdef bytes made = PyBytes_FromStringAndSize(NULL, head + n)
    cdef uint8_t* to = <uint8_t*> PyBytes_AS_STRING(made)
    cdef const uint8_t* source = <const uint8_t*> PyBytes_AS_STRING(payload)
    cdef const uint8_t* key = <const uint8_t*> &mask
    cdef size_t i
    to[0] = 0x80 | opcode
    if n < 126:
        to[1] = 0x80 | n
    elif n < 65536:
        to[1] = 0x80 | 126
        to[2], to[3] = n >> 8, n & 255
    else:
        to[1] = 0x80 | 127
        for i in range(8):
            to[2 + i] = <uint8_t> (<uint64_t> n >> (56 - 8 * i))
    memcpy(to + head - 4, &mask, 4)
    for i in range(n):
        to[head + i] = source[i] ^ key[i & 3]
    return made
