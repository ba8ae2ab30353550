"""RFC 6455 frames: UTF-8 over fragments, and what the hub inlines (frames.pxd) as Python sees it.

`Reader` judges what one client sends with the very functions that the hub inlines, so that tests can hold
them against `tests/oracles/frames.py`. It copies what it keeps; C callers' buffers stay theirs.
"""

from dataclasses import dataclass

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from realtime.native.deflate import BadData, Inflater, TooBig

OPCODES = frozenset(
    (OPCODE_CONTINUATION, OPCODE_TEXT, OPCODE_BINARY, OPCODE_CLOSE, OPCODE_PING, OPCODE_PONG)
)


# UTF-8 by a shift DFA: a state is where its six bits stand in a 64-bit row, a step is one load and one shift,
# without a branch, and the error state only leads to itself. Rows are by byte; state names say what is due.
cdef enum:
    BETWEEN = 0  # == UTF8_ACCEPT
    FAILED = 6
    ONE_MORE = 12
    TWO_MORE = 18
    THREE_MORE = 24
    AFTER_E0 = 30  # next A0-BF, or it is overlong
    AFTER_ED = 36  # next 80-9F, or it is a surrogate
    AFTER_F0 = 42  # next 90-BF, or it is overlong
    AFTER_F4 = 48  # next 80-8F, or it is past U+10FFFF

cdef uint64_t[256] UTF8_ROWS


cdef int after(int state, int byte) noexcept:
    """The state after `byte` (RFC 3629, section 4), from which the rows are made at import."""
    if state == BETWEEN:
        if byte < 0x80:
            return BETWEEN
        if 0xC2 <= byte <= 0xDF:
            return ONE_MORE
        if byte == 0xE0:
            return AFTER_E0
        if byte == 0xED:
            return AFTER_ED
        if 0xE1 <= byte <= 0xEF:
            return TWO_MORE
        if byte == 0xF0:
            return AFTER_F0
        if 0xF1 <= byte <= 0xF3:
            return THREE_MORE
        return AFTER_F4 if byte == 0xF4 else FAILED
    if state == FAILED or not 0x80 <= byte <= 0xBF:
        return FAILED
    if state == ONE_MORE:
        return BETWEEN
    if state == TWO_MORE:
        return ONE_MORE
    if state == THREE_MORE:
        return TWO_MORE
    if state == AFTER_E0:
        return ONE_MORE if byte >= 0xA0 else FAILED
    if state == AFTER_ED:
        return ONE_MORE if byte <= 0x9F else FAILED
    if state == AFTER_F0:
        return TWO_MORE if byte >= 0x90 else FAILED
    return TWO_MORE if byte <= 0x8F else FAILED


cdef void fill_utf8_rows() noexcept:
    cdef int byte, state
    for byte in range(256):
        UTF8_ROWS[byte] = 0
        for state in range(BETWEEN, AFTER_F4 + 1, 6):
            UTF8_ROWS[byte] |= <uint64_t> after(state, byte) << state


fill_utf8_rows()


cdef uint32_t utf8_feed(uint32_t state, const uint8_t* data, size_t n) noexcept nogil:
    """Return the state after `n` more bytes: UTF8_ACCEPT, UTF8_REJECT, or inside a character.

    Start with UTF8_ACCEPT and hand each answer back with the next piece. Strict: no overlong forms, no
    surrogates, nothing past U+10FFFF; a wrong byte rejects with the piece that holds it.
    """
    cdef uint64_t row = state, first, last
    cdef size_t width = 16 if n >= 16 else 8
    cdef size_t i = 0, end
    if state == UTF8_REJECT:
        return UTF8_REJECT
    while i < n:
        end = i + width if n - i > width else n
        if row == BETWEEN and n >= width:
            # A block of ASCII at once; the last block reaches back over bytes already seen.
            memcpy(&first, data + end - width, 8)
            memcpy(&last, data + end - 8, 8)
            if not (first | last) & <uint64_t> 0x8080808080808080:
                i = end
                continue
        while i < end:
            row = UTF8_ROWS[data[i]] >> (row & 63)
            i += 1
        row &= 63
        if row == FAILED:
            return UTF8_REJECT
    return <uint32_t> row


