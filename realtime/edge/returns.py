"""How many clients a second one worker can take back: measured by what its handshakes have cost.

Whoever closes many connections tells them when to come back, so that those who take them over are not
trampled. What that is on this machine, with these tokens, is what the handshakes say: the time each took to
authenticate, and, when a crowd came, the processor time a handshake cost in all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

# Of a worker's time that coming back may take; the rest is for those who are there.
SHARE: Final = 0.25
# Accept, request, answer and first join without authentication: 32,000 a second on a core (bench handshakes).
BARE_S: Final = 31e-6
# What is believed of measurements: from a machine three times as fast to one that verifies RSA on a slow
# core.
COST_MIN_S: Final = 10e-6
COST_MAX_S: Final = 1250e-6
WEIGHT: Final = 1 / 64
# A span of time says what handshakes cost when there were many, and little else was done.
CROWD: Final = 100
BUSY_SHARE: Final = 0.5

Verdict = TypeVar("Verdict")
Request = TypeVar("Request")


class Returns:
    """Measures handshakes. `tick` about ten times a second."""

    def __init__(
        self,
        elapsed: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        self._elapsed = elapsed
        self._cpu = cpu
        self._authentication_s = 0.0
        self._whole_s = 0.0  # of a handshake in a crowd, 0 until there was one
        self._seen = 0
        self._ticked = (elapsed(), cpu())
        self._accepted = 0

    def timed(self, answer: Callable[[Request], Verdict]) -> Callable[[Request], Verdict]:
        """Return what answers handshakes as `answer` does, and takes the time."""

        def timed(request: Request) -> Verdict:
            began = self._elapsed()
            verdict = answer(request)
            self._note(self._elapsed() - began)
            return verdict

        return timed

    def tick(self) -> None:
        """Look at what the last span cost, where a crowd came in it."""
        now, accepted = (self._elapsed(), self._cpu()), self._seen
        elapsed_s, cpu_s = now[0] - self._ticked[0], now[1] - self._ticked[1]
        came, self._accepted, self._ticked = accepted - self._accepted, accepted, now
        if came >= CROWD and cpu_s >= elapsed_s * BUSY_SHARE:
            cost_s = _bounded(cpu_s / came)
            self._whole_s += (cost_s - self._whole_s) / (4 if self._whole_s else 1)

    @property
    def cost_s(self) -> float:
        """Processor seconds a handshake is reckoned to cost."""
        return self._whole_s or _bounded(BARE_S + self._authentication_s)

    @property
    def per_second(self) -> float:
        """Clients that this worker can take back in a second beside its work: 200 to 25,000."""
        return SHARE / self.cost_s

    def stats(self) -> dict[str, float]:
        """Gauges for /metrics, by name."""
        return {"handshake_cost_seconds": self.cost_s, "returns_per_second": self.per_second}

    def _note(self, elapsed_s: float) -> None:
        self._seen += 1
        # The first says more than nothing; later ones are averaged, and one that met a pause is cut.
        weight = 1.0 if self._seen == 1 else WEIGHT
        self._authentication_s += (min(elapsed_s, COST_MAX_S) - self._authentication_s) * weight


def _bounded(cost_s: float) -> float:
    return min(COST_MAX_S, max(COST_MIN_S, cost_s))
