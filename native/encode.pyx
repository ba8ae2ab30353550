"""What the server sends, spliced from bytes: pushes, acks, answers, errors, JSON strings.

Each encoder works out the size, makes the `bytes` object and writes into it; the caller owns the result. Of
the two that every publication needs, C callers can take the halves: measure, then write where they like.
Arguments named `..._json`, `id` and `content` are JSON text already and go in as they are.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from realtime.native.text cimport digits_of, put_escaped, skip_ordinary

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL


cdef inline uint8_t* put(uint8_t* to, const void* data, size_t n) noexcept nogil:
    memcpy(to, data, n)
    return to + n


cdef inline bint is_plain(const uint8_t* at, size_t n) noexcept nogil:
    """Does the text stand in a JSON string as it is?"""
    cdef const uint8_t* end = at + n
    at = skip_ordinary(at, end)
    while at < end:
        if at[0] < 0x20 or at[0] == c'"' or at[0] == c"\\":
            return False
        at += 1
    return True


cdef bytes escaped_string(const uint8_t* at, size_t n):
    """Return the JSON string, in its quotes, of the UTF-8 at `at`."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, 6 * n + 2)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(made)
    cdef uint8_t* begin = to
    cdef uint8_t* end
    to[0] = c'"'
    end = put_escaped(to + 1, at, n)
    end[0] = c'"'
    return made[:end + 1 - begin]


def json_string(str text not None):
    cdef Py_ssize_t n
    cdef const char* data = PyUnicode_AsUTF8AndSize(text, &n)
    cdef bytes made
    if not is_plain(<const uint8_t*>data, n):
        return escaped_string(<const uint8_t*>data, n)
    made = PyBytes_FromStringAndSize(NULL, n + 2)
    cdef char* to = PyBytes_AS_STRING(made)
    to[0] = c'"'
    memcpy(to + 1, data, n)
    to[n + 1] = c'"'
    return made


cdef inline const uint8_t* name_of(object name, Py_ssize_t* n) except NULL:
    """Return the UTF-8 of a str or bytes, borrowed from it."""
    if isinstance(name, str):
        return <const uint8_t*>PyUnicode_AsUTF8AndSize(name, n)
    if not isinstance(name, bytes):
        raise TypeError(f"a type is str or bytes, not {type(name).__name__}")
    n[0] = PyBytes_GET_SIZE(name)
    return <const uint8_t*>PyBytes_AS_STRING(name)


cdef inline uint8_t* put_bytes(uint8_t* to, bytes data) noexcept:
    return put(to, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cpdef bytes encode_push(object type, bytes room_json, bytes from_json, uint64_t offset, bytes epoch,
                        bytes content, bytes timestamp):
    if room_json is None or epoch is None or content is None or timestamp is None:
        raise TypeError("room_json, epoch, content and timestamp are bytes, not None")
    cdef Py_ssize_t name_bytes
    cdef const uint8_t* name = name_of(type, &name_bytes)
    cdef Push push
    cdef size_t n
    if not is_plain(name, name_bytes):
        escaped = escaped_string(name, name_bytes)
        name = <const uint8_t*>PyBytes_AS_STRING(escaped) + 1
        name_bytes = PyBytes_GET_SIZE(escaped) - 2
    push.name, push.name_bytes = name, name_bytes
    push.content, push.content_bytes = <const uint8_t*>PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content)
    n = push_measure(&push, room_json, from_json, offset, epoch, timestamp)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
    push_write(<uint8_t*>PyBytes_AS_STRING(made), &push, room_json, from_json, epoch, timestamp)
    return made


cdef size_t push_measure(
    Push* push, bytes room_json, bytes from_json, uint64_t offset, bytes epoch, bytes timestamp
) noexcept:
    push.digit_count = digits_of(offset, push.digits)
    return (
        9 + push.name_bytes + 9 + PyBytes_GET_SIZE(room_json)
        + (8 + PyBytes_GET_SIZE(from_json) if from_json is not None else 0)
        + 10 + push.digit_count + 10 + PyBytes_GET_SIZE(epoch)
        + 12 + push.content_bytes + 14 + PyBytes_GET_SIZE(timestamp) + 2
    )


