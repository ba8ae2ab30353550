"""Errors: the names that clients match on, each with one number and one answer to "retry?"."""

import pytest

from realtime import errors
from realtime.errors import CloseCode, RateLimited, RealtimeError
from realtime.protocol.closing import may_be_sent, may_reconnect

CLASSES = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, RealtimeError) and each is not RealtimeError
]
# The wire protocol's page promises these.
PROMISED = {
    "bad_message": False,
    "unknown_type": False,
    "unauthorized": False,
    "forbidden": False,
    "not_joined": False,
    "room_limit": False,
    "rate_limited": True,
    "quota_exceeded": False,
    "too_large": False,
    "conflict": False,
    "unavailable": True,
    "internal": True,
}


def test_every_promised_name_is_there_with_its_answer_to_retry():
    known = {each.code: each.retryable for each in CLASSES}
    assert known.items() >= PROMISED.items()


def test_a_code_has_one_number_and_one_answer_to_retry():
    meanings = {}
    for each in CLASSES:
        meanings.setdefault(each.code, set()).add((each.number, each.retryable))
    assert {code: seen for code, seen in meanings.items() if len(seen) > 1} == {}


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_an_error_can_end_a_connection_and_says_why_by_itself(error):
    assert may_be_sent(error.close_code)
    assert error().message == error.__doc__
    assert error("because").message == "because"


@pytest.mark.parametrize(
    "error", [each for each in CLASSES if each.retryable], ids=lambda each: each.__name__
)
def test_what_is_worth_a_retry_is_worth_a_reconnect(error):
    assert may_reconnect(error.close_code)


def test_an_error_may_say_when_to_retry():
    assert RateLimited(retry_after_s=1.5).retry_after_s == 1.5
    assert RateLimited().retry_after_s is None


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000], ids=lambda code: code.name)
def test_our_own_close_codes_are_in_the_range_of_what_clients_do(code):
    assert may_reconnect(code) is (code < 4500)
