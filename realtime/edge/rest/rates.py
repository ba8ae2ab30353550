"""From counters that only rise to what goes on now: rates and delays over the last few seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from realtime.protocol.admin import Point, WorkerLine, WorkerStatus

RATE_S: Final = 1.0
DELAY_S: Final = 10.0
"""Delays are of so long: of a loop's ten ticks in one second none is the worst of a hundred."""
SAMPLES_MAX: Final = 32


class Sample(NamedTuple):
    """A worker at one time."""

    at: float
    status: WorkerStatus


class Rates:
    """Remembers the last samples of each worker."""

    def __init__(self) -> None:
        self._samples: dict[str, deque[Sample]] = {}

    def point(self, workers: Sequence[WorkerStatus], now: float, stamp: str) -> Point:
        """Take what workers say at `now`, and return all of them together."""
        self._take(workers, now)
        lags, latencies = [0] * 64, [0] * 64
        for status in workers:
            _add(lags, self._since(status, DELAY_S).lag_counts, status.lag_counts)
            _add(latencies, self._since(status, DELAY_S).latency_counts, status.latency_counts)
        bounds = workers[0].bounds_s if workers else []

        def total(name: str) -> float:
            return round(sum(self._rate(status, name) for status in workers), 1)

        return Point(
            at=stamp,
            connections=sum(each.connections for each in workers),
            rooms=sum(each.rooms for each in workers),
            messages_in=total("messages_in"),
            deliveries=total("deliveries"),
            bytes_in=total("bytes_in"),
            bytes_out=total("bytes_out"),
            latency_p50_ms=_quantile_ms(latencies, bounds, 0.5),
            latency_p99_ms=_quantile_ms(latencies, bounds, 0.99),
            lag_p99_ms=_quantile_ms(lags, bounds, 0.99),
            cpu=round(sum(map(self._cpu, workers)), 3),
            errors=total("errors"),
        )

    def workers(self, workers: Iterable[WorkerStatus]) -> tuple[WorkerLine, ...]:
        """Return each one's own, of those that `point` has taken."""
        return tuple(map(self._line, workers))

    def _line(self, status: WorkerStatus) -> WorkerLine:
        lags = [0] * len(status.lag_counts)
        _add(lags, self._since(status, DELAY_S).lag_counts, status.lag_counts)
        return WorkerLine(
            worker=status.worker,
            node=status.node,
            version=status.version,
            uptime_s=status.uptime_s,
            draining=status.draining,
            troubles={name: state for name, state in status.checks.items() if state != "ok"},
            connections=status.connections,
            rooms=status.rooms,
            messages_in=round(self._rate(status, "messages_in"), 1),
            deliveries=round(self._rate(status, "deliveries"), 1),
            cpu=round(self._cpu(status), 3),
            memory_bytes=status.memory_bytes,
            lag_p99_ms=_quantile_ms(lags, status.bounds_s, 0.99),
            answered_ms=status.answered_ms,
            orders=status.orders,
        )

    def _take(self, workers: Sequence[WorkerStatus], now: float) -> None:
        for gone in self._samples.keys() - {each.worker for each in workers}:
            del self._samples[gone]
        for status in workers:
            samples = self._samples.setdefault(status.worker, deque(maxlen=SAMPLES_MAX))
            if samples and samples[-1].status.uptime_s > status.uptime_s:
                samples.clear()  # another run under the same name: it counts from the start
            samples.append(Sample(now, status))

    def _since(self, status: WorkerStatus, span_s: float) -> WorkerStatus:
        """What the worker said about `span_s` ago, or the oldest that is remembered."""
        samples = self._samples[status.worker]
        newest = samples[-1].at
        return next((each.status for each in samples if newest - each.at <= span_s + 0.5), status)

    def _rate(self, status: WorkerStatus, name: str) -> float:
        before = self._since(status, RATE_S)
        took_s = status.uptime_s - before.uptime_s
        grown = status.counters.get(name, 0) - before.counters.get(name, 0)
        return max(0.0, grown / took_s) if took_s > 0 else 0.0

    def _cpu(self, status: WorkerStatus) -> float:
        before = self._since(status, RATE_S)
        took_s = status.uptime_s - before.uptime_s
        return max(0.0, (status.cpu_s - before.cpu_s) / took_s) if took_s > 0 else 0.0


def _add(sums: list[int], before: Sequence[int], now: Sequence[int]) -> None:
    for place, (early, late) in enumerate(zip(before, now, strict=False)):
        sums[place] += max(0, late - early)


def _quantile_ms(counts: Sequence[int], bounds_s: Sequence[float], share: float) -> float:
    """The quantile as buckets know it: on a line through its own; beyond them all, the last bound."""
    whole = sum(counts)
    if not whole or not bounds_s:
        return 0.0
    wanted, below, low = share * whole, 0, 0.0
    for count, bound in zip(counts, bounds_s, strict=False):
        if below + count >= wanted:
            return round((low + (bound - low) * (wanted - below) / count) * 1e3, 3)
        below += count
        low = bound
    return round(bounds_s[-1] * 1e3, 3)
