"""The Redis servers of development and tests, and `realtime dev-cluster`: they do what their names say."""

import os
import signal
import subprocess
import sys

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from realtime.backends.redis_client.contract import SLOTS, slot_of
from realtime.backends.redis_nodes import RedisCluster, RedisNode, wait_for
from realtime.errors import StartupError
from tests.conftest import ROOT


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_three_masters_share_all_slots_and_each_has_a_replica(redis_cluster: RedisCluster):
    shards = redis_cluster.nodes[0].ask("CLUSTER", "SLOTS")
    assert sum(last - first + 1 for first, last, *_ in shards) == SLOTS
    assert [len(redis_cluster.replicas_of(master)) for master in redis_cluster.masters()] == [1, 1, 1]


def test_a_slot_moves_with_its_keys(own_redis_cluster: RedisCluster):
    cluster = own_redis_cluster
    slot = slot_of(b"foo")
    here = cluster.master_of(slot)
    there = next(node for node in cluster.masters() if node is not here)
    here.ask("SET", "foo", "bar")
    cluster.migrate_slot(slot, there)
    assert there.ask("GET", "foo") == b"bar"
    with pytest.raises(redis.exceptions.MovedError):
        here.ask("GET", "foo")


def test_a_replica_takes_over_when_told_and_when_its_master_is_killed(own_redis_cluster: RedisCluster):
    cluster = own_redis_cluster
    first = cluster.master_of(0)
    first.ask("SET", "{06S}", "kept")  # slot 0
    second = cluster.failover(0)
    assert second is not first
    wait_for(lambda: first in cluster.replicas_of(second), "the old master is no replica")
    second.kill()
    cluster.wait_until_ok()
    assert cluster.master_of(0) is first
    assert first.ask("GET", "{06S}") == b"kept"


def test_a_frozen_node_answers_nobody_and_wakes(own_redis_node: RedisNode):
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=own_redis_node.port, socket_timeout=0.1, retry=once) as client:
        own_redis_node.freeze()
        with pytest.raises(redis.exceptions.TimeoutError):
            client.ping()
        own_redis_node.thaw()
        assert own_redis_node.ask("PING")


def test_a_node_comes_back_empty_on_its_port(own_redis_node: RedisNode):
    port = own_redis_node.port
    own_redis_node.ask("SET", "x", 1)
    own_redis_node.kill()
    own_redis_node.start()
    assert own_redis_node.ask("GET", "x") is None
    assert own_redis_node.port == port


def test_a_port_that_is_taken_is_said(redis_node: RedisNode, tmp_path):
    with pytest.raises(StartupError, match="Address already in use"):
        RedisNode(tmp_path, redis_node.port).start()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_command_says_its_url_and_leaves_nothing_behind(how: signal.Signals):
    command = subprocess.Popen(
        [sys.executable, "-m", "realtime", "dev-cluster"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert command.stdout is not None
    url = command.stdout.readline().strip()
    assert url.startswith("REDIS_URL=redis://127.0.0.1:")
    port = int(url.rpartition(":")[2])
    with redis.Redis(port=port) as client:
        pid = client.info("server")["process_id"]
        assert client.execute_command("CLUSTER", "INFO").startswith(b"cluster_state:ok")
    os.kill(command.pid, how)
    assert command.wait() == (-how if how is signal.SIGKILL else 0)
    command.stdout.close()
    wait_for(lambda: not alive(pid), "a node outlives the command")
