"""Words are found whatever way they are written, and nothing else is."""

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from realtime.errors import SettingsError
from realtime.features.chat.order.filters import Filters
from realtime.features.chat.order.folding import Reading, fold
from realtime.features.chat.order.said import capitals_percent, links_in, mentions_in, within
from realtime.features.chat.order.wordlist import WordList, masked, words_in
from realtime.policy.loading import read_policy

SAMPLE = Path(__file__).with_name("data") / "words.txt"
WORDS = WordList(words_in(SAMPLE.read_text()), allow=["badass"])


def mask(text: str, words: WordList = WORDS) -> str:
    return masked(text, words.find(Reading(text)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("oh shit, no", "oh ****, no"),
        ("SHIT", "****"),
        ("shiiiiiit!", "*********!"),
        ("s h i t happens", "******* happens"),
        ("s.h.i.t.", "*******."),
        ("sh-it", "*****"),
        ("$h1t", "****"),
        ("sh!t", "****"),
        ("a55", "***"),
        ("\uff53\uff48\uff49\uff54", "****"),  # fullwidth
        ("s\u200bh\u200bi\u200bt", "*******"),  # zero-width spaces
        ("s\u0336h\u0336i\u0336t\u0336", "*******\u0336"),  # struck through
        ("shít", "****"),
        ("\u0455hit", "****"),  # Cyrillic dze
        ("\U0001d4fc\U0001d4f1\U0001d4f2\U0001d4fd", "****"),  # mathematical script
        ("\U0001f182\U0001f177\U0001f178\U0001f183", "****"),  # in black squares
        ("blow  job", "*********"),
        ("du ARSCHLOCH", "du *********"),
        ("\u0445\u0443\u0439", "***"),
        ("x\u0443\u0439", "***"),  # its first letter is Latin
        ("\u3042\u306e\u30d5\u30a1\u30c3\u30af\u3060", "\u3042\u306e****\u3060"),
    ],
)
def test_a_word_is_found_however_it_is_written(text, left):
    assert mask(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Scunthorpe", "classic assassin", "as", "Shitake", "455", "it's his hit", "pass it", "mass.it",
        "badass", "job blow", "a s", "\u043a\u043b\u0430\u0441\u0441", "", " ", "!!!", "@@@", "1111",
    ],
)  # fmt: skip
def test_what_only_resembles_a_word_passes(text):
    assert mask(text) == text


def test_what_is_allowed_passes_phrases_too():
    words = WordList(["how to kill", "sucks"], allow=["How  to kill"])
    assert mask("how to kill what sucks", words) == "how to kill what *****"


def test_words_may_be_beginnings_ends_and_parts():
    words = WordList(["foo*", "*bar", "*mid*"], allow=["food"])
    assert mask("football food crowbar barn amidst", words) == "******** food ******* barn ******"


@given(st.text(max_size=60))
def test_what_is_found_stands_in_the_text(text):
    reading = Reading(text)
    folded, places = fold(text)
    assert places is None or (len(places) == len(folded) and places == sorted(places))
    for _, start, end in [*reading.candidates, *reading.mixed, *reading.words]:
        assert 0 <= start < end <= len(text)
    assert len(mask(text)) == len(text)


def test_links_are_found_with_and_without_a_scheme_and_by_their_host():
    text = "see https://user@Evil.example:8/x, www.a.org. b.com/x c\u200b.net e.g. 1.5 no.where mail@d.com"
    found = links_in(Reading(text))
    assert [link.host for link in found] == ["evil.example", "a.org", "b.com", "c.net"]
    assert text[found[2].start : found[2].end] == "b.com/x"
    assert within("x.evil.example", frozenset({"evil.example"}))
    assert not within("notevil.example", frozenset({"evil.example"}))


def test_capitals_and_mentions_are_counted():
    assert capitals_percent("STOP SHOUTING now", 12) == 80
    assert capitals_percent("OK", 12) == 0
    assert mentions_in("@a @b @a x@c") == 2


def rules(*given: dict) -> Filters:
    return Filters(read_policy({"chat": {"rules": list(given)}}, "test").chat)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"name": "a"}, "says of no message"),
        ({"name": "A", "words": ["x"]}, "name"),
        ({"name": "a", "messages": 3, "then": "mask"}, "masked"),
        ({"name": "a", "patterns": ["(x"]}, "missing"),
        ({"name": "a", "word_files": ["/nowhere/x"]}, "No such file"),
        ({"name": "a", "words": ["x"], "rooms": []}, "length"),
    ],
)
def test_a_rule_that_will_not_do_is_refused_with_its_place(rule, said):
    with pytest.raises(SettingsError, match=said) as caught:
        rules(rule)
    assert "rules" in caught.value.message


def test_a_pattern_takes_time_that_grows_with_the_text_alone():
    (filter,) = rules({"name": "a", "patterns": ["(a|a)*b", "(x+x+)+y"]}).all
    assert filter.find(Reading("a" * 4000 + "x" * 4000), 0.0) is None
    found = filter.find(Reading("caaáb!"), 0.0)
    assert found is not None
    assert found.spans == [(1, 5)]
