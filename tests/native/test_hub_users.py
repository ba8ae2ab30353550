"""Whose connections are whose, as the hub lists them; against a dict of lists."""

from __future__ import annotations

import random

import pytest

from realtime.native.hub import Accept
from tests.native.test_hub import Client, Host


def accept_by_path(host: Host) -> None:
    """`/7` belongs to key 7 from the start, `/0` to nobody."""
    host.answer = lambda shake: Accept(shake.path, user_key=int(shake.path[1:]))


def test_connections_are_found_by_whose_they_are_oldest_first() -> None:
    host = Host()
    accept_by_path(host)
    clients = [host.client(path) for path in (b"/7", b"/8", b"/7", b"/0")]
    assert [each.id for each in host.hub.connections_of(7)] == [1, 3]
    assert [each.id for each in host.hub.connections_of(8)] == [2]
    assert [host.hub.count_of(key) for key in (7, 8, 0, 9)] == [2, 1, 0, 0]
    clients[0].socket.close()
    host.until(lambda: host.hub.count_of(7) == 1)
    assert [each.id for each in host.hub.connections_of(7)] == [3]


def test_keys_that_share_a_bucket_are_told_apart() -> None:
    host = Host()
    accept_by_path(host)
    clients = [host.client(path) for path in (b"/1", b"/%d" % (1 + 2**20), b"/%d" % 0xFFFFFFFF)]
    assert [host.hub.count_of(key) for key in (1, 1 + 2**20, 0xFFFFFFFF)] == [1, 1, 1]
    assert [each.id for each in host.hub.connections_of(1 + 2**20)] == [2]
    assert len(clients) == 3


def test_a_connection_may_belong_to_somebody_later_and_to_one_only() -> None:
    host = Host()
    client = host.client()
    (handle,) = host.hub.connections()
    for key in (7, 7, 8):
        handle.belong(key)
        assert host.hub.connections_of(key) == [handle]
    assert host.hub.count_of(7) == 0
    with pytest.raises(ValueError, match="nobody"):
        handle.belong(0)
    with pytest.raises(OverflowError):
        handle.belong(2**32)
    client.socket.close()
    host.until(lambda: not host.hub.connections())
    handle.belong(9)  # it is gone: nothing to list
    assert [host.hub.count_of(key) for key in (7, 8, 9)] == [0, 0, 0]


def test_who_is_told_of_the_end_does_not_find_the_connection_any_more() -> None:
    host = Host()
    accept_by_path(host)
    found: list[int] = []
    host.closed = type("Told", (list,), {"append": lambda self, told: found.append(host.hub.count_of(7))})()
    client = host.client(b"/7")
    assert host.hub.count_of(7) == 1
    client.socket.close()
    host.until(lambda: bool(found))
    assert found == [0]


def test_one_that_is_closing_still_counts_and_one_that_was_aborted_does_not() -> None:
    host = Host()
    accept_by_path(host)
    closing, aborted = host.client(b"/7"), host.client(b"/7")
    first, second = host.hub.connections_of(7)
    first.close(4508, b"")
    assert (first.open, host.hub.count_of(7)) == (False, 2)
    second.abort()
    assert host.hub.connections_of(7) == [first]
    assert not closing.eof
    assert not aborted.eof


def test_many_come_go_and_change_hands_as_in_a_dict_of_lists() -> None:
    """The table grows several times while they do. The seed is printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    host = Host(max_connections=1000)
    accept_by_path(host)
    keys = [choice.randrange(1, 2**32) for _ in range(12)] + [64, 128, 192, 256]
    live: dict[int, tuple[Client, int]] = {}
    for _ in range(600):
        what = choice.random()
        if what < 0.6 or not live:
            key = choice.choice(keys)
            client = host.client(b"/%d" % key)
            live[max(each.id for each in host.hub.connections())] = (client, key)
        elif what < 0.8:
            number = choice.choice(list(live))
            client, _ = live.pop(number)
            client.socket.close()
            host.until(lambda: len(host.hub.connections()) == len(live))
        else:
            number, key = choice.choice(list(live)), choice.choice(keys)
            next(each for each in host.hub.connections() if each.id == number).belong(key)
            live[number] = (live[number][0], key)
        probe = choice.choice(keys)
        expected = sorted(number for number, (_, key) in live.items() if key == probe)
        assert [each.id for each in host.hub.connections_of(probe)] == expected
        assert host.hub.count_of(probe) == len(expected)
    assert len(live) > 64


def test_an_id_that_was_taken_is_no_connections() -> None:
    host = Host()
    taken = [host.hub.take_id() for _ in range(3)]
    client = host.client()
    assert [*taken, host.hub.connections()[0].id] == [1, 2, 3, 4]
    assert not client.eof
