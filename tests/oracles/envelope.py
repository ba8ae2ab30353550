"""Both scanners in plain Python: the specification of `realtime.native.envelope`, and its oracle.

Written to be read: recursive, one object a value, no cache, no shared code with the compiled one. The JSON
grammar is here in full, since where a scan goes on after a bad message depends on where it stopped; that the
grammar is JSON's, `test_envelope.py` checks against Python's `json`, and MessagePack's against msgspec.
"""

import json
import math
import re
import struct
from dataclasses import dataclass, field

from realtime.native.envelope import Envelope, Malformed

DIRECT_KEYS = 8
BLANK = frozenset(b" \t\r\n")
FIELDS = ("type", "id", "room", "key", "content")
DIGITS = frozenset(b"0123456789")
PLACE = re.compile(r"byte (\d+)")
INTEGER = re.compile(rb"-?[0-9]+")
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\s"]+')


@dataclass(frozen=True)
class Sound:
    type: str
    id: bytes | None = None
    room: str | None = None
    key: str | None = None
    content: bytes | None = None


@dataclass(frozen=True)
class Bad:
    """`why` is part of the reason; `at` the byte that it names, None where it names none."""

    why: str
    at: int | None = None
    id: bytes | None = None


class Fault(Exception):  # noqa: N818 - it is what the compiled twin calls it
    """`stop` is where the scan stopped, `at` the byte that the fault is about."""

    def __init__(self, why: str, stop: int, at: int | None = None) -> None:
        self.why, self.stop, self.at = why, stop, stop if at is None else at


# ---------------------------------------------------------------- the rules of an envelope


def judge(spans: dict[str, bytes]) -> Sound | Bad:
    """Make an envelope of the JSON texts of its known keys."""
    id = known_id(spans.get("id"))
    if "id" in spans and id is None:
        return Bad("bad id")
    if "type" not in spans:
        return Bad("no type", id=id)
    strings = {}
    for name, limit in (("type", 256), ("room", 200), ("key", 64)):
        if name not in spans:
            continue
        strings[name] = text = string_of(spans[name])
        if not text or len(text.encode()) > limit or (name == "type" and len(text) > 64):
            return Bad(f"bad {name}", id=id)
    return Sound(**strings, id=id, content=spans.get("content"))


def string_of(token: bytes) -> str | None:
    try:
        return str(json.loads(token.decode())) if token.startswith(b'"') else None
    except UnicodeDecodeError:
        return None


def known_id(token: bytes | None) -> bytes | None:
    if token is None:
        return None
    if token.startswith(b'"'):
        return token if len(unescape(token)) <= 64 else None
    if not INTEGER.fullmatch(token) or len(token) > 17:
        return None
    return token if abs(int(token)) <= 2**53 else None


def unescape(token: bytes) -> bytes:
    text = json.loads(token.decode("utf-8", "surrogateescape"))
    return str(text).encode("utf-8", "surrogateescape")


# ---------------------------------------------------------------- JSON


