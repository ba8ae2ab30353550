"""The aggregate of a supervisor: sums that never fall, gauges apart, and workers that die or stand still."""

import asyncio
import os
import signal
import socket
import subprocess

import pytest

from realtime.edge.aggregate import ExpositionError, Tally, merged, parse
from realtime.edge.fleet import Fleet
from tests.edge.peer import PATIENCE_S, get
from tests.edge.workers import (
    deployment,
    enter,
    hang_up,  # noqa: F401 - a fixture
    hear,
    on_each,
    say,
    until_ready,
    worker_pids,
)

ROOM = "events:lobby"


def told(counted, connections, latency=(1, 2), label='code="a"'):
    """What a worker would tell."""
    return (
        f'# HELP c_total Counted.\n# TYPE c_total counter\nc_total{{node="n",worker="w",{label}}} {counted}\n'
        f'# HELP g Now.\n# TYPE g gauge\ng{{node="n",worker="w"}} {connections}\n'
        "# HELP h_seconds Took.\n# TYPE h_seconds histogram\n"
        f'h_seconds_bucket{{le="0.1"}} {latency[0]}\nh_seconds_bucket{{le="+Inf"}} {latency[1]}\n'
        f"h_seconds_sum 0.5\nh_seconds_count {latency[1]}\n"
    )


class Told:
    """A worker process that tells `text`, or nothing in time."""

    def __init__(self, pid, text):
        self.pid = pid
        self.text = text

    async def metrics(self, timeout_s):
        if self.text is None:
            raise TimeoutError("no answer")
        return self.text


def lines(*tallies):
    return [line for line in merged(dict(enumerate(tallies, 1))) if not line.startswith("#")]


def tally(*texts, up=True):
    made = Tally()
    for pid, text in enumerate(texts, 100):
        made.take(pid, parse(text))
    made.up = up
    return made


def test_counters_and_histograms_are_added_up_and_gauges_stand_side_by_side():
    assert lines(tally(told(3, 10)), tally(told(4, 20, (2, 5)))) == [
        'c_total{code="a"} 7',
        'g{worker="1"} 10',
        'g{worker="2"} 20',
        'h_seconds_bucket{le="0.1"} 3',
        'h_seconds_bucket{le="+Inf"} 7',
        "h_seconds_sum 1.0",
        "h_seconds_count 7",
    ]


def test_a_sum_does_not_fall_when_a_worker_is_started_again():
    assert lines(tally(told(3, 10)), tally(told(4, 20), told(1, 0)))[0] == 'c_total{code="a"} 8'
    assert lines(tally(told(5, 0), told(1, 0), told(2, 0)))[0] == 'c_total{code="a"} 8'


def upgraded(handovers, moved, served):
    """What a worker would tell after so many hand-overs, which its counts of them have come by."""
    return "".join(
        f"# HELP {name} x\n# TYPE {name} counter\n{name} {value}\n"
        for name, value in (
            ("realtime_handovers_total", handovers),
            ("realtime_handover_connections_adopted_total", moved),
            ("realtime_messages_received_total", served),
        )
    )


def test_what_a_process_hands_on_to_the_next_is_counted_once():
    assert lines(tally(upgraded(0, 0, 10), upgraded(1, 500, 20), upgraded(2, 1000, 30))) == [
        "realtime_handovers_total 2",
        "realtime_handover_connections_adopted_total 1000",
        "realtime_messages_received_total 60",
    ]
    # The second died: the one in its place begins with nothing.
    assert lines(tally(upgraded(0, 0, 10), upgraded(1, 500, 20), upgraded(0, 0, 30)))[:2] == [
        "realtime_handovers_total 1",
        "realtime_handover_connections_adopted_total 500",
    ]


def test_pauses_of_hand_overs_are_counted_once():
    def paused(handovers, short):
        name = "realtime_handover_pause_seconds"
        return upgraded(handovers, 0, 0) + (
            f"# HELP {name} x\n# TYPE {name} histogram\n"
            f'{name}_bucket{{le="0.1"}} {short}\n{name}_bucket{{le="+Inf"}} {handovers}\n'
            f"{name}_sum {handovers / 2}\n{name}_count {handovers}\n"
        )

    assert lines(tally(paused(0, 0), paused(1, 1), paused(2, 1)))[-4:] == [
        'realtime_handover_pause_seconds_bucket{le="0.1"} 1',
        'realtime_handover_pause_seconds_bucket{le="+Inf"} 2',
        "realtime_handover_pause_seconds_sum 1.0",
        "realtime_handover_pause_seconds_count 2",
    ]


