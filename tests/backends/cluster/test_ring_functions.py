"""The ring in Redis: who is in it, who is removed when, and the version that never goes back."""

import pytest

from tests.backends.cluster.ring_stage import START_MS, TTL_MS, RingStage

SKEW_MS = 10_000
FIRST = START_MS + SKEW_MS + 1  # the version of a new mastership


@pytest.fixture
def stage(own_redis_node):
    return RingStage(own_redis_node)


def test_a_worker_takes_a_place_and_the_version_is_a_time(stage):
    placed, news = stage.beat("a", 0, placed=False)
    assert placed
    assert news == (FIRST, 0, ("a",))
    assert stage.beat("a", news.version, placed=True) == (True, None)  # nothing is new
    for _ in range(20):
        stage.now_ms += SKEW_MS // 10
        stage.beat("a", news.version, placed=True)
    news = (stage.now_ms, FIRST, ("a", "b"))
    assert stage.beat("b", 0, placed=False)[1] == news
    assert stage.beat("a", FIRST, placed=True)[1] == news


def test_two_changes_within_a_millisecond_are_two_versions(stage):
    versions = [stage.beat(name, 0, placed=False)[1].version for name in "abc"]
    assert versions == [FIRST, FIRST + 1, FIRST + 2]


def test_who_has_not_beaten_for_its_ttl_is_removed_by_whoever_beats_next(stage):
    for name in "ab":
        stage.beat(name, 0, placed=False)
    stage.now_ms += TTL_MS
    version = stage.look().version
    assert stage.beat("a", version, placed=True) == (True, None)
    stage.now_ms += 1
    assert stage.beat("a", version, placed=True)[1].workers == ("a",)


def test_who_was_removed_is_told_so_and_gets_no_place_until_it_takes_one(stage):
    for name in "ab":
        stage.beat(name, 0, placed=False)
    stage.bury("b")
    placed, news = stage.beat("b", FIRST + 1, placed=True)
    assert not placed
    assert news.workers == ("a",)
    assert stage.look().workers == ("a",)
    placed, news = stage.beat("b", news.version, placed=False)
    assert placed
    assert news.workers == ("a", "b")


def test_a_place_taken_by_who_is_still_listed_is_a_change_as_it_has_owned_nothing_meanwhile(stage):
    version = stage.beat("a", 0, placed=False)[1].version
    assert stage.beat("a", version, placed=False)[1] == (version + 1, version, ("a",))


def test_when_nobody_was_heard_it_was_redis_that_was_away_and_nobody_is_removed(stage):
    for name in "abc":
        stage.beat(name, 0, placed=False)
    version = stage.look().version
    stage.now_ms += 100 * TTL_MS
    assert stage.beat("b", version, placed=True) == (True, None)
    stage.now_ms += TTL_MS - 1  # the others have their TTL from then on
    assert stage.beat("b", version, placed=True) == (True, None)
    stage.now_ms += 2
    assert stage.beat("b", version, placed=True)[1].workers == ("b",)


def test_a_new_worker_finds_nobody_alive_where_all_have_died(stage):
    for name in "ab":
        stage.beat(name, 0, placed=False)
    stage.now_ms += TTL_MS + 1
    assert stage.beat("new", 0, placed=False)[1].workers == ("new",)


@pytest.mark.parametrize("clock_ms", [-5000, 0, 5000])
def test_after_a_failover_all_have_their_ttl_anew_whatever_the_new_clock_says(stage, clock_ms):
    for name in "ab":
        stage.beat(name, 0, placed=False)
    version = stage.look().version
    stage.become("second")
    stage.now_ms += clock_ms
    news = stage.beat("a", version, placed=True)[1]
    assert news.version > version
    assert news[1:] == (0, ("a", "b"))  # what was the last version of the old one, nobody knows
    version = news.version
    stage.now_ms += TTL_MS
    assert stage.beat("a", version, placed=True) == (True, None)
    stage.now_ms += 1
    assert stage.beat("a", version, placed=True)[1].workers == ("a",)


def test_a_clock_that_goes_back_keeps_nobody_who_is_dead(stage):
    for name in "ab":
        stage.beat(name, 0, placed=False)
    version = stage.look().version
    stage.now_ms -= 3_600_000
    for _ in range(2):
        stage.beat("a", version, placed=True)
        stage.now_ms += TTL_MS // 2 + 1
    news = stage.beat("a", version, placed=True)[1]
    assert news.workers == ("a",)
    assert news.version == version + 1


def test_a_version_that_a_failover_lost_is_passed_and_said_to_have_been_missed(stage):
    stage.beat("a", 0, placed=False)
    kept = stage.snapshot()
    stage.beat("b", 0, placed=False)
    lost = stage.look().version
    stage.restore(kept)
    stage.become("second")
    assert stage.beat("b", lost, placed=True)[0] is False
    news = stage.look()
    assert news.version > lost
    assert news.before == 0
    assert news.workers == ("a",)


def test_whoever_is_buried_is_gone_at_once_and_once_only(stage):
    for name in "abc":
        stage.beat(name, 0, placed=False)
    version = stage.bury("b", "c", "nobody")
    assert stage.look() == (version, FIRST + 2, ("a",))
    assert stage.bury("b") == version


def test_changes_are_published_to_all_as_they_are_answered(stage, own_redis_node):
    ear = own_redis_node.redis.pubsub()
    ear.ssubscribe(stage.keys[0])
    assert ear.get_message(timeout=60)["type"] == "ssubscribe"
    stage.beat("a", 0, placed=False)
    stage.beat("b", 0, placed=False)
    stage.beat("b", FIRST + 1, placed=True)
    stage.bury("a")
    said = [ear.get_sharded_message(timeout=60)["data"].decode() for _ in range(3)]
    assert said == [
        f"{FIRST} 0\na",
        f"{FIRST + 1} {FIRST}\na\nb",
        f"{FIRST + 2} {FIRST + 1}\nb",
    ]
    ear.close()
