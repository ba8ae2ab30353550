"""Clients of fake nodes: quick to take a node for dead, so that tests need not wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from realtime.backends.redis_client.client import RedisClient
from tests.backends.redis_client.fake import FakeCluster


@pytest.fixture
def event_loop_policy() -> uvloop.EventLoopPolicy:
    """The loop that workers run on: it differs from asyncio's in what it does between two callbacks."""
    return uvloop.EventLoopPolicy()


@pytest.fixture
async def clients() -> AsyncIterator[Callable[..., RedisClient]]:
    """Make clients, which are closed at the end: `clients(url, timeout_s=1.0)`."""
    made: list[RedisClient] = []

    def make(url: str, **options: Any) -> RedisClient:
        made.append(RedisClient(url, **{"timeout_s": 2.0, "ping_interval_s": 0.1, **options}))
        return made[-1]

    yield make
    await asyncio.gather(*(client.close() for client in made))


@pytest.fixture
async def fakes() -> AsyncIterator[Callable[..., Any]]:
    """Start fake clusters: `await fakes(3)`; `enabled=False` makes one node that is none."""
    started: list[FakeCluster] = []

    async def start(nodes: int = 3, *, enabled: bool = True) -> FakeCluster:
        started.append(await FakeCluster(enabled=enabled).start(nodes))
        return started[-1]

    yield start
    for cluster in started:
        await cluster.stop()
