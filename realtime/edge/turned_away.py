"""The record of those who were refused at the door: counted all, told to the audit log as far as that helps.

A flood must not become a flood of events. Of each address the first refusal of a minute is told, of at most
`TOLD_MAX` addresses a minute, and when the minute is over one event says how many there were in all.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from realtime.core.audit import NO_TENANT, Action, Auditor, Event, Outcome
from realtime.core.contracts import Clock
from realtime.native.address import unpack

SPAN_S: Final = 60.0
TOLD_MAX: Final = 256


class TurnedAway:
    """`counts` are all refusals since the start, by their reason."""

    def __init__(self, clock: Clock, audit: Auditor) -> None:
        self.counts: Counter[str] = Counter()
        self._clock = clock
        self._audit = audit
        self._told: set[bytes] = set()  # whom the log has heard of in this span
        self._span: Counter[str] = Counter()
        self._span_ends = clock.monotonic() + SPAN_S

    def note(self, address: bytes, reason: str) -> None:
        """Count one who was refused, and tell of it where it is news."""
        self.counts[reason] += 1
        self._span[reason] += 1
        if address in self._told or len(self._told) >= TOLD_MAX:
            return
        self._told.add(address)
        self._tell(Outcome.DENIED, unpack(address), {"reason": reason})

    def tick(self) -> None:
        """When a span is over, tell of all that were not told of one by one, and begin the next."""
        if self._clock.monotonic() < self._span_ends:
            return
        self._span_ends = self._clock.monotonic() + SPAN_S
        if self._span.total() > len(self._told):
            self._tell(Outcome.DENIED, "", {"over_s": int(SPAN_S), **self._span})
        self._told.clear()
        self._span.clear()

    def _tell(self, outcome: Outcome, source: str, detail: dict[str, str | int]) -> None:
        self._audit.record(
            Event(
                tenant=NO_TENANT,
                action=Action.ADDRESS,
                outcome=outcome,
                actor="server",
                source=source,
                target=source,
                detail=detail,
            )
        )
