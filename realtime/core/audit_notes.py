"""Events on their way into the audit log: repeats become counts, so that a flood cannot fill the disk.

The first of some identical events is noted at once, so that it is kept whatever happens next; those that
follow within a window become one note with their count, when the window ends. A tenant has a budget of notes
too: what strangers cause beyond it is counted by action and outcome alone. The counts of all notes together
are the number of events, always.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from realtime.core.audit import Action, Event, Outcome
from realtime.core.contracts import Clock
from realtime.ids import TenantId

WINDOWS_MAX: Final = 20_000
"""Kinds of events whose repeats are being counted, at 600 bytes each; above it the oldest window ends."""
TENANTS_MAX: Final = 10_000
"""Tenants whose budgets are remembered; above it the one unused for longest begins anew."""
BURST: Final = 50_000
"""Notes that a tenant may have at once: who comes back after a restart is named, one by one."""

STRANGERS: Final = frozenset(
    {
        *(Action.CONNECT, Action.REFRESH, Action.CLOSE, Action.JOIN, Action.PUBLISH, Action.READ),
        *(Action.ADDRESS, Action.PENALTY, Action.LIMIT, Action.MANAGE),
    }
)
"""What whoever connects can cause as often as they like. All else is an operator's, and never summed up."""


class Note(NamedTuple):
    """`events` events like `event`, from `at_us` to `until_us` (Unix microseconds, both included)."""

    event: Event
    events: int
    at_us: int
    until_us: int


Take = Callable[[Note], None]
_Kind = tuple[TenantId, Action, Outcome, str, str, str]


class _Window:
    """The repeats of one kind of event since its first one was noted."""

    __slots__ = ("at_us", "count", "ends", "event", "until_us")

    def __init__(self, event: Event, ends: float) -> None:
        self.event = event
        self.ends = ends
        self.count = 0
        self.at_us = 0
        self.until_us = 0

    def add(self, now_us: int, count: int) -> None:
        if not self.count:
            self.at_us = now_us
        self.count += count
        self.until_us = now_us


class Coalescer:
    """Hands on what it takes to `take`, as notes. With a `window_s` of 0 each event is a note."""

    def __init__(self, clock: Clock, take: Take, *, window_s: float, notes_per_second: float) -> None:
        self._clock = clock
        self._take = take
        self._window_s = window_s
        self._rate = notes_per_second
        self._windows: OrderedDict[_Kind, _Window] = OrderedDict()  # by the end: all last as long
        # Notes that a tenant may still have, and when that was so.
        self._budgets: OrderedDict[TenantId, tuple[float, float]] = OrderedDict()
        self.coalesced = 0

    def add(self, event: Event) -> None:
        """Take one event of now."""
        now = self._clock.monotonic()
        at_us = int(self._clock.time() * 1e6)
        kind = (event.tenant, event.action, event.outcome, event.actor, event.source, _target(event))
        if not self._window_s:
            self._take(Note(event, event.count, at_us, at_us))
            return
        window = self._windows.get(kind)
        if window is not None and now < window.ends:
            self.coalesced += 1
            window.add(at_us, event.count)
        elif event.action not in STRANGERS or self._affords(event.tenant, now):
            self._begin(kind, event, now)
            self._take(Note(event, event.count, at_us, at_us))
        else:
            self._sum_up(event, now, at_us)

    def tick(self) -> None:
        """Note the repeats of windows that have ended."""
        now = self._clock.monotonic()
        while self._windows:
            kind = next(iter(self._windows))
            if self._windows[kind].ends > now:
                return
            self._end(kind)

    def flush(self) -> None:
        """Note all repeats, as if every window had ended."""
        while self._windows:
            self._end(next(iter(self._windows)))

    def _begin(self, kind: _Kind, event: Event, now: float) -> _Window:
        self._end(kind)
        while len(self._windows) >= WINDOWS_MAX:
            self._end(next(iter(self._windows)))
        window = self._windows[kind] = _Window(event, now + self._window_s)
        return window

    def _end(self, kind: _Kind) -> None:
        window = self._windows.pop(kind, None)
        if window is not None and window.count:
            self._take(Note(window.event, window.count, window.at_us, window.until_us))

    def _sum_up(self, event: Event, now: float, at_us: int) -> None:
        """Count an event that its tenant has no budget for with all others of its action and outcome."""
        kind = (event.tenant, event.action, event.outcome, "", "", "")
        window = self._windows.get(kind)
        if window is None or now >= window.ends:
            summary = Event(
                tenant=event.tenant,
                action=event.action,
                outcome=event.outcome,
                actor="",
                detail={"over": "audit_entries_per_second"},
            )
            window = self._begin(kind, summary, now)
        self.coalesced += 1
        window.add(at_us, event.count)

    def _affords(self, tenant: TenantId, now: float) -> bool:
        """Take one note from the tenant's budget; False where it has none."""
        left, since = self._budgets.pop(tenant, (float(BURST), now))
        left = min(float(BURST), left + (now - since) * self._rate)
        affords = left >= 1.0
        if len(self._budgets) >= TENANTS_MAX:
            self._budgets.popitem(last=False)
        self._budgets[tenant] = (left - affords, now)
        return affords


def _target(event: Event) -> str:
    """What an event is told apart by: of acts on a room, and of recordings, that is what was done, and to
    whom, too; and of what is done through another process always by whom.
    """
    if (
        event.action not in (Action.MANAGE, Action.ADMIN, Action.RECORD)
        or event.outcome is not Outcome.ALLOWED
    ):
        return f"{event.target}\0{event.detail['by']}" if "by" in event.detail else event.target
    return "\0".join([event.target, *(f"{name}={said}" for name, said in sorted(event.detail.items()))])
