"""Publications between workers: records in a row, and the pushes that come of them.

A record is its size (the bytes that follow, u32), the sizes of type, sender, key and timestamp (u16 each; a
sender's and a key's one more than they have, 0 for none), then these four and the content, which takes the
rest. A sealed record has 0xffff for the size of its type, and then nothing that could be read here: who has
its key makes a record of it. Numbers have their little end first. Whatever a peer may have written, nothing
outside of the blob is read.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from realtime.native.encode cimport encode_push

cdef enum:
    HEAD = 12
    SIZE_MAX = 65534
    SEALED = 65535                  # in place of the size of a type

ctypedef struct Record:
    const uint8_t* type             # NULL of a sealed record
    size_t type_bytes
    const uint8_t* sender           # NULL for none
    size_t sender_bytes
    const uint8_t* key              # NULL for none
    size_t key_bytes
    const uint8_t* timestamp
    size_t timestamp_bytes
    const uint8_t* content
    size_t content_bytes


class SealedRecord(ValueError):
    """A record has to be opened before anything of it can be read."""


def encode_record(str type not None, bytes sender, bytes key, bytes timestamp not None,
                  bytes content not None):
    cdef bytes name = type.encode()
    cdef bytes whose = b"" if sender is None else sender
    cdef bytes known = b"" if key is None else key
    cdef size_t sizes[4]
    cdef size_t n
    sizes[0] = PyBytes_GET_SIZE(name)
    sizes[1] = PyBytes_GET_SIZE(whose)
    sizes[2] = PyBytes_GET_SIZE(known)
    sizes[3] = PyBytes_GET_SIZE(timestamp)
    if sizes[0] > SIZE_MAX or sizes[1] > SIZE_MAX or sizes[2] > SIZE_MAX or sizes[3] > SIZE_MAX:
        raise ValueError("type, sender, key and timestamp have at most 65534 bytes each")
    n = HEAD + sizes[0] + sizes[1] + sizes[2] + sizes[3] + <size_t>PyBytes_GET_SIZE(content)
    if n - 4 > 0xFFFFFFFF:
        raise ValueError("a record has less than 4 GiB")
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(made)
    put_u32(to, <uint32_t>(n - 4))
    put_u16(to + 4, sizes[0])
    put_u16(to + 6, sizes[1] + 1 if sender is not None else 0)
    put_u16(to + 8, sizes[2] + 1 if key is not None else 0)
    put_u16(to + 10, sizes[3])
    to = put_bytes(to + HEAD, name)
    to = put_bytes(to, whose)
    to = put_bytes(to, known)
    to = put_bytes(to, timestamp)
    put_bytes(to, content)
    return made


def count_records(bytes blob not None, Py_ssize_t start=0):
    cdef Py_ssize_t count = 0
    cdef Record record
    while start < PyBytes_GET_SIZE(blob):
        start = read_record(blob, start, &record)
        count += 1
    return count


def records_of(bytes blob not None, Py_ssize_t start=0):
    cdef list found = []
    cdef Py_ssize_t end
    cdef Record record
    while start < PyBytes_GET_SIZE(blob):
        end = read_record(blob, start, &record)
        found.append(blob[start:end])
        start = end
    return found


def decode_records(bytes blob not None, Py_ssize_t start=0):
    cdef list found = []
    cdef Record record
    while start < PyBytes_GET_SIZE(blob):
        start = read_record(blob, start, &record)
        if record.type == NULL:
            raise SealedRecord("a record is sealed")
        found.append((
            bytes_of(record.type, record.type_bytes).decode(),
            None if record.sender == NULL else bytes_of(record.sender, record.sender_bytes),
            None if record.key == NULL else bytes_of(record.key, record.key_bytes),
            bytes_of(record.timestamp, record.timestamp_bytes),
            bytes_of(record.content, record.content_bytes),
        ))
    return found


def pushes_of(bytes blob not None, Py_ssize_t start, bytes room_json not None, bytes epoch not None,
              uint64_t first, uint64_t after=0):
    cdef list found = []
    cdef Record record
    while start < PyBytes_GET_SIZE(blob):
        start = read_record(blob, start, &record)
        if record.type == NULL:
            raise SealedRecord("a record is sealed")
        if first > after:
            found.append(encode_push(
                bytes_of(record.type, record.type_bytes),
                room_json,
                None if record.sender == NULL else bytes_of(record.sender, record.sender_bytes),
                first,
                epoch,
                bytes_of(record.content, record.content_bytes),
                bytes_of(record.timestamp, record.timestamp_bytes),
            ))
        first += 1
    return found


cdef Py_ssize_t read_record(bytes blob, Py_ssize_t start, Record* record) except -1:
    """Read the record at `start`, in place; return where the next one begins. A sealed one has no type."""
    cdef Py_ssize_t left = PyBytes_GET_SIZE(blob) - start
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(blob) + start
    cdef size_t size, named
    if start < 0 or left < HEAD:
        raise ValueError("a record is cut short")
    size = <size_t>get_u32(at) + 4
    if size > <size_t>left:
        raise ValueError("a record is cut short")
    record.type_bytes = get_u16(at + 4)
    if record.type_bytes == SEALED:
        record.type = NULL
        return start + <Py_ssize_t>size
    record.sender_bytes = get_u16(at + 6)
    record.key_bytes = get_u16(at + 8)
    record.timestamp_bytes = get_u16(at + 10)
    record.type = at + HEAD
    record.sender = record.key = NULL
    at = record.type + record.type_bytes
    if record.sender_bytes:
        record.sender = at
        record.sender_bytes -= 1
    at += record.sender_bytes
    if record.key_bytes:
        record.key = at
        record.key_bytes -= 1
    at += record.key_bytes
    record.timestamp = at
    record.content = at + record.timestamp_bytes
    named = HEAD + record.type_bytes + record.sender_bytes + record.key_bytes + record.timestamp_bytes
    if named > size:
        raise ValueError("a record's parts are longer than itself")
    record.content_bytes = size - named
    return start + <Py_ssize_t>size


cdef inline bytes bytes_of(const uint8_t* data, size_t n):
    return PyBytes_FromStringAndSize(<const char*>data, n)


cdef inline uint8_t* put_bytes(uint8_t* to, bytes data) noexcept:
    memcpy(to, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return to + PyBytes_GET_SIZE(data)


cdef inline void put_u16(uint8_t* to, size_t n) noexcept nogil:
    to[0] = n & 0xFF
    to[1] = (n >> 8) & 0xFF


cdef inline void put_u32(uint8_t* to, uint32_t n) noexcept nogil:
    put_u16(to, n & 0xFFFF)
    put_u16(to + 2, n >> 16)


cdef inline uint16_t get_u16(const uint8_t* at) noexcept nogil:
    return <uint16_t>(at[0] | at[1] << 8)


cdef inline uint32_t get_u32(const uint8_t* at) noexcept nogil:
    return get_u16(at) | <uint32_t>get_u16(at + 2) << 16
