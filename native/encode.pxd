"""The encoders of every publication, for C callers; `encode.pyi` says what they take and return."""
from libc.stdint cimport uint8_t, uint64_t

ctypedef struct Push:
    const uint8_t* name         # JSON text without its quotes
    size_t name_bytes
    const uint8_t* content      # JSON text
    size_t content_bytes
    uint8_t[20] digits          # of the offset, right-justified; `push_measure` writes them
    size_t digit_count

ctypedef struct Ack:
    const uint8_t* id           # JSON text
    size_t id_bytes
    uint8_t[20] digits
    size_t digit_count
    bint duplicate

cpdef bytes encode_push(object type, bytes room_json, bytes from_json, uint64_t offset, bytes epoch,
                        bytes content, bytes timestamp)
cpdef bytes encode_ack(bytes id, bytes room_json, uint64_t offset, bytes epoch, bint duplicate=*)
cpdef bytes encode_pong(bytes id, bytes timestamp)

# A measure returns how many bytes the write after it, with the same arguments, puts to `to`.
cdef size_t push_measure(
    Push* push, bytes room_json, bytes from_json, uint64_t offset, bytes epoch, bytes timestamp
) noexcept
cdef void push_write(
    uint8_t* to, const Push* push, bytes room_json, bytes from_json, bytes epoch, bytes timestamp
) noexcept
cdef size_t ack_measure(Ack* ack, bytes room_json, uint64_t offset, bytes epoch) noexcept
cdef void ack_write(uint8_t* to, const Ack* ack, bytes room_json, bytes epoch) noexcept
