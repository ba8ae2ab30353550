"""The benchmarks run, and every delivery they count has come: a short run, which judges no time."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("question", ["uncoalesced", "ack", "saturated", "slow"])
def test_a_short_run_loses_nothing(question: str):
    command = [sys.executable, "-m", "bench", question, "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "realtime" in done.stdout or "fast members" in done.stdout, done.stdout


def test_a_short_run_of_the_stores_finds_every_row():
    command = [sys.executable, "-m", "bench.store", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rows/s") == 9


def test_a_short_run_of_what_redis_sends_loses_nothing():
    command = [sys.executable, "-m", "bench.redis_receive", "--short"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("us CPU a message") == 6


def test_a_short_run_of_arrivals_counts_each_of_them():
    command = [sys.executable, "-m", "bench.arrivals", "--short", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("us CPU a connection") == 5
    assert done.stdout.count("look-ups in") == 6


@pytest.mark.parametrize(
    ("module", "arguments", "figures"),
    [
        ("bench.storm", [], "handshakes/s"),
        ("bench.durable", ["--only", "memory,sqlite-normal,sqlite-full"], "acked/s"),
        ("bench.redis_publish", [], "us in the function"),
        ("bench.tls", [], "bytes a connection"),
        ("bench.sealing", ["--only", "boxes,sqlite"], "of plain"),
        ("bench.audit", [], "entries/s"),
        ("bench.chat", ["--only", "embedded"], "on the other's screen"),
    ],
)
def test_a_short_run_of_what_is_kept_finds_all_of_it(module: str, arguments: list[str], figures: str):
    command = [sys.executable, "-m", module, "--short", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures in done.stdout, done.stdout


@pytest.mark.parametrize("module", ["bench.storm", "bench.durable"])
def test_a_wrong_option_is_refused(module: str):
    command = [sys.executable, "-m", module, "--rounds", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--rounds" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["fanout", "--only", "nobody"], ["--rounds", "0"], ["--seconds", "9999"]]
)
def test_a_wrong_command_line_is_refused(arguments: list[str]):
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["bench.urgent", "--rounds", "1", "--seconds", "0.3"],
        ["bench.stopped", "--seconds", "0.5", "--members", "20", "--lag-limit-bytes", "65536"],
    ],
    ids=["urgent", "stopped"],
)
def test_the_benchmarks_of_slow_readers_find_nothing_lost(command: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout


@pytest.mark.parametrize("more", [[], ["--unpunished"]], ids=["punished", "unpunished"])
def test_the_benchmark_of_abuse_has_an_honest_client_served_beside_each_attack(more: list[str]):
    command = [sys.executable, "-m", "bench.abuse", "--rounds", "1", "--seconds", "0.3", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for attack in ("bombs", "half-heads", "handshakes", "pings"):
        assert f"{attack:<10} p99 beside/quiet" in done.stdout
