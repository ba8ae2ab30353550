"""Who is connected to which worker, in Redis: the limit of connections over all workers, and finding a user.

Each user has one slot. What changed of a user in one turn of the event loop goes as one function call, and
the next one when that is answered, so that calls of a user never overtake each other. While Redis is away
nobody is refused: the worker's own limit rules, changes wait (at most `WAITING_MAX` departures), and go out
in slices when it is back. Everything here is told again every `ROUND_S`, at an even pace; what is not told
for `TTL_S`, because its worker is gone, is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Final

import msgspec

from realtime.backends.cluster.untold import Untold, with_number, without_number
from realtime.backends.redis_client.contract import Redis, RedisError, Reply, slot_of
from realtime.core.cluster import Change, Cluster, Evict, WorkerId
from realtime.core.router import Spawn
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
LIVE: Final = "live"

Defer = Callable[[Callable[[], None]], object]
"""Calls back when the event loop has done what is ready now: `call_soon`."""


class Eviction(msgspec.Struct, frozen=True, array_like=True):
    """What another worker is told: close this connection, it is one too many."""

    tenant: TenantId
    user: UserId
    number: int


class RedisWhereabouts:
    """Counts this worker's connections for all workers; `tick` about ten times a second."""

    def __init__(
        self,
        redis: Redis,
        cluster: Cluster,
        defer: Defer,
        spawn: Spawn,
        *,
        prefix: str,
        limit: int,
        policy: str,
    ) -> None:
        self._redis = redis
        self._cluster = cluster
        self._defer = defer
        self._spawn = spawn
        self._prefix = prefix
        self._limit = limit
        self._policy = policy
        self._evict: Evict | None = None
        self._here: dict[str, Collection[int]] = {}  # numbers by `tenant/user`
        self._changes: dict[str, Untold] = {}
        self._ready: list[str] = []  # whose changes go with the next flush
        self._retry: dict[str, None] = {}  # whose changes go when Redis is back
        self._flying: set[str] = set()  # who is being told now
        self._round: list[str] = []  # who is still to be told again in this round
        self._quota = 1
        self._ticks_left = ROUND_S * TICKS_PER_S
        self._flushing = False
        self._away = False  # Redis was, or this worker was taken for dead: all is to be told again
        self._placed = False  # it has been in the ring
        self._departures = 0  # in `_changes`
        self._doubtful: dict[str, set[int]] = {}  # who is one too many here, unless a worker has died
        self._dead: set[WorkerId] = set()  # of those in the ring: who did not answer
        self.evictions = 0
        self.failures = 0
        cluster.answer(EVICT, self._on_evict)
        cluster.answer(LIVE, lambda asker, body: b"")

    def open(self, evict: Evict) -> None:
        """Begin: `evict` closes the connections of this worker that are one too many."""
        self._evict = evict
        self._cluster.watch(self._on_change)

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count connection `number` of this worker; whoever is one too many is closed, here or elsewhere."""
        name = f"{tenant}/{user}"
        self._here[name] = with_number(self._here.get(name, ()), number)
        self._note(name).came[number] = None

    def left(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count it no longer. One that was never counted is no error."""
        name = f"{tenant}/{user}"
        numbers = self._here.get(name, ())
        if number not in numbers:
            return
        rest = without_number(numbers, number)
        if rest:
            self._here[name] = rest
        else:
            del self._here[name]
        if name not in self._changes and self._departures >= WAITING_MAX:
            return
        change = self._note(name)
        change.came.pop(number, None)
        if self._departures < WAITING_MAX:
            change.gone.add(number)
            self._departures += 1
        elif not change:  # it came and went while nobody could be told
            del self._changes[name]
            self._retry.pop(name, None)

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
        elif self._away:
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

    def _note(self, name: str) -> Untold:
        """Return what is to be told of a user; it goes with the next flush, or after the call under way."""
        change = self._changes.get(name)
        if change is None:
            change = self._changes[name] = Untold()
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
            waiting = self._changes.get(name)
            if waiting is None or name in self._flying:
                continue
            change = waiting.take(NAMED_MAX)
            if not waiting:
                del self._changes[name]  # or the rest goes when this is answered
            self._departures -= len(change.gone)
            self._send(name, change, all=False, ring="")

    def _send(self, name: str, change: Untold, *, all: bool, ring: str) -> None:
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

    def _told(self, name: str, change: Untold, all: bool, outcome: Reply | Exception) -> None:
        if outcome == [b"ring"]:
            self._send(name, change, all=all, ring=self._ring())
            return
        self._flying.discard(name)
        if isinstance(outcome, Exception):
            self._take_back(name, change, outcome)
        elif name in self._changes and name not in self._retry:
            self._ready.append(name)
            self._flush_soon()
        if isinstance(outcome, list) and outcome:
            self._judge(name, outcome)

    def _ring(self) -> str:
        """Whose connections count, as Redis takes it."""
        if not self._cluster.ok:
            return "-"
        return " ".join(worker for worker in self._cluster.workers if worker not in self._dead)

    def _take_back(self, name: str, change: Untold, error: Exception) -> None:
        """Keep what could not be told, together with what came since."""
        if isinstance(error, RedisError) and not self._away:
            log.warning("connections over all workers are not counted: %s", error)
        self._away = True
        self.failures += 1
        here = self._here.get(name, ())
        came = {number: None for number in change.came if number in here}
        waiting = self._changes.setdefault(name, Untold())
        waiting.came = came | waiting.came
        if self._departures < WAITING_MAX:
            self._departures += len(change.gone - waiting.gone)
            waiting.gone |= change.gone
        if waiting:
            self._retry[name] = None
        else:
            del self._changes[name]

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
        change = Untold()
        change.came = dict.fromkeys(sorted(numbers))
        self._send(name, change, all=True, ring="")

    def _on_change(self, change: Change) -> None:
        """Note where others have dropped this worker's connections, because they took it for dead."""
        self._dead.clear()
        if self._cluster.worker in change.joined:
            self._away |= self._placed
            self._placed = True

    # -- who is one too many --------------------------------------------------------------------------------

    def _judge(self, name: str, members: list[bytes]) -> None:
        """Have those closed that Redis says are too many.

        The newest ones here may have come back from a worker that died a moment ago and is still in the ring;
        they are not told to stay away before the workers that have the others are known to live.
        """
        own: set[int] = set()
        for member in members:
            worker, _, number = member.decode().rpartition("/")
            if worker == self._cluster.worker:
                own.add(int(number))
            else:  # lost, it is counted again when its worker tells of it the next time, and found again
                eviction = _eviction(name, int(number))
                self._cluster.tell(EVICT, msgspec.msgpack.encode(eviction), WorkerId(worker))
        self.evictions += len(members) - len(own)
        if self._policy != "reject":
            self._evict_own(name, own)
        elif name in self._doubtful:
            self._doubtful[name] |= own
        elif own:
            self._doubtful[name] = own
            self._spawn(self._confirm(name))

    async def _confirm(self, name: str) -> None:
        """Close who is one too many here; or count them again, without the workers that do not answer."""
        try:
            silent = await self._silent(name)
        except Unavailable:  # nobody is refused while Redis is away; they are counted again when it is back
            self._away = True
            del self._doubtful[name]
            return
        numbers = self._doubtful.pop(name)
        if not silent:
            self._evict_own(name, numbers)
            return
        self._dead |= silent
        here = self._here.get(name, ())
        if again := sorted(number for number in numbers if number in here):
            self._note(name).came.update(dict.fromkeys(again))

    async def _silent(self, name: str) -> set[WorkerId]:
        """Return which of the workers that have connections of the user do not answer."""
        tenant, _, user = name.partition("/")
        found = await find_connections(self._redis, self._prefix, TenantId(tenant), UserId(user))
        asked = [each for each in self._cluster.workers if each in found and each != self._cluster.worker]
        asking = (self._cluster.ask(worker, LIVE, b"") for worker in asked)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        pairs = zip(asked, answers, strict=True)
        silent = {worker for worker, answer in pairs if isinstance(answer, BaseException)}
        self._dead -= set(asked) - silent
        return silent

    def _evict_own(self, name: str, numbers: Collection[int]) -> None:
        self.evictions += len(numbers)
        for number in sorted(numbers):
            self._evict_here(_eviction(name, number))

    def _on_evict(self, asker: WorkerId, body: bytes) -> None:
        try:
            self._evict_here(msgspec.msgpack.decode(body, type=Eviction))
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{EVICT}: {error}") from error

    def _evict_here(self, eviction: Eviction) -> None:
        if self._evict is not None:
            self._evict(eviction.tenant, eviction.user, eviction.number)


def _eviction(name: str, number: int) -> Eviction:
    tenant, _, user = name.partition("/")
    return Eviction(TenantId(tenant), UserId(user), number)


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
