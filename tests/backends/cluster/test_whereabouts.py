"""Who is connected where, over real Redis: the limit over all workers, ghosts, outages, what is told."""

import asyncio
import itertools
import random
from contextlib import asynccontextmanager

import pytest

from realtime.backends.cluster import whereabouts
from realtime.backends.cluster.library import source
from realtime.backends.cluster.whereabouts import (
    NAMED_MAX,
    ROUND_S,
    TICKS_PER_S,
    TTL_S,
    RedisWhereabouts,
    find_connections,
)
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import slot_of
from realtime.core.cluster import Change
from realtime.errors import Unavailable
from realtime.ids import TenantId, UserId
from tests.core.ring import Ring, RingMember

TENANT, ALICE = TenantId("default"), UserId("alice")
_prefixes = (f"who{number}" for number in itertools.count())


class Spy:
    """The client, counted; while `flaky` says so, an answer is lost, and with it perhaps the command."""

    def __init__(self, redis, flaky=None):
        self._redis = redis
        self._flaky = flaky
        self.ask = redis.ask
        self.sent = []

    @property
    def ok(self):
        return self._redis.ok

    def send(self, slot, *command, then=None):
        self.sent.append(command)
        if self._flaky is not None and self._flaky.random() < 0.3:
            answer = then

            def then(outcome):
                answer(Unavailable("the answer is lost"))

            if self._flaky.random() < 0.5:
                asyncio.get_running_loop().call_soon(then, None)
                return
        self._redis.send(slot, *command, then=then)


