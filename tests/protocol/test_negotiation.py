"""What is chosen of a client's offers: permessage-deflate, subprotocol, token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.errors import BadMessage
from realtime.protocol.deflate import negotiate
from realtime.protocol.subprotocols import JSON, MSGPACK, Choice, choose

PLAIN = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("offers", "header", "window_bits"),
    [
        ("permessage-deflate", PLAIN, 15),
        ("permessage-deflate; server_no_context_takeover", PLAIN, 15),
        ("permessage-deflate; client_no_context_takeover", PLAIN, 15),
        ("permessage-deflate; client_max_window_bits", f"{PLAIN}; client_max_window_bits=15", 15),
        ("permessage-deflate; client_max_window_bits=8", f"{PLAIN}; client_max_window_bits=8", 15),
        ("permessage-deflate; server_max_window_bits=9", f"{PLAIN}; server_max_window_bits=9", 9),
        ('permessage-deflate; server_max_window_bits="10"', f"{PLAIN}; server_max_window_bits=10", 10),
        (
            "permessage-deflate;client_max_window_bits=12;server_max_window_bits=15",
            f"{PLAIN}; client_max_window_bits=12; server_max_window_bits=15",
            15,
        ),
        ("x-webkit-deflate-frame, permessage-deflate", PLAIN, 15),
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", PLAIN, 15),
        (
            "permessage-deflate; nonsense, permessage-deflate; server_max_window_bits=11, permessage-deflate",
            f"{PLAIN}; server_max_window_bits=11",
            11,
        ),
    ],
)
def test_the_first_offer_that_can_be_served_is_accepted(offers, header, window_bits):
    assert negotiate(offers) == (header, window_bits)


@pytest.mark.parametrize(
    "offers",
    [
        "x-other",
        "permessage-bzip2; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=-9",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=010",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=true",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=1",
    ],
)
def test_an_offer_that_is_invalid_or_unknown_is_passed_over(offers):
    assert negotiate(offers) is None


@pytest.mark.parametrize(
    "offers", ["", ",", ";", "permessage-deflate;", "permessage-deflate; =1", "a b", 'a; b="', "a; b=", "é"]
)
def test_a_header_that_is_no_list_of_extensions_is_a_bad_handshake(offers):
    with pytest.raises(BadMessage):
        negotiate(offers)


@given(st.text())
def test_any_offer_is_answered_or_refused(offers):
    try:
        agreement = negotiate(offers)
    except BadMessage:
        return
    assert agreement is None or 9 <= agreement.window_bits <= 15


@pytest.mark.parametrize(
    ("offers", "choice"),
    [
        (None, Choice(None, False, None)),
        (JSON, Choice(JSON, False, None)),
        (MSGPACK, Choice(MSGPACK, True, None)),
        (f"{MSGPACK}, {JSON}", Choice(MSGPACK, True, None)),
        (f"{JSON},{MSGPACK}", Choice(JSON, False, None)),
        (f"{JSON}, bearer.aa.bb.c-_c", Choice(JSON, False, "aa.bb.c-_c")),
        (f"bearer.one, bearer.two, {MSGPACK}", Choice(MSGPACK, True, "one")),
        ("bearer.one", Choice(None, False, "one")),
        ("bearer.", Choice(None, False, "")),
        ("graphql-ws", Choice(None, False, None)),
        ("graphql-ws, realtime.v1.json", Choice(JSON, False, None)),
        ("REALTIME.V1.JSON", Choice(None, False, None)),
        ("realtime.v2.json", Choice(None, False, None)),
    ],
)
def test_the_first_known_subprotocol_is_chosen_and_the_token_is_taken(offers, choice):
    assert choose(offers) == choice


@pytest.mark.parametrize("offers", ["", ",", "a b", 'a, "b"', "a;b", "bearer.s3cr3t/x", "é"])
def test_a_header_that_is_no_list_of_tokens_is_a_bad_handshake_and_is_not_repeated(offers):
    with pytest.raises(BadMessage) as refused:
        choose(offers)
    assert "s3cr3t" not in str(refused.value)
    assert refused.value.__cause__ is None


@given(st.text())
def test_any_subprotocols_are_answered_or_refused(offers):
    try:
        choice = choose(offers)
    except BadMessage:
        return
    assert choice.subprotocol in (JSON, MSGPACK, None)
    assert choice.binary == (choice.subprotocol == MSGPACK)
