"""The benchmarks of a cluster count every delivery, also of those on another worker, and can fail."""

import pytest

from bench import cluster, cluster_trouble


def test_a_short_run_comes_out(capsys: pytest.CaptureFixture[str]):
    assert cluster.main(["latency", "--short", "--rates", "800"]) == 0
    assert "us CPU" in capsys.readouterr().out


def test_a_stall_is_the_longest_time_without_an_ack_after_the_trouble():
    publisher = cluster_trouble.Publisher.__new__(cluster_trouble.Publisher)
    publisher._acked_s = [1.0, 5.0, 5.1, 7.1, 7.2]
    publisher._refused_s = [4.9, 6.0, 6.1]
    assert publisher.stall(5.05) == {"stall_ms": pytest.approx(2000.0), "refused": 2}
