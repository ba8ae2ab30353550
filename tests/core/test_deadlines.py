"""What is due, by the second: against a list of all that was added, with clocks that leap."""

import random

import pytest

from realtime.core.deadlines import Deadlines


def test_nothing_is_due_early_and_nothing_later_than_a_second():
    due: Deadlines[str] = Deadlines()
    due.take(100.0)
    due.add(105.4, "a")
    assert due.take(105.9) == []
    assert due.take(106.0) == ["a"]
    assert due.take(107.0) == []
    assert len(due) == 0


def test_what_is_overdue_comes_with_the_next_look():
    due: Deadlines[str] = Deadlines()
    due.take(100.0)
    due.add(7.0, "late")
    assert due.take(101.0) == ["late"]


def test_what_is_forgotten_is_not_due_wherever_it_was():
    due: Deadlines[str] = Deadlines()
    due.take(100.0)
    for at in (7.0, 100.5, 150.0):
        due.add(at, "x")
        due.discard(at, "x")
    assert len(due) == 0
    due.discard(300.0, "never there")
    assert due.take(1000.0) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_finds_what_a_list_finds(seed: int):
    choose = random.Random(seed)
    due: Deadlines[int] = Deadlines()
    waiting: dict[int, float] = {}
    now, taken = 1000.0, 1000
    due.take(now)
    for item in range(400):
        at = now + choose.choice([-50, 0, 1, 10, 1000, 1e8]) * choose.random()
        due.add(at, item)
        waiting[item] = at
        if choose.random() < 0.3:
            gone = choose.choice(list(waiting))
            due.discard(waiting.pop(gone), gone)
        now += choose.choice([0.1, 0.1, 0.1, 1, 30, 1e6, -20])
        found = due.take(now)
        if int(now) <= taken:
            assert found == []
            continue
        taken = int(now)
        expected = [each for each, when in waiting.items() if int(when) < taken]
        assert sorted(found) == sorted(expected)
        for each in found:
            del waiting[each]
