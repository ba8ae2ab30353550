"""Who is over its tenant's rates is read and sent to after all others, over real sockets."""

from __future__ import annotations

import sys
import time
from typing import Any

from realtime.native.hub import Hub
from realtime.native.ratelimit import Allowance, Tariff
from tests.native.test_hub import Host, frame

RATES = ("messages", "bytes", "deliveries")


class Charging(Host):
    """Charges each message to the allowance of its path, as the relay does; `refused` are those over it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.allowances: dict[Any, Allowance] = {}
        self.refused: list[tuple[Any, bytes]] = []

    def _on_message(self, state: Any, payload: bytes) -> None:
        allowance = self.allowances.get(state)
        if allowance is not None and allowance.take(1, len(payload), 1) is not None:
            self.refused.append((state, payload))
        else:
            super()._on_message(state, payload)

    def hold(self, path: str, allowance: Allowance | None) -> None:
        """Have all connections of a path draw on `allowance`."""
        if allowance is not None:
            self.allowances[path] = allowance
        for each in self.hub.connections():
            if each.state == path:
                each.draw_on(allowance)


def allowance(rate: float, burst_s: float = 1.0) -> Allowance:
    return Allowance(Tariff(RATES, (rate, 0, 0), burst_s))


def test_what_goes_on_beyond_the_rate_is_refused_once_and_then_comes_at_the_rate() -> None:
    host = Charging()
    flood = host.client(b"/flood")
    host.hold("/flood", allowance(100, 0.1))
    began = time.monotonic()
    flood.socket.sendall(b"".join(frame(b"%d" % n) for n in range(60)))
    host.until(lambda: len(host.messages) + len(host.refused) == 60)
    took_s = time.monotonic() - began
    assert len(host.refused) == 1
    assert [int(payload) for _, payload in host.messages] == [n for n in range(60) if n != 10], "in order"
    assert took_s >= (59 - 10) / 100
    assert host.hub.stats()["held_back"] > 0


def test_others_are_read_as_if_nobody_was_over_its_rate() -> None:
    host = Charging()
    floods = [host.client(b"/flood") for _ in range(20)]
    calm = host.client(b"/calm")
    host.hold("/flood", allowance(10, 0.1))
    for flood in floods:
        flood.socket.sendall(frame(b"x") * 200)
    host.until(lambda: bool(host.refused))
    for number in range(50):
        before = len(host.messages)
        calm.socket.sendall(frame(b"%d" % number))
        host.until(lambda number=number: ("/calm", b"%d" % number) in host.messages)  # type: ignore[misc]
        assert len(host.messages) - before <= 2, "at most one of the flood's came with it"
    assert len(host.refused) == 1, "the tenant has one standing, however many connections"


def test_who_keeps_to_its_rate_again_is_read_at_once_and_who_has_none_any_more_too() -> None:
    host = Charging()
    flood = host.client(b"/flood")
    host.hold("/flood", allowance(0.5, 2.0))
    flood.socket.sendall(frame(b"x") * 50)
    host.until(lambda: bool(host.refused))
    host.hold("/flood", None)
    host.allowances.clear()
    host.until(lambda: len(host.messages) + len(host.refused) == 50)


def test_a_connection_that_ends_while_it_stands_behind_is_let_go() -> None:
    host = Charging()
    held = allowance(0.5, 2.0)
    count = sys.getrefcount(held)
    clients = [host.client(b"/flood") for _ in range(3)]
    host.hold("/flood", held)
    host.allowances["/flood"] = held
    for client in clients:
        client.socket.sendall(frame(b"x") * 5000)
    host.until(lambda: bool(host.refused))
    host.hub.connections()[0].close(4503)
    host.hub.connections()[1].abort()
    for client in clients:
        client.socket.close()
    host.until(lambda: host.hub.stats()["connections"] == 0)
    del host.allowances["/flood"]
    assert sys.getrefcount(held) == count


def test_rooms_of_a_tenant_over_its_rate_are_flushed_after_others_and_get_everything() -> None:
    host = Charging()
    held = allowance(1, 1.0)
    crowd = [host.client(b"/crowd") for _ in range(60)]
    calm = host.client(b"/calm")
    host.hold("/crowd", held)
    big, small = host.hub.room(), host.hub.room()
    for each in host.hub.connections():
        each.join(big if each.state == "/crowd" else small)
    while held.take(1, 0, 0) is None:
        pass
    for number in range(20):
        big.append(b"b%d" % number)
        small.append(b"s%d" % number)
    calm.wait(lambda c: len(c.frames) == 20)
    for client in crowd:
        client.wait(lambda c: len(c.frames) == 20)
        assert [payload for _, payload in client.frames] == [b"b%d" % n for n in range(20)]


def test_a_log_that_changes_queues_in_the_middle_of_a_pass_loses_nothing() -> None:
    host = Charging(flush_chunk=8)
    held = allowance(1000, 1.0)
    crowd = [host.client(b"/crowd") for _ in range(100)]
    host.hold("/crowd", held)
    room = host.hub.room()
    for each in host.hub.connections():
        each.join(room)
    room.append(b"first")
    host.hub.on_ready()
    held.take(10_000, 0, 0)
    assert held.take(1, 0, 0) is not None
    room.append(b"second")
    host.hub.on_ready()
    room.append(b"third")
    for client in crowd:
        client.wait(lambda c: len(c.frames) == 3)
        assert [payload for _, payload in client.frames] == [b"first", b"second", b"third"]


def test_an_allowance_outlives_the_hub_that_held_it() -> None:
    held = allowance(1)
    host = Charging()
    host.client(b"/m")
    host.hold("/m", held)
    assert isinstance(host.hub, Hub)
    del host
    assert held.take(1, 0, 0) is None
