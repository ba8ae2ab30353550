"""Patterns of names: `*` and what it may not do."""

import random
import re

import pytest

from realtime.core.patterns import matcher


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "", True),
        ("chat:*", "chat:lobby", True),
        ("chat:*", "chats:lobby", False),
        ("*:lobby", "chat:lobby", True),
        ("chat:lobby", "chat:lobby", True),
        ("chat:lobby", "chat:lobby ", False),
        ("chat:[a-z]*", "chat:abc", False),  # no classes, no ?: all but * is meant literally
        ("chat:?", "chat:a", False),
        ("a*a", "a", False),
        ("*a*b*", "xbxaxb", True),
        ("user:*", "user:a\nb", True),
    ],
)
def test_a_star_is_all_there_is(pattern: str, name: str, matches: bool):
    assert matcher([pattern])(name) is matches


def test_it_says_what_a_plain_expression_says():
    rng = random.Random(5)
    for _ in range(20_000):
        patterns = ["".join(rng.choices("ab*:", k=rng.randint(1, 6))) for _ in range(rng.randint(1, 3))]
        name = "".join(rng.choices("ab:", k=rng.randint(0, 7)))
        wanted = any(re.fullmatch(re.escape(each).replace(r"\*", ".*"), name) for each in patterns)
        assert matcher(patterns)(name) is wanted, (patterns, name)


def test_no_name_makes_it_go_back_and_try_again():
    # 40 stars and a name that nearly fits: an expression that tries every way would not end.
    assert not matcher(["*a" * 40 + "b"])("a" * 199)
