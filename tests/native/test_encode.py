"""The encoders: the protocol's forms to the byte, and that a reader gets back what was put in."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.native.encode import encode_pong
from realtime.native.envelope import encode_ack, encode_error, encode_push, encode_reply, json_string

TEXTS = st.text(max_size=12)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.just(10**400)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=12)),
    max_leaves=20,
)


@given(st.text())
def test_a_json_string_reads_back(text):
    encoded = json_string(text)
    assert json.loads(encoded) == text
    assert encoded == json.dumps(text, ensure_ascii=False).encode()


def test_a_lone_surrogate_is_no_json_string():
    with pytest.raises(UnicodeEncodeError):
        json_string("a\ud800")


def test_a_push_has_the_protocols_form():
    push = encode_push(
        "chat_message",
        b'"chat:lobby"',
        b'"alice"',
        45,
        b"k3f9",
        b'{"text":"hi"}',
        b"2025-07-15T10:30:00.123Z",
    )
    assert push == (
        b'{"type":"chat_message","room":"chat:lobby","from":"alice","offset":45,"epoch":"k3f9",'
        b'"content":{"text":"hi"},"timestamp":"2025-07-15T10:30:00.123Z"}'
    )
    assert encode_push(b"chat_message", b'"chat:lobby"', None, 45, b"k3f9", b"1", b"T") == (
        b'{"type":"chat_message","room":"chat:lobby","offset":45,"epoch":"k3f9","content":1,"timestamp":"T"}'
    )


@given(st.text(max_size=70), TEXTS, st.none() | TEXTS, st.integers(0, 2**64 - 1), VALUES)
def test_a_push_reads_back(type, room, sender, offset, content):
    sender_json = None if sender is None else json_string(sender)
    text = json.dumps(content).encode()
    for name in (type, type.encode()):
        push = encode_push(name, json_string(room), sender_json, offset, b"e", text, b"T")
        expected = {
            "type": type,
            "room": room,
            "offset": offset,
            "epoch": "e",
            "content": content,
            "timestamp": "T",
        }
        assert json.loads(push) == expected | ({} if sender is None else {"from": sender})


@given(st.integers(0, 2**64 - 1), st.booleans())
@example(0, False)
@example(9, True)
@example(10, False)
@example(2**64 - 1, True)
def test_an_ack_reads_back(offset, duplicate):
    ack = encode_ack(b'"a1"', b'"chat:lobby"', offset, b"k3f9", duplicate)
    content = {"offset": offset, "epoch": "k3f9"} | ({"duplicate": True} if duplicate else {})
    assert json.loads(ack) == {"type": "ack", "id": "a1", "room": "chat:lobby", "content": content}
    assert ack.startswith(b'{"type":"ack","id":"a1","room":"chat:lobby","content":{"offset":')


def test_offsets_are_64_bits_without_sign():
    for offset in (-1, 2**64):
        with pytest.raises(OverflowError):
            encode_ack(b"1", b'""', offset, b"e")
        with pytest.raises(OverflowError):
            encode_push("t", b'""', None, offset, b"e", b"1", b"T")


def test_a_pong_has_the_protocols_form():
    pong = encode_pong(b'"p1"', b"2025-07-15T10:30:00.123Z")
    assert pong == b'{"type":"pong","id":"p1","content":{"server_time":"2025-07-15T10:30:00.123Z"}}'
    assert pong == encode_reply("pong", b'"p1"', None, b'{"server_time":"2025-07-15T10:30:00.123Z"}')
    with pytest.raises(TypeError):
        encode_pong(None, b"")


def test_a_reply_leaves_out_what_it_is_not_given():
    assert encode_reply("joined", b"1", b'"r"', b"{}") == b'{"type":"joined","id":1,"room":"r","content":{}}'
    assert encode_reply(b"pong", None, None, b"{}") == b'{"type":"pong","content":{}}'


def test_an_error_has_the_protocols_form():
    assert encode_error(b"7", 429, "rate_limited", 'wait "a bit"\n', True, 1.5, b'"r"') == (
        b'{"type":"error","id":7,"room":"r","content":{"code":429,"name":"rate_limited",'
        b'"message":"wait \\"a bit\\"\\n","temporary":true,"retry_after":1.5}}'
    )
    assert json.loads(encode_error(None, 400, "bad_message", "é", False)) == {
        "type": "error",
        "content": {"code": 400, "name": "bad_message", "message": "é", "temporary": False},
    }
    for never in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="retry_after"):
            encode_error(None, 503, "unavailable", "", True, never)


def test_encoders_refuse_other_types_than_theirs():
    for call in (
        lambda: encode_push(5, b"", None, 1, b"", b"", b""),
        lambda: encode_push("t", "r", None, 1, b"", b"", b""),
        lambda: encode_push("t", None, None, 1, b"", b"", b""),
        lambda: encode_ack(None, b"", 1, b""),
        lambda: json_string(b"x"),
    ):
        with pytest.raises(TypeError):
            call()
