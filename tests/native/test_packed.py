"""The MessagePack scanner: what it transcodes, what JSON has not, lies about lengths, and the twin."""

import itertools
import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native.envelope import Envelope, Malformed, scan_msgpack
from tests.oracles import envelope as oracle
from tests.oracles.envelope import assert_same

TEXTS = st.text(max_size=12)


def packed(value: object, max_depth: int = 64) -> Envelope | Malformed:
    (message,) = scan_msgpack(msgspec.msgpack.encode(value), 10, max_depth)
    return message


def reason(message: Envelope | Malformed) -> str:
    assert isinstance(message, Malformed), message
    return message.reason


PACKED_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        TEXTS,
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(TEXTS, inner, max_size=20)),
    max_leaves=30,
)


@given(PACKED_VALUES)
@settings(max_examples=150)
def test_content_in_messagepack_becomes_the_same_json(value):
    message = packed({"type": "t", "content": value})
    assert json.loads(message.content) == value
    assert message.content == json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "value",
    [
        0,
        127,
        128,
        255,
        256,
        65535,
        65536,
        2**32 - 1,
        2**32,
        2**63,
        2**64 - 1,
        -1,
        -32,
        -33,
        -128,
        -129,
        -32768,
        -32769,
        -(2**31),
        -(2**31) - 1,
        -(2**63),
        0.1,
        -0.0,
        1e16,
        1e-7,
        5e-324,
        1.7976931348623157e308,
    ],
)
def test_numbers_keep_their_value_and_are_written_shortest(value):
    message = packed({"type": "t", "content": value})
    assert message.content == repr(value).encode()


def test_a_float_of_32_bits_keeps_its_value():
    (message,) = scan_msgpack(b"\x82\xa4type\xa1t\xa7content\xca\x3d\xcc\xcc\xcd", 1)
    assert message.content == b"0.10000000149011612"


def test_longer_forms_than_needed_are_read_too():
    frame = (
        b"\xdf\x00\x00\x00\x03"
        + b"\xdb\x00\x00\x00\x04type"
        + b"\xda\x00\x01t"
        + b"\xd9\x02id"
        + b"\xd3"
        + bytes(8)
    )
    assert scan_msgpack(frame + b"\xa7content\xdd\x00\x00\x00\x01\xd1\xff\xff", 1) == [
        Envelope("t", b"0", content=b"[-1]")
    ]


def test_several_messages_are_an_array():
    values = [{"type": "a"}, {"type": "b", "id": 2}]
    assert scan_msgpack(msgspec.msgpack.encode(values), 2) == [Envelope("a"), Envelope("b", b"2")]
    assert scan_msgpack(msgspec.msgpack.encode(values), 1) == [
        Envelope("a"),
        Malformed("too many messages in one frame: at most 1"),
    ]
    assert "no message in the frame" in reason(packed([]))


def test_strings_of_an_envelope_come_as_they_are():
    value = {"type": 'q"\\\n\x01é', "room": "chat:😀", "key": "\0", "id": 'i"d'}
    assert packed(value) == Envelope(value["type"], b'"i\\"d"', value["room"], value["key"])


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (5, "no message at byte 0"),
        ("x", "no message at byte 0"),
        (None, "no message at byte 0"),
        ([7], "no message at byte 1"),
        ({}, "no type"),
        ({"type": 1}, "bad type"),
        ({"type": ""}, "bad type"),
        ({"type": "a", "room": 5}, "bad room"),
        ({"type": "a", "key": None}, "bad key"),
        ({"type": "a", "id": 2**60}, "bad id"),
        ({"type": "a", "id": 1.0}, "bad id"),
        ({"type": "a", "content": {1: 2}}, "no key at byte 17"),
        ({1: 2}, "no key at byte 1"),
        ({"type": "a", "content": b"x"}, "bin at byte 16"),
        ({"type": "a", "content": msgspec.msgpack.Ext(5, b"abc")}, "ext at byte 16"),
        ({"type": "a", "content": math.nan}, "NaN or Infinity at byte 16"),
        ({"type": "a", "content": [-math.inf]}, "NaN or Infinity at byte 17"),
        ({"type": "a", "x": [[[]]]}, "too deep"),
    ],
)
def test_what_json_has_not_is_refused_by_its_name(value, why):
    assert why in reason(packed(value, max_depth=3))


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (b"", "no message in the frame"),
        (b"\x81", "length at byte 0 is past the end"),
        (b"\xc1", "byte 0 is 0xc1"),
        (b"\xdf\xff\xff\xff\xff", "length at byte 0 is past the end"),
        (b"\xdd\xff\xff\xff\xff\x80", "length at byte 0 is past the end"),
        (b"\xde\x00", "ends at byte 0"),
        (b"\x81\xa4type\xdb\xff\xff\xff\xffabc", "length at byte 6 is past the end"),
        (b"\x81\xa4type\xc6\xff\xff\xff\xffabc", "length at byte 6 is past the end"),
        (b"\x81\xa4type\xc9\xff\xff\xff\xffabc", "length at byte 6 is past the end"),
        (b"\x82\xa4type\xa1a\xa1x", "ends at byte 10"),
        (b"\x81\xa4type\xa1a\x00", "more after the message at byte 8"),
        (b"\x81\xa4type\xa1\xff", "bad UTF-8 in the str at byte 6"),
        (b"\x81\xa4type\xa3\xed\xa0\x80", "bad UTF-8 in the str at byte 6"),
        (b"\x81\xa1\xc0\xa1a", "bad UTF-8 in the str at byte 1"),
        (b"\x82\xa4type\xa1a\xa4type\xa1b", "duplicate key at byte 8"),
        (b"\x82\xa4type\xa1a\xa1x\x82\xa1y\x01\xa1y\x02", "duplicate key at byte 14"),
        (b"\x91" * 100_000, "no message at byte 1"),
        (b"\x82\xa4type\xa1a\xa1x" + b"\x91" * 100_000, "too deep at byte 73"),
        (b"\x82\xa4type\xa1a\xa1x" + b"\x81\xa1a" * 100_000, "too deep at byte 199"),
    ],
)
def test_a_packed_frame_that_lies_is_refused(frame, why):
    (message,) = scan_msgpack(frame, 10)
    assert why in reason(message)


