"""Envelope and Malformed, and the rules that make one or the other of a message.

The scanners (`envelope.pyx` for JSON, `packed.pyx` for MessagePack) find the spans of the keys that an
envelope knows, in text that is sound JSON; here these are judged and become Python objects. What a type
or a room means is for core to say. Module state is used under the GIL only.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from realtime.native.scanner cimport *
from realtime.native.text cimport hash_bytes, is_utf8

cdef extern from *:
    """
    #include <structmember.h>
    /* Make the pointer at `offset` of each object a read-only attribute as __slots__ are. */
    static int add_slot(PyTypeObject* type, PyMemberDef* slot, const char* name, Py_ssize_t offset) {
        PyObject* descriptor;
        int result;
        slot->name = name;
        slot->type = T_OBJECT_EX;
        slot->offset = offset;
        slot->flags = READONLY;
        descriptor = PyDescr_NewMember(type, slot);
        if (descriptor == NULL) return -1;
        result = PyDict_SetItemString(type->tp_dict, name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(type);
        return result;
    }
    """
    ctypedef struct PyMemberDef:
        pass
    int add_slot(PyTypeObject* type, PyMemberDef* slot, const char* name, Py_ssize_t offset) except -1

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(PyObject* text)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text)
    void* PyUnicode_DATA(PyObject* text)

cdef enum:
    TYPE_CHARACTERS = 64
    ID_BYTES = 64
    ROOM_BYTES = 200
    KEY_BYTES = 64
    KEYS_KEPT = 1024        # records of the key stack that survive a call (24 KiB)
    TYPES_CACHED = 256      # slots, powers of two
    ROOMS_CACHED = 2048

cdef dict REASONS = {
    FAULT_END: "the message ends at byte {} before it is complete",
    FAULT_VALUE: "no value at byte {}: allowed are an object, array, string, number, true, false, null",
    FAULT_COMMA_OBJECT: "unexpected byte {} after a member: allowed are ',' and '}}'",
    FAULT_COMMA_ARRAY: "unexpected byte {} after an element: allowed are ',' and ']'",
    FAULT_KEY: "no key at byte {}: allowed is a string in double quotes",
    FAULT_COLON: "no ':' after the key at byte {}",
    FAULT_CONTROL: "control character in a string at byte {}: allowed is its escape, such as \\n",
    FAULT_ESCAPE: "unknown escape at byte {}: allowed are \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX",
    FAULT_HEX: "bad \\u escape at byte {}: allowed are four hexadecimal digits",
    FAULT_SURROGATE: "lone surrogate at byte {}: \\ud800-\\udbff needs \\udc00-\\udfff right after it",
    FAULT_ZERO: "leading zero at byte {}: a number begins with 1-9, or is 0",
    FAULT_NUMBER: "bad number at byte {}: a digit must stand there",
    FAULT_NAN: "NaN or Infinity at byte {}: allowed are finite numbers",
    FAULT_LITERAL: "unknown word at byte {}: allowed are true, false, null",
    FAULT_DEPTH: "nesting too deep at byte {}: at most {max_depth} levels",
    FAULT_DUPLICATE: "duplicate key at byte {}: each key of an object may stand once",
    FAULT_TRAILING: "more after the message at byte {}: several messages stand one a line",
    FAULT_ENVELOPE: "no message at byte {}: allowed is a JSON object",
    FAULT_PACKED_END: "the message ends at byte {} before it is complete",
    FAULT_PACKED_LENGTH: "length at byte {} is past the end of the frame",
    FAULT_PACKED_TRAILING: "more after the message at byte {}: several messages stand in one array",
    FAULT_PACKED_RESERVED: "byte {} is 0xc1, which MessagePack never uses",
    FAULT_PACKED_ENVELOPE: "no message at byte {}: allowed are a map and an array of maps",
    FAULT_PACKED_KEY: "no key at byte {}: allowed is a str",
    FAULT_PACKED_BINARY: "bin at byte {}: allowed is what JSON has; send bytes as a base64 str",
    FAULT_PACKED_EXTENSION: "ext at byte {}: allowed is what JSON has; send a time as an RFC 3339 str",
    FAULT_PACKED_UTF8: "bad UTF-8 in the str at byte {}",
    FAULT_PACKED_FINITE: "NaN or Infinity at byte {}: allowed are finite numbers",
}

# Direct-mapped caches of short ASCII strings, so that a type or a room seen lately costs a
# comparison instead of a new object. Bounded by slots; a collision only replaces.
cdef PyObject* types_cached[TYPES_CACHED]
cdef PyObject* rooms_cached[ROOMS_CACHED]
memset(types_cached, 0, sizeof(types_cached))
memset(rooms_cached, 0, sizeof(rooms_cached))


cdef Key* keys_kept = NULL


@cython.final
@cython.auto_pickle(False)
@cython.no_gc
@cython.freelist(64)
cdef class Envelope:
    def __init__(self, str type not None, bytes id=None, str room=None, str key=None, bytes content=None):
        self.type = type
        self.id = id
        self.room = room
        self.key = key
        self.content = content

    def __eq__(self, other):
        if not isinstance(other, Envelope):
            return NotImplemented
        return values_of(self) == values_of(other)

    def __hash__(self):
        return hash(values_of(self))

    def __repr__(self):
        return "Envelope(type={!r}, id={!r}, room={!r}, key={!r}, content={!r})".format(*values_of(self))


@cython.final
@cython.auto_pickle(False)
@cython.no_gc
cdef class Malformed:
    def __init__(self, str reason not None, bytes id=None):
        self.reason = reason
        self.id = id

    def __eq__(self, other):
        if not isinstance(other, Malformed):
            return NotImplemented
        return self.reason == (<Malformed>other).reason and self.id == (<Malformed>other).id

    def __hash__(self):
        return hash((self.reason, self.id))

    def __repr__(self):
        return f"Malformed(reason={self.reason!r}, id={self.id!r})"

cdef tuple values_of(Envelope envelope):
    return envelope.type, envelope.id, envelope.room, envelope.key, envelope.content


# The interpreter reads a slot in 4 ns and calls a getter in 19 (3.11), six times a message.
cdef PyMemberDef slots[5]

cdef int add_slots() except -1:
    cdef Envelope sample = Envelope("t", b"i", "r", "k", b"c")
    cdef const char** names = [b"type", b"id", b"room", b"key", b"content"]
    cdef PyObject** attributes = <PyObject**>(<char*><PyObject*>sample + sizeof(PyObject))
    cdef int i
    for i in range(5):
        assert attributes[i] == <PyObject*>values_of(sample)[i], "attributes lie in the order of message.pxd"
        add_slot(<PyTypeObject*>Envelope, &slots[i], names[i], sizeof(PyObject) + i * sizeof(PyObject*))
    return 0


add_slots()


cdef int open_scanner(Scanner* s, bytes frame, Py_ssize_t max_messages, Py_ssize_t max_depth) except -1:
    global keys_kept
    if not 1 <= max_depth <= DEPTH_LIMIT:
        raise ValueError(f"max_depth is {max_depth}: allowed are 1 to {DEPTH_LIMIT}")
    if max_messages < 1:
        raise ValueError(f"max_messages is {max_messages}: at least 1")
    if PyBytes_GET_SIZE(frame) >= <Py_ssize_t>0xFFFFFFFF:
        raise ValueError("a frame must be smaller than 4 GiB")
    memset(s, 0, sizeof(Scanner))
    s.start = <const uint8_t*>PyBytes_AS_STRING(frame)
    s.end = s.start + PyBytes_GET_SIZE(frame)
    s.max_depth = <uint32_t>max_depth
    s.keys = keys_kept
    keys_kept = NULL
    s.key_capacity = KEYS_KEPT
    if s.keys == NULL:
        s.keys = <Key*>malloc(KEYS_KEPT * sizeof(Key))
        if s.keys == NULL:
            raise MemoryError()
    return 0


cdef void close_scanner(Scanner* s) noexcept:
    global keys_kept
    free(s.arena)
    if keys_kept == NULL and s.key_capacity == KEYS_KEPT:
        keys_kept = s.keys
    else:
        free(s.keys)


cdef object envelope_of(Scanner* s, Span* fields):
    """Return the Envelope of a sound message, or a Malformed where a field is not as it must be."""
    cdef Envelope envelope = Envelope.__new__(Envelope)
    cdef Span* content = &fields[<int>FIELD_CONTENT]
    if fields[<int>FIELD_ID].at != NULL:
        envelope.id = id_of(s, &fields[<int>FIELD_ID])
        if envelope.id is None:
            return malformed("bad id: allowed are an integer from -2^53 to 2^53 and a string"
                             " of at most 64 bytes", None)
    if fields[<int>FIELD_TYPE].at == NULL:
        return malformed("no type: a message needs one, a string of 1 to 64 characters", envelope.id)
    envelope.type = text_of(s, &fields[<int>FIELD_TYPE], 4 * TYPE_CHARACTERS, types_cached, TYPES_CACHED)
    if envelope.type is None or len(envelope.type) > TYPE_CHARACTERS:
        return malformed("bad type: allowed is a string of 1 to 64 characters", envelope.id)
    if fields[<int>FIELD_ROOM].at != NULL:
        envelope.room = text_of(s, &fields[<int>FIELD_ROOM], ROOM_BYTES, rooms_cached, ROOMS_CACHED)
        if envelope.room is None:
            return malformed("bad room: allowed is a string of 1 to 200 bytes", envelope.id)
    if fields[<int>FIELD_KEY].at != NULL:
        envelope.key = text_of(s, &fields[<int>FIELD_KEY], KEY_BYTES, NULL, 0)
        if envelope.key is None:
            return malformed("bad key: allowed is a string of 1 to 64 bytes", envelope.id)
    if content.at != NULL:
        envelope.content = compacted(content) if content.broken else PyBytes_FromStringAndSize(
            <const char*>content.at, content.end - content.at)
    return envelope


cdef Malformed malformed(str reason, bytes id):
    cdef Malformed made = Malformed.__new__(Malformed)
    made.reason = reason
    made.id = id
    return made


cdef Malformed refused(Scanner* s, bytes id):
    """Return the Malformed for the fault that `s` notes."""
    if s.fault == FAULT_MEMORY:
        raise MemoryError()
    return malformed((<str>REASONS[s.fault]).format(s.blame - s.start, max_depth=s.max_depth), id)


cdef Malformed empty_frame():
    return malformed("no message in the frame: it is empty", None)


cdef Malformed too_many(Py_ssize_t max_messages):
    cdef Malformed made = malformed(f"too many messages in one frame: at most {max_messages}", None)
    made.messages_max = max_messages
    return made


cdef bytes id_of(Scanner* s, Span* span):
    """Return the raw token of an id, or None where there is none or it is none that we echo."""
    if span.at == NULL or not id_is_good(s, span):
        return None
    return PyBytes_FromStringAndSize(<const char*>span.at, span.end - span.at)


cdef bint id_is_good(Scanner* s, Span* span) except -1:
    """Is the id that stands there one that we echo?"""
    cdef size_t n = span.end - span.at
    if span.at[0] != c'"':
        return safe_integer(span.at, span.end)
    n -= 2
    if span.escaped and unescaped(s, span.at + 1, span.end - 1, &n) == NULL:
        raise MemoryError()
    return n <= ID_BYTES


cdef bint safe_integer(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Is the token an integer from -2^53 to 2^53, as every JSON reader keeps it exactly?"""
    cdef uint64_t value = 0
    if at[0] == c"-":
        at += 1
    if end - at > 16:
        return False
    while at < end:
        if not 0x30 <= at[0] <= 0x39:
            return False
        value = value * 10 + (at[0] - 0x30)
        at += 1
    return value <= <uint64_t>1 << 53


cdef str text_of(Scanner* s, Span* span, size_t bytes_max, PyObject** cache, size_t slots):
    """Return the string of `span`, or None where it is none, no UTF-8, or not of 1 to `bytes_max` bytes."""
    cdef const uint8_t* data = span.at + 1
    cdef size_t n = span.end - span.at - 2
    if span.at[0] != c'"':
        return None
    if span.escaped:
        data = unescaped(s, data, span.end - 1, &n)
        if data == NULL:
            raise MemoryError()
    if n == 0 or n > bytes_max:
        return None
    if cache == NULL:
        return PyUnicode_DecodeUTF8(<const char*>data, n, NULL) if is_utf8(data, data + n) else None
    return cached_text(data, n, &cache[hash_bytes(data, n) >> 20 & (slots - 1)])


cdef inline str cached_text(const uint8_t* data, size_t n, PyObject** slot):
    cdef PyObject* known = slot[0]
    if (known != NULL and <size_t>PyUnicode_GET_LENGTH(known) == n
            and memcmp(PyUnicode_DATA(known), data, n) == 0):
        return <str>known
    if not is_utf8(data, data + n):
        return None
    text = PyUnicode_DecodeUTF8(<const char*>data, n, NULL)
    if PyUnicode_IS_COMPACT_ASCII(<PyObject*>text):
        Py_INCREF(text)
        slot[0] = <PyObject*>text
        Py_XDECREF(known)
    return text


cdef bytes compacted(Span* span):
    """Return JSON text of several lines as one line, blanks between its tokens left out.

    A push goes out one a line, so no content may bring a newline along. Newlines stand outside
    strings only: inside they are refused.
    """
    cdef bytes text = PyBytes_FromStringAndSize(NULL, span.end - span.at)
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(text)
    cdef uint8_t* begin = to
    cdef const uint8_t* at = span.at
    cdef bint inside = False
    while at < span.end:
        if inside or at[0] > 0x20:
            if at[0] == c"\\":
                to[0] = at[0]
                to += 1
                at += 1
            elif at[0] == c'"':
                inside = not inside
            to[0] = at[0]
            to += 1
        at += 1
    return text[:to - begin]
