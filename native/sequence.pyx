"""A room's order in this process: it gives offsets, makes the pushes, keeps the last ones, delivers them.

The brokers that order in memory stand on it. Positions across processes, idempotency keys and who may
publish are for others to say. The ring owns a reference to each push in it; it holds bytes alone, so the
garbage collector has nothing to find behind it.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc

from realtime.native.encode cimport encode_push, push_of

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* address, int write, int locality) noexcept nogil

cdef enum:
    FIRST_CAPACITY = 8


cdef class Budget:
    """Bytes that many sequences may keep together."""

    def __init__(self, int64_t limit):
        if limit < 0:
            raise ValueError("limit must be at least 0")
        self.limit = limit


# Its end gives back what it took of the budget, so the collector must not take that away before.
@cython.no_gc_clear
cdef class Sequence:
    """The order of one room, from offset 1 on, within one `epoch`.

    The last pushes are kept: at most `messages_max`, of at most `bytes_max` together, as far as the budget
    shared with others allows. `deliver(push, offset)` gets each one, None nobody.
    """

    def __cinit__(self):
        self.pushes = NULL

    def __init__(self, bytes room_json not None, bytes epoch not None, Py_ssize_t messages_max,
                 Py_ssize_t bytes_max, Budget budget=None, uint64_t offset=0):
        if messages_max < 0 or bytes_max < 0:
            raise ValueError("messages_max and bytes_max must be at least 0")
        self.room_json = room_json
        self.epoch = epoch
        self.offset = offset
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.deliver = None
        self.budget = Budget(bytes_max) if budget is None else budget

    def __dealloc__(self):
        while self.count:
            self.forget_oldest()
        free(self.pushes)

    def __len__(self):
        return self.count

    @property
    def first(self):
        """Offset of the oldest push kept; one above `offset` when there is none."""
        return self.offset - self.count + 1

    def publish(self, str type not None, bytes sender, bytes content not None, bytes timestamp not None):
        """Give the next offset to a publication, keep and deliver it; return the offset."""
        cdef bytes push = self.order(type, sender, content, timestamp)
        if self.deliver is not None:
            self.deliver(push, self.offset)
        return self.offset

    def append(self, bytes push not None):
        """Keep and deliver a publication that was encoded with the next offset; return the offset."""
        self.add(push)
        if self.deliver is not None:
            self.deliver(push, self.offset)
        return self.offset

    def between(self, low, high):
        """Return the pushes from offset `low` to `high`, both included, as far as they are kept."""
        cdef Py_ssize_t at = max(low, self.first) - self.first
        cdef Py_ssize_t end = min(high, self.offset) - self.first + 1
        cdef list found = []
        while at < end:
            found.append(<object>self.pushes[(self.start + at) & (self.capacity - 1)])
            at += 1
        return found

    cdef bytes order(self, str type, bytes sender, bytes content, bytes timestamp):
        """Give the next offset to a publication and keep it; the caller delivers it before the next one."""
        return self.add(
            encode_push(type, self.room_json, sender, self.offset + 1, self.epoch, content, timestamp)
        )

    cdef bytes order_text(
        self, const uint8_t* type, size_t type_bytes, bytes sender, const uint8_t* content,
        size_t content_bytes, bytes timestamp
    ):
        """The same with type and content as JSON text, the type without its quotes."""
        return self.add(push_of(
            type, type_bytes, self.room_json, sender, self.offset + 1, self.epoch, content, content_bytes,
            timestamp,
        ))

    cdef bytes add(self, bytes push):
        self.keep(push)
        self.offset += 1
        return push

    cdef int keep(self, bytes push) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(push)
        cdef Budget budget = self.budget
        while self.count and (
            self.count >= self.messages_max
            or self.size_bytes + size > self.bytes_max
            or budget.used + size > budget.limit
        ):
            self.forget_oldest()
        if self.messages_max == 0 or size > self.bytes_max or budget.used + size > budget.limit:
            return 0
        if self.count == self.capacity:
            self.grow()
        Py_INCREF(push)
        self.pushes[(self.start + self.count) & (self.capacity - 1)] = <PyObject*>push
        self.count += 1
        self.size_bytes += size
        budget.used += size
        return 0

    cdef void forget_oldest(self) noexcept:
        cdef PyObject* push = self.pushes[self.start]
        self.start = (self.start + 1) & (self.capacity - 1)
        self.count -= 1
        self.size_bytes -= PyBytes_GET_SIZE(<object>push)
        self.budget.used -= PyBytes_GET_SIZE(<object>push)
        Py_DECREF(<object>push)
        if self.count:
            # The next to go has lain untouched since it was kept: fetch its head while there is time.
            prefetch(self.pushes[self.start], 1, 3)

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = self.capacity * 2 if self.capacity else FIRST_CAPACITY
        cdef PyObject** pushes = <PyObject**>malloc(capacity * sizeof(PyObject*))
        cdef Py_ssize_t at
        if pushes == NULL:
            raise MemoryError()
        for at in range(self.count):
            pushes[at] = self.pushes[(self.start + at) & (self.capacity - 1)]
        free(self.pushes)
        self.pushes = pushes
        self.capacity = capacity
        self.start = 0
        return 0