def encode(int opcode, bytes payload not None, *, bint fin=True, bint rsv1=False):
    """Return one server frame, unmasked, with the shortest length that holds its payload.

    Raises:
        ValueError: no opcode of RFC 6455, or a control frame fragmented, compressed or over 125 bytes.
    """
    cdef uint8_t[SERVER_HEAD_BYTES_MAX] head
    cdef size_t head_bytes
    if opcode not in OPCODES:
        raise ValueError(f"no such opcode: {opcode}")
    if opcode & CONTROL_BIT and (not fin or rsv1 or len(payload) > CONTROL_PAYLOAD_BYTES_MAX):
        raise ValueError("a control frame is one frame of at most 125 bytes, never compressed")
    head_bytes = write_head(head, (FIN_BIT if fin else 0) | (RSV1_BIT if rsv1 else 0) | opcode, len(payload))
    return (<char*> head)[:head_bytes] + payload


def unmask_buffer(buffer, bytes mask not None, size_t phase=0):
    """XOR a writable buffer in place with a 4-byte masking key, from the key's byte `phase` (mod 4) on."""
    cdef Py_buffer view
    if len(mask) != 4:
        raise ValueError(f"a masking key has 4 bytes, not {len(mask)}")
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    unmask(<uint8_t*> view.buf, view.len, mask, phase)
    PyBuffer_Release(&view)


def utf8_state(bytes data not None, uint32_t state=UTF8_ACCEPT):
    """`utf8_feed`: 0 between characters, 1 for no UTF-8, else what to hand back with the next piece.

    Raises:
        ValueError: `state` is none that this function returns.
    """
    if state != UTF8_REJECT and (state % 6 or state > AFTER_F4):
        raise ValueError(f"no such state: {state}")
    return utf8_feed(state, data, len(data))


def close_code_allowed(uint16_t code):
    """Whether a peer may send `code` in a close frame."""
    return bool(close_code_valid(code))


# What a Reader tells. Frozen, so that tests may hold them in sets; equal only to their own kind.
@dataclass(frozen=True, slots=True)
class Text:
    """A whole text message."""

    payload: str


@dataclass(frozen=True, slots=True)
class Binary:
    """A whole binary message."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered by a pong with the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer to a ping, or a heartbeat nobody asked for."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer's close frame; `code` is 1005 where it gave none. Nothing follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The peer broke the protocol: close with `code`, 1002, 1007 or 1009. Nothing follows."""

    code: int


