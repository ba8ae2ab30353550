"""The scaling signal: when it changes and when it does not, and the webhook that a real receiver gets."""

import asyncio
import hmac
import http.server
import json
import queue
import re
import threading
import time

import pytest

from realtime.backends.http_post import notify
from realtime.edge.autoscale import SIGNATURE, Autoscaler, Signal, Thresholds, Trigger, signature
from realtime.edge.load import Load, LoadMeter
from realtime.errors import SettingsError
from realtime.loading import load as load_settings
from realtime.settings import Settings
from tests.edge.peer import metric
from tests.edge.workers import deployment
from tests.tree import ROOT

SECRET = "0123456789abcdef0123456789abcdef"
PATIENCE_S = 40.0


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


async def test_one_that_comes_to_speak_tells_of_what_it_asks_for(receiver):
    clock, speaks = Clock(), [False]
    autoscaler = scaler(receiver, clock, speaks=lambda: speaks[0])
    bring(autoscaler, clock, used(0.9))
    speaks[0] = True
    bring(autoscaler, clock, used(0.9))
    told = json.loads((await receiver.next())[2])
    assert (told["signal"], told["previous"], told["reason"]) == ("up", "steady", "loop")
    assert await all_told(autoscaler) == [1, 0]
    speaks[0] = False
    bring(autoscaler, clock, used(0.5))
    speaks[0] = True
    bring(autoscaler, clock, used(0.5))  # it asks for nothing, and so has nothing to tell
    assert await all_told(autoscaler) == [1, 0]
    assert receiver.got.empty()


async def test_a_server_tells_of_its_load(serve, receiver):
    serve(**eager(receiver))
    told = json.loads((await receiver.next())[2])
    assert (told["signal"], told["workers"]) == ("up", 1)
    assert told["resources"]["loop"] >= 0.0001


async def test_of_supervised_workers_the_supervisor_tells_and_nobody_else(serve, receiver, redis_cluster):
    serve(**deployment(redis_cluster.url, workers=2, node="edge", **eager(receiver)))
    told = json.loads((await receiver.next())[2])
    assert (told["signal"], told["from"], told["workers"]) == ("up", "edge", 2)
    assert receiver.got.empty()


def eager(receiver):
    """Settings by which any server has too much to do."""
    return {
        "autoscale_up_ratio": 0.0001,
        "autoscale_down_ratio": 0,
        "autoscale_after_s": 0.5,
        "autoscale_webhook_url": receiver.url,
        "autoscale_webhook_secret": SECRET,
    }


# -- what the page says to do -------------------------------------------------------------------------------


def block(language):
    """The code block of docs/autoscaling.md in that language."""
    page = (ROOT / "docs" / "autoscaling.md").read_text(encoding="utf-8")
    return re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]


def test_the_receiver_of_the_page_takes_what_is_ours_and_nothing_else():
    names = {}
    exec(block("python"), names)
    is_ours, body, now = names["is_ours"], b'{"signal":"up"}', str(int(time.time()))
    assert is_ours(SECRET.encode(), signature(SECRET.encode(), now, body), body)
    old = str(int(time.time()) - 1000)
    for header in (
        signature(b"another", now, body),
        signature(SECRET.encode(), now, b"{}"),
        signature(SECRET.encode(), old, body),
        *("", "t=1", "v1=00", "t=x,v1=00", f"t={now},v1=zz", f"t={now},v1=\u00e9", "t=1=2,v1"),
    ):
        assert not is_ours(SECRET.encode(), header, body), header


# By a worker's signal: what makes it so, and what is done where so many of four run.
STEPS = {
    1: (
        {"autoscale_up_ratio": 0.0001, "autoscale_down_ratio": 0, "autoscale_after_s": 0.5},
        {
            1: "start realtime@1.socket realtime@1.service",
            3: "start realtime@3.socket realtime@3.service",
            4: "",
        },
    ),
    0: ({}, {1: "", 2: "", 4: ""}),
    -1: (
        {"autoscale_up_ratio": 1.0, "autoscale_down_ratio": 0.99, "autoscale_after_s": 0.2},
        {1: "", 2: "stop realtime@1.socket realtime@1.service"},
    ),
}
# What stands in for systemd says which units run, and notes what it is told.
SYSTEMCTL = """#!/bin/sh
if [ "$1" = list-units ]; then cat "$UNITS"; else echo "$@" >> "$TOLD"; fi
"""


@pytest.mark.parametrize("signal", STEPS)
async def test_the_script_of_the_page_takes_one_step(serve, tmp_path, signal):
    how, steps = STEPS[signal]
    server = serve(**how, autoscale_lag_ms=60_000)
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(metric, server, "autoscale_signal") != signal:
            continue
    programs = {"systemctl": SYSTEMCTL, "nproc": "#!/bin/sh\necho 4\n", "realtime-scale": block("sh")}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    for running, wanted in steps.items():
        units, told = tmp_path / "units", tmp_path / f"told{running}"
        units.write_text("".join(f"realtime@{n}.service loaded active running x\n" for n in range(running)))
        told.touch()
        environ = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "METRICS": f"{server.url}/metrics",
            "UNITS": str(units),
            "TOLD": str(told),
        }
        script = await asyncio.create_subprocess_exec(tmp_path / "realtime-scale", env=environ)
        assert await script.wait() == 0
        assert told.read_text().strip() == wanted, running


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