class Worker:
    """One worker's whereabouts. `closed` are the numbers of connections that were one too many here."""

    def __init__(self, redis, ring, name, *, prefix, limit=2, policy="reject", flaky=None):
        self.name = name
        self.prefix = prefix
        self.redis = Spy(redis, flaky)
        self.closed = []
        self.tasks = set()
        self.member = RingMember(ring, name)
        self.whereabouts = RedisWhereabouts(
            self.redis,
            self.member,
            asyncio.get_running_loop().call_soon,
            self._spawn,
            prefix=prefix,
            limit=limit,
            policy=policy,
        )
        self.whereabouts.open(lambda tenant, user, number: self.closed.append(number))

    def _spawn(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def come(self, *numbers, user=ALICE):
        for number in numbers:
            self.whereabouts.arrived(TENANT, user, number)

    def go(self, *numbers, user=ALICE):
        for number in numbers:
            self.whereabouts.left(TENANT, user, number)

    def tick(self, times=1):
        for _ in range(times):
            self.whereabouts.tick()

    async def find(self, user=ALICE):
        return await self.whereabouts.find(TENANT, user)

    async def settle(self):
        """Wait until Redis has been told, and has answered."""
        async with asyncio.timeout(60):
            while self.tasks or self.whereabouts.stats()["whereabouts_waiting"]:
                await asyncio.sleep(0)
                self.tick()
                await self.redis.ask(slot_of(self.key()), "TIME")

    def key(self, user=ALICE):
        return f"{self.prefix}:{{u/{TENANT}/{user}}}".encode()

    async def kept(self, user=ALICE):
        """Who is counted in Redis, in order of coming."""
        found = await self.redis.ask(slot_of(self.key()), "ZRANGE", self.key(user), 0, -1)
        return [each.decode() for each in found]


async def until(is_so):
    """Let everybody go on until it is so."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


@asynccontextmanager
async def workers(url, *names, **options):
    """Workers of one ring over one client."""
    redis = RedisClient(url, on_missing_function=source)
    await redis.start()
    ring = Ring()
    options.setdefault("prefix", next(_prefixes))
    try:
        yield [Worker(redis, ring, name, **options) for name in names]
    finally:
        await redis.close()


# ---------------------------------------------------------------- the limit


async def test_the_newest_is_one_too_many_where_that_is_the_policy(redis_cluster):
    async with workers(redis_cluster.url, "a", "b") as (a, b):
        a.come(1)
        await a.settle()
        b.come(1)
        await b.settle()
        b.come(2)
        await b.settle()
        assert (a.closed, b.closed) == ([], [2])
        assert await a.kept() == ["a/1", "b/1"]
        b.go(2)
        a.go(1)
        await asyncio.gather(a.settle(), b.settle())
        b.come(3)
        await b.settle()
        assert b.closed == [2], "there is room again"


async def test_the_oldest_is_one_too_many_where_that_is_the_policy_wherever_it_is(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", policy="replace") as (a, b):
        a.come(7)
        await a.settle()
        b.come(1, 2)
        await b.settle()
        assert (a.closed, b.closed) == ([7], [])
        b.come(3, 4)
        await b.settle()
        assert (a.closed, b.closed) == ([7], [1, 2])


async def test_users_and_tenants_are_counted_apart(redis_cluster):
    async with workers(redis_cluster.url, "a", limit=1) as (a,):
        a.come(1)
        a.come(2, user=UserId("bob"))
        a.whereabouts.arrived(TenantId("other"), ALICE, 3)
        a.come(4, user=UserId("a}b/c é"))
        a.come(5, user=UserId("a}b/c"))
        await a.settle()
        assert a.closed == []


async def test_what_a_worker_that_died_left_behind_is_no_ones_place(redis_cluster):
    async with workers(redis_cluster.url, "a", "b") as (a, b):
        a.come(1, 2)
        await a.settle()
        assert await b.find() == {"a": 2}
        del a.member._ring.members["a"]
        assert await b.find() == {}
        b.come(1, 2)
        await b.settle()
        assert b.closed == []
        assert await b.kept() == ["b/1", "b/2"]


async def test_who_comes_back_from_a_worker_that_died_just_now_is_not_turned_away(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", "c") as (a, b, c):
        a.come(1, 2)
        await a.settle()
        a.member._ring.deaf.add("a")  # still in the ring
        b.come(1)
        await b.settle()
        assert b.closed == []
        assert await b.kept() == ["b/1"]
        c.come(1, 2)
        await c.settle()
        assert (b.closed, c.closed) == ([], [2]), "b lives"


async def test_while_the_ring_is_not_known_nobody_is_taken_for_dead(redis_cluster):
    async with workers(redis_cluster.url, "a", "b") as (a, b):
        a.come(1, 2)
        await a.settle()
        b.member.ok = False
        b.member._ring.members = {"b": b.member}
        b.come(1)
        await b.settle()
        assert b.closed == [1]
        assert await b.find() == {"a": 2, "b": 1}, "what is counted there, and what is here"


async def test_a_user_is_found_on_all_workers_and_here_as_it_is_now(redis_cluster):
    async with workers(redis_cluster.url, "a", "b", limit=9) as (a, b):
        a.come(1, 2, 3)
        b.come(1)
        await asyncio.gather(a.settle(), b.settle())
        a.go(1)
        assert await a.find() == {"a": 2, "b": 1}
        await a.settle()
        assert await b.find() == {"a": 2, "b": 1}
        a.go(2, 3)
        await a.settle()
        assert await b.find() == {"b": 1}
        assert await a.find(UserId("nobody")) == {}


# ---------------------------------------------------------------- how often Redis is told


async def test_a_user_costs_one_call_a_turn_and_one_is_under_way_at_a_time(redis_cluster):
    async with workers(redis_cluster.url, "a", limit=1000) as (a,):
        a.come(*range(100))
        a.go(*range(50))
        assert a.redis.sent == []
        await asyncio.sleep(0)
        assert len(a.redis.sent) == 1
        a.come(1000)
        await asyncio.sleep(0)
        a.go(1000, 99)
        await asyncio.sleep(0)
        assert len(a.redis.sent) == 1
        await a.settle()
        assert len(a.redis.sent) == 2
        assert await a.kept() == [f"a/{number}" for number in range(50, 99)]


async def test_what_is_kept_ends_with_a_deployment_that_tells_it_no_more(redis_cluster):
    async with workers(redis_cluster.url, "a") as (a,):
        a.come(1)
        await a.settle()
        for key in (a.key(), a.key() + b":w"):
            assert 0 < await a.redis.ask(slot_of(key), "PTTL", key) <= TTL_S * 1000


async def test_everything_is_told_again_at_an_even_pace_and_ghosts_go(redis_cluster):
    async with workers(redis_cluster.url, "a", limit=9) as (a,):
        users = [UserId(f"u{number}") for number in range(2 * ROUND_S * TICKS_PER_S)]
        for user in users:
            a.come(1, user=user)
        await a.settle()
        for ghost in (b"a/77", b"b/1"):
            await a.redis.ask(slot_of(a.key(users[0])), "ZADD", a.key(users[0]), 1, ghost)
        await a.redis.ask(slot_of(a.key(users[1])), "DEL", a.key(users[1]))
        a.redis.sent.clear()
        while not a.redis.sent:
            a.tick()
        told = len(a.redis.sent)
        for _ in range(ROUND_S * TICKS_PER_S - 1):
            a.tick()
            assert len(a.redis.sent) - told <= 2
            told = len(a.redis.sent)
        await a.settle()
        assert told == len(users)
        assert await a.kept(users[0]) == ["b/1", "a/1"]
        assert await a.kept(users[1]) == ["a/1"]


async def test_a_user_of_many_connections_is_told_in_pieces(redis_cluster):
    async with workers(redis_cluster.url, "a", limit=100_000) as (a,):
        many = 3 * NAMED_MAX + 1
        a.come(*range(1, many + 1))
        await a.settle()
        assert len(await a.kept()) == many
        assert len(a.redis.sent) == 4
        a.go(*range(1, many))
        await a.settle()
        assert await a.kept() == [f"a/{many}"]


# ---------------------------------------------------------------- Redis away, and back


async def test_while_redis_is_away_nobody_is_refused_and_all_is_told_when_it_is_back(own_redis_node):
    async with workers(own_redis_node.url, "a", limit=2) as (a,):
        a.come(1)
        a.come(1, user=UserId("idle"))
        await a.settle()
        await asyncio.to_thread(own_redis_node.freeze)
        a.come(2, 3)
        a.go(1)
        a.come(4, user=UserId("bob"))
        a.go(4, user=UserId("bob"))
        with pytest.raises(Unavailable):
            await a.find()
        await until(lambda: a.whereabouts.stats()["whereabouts_failures_total"])
        assert a.closed == []
        await asyncio.to_thread(own_redis_node.thaw)
        await asyncio.to_thread(own_redis_node.ask, "FLUSHALL")
        await until(lambda: a.redis.ok)
        await a.settle()
        assert await a.kept() == ["a/2", "a/3"]
        a.tick()  # it was away: it may have lost what was told before, and it has
        await a.settle()
        assert await a.kept(UserId("idle")) == ["a/1"]
        assert await a.kept(UserId("bob")) == []


async def test_what_waits_for_redis_is_bounded(own_redis_node, monkeypatch):
    monkeypatch.setattr(whereabouts, "WAITING_MAX", 50)
    async with workers(own_redis_node.url, "a", limit=9) as (a,):
        a.come(1, 2)
        await a.settle()
        await asyncio.to_thread(own_redis_node.freeze)
        for number in range(1000):
            user = UserId(f"u{number}")
            a.come(number, user=user)
            if number % 2:
                await asyncio.sleep(0)  # one call more is under way
            a.go(number, user=user)
        await until(lambda: a.whereabouts.stats()["whereabouts_failures_total"])
        a.go(1)
        await until(lambda: not a.whereabouts._flying)
        assert a.whereabouts.stats()["whereabouts_waiting"] <= 51
        await asyncio.to_thread(own_redis_node.thaw)
        await until(lambda: a.redis.ok)
        await a.settle()
        a.tick()
        await a.settle()
        assert await a.kept() == ["a/2"]


async def test_a_worker_that_was_taken_for_dead_tells_everything_again_when_it_is_back(redis_cluster):
    async with workers(redis_cluster.url, "a", "b") as (a, b):
        a.come(1, 2)
        await a.settle()
        ring = a.member._ring.members
        del ring["a"]
        b.come(1)
        await b.settle()
        assert await b.kept() == ["b/1"]
        ring["a"] = a.member
        a.whereabouts._on_change(Change(2, ("a",), (), (), ()))
        a.tick()
        await a.settle()
        assert await b.kept() == ["b/1", "a/1"]
        assert a.closed == [2]


async def test_whatever_answers_are_lost_the_count_is_right_in_the_end(redis_cluster):
    seed = random.randrange(10**9)
    print("seed", seed)
    chance = random.Random(seed)
    async with workers(redis_cluster.url, "a", "b", "c", limit=1000, flaky=chance) as all:
        here = {each.name: set() for each in all}
        for step in range(400):
            worker = chance.choice(all)
            numbers = here[worker.name]
            if numbers and chance.random() < 0.45:
                number = chance.choice(sorted(numbers))
                numbers.discard(number)
                worker.go(number)
            else:
                numbers.add(step)
                worker.come(step)
            if chance.random() < 0.3:
                worker.tick()
                await worker.redis.ask(slot_of(worker.key()), "TIME")
        await asyncio.gather(*(each.settle() for each in all))
        expected = {f"{name}/{number}" for name, numbers in here.items() for number in numbers}
        assert set(await all[0].kept()) == expected
        found = await find_connections(all[0].redis, all[0].prefix, TENANT, ALICE)
        assert found == {name: len(numbers) for name, numbers in here.items() if numbers}
