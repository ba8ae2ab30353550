"""permessage-deflate (RFC 7692) for whole messages, without context takeover.

Both classes own one z_stream, reset per message and never reallocated, and one output buffer. What `*out`
points to is theirs and valid until the next call; the input stays the caller's. Negotiation is
`realtime/protocol/deflate.py`; frames and RSV1 are the hub's.
"""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc


cdef extern from "zlib.h" nogil:
    int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_MEM_ERROR
    int Z_NO_FLUSH, Z_SYNC_FLUSH, Z_DEFLATED, Z_DEFAULT_STRATEGY
    int inflateInit2(z_stream* stream, int window_bits)
    int inflate(z_stream* stream, int flush)
    int inflateReset(z_stream* stream)
    int inflateResetKeep(z_stream* stream)
    int inflateEnd(z_stream* stream)
    int deflateInit2(z_stream* stream, int level, int method, int window_bits, int mem_level, int strategy)
    unsigned long deflateBound(z_stream* stream, unsigned long n)
    int deflate(z_stream* stream, int flush)
    int deflateReset(z_stream* stream)
    int deflateEnd(z_stream* stream)


cdef enum:
    # Output kept between messages; what is above goes as soon as a message did not need it.
    KEPT_BYTES = 65536

cdef enum:
    # zlib's default 8 clears 64 KB of hash for each message: 5.3 us for 200 bytes, against 3.7 us with 5.
    # That costs 0.7 % in size for 64 KB of chat, 0.3 % for 16 KB and nothing for 2 KB.
    MEMORY_LEVEL = 5

cdef enum:
    BAD_DATA = -1007
    TOO_BIG = -1009
    NO_MEMORY = -1011

cdef enum:
    # `feed` stopped behind a final block, with all its input used.
    ENDED = 1

cdef enum:
    # `data_type` after inflate(): between two blocks (zlib.h, Z_BLOCK), no bit of the last byte left.
    BETWEEN_BLOCKS = 128

# zlib counts in unsigned int; more than this goes in slices.
cdef size_t SLICE_BYTES = <size_t> 1 << 30

# What a sender cuts off the end of a message (RFC 7692, 7.2.1): the lengths of an empty stored block.
cdef uint8_t[4] TAIL = [0x00, 0x00, 0xFF, 0xFF]


class BadData(ValueError):
    """What should be a compressed message is no complete DEFLATE data; close code 1007."""


class TooBig(ValueError):
    """The message inflates past its limit; close code 1009."""


cdef class Inflater:
    """Inflates messages, one at a time. Its window is 2**15, which serves every size a peer may choose."""

    def __cinit__(self):
        if inflateInit2(&self.stream, -15) != Z_OK:
            raise MemoryError("no memory for zlib's inflate state")
        self.ready = True

    def __dealloc__(self):
        if self.ready:
            inflateEnd(&self.stream)
        free(self.output.data)

    cdef int inflate_into(
        self, const uint8_t* data, size_t n, uint8_t** out, size_t* out_len, size_t limit
    ) noexcept nogil:
        """Inflate a whole message to at most `limit` bytes: 0, or BAD_DATA, TOO_BIG, NO_MEMORY.

        It must be complete once the 00 00 ff ff that its sender removed is back (7.2.2). Two more ends leave
        no doubt and are taken: no data at all, and a final block (BFINAL) whose last byte is the message's.
        Blocks behind a final one go on with the same window (7.2.1 allows both kinds in any number).
        A bomb costs at most max(limit + 1, KEPT_BYTES) bytes of output, and time linear in that and `n`.
        """
        cdef int answer = 0
        cdef size_t before_tail
        out[0] = NULL
        out_len[0] = 0
        release_excess(&self.output)
        self.output.used = 0
        inflateReset(&self.stream)
        if n:
            answer = self.feed(data, n, limit)
            while answer == 0 and self.stream.avail_out == 0:  # a full buffer may hide output still due
                answer = self.step(limit)
            if answer == 0:
                before_tail = self.output.used
                answer = self.feed(TAIL, 4, limit)
                # The lengths of an empty stored block say nothing; where they do, they stood for lost data.
                if answer >= 0 and self.output.used > before_tail:
                    answer = BAD_DATA
                if answer == 0 and self.stream.data_type != BETWEEN_BLOCKS:
                    answer = BAD_DATA
        if answer < 0:
            self.output.used = 0
            release_excess(&self.output)
            return answer
        out[0] = self.output.data
        out_len[0] = self.output.used
        return 0

    cdef int feed(self, const uint8_t* data, size_t n, size_t limit) noexcept nogil:
        """Inflate one piece to its end: 0, ENDED, or an error as above."""
        cdef int answer = 0
        cdef size_t slice_bytes
        while n:
            slice_bytes = n if n < SLICE_BYTES else SLICE_BYTES
            self.stream.next_in = <uint8_t*> data
            self.stream.avail_in = <unsigned int> slice_bytes
            while self.stream.avail_in:
                answer = self.step(limit)
                if answer < 0:
                    return answer
            data += slice_bytes
            n -= slice_bytes
        return answer

    cdef int step(self, size_t limit) noexcept nogil:
        """Call inflate() once, with room for at least one byte."""
        cdef Output* output = &self.output
        cdef size_t room
        cdef int answer
        if output.used == output.capacity and not grow(output, limit):
            return NO_MEMORY
        room = output.capacity - output.used
        if room > limit - output.used:
            room = limit - output.used + 1  # the byte that proves it too big
        if room > SLICE_BYTES:
            room = SLICE_BYTES
        self.stream.next_out = output.data + output.used
        self.stream.avail_out = <unsigned int> room
        answer = inflate(&self.stream, Z_SYNC_FLUSH)
        output.used += room - self.stream.avail_out
        if answer != Z_OK and answer != Z_BUF_ERROR and answer != Z_STREAM_END:
            return NO_MEMORY if answer == Z_MEM_ERROR else BAD_DATA
        if output.used > limit:
            return TOO_BIG
        if answer == Z_STREAM_END:
            # Forgets the block, not the window; inflateReset and a dictionary would cost 32 KB of copying
            # for every two-byte final block that a hostile message strings together.
            inflateResetKeep(&self.stream)
            return ENDED
        return 0

    def decompress(self, bytes data not None, size_t limit):
        """Return the message that `data` (as on the wire, without 00 00 ff ff) holds, at most `limit` bytes.

        Raises:
            BadData: it is no complete DEFLATE data.
            TooBig: it is longer than `limit`.
        """
        cdef uint8_t* out
        cdef size_t out_len
        cdef size_t n = len(data)
        cdef int answer = self.inflate_into(data, n, &out, &out_len, limit)
        if answer == BAD_DATA:
            raise BadData("no complete DEFLATE data")
        if answer == TOO_BIG:
            raise TooBig(f"inflates past {limit} bytes")
        if answer == NO_MEMORY:
            raise MemoryError("no memory to inflate into")
        return (<char*> out)[:out_len] if out_len else b""

    @property
    def buffer_bytes(self):
        """Bytes of output buffer held now."""
        return self.output.capacity


