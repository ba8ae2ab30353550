"""Tenants' connections over all workers, over real Redis: who is too many, whose rates are divided."""

import asyncio
import itertools
from contextlib import asynccontextmanager

from realtime.backends.cluster.headcount import ROUND_S, TICKS_PER_S, RedisHeadcount
from realtime.backends.cluster.library import source
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import slot_of
from realtime.core.quotas import Quota, QuotaBook
from realtime.errors import Unavailable
from realtime.ids import TenantId, UserId
from realtime.policy import Quotas
from tests.core.ring import Ring, RingMember

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
ALICE = UserId("alice")
_prefixes = (f"heads{number}" for number in itertools.count())


class Flaky:
    """The client; while `away`, nothing is answered."""

    def __init__(self, redis):
        self._redis = redis
        self.away = False
        self.flying = 0

    def send(self, slot, *command, then):
        self.flying += 1

        def answered(outcome):
            self.flying -= 1
            then(outcome)

        if self.away:
            asyncio.get_running_loop().call_soon(answered, Unavailable("away"))
        else:
            self._redis.send(slot, *command, then=answered)


class Worker:
    """One worker's headcount. `closed` were too many here, `shares` are tenants whose share changed."""

    def __init__(self, redis, ring, name, quota, prefix):
        self.redis = Flaky(redis)
        self.member = RingMember(ring, name)
        self.closed, self.shares = [], []
        self.quotas = QuotaBook(quota)
        self.heads = RedisHeadcount(self.redis, self.member, prefix=prefix)
        self.heads.open(
            self.quotas, lambda tenant, user, number: self.closed.append(number), self.shares.append
        )

    def come(self, *numbers, tenant=ACME):
        for number in numbers:
            self.heads.arrived(tenant, ALICE, number)

    def go(self, *numbers, tenant=ACME):
        for number in numbers:
            self.heads.left(tenant, number)

    def tick(self, seconds):
        for _ in range(seconds * TICKS_PER_S):
            self.heads.tick()


@asynccontextmanager
async def workers(url, *names, quota):
    redis = RedisClient(url, on_missing_function=source)
    await redis.start()
    ring, prefix = Ring(), next(_prefixes)
    made = [Worker(redis, ring, name, quota, prefix) for name in names]

    async def settle():
        """Wait until everything that was told has been answered, and what follows from it."""
        async with asyncio.timeout(60):
            for _ in range(3):
                while any(each.redis.flying for each in made):
                    await redis.ask(slot_of(f"{prefix}:{{t/{ACME}}}".encode()), "TIME")
                await asyncio.sleep(0)

    try:
        yield made, settle
    finally:
        await redis.close()


async def test_of_two_workers_that_let_in_too_many_the_later_one_closes_its_newest(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", quota=Quota(connections=3)) as ((a, b), settle):
        a.come(1, 2)
        await settle()
        b.come(1, 2, 3)
        await settle()
        assert (a.closed, b.closed) == ([], [3, 2])
        b.go(2, 3)
        await settle()
        a.tick(ROUND_S)
        await settle()
        assert (a.heads.elsewhere(ACME), b.heads.elsewhere(ACME)) == (1, 2)


async def test_rates_are_divided_by_the_workers_that_the_tenant_is_on(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", "c", quota=Quota(messages_per_second=9)) as (
        all_,
        settle,
    ):
        a, b, c = all_
        assert a.heads.share_of(ACME) == 1.0
        a.come(1, 2)
        await settle()
        assert a.heads.share_of(ACME) == 1.0
        b.come(1)
        await settle()
        assert (a.heads.share_of(ACME), b.heads.share_of(ACME)) == (0.5, 0.5)
        c.come(1)
        await settle()
        assert {each.heads.share_of(ACME) for each in all_} == {1 / 3}
        assert a.shares == [ACME, ACME]
        b.go(1)
        c.go(1)
        await settle()
        assert a.heads.share_of(ACME) == 1.0
        assert a.heads.share_of(GLOBEX) == 1.0


async def test_tenants_without_a_quota_are_not_told_of_and_are_from_the_day_that_they_have_one(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", quota=Quota()) as ((a, b), settle):
        for each in (a, b):
            each.come(1, 2)
        await settle()
        assert a.heads.elsewhere(ACME) == 0
        for each in (a, b):
            each.quotas.replace({"acme": Quotas(connections=1)})
        await settle()
        a.tick(ROUND_S)
        await settle()
        assert (a.heads.elsewhere(ACME), b.heads.elsewhere(ACME)) == (2, 2)
        assert (a.closed, b.closed) == ([], []), "a lowered quota closes nobody"


async def test_while_redis_is_away_nobody_is_closed_and_it_is_told_later(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", quota=Quota(connections=2)) as ((a, b), settle):
        a.come(1)
        await settle()
        b.redis.away = True
        b.come(1, 2)
        await settle()
        assert b.closed == []
        assert b.heads.stats()["headcount_failures_total"] > 0
        b.redis.away = False
        b.tick(ROUND_S)
        await settle()
        a.tick(ROUND_S)
        await settle()
        assert a.heads.elsewhere(ACME) == 2


async def test_a_tenant_that_is_gone_is_forgotten_here_and_in_redis(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", quota=Quota(connections=5)) as ((a, b), settle):
        for each in (a, b):
            each.come(1)
        await settle()
        a.go(1)
        await settle()
        a.tick(2 * ROUND_S)
        b.tick(ROUND_S)
        await settle()
        assert a.heads.stats()["headcount_tenants"] == 0
        assert b.heads.elsewhere(ACME) == 0
