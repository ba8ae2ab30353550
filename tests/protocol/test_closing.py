"""Close codes: which may be sent, which ask to come back, and a reason that always fits."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.protocol.closing import (
    REASON_BYTES_MAX,
    CloseCode,
    close_reason,
    may_be_sent,
    may_reconnect,
)

OURS = {
    "INTERNAL": 4000,
    "SLOW_CONSUMER": 4001,
    "NO_HEARTBEAT": 4002,
    "TOKEN_EXPIRED": 4003,
    "STATE_LOST": 4004,
    "RATE_LIMITED": 4005,
    "REBALANCE": 4006,
    "BAD_TOKEN": 4500,
    "BAD_FRAME": 4501,
    "NOT_AUTHENTICATED_IN_TIME": 4502,
    "DISCONNECTED_BY_SERVER": 4503,
    "CONNECTION_LIMIT": 4504,
    "FORBIDDEN": 4507,
    "REPLACED": 4508,
    "TOO_MANY_ERRORS": 4509,
}


def test_the_protocols_codes_have_their_numbers():
    assert {code.name: code.value for code in CloseCode if code >= 4000} == OURS
    assert (CloseCode.PROTOCOL_ERROR, CloseCode.UNSUPPORTED_DATA) == (1002, 1003)
    assert (CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG) == (1007, 1009)


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999]
)
def test_a_close_frame_may_carry(code):
    assert may_be_sent(code)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535])
def test_a_close_frame_may_not_carry(code):
    assert not may_be_sent(code)


def test_4000_to_4499_ask_to_come_back_and_4500_to_4999_not_to():
    assert all(may_reconnect(code) for code in range(4000, 4500))
    assert not any(may_reconnect(code) for code in range(4500, 5000))


def test_a_client_comes_back_after_a_restart_and_a_lost_network_only():
    standard = [code for code in range(1000, 1016) if may_reconnect(code)]
    assert standard == [1001, 1005, 1006, 1011, 1012, 1013, 1014]


def test_a_reason_has_the_protocols_form():
    assert close_reason("drain", min_ms=500, max_ms=15000) == b'{"r":"drain","min":500,"max":15000}'
    assert close_reason("slow") == b'{"r":"slow"}'


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.none() | st.integers(0, 2**31 - 1))
def test_a_reason_always_fits_and_stays_whole_json(text, window_ms):
    encoded = close_reason(text, min_ms=window_ms, max_ms=window_ms)
    assert len(encoded) <= REASON_BYTES_MAX
    reason = json.loads(encoded)
    assert text.startswith(reason.pop("r"))
    assert reason == ({} if window_ms is None else {"min": window_ms, "max": window_ms})


@pytest.mark.parametrize("text", ["x" * 1000, '"' * 1000, "\0" * 1000, "😀" * 1000, "x" * 114 + "é"])
def test_a_long_reason_is_cut_no_more_than_needed(text):
    encoded = close_reason(text)
    kept = json.loads(encoded)["r"]
    longer = json.dumps({"r": text[: len(kept) + 1]}, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(encoded) <= REASON_BYTES_MAX < len(longer)


@pytest.mark.parametrize("window", [(None, 5), (5, None), (6, 5), (-1, 5), (0, 2**31)])
def test_half_a_window_or_an_impossible_one_is_our_own_mistake(window):
    with pytest.raises(ValueError, match="window"):
        close_reason("drain", min_ms=window[0], max_ms=window[1])
