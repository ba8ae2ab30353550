"""The watcher of Redis masters: what it takes for dead, on a real cluster of six nodes and by its rules."""

import asyncio
import time

import pytest

from realtime.backends.redis_client.address import parse_url
from realtime.backends.redis_failover import FailoverWatch, Probe, judge, read_nodes
from realtime.core.clock import SystemClock
from realtime.errors import StartupError

PATIENCE_S = 30.0

NODES = (
    b"07c3 127.0.0.1:30004@31004,,shard-id=a slave e7d1 0 1426238317239 4 connected\n"
    b"67ed 127.0.0.1:30002@31002 master - 0 1426238316232 2 connected 5461-10922\n"
    b"e7d1 127.0.0.1:30001@31001 myself,master,fail? - 1426238317100 1426238316 1 disconnected 0-5460 5500\n"
    b"2922 :0@0 master,noaddr - 1426238316232 1426238316200 3 disconnected\n"
    b"a1 [::1]:7@17 master - 0 0 0 connected [5-<-a2]\n"
    b"garbage\n"
)


def test_what_a_node_says_of_the_others_is_read():
    replica, master, failing, nowhere, importing = read_nodes(NODES, "10.0.0.1")
    assert (replica.master, replica.serves, str(replica.endpoint)) == ("e7d1", False, "127.0.0.1:30004")
    assert (master.serves, master.linked, master.slots) == (True, True, 1)
    assert (failing.flags >= {"fail?", "master"}, failing.linked, failing.slots) == (True, False, 2)
    assert nowhere.endpoint.host == "10.0.0.1"
    assert (importing.serves, str(importing.endpoint)) == (False, "[::1]:7")


def seen(ping=0, pong=0, link="connected", flags="master"):
    return next(iter(read_nodes(f"id 1.2.3.4:1@2 {flags} - {ping} {pong} 1 {link} 0-5".encode(), "")))


@pytest.mark.parametrize(
    ("view", "verdict"),
    [
        (seen(pong=900), None),  # heard before our first try, and not asked since
        (seen(pong=1010), None),  # it may have been sent before
        (seen(pong=1100), False),
        (seen(pong=1100, link="disconnected"), False),
        (seen(pong=900, ping=1950), None),  # on its way
        (seen(pong=900, ping=1850), True),
        (seen(pong=900, link="disconnected"), True),
        (seen(pong=900, flags="master,fail?"), True),
    ],
)
def test_a_view_says_dead_or_alive_or_nothing(view, verdict):
    assert judge(view, since_ms=1000, now_ms=2000) is verdict


@pytest.fixture
async def watched(own_redis_cluster):
    """A cluster and a watcher that looks."""
    watch = FailoverWatch(parse_url(own_redis_cluster.url), SystemClock(), interval_s=0.05, silence_s=0.5)
    await watch.look()
    task = asyncio.create_task(watch.run())
    yield own_redis_cluster, watch
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def taken_over(cluster, replica):
    """Ask until the replica is master; return when."""
    async with asyncio.timeout(PATIENCE_S):
        while (await asyncio.to_thread(replica.ask, "ROLE"))[0] != b"master":  # noqa: ASYNC110
            await asyncio.sleep(0)
    return time.monotonic()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_dead_master_is_replaced_before_the_cluster_would_and_once(watched, how, caplog):
    cluster, watch = watched
    master = cluster.masters()[0]
    replica = cluster.replicas_of(master)[0]
    began = time.monotonic()
    getattr(master, how)()
    took = await taken_over(cluster, replica) - began
    if how == "freeze":
        master.thaw()
    else:
        await asyncio.to_thread(master.start)
    await asyncio.to_thread(cluster.wait_until_ok)  # the old one has become a replica of the new one
    assert watch.forced == 1
    assert len(cluster.masters()) == 3
    assert master not in cluster.masters()
    assert "3 masters agree" in caplog.text
    # By itself the cluster takes its node timeout of 1 s to agree, and 0.5 to 1 s more before it votes.
    assert took < 1.5


async def test_one_that_only_we_cannot_reach_is_left_alone(watched, monkeypatch, caplog):
    cluster, watch = watched
    cut_off = cluster.masters()[0].port
    ask = Probe.ask
    tried = asyncio.Event()
    tries = []

    async def ask_some(self, *command, timeout_s):
        if self.endpoint.port == cut_off:
            tries.append(command)
            if len(tries) > 40:
                tried.set()
            raise ConnectionRefusedError  # of a rule between it and us
        return await ask(self, *command, timeout_s=timeout_s)

    monkeypatch.setattr(Probe, "ask", ask_some)
    async with asyncio.timeout(PATIENCE_S):
        await tried.wait()
    assert watch.forced == 0
    assert "no answer from" in watch.state


async def test_a_watcher_that_is_cut_off_does_nothing(watched, monkeypatch):
    cluster, watch = watched
    tried = asyncio.Event()
    tries = []

    async def ask_nobody(self, *command, timeout_s):
        tries.append(command)
        if len(tries) > 60:
            tried.set()
        raise ConnectionRefusedError

    monkeypatch.setattr(Probe, "ask", ask_nobody)
    async with asyncio.timeout(PATIENCE_S):
        await tried.wait()
    assert watch.forced == 0
    assert len(cluster.masters()) == 3


async def test_two_watchers_make_one_master(watched, caplog):
    cluster, watch = watched
    other = FailoverWatch(parse_url(cluster.url), SystemClock(), interval_s=0.05, silence_s=0.5)
    await other.look()
    task = asyncio.create_task(other.run())
    master = cluster.masters()[0]
    replica = cluster.replicas_of(master)[0]
    master.kill()
    await taken_over(cluster, replica)
    await asyncio.to_thread(master.start)
    await asyncio.to_thread(cluster.wait_until_ok)
    assert len(cluster.masters()) == 3
    assert watch.forced + other.forced >= 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_no_cluster_is_not_watched(redis_node):
    watch = FailoverWatch(parse_url(redis_node.url), SystemClock(), interval_s=0.05, silence_s=0.5)
    with pytest.raises(StartupError, match="is no cluster to watch"):
        await watch.look()
    watch.close()