cdef void push_write(
    uint8_t* to, const Push* push, bytes room_json, bytes from_json, bytes epoch, bytes timestamp
) noexcept:
    to = put(to, b'{"type":"', 9)
    to = put(to, push.name, push.name_bytes)
    to = put(to, b'","room":', 9)
    to = put_bytes(to, room_json)
    if from_json is not None:
        to = put(to, b',"from":', 8)
        to = put_bytes(to, from_json)
    to = put(to, b',"offset":', 10)
    to = put(to, push.digits + 20 - push.digit_count, push.digit_count)
    to = put(to, b',"epoch":"', 10)
    to = put_bytes(to, epoch)
    to = put(to, b'","content":', 12)
    to = put(to, push.content, push.content_bytes)
    to = put(to, b',"timestamp":"', 14)
    to = put_bytes(to, timestamp)
    put(to, b'"}', 2)


cpdef bytes encode_ack(bytes id, bytes room_json, uint64_t offset, bytes epoch, bint duplicate=False):
    if id is None or room_json is None or epoch is None:
        raise TypeError("id, room_json and epoch are bytes, not None")
    cdef Ack ack
    cdef size_t n
    ack.id, ack.id_bytes = <const uint8_t*>PyBytes_AS_STRING(id), PyBytes_GET_SIZE(id)
    ack.duplicate = duplicate
    n = ack_measure(&ack, room_json, offset, epoch)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n)
    ack_write(<uint8_t*>PyBytes_AS_STRING(made), &ack, room_json, epoch)
    return made


cdef size_t ack_measure(Ack* ack, bytes room_json, uint64_t offset, bytes epoch) noexcept:
    ack.digit_count = digits_of(offset, ack.digits)
    return (
        19 + ack.id_bytes + 8 + PyBytes_GET_SIZE(room_json) + 21 + ack.digit_count
        + 10 + PyBytes_GET_SIZE(epoch) + (20 if ack.duplicate else 3)
    )


cdef void ack_write(uint8_t* to, const Ack* ack, bytes room_json, bytes epoch) noexcept:
    to = put(to, b'{"type":"ack","id":', 19)
    to = put(to, ack.id, ack.id_bytes)
    to = put(to, b',"room":', 8)
    to = put_bytes(to, room_json)
    to = put(to, b',"content":{"offset":', 21)
    to = put(to, ack.digits + 20 - ack.digit_count, ack.digit_count)
    to = put(to, b',"epoch":"', 10)
    to = put_bytes(to, epoch)
    if ack.duplicate:
        put(to, b'","duplicate":true}}', 20)
    else:
        put(to, b'"}}', 3)


cpdef bytes encode_pong(bytes id, bytes timestamp):
    if id is None or timestamp is None:
        raise TypeError("id and timestamp are bytes, not None")
    cdef bytes made = PyBytes_FromStringAndSize(NULL, (
        20 + PyBytes_GET_SIZE(id) + 27 + PyBytes_GET_SIZE(timestamp) + 3))
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(made)
    to = put(to, b'{"type":"pong","id":', 20)
    to = put_bytes(to, id)
    to = put(to, b',"content":{"server_time":"', 27)
    to = put_bytes(to, timestamp)
    put(to, b'"}}', 3)
    return made


def encode_reply(object type, bytes id, bytes room_json, bytes content not None):
    cdef Py_ssize_t n
    cdef const uint8_t* name = name_of(type, &n)
    made = [b'{"type":', escaped_string(name, n)]
    if id is not None:
        made += (b',"id":', id)
    if room_json is not None:
        made += (b',"room":', room_json)
    made += (b',"content":', content, b"}")
    return b"".join(made)


def encode_error(bytes id, int code, str name not None, str message not None, bint temporary,
                 retry_after=None, bytes room_json=None, str limit=None, allowed=None):
    made = [b'{"code":%d,"name":' % code, json_string(name), b',"message":', json_string(message),
            b',"temporary":true' if temporary else b',"temporary":false']
    if retry_after is not None:
        if not 0 <= retry_after < float("inf"):
            raise ValueError(f"retry_after is {retry_after} s: allowed are finite seconds from 0 on")
        made += (b',"retry_after":', repr(float(retry_after)).encode())
    if limit is not None:
        made += (b',"limit":', json_string(limit))
    if allowed is not None:
        if not 0 <= allowed < float("inf"):
            raise ValueError(f"allowed is {allowed}: a limit is finite and from 0 on")
        made += (b',"allowed":', repr(int(allowed) if allowed == int(allowed) else allowed).encode())
    made.append(b"}")
    return encode_reply("error", id, room_json, b"".join(made))
