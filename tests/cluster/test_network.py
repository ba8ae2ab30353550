"""Hosts in network namespaces: what is on one is reached from the other, until the cable is cut."""

import subprocess
from pathlib import Path

import pytest

from realtime.backends.redis_nodes import Home, RedisNode
from tests.cluster import network
from tests.cluster.network import Place


def pings(place: Place, node: RedisNode) -> bool:
    """Ask a Redis node from a host."""
    command = ["redis-cli", "-h", node.home.address, "-p", str(node.port), "ping"]
    try:
        said = subprocess.run(
            [*place.launcher, *command], capture_output=True, text=True, check=False, timeout=2
        )
    except subprocess.TimeoutExpired:
        return False
    return said.stdout.strip() == "PONG"


def test_the_cable_between_two_hosts_is_cut_and_we_reach_both(tmp_path: Path):
    if why := network.possible():
        pytest.skip(why)
    with network.network() as net:
        a, b = net.places
        node = RedisNode(tmp_path, home=Home(a.address, a.launcher))
        try:
            node.start()
            assert pings(b, node)
            net.cut()
            assert not pings(b, node)
            assert pings(a, node)
            assert node.ask("PING")
            net.mend()
            assert pings(b, node)
        finally:
            node.kill()


def test_where_there_is_no_root_it_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(network.os, "geteuid", lambda: 1000)
    assert network.possible() == "network namespaces need root"
