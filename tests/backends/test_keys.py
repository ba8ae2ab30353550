"""Idempotency keys: remembered for the window, bounded in number, the oldest forgotten first."""

import random
from collections import OrderedDict

import pytest

from realtime.backends.keys import KEYS_SPARED, ROOMS_PER_TICK, KeyRing, RoomKeys
from tests.oracles.hub import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


def test_a_key_is_good_for_the_window_and_its_senders_own(clock):
    keys = RoomKeys(KeyRing(clock, 60.0))
    keys.add(b'"alice"', "k", 7)
    keys.add(None, "k", 8)
    assert [keys.find(sender, "k") for sender in (b'"alice"', None, b'"bob"')] == [7, 8, None]
    clock.advance(60)
    assert keys.find(b'"alice"', "k") == 7
    clock.advance(0.1)
    assert (keys.find(b'"alice"', "k"), len(keys)) == (None, 0)


def test_a_key_that_was_used_before_we_were_there_has_that_much_less_to_live(clock):
    keys = RoomKeys(KeyRing(clock, 60.0))
    keys.add(None, "old", 1, age_s=50)
    keys.add(None, "new", 2, age_s=0)
    clock.advance(11)
    assert (keys.find(None, "old"), keys.find(None, "new")) == (None, 2)


def test_a_key_that_is_known_stays_what_it_was(clock):
    ring = KeyRing(clock, 60.0)
    keys = RoomKeys(ring)
    keys.add(None, "k", 1)
    keys.add(None, "k", 2)
    assert (keys.find(None, "k"), len(keys), ring.count) == (1, 1, 1)


def test_a_room_keeps_its_latest_keys(clock):
    keys = RoomKeys(KeyRing(clock, 60.0, per_room=3))
    for offset in range(1, 6):
        keys.add(None, f"k{offset}", offset)
    assert [keys.find(None, f"k{offset}") for offset in range(1, 6)] == [None, None, 3, 4, 5]


def test_when_there_are_too_many_together_a_room_with_many_gives_up_its_own(clock):
    ring = KeyRing(clock, 60.0, together=KEYS_SPARED + 10)
    small, large = RoomKeys(ring), RoomKeys(ring)
    small.add(None, "small", 1)
    for offset in range(1, KEYS_SPARED + 100):
        large.add(None, f"k{offset}", offset)
    assert ring.count == KEYS_SPARED + 10
    assert small.find(None, "small") == 1
    small.add(None, "small too", 2)
    assert (small.find(None, "small"), small.find(None, "small too")) == (1, 2)
    assert (len(large), ring.count) == (KEYS_SPARED + 8, KEYS_SPARED + 10)


def test_keys_of_rooms_that_nobody_publishes_to_go_with_the_ticks(clock):
    ring = KeyRing(clock, 60.0)
    rooms = [RoomKeys(ring) for _ in range(3 * ROOMS_PER_TICK)]
    for keys in rooms:
        keys.add(None, "k", 1)
    clock.advance(61)
    rooms[0].add(None, "later", 2)
    for left in (201, 101, 1, 1):
        ring.tick()
        assert ring.count == left
    rooms[0].clear()
    assert (ring.count, len(ring.rooms)) == (0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_many_rooms_are_bounded_and_find_what_a_plain_dict_would(seed, clock):
    dice = random.Random(seed)
    ring = KeyRing(clock, 60.0, per_room=5, together=12)
    rooms = [(RoomKeys(ring), OrderedDict()) for _ in range(4)]
    for offset in range(500):
        keys, plain = dice.choice(rooms)
        key = f"k{dice.randrange(8)}"
        found = keys.find(None, key)
        expected = plain.get(key)
        assert found is None or (expected is not None and found == expected[0])
        if found is None:
            keys.add(None, key, offset)
            plain[key] = (offset, clock.now)
        else:
            assert clock.now - expected[1] <= 60
        clock.advance(dice.choice([0, 0, 1, 20]))
        if dice.random() < 0.1:
            ring.tick()
        assert ring.count == sum(len(each) for each, _ in rooms) <= 12
        assert all(len(each) <= 5 for each, _ in rooms)
        assert set(ring.rooms) == {each for each, _ in rooms if len(each)}
