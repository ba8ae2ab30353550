"""RFC 6455 as a server reads it, one byte at a time, in the RFC's order: the twin of `frames.Reader`.

Only the events are shared with the compiled side, so that the two compare equal; no code is.
"""

from collections.abc import Generator

from realtime.native.deflate import BadData, TooBig
from realtime.native.frames import Binary, Close, Fail, Ping, Pong, Text

from .deflate import inflate as inflated
from .utf8 import Validator

Event = Text | Binary | Ping | Pong | Close | Fail
Steps = Generator[None, int, int]  # takes bytes by send(), returns a number at last

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009
NO_CODE = 1005
# RFC 6455, 7.4.1 and IANA's registry; 3000-3999 registered by others, 4000-4999 private.
SENDABLE_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


class FailConnectionError(Exception):
    """What the peer sent fails the connection, with this close code."""

    def __init__(self, code: int) -> None:
        self.code = code


def require(true: bool, code: int) -> None:
    """Fail the connection with `code` unless `true`."""
    if not true:
        raise FailConnectionError(code)


class Reader:
    """`receive` what one client sends."""

    def __init__(
        self, *, max_message_bytes: int = 1 << 20, max_fragments: int = 1024, inflate: bool | None = None
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_fragments = max_fragments
        self._inflate = bool(inflate)
        self._events: list[Event] = []
        self._over = False
        self._opcode: int | None = None  # of the message under way
        self._compressed = False
        self._message = bytearray()
        self._fragments = 0
        self._text = Validator()
        self._frames = self._read_frames()
        next(self._frames)

    def receive(self, data: bytes) -> list[Event]:
        """Return what these bytes complete; nothing any more after a Close or Fail."""
        self._events = []
        for byte in data:
            if self._over:
                break
            try:
                self._frames.send(byte)
            except FailConnectionError as failure:
                self._tell(Fail(failure.code))
        return self._events

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        self._over = isinstance(event, Close | Fail)

    def _read_frames(self) -> Generator[None, int, None]:
        while True:
            first = yield
            fin, rsv, opcode = bool(first & 0x80), first & 0x70, first & 0x0F
            require(opcode in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), PROTOCOL_ERROR)
            require(opcode < CLOSE or fin, PROTOCOL_ERROR)
            require(rsv == 0 or (rsv == 0x40 and self._inflate and opcode in (TEXT, BINARY)), PROTOCOL_ERROR)
            if opcode < CLOSE:
                self._start_frame(opcode, compressed=rsv != 0)
            second = yield
            require(second >= 0x80, PROTOCOL_ERROR)  # a client masks
            require(opcode < CLOSE or second & 0x7F <= 125, PROTOCOL_ERROR)
            length = yield from self._read_length(second & 0x7F)
            if opcode < CLOSE:
                require(len(self._message) + length <= self._max_message_bytes, TOO_BIG)
            mask = []
            for _ in range(4):
                mask.append((yield))
            if opcode < CLOSE:
                yield from self._read_data(length, mask)
                if fin:
                    self._end_message()
            else:
                yield from self._read_control(opcode, length, mask)

    def _start_frame(self, opcode: int, *, compressed: bool) -> None:
        if opcode == CONTINUATION:
            require(self._opcode is not None, PROTOCOL_ERROR)
            self._fragments += 1
        else:
            require(self._opcode is None, PROTOCOL_ERROR)
            self._opcode, self._compressed = opcode, compressed
            self._message, self._text, self._fragments = bytearray(), Validator(), 1
        require(self._fragments <= self._max_fragments, TOO_BIG)

    @staticmethod
    def _read_length(short: int) -> Steps:
        if short < 126:
            return short
        size = 2 if short == 126 else 8
        length = 0
        for place in reversed(range(size)):
            length += (yield) << 8 * place
            require(length < 1 << 63, PROTOCOL_ERROR)
            # The shortest form is due: fails once even bytes of 255 to come could not lift the length to it.
            require(length + (1 << 8 * place) - 1 >= (126 if size == 2 else 65536), PROTOCOL_ERROR)
        return length

    def _read_data(self, length: int, mask: list[int]) -> Steps:
        for i in range(length):
            byte = (yield) ^ mask[i % 4]
            self._message.append(byte)
            if self._opcode == TEXT and not self._compressed:
                require(self._text.feed(bytes([byte])), INVALID_DATA)
        return length

    def _end_message(self) -> None:
        payload = bytes(self._message)
        if self._compressed:
            try:
                payload = inflated(payload, self._max_message_bytes)
            except BadData:
                raise FailConnectionError(INVALID_DATA) from None
            except TooBig:
                raise FailConnectionError(TOO_BIG) from None
            self._text.feed(payload)
        if self._opcode == TEXT:
            require(self._text.complete, INVALID_DATA)
            self._tell(Text(str(payload, "utf-8")))
        else:
            self._tell(Binary(payload))
        self._opcode = None

    def _read_control(self, opcode: int, length: int, mask: list[int]) -> Steps:
        payload = bytearray()
        for i in range(length):
            payload.append((yield) ^ mask[i % 4])
        if opcode == CLOSE:
            self._end_close(bytes(payload))
        else:
            self._tell(Ping(bytes(payload)) if opcode == PING else Pong(bytes(payload)))
        return length

    def _end_close(self, payload: bytes) -> None:
        if not payload:
            self._tell(Close(NO_CODE, ""))
            return
        code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
        require(len(payload) >= 2 and code in SENDABLE_CODES, PROTOCOL_ERROR)
        validator = Validator()
        validator.feed(reason)
        require(validator.complete, INVALID_DATA)
        self._tell(Close(code, str(reason, "utf-8")))
