"""Real Redis servers for tests: one alone, or a cluster of 3 masters and 3 replicas.

    def test_x(redis_cluster): ...      # one for the whole run: leave it as it was, use keys of your own
    def test_y(own_redis_cluster): ...  # to kill, freeze, fail over and move slots
    def test_z(redis_node): ...         # one server without cluster mode, for the whole run

`.url` is what REDIS_URL is. What can be done with them stands in realtime/backends/redis_nodes.py: `start`,
`stop`, `kill`, `freeze`, `thaw` and `ask` of a node; `masters`, `master_of`, `replicas_of`, `failover`,
`migrate_slot`, `frozen` and `wait_until_ok` of a cluster. All of it blocks: call it by `asyncio.to_thread`
where a loop has to go on meanwhile. A prefix of one's own (the setting `redis_prefix`) keeps tests of one
cluster apart.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime.backends.redis_nodes import RedisCluster, RedisNode
from realtime.errors import StartupError


def started_cluster() -> RedisCluster:
    """A cluster that is up; a machine without redis-server fails the test."""
    cluster = RedisCluster()
    try:
        cluster.start()
    except StartupError as error:
        pytest.fail(error.message)
    return cluster


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """The cluster of the whole run."""
    cluster = started_cluster()
    yield cluster
    cluster.remove()


@pytest.fixture
def own_redis_cluster() -> Iterator[RedisCluster]:
    """A cluster for a test that harms it."""
    cluster = started_cluster()
    yield cluster
    cluster.remove()


def _started_node() -> Iterator[RedisNode]:
    directory = Path(tempfile.mkdtemp(prefix="realtime-redis-"))
    node = RedisNode(directory)
    try:
        node.start()
    except StartupError as error:
        node.kill()
        pytest.fail(error.message)
    yield node
    node.kill()
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def redis_node() -> Iterator[RedisNode]:
    """One server, no cluster, of the whole run."""
    yield from _started_node()


@pytest.fixture
def own_redis_node() -> Iterator[RedisNode]:
    """One server, no cluster, for a test that harms it."""
    yield from _started_node()
