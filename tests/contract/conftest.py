"""The brokers and stores that the contracts are held against. A new one is one more entry here."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from realtime.backends.broker_durable import DurableBroker
from realtime.backends.broker_memory import MemoryBroker
from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.durable import KeepingBroker, deepen
from realtime.backends.cluster.library import source
from realtime.backends.cluster.opener import Opener
from realtime.backends.redis_client.client import RedisClient
from realtime.core.contracts import Broker, Store
from tests.contract.audit_places import AuditPlace, PostgresAuditPlace, SqliteAuditPlace
from tests.contract.stores import Place, PostgresPlace, SqlitePlace
from tests.oracles.hub import FakeClock, FakeHub
from tests.oracles.store import FakeStore

MakeBroker = Callable[..., Broker]
_NUMBERS = itertools.count(1)  # a prefix each: all brokers of a run share one Redis

MEMORY = ["memory"]
# What these forget they find again in their store.
STORES = ["sqlite", "postgres"]
LASTING = ["durable", *(f"durable on {name}" for name in STORES)]
# Their clock is Redis' own: what keeps time by an injected one is in tests/backends/cluster for them.
REDIS = ["redis", "redis cluster"]
KEEPING = "redis with postgres"


async def place_of(name: str, request, folder: Path) -> Place:
    if name == "sqlite":
        return SqlitePlace(folder)
    return PostgresPlace(await request.getfixturevalue("postgres").new_database())


async def broker_maker(request, clock: FakeClock, folder: Path, closing: AsyncExitStack) -> MakeBroker:
    """Return what makes brokers of the kind asked for, on one store where they stand on one.

    Options: history_messages, history_bytes, memory_bytes, recovery_window_s, idle_rooms.
    """

    def memory(**options) -> MemoryBroker:
        return MemoryBroker(clock, FakeHub(clock), **options)

    name = request.param
    if name == "memory":
        return memory
    if name in (*REDIS, KEEPING):
        node = request.getfixturevalue("redis_cluster" if name == "redis cluster" else "redis_node")
        client = RedisClient(node.url, on_missing_function=source)
        await client.start()
        closing.push_async_callback(client.close)
        kept = None
        if name == KEEPING:
            place = await place_of("postgres", request, folder)
            kept = await place.open(clock=clock, exclusive=False)
            closing.push_async_callback(kept.close)

        def redis(**options) -> Broker:
            options["prefix"] = f"contract-{next(_NUMBERS)}"
            if kept is not None:
                opener = Opener(client, kept, clock, prefix=options["prefix"], recovery_window_s=300.0)
                options |= {"opening": opener, "deepen": deepen(kept, clock)}
            broker = RedisBroker(client, clock, FakeHub(clock), worker="w1", **options)
            closing.push_async_callback(broker.close)
            if kept is None:
                return broker
            keeping = KeepingBroker(broker, kept, clock)
            closing.push_async_callback(keeping.close)
            return keeping

        return redis
    if name == "durable":
        store: Store = FakeStore(commits_itself=True)
    else:
        place = await place_of(name.removeprefix("durable on "), request, folder)
        store = await place.open(clock=clock)
    closing.push_async_callback(store.close)

    def durable(**options) -> DurableBroker:
        idle = {name: options[name] for name in ("recovery_window_s", "idle_rooms") if name in options}
        return DurableBroker(memory(**options), store, clock, FakeHub(clock), **idle)

    return durable


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest_asyncio.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest_asyncio.fixture(params=[*MEMORY, *LASTING, *REDIS, KEEPING])
async def broker(request, clock, tmp_path, closing) -> Broker:
    return (await broker_maker(request, clock, tmp_path, closing))()


@pytest_asyncio.fixture(params=MEMORY + LASTING)
async def make_broker(request, clock, tmp_path, closing) -> MakeBroker:
    """Make brokers that keep time by `clock`."""
    return await broker_maker(request, clock, tmp_path, closing)


@pytest_asyncio.fixture(params=MEMORY)
async def make_forgetful_broker(request, clock, tmp_path, closing) -> MakeBroker:
    """Make brokers that have nothing but their memory."""
    return await broker_maker(request, clock, tmp_path, closing)


@pytest_asyncio.fixture(params=MEMORY + REDIS)
async def make_bounded_broker(request, clock, tmp_path, closing) -> MakeBroker:
    """Make brokers that keep the newest of a room, and nothing else."""
    return await broker_maker(request, clock, tmp_path, closing)


@pytest_asyncio.fixture(params=LASTING)
async def make_lasting_broker(request, clock, tmp_path, closing) -> MakeBroker:
    """Make brokers that forget nothing."""
    return await broker_maker(request, clock, tmp_path, closing)


@pytest_asyncio.fixture(params=STORES)
async def place(request, tmp_path) -> Place:
    """Where stores of one kind are kept: `await place.open(…)` opens what is kept there."""
    return await place_of(request.param, request, tmp_path)


@pytest_asyncio.fixture
async def store(place) -> AsyncIterator[Store]:
    opened = await place.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(params=STORES)
async def audit_place(request, tmp_path) -> AuditPlace:
    """Where an audit log is kept."""
    if request.param == "sqlite":
        return SqliteAuditPlace(tmp_path)
    return PostgresAuditPlace(await request.getfixturevalue("postgres").new_database())
