"""How much of what a worker has is in use: the share of its loop, of its cores, connections and accept rate.

One number of it, the greatest, says how near the worker is to its end: what scales workers reads that
(`edge/autoscale`), and people read the parts to see which it is.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final, NamedTuple

SAMPLE_S: Final = 1.0
WINDOW_S: Final = 10.0
RESOURCES: Final = ("loop", "cpu", "connections", "accepts")


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker, or all workers of a supervisor, were doing of late.

    `parts` are ratios by resource, 1 is all of it; `lag_s` is how late the loop ran: the median of the worst
    of each of the last ten seconds, so that one long turn is no alarm and a lasting one is.
    """

    parts: Mapping[str, float]
    lag_s: float = 0.0
    connections: int = 0
    accepts_per_second: float = 0.0

    @property
    def utilization(self) -> float:
        """The greatest of the parts."""
        return max(self.parts.values(), default=0.0)

    @property
    def busiest(self) -> str:
        """Which one that is; empty where nothing is known."""
        return max(self.parts, key=lambda name: self.parts[name], default="")


class _Sample(NamedTuple):
    at: float
    loop_s: float
    process_s: float
    accepted: int


class LoadMeter:
    """Looks once a second, on the loop's thread, and tells of the last ten seconds.

    `connections_max` and `accepts_per_second` are what is allowed; 0: not limited, and never used up.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        connections_max: int,
        accepts_per_second: int,
        cores: int | None = None,
        thread_s: Callable[[], float] = time.thread_time,
        process_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._clock = clock
        self._connections_max = connections_max
        self._accepts_max = accepts_per_second
        self._cores = cores or len(os.sched_getaffinity(0))
        self._thread_s = thread_s
        self._process_s = process_s
        self._samples: deque[_Sample] = deque(maxlen=round(WINDOW_S / SAMPLE_S) + 1)
        self._lags: deque[float] = deque(maxlen=round(WINDOW_S / SAMPLE_S))
        self._worst_lag_s = 0.0
        self._due = 0.0
        self.load = Load(dict.fromkeys(RESOURCES, 0.0))

    def tick(self, lag_s: float, connections: int, accepted: int) -> bool:
        """Note how late the loop is, how many connections there are, and were accepted since the start.

        True about once a second, when `load` is a new one.
        """
        self._worst_lag_s = max(self._worst_lag_s, lag_s)
        now = self._clock()
        if now < self._due:
            return False
        self._due = now + SAMPLE_S
        self._lags.append(self._worst_lag_s)
        self._worst_lag_s = 0.0
        self._samples.append(_Sample(now, self._thread_s(), self._process_s(), accepted))
        self.load = self._measure(connections)
        return True

    def _measure(self, connections: int) -> Load:
        first, last = self._samples[0], self._samples[-1]
        span_s = last.at - first.at
        loop = cpu = accepts = 0.0
        if span_s > 0:
            loop = (last.loop_s - first.loop_s) / span_s
            cpu = (last.process_s - first.process_s) / span_s / self._cores
            accepts = (last.accepted - first.accepted) / span_s
        parts = {
            "loop": loop,
            "cpu": cpu,
            "connections": connections / self._connections_max if self._connections_max else 0.0,
            "accepts": accepts / self._accepts_max if self._accepts_max else 0.0,
        }
        return Load(parts, median(self._lags), connections, accepts)
