"""The encoders of every publication, for C callers; `encode.pyi` says what they take and return."""
from libc.stdint cimport uint8_t, uint64_t

cpdef bytes encode_push(object type, bytes room_json, bytes from_json, uint64_t offset, bytes epoch,
                        bytes content, bytes timestamp)
cpdef bytes encode_ack(bytes id, bytes room_json, uint64_t offset, bytes epoch, bint duplicate=*)
cpdef bytes encode_pong(bytes id, bytes timestamp)
cdef bytes push_of(
    const uint8_t* name, size_t name_bytes, bytes room_json, bytes from_json, uint64_t offset, bytes epoch,
    const uint8_t* content, size_t content_bytes, bytes timestamp,
)
