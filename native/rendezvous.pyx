"""Who owns which slot: rendezvous hashing (highest random weight) of worker names over the slots of Redis.

Every worker makes the same table from the same names, whatever their order. A worker that comes takes slots
from all others and moves none between them; those of one that goes are dealt out among all. Every release has
to give the same table, or two workers of a rolling upgrade disagree: tests hold it to values that are written
down. The cost is slots times workers, 2 ns each.
"""

from array import array

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef enum:
    SLOTS = 16384
    WORKERS_MAX = 65535


def owners(names):
    """Return for each slot the place of its owner in `names` (bytes, each once), as an array of uint16."""
    cdef list ordered = sorted(names)
    cdef Py_ssize_t count = len(ordered)
    cdef Py_ssize_t i
    cdef uint64_t* hashes
    cdef uint16_t[::1] table
    if not 1 <= count <= WORKERS_MAX or len(set(ordered)) != count:
        raise ValueError(f"names of 1 to {WORKERS_MAX} workers, each once, not {count}")
    made = array("H", bytes(2 * SLOTS))
    table = made
    hashes = <uint64_t*>PyMem_Malloc(count * sizeof(uint64_t))
    if hashes == NULL:
        raise MemoryError
    try:
        for i in range(count):
            hashes[i] = hash_of(ordered[i])
        deal(hashes, count, &table[0])
    finally:
        PyMem_Free(hashes)
    places = {name: place for place, name in enumerate(names)}
    cdef uint16_t[::1] renamed = array("H", [places[name] for name in ordered])
    for i in range(SLOTS):
        table[i] = renamed[table[i]]
    return made


cdef uint64_t hash_of(bytes name) except? 0:
    """FNV-1a, mixed: names that differ in one character have nothing in common."""
    if name is None:
        raise TypeError("a worker's name is bytes, not None")
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(name)
    cdef uint64_t value = <uint64_t>0xCBF29CE484222325
    cdef Py_ssize_t i
    for i in range(PyBytes_GET_SIZE(name)):
        value = (value ^ at[i]) * <uint64_t>0x100000001B3
    return mix(value)


cdef void deal(const uint64_t* hashes, Py_ssize_t count, uint16_t* table) noexcept nogil:
    """Give each slot to the worker with the highest weight; of equal ones to the first."""
    cdef uint64_t of_slot, weight, highest
    cdef Py_ssize_t slot, i
    for slot in range(SLOTS):
        of_slot = mix(<uint64_t>slot)
        table[slot] = 0
        highest = mix(hashes[0] ^ of_slot)
        for i in range(1, count):
            weight = mix(hashes[i] ^ of_slot)
            if weight > highest:
                highest = weight
                table[slot] = <uint16_t>i


cdef inline uint64_t mix(uint64_t value) noexcept nogil:
    """The step of SplitMix64: each bit of `value` moves every bit of the outcome."""
    value += <uint64_t>0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * <uint64_t>0x94D049BB133111EB
    return value ^ (value >> 31)
