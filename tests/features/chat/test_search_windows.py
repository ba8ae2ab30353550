"""How PostgreSQL is asked: nothing is passed over whatever is estimated, and what costs least is chosen."""

import random

import pytest

from realtime.features.chat.search.narrow import Lexeme, Match, Token, lexemes
from realtime.features.chat.search.shares import Shares
from realtime.features.chat.search.windows import SLICE_BITS, SLICES_MAX, Layout, Windows

SHARES = Shares({"the": 0.3, "this": 0.1, "install": 0.07, "better": 0.006, "#r42": 0.024})
SPAN = 1 << 31
COUNT = 1_000_000
NEWEST = 3_357_492_115_455_135_532
LAST = (1 << 63) - 1


def layout(shares=SHARES):
    """A million messages, about as far apart as in the benchmark."""
    made = Layout(None, None)
    made.shares, made.newest, made.oldest = shares, NEWEST, NEWEST - COUNT * SPAN
    made.messages, made.span_of_one = COUNT, float(SPAN)
    return made


def match(*words, room=None, prefix=False):
    wanted = tuple((Token("words", (word,), prefix),) for word in words)
    return Match(wanted).within([room]) if room else Match(wanted)


@pytest.mark.parametrize(
    ("wanted", "how", "sliced"),
    [
        (match("the"), "walk", False),
        (match("th", prefix=True), "walk", False),
        (match("better"), "index", True),
        (match("zebra"), "index", True),
        (match("zebra", room=42), "index", False),
        (match("better", room=42), "index", False),
        (match("the", room=42), "room", False),
        (match("th", room=42, prefix=True), "room", False),
    ],
)
def test_it_is_asked_in_the_way_that_costs_least(wanted, how, sliced):
    windows = Windows(layout(), wanted, 0, LAST)
    assert (
        windows.how,
        "#0" in windows.question or "#1" in windows.question or "#2" in windows.question,
    ) == (
        how,
        sliced,
    ), windows.question


def test_windows_follow_each_other_down_to_the_first_message_that_is_asked_for():
    seed = random.randrange(10**9)
    rng = random.Random(seed)
    for number in range(300):
        wanted = match(
            rng.choice(["the", "th", "better", "zebra"]),
            room=rng.choice([None, 42]),
            prefix=rng.random() < 0.3,
        )
        floor = rng.choice([0, 0, NEWEST - rng.randrange(2 * COUNT) * SPAN])
        high = rng.choice([LAST, NEWEST - rng.randrange(COUNT) * SPAN])
        windows = Windows(layout(rng.choice([SHARES, Shares({})])), wanted, floor, high)
        asked, opened = 0, (high, windows.low)
        while high > floor:
            if opened[1] != windows.low:
                opened = (high, windows.low)
            assert floor <= windows.low < high or high <= floor, (seed, number)
            if windows.how == "index" and "#" in windows.question.replace("#r42", ""):
                # All of the window is in its slices: none before the first of them.
                names = [part for part in windows.question.replace("'", " ").split() if part[:2] != "#r"]
                slices = [part for part in names if part[0] == "#"]
                assert len(slices) <= SLICES_MAX, (seed, number)
                bits = SLICE_BITS[int(slices[0][1])]
                numbers = [int(part[2:]) for part in slices]
                top = min(opened[0] - 1, NEWEST)
                assert numbers == list(range(windows.low >> bits, (top >> bits) + 1)), (seed, number)
            # As where a page was full, and the window goes on below its last row; or where it is done.
            high = rng.randrange(windows.low + 1, high) if rng.random() < 0.2 else windows.low
            windows.took(rng.choice([0, 0, 3, 40, 1000]), high)
            asked += 1
        assert asked < 400, (seed, number)


def test_of_a_phrase_the_pairs_are_asked_for():
    assert lexemes(Token("words", ("good", "morning", "all"))) == [Lexeme("good morn"), Lexeme("morn all")]
    assert lexemes(Token("words", ("apt", "ge"), True)) == [Lexeme("apt ge", True)]
    assert lexemes(Token("words", ("apt", "getting"), True)) == [Lexeme("apt gett")]
    assert lexemes(Token("words", ("apt",), True)) == [Lexeme("apt", True)]


def test_shares_of_what_is_together_are_rather_too_high_than_too_low():
    assert SHARES.of(match("the")) == 0.3
    assert SHARES.of(match("the", "this")) == pytest.approx(0.1 * 0.3**0.5)
    assert SHARES.of(match("the", room=42)) == pytest.approx(0.3 * 0.024)
    assert SHARES.of(match("th", prefix=True)) == pytest.approx(SHARES.unknown + 0.6)
    assert SHARES.of(match("zebra")) == SHARES.unknown < 0.006
