"""One worker's view of the ring: what an answer, the news and the end of a lease make of what it owns."""

import pytest

from realtime.backends.cluster.ring import MARGIN, News, Ring
from realtime.core.cluster import SLOTS, Change
from realtime.ids import RoomId, RoomName, TenantId

TTL_S = 1.5
LEASE_S = TTL_S * (1 - MARGIN)
ROOMS = [RoomId(TenantId("default"), RoomName(f"box:{n}")) for n in range(50)]


@pytest.fixture
def ring():
    return Ring("me", TTL_S)


def placed(ring, version=1, before=0, workers=("me",), sent=10.0):
    return ring.beaten(sent, sent, News(version, before, workers), placed=False)


def test_a_place_owns_from_its_answer_on_until_the_lease_of_its_beat_ends(ring):
    assert not any(ring.owns(room, 10.0) for room in ROOMS)
    change = placed(ring)
    assert change == Change(1, ("me",), (), list(range(SLOTS)), [])
    assert all(ring.owns(room, 10.0 + LEASE_S - 0.001) for room in ROOMS)
    assert not any(ring.owns(room, 10.0 + LEASE_S) for room in ROOMS)
    assert ring.expire(10.0 + LEASE_S - 0.001) is None
    assert ring.expire(10.0 + LEASE_S) == Change(1, (), (), (), list(range(SLOTS)))
    assert ring.expire(99.0) is None
    assert ring.beaten(12.0, 12.0, News(2, 1, ("me",)), placed=False).owned == list(range(SLOTS))


def test_the_lease_counts_from_when_the_beat_was_sent_however_late_its_answer_is(ring):
    placed(ring)
    assert ring.beaten(11.0, 11.9, None, placed=True) is None
    assert ring.leased(11.0 + LEASE_S - 0.001)
    assert not ring.leased(11.0 + LEASE_S)
    ring.beaten(11.5, 99.0, None, placed=True)  # this one came too late
    assert not ring.leased(99.0)


def test_an_answer_that_comes_after_its_lease_gives_no_place(ring):
    assert ring.beaten(10.0, 10.0 + LEASE_S, News(1, 0, ("me",)), placed=False).owned == []
    assert not ring.has_place


def test_a_place_that_was_let_go_of_does_not_come_back_with_the_answer_to_an_older_beat(ring):
    placed(ring)
    ring.expire(10.0 + LEASE_S)
    late = 10.0 + LEASE_S + 0.1
    assert ring.beaten(10.9, late, None, placed=True) is None
    assert not ring.has_place
    assert not ring.leased(late)


def test_news_that_come_before_the_answer_leave_the_place_to_the_answer(ring):
    assert ring.heard(News(1, 0, ("me", "other"))).owned == []
    change = ring.beaten(10.0, 10.0, News(1, 0, ("me", "other")), placed=False)
    assert change.version == 1
    assert change.owned == ring.owned_slots() != []
    ring = Ring("me", TTL_S)
    ring.heard(News(2, 1, ("other",)))  # it was taken and lost again before the answer came
    assert ring.beaten(10.0, 10.0, News(1, 0, ("me", "other")), placed=False) is None
    assert not ring.has_place


def test_only_what_moves_is_told_where_no_version_was_missed(ring):
    placed(ring)
    came = ring.heard(News(2, 1, ("me", "other")))
    assert (came.joined, came.left, came.owned) == (("other",), (), [])
    assert 0.4 < len(came.disowned) / SLOTS < 0.6
    went = ring.heard(News(3, 2, ("me",)))
    assert (went.left, went.owned, went.disowned) == (("other",), came.disowned, [])


def test_where_a_version_was_missed_all_is_let_go_of_and_taken_anew(ring):
    placed(ring)
    change = ring.heard(News(5, 4, ("me",)))
    assert change.disowned == change.owned == list(range(SLOTS))


def test_what_is_older_or_the_same_says_nothing(ring):
    placed(ring, version=7)
    for version in (6, 7):
        assert ring.heard(News(version, 1, ())) is None
    assert ring.version == 7


def test_who_is_not_listed_any_more_owns_nothing_and_has_no_place(ring):
    placed(ring)
    change = ring.heard(News(2, 1, ("other",)))
    assert change.disowned == list(range(SLOTS))
    assert not ring.has_place
    assert ring.owner(ROOMS[0]) == "other"
    assert ring.removed() is None


def test_a_ring_without_anybody_owns_nothing(ring):
    assert ring.owner(ROOMS[0]) is None
    placed(ring)
    assert ring.heard(News(2, 1, ())).left == ("me",)
    assert ring.owner(ROOMS[0]) is None
    assert ring.owned_slots() == []
