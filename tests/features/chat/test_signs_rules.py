"""The rules of signs without sockets: who types when, what others see of whom, what is answered alike."""

import pytest

from realtime.features.chat.signs.people import NOTHING, People, Said, shown, shown_to_self
from realtime.features.chat.signs.typing import NAMED_MAX, Typists

INTERVAL_S, AGAIN_S = 1.0, 3.0


def due(typists, now):
    return typists.due(now, INTERVAL_S, AGAIN_S)


def test_who_begins_to_type_is_told_at_once_and_then_once_an_interval():
    typists = Typists()
    typists.begin("alice", 6.0)
    assert due(typists, 0.0) == {"users": ["alice"], "count": 1}
    typists.begin("bob", 6.1)
    typists.begin("carol", 6.1)
    assert due(typists, 0.5) is None
    assert due(typists, 1.0) == {"users": ["alice", "bob", "carol"], "count": 3}


def test_saying_it_again_tells_nobody_anything_until_it_has_to_be_told_again():
    typists = Typists()
    told = []
    for tenth in range(100):
        now = tenth / 10
        typists.begin("alice", now + 6.0)
        told += [now] if due(typists, now) else []
    assert told == [0.0, 3.0, 6.0, 9.0]


def test_typing_ends_by_itself_and_is_told_as_ended_once():
    typists = Typists()
    typists.begin("alice", 6.0)
    due(typists, 0.0)
    due(typists, 3.0)
    assert due(typists, 5.9) is None
    assert due(typists, 6.0) == {"users": [], "count": 0}
    assert due(typists, 9.0) is None
    assert typists.idle


def test_who_stops_within_the_interval_is_told_after_it():
    typists = Typists()
    typists.begin("alice", 6.0)
    due(typists, 0.0)
    typists.end("alice")
    typists.end("nobody")
    assert due(typists, 0.9) is None
    assert not typists.idle
    assert due(typists, 1.0) == {"users": [], "count": 0}


def test_a_crowd_of_typists_is_counted_and_some_are_named():
    typists = Typists()
    for number in range(100):
        typists.begin(f"user{number}", 6.0)
    told = due(typists, 0.0)
    assert len(told["users"]) == NAMED_MAX
    assert told["count"] == 100


@pytest.mark.parametrize("text", ["", "in a meeting"])
def test_who_is_invisible_is_shown_word_for_word_as_who_is_gone(text):
    seen_ms = 1_700_000_000_000
    gone = shown(Said("online", "", seen_ms), connected=False)
    assert gone == {"status": "offline", "last_seen": "2023-11-14T22:13:20.000Z"}
    for connected in (True, False):
        assert shown(Said("invisible", text, seen_ms), connected=connected) == gone


def test_what_somebody_says_of_themselves_is_shown_where_they_are_seen():
    said = Said("busy", "in a meeting", 5)
    assert shown(said, connected=True) == {"status": "busy", "text": "in a meeting"}
    assert shown(NOTHING, connected=True) == {"status": "online"}
    assert shown(NOTHING, connected=False) == {"status": "offline"}
    assert shown_to_self(Said("invisible", "hush")) == {"status": "invisible", "text": "hush"}


def test_nobody_is_told_of_a_user_before_the_table_has_been_asked():
    people = People()
    person = people.came(("default", "alice"))
    assert person.silent
    person.said = NOTHING
    assert not person.silent
    person.said = Said("invisible")
    assert person.silent


def test_a_user_is_here_until_the_last_connection_goes():
    people, alice = People(), ("default", "alice")
    people.came(alice)
    people.came(alice)
    assert people.went(alice, 1).connections == 1
    assert people.connected() == [alice]
    last = people.went(alice, 2)
    assert (last.connections, last.went_ms) == (0, 2)
    assert people.connected() == []
    assert people.went(alice, 3) is None
    people.forget(alice)
    assert len(people) == 0
