"""What hostile messages cost to scan: time and output grow with their size, and with nothing else.

Each case is a family of messages that somebody might hope to be expensive. Its cost a byte is measured at one
size and at sixteen times that: what grows with the square would be sixteen times as dear there, and no work
of others on the machine makes up for that or passes for it.
"""

from __future__ import annotations

import gc
import struct
import time
from collections.abc import Callable

import pytest

from realtime.native.envelope import scan, scan_msgpack
from realtime.protocol.codecs import to_msgpack

pytestmark = pytest.mark.alone

SMALL, LARGE = 30_000, 480_000
GROWTH_MAX = 5.0  # of the cost a byte: sorting keys has a logarithm, and a machine has other work
NS_PER_BYTE_MAX = 400.0  # 26 ms for a message of 64 KiB, on a machine that is busy with other things besides
TIMES = 5

JSON_HEAD = '{"type":"publish","id":1,"room":"events:x","content":'


def json_of(content: str) -> bytes:
    return f"{JSON_HEAD}{content}}}".encode()


def listed(item: str, size: int) -> str:
    return "[" + ",".join([item] * (size // (len(item) + 1))) + "]"


def keyed(form: str, size: int) -> str:
    return "{" + ",".join(f'"{form % number}":0' for number in range(size // (len(form) + 8))) + "}"


JSON_FAMILIES: dict[str, Callable[[int], bytes]] = {
    "digits": lambda size: json_of("9" * size),
    "digits-behind-the-point": lambda size: json_of("0." + "0" * size + "1"),
    "digits-of-an-exponent": lambda size: json_of("1e" + "9" * size),
    "floats-of-many-digits": lambda size: json_of(listed("2.22507385850720113605740979670913e-308", size)),
    "great-floats": lambda size: json_of(listed("1e308", size)),
    "small-floats": lambda size: json_of(listed("5e-324", size)),
    "one-float": lambda size: json_of("1." + "7" * size + "e-300"),
    "minus-and-zeros": lambda size: json_of(listed("-0.0e-0", size)),
    "keys": lambda size: json_of(keyed("%x", size)),
    "keys-with-one-long-prefix": lambda size: json_of(keyed("k" * 60 + "%x", size)),
    "keys-written-in-escapes": lambda size: json_of(keyed("\\u0061%x", size)),
    "objects-of-two-keys": lambda size: json_of(listed('{"a":0,"b":0}', size)),
    "unknown-keys-of-the-envelope": lambda size: b'{"type":"ping",' + keyed("%x", size)[1:].encode(),
    "escapes": lambda size: json_of('"' + "\\u0001" * (size // 6) + '"'),
    "backslashes": lambda size: json_of('"' + "\\\\" * (size // 2) + '"'),
    "surrogate-pairs": lambda size: json_of('"' + "\\ud83d\\ude00" * (size // 12) + '"'),
    "a-string-that-does-not-end": lambda size: json_of('"' + "a" * size)[:-1],
    "white-space": lambda size: json_of(" " * size + "1"),
    "empty-lists": lambda size: json_of(listed("[]", size)),
    "nested-lists": lambda size: json_of(listed("[" * 30 + "]" * 30, size)),
    "lists-that-do-not-end": lambda size: json_of("[" * size)[:-1],
    "lines": lambda size: b'{"type":"ping"}\n' * (size // 16),
    "empty-lines": lambda size: b"\n" * size,
    "lines-of-rubbish": lambda size: b"x\n" * (size // 2),
}


def packed_of(content: bytes) -> bytes:
    return b"\x84\xa4type\xa7publish\xa4room\xa8events:x\xa2id\x07\xa7content" + content


def packed_list(item: bytes, size: int) -> bytes:
    count = size // len(item)
    return packed_of(b"\xdd" + struct.pack("!I", count) + item * count)


def packed_text(piece: bytes, size: int) -> bytes:
    text = piece * (size // len(piece))
    return packed_of(b"\xdb" + struct.pack("!I", len(text)) + text)


def packed_keys(size: int) -> bytes:
    count = size // 8
    pairs = b"".join(b"\xa6%06x\xc0" % number for number in range(count))
    return packed_of(b"\xdf" + struct.pack("!I", count) + pairs)


MSGPACK_FAMILIES: dict[str, Callable[[int], bytes]] = {
    "control-characters": lambda size: packed_text(b"\x01", size),
    "quotes": lambda size: packed_text(b'"', size),
    "characters-of-four-bytes": lambda size: packed_text("\U0001f600".encode(), size),
    "nil": lambda size: packed_list(b"\xc0", size),
    "false": lambda size: packed_list(b"\xc2", size),
    "negative-numbers": lambda size: packed_list(b"\xe0", size),
    "the-greatest-integers": lambda size: packed_list(b"\xcf" + b"\xff" * 8, size),
    "the-smallest-floats": lambda size: packed_list(b"\xcb" + struct.pack("!d", 5e-324), size),
    "the-least-normal-floats": lambda size: packed_list(
        b"\xcb" + struct.pack("!d", -2.2250738585072014e-308), size
    ),
    "the-greatest-floats": lambda size: packed_list(
        b"\xcb" + struct.pack("!d", 1.7976931348623157e308), size
    ),
    "short-floats": lambda size: packed_list(b"\xca" + struct.pack("!f", 1.1754943508222875e-38), size),
    "empty-lists": lambda size: packed_list(b"\x90", size),
    "empty-maps": lambda size: packed_list(b"\x80", size),
    "lists-in-lists": lambda size: packed_list(b"\x91" * 30 + b"\xc0", size),
    "keys": packed_keys,
    "lists-that-do-not-end": lambda size: packed_of(b"\x91" * size),
    "a-list-that-promises-too-much": lambda size: packed_of(b"\xdd\xff\xff\xff\xff" + b"\xc0" * size),
}


def cost_ns(judge: Callable[[bytes, int], object], message: bytes) -> float:
    """What one byte of a message costs at best: whatever else the machine does only adds.

    Collections, which go through all that the tests have made as well, are put off as workers put them off.
    """
    best = float("inf")
    gc.disable()
    for _ in range(TIMES):
        began = time.thread_time_ns()
        judge(message, 100)
        best = min(best, time.thread_time_ns() - began)
    gc.enable()
    return best / len(message)


def assert_linear(judge: Callable[[bytes, int], object], family: Callable[[int], bytes]) -> None:
    small, large = family(SMALL), family(LARGE)
    assert len(large) > 12 * len(small)
    for attempt in range(3):  # of a machine that is busy with something else just then
        small_cost, large_cost = cost_ns(judge, small), cost_ns(judge, large)
        if large_cost <= GROWTH_MAX * small_cost or large_cost * len(large) < 100_000:
            break
        assert attempt < 2, f"{small_cost:.2f} ns a byte, and {large_cost:.2f} of sixteen times as many"
    assert large_cost <= NS_PER_BYTE_MAX, f"{large_cost:.0f} ns a byte"


@pytest.mark.parametrize("family", JSON_FAMILIES)
def test_the_time_for_hostile_json_grows_with_its_size(family: str) -> None:
    assert_linear(lambda message, most: list(scan(message, most)), JSON_FAMILIES[family])


@pytest.mark.parametrize("family", MSGPACK_FAMILIES)
def test_the_time_for_hostile_msgpack_grows_with_its_size(family: str) -> None:
    assert_linear(lambda message, most: list(scan_msgpack(message, most)), MSGPACK_FAMILIES[family])


VALID = [family for family in JSON_FAMILIES if "rubbish" not in family and "do-not-end" not in family]


@pytest.mark.parametrize("family", [each for each in VALID if "line" not in each and "does-not" not in each])
def test_the_time_to_make_msgpack_of_hostile_json_grows_with_its_size(family: str) -> None:
    """For each reader of MessagePack there is in a room, whoever published there."""
    assert_linear(lambda message, most: to_msgpack(message), JSON_FAMILIES[family])


@pytest.mark.parametrize("family", MSGPACK_FAMILIES)
def test_msgpack_becomes_at_most_six_times_as_much_json(family: str) -> None:
    """What a control character or a `false` becomes: no content multiplies by more."""
    for found in scan_msgpack(MSGPACK_FAMILIES[family](SMALL), 100):
        content = getattr(found, "content", None)
        assert content is None or len(content) <= 6 * SMALL + 64


def test_quadratic_growth_would_be_seen() -> None:
    """The measure itself, on something that is as bad as that."""

    def quadratic(message: bytes, most: int) -> None:
        for _ in range(len(message) // 1000):
            message.count(b"\xff")

    with pytest.raises(AssertionError, match="sixteen times as many"):
        assert_linear(quadratic, lambda size: b"x" * size)