@dataclass
class Reader:
    text: bytes
    max_depth: int
    at: int = 0
    spans: dict[str, bytes] = field(default_factory=dict)

    def peek(self) -> int:
        """The next byte, or -1 at the end."""
        return self.text[self.at] if self.at < len(self.text) else -1

    def fail(self, why: str, stop: int) -> Fault:
        return Fault("ends at byte" if stop >= len(self.text) else why, stop)

    def blank(self) -> None:
        while self.peek() in BLANK:
            self.at += 1

    def message(self) -> None:
        """Read one message and the rest of its line; the spans of the envelope go to `spans`."""
        if self.peek() != ord("{"):
            raise self.fail("no message", self.at)
        self.object(1, top=True)
        while self.peek() in BLANK - {ord("\n")}:
            self.at += 1
        if self.at < len(self.text) and self.peek() != ord("\n"):
            raise self.fail("more after the message", self.at)

    def value(self, depth: int) -> None:
        byte = self.peek()
        if byte in set(b"{["):
            if depth > self.max_depth:
                raise self.fail("too deep", self.at)
            self.object(depth) if byte == ord("{") else self.array(depth)
        elif byte == ord('"'):
            self.string()
        elif byte == ord("-") or byte in DIGITS:
            self.number()
        else:
            self.word()

    def object(self, depth: int, *, top: bool = False) -> None:
        keys: list[tuple[bytes, int]] = []
        self.at += 1
        self.blank()
        if self.peek() != ord("}"):
            while True:
                name = self.key(keys, top)
                begin = self.at
                self.value(depth + 1)
                if name is not None:
                    self.spans[name] = compact(self.text[begin : self.at])
                self.blank()
                if self.peek() != ord(","):
                    break
                self.at += 1
                self.blank()
            if self.peek() != ord("}"):
                raise self.fail("after a member", self.at)
        seen: set[bytes] = set()
        doubles = [at for key, at in keys if key in seen or seen.add(key)]
        if doubles:
            raise Fault("duplicate key", self.at, doubles[0])
        self.at += 1

    def key(self, keys: list[tuple[bytes, int]], top: bool) -> str | None:
        """Read a key and its colon; return its name where the envelope knows it."""
        begin = self.at
        if self.peek() != ord('"'):
            raise self.fail("no key", self.at)
        self.string()
        key = unescape(self.text[begin : self.at])
        known = key.decode() if top and key in (name.encode() for name in FIELDS) else None
        if known is not None:
            if known in self.spans:
                raise Fault("duplicate key", begin)
        else:
            if len(keys) < DIRECT_KEYS and key in (other for other, _ in keys):
                raise Fault("duplicate key", begin)
            keys.append((key, begin))
        self.blank()
        if self.peek() != ord(":"):
            raise self.fail("no ':'", self.at)
        self.at += 1
        self.blank()
        return known

    def array(self, depth: int) -> None:
        self.at += 1
        self.blank()
        if self.peek() == ord("]"):
            self.at += 1
            return
        while True:
            self.value(depth + 1)
            self.blank()
            if self.peek() != ord(","):
                break
            self.at += 1
            self.blank()
        if self.peek() != ord("]"):
            raise self.fail("after an element", self.at)
        self.at += 1

    def string(self) -> None:
        self.at += 1
        while self.peek() != ord('"'):
            if self.peek() < 0x20:
                raise self.fail("control character", self.at)
            if self.peek() == ord("\\"):
                self.escape()
            else:
                self.at += 1
        self.at += 1

    def escape(self) -> None:
        begin = self.at
        self.at += 1
        if self.peek() != ord("u"):
            if self.peek() not in set(b'"\\/bfnrt'):
                raise self.fail("unknown escape", self.at)
            self.at += 1
            return
        unit = self.hex4(begin + 2)
        if unit is None:
            raise self.fail("bad \\u escape", begin)
        self.at = begin + 6
        if 0xD800 <= unit <= 0xDFFF:
            low = self.hex4(begin + 8) if self.text[self.at : self.at + 2] == b"\\u" else None
            if unit > 0xDBFF or low is None or not 0xDC00 <= low <= 0xDFFF:
                raise self.fail("lone surrogate", begin)
            self.at = begin + 12

    def hex4(self, at: int) -> int | None:
        digits = self.text[at : at + 4]
        return int(digits, 16) if re.fullmatch(rb"[0-9a-fA-F]{4}", digits) else None

    def number(self) -> None:
        if self.peek() == ord("-"):
            self.at += 1
        if self.peek() == ord("0"):
            if self.text[self.at + 1 : self.at + 2].isdigit():
                raise self.fail("leading zero", self.at)
            self.at += 1
        elif self.peek() == ord("I"):
            raise self.fail("NaN or Infinity", self.at)
        else:
            self.digits()
        if self.peek() == ord("."):
            self.at += 1
            self.digits()
        if self.peek() in set(b"eE"):
            self.at += 1
            if self.peek() in set(b"+-"):
                self.at += 1
            self.digits()

    def digits(self) -> None:
        if self.peek() not in DIGITS:
            raise self.fail("bad number", self.at)
        while self.peek() in DIGITS:
            self.at += 1

    def word(self) -> None:
        for word in (b"true", b"false", b"null"):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return
        byte = self.peek()
        if byte in set(b"NI"):
            raise self.fail("NaN or Infinity", self.at)
        raise self.fail("unknown word" if byte in set(b"tfn") else "no value", self.at)


def compact(text: bytes) -> bytes:
    """What spans lines loses the blanks between its tokens; the rest stays as it is."""
    if b"\n" not in text and b"\r" not in text:
        return text
    return b"".join(TOKEN.findall(text))


