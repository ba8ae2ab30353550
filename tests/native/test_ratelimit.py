"""GCRA against a token bucket drawn in full, by hand-computed cases, and the bounds of the table by key."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native.ratelimit import KeyedLimiter
from tests.oracles.ratelimit import Bucket

SECOND = 1_000_000_000


class FakeClock:
    """Monotonic nanoseconds that only move when told to."""

    def __init__(self, now_ns: int = 1000 * SECOND) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock():
    return FakeClock()


def test_burst_passes_at_once_and_then_one_unit_an_interval(clock):
    limiter = KeyedLimiter(10, 3, 100, clock=clock)  # a unit every 100 ms
    assert [limiter.take("a") for _ in range(5)] == [0, 0, 0, 0.1, 0.1]
    clock.now_ns += SECOND // 10 - 1
    assert limiter.take("a") == pytest.approx(1e-9)
    clock.now_ns += 1
    assert [limiter.take("a"), limiter.take("a")] == [0, 0.1]


def test_waiting_as_long_as_told_is_exactly_enough(clock):
    limiter = KeyedLimiter(3, 2, 100, clock=clock)
    limiter.take("a", 1.5)
    wait_s = limiter.take("a")
    clock.now_ns += round(wait_s * SECOND) - 1
    assert limiter.take("a") > 0
    clock.now_ns += 1
    assert limiter.take("a") == 0


def test_a_bucket_never_holds_more_than_its_burst(clock):
    limiter = KeyedLimiter(1, 2, 100, clock=clock)
    limiter.take("a")
    clock.now_ns += 3600 * SECOND
    assert [limiter.take("a") for _ in range(3)] == [0, 0, 1]


def test_costs_are_units_and_what_is_over_the_burst_never_passes(clock):
    limiter = KeyedLimiter(1, 5, 100, clock=clock)
    assert limiter.take("a", 5.001) == math.inf
    assert limiter.take("a", 5) == 0
    assert limiter.take("a", 0) == 0
    assert limiter.take("a", 2.5) == 2.5


def test_a_refused_take_costs_nothing(clock):
    limiter = KeyedLimiter(1, 1, 100, clock=clock)
    limiter.take("a")
    assert [limiter.take("a") for _ in range(1000)] == [1] * 1000
    clock.now_ns += SECOND
    assert limiter.take("a") == 0


def test_a_clock_at_zero_and_one_that_stands_still_still_limit():
    limiter = KeyedLimiter(1, 1, 100, clock=FakeClock(0))
    assert [limiter.take("a"), limiter.take("a")] == [0, 1]


def test_a_clock_that_steps_back_makes_nobody_wait_longer_than_the_step(clock):
    limiter = KeyedLimiter(1, 1, 100, clock=clock)
    limiter.take("a")
    clock.now_ns -= 2 * SECOND
    assert limiter.take("a") == 3


@settings(max_examples=300, deadline=None)
@given(
    burst_ns=st.integers(1, 2000),
    steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1500), st.integers(0, 800)), max_size=60),
)
def test_gcra_answers_as_a_token_bucket_in_nanoseconds(burst_ns, steps):
    clock = FakeClock()
    limiter = KeyedLimiter(1e9, burst_ns, 10, clock=clock)  # a unit is a nanosecond
    twins = {key: Bucket(burst_ns, clock.now_ns) for key in "ab"}
    for key, cost_ns, pause_ns in steps:
        clock.now_ns += pause_ns
        expected = math.inf if cost_ns > burst_ns else twins[key].take(cost_ns, clock.now_ns) / 1e9
        assert limiter.take(key, cost_ns) == expected


@settings(max_examples=100, deadline=None)
@given(
    rate=st.floats(0.01, 1e6),
    burst=st.floats(1, 1000),
    costs=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    pause_ns=st.integers(0, 10**7),
)
def test_no_more_passes_than_burst_and_rate_allow(rate, burst, costs, pause_ns):
    clock = FakeClock()
    limiter = KeyedLimiter(rate, burst, 10, clock=clock)
    passed = sum(0 if limiter.take("a", cost) else cost for cost in costs if not _advance(clock, pause_ns))
    allowed = burst + rate * len(costs) * pause_ns / 1e9
    assert passed <= allowed + len(costs) * rate / 1e9  # each cost rounds to a nanosecond


def _advance(clock: FakeClock, pause_ns: int) -> None:
    clock.now_ns += pause_ns


# --- many keys


def test_keys_do_not_share_a_bucket(clock):
    limiter = KeyedLimiter(1, 1, 100, clock=clock)
    keys = ["a", "b", b"a", "", "x" * 65, "x" * 66, b"x" * 65, "\ud800" * 65]
    assert [limiter.take(key) for key in keys] == [0] * len(keys)
    assert [limiter.take(key) for key in keys] == [1] * len(keys)


def test_the_table_never_holds_more_than_max_keys(clock):
    limiter = KeyedLimiter(1, 2, 50, clock=clock)
    for i in range(1000):
        assert limiter.take(f"key {i}") == 0
        assert len(limiter) <= 50


def test_a_full_table_forgets_the_key_unused_for_longest(clock):
    limiter = KeyedLimiter(1, 1, 3, clock=clock)
    for key in "abc":
        limiter.take(key)
    assert limiter.take("a") == 1  # refused, but used
    limiter.take("d")
    assert [limiter.take(key) for key in "cad"] == [1, 1, 1]
    assert limiter.take("b") == 0


def test_buckets_full_again_go_when_new_keys_come(clock):
    limiter = KeyedLimiter(1, 1, 1000, clock=clock)
    for i in range(500):
        limiter.take(i.to_bytes(2, "big"))
    assert len(limiter) == 500
    clock.now_ns += SECOND
    for i in range(500):
        limiter.take(str(i))
    assert len(limiter) == 500
    clock.now_ns += SECOND
    limiter.take("one")
    assert len(limiter) == 499


def test_busy_keys_stay_while_there_is_room(clock):
    limiter = KeyedLimiter(1, 1, 3, clock=clock)
    limiter.take("busy")
    limiter.take("other")
    limiter.take("new")
    assert limiter.take("busy") == 1


@pytest.mark.parametrize(
    ("rate", "burst", "max_keys"),
    [
        (0, 1, 1),
        (-1, 1, 1),
        (math.nan, 1, 1),
        (math.inf, 1, 1),
        (1.1e9, 1, 1),
        (1, 0, 1),
        (1, -1, 1),
        (1, math.nan, 1),
        (1, math.inf, 1),
        (1e-9, 2, 1),
        (1, 1, 0),
        (1, 1, -5),
    ],
)
def test_a_limit_that_is_none_is_refused(rate, burst, max_keys):
    with pytest.raises(ValueError, match="must be"):
        KeyedLimiter(rate, burst, max_keys)


@pytest.mark.parametrize("cost", [-1, math.nan])
def test_a_cost_that_is_none_is_refused(clock, cost):
    with pytest.raises(ValueError, match="cost"):
        KeyedLimiter(1, 1, 1, clock=clock).take("a", cost)


def test_the_default_clock_is_monotonic_time():
    limiter = KeyedLimiter(1e-6, 1, 10)
    assert limiter.take("a") == 0
    assert limiter.take("a") == pytest.approx(1e6, rel=1e-3)
