"""The scaling signal: when it changes and when it does not, and the webhook that a real receiver gets."""

import asyncio
import hmac
import http.server
import json
import queue
import threading

import pytest

from realtime.backends.http_post import notify
from realtime.edge.autoscale import SIGNATURE, Autoscaler, Signal, Thresholds, Trigger
from realtime.edge.load import Load, LoadMeter
from realtime.errors import SettingsError
from realtime.loading import load as load_settings
from realtime.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"
PATIENCE_S = 20.0


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def monotonic_ns(self):
        return int(self.now * 1e9)

    def time(self):
        return self.now + 1_700_000_000


def used(ratio, lag_s=0.0, resource="loop"):
    return Load({"loop": 0.0, "cpu": 0.0, "connections": 0.0, "accepts": 0.0, resource: ratio}, lag_s)


class World:
    """A trigger of 0.8 and 0.2, 100 ms, 60 s, and its clock."""

    def __init__(self):
        self.clock = Clock()
        self.trigger = Trigger(Thresholds(up=0.8, down=0.2, lag_s=0.1, after_s=60.0), self.clock)
        self.changes = []

    def run(self, seconds, load):
        """Show the same load once a second; return the signal after it."""
        for _ in range(seconds):
            self.clock.now += 1.0
            change = self.trigger.look(load)
            if change is not None:
                self.changes.append(change)
        return self.trigger.signal


def test_it_rises_after_so_long_over_the_threshold_and_says_why():
    world = World()
    assert world.run(60, used(0.8)) is Signal.STEADY
    assert world.run(1, used(0.9, resource="accepts")) is Signal.UP
    assert [(c.signal, c.previous, c.reason) for c in world.changes] == [
        (Signal.UP, Signal.STEADY, "accepts")
    ]


def test_a_moment_below_it_starts_the_time_anew():
    world = World()
    for _ in range(5):
        assert world.run(59, used(0.95)) is Signal.STEADY
        assert world.run(1, used(0.7)) is Signal.STEADY
    assert world.changes == []


def test_a_late_loop_is_reason_enough():
    world = World()
    assert world.run(61, used(0.1, lag_s=0.15)) is Signal.UP
    assert world.changes[0].reason == "loop_lag"


def test_once_up_it_stays_until_it_is_well_below():
    world = World()
    world.run(61, used(0.9))
    assert world.run(600, used(0.7)) is Signal.UP  # 0.65 is a quarter of the way down
    assert world.run(600, used(0.5, lag_s=0.06)) is Signal.UP
    assert world.run(61, used(0.6)) is Signal.STEADY
    assert len(world.changes) == 2


def test_it_falls_later_and_ends_when_it_is_well_above():
    world = World()
    assert world.run(300, used(0.1)) is Signal.STEADY
    assert world.run(1, used(0.1)) is Signal.DOWN
    assert world.run(600, used(0.3)) is Signal.DOWN
    assert world.run(61, used(0.4)) is Signal.STEADY
    assert [c.signal for c in world.changes] == [Signal.DOWN, Signal.STEADY]


def test_from_down_to_up_it_goes_through_steady():
    world = World()
    world.run(301, used(0.0))
    world.run(200, used(1.0))
    assert [c.signal for c in world.changes] == [Signal.DOWN, Signal.STEADY, Signal.UP]


def test_nobody_is_sent_home_where_that_is_off():
    clock = Clock()
    trigger = Trigger(Thresholds(up=0.8, down=0.0, lag_s=0.1, after_s=1.0), clock)
    for _ in range(100):
        clock.now += 1
        assert trigger.look(used(0.0)) is None


# -- what it is computed of ---------------------------------------------------------------------------------


def test_the_load_is_that_of_the_last_ten_seconds():
    now, spent = [0.0], [0.0, 0.0]
    meter = LoadMeter(
        lambda: now[0],
        connections_max=200,
        accepts_per_second=50,
        cores=2,
        thread_s=lambda: spent[0],
        process_s=lambda: spent[1],
    )
    for second in range(40):
        now[0] = float(second)
        busy = second < 20
        assert meter.tick(0.2 if busy else 0.001, 50, min(second, 20) * 25)
        assert not meter.tick(0.0, 50, 0), "once a second"
        if second == 19:
            assert meter.load.parts == {"loop": 0.5, "cpu": 0.5, "connections": 0.25, "accepts": 0.5}
            assert (meter.load.utilization, meter.load.lag_s) == (0.5, 0.2)
        if busy:
            spent[0] += 0.5
            spent[1] += 1.0
    assert meter.load.parts == {"loop": 0.0, "cpu": 0.0, "connections": 0.25, "accepts": 0.0}
    assert (meter.load.busiest, meter.load.lag_s) == ("connections", 0.001)


def test_what_is_not_limited_is_never_used_up():
    meter = LoadMeter(lambda: 1.0, connections_max=0, accepts_per_second=0)
    meter.tick(0.0, 10**6, 10**6)
    assert meter.load.utilization == 0.0


