"""What the hub measures: deliveries, flushes and handshakes; and the buckets that all histograms have."""

import random
import time
from bisect import bisect_left

import pytest

from realtime.native.histogram import BOUNDS_S, Histogram
from tests.native.test_hub import Host

OVER_50_MS = bisect_left(BOUNDS_S, 0.05) + 1  # the first bucket of what took longer


@pytest.fixture
def host():
    made = Host()
    yield made
    made.listener.close()


def count(hub, name):
    return sum(hub.timings()[name][0])


def spin(seconds):
    """Let time pass as work does."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        continue


def test_buckets_are_what_bisection_says():
    rng = random.Random(7)
    seconds = [*BOUNDS_S, 0.0, -1.0, 1e9, *(10 ** rng.uniform(-6, 2) for _ in range(2000))]
    histogram, expected = Histogram(), [0] * (len(BOUNDS_S) + 1)
    for each in seconds:
        histogram.observe(each)
        expected[bisect_left(BOUNDS_S, each)] += 1
    histogram.observe(0.02, 5)
    expected[bisect_left(BOUNDS_S, 0.02)] += 5
    counts, total_s = histogram.taken()
    assert list(counts) == expected
    assert total_s == pytest.approx(sum(min(max(each, 0.0), 1e6) for each in seconds) + 0.1, rel=1e-6)


def test_each_send_of_a_room_is_one_delivery(host):
    log = host.hub.room()
    members = [host.member(f"m{n}", log) for n in range(5)]
    assert host.hub.stats()["members"] == 5
    host.on_message = lambda state, payload: log.append(payload)
    members[0].send(b"one")
    for each in members:
        each.wait(lambda c: b"one" in c.texts)
    # The publisher's own copy may go with its answers, by another way than the pass.
    assert count(host.hub, "deliveries") in (4, 5)
    assert count(host.hub, "flushes") >= 1
    host.handles["/m0"].leave(log)
    assert host.hub.stats()["members"] == 4


def test_what_comes_from_outside_counts_from_then_on_and_not_from_the_last_batch(host):
    log = host.hub.room()
    member = host.member("m", log)
    spin(0.3)  # the hub's clock stands still meanwhile
    began = time.monotonic()
    log.append(b"x")
    member.wait(lambda c: c.texts == [b"x"])
    took_s = time.monotonic() - began
    counts, total_s = host.hub.timings()["deliveries"]
    assert sum(counts) == 1
    assert total_s <= took_s


def test_a_delivery_takes_as_long_as_the_batch_that_brought_it(host):
    log = host.hub.room()
    member, other = host.member("m", log), host.member("other")

    def slowly(state, payload):
        log.append(payload)
        spin(0.06)

    host.on_message = slowly
    other.send(b"x")
    member.wait(lambda c: c.texts == [b"x"])
    counts, total_s = host.hub.timings()["deliveries"]
    assert (sum(counts[:OVER_50_MS]), sum(counts[OVER_50_MS:])) == (0, 1)
    assert total_s >= 0.06


def test_a_log_that_rests_keeps_the_time_of_what_waits():
    host = Host(rest_ratio=1000.0, rest_max_s=0.2)
    log = host.hub.room()
    members = [host.member(f"m{n}", log) for n in range(300)]
    log.append(b"x" * 10_000)  # a pass of over 1 ms
    for each in members:
        each.wait(lambda c: len(c.texts) == 1)
    before = host.hub.timings()["deliveries"]
    log.append(b"y")
    for each in members:
        each.wait(lambda c: len(c.texts) == 2)
    counts, total_s = host.hub.timings()["deliveries"]
    waited_s = (total_s - before[1]) / (sum(counts) - sum(before[0]))
    assert host.wakes[-1] > 0, "it did rest"
    assert waited_s >= 0.5 * max(host.wakes), "what waited counts from when it came"
    host.listener.close()


def test_a_handshake_takes_as_long_as_whoever_lets_it_in(host):
    accept = host.answer

    def slowly(shake):
        spin(0.03)
        return accept(shake)

    host.answer = slowly
    host.client()
    counts, total_s = host.hub.timings()["handshakes"]
    assert sum(counts) == 1
    assert 0.03 <= total_s < 5.0