def scan(frame: bytes, max_messages: int, max_depth: int = 64) -> list[Sound | Bad]:
    found: list[Sound | Bad] = []
    at = skip_blank(frame, 0)
    while at < len(frame):
        if len(found) == max_messages:
            return [*found, Bad("too many messages")]
        reader = Reader(frame, max_depth, at)
        try:
            reader.message()
            found.append(judge(reader.spans))
            at = reader.at
        except Fault as fault:
            found.append(Bad(fault.why, fault.at, known_id(reader.spans.get("id"))))
            at = resume(frame, at, fault.stop)
        at = skip_blank(frame, at)
    return found or [Bad("no message in the frame")]


def skip_blank(frame: bytes, at: int) -> int:
    while at < len(frame) and frame[at] in BLANK:
        at += 1
    return at


def resume(frame: bytes, begin: int, stop: int) -> int:
    """After a fault: the next line, or the "{" that opens a line where none may stand."""
    line = frame.rfind(b"\n", 0, stop) + 1
    if frame[stop : stop + 1] == b"{" and line > begin and not frame[line:stop].strip(b" \t"):
        return stop
    newline = frame.find(b"\n", stop)
    return len(frame) if newline < 0 else newline


# ---------------------------------------------------------------- MessagePack


class Soft(Fault):
    """A fault that leaves the structure known; its message only is bad."""


@dataclass
class Unpacker:
    """Reads every value to its end, noting the first soft fault on the way."""

    data: bytes
    max_depth: int
    at: int = 0
    fault: Soft | None = None

    def complain(self, why: str, at: int) -> None:
        self.fault = self.fault or Soft(why, at)

    def take(self, n: int) -> bytes:
        if len(self.data) - self.at < n:
            raise Fault("ends at byte", self.at)
        self.at += n
        return self.data[self.at - n : self.at]

    def head(self) -> tuple[str, object, int]:
        """Return kind, value or length, and where it began."""
        begin = self.at
        byte = self.take(1)[0]
        kind, value = self.number_or_length(byte, begin)
        if kind in ("str", "bin", "ext", "array", "map"):
            assert isinstance(value, int)
            if value * (2 if kind == "map" else 1) > len(self.data) - self.at:
                raise Fault("past the end", begin)
            if kind in ("str", "bin", "ext"):
                return kind, self.take(value), begin
        return kind, value, begin

    def number_or_length(self, byte: int, begin: int) -> tuple[str, object]:
        if byte <= 0x7F or byte >= 0xE0:
            return "value", byte if byte <= 0x7F else byte - 256
        for low, mask, kind in ((0x80, 0x0F, "map"), (0x90, 0x0F, "array"), (0xA0, 0x1F, "str")):
            if byte & ~mask == low:
                return kind, byte & mask
        if byte == 0xC1:
            raise Fault("0xc1", begin)
        if byte in (0xC0, 0xC2, 0xC3):
            return "value", {0xC0: None, 0xC2: False, 0xC3: True}[byte]
        if 0xD4 <= byte <= 0xD8:
            return "ext", 1 + (1 << byte - 0xD4)
        kind, code = {
            0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
            0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
            0xCA: ("value", ">f"), 0xCB: ("value", ">d"),
            0xCC: ("value", ">B"), 0xCD: ("value", ">H"), 0xCE: ("value", ">I"), 0xCF: ("value", ">Q"),
            0xD0: ("value", ">b"), 0xD1: ("value", ">h"), 0xD2: ("value", ">i"), 0xD3: ("value", ">q"),
            0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
            0xDC: ("array", ">H"), 0xDD: ("array", ">I"),
            0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
        }[byte]  # fmt: skip
        n = struct.calcsize(code)
        if len(self.data) - self.at < n:
            raise Fault("ends at byte", begin)
        (value,) = struct.unpack(code, self.take(n))
        return kind, value + 1 if kind == "ext" else value

    def value(self, depth: int) -> str:
        """Return the value as JSON text; nonsense once there is a fault."""
        kind, value, begin = self.head()
        if kind in ("array", "map"):
            if depth > self.max_depth:
                self.complain("too deep", begin)
            assert isinstance(value, int)
            if self.fault:
                self.skip(value * (2 if kind == "map" else 1))
                return ""
            return self.map(value, depth) if kind == "map" else self.array(value, depth)
        if kind == "str":
            assert isinstance(value, bytes)
            return self.text(value, begin)
        if kind in ("bin", "ext"):
            self.complain(f"{kind} at byte", begin)
            return ""
        if isinstance(value, float) and not math.isfinite(value):
            self.complain("NaN or Infinity", begin)
            return ""
        return json.dumps(value)

    def skip(self, count: int) -> None:
        while count:
            if count > len(self.data) - self.at:
                raise Fault("ends at byte", self.at)
            kind, value, _ = self.head()
            count -= 1
            if kind in ("array", "map"):
                assert isinstance(value, int)
                count += value * (2 if kind == "map" else 1)

    def text(self, data: bytes, begin: int) -> str:
        try:
            return json.dumps(data.decode(), ensure_ascii=False)
        except UnicodeDecodeError:
            self.complain("bad UTF-8", begin)
            return ""

    def array(self, count: int, depth: int) -> str:
        parts = []
        for left in reversed(range(count)):
            parts.append(self.value(depth + 1))
            if self.fault:
                self.skip(left)
                break
        return f"[{','.join(parts)}]"

    def map(self, count: int, depth: int, spans: dict[str, bytes] | None = None) -> str:
        parts: list[str] = []
        keys: list[tuple[str, int]] = []
        for left in reversed(range(count)):
            key = self.key(keys, spans)
            if self.fault:
                self.skip(2 * left + 1)
                break
            value = self.value(depth + 1)
            if self.fault:
                self.skip(2 * left)
                break
            if spans is not None and json.loads(key) in FIELDS:
                spans[json.loads(key)] = value.encode()
            parts.append(f"{key}:{value}")
        seen: set[str] = set()
        doubles = [at for key, at in keys if key in seen or seen.add(key)]
        if doubles and not self.fault:
            self.complain("duplicate key", doubles[0])
        return f"{{{','.join(parts)}}}"

    def key(self, keys: list[tuple[str, int]], spans: dict[str, bytes] | None) -> str:
        kind, data, begin = self.head()
        if kind != "str":
            self.complain("no key", begin)
            if kind in ("array", "map"):
                assert isinstance(data, int)
                self.skip(data * (2 if kind == "map" else 1))
            return ""
        assert isinstance(data, bytes)
        key = self.text(data, begin)
        if self.fault:
            return key
        if spans is not None and json.loads(key) in FIELDS:
            if json.loads(key) in spans:
                self.complain("duplicate key", begin)
            return key
        if len(keys) < DIRECT_KEYS and key in (other for other, _ in keys):
            self.complain("duplicate key", begin)
        keys.append((key, begin))
        return key


