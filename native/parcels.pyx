# cython: language_level=3
"""The envelope of what a worker hands over to the one that follows it: magic, version, kind, content, CRC-32.

The content is structs as they lie in memory: both ends run on one host, and a change of layout is a new
VERSION, which the other end refuses. The checksum tells what was cut or garbled on the way; whoever unpacks
checks every size nevertheless, so that nothing written with a right checksum reads outside of the parcel.

Allocates nothing but the bytes it returns. Left to others: what stands in it (roomparcel, handover).
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from realtime.native.frames cimport server_frame_bytes

cdef extern from "<zlib.h>" nogil:
    unsigned long crc32(unsigned long crc, const uint8_t* data, unsigned int n)

cdef enum:
    VERSION = 1
    HEAD = 5                    # magic, version, kind
    TAIL = 4                    # the checksum of all before it

MAGIC = b"RTH"
FORMAT_VERSION = VERSION


cdef bytes parcel_new(uint8_t kind, size_t content_bytes, uint8_t** content):
    """Return a parcel to be filled from `content` on and then sealed. ValueError over PARCEL_MAX."""
    if content_bytes > PARCEL_MAX:
        raise ValueError(f"{content_bytes} bytes: too much to hand over, {PARCEL_MAX} at most")
    cdef bytes parcel = PyBytes_FromStringAndSize(NULL, HEAD + content_bytes + TAIL)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(parcel)
    memcpy(to, PyBytes_AS_STRING(MAGIC), 3)
    to[3] = VERSION
    to[4] = kind
    content[0] = to + HEAD
    return parcel


cdef int parcel_seal(bytes parcel) except -1:
    """Write the checksum behind what stands in `parcel`, which nobody else has seen yet."""
    cdef uint8_t* data = <uint8_t*>PyBytes_AS_STRING(parcel)
    cdef size_t n = PyBytes_GET_SIZE(parcel) - TAIL
    cdef uint32_t checksum = <uint32_t>crc32(0, data, <unsigned int>n)
    memcpy(data + n, &checksum, TAIL)
    return 0


cdef int parcel_open(bytes parcel, uint8_t kind, Rest* rest) except -1:
    """Find the content. ValueError where it is no parcel of this kind and version, or has been garbled."""
    cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(parcel)
    cdef size_t n = PyBytes_GET_SIZE(parcel)
    cdef uint32_t checksum
    if n < HEAD + TAIL or memcmp(data, PyBytes_AS_STRING(MAGIC), 3) != 0:
        raise ValueError("no parcel of a hand-over")
    if data[3] != VERSION:
        raise ValueError(f"a parcel of format {data[3]}, this is {VERSION}")
    if n - HEAD - TAIL > PARCEL_MAX:
        raise ValueError(f"a parcel of {n} bytes, {PARCEL_MAX} at most")
    memcpy(&checksum, data + n - TAIL, TAIL)
    if checksum != <uint32_t>crc32(0, data, <unsigned int>(n - TAIL)):
        raise ValueError("a garbled parcel: its checksum is wrong")
    if data[4] != kind:
        raise ValueError(f"a parcel of kind {chr(data[4])!r}, not {chr(kind)!r}")
    rest.at = data + HEAD
    rest.left = n - HEAD - TAIL
    return 0


cdef int frames_walk(const uint8_t* data, size_t n, uint64_t base, uint64_t* starts) noexcept nogil:
    """Count the server's frames that `data` is made of; -1 where it is not made of whole ones.

    Where `starts` is not NULL, `base` plus where each begins is written there.
    """
    cdef size_t at = 0
    cdef size_t head
    cdef uint64_t size
    cdef int count = 0
    while at < n:
        if n - at < 2:
            return -1
        head = 2 if data[at + 1] < 126 else 4 if data[at + 1] == 126 else 10
        # A size whose top bits are set would wrap with the head added.
        if data[at + 1] > 127 or n - at < head or head == 10 and data[at + 2] != 0:
            return -1
        size = server_frame_bytes(data + at)
        if size > n - at:
            return -1
        if starts != NULL:
            starts[count] = base + at
        count += 1
        at += size
    return count
