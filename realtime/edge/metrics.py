"""Prometheus' text exposition format 0.0.4, rendered from plain values.

Whoever counts keeps plain numbers and describes them here when they are asked for: nothing is registered,
and nothing is paid on the hot path.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, Literal

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = Mapping[str, str]
_NO_LABELS: Final[Labels] = {}


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of a counter or gauge."""

    value: float
    labels: Labels = field(default_factory=lambda: _NO_LABELS)


@dataclass(frozen=True, slots=True)
class Distribution:
    """One histogram: how many observations fell into each bucket, not cumulated.

    `counts[i]` is what was over `bounds[i - 1]` and at most `bounds[i]`; the last of `counts`, one more
    than there are bounds, is what was over them all. `total` is the sum of the observations.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    labels: Labels = field(default_factory=lambda: _NO_LABELS)


@dataclass(frozen=True, slots=True)
class Metric:
    """A name with its help, its type and all its samples."""

    name: str
    help: str
    type: Literal["counter", "gauge", "histogram"]
    samples: Sequence[Sample | Distribution]


def counter(name: str, help: str, value: float) -> Metric:
    """Return a counter of one sample without labels."""
    return Metric(name, help, "counter", (Sample(value),))


def gauge(name: str, help: str, value: float) -> Metric:
    """Return a gauge of one sample without labels."""
    return Metric(name, help, "gauge", (Sample(value),))


def render(metrics: Iterable[Metric], common: Labels = _NO_LABELS) -> bytes:
    """Return the exposition, metrics in the order given, each sample with the `common` labels too.

    Raises:
        ValueError: a name breaks the format, a metric or a set of labels comes twice, or a histogram's
            bounds do not rise or do not fit its counts.
    """
    lines: list[str] = []
    seen: set[str] = set()
    for metric in metrics:
        if not _METRIC_NAME.fullmatch(metric.name):
            raise ValueError(f"not a metric name: {metric.name!r}")
        if metric.name in seen:
            raise ValueError(f"metric {metric.name} is given twice")
        seen.add(metric.name)
        lines.append(f"# HELP {metric.name} {_escape_help(metric.help)}")
        lines.append(f"# TYPE {metric.name} {metric.type}")
        lines += _sample_lines(metric, common)
    return "".join(f"{line}\n" for line in lines).encode()


def _sample_lines(metric: Metric, common: Labels) -> Iterator[str]:
    seen: set[tuple[tuple[str, str], ...]] = set()
    for sample in metric.samples:
        identity = tuple(sorted(sample.labels.items()))
        if identity in seen:
            raise ValueError(f"metric {metric.name} has {dict(sample.labels)} twice")
        seen.add(identity)
        if isinstance(sample, Distribution) != (metric.type == "histogram"):
            raise ValueError(f"metric {metric.name} is a {metric.type}: {type(sample).__name__} does not fit")
        if isinstance(sample, Sample):
            yield f"{metric.name}{_labels({**common, **sample.labels})} {render_number(sample.value)}"
        else:
            yield from _bucket_lines(metric.name, sample, common)


def _bucket_lines(name: str, sample: Distribution, common: Labels) -> Iterator[str]:
    bounds = [*sample.bounds, math.inf]
    if len(bounds) != len(sample.counts) or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError(f"histogram {name}: bounds must rise, and counts have one more")
    own = {**common, **sample.labels}
    if "le" in own:
        raise ValueError(f"histogram {name}: the label le is its own")
    below = 0
    for bound, count in zip(bounds, sample.counts, strict=True):
        below += count
        yield f"{name}_bucket{_labels({**own, 'le': render_number(bound)})} {below}"
    labels = _labels(own)
    yield f"{name}_sum{labels} {render_number(sample.total)}"
    yield f"{name}_count{labels} {below}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    for name in labels:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"not a label name: {name!r}")
    return "{" + ",".join(f'{name}="{_escape_label(value)}"' for name, value in labels.items()) + "}"


def render_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Return labels, whose values are escaped already, as a sample has them."""
    text = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


def render_number(value: float) -> str:
    """Return a sample's number as text."""
    if value == math.inf:
        return "+Inf"
    if value == -math.inf:
        return "-Inf"
    if value != value:
        return "NaN"
    return str(int(value)) if isinstance(value, int) else repr(float(value))  # True is 1, an enum its number


def _escape_help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _escape_label(text: str) -> str:
    return _escape_help(text).replace('"', '\\"')
