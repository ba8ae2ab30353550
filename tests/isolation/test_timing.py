"""How long an answer takes tells nothing of another tenant, and the test would see it if it did."""

import random
import time

import pytest

from tests.isolation.timing import CHANCE_MAX, chance, measure, questions, world

pytestmark = pytest.mark.alone

SAMPLES = 2000
# A busy machine harms one look, not three in the same direction.
LOOKS = 3


def least(question, member):
    return min(abs(measure(question, member, SAMPLES, random.Random(n)).chance - 0.5) for n in range(LOOKS))


def test_no_question_takes_longer_where_the_room_exists_in_another_tenant():
    _, member = world()
    found = {name: least(question, member) for name, question in questions(member).items()}
    assert {name: value for name, value in found.items() if value > CHANCE_MAX} == {}


def test_a_look_into_all_tenants_would_be_seen():
    made, member = world()
    question = questions(member)["presence"]

    def telling(room):
        question(room)
        if any(room in tenant.rooms for tenant in made.core._tenants._by_id.values()):
            until = time.perf_counter_ns() + 2000
            while time.perf_counter_ns() < until:
                pass

    assert least(telling, member) > CHANCE_MAX


@pytest.mark.parametrize(
    ("ones", "others", "expected"), [([1, 2], [1, 2], 0.5), ([3], [1, 2], 1.0), ([1, 1, 4], [2, 3], 1 / 3)]
)
def test_the_chance_is_counted_right(ones, others, expected):
    assert chance(ones, others) == pytest.approx(expected)