EDGES = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF]
"""Where the rules for second and later bytes of a character change."""


@pytest.mark.parametrize(
    "texts",
    [
        [bytes([first, second]) for first in range(256) for second in range(256)],
        [bytes([first, *rest]) for first in range(0xDF, 0xF1) for rest in itertools.product(EDGES, repeat=2)],
        [bytes([first, *rest]) for first in range(0xEF, 0xF8) for rest in itertools.product(EDGES, repeat=3)],
    ],
    ids=["two bytes", "three bytes", "four bytes"],
)
def test_a_str_is_what_python_takes_for_utf8(texts):
    for text in texts:
        (message,) = scan_msgpack(b"\x82\xa4type\xa1a\xa7content" + bytes([0xA0 | len(text)]) + text, 1)
        try:
            expected = text.decode()
        except UnicodeDecodeError:
            assert "bad UTF-8" in reason(message), text
        else:
            assert json.loads(message.content) == expected


def test_a_bad_packed_message_stands_at_its_place_and_the_rest_goes_on():
    values = [
        {"type": "a"},
        {"type": "b", "content": [b"", {1: [2, {}]}], "z": {}},
        5,
        {"id": 3},
        {"type": "c"},
    ]
    found = scan_msgpack(msgspec.msgpack.encode(values), 10)
    assert [type(each) for each in found] == [Envelope, Malformed, Malformed, Malformed, Envelope]
    assert found[3].id == b"3"


def test_after_a_lie_about_a_length_nothing_more_is_believed():
    frame = b"\x93\x81\xa4type\xa1a\x81\xa4type\xd9\x50a\x81\xa4type\xa1a"
    assert [type(each) for each in scan_msgpack(frame, 10)] == [Envelope, Malformed]


@pytest.mark.parametrize(
    "value",
    [
        "\x01" * 1000,
        [False] * 1000,
        [-1.1754943508222875e-38] * 1000,
        {"\x02" * 9: {"\x03": [None, False]}},
        [[], {}, ""] * 500,
        {f"\x1f{i}": True for i in range(500)},
    ],
)
def test_what_grows_most_in_json_fits(value):
    assert json.loads(packed({"type": "t", "content": value}).content) == value


PACKED_ENVELOPES = st.fixed_dictionaries(
    {"type": TEXTS},
    optional={
        "id": st.one_of(st.integers(-(2**54), 2**54), TEXTS),
        "room": TEXTS,
        "key": TEXTS,
        "content": st.one_of(
            PACKED_VALUES,
            st.binary(max_size=5),
            st.floats(),
            st.dictionaries(st.integers(0, 5), TEXTS, max_size=2),
            st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=5)),
        ),
        "other": PACKED_VALUES,
    },
)
PACKED_SNIPPETS = st.sampled_from(
    [
        b"\xdf\0\0\0\x02",
        b"\xa1a",
        b"\x91",
        b"\x81",
        b"\xcb" + bytes(8),
        b"\xc1",
        b"\xa2id",
        b"\xd9\x02\xff\xff",
        b"\xdc\x00\x01",
        b"\x81\xa4type\xa1z",
        b"\xca\x7f\xc0\x00\x00",
        b"\xc7\x01\x05a",
        b"\xd4\x01\x01",
        b"\xdd\xff\xff\xff\xff",
    ]
)


@given(st.lists(PACKED_ENVELOPES, max_size=3), st.booleans(), st.data())
@settings(max_examples=200)
def test_mutated_messagepack_meets_the_twins_answer(values, single, data):
    frame = bytearray(msgspec.msgpack.encode(values[0] if single and values else values))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(frame)))
        new = data.draw(st.one_of(PACKED_SNIPPETS, st.binary(max_size=2)))
        frame[at : at + data.draw(st.integers(0, 4))] = new
    max_messages, max_depth = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    found = scan_msgpack(bytes(frame), max_messages, max_depth)
    assert_same(found, oracle.scan_msgpack(bytes(frame), max_messages, max_depth))


@given(st.binary(max_size=40))
@settings(max_examples=250)
def test_random_messagepack_meets_the_twins_answer(data):
    for frame in (data, b"\x82\xa4type\xa1a\xa7content" + data):
        assert_same(scan_msgpack(frame, 4), oracle.scan_msgpack(frame, 4))