# -- the webhook --------------------------------------------------------------------------------------------


class Receiver:
    """An HTTP server that answers with the statuses it is given, then with 204."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.got = queue.Queue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.put((self.path, dict(self.headers), body))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.end_headers()

            def log_message(self, *args):
                """Nothing: the test says what it got."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/scale?of=edge"

    async def next(self):
        return await asyncio.to_thread(self.got.get, True, PATIENCE_S)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()


def scaler(receiver, clock, **how):
    settings = Settings(
        autoscale_webhook_url=receiver.url, autoscale_webhook_secret=SECRET, autoscale_after_s=60
    )
    return Autoscaler(settings, clock, notify, who="n", workers=lambda: 3, **how)


def bring(autoscaler, clock, load):
    """Let it be like that for long enough."""
    for _ in range(400):
        clock.now += 1.0
        autoscaler.look(load)


async def all_told(autoscaler):
    """Wait until there is nothing left to tell; return how often it was taken, and was not."""
    async with asyncio.timeout(PATIENCE_S):
        await autoscaler._webhook._task
    names = ("realtime_autoscale_webhooks_total", "realtime_autoscale_webhook_failures_total")
    return [values(autoscaler)[name] for name in names]


def values(autoscaler):
    return {metric.name: metric.samples[0].value for metric in autoscaler.metrics()}


async def test_a_change_is_told_once_and_signed(receiver):
    clock = Clock()
    autoscaler = scaler(receiver, clock)
    bring(autoscaler, clock, used(0.9))
    path, headers, body = await receiver.next()
    told = json.loads(body)
    assert path == "/scale?of=edge"
    assert (told["event"], told["signal"], told["previous"]) == ("autoscale", "up", "steady")
    assert (told["reason"], told["utilization"], told["workers"], told["from"]) == ("loop", 0.9, 3, "n")
    at, _, proof = headers[SIGNATURE].partition(",v1=")
    signed = at.removeprefix("t=").encode() + b"." + body
    assert hmac.compare_digest(proof, hmac.digest(SECRET.encode(), signed, "sha256").hex())
    assert await all_told(autoscaler) == [1, 0]
    bring(autoscaler, clock, used(0.9))
    bring(autoscaler, clock, used(0.5))
    assert json.loads((await receiver.next())[2])["signal"] == "steady"
    assert await all_told(autoscaler) == [2, 0]
    assert receiver.got.empty()
    autoscaler.close()


async def test_what_is_not_taken_is_told_again(receiver, monkeypatch):
    monkeypatch.setattr("realtime.edge.autoscale.BACK_OFF_MIN_S", 0.001)
    receiver.statuses += [500, 302, 404]
    clock = Clock()
    autoscaler = scaler(receiver, clock)
    bring(autoscaler, clock, used(0.9))
    bodies = [(await receiver.next())[2] for _ in range(4)]
    assert len(set(bodies)) == 1
    assert await all_told(autoscaler) == [1, 3]
    assert values(autoscaler)["realtime_autoscale_signal"] == 1
    autoscaler.close()


async def test_what_is_out_of_date_is_not_told_any_more(receiver):
    receiver.statuses += [503]
    clock = Clock()
    autoscaler = scaler(receiver, clock)
    bring(autoscaler, clock, used(0.9))
    assert json.loads((await receiver.next())[2])["signal"] == "up"
    bring(autoscaler, clock, used(0.5))
    assert json.loads((await receiver.next())[2])["signal"] == "steady"
    assert await all_told(autoscaler) == [1, 1]
    assert receiver.got.empty()
    autoscaler.close()


async def test_one_that_does_not_speak_keeps_its_signal_to_itself(receiver):
    clock = Clock()
    autoscaler = scaler(receiver, clock, speaks=lambda: False)
    bring(autoscaler, clock, used(0.9))
    assert values(autoscaler)["realtime_autoscale_signal"] == 1
    assert autoscaler._webhook._task is None
    assert receiver.got.empty()


@pytest.mark.parametrize(
    "environ",
    [
        {"REALTIME_AUTOSCALE_DOWN_RATIO": "0.75"},
        {"REALTIME_AUTOSCALE_WEBHOOK_URL": "http://127.0.0.1/x"},
        {
            "REALTIME_AUTOSCALE_WEBHOOK_URL": "http://127.0.0.1/x",
            "REALTIME_AUTOSCALE_WEBHOOK_SECRET": "short",
        },
        {"REALTIME_AUTOSCALE_WEBHOOK_URL": "file:///x", "REALTIME_AUTOSCALE_WEBHOOK_SECRET": SECRET},
        {"REALTIME_METRICS_PORT": "9000", "REALTIME_PORT": "9000"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(environ):
    with pytest.raises(SettingsError):
        load_settings(environ=environ)
