"""The penalty box by itself: points that decay, times that double and are forgiven, a bounded table."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.edge.penalties import SWEEP_EVERY_S, Boxing, PenaltyBox, PenaltyRules
from tests.oracles.hub import FakeClock

RULES = PenaltyRules(
    threshold=100.0, half_life_s=60.0, base_s=10.0, max_s=3600.0, forgiveness_s=600.0, addresses_max=100
)
MALLORY, EVE = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def box(clock) -> PenaltyBox:
    return PenaltyBox(RULES, clock)


def earn(box: PenaltyBox, key: bytes) -> Boxing:
    """Offend until that earns a boxing."""
    for _ in range(100):
        if (boxing := box.offend(key, 10.0)) is not None:
            return boxing
    raise AssertionError("100 offences of 10 points earned nothing")


def test_below_the_threshold_nobody_is_kept_out(box):
    assert [box.offend(MALLORY, 10.0) for _ in range(9)] == [None] * 9
    assert box.wait_s(MALLORY) == 0.0
    assert box.points(MALLORY) == pytest.approx(90.0)


def test_at_the_threshold_the_address_is_kept_out_and_nobody_else(box):
    boxing = earn(box, MALLORY)
    assert boxing == Boxing(MALLORY, 10.0, 1)
    assert box.wait_s(MALLORY) == pytest.approx(10.0)
    assert box.wait_s(EVE) == 0.0


def test_points_halve_with_each_half_life(box, clock):
    box.offend(MALLORY, 80.0)
    clock.advance(60)
    assert box.points(MALLORY) == pytest.approx(40.0)
    clock.advance(120)
    assert box.points(MALLORY) == pytest.approx(10.0)


def test_a_little_now_and_then_is_never_too_much(box, clock):
    for _ in range(1000):
        assert box.offend(MALLORY, 10.0) is None
        clock.advance(10)  # 60 points a minute, of which half is forgotten in that


def test_each_time_is_twice_as_long_up_to_the_longest(box, clock):
    seconds = []
    for _ in range(12):
        boxing = earn(box, MALLORY)
        seconds.append(boxing.seconds)
        clock.advance(boxing.seconds)
        assert box.wait_s(MALLORY) == 0.0
    assert seconds == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]


def test_a_time_is_forgotten_for_each_while_out_of_the_box(box, clock):
    for _ in range(3):
        clock.advance(earn(box, MALLORY).seconds)
    clock.advance(600)
    assert earn(box, MALLORY) == Boxing(MALLORY, 40.0, 3)  # the third again
    clock.advance(40 + 3 * 600)
    assert earn(box, MALLORY) == Boxing(MALLORY, 10.0, 1)


def test_what_comes_while_it_is_kept_out_adds_nothing(box, clock):
    earn(box, MALLORY)
    assert [box.offend(MALLORY, 100.0) for _ in range(50)] == [None] * 50
    clock.advance(10.0)
    assert box.wait_s(MALLORY) == 0.0
    assert box.points(MALLORY) == 0.0


def test_who_has_done_nothing_for_long_is_forgotten_by_itself(box, clock):
    for number in range(50):
        box.offend(number.to_bytes(4), 64.0)
    clock.advance(60 * 6 - 1)  # 64 points are one after six half-lives
    box.tick()
    assert len(box) == 50
    clock.advance(2)
    box.tick()
    assert len(box) == 0


def test_a_full_table_forgets_the_least_guilty_and_keeps_the_boxed(box):
    earn(box, MALLORY)
    for number in range(1, 100):
        box.offend(number.to_bytes(4), float(number % 90 + 5))
    before = {number: box.points(number.to_bytes(4)) for number in range(1, 100)}
    least = min(before, key=lambda number: before[number])
    box.offend(EVE, 50.0)
    assert len(box) == 100
    assert box.points(least.to_bytes(4)) == 0.0
    assert box.wait_s(MALLORY) > 0.0
    assert box.points(EVE) == pytest.approx(50.0)


def test_rotating_through_addresses_neither_grows_the_table_nor_frees_the_guilty(box, clock):
    earn(box, MALLORY)
    box.offend(EVE, 90.0)
    for number in range(100_000):
        box.offend(b"\x0a" + number.to_bytes(3), 2.0)
        if number % 1000 == 0:
            clock.advance(0.01)
            box.tick()
    assert len(box) == 100
    assert len(box._queue) <= 100
    assert box.wait_s(MALLORY) > 0.0
    assert earn(box, EVE).times == 1, "one more offence was enough: it was not forgotten"


def test_with_all_of_a_full_table_boxed_the_one_whose_time_ends_first_goes(box, clock):
    for number in range(100):
        earn(box, number.to_bytes(4))
        clock.advance(0.01)
    assert len(box) == 100
    earn(box, MALLORY)
    assert len(box) == 100
    assert box.wait_s((0).to_bytes(4)) == 0.0
    assert box.wait_s((1).to_bytes(4)) > 0.0
    assert box.wait_s(MALLORY) > 0.0


def test_what_was_earned_elsewhere_holds_and_counts_as_a_time(box, clock):
    assert box.hold(Boxing(MALLORY, 40.0, 3))
    assert box.wait_s(MALLORY) == pytest.approx(40.0)
    assert not box.hold(Boxing(MALLORY, 20.0, 2)), "it is kept out for longer already"
    clock.advance(40)
    assert earn(box, MALLORY) == Boxing(MALLORY, 80.0, 4)


def test_nobody_elsewhere_can_have_an_address_kept_out_for_ever(box):
    box.hold(Boxing(MALLORY, 1e12, 10**9))
    assert box.wait_s(MALLORY) == pytest.approx(RULES.max_s)


def test_a_pardon_lets_out_and_forgets(box, clock):
    clock.advance(earn(box, MALLORY).seconds)
    earn(box, MALLORY)
    assert box.free(MALLORY)
    assert not box.free(MALLORY)
    assert box.wait_s(MALLORY) == 0.0
    assert earn(box, MALLORY) == Boxing(MALLORY, 10.0, 1)


def test_the_list_has_who_is_in_the_box_now(box, clock):
    earn(box, MALLORY)
    clock.advance(6)
    earn(box, EVE)
    box.offend(b"\x01\x02\x03\x04", 10.0)
    assert [(each.key, round(each.seconds)) for each in box.boxings_now()] == [(MALLORY, 4), (EVE, 10)]
    clock.advance(5)
    assert [each.key for each in box.boxings_now()] == [EVE]
    box.tick()
    clock.advance(SWEEP_EVERY_S)
    box.tick()
    assert box.boxed == 1


class Naive:
    """The rules once more, without a bound and without logarithms."""

    def __init__(self) -> None:
        self.offences: list[tuple[float, float]] = []
        self.times, self.until = 0, 0.0

    def points(self, now: float) -> float:
        total = sum(each * 0.5 ** ((now - at) / 60.0) for at, each in self.offences)
        if total < 1.0 and now >= self.until + self.times * 600.0:  # forgotten
            self.offences, self.times = [], 0
            return 0.0
        return total

    def offend(self, now: float, points: float) -> float | None:
        if now < self.until:
            return None
        total = self.points(now) + points
        assume(abs(total - 100.0) > 1e-6)  # where roundings decide
        self.offences.append((now, points))
        if total < 100.0:
            return None
        forgiven = int((now - self.until) // 600.0)
        self.times = max(0, self.times - forgiven) + 1
        seconds = min(3600.0, 10.0 * 2 ** (self.times - 1))
        self.until, self.offences = now + seconds, []
        return seconds


STEPS = st.lists(
    st.tuples(
        st.floats(min_value=0.0, max_value=2000.0),
        st.sampled_from([b"aaaa", b"bbbb", b"cccc"]),
        st.floats(min_value=0.5, max_value=120.0),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_does_what_the_rules_say(steps):
    clock = FakeClock()
    box = PenaltyBox(RULES, clock)
    naive = {key: Naive() for key in (b"aaaa", b"bbbb", b"cccc")}
    for wait_s, key, points in steps:
        clock.advance(wait_s)
        box.tick()
        for each in naive.values():
            each.points(clock.now)
        expected = naive[key].offend(clock.now, points)
        boxing = box.offend(key, points)
        assert (None if boxing is None else boxing.seconds) == expected
        assert box.wait_s(key) == pytest.approx(max(0.0, naive[key].until - clock.now), abs=1e-6)
