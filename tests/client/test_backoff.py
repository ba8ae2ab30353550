"""How long a client waits before it reconnects."""

import random

import pytest

from realtime.client.backoff import Backoff, CloseReason, Window, read_close_reason, window_ms
from realtime.client.errors import may_reconnect


def backoff(uniform: float, *, base_s: float = 0.5, cap_s: float = 30.0) -> Backoff:
    return Backoff(base_s, cap_s, lambda: uniform)


def test_the_window_doubles_up_to_the_cap():
    upper = backoff(1.0)
    assert [upper.next_s() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_the_jitter_is_full_so_the_shortest_delay_is_none():
    lower = backoff(0.0)
    assert [lower.next_s() for _ in range(5)] == [0.0] * 5


def test_a_night_without_network_overflows_nothing():
    upper = backoff(1.0)
    assert max(upper.next_s() for _ in range(5000)) == 30.0


def test_delays_spread_over_the_whole_window():
    seed = random.randrange(1 << 32)
    some = Backoff(8.0, 30.0, random.Random(seed).random)
    first = []
    for _ in range(400):
        some.advised(Window(2.0, 10.0))
        first.append(some.next_s())
    assert all(2.0 <= delay <= 10.0 for delay in first), f"seed {seed}"
    quarters = {int((delay - 2.0) // 2.0) for delay in first}
    assert quarters >= {0, 1, 2, 3}, f"seed {seed}"


def test_the_servers_floor_is_kept_at_every_attempt():
    lower = backoff(0.0)
    lower.advised(Window(0.5, 15.0))
    assert [lower.next_s() for _ in range(4)] == [0.5] * 4


def test_a_window_wider_than_the_cap_is_the_servers_to_set():
    upper = backoff(1.0, cap_s=30.0)
    upper.advised(Window(1.0, 120.0))
    assert [upper.next_s() for _ in range(2)] == [120.0, 120.0]


def test_a_connection_that_stands_starts_the_count_anew():
    upper = backoff(1.0)
    for _ in range(5):
        upper.next_s()
    upper.succeeded(None)
    assert upper.next_s() == 0.5


def test_the_greetings_window_holds_for_the_next_loss():
    upper = backoff(1.0)
    upper.succeeded(Window(0.5, 15.0))
    assert upper.next_s() == 15.0


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ('{"r":"drain","min":500,"max":15000}', CloseReason("drain", Window(0.5, 15.0))),
        ('{"r":"slow"}', CloseReason("slow", None)),
        ("", CloseReason("", None)),
        ("bye", CloseReason("bye", None)),
        ('{"r":"drain","min":500,"max":100}', CloseReason("drain", None)),
        ('{"r":"drain","min":-1,"max":100}', CloseReason("drain", None)),
        ("[1]", CloseReason("[1]", None)),
        ('{"min":"a","max":"b"}', CloseReason('{"min":"a","max":"b"}', None)),
    ],
)
def test_a_close_reason_is_read_or_stands_for_itself(reason, read):
    assert read_close_reason(reason) == read


@pytest.mark.parametrize("pair", [(None, 1), ("1", "2"), (2, 1), (float("nan"), 1)])
def test_what_is_no_window_is_none(pair):
    assert window_ms(*pair) is None


@pytest.mark.parametrize(
    ("codes", "back"),
    [
        ((1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 4000, 4001, 4002, 4003, 4006, 4499), True),
        ((1000, 1002, 1003, 1007, 1008, 1009, 1010, 4500, 4501, 4503, 4508, 4999), False),
    ],
)
def test_the_class_of_a_close_code_says_whether_to_come_back(codes, back):
    assert [code for code in codes if may_reconnect(code) is not back] == []
