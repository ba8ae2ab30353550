"""The brokers and stores that the contracts are held against. A new one is one more entry here."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from realtime.backends.broker_memory import MemoryBroker
from realtime.core.contracts import Broker, Store
from tests.contract.stores import Place, PostgresPlace, SqlitePlace
from tests.oracles.hub import FakeClock, FakeHub


def memory(clock: FakeClock, **options) -> Broker:
    return MemoryBroker(clock, FakeHub(clock), **options)


BROKERS: dict[str, Callable[..., Broker]] = {"memory": memory}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=BROKERS)
def make_broker(request, clock) -> Callable[..., Broker]:
    """Make brokers of one kind, with options: history_messages, history_bytes, recovery_window_s …"""
    return lambda **options: BROKERS[request.param](clock, **options)


@pytest.fixture
def broker(make_broker) -> Broker:
    return make_broker()


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def place(request, tmp_path) -> Place:
    """Where stores of one kind are kept: `await place.open(…)` opens what is kept there."""
    if request.param == "sqlite":
        return SqlitePlace(tmp_path)
    return PostgresPlace(await request.getfixturevalue("postgres").new_database())


@pytest_asyncio.fixture
async def store(place) -> AsyncIterator[Store]:
    opened = await place.open()
    yield opened
    await opened.close()
