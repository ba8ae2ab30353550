"""Workers on the cluster of the whole run, and on Redis servers that a test may harm."""

import itertools
from collections.abc import AsyncIterator

import pytest_asyncio

from tests.backends.cluster.stage import Workers

_NUMBERS = itertools.count(1)  # a prefix for each test: all share one Redis


async def made(url: str) -> AsyncIterator[Workers]:
    workers = Workers(url, f"test-{next(_NUMBERS)}")
    yield workers
    await workers.close()


@pytest_asyncio.fixture
async def workers(redis_cluster) -> AsyncIterator[Workers]:
    """Makes workers on a cluster that stays as it is."""
    async for each in made(redis_cluster.url):
        yield each


@pytest_asyncio.fixture
async def workers_of_one(own_redis_node) -> AsyncIterator[Workers]:
    """Makes workers on one server, `own_redis_node`."""
    async for each in made(own_redis_node.url):
        yield each


@pytest_asyncio.fixture
async def workers_of_six(own_redis_cluster) -> AsyncIterator[Workers]:
    """Makes workers on a cluster of six, `own_redis_cluster`."""
    async for each in made(own_redis_cluster.url):
        yield each