def scan_msgpack(frame: bytes, max_messages: int, max_depth: int = 64) -> list[Sound | Bad]:
    found: list[Sound | Bad] = []
    if not frame:
        return [Bad("no message in the frame")]
    reader = Unpacker(frame, max_depth)
    many = frame[0] & 0xF0 == 0x90 or frame[0] in (0xDC, 0xDD)
    count = 1
    try:
        if many:
            count = reader.head()[1]  # type: ignore[assignment]
    except Fault as fault:
        return [Bad(fault.why, fault.at)]
    for i in range(count):
        if i == max_messages:
            return [*found, Bad("too many messages")]
        spans: dict[str, bytes] = {}
        reader.fault = None
        try:
            found.append(one_packed(reader, spans))
        except Fault as fault:
            first = reader.fault or fault
            return [*found, Bad(first.why, first.at, known_id(spans.get("id")))]
    if reader.at < len(frame):
        if many:
            found.append(Bad("more after the message", reader.at))
        else:
            found = [Bad("more after the message", reader.at, found[0].id)]
    return found or [Bad("no message in the frame")]


def one_packed(reader: Unpacker, spans: dict[str, bytes]) -> Sound | Bad:
    kind, value, begin = reader.head()
    if kind != "map":
        reader.complain("no message", begin)
        if kind == "array":
            assert isinstance(value, int)
            reader.skip(value)
    else:
        assert isinstance(value, int)
        reader.map(value, 1, spans)
    if reader.fault:
        return Bad(reader.fault.why, reader.fault.at, known_id(spans.get("id")))
    return judge(spans)


# ---------------------------------------------------------------- for the tests


def assert_same(found: list[Envelope | Malformed], expected: list[Sound | Bad]) -> None:
    """What the compiled scanner found is what the twin says, faults and their places included."""
    assert len(found) == len(expected), (found, expected)
    for message, twin in zip(found, expected, strict=True):
        if isinstance(twin, Sound):
            assert message == Envelope(twin.type, twin.id, twin.room, twin.key, twin.content)
        else:
            assert isinstance(message, Malformed), (message, twin)
            assert twin.why in message.reason
            assert message.id == twin.id
            if twin.at is not None:
                assert PLACE.findall(message.reason)[:1] == [str(twin.at)], (message, twin)
