"""Who is connected to which worker, in Redis: the limit of connections over all workers, and finding a user.

Each user has one slot. What changed of a user in one turn of the event loop goes as one function call, and
the next one when that is answered, so that calls of a user never overtake each other. While Redis is away
nobody is refused: the worker's own limit rules, changes wait (at most `WAITING_MAX` departures), and go out
in slices when it is back. Everything here is told again every `ROUND_S`, at an even pace; what is not told
for `TTL_S`, because its worker is gone, is forgotten.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import msgspec

from realtime.backends.redis_client.contract import Redis, RedisError, Reply, slot_of
from realtime.core.cluster import Cluster, Evict, WorkerId
from realtime.errors import BadMessage, Unavailable
from realtime.ids import TenantId, UserId

log: Final = logging.getLogger("realtime.backends")

TTL_S: Final = 900
ROUND_S: Final = 300
TICKS_PER_S: Final = 10
RETRIED_A_TICK: Final = 500  # users; a function call of this kind costs Redis some 5 us
WAITING_MAX: Final = 200_000  # departures that wait for Redis; what is over ends with its `TTL_S`
NAMED_MAX: Final = 500  # connections that are told again in one call
EVICT: Final = "evict"

Defer = Callable[[Callable[[], None]], object]
"""Calls back when the event loop has done what is ready now: `call_soon`."""


class Eviction(msgspec.Struct, frozen=True, array_like=True):
    """What another worker is told: close this connection, it is one too many."""

    tenant: TenantId
    user: UserId
    number: int


class Change:
    """What Redis has not been told yet of one user: connection numbers."""

    __slots__ = ("came", "gone")

    def __init__(self) -> None:
        self.came: dict[int, None] = {}  # in order of coming
        self.gone: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self.came or self.gone)

    def take(self, most: int) -> Change:
        """Take out at most so many of each."""
        taken = Change()
        while self.came and len(taken.came) < most:
            number = next(iter(self.came))
            del self.came[number]
            taken.came[number] = None
        while self.gone and len(taken.gone) < most:
            taken.gone.add(self.gone.pop())
        return taken


class RedisWhereabouts:
    """Counts this worker's connections for all workers; `tick` about ten times a second."""

    def __init__(
        self, redis: Redis, cluster: Cluster, defer: Defer, *, prefix: str, limit: int, policy: str
    ) -> None:
        self._redis = redis
        self._cluster = cluster
        self._defer = defer
        self._prefix = prefix
        self._limit = limit
        self._policy = policy
        self._evict: Evict | None = None
        self._here: dict[str, Collection[int]] = {}  # numbers by `tenant/user`
        self._changes: dict[str, Change] = {}
        self._ready: list[str] = []  # whose changes go with the next flush
        self._retry: dict[str, None] = {}  # whose changes go when Redis is back
        self._flying: set[str] = set()  # who is being told now
        self._round: list[str] = []  # who is still to be told again in this round
        self._quota = 1
        self._ticks_left = ROUND_S * TICKS_PER_S
        self._flushing = False
        self._away = False
        self._departures = 0  # in `_changes`
        self.evictions = 0
        self.failures = 0
        cluster.answer(EVICT, self._on_evict)

    def open(self, evict: Evict) -> None:
        """Begin: `evict` closes the connections of this worker that are one too many."""
        self._evict = evict

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count connection `number` of this worker; whoever is one too many is closed, here or elsewhere."""
        name = f"{tenant}/{user}"
        self._here[name] = _with(self._here.get(name, ()), number)
        self._note(name).came[number] = None

    def left(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count it no longer. One that was never counted is no error."""
        name = f"{tenant}/{user}"
        numbers = self._here.get(name, ())
        if number not in numbers:
            return
        rest = _without(numbers, number)
        if rest:
            self._here[name] = rest
        else:
            del self._here[name]
        change = self._note(name)
        change.came.pop(number, None)
        if self._departures < WAITING_MAX:
            change.gone.add(number)
            self._departures += 1

    async def find(self, tenant: TenantId, user: UserId) -> dict[WorkerId, int]:
        """Return how many connections the user has on which workers; on this one exactly.

        Raises:
            Unavailable: no answer in time.
        """
        found = await find_connections(self._redis, self._prefix, tenant, user)
        if self._cluster.ok:
            alive = set(self._cluster.workers)
            found = {worker: count for worker, count in found.items() if worker in alive}
        own = self._here.get(f"{tenant}/{user}")
        found.pop(self._cluster.worker, None)
        return found if own is None else {**found, self._cluster.worker: len(own)}

    def tick(self) -> None:
        """Tell again what is due, and what could not be told before."""
        if not self._redis.ok:
            return
        if self._retry:
            for name in list(self._retry)[:RETRIED_A_TICK]:
                del self._retry[name]
                self._ready.append(name)
            self._flush_soon()
        elif self._away:  # back: Redis may have lost what it knew
            self._away = False
            self._begin_round(RETRIED_A_TICK)
        self._ticks_left -= 1
        if not self._round and self._ticks_left <= 0:
            self._begin_round(1)
        for name in self._round[-self._quota :]:
            self._tell_again(name)
        del self._round[-self._quota :]

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "whereabouts_users": len(self._here),
            "whereabouts_waiting": len(self._changes) + len(self._flying),
            "whereabouts_evictions_total": self.evictions,
            "whereabouts_failures_total": self.failures,
        }

    # -- telling Redis --------------------------------------------------------------------------------------

    def _note(self, name: str) -> Change:
        """Return what is to be told of a user; it goes with the next flush, or after the call under way."""
        change = self._changes.get(name)
        if change is None:
            change = self._changes[name] = Change()
            if name not in self._flying:
                self._ready.append(name)
                self._flush_soon()
        elif name in self._retry and self._redis.ok:
            del self._retry[name]
            self._ready.append(name)
            self._flush_soon()
        return change

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._defer(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        ready, self._ready = self._ready, []
        for name in ready:
            waiting = self._changes[name]
            change = waiting.take(NAMED_MAX)
            if not waiting:
                del self._changes[name]  # or the rest goes when this is answered
            self._departures -= len(change.gone)
            self._send(name, change, all=False, ring="")

    def _send(self, name: str, change: Change, *, all: bool, ring: str) -> None:
        self._flying.add(name)
        user = f"{self._prefix}:{{u/{name}}}"
        self._redis.send(
            slot_of(user.encode()),
            "FCALL",
            "rt1_arrive",
            2,
            user,
            user + ":w",
            self._cluster.worker,
            len(self._here.get(name, ())),
            int(all),
            self._limit,
            self._policy,
            TTL_S * 1000,
            ring,
            len(change.came),
            *change.came,
            *change.gone,
            then=partial(self._told, name, change, all),
        )

    def _told(self, name: str, change: Change, all: bool, outcome: Reply | Exception) -> None:
        if outcome == [b"ring"]:
            ring = " ".join(self._cluster.workers) if self._cluster.ok else "-"
            self._send(name, change, all=all, ring=ring)
            return
        self._flying.discard(name)
        if isinstance(outcome, Exception):
            self._take_back(name, change, outcome)
        elif name in self._changes and name not in self._retry:
            self._ready.append(name)
            self._flush_soon()
        if isinstance(outcome, list):
            for member in outcome:
                self._close(name, member)

    def _take_back(self, name: str, change: Change, error: Exception) -> None:
        """Keep what could not be told, together with what came since."""
        if isinstance(error, RedisError) and not self._away:
            log.warning("connections over all workers are not counted: %s", error)
        self._away = True
        self.failures += 1
        here = self._here.get(name, ())
        came = {number: None for number in change.came if number in here}
        waiting = self._changes.setdefault(name, Change())
        waiting.came = came | waiting.came
        if self._departures < WAITING_MAX:
            self._departures += len(change.gone - waiting.gone)
            waiting.gone |= change.gone
        self._retry[name] = None

    # -- telling it again -----------------------------------------------------------------------------------

    def _begin_round(self, at_least: int) -> None:
        self._round = list(self._here)
        self._ticks_left = ROUND_S * TICKS_PER_S
        self._quota = max(at_least, -(-len(self._round) // self._ticks_left))

    def _tell_again(self, name: str) -> None:
        numbers = self._here.get(name)
        if numbers is None or name in self._flying or name in self._changes:
            return  # it is gone, or is told of anyway
        if len(numbers) > NAMED_MAX:
            self._note(name).came.update(dict.fromkeys(sorted(numbers)))
            return
        change = Change()
        change.came = dict.fromkeys(sorted(numbers))
        self._send(name, change, all=True, ring="")

    # -- who is one too many --------------------------------------------------------------------------------

    def _close(self, name: str, member: bytes) -> None:
        tenant, _, user = name.partition("/")
        worker, _, number = member.decode().rpartition("/")
        eviction = Eviction(TenantId(tenant), UserId(user), int(number))
        self.evictions += 1
        if worker == self._cluster.worker:
            self._evict_here(eviction)
        else:  # lost, it is counted again when its worker tells of it the next time, and found again
            self._cluster.tell(EVICT, msgspec.msgpack.encode(eviction), WorkerId(worker))

    def _on_evict(self, asker: WorkerId, body: bytes) -> None:
        try:
            self._evict_here(msgspec.msgpack.decode(body, type=Eviction))
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{EVICT}: {error}") from error

    def _evict_here(self, eviction: Eviction) -> None:
        if self._evict is not None:
            self._evict(eviction.tenant, eviction.user, eviction.number)


async def find_connections(redis: Redis, prefix: str, tenant: TenantId, user: UserId) -> dict[WorkerId, int]:
    """Return how many connections the user has on which workers, those that crashed just now included.

    Raises:
        Unavailable: no answer in time.
    """
    key = f"{prefix}:{{u/{tenant}/{user}}}"
    try:
        found = await redis.ask(slot_of(key.encode()), "FCALL", "rt1_find", 1, key + ":w", TTL_S * 1000)
    except RedisError as error:
        raise Unavailable("Redis cannot say where the user is", retry_after_s=1.0) from error
    assert isinstance(found, list)
    pairs = zip(found[::2], found[1::2], strict=True)
    return {WorkerId(worker.decode()): int(count) for worker, count in pairs}


def _with(numbers: Collection[int], number: int) -> Collection[int]:
    """Few are a tuple, which costs 40 bytes and 8 a number; a set of one costs 216."""
    if isinstance(numbers, set):
        numbers.add(number)
        return numbers
    return (*numbers, number) if len(numbers) < 8 else {*numbers, number}


def _without(numbers: Collection[int], number: int) -> Collection[int]:
    if isinstance(numbers, set):
        numbers.discard(number)
        return numbers
    return tuple(each for each in numbers if each != number)
