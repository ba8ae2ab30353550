"""What the fuzzer says to the server: valid handshakes, frames and messages, broken in structured ways.

Pure functions of a `random.Random`, so that a seed says it all.
"""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import dataclass

from tests.attacks.wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    close_frame,
    frame,
    upgrade_request,
)

JSON, MSGPACK, ECHO = "json", "msgpack", "echo"
MESSAGE_BYTES_MAX = 65_536
ROOMS = [
    "events:fuzz",
    "events:fuzz2",
    "events:" + "x" * 300,
    "chat:fuzz",
    "nonsense",
    "events:",
    ":",
    "événements:é",
]
VALUES = [
    "null",
    "true",
    "0",
    "-1",
    "1e9",
    '"a"',
    '"\\u00e9\\ud83d\\ude00"',
    "[]",
    "{}",
    '{"a":[1,2,{"b":null}]}',
]
BAD_VALUES = [
    "NaN",
    "01",
    '"\\ud800"',
    "[1,]",
    '{"a":1,"a":2}',
    "tru",
    '"\x01"',
    "[" * 70 + "]" * 70,
    "9" * 400,
]
TYPES = [
    "join",
    "leave",
    "publish",
    "presence",
    "history",
    "ping",
    "refresh",
    "connect",
    "ack",
    "chat_message",
    "x",
]
HEADERS = [
    "Origin: https://a.example",
    "Cookie: a=b",
    "Content-Length: 0",
    "Content-Length: 4",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Authorization: Bearer a.b.c",
    "Sec-WebSocket-Protocol: bearer.a.b.c, realtime.v1.json",
    "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8",
    "Host: b",
    "X: " + "y" * 3000,
]
PATHS = [
    "/",
    "/ws",
    "/ws/",
    "/ws/%zz",
    "/ws/a?token=x",
    "/health",
    "/ready",
    "/metrics",
    "/nowhere",
    "*",
    "//",
    "/ws/\xff",
]
OTHER_METHODS = ["POST", "PUT", "get", "OPTIONS", ""]


@dataclass(frozen=True)
class Stimulus:
    """The bytes of one connection in the pieces they are sent in, and how the peer ends it."""

    pieces: list[bytes]
    kind: str  # JSON | MSGPACK | ECHO: what the handshake, where it is not broken, asked for
    resets: bool


def make(rng: random.Random) -> Stimulus:
    """Return one connection's worth of trouble."""
    kind = rng.choice([JSON, JSON, JSON, MSGPACK, ECHO, ECHO])
    deflate = rng.random() < 0.4
    data = _handshake(rng, kind, deflate)
    if rng.random() < 0.5:
        # Well-framed all the way, so that hostile content meets sessions that live on.
        data += b"".join(_tame_frames(rng, kind, deflate) for _ in range(rng.randrange(1, 30)))
        return Stimulus(split(rng, data), kind, rng.random() < 0.1)
    if rng.random() < 0.2:
        data = mutated(rng, data)
    for _ in range(rng.randrange(1, 12)):
        part = _frames(rng, kind, deflate)
        data += mutated(rng, part) if rng.random() < 0.1 else part
    if rng.random() < 0.05:
        data = rng.randbytes(rng.randrange(1, 3000))
    elif rng.random() < 0.1:
        data = data[: rng.randrange(len(data))]
    return Stimulus(split(rng, data), kind, rng.random() < 0.1)


