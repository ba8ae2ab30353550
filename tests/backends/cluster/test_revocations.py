"""Revoked tokens over real Redis: every worker knows all of them, whenever it came and whatever it missed."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import pytest

from realtime.backends.cluster import revocations
from realtime.backends.cluster.library import source
from realtime.backends.cluster.revocations import RedisRevocations
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import slot_of
from realtime.core.revocations import REVOCATIONS_MAX
from realtime.errors import TooLarge, Unavailable
from realtime.ids import TenantId, UserId

TENANT = TenantId("default")
_prefixes = (f"revoked{number}" for number in itertools.count())


class Hearer:
    """A worker's revocations. `heard` are those that it was told of, once each."""

    def __init__(self, redis, prefix):
        self.tasks = []
        self.heard = {}
        self.news = asyncio.Event()
        self.list = RedisRevocations(redis, prefix=prefix, spawn=self._spawn, again_s=0)
        self.list.open(self._on_revoked)

    async def until(self, is_so):
        async with asyncio.timeout(60):
            while not is_so():
                self.news.clear()
                await self.news.wait()

    async def until_heard(self, *names):
        await self.until(lambda: set(names) <= self.heard.keys())

    def _spawn(self, coroutine):
        self.tasks.append(asyncio.ensure_future(self._then_tell(coroutine)))

    async def _then_tell(self, coroutine):
        await coroutine
        self.news.set()

    def _on_revoked(self, found):
        self.heard |= {each.user or each.token_id: each for each in found}
        self.news.set()


@asynccontextmanager
async def client(url):
    redis = RedisClient(url, on_missing_function=source)
    await redis.start()
    try:
        yield redis
    finally:
        await redis.close()


def revoke(list, *, user=None, token_id=None, before=1000.0, keep_s=60.0):
    return list.revoke(TENANT, None if user is None else UserId(user), token_id, before, keep_s)


async def test_every_worker_of_the_deployment_hears_of_each(redis_cluster):
    async with client(redis_cluster.url) as redis, client(redis_cluster.url) as elsewhere:
        prefix = next(_prefixes)
        other, foreign = Hearer(elsewhere, prefix), Hearer(redis, prefix + "x")
        await other.until(lambda: other.list.loaded)
        await foreign.until(lambda: foreign.list.loaded)
        outside = RedisRevocations(redis, prefix=prefix)
        until = await revoke(outside, user="al/ice é", before=123.456)
        await revoke(outside, token_id="t/1\n 2")
        await other.until_heard("al/ice é", "t/1\n 2")
        alice, token = other.heard["al/ice é"], other.heard["t/1\n 2"]
        assert (alice.tenant, alice.user, alice.token_id, alice.before) == (TENANT, "al/ice é", None, 123.456)
        assert alice.until == until
        assert (token.user, token.token_id) == (None, "t/1\n 2")
        assert not foreign.heard


async def test_who_comes_later_reads_all_page_by_page(redis_cluster, monkeypatch):
    monkeypatch.setattr(revocations, "PAGE", 10)
    async with client(redis_cluster.url) as redis:
        prefix = next(_prefixes)
        outside = RedisRevocations(redis, prefix=prefix)
        names = [f"u{number}" for number in range(700)]  # more than a hash keeps in one piece
        await asyncio.gather(*(revoke(outside, user=name) for name in names))
        late = Hearer(redis, prefix)
        await late.until(lambda: late.list.loaded)
        assert late.heard.keys() == set(names)


async def test_what_was_revoked_while_a_worker_heard_nothing_is_read_when_it_hears_again(redis_node):
    async with client(redis_node.url) as redis:
        prefix = next(_prefixes)
        hearer = Hearer(redis, prefix)
        await hearer.until(lambda: hearer.list.loaded)
        assert await asyncio.to_thread(redis_node.ask, "CLIENT", "KILL", "TYPE", "pubsub") >= 1
        await revoke(RedisRevocations(redis, prefix=prefix), user="alice")
        await hearer.until_heard("alice")


async def test_of_two_of_one_user_the_further_is_kept_and_told(redis_cluster):
    async with client(redis_cluster.url) as redis:
        prefix = next(_prefixes)
        hearer = Hearer(redis, prefix)
        await hearer.until(lambda: hearer.list.loaded)
        far = await revoke(hearer.list, user="alice", before=10, keep_s=1000)
        assert await revoke(hearer.list, user="alice", before=20, keep_s=10) == far
        await hearer.until(lambda: "alice" in hearer.heard and hearer.heard["alice"].before == 20)
        assert hearer.heard["alice"].until == far


async def test_what_has_ended_is_forgotten_with_the_next_one_and_all_with_the_last(redis_cluster):
    async with client(redis_cluster.url) as redis:
        prefix = next(_prefixes)
        list = RedisRevocations(redis, prefix=prefix)
        key = f"{prefix}:{{revoked}}"
        slot = slot_of(key.encode())
        await revoke(list, user="long", keep_s=100)
        await revoke(list, user="short", keep_s=0.001)
        async with asyncio.timeout(60):
            while await redis.ask(slot, "ZCOUNT", key + ":ends", "-inf", await _now_ms(redis, slot)) != 1:
                pass
        assert await redis.ask(slot, "HLEN", key) == 2
        await revoke(list, user="other", keep_s=10)
        assert sorted(await redis.ask(slot, "HKEYS", key)) == [b"u/default/long", b"u/default/other"]
        for each in (key, key + ":ends"):
            assert 90_000 < await redis.ask(slot, "PTTL", each) <= 100_000


async def _now_ms(redis, slot):
    seconds, micros = await redis.ask(slot, "TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def test_there_is_a_bound_and_who_is_in_already_may_be_revoked_further(redis_node):
    fill = "for i = 1, tonumber(ARGV[1]) do redis.call('HSET', KEYS[1], 'u/default/u' .. i, '1 1') end"
    async with client(redis_node.url) as redis:
        prefix = next(_prefixes)
        list = RedisRevocations(redis, prefix=prefix)
        key = f"{prefix}:{{revoked}}"
        await redis.ask(slot_of(key.encode()), "EVAL", fill, 1, key, REVOCATIONS_MAX)
        with pytest.raises(TooLarge, match="100000"):
            await revoke(list, user="alice")
        await revoke(list, user="u7")


async def test_without_redis_nothing_is_revoked_and_that_is_said(own_redis_node):
    async with client(own_redis_node.url) as redis:
        await asyncio.to_thread(own_redis_node.freeze)
        with pytest.raises(Unavailable):
            await revoke(RedisRevocations(redis, prefix="x"), user="alice")
