"""A room's order in this process: it gives offsets, makes the pushes, keeps the last ones, delivers them.

The brokers that order in memory stand on it. Positions across processes, idempotency keys and who may
publish are for others to say. The pushes kept lie one behind the other in an arena of the sequence's own: a
push is encoded where it stays, in memory that its neighbours have just made warm, and forgetting one costs
moving a number.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from realtime.native.encode cimport Push, push_measure, push_write

from realtime.native.encode import encode_push

cdef enum:
    FIRST_CAPACITY = 8
    FIRST_BYTES = 1024
    SPARSE_FROM = 16384         # an arena larger than this and nearly empty gives memory back

# Where a push stands until its delivery that no arena keeps; one for all, and it keeps its size.
cdef uint8_t* passing = NULL
cdef size_t passing_bytes = 0


cdef class Budget:
    """Bytes of pushes that many sequences may keep together."""

    def __init__(self, int64_t limit):
        if limit < 0:
            raise ValueError("limit must be at least 0")
        self.limit = limit


# Its end gives back what it took of the budget, so the collector must not take that away before.
@cython.no_gc_clear
cdef class Sequence:
    """The order of one room within one `epoch`, from the publication after `offset` on.

    The last pushes are kept: at most `messages_max`, of at most `bytes_max` together, as far as the budget
    shared with others allows. `deliver(push, offset)` gets each one, None nobody.
    """

    def __cinit__(self):
        self.arena = NULL
        self.kept = NULL

    def __init__(self, bytes room_json not None, bytes epoch not None, Py_ssize_t messages_max,
                 Py_ssize_t bytes_max, Budget budget=None, uint64_t offset=0):
        if messages_max < 0 or bytes_max < 0:
            raise ValueError("messages_max and bytes_max must be at least 0")
        if bytes_max > <Py_ssize_t>1 << 30:
            raise ValueError("bytes_max must be at most 1 GiB")     # Kept has 32 bits
        self.room_json = room_json
        self.epoch = epoch
        self.offset = offset
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.deliver = None
        self.budget = Budget(bytes_max) if budget is None else budget

    def __dealloc__(self):
        if self.budget is not None:
            self.budget.used -= self.size_bytes
        free(self.arena)
        free(self.kept)

    def __len__(self):
        return self.count

    @property
    def first(self):
        """Offset of the oldest push kept; one above `offset` when there is none."""
        return self.offset - self.count + 1

    def publish(self, str type not None, bytes sender, bytes content not None, bytes timestamp not None):
        """Give the next offset to a publication, keep and deliver it; return the offset."""
        return self.append(
            encode_push(type, self.room_json, sender, self.offset + 1, self.epoch, content, timestamp)
        )

    def append(self, bytes push not None):
        """Keep and deliver a publication that was encoded with the next offset; return the offset."""
        if not push:
            raise ValueError("a push is never empty")
        memcpy(self.take(PyBytes_GET_SIZE(push)), PyBytes_AS_STRING(push), PyBytes_GET_SIZE(push))
        if self.deliver is not None:
            self.deliver(push, self.offset)
        return self.offset

    def between(self, low, high):
        """Return the pushes from offset `low` to `high`, both included, as far as they are kept."""
        cdef Py_ssize_t at = max(low, self.first) - self.first
        cdef Py_ssize_t end = min(high, self.offset) - self.first + 1
        cdef Kept one
        cdef list found = []
        while at < end:
            one = self.kept[(self.start + at) & (self.capacity - 1)]
            found.append(PyBytes_FromStringAndSize(<const char*>self.arena + one.start, one.size))
            at += 1
        return found

    cdef const uint8_t* order(self, Push* push, bytes sender, bytes timestamp, size_t* size) except NULL:
        """Give the next offset to a publication and keep it; the caller delivers it before the next one.

        Returns the push, which stays where it is until then.
        """
        size[0] = push_measure(push, self.room_json, sender, self.offset + 1, self.epoch, timestamp)
        cdef uint8_t* to = self.take(size[0])
        push_write(to, push, self.room_json, sender, self.epoch, timestamp)
        return to

    cdef uint8_t* take(self, size_t size) except NULL:
        """Make room for the next push, count it, and return where the caller writes it."""
        cdef Budget budget = self.budget
        cdef Py_ssize_t n = <Py_ssize_t>size
        cdef uint8_t* to
        while self.count and (
            self.count >= self.messages_max
            or self.size_bytes + n > self.bytes_max
            or budget.used + n > budget.limit
        ):
            self.forget_oldest()
        if self.messages_max == 0 or n > self.bytes_max or budget.used + n > budget.limit:
            to = passing_room(size)
        else:
            if self.count == self.capacity:
                self.grow()
            to = self.place(size)
            self.kept[(self.start + self.count) & (self.capacity - 1)] = Kept(to - self.arena, size)
            self.count += 1
            self.size_bytes += n
            budget.used += n
        self.offset += 1
        return to

    cdef uint8_t* place(self, size_t size) except NULL:
        """Return `size` bytes in one piece, behind the last push or at the arena's beginning."""
        cdef size_t oldest = self.kept[self.start].start if self.count else 0
        cdef size_t needed = <size_t>self.size_bytes + size
        cdef size_t at
        if self.count == 0:
            self.head = 0
        if self.arena_bytes > SPARSE_FROM and needed < self.arena_bytes // 8:
            self.move(2 * needed)
        elif self.count and self.head <= oldest:       # it has come round
            if size > oldest - self.head:
                self.move(needed + needed // 2)
        elif size > self.arena_bytes - self.head:
            if self.count and size <= oldest:
                self.head = 0
            else:
                self.move(needed + needed // 2)
        at = self.head
        self.head += size
        return self.arena + at

    cdef void forget_oldest(self) noexcept:
        cdef Py_ssize_t size = self.kept[self.start].size
        self.start = (self.start + 1) & (self.capacity - 1)
        self.count -= 1
        self.size_bytes -= size
        self.budget.used -= size

    cdef int grow(self) except -1:
        """Double the slots."""
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else FIRST_CAPACITY
        cdef Kept* kept = <Kept*>malloc(capacity * sizeof(Kept))
        cdef Py_ssize_t at
        if kept == NULL:
            raise MemoryError()
        for at in range(self.count):
            kept[at] = self.kept[(self.start + at) & (self.capacity - 1)]
        free(self.kept)
        self.kept = kept
        self.capacity = capacity
        self.start = 0
        return 0

    cdef int move(self, size_t arena_bytes) except -1:
        """Put the pushes one behind the other into another arena of at least `arena_bytes`."""
        cdef size_t capacity = max(arena_bytes, <size_t>FIRST_BYTES)
        cdef uint8_t* arena = <uint8_t*>malloc(capacity)
        cdef Kept* one
        cdef Py_ssize_t at
        if arena == NULL:
            raise MemoryError()
        self.head = 0
        for at in range(self.count):
            one = &self.kept[(self.start + at) & (self.capacity - 1)]
            memcpy(arena + self.head, self.arena + one.start, one.size)
            one.start = <uint32_t>self.head
            self.head += one.size
        free(self.arena)
        self.arena = arena
        self.arena_bytes = capacity
        return 0


cdef uint8_t* passing_room(size_t size) except NULL:
    global passing, passing_bytes
    cdef uint8_t* grown
    if size > passing_bytes or passing == NULL:
        grown = <uint8_t*>realloc(passing, size)
        if grown == NULL:
            raise MemoryError()
        passing = grown
        passing_bytes = size
    return passing
