"""Whether what the server said is what its documentation allows, whatever it had been sent."""

from __future__ import annotations

import json
import re
import struct
import zlib

import msgspec

from tests.attacks.wire import ACCEPT, BINARY, CLOSE, CONTINUATION, DOCUMENTED_CLOSE_CODES, PING, PONG, TEXT
from tests.fuzz.stimuli import ECHO, JSON, MSGPACK

STATUSES = {
    101,
    200,
    204,
    301,
    304,
    400,
    401,
    403,
    404,
    405,
    408,
    413,
    414,
    415,
    417,
    426,
    429,
    431,
    501,
    503,
    505,
}
ERROR_NAMES = {
    *("bad_message", "unknown_type", "unauthorized", "forbidden", "not_joined", "room_limit"),
    *("rate_limited", "too_large", "conflict", "unavailable"),  # and `internal` never, by a peer's bytes
}
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [\x20-\x7e]*")
_FIELD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\x20-\x7e\t\x80-\xff]*")


class UndocumentedError(AssertionError):
    """The server said something that no page of its documentation allows."""


def expect(holds: bool, what: str) -> None:
    """Raise UndocumentedError unless `holds`."""
    if not holds:
        raise UndocumentedError(what)


def judge(said: bytes, kind: str, *, cut: bool, token: bytes | None = ACCEPT.encode()) -> str:
    """Check everything that one connection received; return how it went, for the statistics.

    `cut`: the end of the stream may be missing, because one side reset the connection. `token`: what the
    handshake's key has to be answered with; None where a mutation may have hit the key.
    """
    outcome, upgraded, deflate = "silence", False, False
    while said:
        if cut and b"\r\n\r\n" not in said:
            return outcome
        status, headers, said = _response(said, cut)
        outcome = f"http {status}"
        if status == 101:
            expect(headers.get(b"sec-websocket-accept", b"") == token or token is None, "wrong accept token")
            deflate = b"permessage-deflate" in headers.get(b"sec-websocket-extensions", b"")
            if kind != ECHO:  # what was asked for may have been mutated: what was agreed on counts
                packed = headers.get(b"sec-websocket-protocol") == b"realtime.v1.msgpack"
                kind = MSGPACK if packed else JSON
            upgraded = True
            break
    return _frames(said, kind, deflate, cut) if upgraded else outcome


def _response(said: bytes, cut: bool) -> tuple[int, dict[bytes, bytes], bytes]:
    head, end, rest = said.partition(b"\r\n\r\n")
    expect(bool(end), f"no whole HTTP head: {said[:300]!r}")
    first, *lines = head.split(b"\r\n")
    match = _STATUS_LINE.fullmatch(first)
    expect(match is not None, f"bad status line {first[:200]!r}")
    assert match
    status = int(match[1])
    expect(status in STATUSES, f"undocumented status {first!r}")
    for line in lines:
        expect(_FIELD.fullmatch(line) is not None, f"bad header line {line[:200]!r}")
    headers = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines}
    if status == 101:
        return status, headers, rest
    length = int(headers.get(b"content-length", b"0"))
    expect(cut or len(rest) >= length or status == 304, f"{len(rest)} of {length} bytes of a body")
    return status, headers, rest[length:]


def _frames(said: bytes, kind: str, deflate: bool, cut: bool) -> str:
    message, opcode, squeezed = b"", 0, False
    while said:
        parsed = _frame(said)
        if parsed is None:
            expect(cut, f"the stream ends within a frame: {said[:100]!r}")
            return "cut"
        first, payload, said = parsed
        code, fin, rsv = first & 15, bool(first & 0x80), first >> 4 & 7
        expect(code in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG), f"opcode {code}")
        if code == CLOSE:
            expect(not said, "something follows a Close frame")
            return _close(payload)
        if code >= 8:
            expect(fin and not rsv and len(payload) <= 125, f"bad control frame {first:#x}")
            continue
        expect((code == CONTINUATION) == bool(opcode), f"opcode {code} within or without a message")
        if code:
            opcode, message = code, b""
            expect(rsv == 0 or (rsv == 4 and deflate), f"reserved bits {rsv}")
            squeezed = rsv == 4
        message += payload
        if fin:
            _message(opcode, message, kind, squeezed)
            opcode = 0
    return "open"


def _frame(said: bytes) -> tuple[int, bytes, bytes] | None:
    if len(said) < 2:
        return None
    expect(not said[1] & 0x80, "a server masks nothing")
    length, at = said[1] & 0x7F, 2
    if length >= 126:
        at = 4 if length == 126 else 10
        if len(said) < at:
            return None
        least = 126 if length == 126 else 65536
        length = int.from_bytes(said[2:at], "big")
        expect(length >= least, "not the shortest form of a length")
    if len(said) < at + length:
        return None
    return said[0], said[at : at + length], said[at + length :]


def _close(payload: bytes) -> str:
    if not payload:
        return "close 1005"
    (code,) = struct.unpack("!H", payload[:2])
    # A peer's own code comes back as it is, if a peer may send it; 1011 is never in a stimulus.
    echoed = 3000 <= code <= 4999 or code in (1014, *range(1000, 1004), *range(1007, 1011))
    expect(code in DOCUMENTED_CLOSE_CODES or echoed, f"close code {code}")
    expect(code != 1011, "1011 for what a peer sent")
    payload[2:].decode()
    return f"close {code}"


def _message(opcode: int, payload: bytes, kind: str, squeezed: bool) -> None:
    if squeezed:
        payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
    text = payload.decode() if opcode == TEXT else ""
    if kind == ECHO:
        return
    expect((opcode == BINARY) == (kind == MSGPACK), f"opcode {opcode} on a {kind} connection")
    if kind == MSGPACK:
        packed = msgspec.msgpack.decode(payload)
        values = packed if isinstance(packed, list) else [packed]
    else:
        values = [json.loads(line) for line in text.split("\n") if line]
    for value in values:
        expect(isinstance(value, dict) and isinstance(value.get("type"), str), f"no envelope: {value!r}")
        if value["type"] == "error":
            name = value.get("content", value).get("name")
            expect(name in ERROR_NAMES, f"undocumented error {value!r}")
