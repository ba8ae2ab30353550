"""`realtime.Publisher` and the commands that stand on it, over real Redis and workers of this process."""

import asyncio
import itertools
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

import realtime
from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.library import source
from realtime.backends.cluster.redis_ring import RedisRing, new_worker_id
from realtime.backends.cluster.revocations import RedisRevocations
from realtime.backends.cluster.whereabouts import RedisWhereabouts
from realtime.backends.redis_client.client import RedisClient
from realtime.core.auth import Identity
from realtime.core.clock import SystemClock
from realtime.errors import (
    BadMessage,
    Forbidden,
    SettingsError,
    StartupError,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from realtime.ids import UserId
from realtime.policy import load_policy
from realtime.settings import Settings
from tests.core.world import World
from tests.oracles.hub import FakeClock, FakeConnection, FakeHub

LOBBY, EVENTS = "chat:lobby", "events:news"
_prefixes = (f"pub{number}" for number in itertools.count())


class Worker:
    """A core on real Redis, whose sockets are fake."""

    def __init__(self, redis, prefix, node):
        self.redis = redis
        self.tasks = set()
        clock = SystemClock()
        self.ring = RedisRing(redis, new_worker_id(node), clock, self.spawn, prefix=prefix, beat_s=0.05)
        self.whereabouts = RedisWhereabouts(
            redis,
            self.ring,
            asyncio.get_running_loop().call_soon,
            self.spawn,
            prefix=prefix,
            limit=5,
            policy="reject",
        )
        self.revocations = RedisRevocations(redis, prefix=prefix, spawn=self.spawn)
        self.world = World(
            broker=RedisBroker(redis, clock, FakeHub(FakeClock()), worker=self.ring.worker, prefix=prefix),
            cluster=self.ring,
            whereabouts=self.whereabouts,
            revocations=self.revocations,
            spawn=self.spawn,
        )
        self.ring.start()
        self.spawn(self._tick())

    def spawn(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def user(self, name, **options):
        """A connection that was let in and has not said anything."""
        connection = FakeConnection(hub=self.world.hub)
        connection.state = Identity(UserId(name), **options)
        connection.belong(self.world.core.admit(connection.state, connection.id))
        return connection

    async def member(self, name, room):
        """A user who has joined a room."""
        member = self.world.member(name)
        member.send("join", id="j", room=room)
        await until(lambda: any(b'"joined"' in each for each in member.connection.sent))
        return member

    async def _tick(self):
        while True:
            self.world.core.tick()
            await self.redis.ask(0, "PING")

    async def close(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.ring.close()


async def until(is_so):
    """Let everybody go on until it is so."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0)


@asynccontextmanager
async def deployment(url, *nodes, policy_path=""):
    """A publisher, and as many workers."""
    prefix = next(_prefixes)
    async with AsyncExitStack() as stack:
        workers = []
        for node in nodes:
            redis = RedisClient(url, on_missing_function=source)
            await redis.start()
            stack.push_async_callback(redis.close)
            workers.append(Worker(redis, prefix, node))
            stack.push_async_callback(workers[-1].close)
        await until(lambda: all(len(each.ring.workers) == len(nodes) and each.ring.ok for each in workers))
        await until(lambda: all(each.revocations.loaded for each in workers))
        publisher = realtime.Publisher(url, prefix=prefix, settings=Settings(policy_path=policy_path))
        yield await stack.enter_async_context(publisher), *workers


# ---------------------------------------------------------------- publish


async def test_what_no_store_keeps_is_published_without_any_worker(redis_cluster):
    async with deployment(redis_cluster.url) as (publisher,):
        first = await publisher.publish(EVENTS, "publish", {"n": 1}, key="k")
        second = await publisher.publish(EVENTS, "publish", {"n": 2})
        again = await publisher.publish(EVENTS, "publish", {"n": 1}, key="k")
        assert (first.offset, first.duplicate, second.offset) == (1, False, 2)
        assert again == (1, first.epoch, True)
        with pytest.raises(Unavailable, match="no worker"):
            await publisher.publish(LOBBY, "chat_message", "hello")


async def test_rooms_sealed_end_to_end_take_nothing_plain_from_outside(redis_cluster, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text('[[rooms]]\nrooms = ["events:secret", "chat:secret"]\nend_to_end = true\n')
    sealed = {"sealed": {"v": 1, "kid": "k", "nonce": "A" * 16, "ct": "A" * 22}}
    async with deployment(redis_cluster.url, "a", policy_path=str(path)) as (publisher, worker):
        worker.world.core.rules.replace(load_policy(path).rooms)
        assert (await publisher.publish("events:secret", "publish", sealed)).offset == 1
        assert (await publisher.publish("chat:secret", "chat_message", sealed)).offset == 1
        for room, type in (("events:secret", "publish"), ("chat:secret", "chat_message")):
            with pytest.raises(BadMessage, match="sealed end to end"):
                await publisher.publish(room, type, {"text": "plain"})
        with pytest.raises(BadMessage, match="sealed end to end"):
            await publisher.signal("chat:secret", "chat_typing", {})
    async with deployment(redis_cluster.url, "a") as (publisher, worker):  # one that does not know
        worker.world.core.rules.replace(load_policy(path).rooms)
        with pytest.raises(BadMessage, match="sealed end to end"):
            await publisher.publish("chat:secret", "chat_message", {"text": "plain"})


async def test_members_on_all_workers_get_what_is_published_from_outside(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (publisher, a, b):
        alice, bob = await a.member("alice", EVENTS), await b.member("bob", EVENTS)
        receipt = await publisher.publish(EVENTS, "publish", {"n": 1}, user="carol")
        await publisher.publish(EVENTS, "publish", "x")
        for member in (alice, bob):
            found = []
            await until(lambda found=found, member=member: found.extend(member.pushes()) or len(found) == 2)
            assert [(each["offset"], each.get("from")) for each in found] == [(1, "carol"), (2, None)]
            assert (found[0]["content"], found[0]["epoch"]) == ({"n": 1}, receipt.epoch)


async def test_what_a_store_keeps_is_published_by_a_worker(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (publisher, a, _):
        alice = await a.member("alice", LOBBY)
        first = await publisher.publish(LOBBY, "chat_message", {"text": "hello"}, key="k", user="bob")
        assert await publisher.publish(LOBBY, "chat_message", {"text": "hello"}, key="k", user="bob") == (
            1,
            first.epoch,
            True,
        )
        found = []
        await until(lambda: found.extend(alice.pushes()) or found)
        assert [(each["from"], each["content"]) for each in found] == [("bob", {"text": "hello"})]


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"room": "lobby"}, BadMessage),
        ({"room": "nothing:x"}, BadMessage),
        ({"tenant": "-"}, BadMessage),
        ({"user": ""}, BadMessage),
        ({"key": ""}, BadMessage),
        ({"key": "x" * 65}, BadMessage),
        ({"content": object()}, BadMessage),
        ({"content": "\ud800"}, BadMessage),
        ({"room": LOBBY, "type": "publish"}, Forbidden),
        ({"type": "join"}, Forbidden),
        ({"type": "chat_typing"}, BadMessage),
        ({"content": "x" * 65536}, TooLarge),
    ],
)
async def test_what_cannot_be_published_is_refused_before_anything_is_sent(redis_cluster, asked, error):
    async with deployment(redis_cluster.url) as (publisher,):
        with pytest.raises(error):
            await publisher.publish(**{"room": EVENTS, "type": "publish", **asked})


async def test_a_signal_reaches_who_is_there_now_and_is_kept_nowhere(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (publisher, a, b):
        alice, bob = await a.member("alice", EVENTS), await b.member("bob", EVENTS)
        await publisher.signal(EVENTS, "chat_typing", {"n": 1}, user="carol")
        await publisher.signal(EVENTS, "chat_typing")
        for member in (alice, bob):
            found = []
            await until(
                lambda found=found, member=member: (
                    found.extend(member.pushes("chat_typing")) or len(found) == 2
                )
            )
            assert [(each.get("from"), each["content"]) for each in found] == [
                ("carol", {"n": 1}),
                (None, None),
            ]
            assert not any("offset" in each for each in found)
        assert (await publisher.history(EVENTS)).offset == 0
        with pytest.raises(BadMessage, match="kept: publish"):
            await publisher.signal(EVENTS, "publish")


# ---------------------------------------------------------------- look


async def test_members_are_found_on_all_workers_and_history_on_any(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (publisher, a, b):
        assert await publisher.presence(EVENTS) == realtime.edge.publisher.Presence([], 0)
        await a.member("alice", EVENTS)
        await b.member("alice", EVENTS)
        await b.member("bob", EVENTS)
        found = await publisher.presence(EVENTS)
        assert (sorted(found.members), found.count) == (["alice", "bob"], 2)
        for number in range(5):
            receipt = await publisher.publish(EVENTS, "publish", number)
        page = await publisher.history(EVENTS, limit=2)
        assert [each["content"] for each in page.messages] == [3, 4]
        assert (page.more, page.offset, page.epoch) == (True, 5, receipt.epoch)
        page = await publisher.history(EVENTS, after=0, limit=3)
        assert [each["content"] for each in page.messages] == [0, 1, 2]
        page = await publisher.history("events:nobody")
        assert (page.messages, page.more, page.offset) == ([], False, 0)
        with pytest.raises(BadMessage):
            await publisher.history(EVENTS, limit=0)


async def test_a_page_that_workers_do_not_hand_on_at_once_is_cut_and_says_so(redis_cluster):
    async with deployment(redis_cluster.url, "a") as (publisher, _):
        for _ in range(4):
            await publisher.publish(EVENTS, "publish", "x" * 40_000)
        page = await publisher.history(EVENTS)
        assert [each["offset"] for each in page.messages] == [3, 4]
        assert page.more


# ---------------------------------------------------------------- users


async def test_a_user_is_notified_on_all_workers_and_the_connections_are_counted(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b", "c") as (publisher, a, b, _):
        connections = [a.user("alice"), b.user("alice"), b.user("alice")]
        other = a.user("bob")
        await until(lambda: not any(each.world.core.stats()["whereabouts_waiting"] for each in (a, b)))
        sent = await publisher.notify("alice", "Title", "text", data={"n": 1})
        assert sent.connections == 3
        for connection in connections:
            (push,) = connection.messages()
            assert push["content"] == {
                "id": sent.id,
                "title": "Title",
                "content": "text",
                "priority": 1,
                "data": {"n": 1},
            }
        assert other.sent == []
        assert (await publisher.notify("nobody", "t", "c")).connections == 0
        here = await a.world.core.notifications.send_notification(user_id="alice", title="t", content="c")
        assert here.connections == 3
        await until(lambda: all(connection.sent for connection in connections))


async def test_a_user_is_kicked_and_kept_out_on_all_workers(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (publisher, a, b):
        connections = [a.user("alice"), b.user("alice"), b.user("bob")]
        assert await publisher.kick("alice", reason="spam") == 2
        assert [each.closed for each in connections] == [(4503, b'{"r":"spam"}')] * 2 + [None]
        assert await publisher.kick_tenant("default") == 1
        await publisher.revoke(user="alice")
        await until(lambda: all(each.world.core.stats()["revocations"] for each in (a, b)))
        for worker in (a, b):
            with pytest.raises(Unauthorized, match="revoked"):
                worker.user("alice")


async def test_one_connection_too_many_over_all_workers_is_closed(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (_, a, b):
        first = [a.user("alice") for _ in range(3)] + [b.user("alice") for _ in range(2)]
        await until(lambda: not any(each.world.core.stats()["whereabouts_waiting"] for each in (a, b)))
        late = b.user("alice")
        await until(lambda: not late.open)
        assert late.closed[0] == 4504
        assert all(each.open for each in first)


# ---------------------------------------------------------------- without


async def test_without_redis_it_says_so():
    with pytest.raises(SettingsError, match="REDIS_URL"):
        realtime.Publisher(settings=Settings())
    with pytest.raises(StartupError, match="cannot be used"):
        async with realtime.Publisher("redis://127.0.0.1:1", settings=Settings(redis_timeout_s=0.2)):
            pass


async def test_a_worker_asked_by_another_version_says_so(redis_cluster):
    async with deployment(redis_cluster.url, "a", "b") as (_, a, b):
        asker = b.ring
        for verb in ("publish", "members", "history", "kick", "notify"):
            with pytest.raises(BadMessage):
                await asker.ask(a.ring.worker, verb, msgspec.msgpack.encode([1]))
        body = msgspec.msgpack.encode(["default", LOBBY, "chat_message", None, b"{", None])
        with pytest.raises(BadMessage, match="JSON"):
            await asker.ask(a.ring.worker, "publish", body)