def split(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut `data` at random: whole, in a few pieces, or now and then byte by byte."""
    if rng.random() < 0.05 and len(data) < 1500:
        return [data[i : i + 1] for i in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 2, 3, 8])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    return [piece for piece in pieces if piece]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Flip, drop, repeat, insert or cut a few bytes."""
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        if not broken:
            break
        at = rng.randrange(len(broken))
        match rng.randrange(6):
            case 0:
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                broken[at] = rng.randrange(256)
            case 2:
                del broken[at : at + rng.randrange(1, 20)]
            case 3:
                broken[at:at] = rng.randbytes(rng.randrange(1, 20))
            case 4:
                broken[at:at] = broken[at : at + rng.randrange(1, 60)]
            case 5:
                broken[at:at] = rng.choice([b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n", b"\xff" * 8])
    return bytes(broken)


def _handshake(rng: random.Random, kind: str, deflate: bool) -> bytes:
    headers = []
    if kind == MSGPACK:
        headers.append("Sec-WebSocket-Protocol: realtime.v1.msgpack")
    if deflate:
        headers.append(rng.choice(["Sec-WebSocket-Extensions: permessage-deflate", HEADERS[8]]))
    path = "/echo" if kind == ECHO else f"/ws/fuzz{rng.randrange(1 << 40)}"
    if rng.random() > 0.1:
        return upgrade_request(path, *headers)
    replaced = {"Connection": rng.choice(["Upgrade", "keep-alive, Upgrade", "close", ""])}
    return upgrade_request(
        rng.choice([path, *PATHS]),
        *headers,
        *rng.sample(HEADERS, rng.randrange(3)),
        method=rng.choice(["GET"] * 4 + OTHER_METHODS),
        version=rng.choice(["HTTP/1.1"] * 4 + ["HTTP/1.0", "HTTP/3", ""]),
        without=tuple(rng.sample(["Host", "Upgrade", "Sec-WebSocket-Key"], rng.choice([0, 0, 1]))),
        **replaced,
    )


def _tame_frames(rng: random.Random, kind: str, deflate: bool) -> bytes:
    payload = _payload(rng, kind)
    if kind != MSGPACK and not payload.isascii():
        payload = bytes(byte & 127 for byte in payload)
    opcode = BINARY if kind == MSGPACK else TEXT
    match rng.randrange(8):
        case 0:
            return frame(rng.choice([PING, PONG]), rng.randbytes(rng.randrange(126)))
        case 1:
            return _fragments(rng, payload, opcode, finished=1.0)
        case 2 if deflate:
            squeeze = zlib.compressobj(rng.randrange(1, 10), zlib.DEFLATED, -rng.randrange(9, 16))
            data = squeeze.compress(payload) + squeeze.flush(zlib.Z_SYNC_FLUSH)
            return frame(opcode, data.removesuffix(b"\x00\x00\xff\xff"), rsv=4)
        case _:
            return frame(opcode, payload, mask=rng.randbytes(4))


def _frames(rng: random.Random, kind: str, deflate: bool) -> bytes:
    match rng.randrange(12):
        case 0:
            return frame(rng.choice([PING, PONG]), rng.randbytes(rng.choice([0, 1, 125, rng.randrange(130)])))
        case 1:
            return _close(rng) if rng.random() < 0.5 else b""
        case 2:
            return _broken_frame(rng)
        case 3:
            return _fragments(rng, _payload(rng, kind), BINARY if kind == MSGPACK else TEXT)
        case 4 if deflate:
            return _compressed(rng, _payload(rng, kind), BINARY if kind == MSGPACK else TEXT)
        case 5:
            return frame(rng.choice([TEXT, BINARY, BINARY]), rng.randbytes(rng.randrange(300)))
        case _:
            return frame(BINARY if kind == MSGPACK else TEXT, _payload(rng, kind), mask=rng.randbytes(4))


def _close(rng: random.Random) -> bytes:
    # Every code but 1011, so that a 1011 of the server is its own.
    code = rng.choice([1000, 1001, 1005, 1006, 3000, 4999, 0, 999, 5000, rng.randrange(1012, 65536)])
    return close_frame(code, rng.choice([b"", b"bye", b"\xff", b"x" * 123]))


def _broken_frame(rng: random.Random) -> bytes:
    if rng.random() < 0.2:  # a length that no payload follows
        return frame(TEXT, claimed_bytes=rng.choice([MESSAGE_BYTES_MAX + 1, 1 << 62, (1 << 64) - 1]))
    payload = rng.randbytes(rng.choice([0, 1, 10, 200]))
    return frame(
        rng.randrange(16),
        payload,
        fin=rng.random() < 0.7,
        rsv=rng.choice([0, 0, 1, 2, 4, 7]),
        mask=rng.choice([None, bytes(4), rng.randbytes(4)]),
        length_bytes=rng.choice([0, 0, 2, 8]),
    )


def _fragments(rng: random.Random, payload: bytes, opcode: int, finished: float = 0.95) -> bytes:
    cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 6)))
    parts = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    data = b""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1 and rng.random() < finished
        data += frame(opcode if number == 0 else CONTINUATION, part, fin=last)
        if rng.random() < 0.3:
            data += frame(PING, b"between")
    return data


