"""The metrics of several workers as one: counters and histograms added up, gauges beside one another.

A sum must not fall when a worker is started again, or Prometheus would take that for a reset of all of them
and count everything anew. So what a worker has last told stays in the sum when it dies or is silent, and what
the next one of its number tells comes on top.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from realtime.edge.metrics import render_labels, render_number

# What tells workers apart: in a sum it has no place, and beside `worker` it would say the same again.
WHOSE: Final = frozenset({"node", "worker"})
SUMMED: Final = frozenset({"counter", "histogram"})
# What one process hands on to the next in an upgrade, which goes on counting where the other stopped.
CARRIED: Final = (
    "realtime_handovers_total",
    "realtime_handovers_refused_total",
    "realtime_handover_connections_adopted_total",
    "realtime_handover_connections_drained_total",
    'realtime_asked_to_leave_total{reason="handover"}',
)
CARRIED_HISTOGRAM: Final = "realtime_handover_pause_seconds"
_LINE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"(?:,|$)')

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]
"""A sample's name and its labels, as they are written, those of `WHOSE` left out."""


class ExpositionError(Exception):
    """What a worker has told is not the text format as we write it."""


@dataclass(slots=True)
class Family:
    """A metric as one worker tells it: its samples by name and labels, in their order."""

    type: str
    help: str
    samples: dict[Key, float] = field(default_factory=dict)


def parse(text: str) -> dict[str, Family]:
    """Return the metrics of an exposition of ours (`edge/metrics`), by name.

    Raises:
        ExpositionError: it is none.
    """
    families: dict[str, Family] = {}
    help = ""
    family: Family | None = None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            help = line.split(" ", 3)[3] if line.count(" ") >= 3 else ""
        elif line.startswith("# TYPE "):
            name, space, kind = line.removeprefix("# TYPE ").partition(" ")
            if not space:  # it ended in the middle of a line
                raise ExpositionError(line[:200])
            family = families[name] = Family(kind, help)
        else:
            found = _LINE.fullmatch(line)
            if found is None or family is None:
                raise ExpositionError(line[:200])
            name, labels, value = found.groups()
            family.samples[name, _labels(labels or "")] = _number(value)
    return families


def _is_carried(name: str, labels: Labels) -> bool:
    return name.startswith(CARRIED_HISTOGRAM) or f"{name}{render_labels(labels)}" in CARRIED


def _labels(text: str) -> Labels:
    return tuple((name, value) for name, value in _LABEL.findall(text) if name not in WHOSE)


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            raise ExpositionError(text[:200]) from None


class Tally:
    """What the workers of one number have told: the one that lives, and the sums of those before it."""

    def __init__(self) -> None:
        self.up = False
        self.families: dict[str, Family] = {}
        self._pid = 0
        self._before: dict[Key, float] = {}

    def take(self, pid: int, families: dict[str, Family]) -> bool:
        """Note what process `pid` has told; whatever another one has told before is over.

        Return whether it took over from that one by a hand-over: what was handed on is not counted again.
        """
        heir = bool(self._pid) and pid != self._pid and _handovers(families) > _handovers(self.families)
        if pid != self._pid and self._pid:
            for family in self.families.values():
                if family.type in SUMMED:
                    for (name, labels), value in family.samples.items():
                        if not (heir and _is_carried(name, labels)):
                            self._before[name, labels] = self._before.get((name, labels), 0) + value
        self._pid = pid
        self.families = families
        self.up = True
        return heir

    def sums(self, name: str) -> Iterator[tuple[Key, float]]:
        """What the metric `name` comes to over all of them, sample by sample."""
        family = self.families.get(name)
        for key, value in family.samples.items() if family is not None else ():
            yield key, value + self._before.get(key, 0)


def _handovers(families: Mapping[str, Family]) -> float:
    family = families.get(CARRIED[0])
    return 0 if family is None else sum(family.samples.values())


def merged(tallies: Mapping[int, Tally]) -> Iterator[str]:
    """The lines of one exposition for the workers, by their numbers.

    Counters and histograms of those that are down are in it with what they told last; their gauges, which are
    about now, are not.
    """
    kinds: dict[str, Family] = {}
    for tally in tallies.values():
        for name, family in tally.families.items():
            kinds.setdefault(name, family)
    for name, first in kinds.items():
        samples = list(_together(name, first, tallies))
        if samples:
            yield f"# HELP {name} {first.help}"
            yield f"# TYPE {name} {first.type}"
            yield from samples


def _together(name: str, first: Family, tallies: Mapping[int, Tally]) -> Iterable[str]:
    if first.type not in SUMMED:
        for number, tally in tallies.items():
            family = tally.families.get(name) if tally.up else None
            for (sample, labels), value in family.samples.items() if family is not None else ():
                yield _line(sample, (("worker", str(number)), *labels), value)
        return
    sums: dict[Key, float] = {}
    for tally in tallies.values():
        for key, value in tally.sums(name):
            sums[key] = sums.get(key, 0) + value
    for (sample, labels), value in sums.items():
        yield _line(sample, labels, value)


def _line(name: str, labels: Labels, value: float) -> str:
    return f"{name}{render_labels(labels)} {render_number(value)}"
