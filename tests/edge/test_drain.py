"""Draining: how many are told when, what they are told, and what it waits for."""

import asyncio
import json

import pytest

from realtime.edge import drain as drain_module
from realtime.edge.drain import drain, reconnect_window, slice_size
from realtime.settings import Settings


class FakeConnection:
    def __init__(self, hub):
        self.hub = hub

    def close(self, code, reason=b""):
        self.hub.log.append((code, reason))
        if self.hub.answers:
            del self.hub.open[self]


class FakeHub:
    """Connections that are gone as soon as they are closed, or never where `answers` is false."""

    def __init__(self, connections, answers=True):
        self.answers = answers
        self.log = []
        self.open = dict.fromkeys(FakeConnection(self) for _ in range(connections))

    def connections(self):
        return list(self.open)


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Take the waiting out of draining; return how long it would have taken, by the loop's clock too."""
    loop_time = [0.0]

    async def sleep(delay):
        loop_time[0] += delay

    class Loop:
        def time(self):
            return loop_time[0]

    monkeypatch.setattr(drain_module.asyncio, "sleep", sleep)
    monkeypatch.setattr(drain_module.asyncio, "get_running_loop", Loop)
    return loop_time


async def test_everybody_is_told_once_with_the_window(slept):
    hub = FakeHub(3)
    assert await drain(hub, Settings(), pending=set) == 0
    assert [code for code, _ in hub.log] == [1012] * 3
    assert {reason for _, reason in hub.log} == {b'{"r":"drain","min":500,"max":15000}'}
    assert slept == [0.0]


async def test_nobody_there_takes_no_time(slept):
    assert await drain(FakeHub(0), Settings(), pending=set) == 0
    assert slept == [0.0]


async def test_many_are_told_in_slices_within_half_of_the_time(slept):
    hub = FakeHub(100_000)
    told = []
    assert await drain(hub, Settings(drain_timeout_s=20), pending=set, on_asked=told.append) == 0
    assert len(hub.log) == sum(told) == 100_000
    assert len(told) > 100
    assert 9 < slept[0] <= 10


async def test_those_who_never_answer_are_given_up_at_the_deadline(slept):
    hub = FakeHub(7, answers=False)
    assert await drain(hub, Settings(drain_timeout_s=3), pending=set) == 7
    assert slept[0] == pytest.approx(3, abs=0.1)


async def test_what_is_under_way_is_waited_for_before_anybody_is_closed(monkeypatch):
    monkeypatch.undo()  # real time: there is a real task
    hub = FakeHub(1)
    answered = asyncio.Event()

    async def handler():
        await answered.wait()
        hub.log.append("answered")

    task = asyncio.get_running_loop().create_task(handler())
    asyncio.get_running_loop().call_soon(answered.set)
    await drain(hub, Settings(), pending=lambda: {task})
    assert hub.log[0] == "answered"
    assert hub.log[1][0] == 1012


@pytest.mark.parametrize(
    ("connections", "window"), [(0, (500, 15_000)), (1000, (500, 15_000)), (400_000, (500, 50_500))]
)
def test_the_window_is_as_wide_as_the_return_of_all_needs(connections, window):
    assert reconnect_window(Settings(), connections) == window
    reason = {"r": "drain", "min": window[0], "max": window[1]}
    assert len(json.dumps(reason)) <= 123


@pytest.mark.parametrize(
    ("connections", "timeout_s", "size"),
    [(0, 20, 100), (10, 20, 100), (100_000, 20, 500), (100_000, 0.01, 100_000)],
)
def test_a_slice_is_as_large_as_the_time_demands(connections, timeout_s, size):
    assert slice_size(connections, timeout_s) == size
