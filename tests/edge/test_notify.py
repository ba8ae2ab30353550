"""What systemd is told, read from a real NOTIFY_SOCKET: a Unix datagram socket, as systemd's own."""

import os
import time

import pytest

from realtime.edge import notify
from tests.edge.manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    with ServiceManager(tmp_path, abstract=request.param == "abstract") as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", listening.address)
        yield listening


def test_without_a_socket_nobody_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify.ready()


@pytest.mark.parametrize(
    ("say", "heard"),
    [
        (lambda: notify.ready(), {"READY": "1"}),
        (lambda: notify.ready("serves"), {"READY": "1", "STATUS": "serves"}),
        (lambda: notify.stopping(), {"STOPPING": "1"}),
        (lambda: notify.status("5 connections in 2 rooms"), {"STATUS": "5 connections in 2 rooms"}),
        (lambda: notify.status("two\nlines"), {"STATUS": "two lines"}),
        (lambda: notify.main_pid(4321), {"MAINPID": "4321"}),
        (lambda: notify.extend_timeout(1.5), {"EXTEND_TIMEOUT_USEC": "1500000"}),
        (lambda: notify.alive(), {"WATCHDOG": "1"}),
    ],
)
def test_each_word_is_one_datagram(manager, say, heard):
    assert say()
    message = manager.next()
    assert message.fields == heard
    assert message.pid == os.getpid()  # as the kernel says it, which is what systemd goes by


def test_a_reload_says_when_it_began_by_the_monotonic_clock(manager):
    before = time.monotonic_ns() // 1000
    assert notify.reloading("reads the policy")
    fields = manager.next().fields
    assert before <= int(fields.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert fields == {"RELOADING": "1", "STATUS": "reads the policy"}


def test_a_manager_that_is_gone_or_does_not_read_stops_nobody(manager, tmp_path, monkeypatch, caplog):
    while notify.alive():  # until its queue is full
        pass
    began = time.monotonic()
    assert not notify.notify("READY=1", wait_s=0.05)
    assert time.monotonic() - began >= 0.05
    assert "READY=1: its queue is full" in caplog.text
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not notify.ready()
    assert "systemd was not told READY=1" in caplog.text
    monkeypatch.setenv("NOTIFY_SOCKET", "vsock:2:1234")
    assert not notify.ready()
    assert "neither a path nor an abstract name" in caplog.text


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "10000000"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 10.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, 0.0),  # another's
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_ours_where_it_names_us_or_nobody(environ, seconds):
    assert notify.watchdog_s(environ, 7) == seconds


def test_who_takes_over_talks_to_systemd_and_a_child_does_not():
    ours = {
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "7",
        "LISTEN_FDS": "1",
        "LISTEN_PID": "7",
        "LISTEN_FDNAMES": "http",
        "REDIS_URL": "redis://r",
    }
    assert notify.for_successor(ours) == {
        "NOTIFY_SOCKET": "@x",
        "WATCHDOG_USEC": "1",
        "REDIS_URL": "redis://r",
    }
    assert notify.for_child(ours) == {"REDIS_URL": "redis://r"}


class Timer:
    def __init__(self, due, callback):
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Timers:
    """A loop of timers alone, by a clock that stands where it is put."""

    def __init__(self):
        self.now = 0.0
        self.timers = []

    def time(self):
        return self.now

    def call_later(self, delay_s, callback):
        self.timers.append(Timer(self.now + delay_s, callback))
        return self.timers[-1]

    def advance(self, seconds):
        end = self.now + seconds
        while due := [each for each in self.timers if each.due <= end and not each.cancelled]:
            first = min(due, key=lambda each: each.due)
            self.timers.remove(first)
            self.now = first.due
            first.callback()
        self.now = end


def beats(manager):
    return [message.fields for message in manager.all()]


def test_it_beats_thrice_a_period_only_while_the_work_goes_on(manager):
    loop, work = Timers(), [0]
    heart = notify.Heartbeat(loop, lambda: work[0], lambda: "idle", watchdog_s=3.0)
    heart.start()
    assert beats(manager) == [{"WATCHDOG": "1"}, {"STATUS": "idle"}]
    work[0] += 1
    loop.advance(1.0)
    assert beats(manager) == [{"WATCHDOG": "1"}]
    loop.advance(5.0)  # the loop turns and nothing is done: systemd hears nothing, and acts
    assert beats(manager) == []
    work[0] += 1
    loop.advance(1.0)
    assert beats(manager) == [{"WATCHDOG": "1"}]
    heart.stop()
    work[0] += 1
    loop.advance(5.0)
    assert beats(manager) == []


def test_the_status_is_said_when_it_has_changed_and_not_too_often(manager):
    loop, work, said = Timers(), [0], ["0 connections"]
    heart = notify.Heartbeat(loop, lambda: work[0], lambda: said[0], watchdog_s=0.0, status_interval_s=5.0)
    heart.start()
    assert beats(manager) == [{"STATUS": "0 connections"}]
    said[0] = "1 connection"
    work[0] += 1
    loop.advance(4.9)
    assert beats(manager) == []
    loop.advance(0.1)
    assert beats(manager) == [{"STATUS": "1 connection"}]
    work[0] += 1
    loop.advance(5.0)
    assert beats(manager) == []  # as before
    heart.stop()


def test_the_heart_of_who_is_no_service_does_not_run(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    loop = Timers()
    notify.Heartbeat(loop, lambda: 0, lambda: "", watchdog_s=3.0).start()
    loop.advance(10.0)
    assert loop.timers == []


def test_sockets_do_not_leak(manager):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        notify.alive()
    assert len(os.listdir("/proc/self/fd")) == before
