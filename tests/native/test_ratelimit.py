"""GCRA against a token bucket drawn in full, by hand-computed cases, and the bounds of the table by key."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.native.ratelimit import Allowance, KeyedLimiter, Tariff
from tests.oracles.ratelimit import Bucket, Purse

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


# -- what users and tenants share ---------------------------------------------------------------------------

USER = ("messages of a user", "bytes of a user", "deliveries of a user")
TENANT = ("messages of a tenant", "bytes of a tenant", "deliveries of a tenant")
# Powers of two: their nanoseconds are whole numbers, so that the twin and it agree to the last one.
RATE = st.sampled_from([0, 1, 2, 8, 64, 512])
AMOUNT = st.integers(0, 40)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, SECOND), st.tuples(AMOUNT, AMOUNT, AMOUNT)), max_size=60
)


def allowances(clock, user_rates, tenant_rates, burst_s):
    """Two users of one tenant, and the tenant's own."""
    tenant = Allowance(Tariff(TENANT, tenant_rates, burst_s, clock=clock))
    users = [Allowance(Tariff(USER, user_rates, burst_s, clock=clock)) for _ in range(2)]
    for user in users:
        user.above = tenant
    return [*users, tenant]


@given(st.tuples(RATE, RATE, RATE), st.tuples(RATE, RATE, RATE), st.sampled_from([0.5, 1, 4]), STEPS)
def test_an_allowance_is_buckets_that_are_overdrawn_only_from_full(user_rates, tenant_rates, burst_s, steps):
    clock = FakeClock()
    ours = allowances(clock, user_rates, tenant_rates, burst_s)
    theirs = Purse(tenant_rates, burst_s, clock.now_ns)
    twins = [*(Purse(user_rates, burst_s, clock.now_ns, theirs) for _ in range(2)), theirs]
    for who, later_ns, amounts in steps:
        clock.now_ns += later_ns
        over = ours[who].take(*amounts)
        wait_ns = twins[who].take(amounts, clock.now_ns)
        assert (0 if over is None else round(over[2] * SECOND)) == wait_ns


@given(st.tuples(RATE, RATE, RATE), st.tuples(RATE, RATE, RATE), st.sampled_from([0.5, 1, 4]), STEPS)
def test_over_any_window_no_more_passes_than_the_rate_and_a_burst(user_rates, tenant_rates, burst_s, steps):
    """Or, instead of a burst, the largest thing that passed, where that is more."""
    clock = FakeClock()
    ours = allowances(clock, user_rates, tenant_rates, burst_s)
    passed = []
    for who, later_ns, amounts in steps:
        clock.now_ns += later_ns
        if ours[who].take(*amounts) is None:
            passed.append((who, clock.now_ns, amounts))
    users = [([each for each in passed if each[0] == who], user_rates) for who in range(2)]
    for those, rates in [*users, (passed, tenant_rates)]:
        for kind, rate in enumerate(rates):
            if rate:
                assert_bounded([(at_ns, amounts[kind]) for _, at_ns, amounts in those], rate, burst_s)


def assert_bounded(passed, rate, burst_s):
    most = max([rate * burst_s, *(amount for _, amount in passed)])
    for first, (begin_ns, _) in enumerate(passed):
        total = 0
        for end_ns, amount in passed[first:]:
            total += amount
            assert total <= rate * (end_ns - begin_ns) / SECOND + most


def test_an_allowance_says_which_limit_is_in_the_way_and_takes_nothing(clock):
    user, _, tenant = allowances(clock, (10, 0, 100), (1000, 0, 50), 1)
    assert user.take(1, 1e9, 50) is None
    assert user.take(1, 0, 20) == (TENANT[2], 50, 0.4), "the tenant has spent its deliveries"
    assert user.take(10, 0, 0) == (USER[0], 10, 0.1)
    assert [user.take(1, 0, 0) for _ in range(9)] == [None] * 9, "what was refused has cost nothing"
    assert tenant.take(0, 0, 1)[2] == 0.02
    clock.now_ns += SECOND
    assert user.take(10, 0, 50) is None


def test_what_costs_more_than_the_burst_passes_from_full_and_is_paid_off(clock):
    user = Allowance(Tariff(USER, (0, 0, 100), 1, clock=clock))
    assert user.take(0, 0, 500) is None
    assert user.take(0, 0, 1) == (USER[2], 100, 4.01)
    assert user.take(0, 0, 500) == (USER[2], 100, 5)
    clock.now_ns += 5 * SECOND
    assert user.full
    assert user.take(0, 0, 500) is None
    assert not user.full


@pytest.mark.parametrize("amounts", [(-1, 0, 0), (0, math.nan, 0), (0, 0, 1e13)])
def test_an_amount_that_is_none_is_a_mistake_of_the_caller(clock, amounts):
    with pytest.raises(ValueError, match="from 0 to 1e"):
        Allowance(Tariff(USER, (1, 1, 1), 1, clock=clock)).take(*amounts)


@pytest.mark.parametrize(
    ("names", "rates", "burst_s", "why"),
    [
        (USER[:2], (1, 1), 1, "3 limits and rates, not 2 and 2"),
        (USER, (1, -1, 1), 1, "bytes of a user must be 0 or from 0.001 to 1e"),
        (USER, (1, 1, 1e10), 1, "deliveries of a user must be"),
        (USER, (1, 1, 1), 0, "burst_s must be above 0"),
    ],
)
def test_a_tariff_that_cannot_be_kept_is_refused(names, rates, burst_s, why):
    with pytest.raises(ValueError, match=why):
        Tariff(names, rates, burst_s)


def test_the_largest_debt_does_not_wrap(clock):
    user = Allowance(Tariff(USER, (1e-3, 0, 0), 366 * 86_400, clock=clock))
    assert user.take(1e12, 0, 0) is None
    assert user.take(1, 0, 0)[2] > 1e8


def test_a_tariff_that_changes_changes_what_is_allowed_and_not_what_is_owed(clock):
    tariff = Tariff(USER, (10, 0, 0), 1, clock=clock)
    held = Allowance(tariff)
    assert held.take(10, 0, 0) is None
    tariff.change((100, 0, 0), 1)
    assert held.take(1, 0, 0) == (USER[0], 100, pytest.approx(0.01))
    clock.now_ns += SECOND
    assert held.take(100, 0, 0) is None
    tariff.change((0, 0, 0), 1)
    assert held.take(1e6, 0, 0) is None


def test_a_share_of_a_tariff_allows_a_part_and_names_the_whole(clock):
    tariff = Tariff(USER, (100, 0, 0), 1, share=0.25, clock=clock)
    held = Allowance(tariff)
    assert held.take(25, 0, 0) is None
    assert held.take(1, 0, 0) == (USER[0], 100, pytest.approx(0.04))
    with pytest.raises(ValueError, match="share must be above 0"):
        tariff.change((1, 0, 0), 1, 0.0)
    assert held.take(1, 0, 0)[1] == 100, "what was wrong changed nothing"


def test_an_allowance_counts_what_was_taken_and_not_what_was_refused(clock):
    user, _, tenant = allowances(clock, (10, 0, 0), (0, 0, 0), 1)
    user.take(3, 100, 7)
    user.take(100, 100, 7)
    assert user.total == tenant.total == (3, 100, 7)
