"""The session as a state machine: what may follow what, and what becomes of messages meanwhile."""

import itertools

import pytest

from realtime.protocol.session import State

WAYS = {
    (State.NEW, State.AUTHENTICATING),  # a token came that takes time to judge
    (State.NEW, State.READY),  # one that does not, in the handshake or in the first frame
    (State.AUTHENTICATING, State.READY),
    (State.AUTHENTICATING, State.NEW),  # whoever judges tokens gives no answer: it may try again
    (State.READY, State.JOINING),
    (State.JOINING, State.READY),
    (State.CLOSING, State.CLOSED),
}
ALIVE = (State.NEW, State.AUTHENTICATING, State.READY, State.JOINING)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_a_session_goes_the_ways_there_are_and_no_other(before, after):
    if (before, after) in WAYS or (before in ALIVE and after in (State.CLOSING, State.CLOSED)):
        assert before.to(after) is after
    else:
        with pytest.raises(AssertionError, match=f"from {before.value} to {after.value}"):
            before.to(after)


def test_messages_wait_while_something_before_them_takes_its_time():
    assert {state for state in State if state.waits} == {State.AUTHENTICATING, State.JOINING}


def test_messages_come_too_late_once_the_end_has_begun():
    assert {state for state in State if state.over} == {State.CLOSING, State.CLOSED}