async def test_an_upgrade_is_no_restart_and_one_that_never_spoke_is():
    children = {1: Told(11, upgraded(0, 0, 1))}
    now = [0.0]
    fleet = Fleet(1, lambda: children, clock=lambda: now[0])
    for pid, text, restarts in (
        (11, upgraded(0, 0, 1), 0),
        (12, upgraded(1, 5, 1), 0),
        (13, upgraded(0, 0, 1), 1),
        (14, None, 1),
        (15, upgraded(0, 0, 1), 3),
    ):
        children[1] = Told(pid, text)
        now[0] += 10.0
        await fleet.look()
        assert f'realtime_worker_restarts_total{{worker="1"}} {restarts}' in fleet.exposition().decode()


def test_one_that_is_down_stays_in_the_sums_and_has_no_gauges():
    told_last = lines(tally(told(3, 10)), tally(told(4, 20), up=False))
    assert told_last[:3] == ['c_total{code="a"} 7', 'g{worker="1"} 10', 'h_seconds_bucket{le="0.1"} 2']


def test_labels_are_kept_as_they_are_written():
    label = 'x="a\\"b\\\\,c}"'
    assert lines(tally(told(1, 1, label=label)))[0] == f"c_total{{{label}}} 1"


@pytest.mark.parametrize(
    "text", ["c_total 1\n", "# TYPE c counter\nc{ 1\n", "# TYPE c counter\nc one\n", "# TYPE c"]
)
def test_what_is_no_exposition_is_refused(text):
    with pytest.raises(ExpositionError):
        parse(text)


async def test_a_worker_that_is_gone_silent_or_strange_is_down_and_the_others_are_told_of():
    children = {1: Told(11, told(3, 10)), 2: Told(12, None), 3: Told(13, "nonsense\n")}
    now = [0.0]
    fleet = Fleet(4, lambda: children, clock=lambda: now[0])
    await fleet.look()
    text = fleet.exposition().decode().splitlines()
    assert [line[-1] for line in text if line.startswith("realtime_worker_up{")] == ["1", "0", "0", "0"]
    assert 'c_total{code="a"} 3' in text
    children[1] = Told(21, told(1, 5))
    await fleet.look()
    assert 'c_total{code="a"} 3' in fleet.exposition().decode(), "it has just been asked"
    now[0] = 10.0
    await fleet.look()
    text = fleet.exposition().decode().splitlines()
    assert 'c_total{code="a"} 4' in text
    assert 'realtime_worker_restarts_total{worker="1"} 1' in text


# -- a real supervisor --------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def scrape(port):
    """The samples of the aggregate, by name and labels as they are written."""
    status, headers, body = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = [line.rpartition(" ") for line in body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in samples}


async def until(port, holds):
    async with asyncio.timeout(4 * PATIENCE_S):
        while not holds(samples := await scrape(port)):
            pass
        return samples


@pytest.mark.timeout(180)
async def test_a_supervisor_tells_of_all_its_workers_whatever_becomes_of_one(serve, redis_cluster):
    port = free_port()
    server = serve(**deployment(redis_cluster.url, workers=2, node="n", metrics_port=port))
    await until_ready(server)
    both = await on_each(server)
    for ws in both.values():
        await enter(ws, ROOM)
    for n in range(20):
        await say(both["n-1"], ROOM, n)
        await hear(both["n-2"], ROOM, 1)  # what comes at once would be one send
    samples = await until(port, lambda now: now.get("realtime_delivery_latency_seconds_count", 0) >= 20)
    assert samples['realtime_worker_up{worker="1"}'] == samples['realtime_worker_up{worker="2"}'] == 1
    assert samples['realtime_members{worker="1"}'] == samples['realtime_members{worker="2"}'] == 1
    assert samples["realtime_redis_command_seconds_count"] > 0
    assert samples["realtime_handshake_seconds_count"] >= 2
    messages = samples["realtime_messages_received_total"]
    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=(await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metrics"))[2],
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    pids = worker_pids(server)
    os.kill(pids[2], signal.SIGSTOP)
    try:
        samples = await until(port, lambda now: now['realtime_worker_up{worker="2"}'] == 0)
        assert samples['realtime_worker_up{worker="1"}'] == 1
        assert samples["realtime_messages_received_total"] >= messages
    finally:
        os.kill(pids[2], signal.SIGCONT)
    await until(port, lambda now: now['realtime_worker_up{worker="2"}'] == 1)
    os.kill(pids[2], signal.SIGKILL)
    samples = await until(port, lambda now: now['realtime_worker_restarts_total{worker="2"}'] == 1)
    await until(port, lambda now: now['realtime_worker_up{worker="2"}'] == 1)
    samples = await until(port, lambda now: now['realtime_worker_up{worker="1"}'] == 1)
    assert samples["realtime_messages_received_total"] >= messages
    status, _, body = await asyncio.to_thread(get, f"http://127.0.0.1:{port}/ready")
    assert (status, body) == (200, b'{"ok":true,"workers":2}\n')
    assert (await asyncio.to_thread(get, f"http://127.0.0.1:{port}/metricsx"))[0] == 404
