"""Tokens taken apart: whatever comes, there is an answer or `Unauthorized`, and one text for one token."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.backends.auth.compact import DEPTH_MAX, TOKEN_BYTES_MAX, decode_segment, parse, read_object
from realtime.errors import Unauthorized
from tests.tokens import b64, claims, secret_signer

GOOD = secret_signer("s" * 32, kid="k").token(claims(note='a "quoted [bracket" {'))


def answers(text: str) -> bool:
    try:
        parse(text)
    except Unauthorized:
        return False
    return True


@given(st.text(max_size=200) | st.text("abcABC019-_.=", max_size=400))
def test_any_text_is_refused_or_read(text: str):
    answers(text)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_in_the_right_form_are_refused_or_read(header: bytes, body: bytes):
    answers(f"{b64(header)}.{b64(body)}.AA")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(
    ["alg", "kid", "typ", "crit", "b64", "cty", "jku", "jwk", "x5u", "x5c", "zip", "enc", "x"]
)


@given(st.dictionaries(names, json_values), json_values)
def test_any_header_is_refused_or_read(header: dict[str, object], body: object):
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(body).encode())}.AA"
    if answers(text):
        assert isinstance(header["alg"], str)
        assert header.keys() <= {"alg", "kid", "typ", "x"}
        assert isinstance(body, dict)


@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=0x2FF))
def test_another_text_is_another_token(place: int, sign: str):
    """No two texts are the same bytes: what was refused once cannot come back in another spelling."""
    other = GOOD[:place] + sign + GOOD[place + 1 :]
    if other != GOOD and answers(other):
        parts, former = other.split("."), GOOD.split(".")
        decoded = [base64.urlsafe_b64decode(each + "==") for each in parts]
        assert decoded != [base64.urlsafe_b64decode(each + "==") for each in former]


@pytest.mark.parametrize("text", ["", "A", "AB", "AAB", "A=", "AA==", "A+", "A/", " AA", "AA\n", "ÀA"])
def test_a_segment_has_one_spelling(text: str):
    with pytest.raises(Unauthorized):
        decode_segment(text, "header")


def test_brackets_in_texts_do_not_nest_and_others_do_to_a_bound():
    assert read_object(json.dumps({"x": "[{" * 200}).encode(), "claims")
    deep = ["[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1), "[" * DEPTH_MAX + "]" * DEPTH_MAX]
    assert read_object(b'{"x":%b}' % deep[0].encode(), "claims")
    with pytest.raises(Unauthorized):
        read_object(b'{"x":%b}' % deep[1].encode(), "claims")
    wide = {f"k{n}": [n] for n in range(200)}
    assert read_object(json.dumps(wide).encode(), "claims") == wide


def test_a_token_of_the_largest_size_is_read_and_a_larger_one_is_not():
    header, body = b64(b'{"alg":"HS256"}'), b64(b"{}")

    def of(size: int) -> str:
        return f"{header}.{body}.".ljust(size, "A")

    # Of four lengths one is none that base64 has.
    assert sum(answers(of(size)) for size in range(TOKEN_BYTES_MAX - 3, TOKEN_BYTES_MAX + 1)) == 3
    assert not any(answers(of(size)) for size in range(TOKEN_BYTES_MAX + 1, TOKEN_BYTES_MAX + 5))