cdef class Reader:
    """One client's bytes in, messages and control frames out; an error at the byte that proves it.

    However the bytes are cut, the events are the same. Lengths are judged once they are complete, and
    compressed messages, being inflated whole, at their end.
    """

    cdef readonly uint64_t frames  # whole frames taken so far: what whoever counts them charges for
    cdef size_t max_message_bytes, max_fragments
    cdef object inflater
    cdef uint8_t[CLIENT_HEAD_BYTES_MAX] head_bytes
    cdef size_t head_held  # bytes of an incomplete head
    cdef FrameHead head
    cdef bint in_payload, over, compressed
    cdef uint64_t payload_done  # bytes of the current frame's payload seen
    cdef uint8_t opcode  # of the message under way, 0 between messages
    cdef size_t fragments  # frames of the message under way
    cdef uint32_t utf8
    cdef bytearray message, control
    cdef list events

    def __init__(
        self, *, size_t max_message_bytes=1 << 20, size_t max_fragments=1024, inflate: bool | None = None
    ):
        """`max_message_bytes` bounds a message before and after inflating; past either bound it is 1009.

        RSV1 marks a compressed message where `inflate` is true, and is an error otherwise.
        """
        self.max_message_bytes = max_message_bytes
        self.max_fragments = max_fragments
        self.inflater = Inflater() if inflate else None
        self.message = bytearray()
        self.control = bytearray()

    def receive(self, bytes data not None):
        """Return what `data`, behind all that came before, completes; after a Close or Fail nothing more."""
        cdef const uint8_t* rest = data
        cdef size_t n = len(data), taken
        self.events = []
        while n and not self.over:
            taken = self.take_payload(rest, n) if self.in_payload else self.take_head(rest, n)
            rest += taken
            n -= taken
        return self.events

    cdef size_t take_head(self, const uint8_t* data, size_t n) except? 0:
        """Go on with a frame's head and return the bytes taken."""
        cdef size_t held = self.head_held
        cdef size_t taken = min(n, CLIENT_HEAD_BYTES_MAX - held)
        cdef int answer
        memcpy(self.head_bytes + held, data, taken)
        # The first byte alone first: what it proves goes before what the next prove, however all are cut.
        answer = parse_head(self.head_bytes, 1, &self.head) or self.judge_first_byte()
        if answer == 0:
            answer = parse_head(self.head_bytes, held + taken, &self.head)
        if answer >= 0 and self.too_long():
            answer = -1009
        if answer < 0:
            self.fail(-answer)
        if answer <= 0:
            self.head_held = held + taken
            return taken
        self.head_held = 0
        self.start_payload()
        return self.head.header_bytes - held

    cdef int judge_first_byte(self):
        """0, or minus a close code for RSV bits or an opcode that may not come now (RFC 6455, 5.2, 5.4)."""
        cdef bint starts_message = self.head.opcode in (OPCODE_TEXT, OPCODE_BINARY)
        if self.head.rsv and not (self.head.rsv == RSV1_BIT and starts_message and self.inflater is not None):
            return -1002
        if self.head.opcode & CONTROL_BIT:
            return 0
        if starts_message == (self.opcode != 0):
            return -1002
        if (0 if starts_message else self.fragments) >= self.max_fragments:
            return -1009
        return 0

    cdef bint too_long(self):
        """Whether the message under way is over its bound with this frame, as far as its length is known."""
        if self.head.header_bytes == 0 or self.head.opcode & CONTROL_BIT:
            return False
        return self.head.payload_bytes > self.max_message_bytes - len(self.message)

    cdef void start_payload(self):
        if not self.head.opcode & CONTROL_BIT:
            if self.head.opcode:
                self.opcode = self.head.opcode
                self.compressed = self.head.rsv != 0
                self.fragments = 0
                self.utf8 = UTF8_ACCEPT
            self.fragments += 1
        self.payload_done = 0
        self.in_payload = True
        if self.head.payload_bytes == 0:
            self.finish_frame()

    cdef size_t take_payload(self, const uint8_t* data, size_t n) except? 0:
        """Go on with a frame's payload and return the bytes taken."""
        cdef size_t taken = min(<uint64_t> n, self.head.payload_bytes - self.payload_done)
        cdef bint is_control = self.head.opcode & CONTROL_BIT != 0
        cdef bytearray payload = self.control if is_control else self.message
        cdef size_t held = len(payload)
        cdef uint8_t* piece
        payload += (<const char*> data)[:taken]
        piece = <uint8_t*> PyByteArray_AS_STRING(payload) + held
        unmask(piece, taken, self.head.mask, self.payload_done)
        self.payload_done += taken
        if not is_control and self.opcode == OPCODE_TEXT and not self.compressed:
            self.utf8 = utf8_feed(self.utf8, piece, taken)
            if self.utf8 == UTF8_REJECT:
                self.fail(1007)
        if self.payload_done == self.head.payload_bytes and not self.over:
            self.finish_frame()
        return taken

    cdef int finish_frame(self) except -1:
        self.in_payload = False
        self.frames += 1
        if self.head.opcode & CONTROL_BIT:
            payload = bytes(self.control)
            self.control.clear()
            if self.head.opcode == OPCODE_CLOSE:
                self.finish_close(payload)
            else:
                self.events.append(Ping(payload) if self.head.opcode == OPCODE_PING else Pong(payload))
        elif self.head.fin:
            payload = bytes(self.message)
            self.message.clear()
            self.finish_message(payload)
            self.opcode = 0
        return 0

    cdef int finish_message(self, bytes payload) except -1:
        if self.compressed:
            try:
                payload = self.inflater.decompress(payload, self.max_message_bytes)
            except BadData:
                return self.fail(1007)
            except TooBig:
                return self.fail(1009)
            if self.opcode == OPCODE_TEXT:
                self.utf8 = utf8_feed(UTF8_ACCEPT, payload, len(payload))
        if self.opcode == OPCODE_BINARY:
            self.events.append(Binary(payload))
        elif self.utf8 == UTF8_ACCEPT:
            self.events.append(Text(payload.decode()))
        else:
            self.fail(1007)
        return 0

    cdef int finish_close(self, bytes payload) except -1:
        cdef const uint8_t* body = payload
        cdef size_t n = len(payload)
        cdef uint16_t code
        if n == 0:
            self.events.append(Close(1005, ""))
            self.over = True
            return 0
        code = (<uint16_t> body[0] << 8) | body[1]  # bytes end with a NUL: body[1] may be read when n is 1
        if n == 1 or not close_code_valid(code):
            return self.fail(1002)
        if utf8_feed(UTF8_ACCEPT, body + 2, n - 2) != UTF8_ACCEPT:
            return self.fail(1007)
        self.events.append(Close(code, payload[2:].decode()))
        self.over = True
        return 0

    cdef int fail(self, int code) except -1:
        self.events.append(Fail(code))
        self.over = True
        return 0