def _compressed(rng: random.Random, payload: bytes, opcode: int) -> bytes:
    if rng.random() < 0.05:
        payload = bytes(
            MESSAGE_BYTES_MAX * rng.choice([1, 20])
        )  # a bomb, but for the echo's sake a small one
    squeeze = zlib.compressobj(rng.randrange(1, 10), zlib.DEFLATED, -rng.randrange(9, 16))
    data = (squeeze.compress(payload) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
    if rng.random() < 0.3:
        data = mutated(rng, data)
    return frame(opcode, data, rsv=4)


def _payload(rng: random.Random, kind: str) -> bytes:
    if kind == MSGPACK:
        packed = _packed(rng)
        return mutated(rng, packed) if rng.random() < 0.3 else packed
    if kind == ECHO and rng.random() < 0.5:
        return rng.choice(["", "a", "κόσμε", "x" * 126, "x" * 65535, "😀" * 40]).encode()
    text = "\n".join(_json(rng) for _ in range(rng.choice([1, 1, 1, 2, 5]))).encode()
    return mutated(rng, text) if rng.random() < 0.3 else text


def _json(rng: random.Random) -> str:
    pairs = {"type": json.dumps(rng.choice(TYPES))}
    if rng.random() < 0.7:
        pairs["id"] = rng.choice(
            [str(rng.randrange(1000)), '"a1"', "1.5", "9" * 20, '"' + "i" * 70 + '"', "null"]
        )
    if rng.random() < 0.8:
        pairs["room"] = json.dumps(rng.choice(ROOMS[:2] * 3 + ROOMS))
    if rng.random() < 0.2:
        pairs["key"] = json.dumps("k" * rng.choice([1, 64, 65]))
    if rng.random() < 0.7:
        position = {"offset": rng.randrange(9), "epoch": "k3f9"}
        since = json.dumps({"since": position, "limit": rng.randrange(-1, 9)})
        pairs["content"] = rng.choice([*VALUES, since, since, rng.choice(BAD_VALUES)])
    items = [f'"{name}":{value}' for name, value in pairs.items()]
    rng.shuffle(items)
    return "{" + rng.choice(["", " "]).join([",".join(items)]) + "}"


def _packed(rng: random.Random) -> bytes:
    def text(value: str) -> bytes:
        raw = value.encode()
        return (bytes([0xA0 | len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw) & 255])) + raw

    values = [
        b"\xc0",
        b"\xc3",
        b"\x07",
        b"\x90",
        b"\x80",
        b"\xc4\x01a",
        b"\xcb" + bytes(8),
        b"\x91" * 80 + b"\x01",
    ]
    values += [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        text("a"),
        b"\x81\xa1a\x01",
    ]
    pairs = [text("type") + text(rng.choice(TYPES)), text("room") + text(rng.choice(ROOMS[:2] * 3 + ROOMS))]
    pairs += [text("id") + rng.choice([b"\x01", b"\xa1i", b"\xcf" + b"\xff" * 8])]
    pairs += [text("content") + rng.choice(values)]
    one = bytes([0x80 | len(pairs)]) + b"".join(pairs)
    return bytes([0x90 | 3]) + one * 3 if rng.random() < 0.2 else one


__all__ = ["CLOSE", "ECHO", "JSON", "MESSAGE_BYTES_MAX", "MSGPACK", "Stimulus", "make", "mutated", "split"]
