"""Tenants' connections over all workers, in Redis: the quota of connections, and workers' shares of rates.

A tenant has one hash of the workers that it is connected to. A worker tells its own number with a function
call that answers with the others', one call a tenant at a time; so of two workers that let in the last
connection at once the second one finds that it is one too many, and closes its newest again. Who comes to a
tenant first, or leaves it last, lets the other workers know, whose shares change with that. All is told again
every `ROUND_S`, which corrects what was lost; while Redis is away the last answer holds.

Only tenants with a quota that hangs on it are told of.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from realtime.backends.redis_client.contract import Redis, RedisError, Reply, slot_of
from realtime.core.cluster import Cluster, Evict, WorkerId
from realtime.core.quotas import QuotaBook
from realtime.errors import BadMessage
from realtime.ids import TenantId, UserId, parse_tenant

log: Final = logging.getLogger("realtime.backends")

TTL_MS: Final = 60_000
ROUND_S: Final = 5
TICKS_PER_S: Final = 10
CAME: Final = "headcount"


class Count:
    """What is known of one tenant. `fresh` came since the last call was sent: who may be one too many.

    `news`: this worker came to the tenant, or left it, which the others are to hear of.
    """

    __slots__ = ("connections_elsewhere", "flying", "fresh", "here", "news", "untold", "workers_elsewhere")

    def __init__(self) -> None:
        self.here = 0
        self.fresh: dict[int, UserId] = {}
        self.news = False
        self.untold = False
        self.flying = False
        self.connections_elsewhere = 0
        self.workers_elsewhere = 0


class RedisHeadcount:
    """A `Headcount` over Redis; `tick` about ten times a second."""

    def __init__(self, redis: Redis, cluster: Cluster, *, prefix: str) -> None:
        self._redis = redis
        self._cluster = cluster
        self._prefix = prefix
        self._counts: dict[TenantId, Count] = {}  # of tenants with connections here, or still to be told of
        self._round: deque[TenantId] = deque()
        self._evict: Evict | None = None
        self._on_share: Callable[[TenantId], None] = _ignore
        self._quotas = QuotaBook()
        self._failing = False
        self.evictions = 0
        self.failures = 0
        cluster.answer(CAME, self._on_came)

    def open(self, quotas: QuotaBook, evict: Evict, on_share: Callable[[TenantId], None]) -> None:
        """Begin, as `Headcount.open`."""
        self._quotas, self._evict = quotas, evict
        self._on_share = on_share
        quotas.watch(self._tell_all)
        self._cluster.watch(lambda change: self._tell_all())

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count connection `number` of this worker."""
        count = self._counts.get(tenant)
        if count is None:
            count = self._counts[tenant] = Count()
            self._round.append(tenant)
        count.here += 1
        if self._is_limited(tenant):
            count.fresh[number] = user
            count.news |= count.here == 1
            self._tell(tenant, count)

    def left(self, tenant: TenantId, number: int) -> None:
        """Count it no longer."""
        count = self._counts[tenant]
        count.here -= 1
        count.fresh.pop(number, None)
        if self._is_limited(tenant):
            count.news |= not count.here
            self._tell(tenant, count)

    def elsewhere(self, tenant: TenantId) -> int:
        """Return how many there are on other workers; asked for anew, as somebody may be refused over it."""
        count = self._counts.get(tenant)
        if count is None:
            return 0
        if count.connections_elsewhere:
            self._tell(tenant, count)
        return count.connections_elsewhere

    def share_of(self, tenant: TenantId) -> float:
        """Return this worker's part of the tenant's rates: the same for each worker it is connected to."""
        count = self._counts.get(tenant)
        return 1.0 if count is None else 1 / (1 + count.workers_elsewhere)

    def tick(self) -> None:
        """Tell again what is due, and forget tenants that are gone."""
        for _ in range(-(-len(self._round) // (ROUND_S * TICKS_PER_S))):
            tenant = self._round.popleft()
            count = self._counts[tenant]
            if (count.here or count.news) and self._is_limited(tenant):
                self._tell(tenant, count)
            if count.here or count.flying or count.untold:
                self._round.append(tenant)
            else:
                del self._counts[tenant]

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {
            "headcount_tenants": len(self._counts),
            "headcount_evictions_total": self.evictions,
            "headcount_failures_total": self.failures,
        }

    def _is_limited(self, tenant: TenantId) -> bool:
        quota = self._quotas.of(tenant)
        return bool(quota.connections or any(quota.rates))

    def _tell_all(self) -> None:
        for tenant, count in self._counts.items():
            if self._is_limited(tenant):
                self._tell(tenant, count)

    def _tell(self, tenant: TenantId, count: Count) -> None:
        """Tell Redis how many there are here; after the call under way, where there is one."""
        if count.flying:
            count.untold = True
            return
        count.flying, count.untold = True, False
        fresh, count.fresh = count.fresh, {}
        news, count.news = count.news, False
        key = f"{self._prefix}:{{t/{tenant}}}"
        ring = " ".join(self._cluster.workers) if self._cluster.ok else "-"
        self._redis.send(
            slot_of(key.encode()),
            *("FCALL", "rt1_headcount", 1, key, self._cluster.worker, count.here, TTL_MS, ring),
            then=partial(self._told, tenant, count, fresh, news),
        )

    def _told(
        self,
        tenant: TenantId,
        count: Count,
        fresh: dict[int, UserId],
        news: bool,
        answer: Reply | Exception,
    ) -> None:
        count.flying = False
        if not isinstance(answer, list):
            count.news |= news
            self._failed(answer)
            return  # the next round tells it; nobody is closed over what is not known
        self._failing = False
        if news:
            self._let_others_know(tenant)  # now that Redis says the same
        former = count.workers_elsewhere
        count.connections_elsewhere, count.workers_elsewhere = map(int, answer)
        if count.workers_elsewhere != former:
            self._on_share(tenant)
        self._judge(tenant, count, fresh)
        if count.untold:
            self._tell(tenant, count)

    def _judge(self, tenant: TenantId, count: Count, fresh: dict[int, UserId]) -> None:
        """Close the newest of those that this call told of first, as many as are too many.

        Who was told of before stays: a quota that was lowered closes nobody.
        """
        allowed = self._quotas.of(tenant).connections
        over = count.here - len(count.fresh) + count.connections_elsewhere - allowed
        if not allowed or over <= 0 or self._evict is None:
            return
        for number in sorted(fresh, reverse=True)[:over]:
            self.evictions += 1
            self._evict(tenant, fresh[number], number)

    def _failed(self, answer: object) -> None:
        self.failures += 1
        if isinstance(answer, RedisError) and not self._failing:
            log.warning("tenants' connections over all workers are not counted: %s", answer)
        self._failing = True

    def _let_others_know(self, tenant: TenantId) -> None:
        for worker in self._cluster.workers:
            if worker != self._cluster.worker:
                self._cluster.tell(CAME, tenant.encode(), worker)

    def _on_came(self, asker: WorkerId, body: bytes) -> None:
        try:
            tenant = parse_tenant(body.decode())
        except UnicodeDecodeError as error:
            raise BadMessage(f"{CAME}: no tenant") from error
        count = self._counts.get(tenant)
        if count is not None:
            self._tell(tenant, count)


def _ignore(tenant: TenantId) -> None:
    """Nobody listens before `open`."""
