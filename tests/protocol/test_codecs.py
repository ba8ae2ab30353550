"""JSON to MessagePack: the same values, and numbers that only JSON can hold."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.native.envelope import scan, scan_msgpack
from realtime.protocol.codecs import to_msgpack

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_values_pass_unchanged(value):
    for ascii_only in (True, False):
        packed = to_msgpack(json.dumps(value, ensure_ascii=ascii_only).encode())
        assert msgspec.msgpack.decode(packed) == value


@given(VALUES)
def test_there_and_back_leaves_the_content_as_it_was(value):
    text = json.dumps({"type": "t", "content": value}, ensure_ascii=False, separators=(",", ":")).encode()
    assert scan_msgpack(to_msgpack(text), 1) == scan(text, 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"18446744073709551616", 2.0**64),
        (b"-9223372036854775809", -(2.0**63)),
        (b"1" + b"0" * 300, 1e300),
        (b"1" + b"0" * 5000, math.inf),
        (b"-1" + b"0" * 5000, -math.inf),
        (b"1e400", math.inf),
        (b"-1e400", -math.inf),
        (b"1e-400", 0.0),
        (b"1.0", 1.0),
    ],
)
def test_numbers_out_of_messagepacks_range_become_what_javascript_makes_of_them(text, value):
    decoded = msgspec.msgpack.decode(to_msgpack(b'{"n":[%b,7]}' % text))
    assert decoded == {"n": [value, 7]}
    assert type(decoded["n"][0]) is type(value)


def test_what_is_no_json_is_refused():
    with pytest.raises(msgspec.DecodeError):
        to_msgpack(b"{")