cdef class Deflater:
    """Deflates messages, one at a time, each on its own: what every member of a room can read is made once.

    `level` is 1 to 9, `window_bits` 9 to 15 (zlib makes no raw DEFLATE with 8).
    """

    def __cinit__(self, int level=6, int window_bits=15):
        """Raises ValueError for a level or window outside its bounds."""
        if not 1 <= level <= 9:
            raise ValueError(f"level must be 1 to 9, not {level}")
        if not 9 <= window_bits <= 15:
            raise ValueError(f"window_bits must be 9 to 15, not {window_bits}")
        self.level = level
        self.window_bits = window_bits
        if Z_OK != deflateInit2(
            &self.stream, level, Z_DEFLATED, -window_bits, MEMORY_LEVEL, Z_DEFAULT_STRATEGY
        ):
            raise MemoryError("no memory for zlib's deflate state")
        self.ready = True

    def __dealloc__(self):
        if self.ready:
            deflateEnd(&self.stream)
        free(self.output.data)

    cdef int deflate_into(self, const uint8_t* data, size_t n, uint8_t** out, size_t* out_len) noexcept nogil:
        """Deflate a whole message, without the 00 00 ff ff at its end (7.2.1): 0 or NO_MEMORY.

        The result is never empty: the empty message is one byte, 00 (7.2.3.6).
        """
        cdef Output* output = &self.output
        cdef size_t slice_bytes
        cdef int answer
        out[0] = NULL
        out_len[0] = 0
        release_excess(output)
        output.used = 0
        deflateReset(&self.stream)
        # Enough for one call: a flush cut short by a full buffer would repeat its marker (zlib.h, deflate).
        if not reserve(output, deflateBound(&self.stream, n) + 16):
            return NO_MEMORY
        while True:
            slice_bytes = n if n < SLICE_BYTES else SLICE_BYTES
            self.stream.next_in = <uint8_t*> data
            self.stream.avail_in = <unsigned int> slice_bytes
            data += slice_bytes
            n -= slice_bytes
            answer = self.step(Z_NO_FLUSH if n else Z_SYNC_FLUSH)
            if answer < 0:
                return answer
            if n == 0:
                break
        output.used -= 4
        out[0] = output.data
        out_len[0] = output.used
        return 0

    cdef int step(self, int flush) noexcept nogil:
        """Call deflate() until it has taken its slice and, with Z_SYNC_FLUSH, written it out whole."""
        cdef Output* output = &self.output
        cdef size_t room
        while True:
            if output.used == output.capacity and not reserve(output, output.capacity + KEPT_BYTES):
                return NO_MEMORY
            room = output.capacity - output.used
            if room > SLICE_BYTES:
                room = SLICE_BYTES
            self.stream.next_out = output.data + output.used
            self.stream.avail_out = <unsigned int> room
            deflate(&self.stream, flush)
            output.used += room - self.stream.avail_out
            if self.stream.avail_out:
                return 0

    def compress(self, bytes data not None):
        """Return `data` as one compressed message, as it goes on the wire behind RSV1."""
        cdef uint8_t* out
        cdef size_t out_len
        cdef size_t n = len(data)
        if self.deflate_into(data, n, &out, &out_len) < 0:
            raise MemoryError("no memory to deflate into")
        return (<char*> out)[:out_len]

    @property
    def buffer_bytes(self):
        """Bytes of output buffer held now."""
        return self.output.capacity


cdef bint reserve(Output* output, size_t capacity) noexcept nogil:
    """Make room for `capacity` bytes in all, at least KEPT_BYTES; False where there is no memory."""
    cdef void* data
    if capacity < KEPT_BYTES:
        capacity = KEPT_BYTES
    if capacity <= output.capacity:
        return True
    data = realloc(output.data, capacity)
    if data == NULL:
        return False
    output.data = <uint8_t*> data
    output.capacity = capacity
    return True


cdef bint grow(Output* output, size_t limit) noexcept nogil:
    """Double the room, never past the one byte that proves a message over `limit`."""
    cdef size_t wanted = output.capacity * 2
    if wanted > limit:
        wanted = limit + 1
    return reserve(output, wanted)


cdef void release_excess(Output* output) noexcept nogil:
    """Shrink to KEPT_BYTES unless the last message used at least a quarter of what is held."""
    if output.capacity > KEPT_BYTES and output.used < output.capacity >> 2:
        free(output.data)
        output.data = NULL
        output.capacity = 0
