"""`realtime bench` against real servers: counts that come out, sane times, failures that are said."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys

import msgspec
import pytest
from rich.console import Console

from realtime.client.bench.calibrate import push
from realtime.client.bench.coordinator import BenchFailed, run
from realtime.client.bench.generator import Generator
from realtime.client.bench.page import page
from realtime.client.bench.plan import Calibrated, Plan, Progress, Start
from realtime.client.bench.plot import Line, plot
from realtime.client.bench.result import alone, latency, limits
from realtime.client.bench.screen import Screen, calibration, summary
from realtime.client.bench.subject import Subject, find, read_metrics
from realtime.native.tally import Histogram, Peer, Tally
from tests.certificates import Authority
from tests.tree import ROOT


def plan_of(url, **changes):
    plan = {
        "url": url,
        "connections": 20,
        "rooms": 4,
        "rate": 200.0,
        "publishers": 20,
        "duration_s": 1.0,
        "warmup_s": 0.5,
        "payload_bytes": 64,
        "kind": "events",
        "type": "publish",
        "processes": 2,
        "arrivals_per_second": 500.0,
        "patience_s": 30.0,
        "run": f"t{os.urandom(3).hex()}",
    }
    return Plan(**{**plan, **changes})


def command(*arguments, **variables):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return subprocess.run(
        [sys.executable, "-m", "realtime", "bench", *arguments],
        cwd=ROOT,
        env={**environ, **variables},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def test_everything_arrives_once_in_order_and_is_counted(server):
    """300 messages are due in 1.5 s; each goes to the five members of its room."""
    result = await run(plan_of(server.ws_url), [], Subject([server.pid], []))
    assert result.ok, result
    assert result.connections == 20
    assert result.sent == result.acked == 300
    assert result.delivered == result.expected == 1500
    assert (result.lost, result.duplicated, result.gaps, result.unsent) == (0, 0, 0, 0)
    assert result.sent_per_s == 200
    assert result.delivered_per_s == 1000
    assert result.delivery.count == 1000  # those that were due in the measured second
    assert result.ack.count == 200
    for each in (result.connect, result.join, result.ack, result.delivery, result.late):
        assert 0 < each.p50 <= each.p90 <= each.p99 <= each.p999 <= each.max
        assert each.max < 60_000
        assert [span for _, span in each.curve] == sorted(span for _, span in each.curve)
    assert result.delivery.max >= result.delivery.p50 > 0.01  # no message is there before it was sent
    assert sum(second.sent for second in result.seconds) == 300
    assert result.server.processes == 1
    assert result.server.cpu_share > 0
    assert result.server.cpu_us_per_connect > 0
    assert result.server.cpu_us_per_connection_s > 0
    made = result.generator
    assert len(made.cpu_share) == len(made.waited_share) == len(made.calibrated) == 2
    assert all(share > 0 for share in made.cpu_share)
    assert all(each.send_us > 0 and each.read_us > 0 and not each.failed for each in made.calibrated)
    assert made.messages_per_s == alone(result.plan, made.calibrated) > 0
    assert made.loop_lag.count > 0
    assert made.verdict in summary(result)


async def test_rooms_of_unlike_size_and_few_publishers_come_out_too(server):
    result = await run(
        plan_of(server.ws_url, connections=7, rooms=3, publishers=2, rate=40.0), [], Subject([], [])
    )
    assert result.ok, result
    assert result.sent == 60
    assert result.expected == 30 * 3 + 30 * 2  # connection 0 has two others in its room, 1 has one
    assert result.server is None


async def test_without_a_rate_it_only_connects(server):
    result = await run(plan_of(server.ws_url, rate=0.0), [], Subject([], []))
    assert result.ok, result
    assert result.sent == result.delivered == result.delivery.count == 0
    assert result.connect.count == 20


async def test_a_server_that_stands_still_is_seen_in_the_percentiles(serve):
    """Time runs from when messages were due: a second of standing still delays each that was due in it."""
    server = serve()

    def heed(progress):
        if progress.second == 1:
            os.kill(server.pid, signal.SIGSTOP)
        elif progress.second == 2:
            os.kill(server.pid, signal.SIGCONT)

    plan = plan_of(server.ws_url, duration_s=3.0, warmup_s=0.0, processes=1)
    result = await run(plan, [], Subject([], []), heed)
    assert result.ok, result
    assert result.delivery.max > 900
    # A third of all was due meanwhile: a load that waited for answers would have sent one of them.
    assert result.delivery.p90 > 300


async def test_a_server_that_dies_is_no_success(serve):
    server = serve()

    def heed(progress):
        if progress.second == 1:
            server.kill()

    result = await run(plan_of(server.ws_url, duration_s=2.0, processes=1), [], Subject([], []), heed)
    assert not result.ok
    assert sum(result.closed.values()) == 20
    assert result.unsent > 0


async def test_errors_that_the_server_answers_are_counted_by_name(serve):
    server = serve(messages_per_second=1, messages_burst=5, errors_burst=1000)
    result = await run(plan_of(server.ws_url, connections=2, rooms=1, publishers=2), [], Subject([], []))
    assert not result.ok
    assert list(result.errors) == ["rate_limited"]
    assert result.lost > 0


async def test_nobody_let_in_says_why(serve):
    server = serve(jwt_secret="0123456789abcdef0123456789abcdef")
    with pytest.raises(BenchFailed, match=r"nobody was let in: .*(not let in|closed|refused)"):
        await run(plan_of(server.ws_url), ["no.token.atall"], Subject([], []))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(BenchFailed, match="cannot connect"):
        await run(plan_of(f"ws://127.0.0.1:{port}/ws"), [], Subject([], []))


async def test_tokens_are_signed_for_each_connection_and_tls_is_checked(serve, tmp_path):
    secret = "0123456789abcdef0123456789abcdef"
    authority = Authority(tmp_path)
    pair = authority.sign("localhost")
    with socket.create_server(("127.0.0.1", 0)) as free:
        tls_port = free.getsockname()[1]
    serve(jwt_secret=secret, tls_port=tls_port, **pair.settings())
    url, out = f"wss://localhost:{tls_port}/ws", tmp_path / "out"
    common = (url, "--connections", "8", "--rooms", "2", "--rate", "50", "--duration", "1", "--warmup", "0")
    done = await asyncio.to_thread(
        command, *common, "--ca", str(authority.certificate), "--out", str(out), REALTIME_JWT_SECRET=secret
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["ok"]
    assert told["delivered"] == told["expected"] == 200
    assert told["machine"].keys() >= {"kernel", "commit", "processor", "cores", "memory", "load average"}
    assert told["generator"].keys() >= {"cpu_share", "waited_share", "loop_lag", "calibrated", "verdict"}
    assert secret not in (tmp_path / "out.json").read_text() + (tmp_path / "out.html").read_text()
    done = await asyncio.to_thread(command, *common, "--out", str(out), REALTIME_JWT_SECRET=secret)
    assert done.returncode == 1
    assert "nobody was let in" in done.stderr


def test_on_no_terminal_it_prints_a_line_a_second(server, tmp_path):
    out = tmp_path / "out"
    done = command(server.ws_url, "--connections", "4", "--rate", "20", "--duration", "2", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    first, said, *lines = done.stderr.splitlines()
    assert first.startswith("connecting 4 to ws://")
    assert re.fullmatch(
        r"the generator alone can make [\d,]+ messages/s of this load; 20 are asked for", said
    )
    assert lines[0].split()[:2] == ["second", "connected"]
    rows = [line.split() for line in lines[1:4]]
    assert [row[:2] for row in rows] == [[str(number), "4"] for number in (1, 2, 3)]
    assert sum(int(row[2]) for row in rows) == 60  # one may fall to either side of a second's end
    assert "\x1b" not in done.stderr
    assert f"wrote {out}.json and {out}.html" in done.stdout
    assert "lost 0, twice 0, gaps 0, unsent 0" in done.stdout
    assert "server: " in done.stdout  # it was found by its port
    assert "The generator was " in done.stdout


def test_on_a_terminal_it_draws_a_table_anew_each_second():
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    plan = plan_of("ws://x/ws", processes=2)
    quiet = [0], [0], [0], 0.1
    with Screen(plan, console) as screen:
        for second in (1, 2):
            for process in (0, 1):
                screen.heed(Progress(process, second, 10, 50 * second, 250 * second, 50, 0, *quiet))
        screen.heed(Progress(0, 3, 10, 150, 750, 50, 0, *quiet))  # the other has not told of it yet
    text = shown.getvalue()
    assert "\x1b[" in text
    assert "ws://x/ws: 20 connections, 4 rooms, 200 messages/s" in text
    last = text.rpartition("delivered/s")[2]
    assert ["2", "20", "100", "500"] in [line.split()[1::2][:4] for line in last.splitlines()]
    assert not any(line.split()[1:2] == ["3"] for line in last.splitlines())


@pytest.mark.parametrize("arguments", [["http://x/"], ["ws://x/", "--rate", "-1"], ["ws://x:99999/"], []])
def test_a_wrong_command_line_is_one_line_and_2(arguments):
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_busy_generator_says_that_it_is_the_limit():
    slow, quick = took(8_000_000), took(100_000)
    busy, waited, late = limits(slow, slow, busy=0.97, waited=0.3)
    assert busy.startswith("the generator was busy 97 % of its core: the server may do more")
    assert waited.startswith("the generator waited 30 % of the time for a core")
    assert "sent 8.0 ms late" in late
    (looked,) = limits(quick, slow, busy=0.5, waited=0.05)
    assert "looked 8.0 ms late" in looked
    assert limits(quick, quick, busy=0.5, waited=0.05) == []


def took(ns):
    found = Histogram()
    found.record(ns)
    return latency([found.dump()])


@pytest.mark.parametrize(("size", "rooms"), [(26, 20), (128, 4), (70_000, 4), (4_000_000, 1)])
async def test_a_generator_says_what_it_can_do_by_itself(size, rooms):
    plan = plan_of("ws://nowhere/ws", payload_bytes=size, rooms=rooms, processes=1)
    found = await Generator(Start(plan, 0, []), lambda said: None).calibrate()
    assert not found.failed
    assert found.send_us > 0.1  # a system call at least
    assert found.read_us > 0.1
    most = alone(plan, [found])
    assert most == pytest.approx(1e6 / (found.send_us + found.read_us * (1 + 20 / rooms)), rel=0.01)


@pytest.mark.parametrize("size", [26, 128, 70_000])
def test_what_it_reads_of_itself_is_what_a_server_would_send(size):
    plan, tally = plan_of("ws://nowhere/ws", payload_bytes=size), Tally()
    peer = Peer(tally, b"", b"", b"")
    peer.joined = True
    assert peer.receive(push(plan, 1) + push(plan, 2)) is None
    assert (tally.delivered, tally.duplicated, tally.skipped, tally.others) == (2, 0, 0, 0)


def test_what_it_can_do_is_held_against_what_is_asked_for():
    able = [Calibrated(10.0, 5.0), Calibrated(10.0, 5.0)]
    plan = plan_of("ws://x/ws", processes=1, rate=20_000.0)  # each message is 10 + 6 x 5 us
    assert calibration(plan, able[:1]) == (
        "the generator alone can make 25,000 messages/s of this load; 20,000 are asked for"
    )
    much = msgspec.structs.replace(plan, rate=24_000.0)
    assert "24,000 are asked for: IT WILL BE THE LIMIT" in calibration(much, able[:1])
    assert "could not be calibrated: no room" in calibration(plan, [Calibrated(0.0, 0.0, "no room")])
    assert "others have all the time" in calibration(plan, [Calibrated(0.0, 0.0)])
    assert calibration(msgspec.structs.replace(plan, calibrate=False), [Calibrated(0.0, 0.0, "no")]) == ""


async def test_without_calibration_there_is_none(server):
    result = await run(plan_of(server.ws_url, rate=0.0, duration_s=0.2, calibrate=False), [], Subject([], []))
    assert result.ok, result
    assert [each.failed for each in result.generator.calibrated] == ["not asked for"] * 2
    assert result.generator.messages_per_s == 0


def test_the_server_is_found_where_it_listens_and_only_on_this_machine(server):
    assert find("127.0.0.1", server.port) == [server.pid]
    assert find("192.0.2.1", server.port) == []


def test_metrics_of_a_worker_are_read():
    text = 'process_cpu_seconds_total{node="a"} 1.5\nrealtime_process_resident_memory_bytes 2e6\n'
    assert read_metrics(text) == (1.5, 2_000_000)
    with pytest.raises(ValueError, match="no process metrics"):
        read_metrics("up 1\n")


async def test_the_page_holds_nothing_that_somebody_else_wrote_as_markup(server):
    result = await run(plan_of(server.ws_url, rate=0.0, duration_s=0.2), [], Subject([], []))
    told = msgspec.structs.replace(result, errors={"<script>alert(1)</script>": 1})
    assert "<script" not in page(told)


def test_a_plot_without_points_says_so():
    assert "nothing was measured" in plot("Delivered", [Line("x", [], 0)], x_name="s", y_name="n")
