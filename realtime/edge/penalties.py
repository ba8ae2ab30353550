"""The penalty box: who keeps offending stays out, each time for longer, and is forgiven with time.

Offences add up to points, which halve every `half_life_s`. At `threshold` the address is boxed: for `base_s`,
and twice as long each time that it earns it again, up to `max_s`. One time less counts for each
`forgiveness_s` out of the box. What comes while it is in the box adds nothing: it would punish whoever shares
the address with the offender and only tries again. Who is asked about here, and what an offence weighs,
others say (`addresses`, `offences`).

At most `addresses_max` are remembered. The one that would be forgotten first goes for a new one: the least
guilty, or where many have offended again since they were looked at, the least guilty of some.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from realtime.core.contracts import Clock

LOOKS: Final = 8  # at addresses, for one to forget: 20 us
SWEEP_EVERY_S: Final = 1.0  # for who may leave the box, which is a walk through it


class PenaltyRules(msgspec.Struct, frozen=True, kw_only=True):
    """How soon, for how long, and how many are remembered."""

    threshold: float = 100.0
    half_life_s: float = 60.0
    base_s: float = 10.0
    max_s: float = 3600.0
    forgiveness_s: float = 600.0
    addresses_max: int = 65_536


class Boxing(NamedTuple):
    """`key` is in the box for `seconds` from now, for the `times`-th time (from 1 on)."""

    key: bytes
    seconds: float
    times: int


class BoxState(msgspec.Struct, array_like=True):
    """A `PenaltyBox`, handed over: of each key guilt, until, times and when it may be forgotten."""

    records: list[tuple[bytes, float, float, int, float]]
    boxed: list[tuple[bytes, float]]
    boxings: int


class _Record:
    """What is remembered of one address; the times are monotonic seconds.

    `guilt` is its points as a number that time does not change: they are 2 ** (guilt - now / half_life_s).
    """

    __slots__ = ("forget_at", "guilt", "times", "until")

    def __init__(self) -> None:
        self.guilt = -math.inf
        self.until = 0.0
        self.times = 0
        self.forget_at = 0.0


class PenaltyBox:
    """Keeps the points and the boxes. A question costs one look-up, an offence one more in a heap."""

    def __init__(self, rules: PenaltyRules, clock: Clock) -> None:
        self._rules = rules
        self._clock = clock
        self._records: dict[bytes, _Record] = {}
        self._boxed: dict[bytes, float] = {}  # until when, so that most arrivals find it empty
        # One entry a record, by when it may be forgotten. That time only grows, so an entry that is too early
        # is put right when it comes up, and never before.
        self._queue: list[tuple[float, bytes]] = []
        self._sweep_at = 0.0
        self.boxings = 0

    def __len__(self) -> int:
        """How many are remembered, in the box or not."""
        return len(self._records)

    @property
    def boxed(self) -> int:
        """How many are in the box, as of the last sweep."""
        return len(self._boxed)

    def export(self) -> BoxState:
        """Return all of it, for another process."""
        records = [
            (key, each.guilt, each.until, each.times, each.forget_at) for key, each in self._records.items()
        ]
        return BoxState(records, list(self._boxed.items()), self.boxings)

    def adopt(self, state: BoxState) -> None:
        """Take over what another process remembered; of more than are remembered here, some."""
        for key, guilt, until, times, forget_at in state.records[: self._rules.addresses_max]:
            record = self._records[key] = _Record()
            record.guilt, record.until, record.times, record.forget_at = guilt, until, times, forget_at
            heapq.heappush(self._queue, (forget_at, key))
        self._boxed = {key: until for key, until in state.boxed if key in self._records}
        self.boxings = state.boxings

    def wait_s(self, key: bytes) -> float:
        """Return for how long `key` has still to stay out: 0 for nearly everybody."""
        if not self._boxed:
            return 0.0
        until = self._boxed.get(key)
        return 0.0 if until is None else max(0.0, until - self._clock.monotonic())

    def points(self, key: bytes) -> float:
        """Return what `key` has collected and not been forgiven."""
        record = self._records.get(key)
        return 0.0 if record is None else self._points(record, self._clock.monotonic())

    def offend(self, key: bytes, points: float) -> Boxing | None:
        """Count an offence of `points` (above 0); return the boxing that it earned."""
        now = self._clock.monotonic()
        record = self._records.get(key)
        if record is None:
            record = self._remember(key)
        elif record.until > now:
            return None
        total = self._points(record, now) + points
        if total >= self._rules.threshold:
            return self._box(key, record, now)
        record.guilt = math.log2(total) + now / self._rules.half_life_s
        self._keep(key, record)
        return None

    def hold(self, boxing: Boxing) -> bool:
        """Box an address that earned it elsewhere; False where that changes nothing."""
        now = self._clock.monotonic()
        record = self._records.get(boxing.key) or self._remember(boxing.key)
        until = now + min(boxing.seconds, self._rules.max_s)
        if until <= record.until:
            return False
        self._lock(boxing.key, record, until, max(1, boxing.times, self._times(record, now)))
        return True

    def free(self, key: bytes) -> bool:
        """Let it out and forget what it did; False where nothing was known of it."""
        self._boxed.pop(key, None)
        return self._records.pop(key, None) is not None

    def boxings_now(self) -> Iterator[Boxing]:
        """Go through who is in the box, in the order in which they came in."""
        now = self._clock.monotonic()
        for key, until in self._boxed.items():
            if until > now:
                yield Boxing(key, until - now, self._records[key].times)

    def tick(self) -> None:
        """Let out whose time is over, and forget what is forgiven."""
        now = self._clock.monotonic()
        if self._boxed and now >= self._sweep_at:
            self._sweep_at = now + SWEEP_EVERY_S
            for key in [key for key, until in self._boxed.items() if until <= now]:
                del self._boxed[key]
        while self._queue and self._queue[0][0] <= now:
            self._forget_first()

    def _points(self, record: _Record, now: float) -> float:
        return math.exp2(record.guilt - now / self._rules.half_life_s)

    def _times(self, record: _Record, now: float) -> int:
        """Return how often it has been in the box, less what it has been forgiven since."""
        forgiven = int(max(0.0, now - record.until) / self._rules.forgiveness_s)
        return max(0, record.times - forgiven)

    def _box(self, key: bytes, record: _Record, now: float) -> Boxing:
        times = self._times(record, now) + 1
        doublings = min(times - 1, 64)
        seconds = min(self._rules.base_s * 2.0**doublings, self._rules.max_s)
        self._lock(key, record, now + seconds, times)
        self.boxings += 1
        return Boxing(key, seconds, times)

    def _lock(self, key: bytes, record: _Record, until: float, times: int) -> None:
        record.until, record.times, record.guilt = until, times, -math.inf
        self._boxed[key] = until
        self._keep(key, record)

    def _keep(self, key: bytes, record: _Record) -> None:
        """Put off when it may be forgotten: when it has less than a point and no time is held against it."""
        of_points = record.guilt * self._rules.half_life_s
        of_times = record.until + record.times * self._rules.forgiveness_s
        is_new = record.forget_at == 0.0
        record.forget_at = max(record.forget_at, of_points, of_times)
        if is_new:
            heapq.heappush(self._queue, (record.forget_at, key))

    def _remember(self, key: bytes) -> _Record:
        """Begin to remember `key`, in the place of the least guilty where there is no other."""
        if len(self._records) >= self._rules.addresses_max:
            self._make_room()
        record = self._records[key] = _Record()
        return record

    def _make_room(self) -> None:
        """Forget the least guilty of those that come up first; only so many of these are looked at."""
        looked: list[tuple[float, bytes]] = []
        while self._queue and len(looked) < LOOKS:
            due, key = heapq.heappop(self._queue)
            record = self._records.get(key)
            if record is None:
                continue
            looked.append((record.forget_at, key))
            if record.forget_at <= due:
                break
        least = min(looked)
        self._drop(least[1])
        for each in looked:
            if each is not least:
                heapq.heappush(self._queue, each)

    def _forget_first(self) -> None:
        """Forget what comes up first, or put its entry right where that was too early."""
        due, key = self._queue[0]
        record = self._records.get(key)
        if record is not None and record.forget_at > due:
            heapq.heapreplace(self._queue, (record.forget_at, key))
            return
        heapq.heappop(self._queue)
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._records.pop(key, None)
        self._boxed.pop(key, None)
