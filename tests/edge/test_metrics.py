"""The text exposition format 0.0.4: what Prometheus reads, and what is refused before it would misread it."""

import math

import pytest

from realtime.edge.metrics import Distribution, Metric, Sample, counter, gauge, render


def test_counters_and_gauges_have_help_type_and_value() -> None:
    assert render([counter("messages_total", "Messages in.", 3), gauge("load:5m", "Load.", 0.5)]) == (
        b"# HELP messages_total Messages in.\n# TYPE messages_total counter\nmessages_total 3\n"
        b"# HELP load:5m Load.\n# TYPE load:5m gauge\nload:5m 0.5\n"
    )


def test_labels_are_escaped_and_help_is_too() -> None:
    sample = Sample(1, {"path": 'C:\\"x"\n', "name": "Jörg"})
    assert render([Metric("a", 'one\\two\n"three"', "gauge", [sample])]) == (
        '# HELP a one\\\\two\\n"three"\n# TYPE a gauge\na{path="C:\\\\\\"x\\"\\n",name="Jörg"} 1\n'.encode()
    )


def test_buckets_are_cumulated_and_end_with_infinity() -> None:
    latency = Distribution([0.1, 1, 2.5], [4, 0, 2, 1], 9.25, {"room": "chat"})
    assert render([Metric("latency_seconds", "Latency.", "histogram", [latency])]).decode().splitlines() == [
        "# HELP latency_seconds Latency.",
        "# TYPE latency_seconds histogram",
        'latency_seconds_bucket{room="chat",le="0.1"} 4',
        'latency_seconds_bucket{room="chat",le="1"} 4',
        'latency_seconds_bucket{room="chat",le="2.5"} 6',
        'latency_seconds_bucket{room="chat",le="+Inf"} 7',
        'latency_seconds_sum{room="chat"} 9.25',
        'latency_seconds_count{room="chat"} 7',
    ]


def test_common_labels_come_first_and_a_sample_s_own_win() -> None:
    metrics = [
        gauge("a", "", 1),
        Metric("b", "", "counter", [Sample(2, {"node": "own", "limit": "x"})]),
        Metric("c", "", "histogram", [Distribution([], [2], 3)]),
    ]
    lines = render(metrics, {"node": "n"}).decode().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        'a{node="n"} 1',
        'b{node="own",limit="x"} 2',
        'c_bucket{node="n",le="+Inf"} 2',
        'c_sum{node="n"} 3',
        'c_count{node="n"} 2',
    ]


def test_a_histogram_may_have_no_labels_and_no_bounds() -> None:
    assert render([Metric("a", "", "histogram", [Distribution([], [2], 3)])]).endswith(
        b'a_bucket{le="+Inf"} 2\na_sum 3\na_count 2\n'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
        (2**63, str(2**63)),
        (1e-9, "1e-09"),
        (True, "1"),
    ],
)
def test_every_number_has_its_form(value: float, text: str) -> None:
    assert render([gauge("a", "", value)]).endswith(f"\na {text}\n".encode())


def test_a_metric_may_have_no_samples() -> None:
    assert render([Metric("a", "Nothing yet.", "gauge", [])]) == b"# HELP a Nothing yet.\n# TYPE a gauge\n"


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ([gauge("a-b", "", 1)], "metric name"),
        ([gauge("1a", "", 1)], "metric name"),
        ([gauge("a\nb 1", "", 1)], "metric name"),
        ([gauge("a", "", 1), counter("a", "", 1)], "twice"),
        (
            [Metric("a", "", "gauge", [Sample(1, {"x": "1", "y": "2"}), Sample(2, {"y": "2", "x": "1"})])],
            "twice",
        ),
        ([Metric("a", "", "gauge", [Sample(1, {"x:y": "1"})])], "label name"),
        ([Metric("a", "", "gauge", [Sample(1, {"__x": "1"})])], "label name"),
        ([Metric("a", "", "gauge", [Distribution([], [1], 1)])], "does not fit"),
        ([Metric("a", "", "histogram", [Sample(1)])], "does not fit"),
        ([Metric("a", "", "histogram", [Distribution([1], [1], 1)])], "bounds"),
        ([Metric("a", "", "histogram", [Distribution([2, 1], [1, 1, 1], 1)])], "bounds"),
        ([Metric("a", "", "histogram", [Distribution([math.inf], [1, 1], 1)])], "bounds"),
        ([Metric("a", "", "histogram", [Distribution([], [1], 1, {"le": "1"})])], "le"),
    ],
)
def test_what_would_be_misread_is_refused(metrics: list[Metric], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        render(metrics)
