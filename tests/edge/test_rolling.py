"""`realtime upgrade` of three workers: they are as even afterwards as before, or even where they were not."""

import asyncio
import re
import socket
from pathlib import Path

import pytest
import pytest_asyncio

from tests.edge.crowd import Crowd
from tests.edge.peer import PATIENCE_S, get
from tests.edge.test_handover import start, until  # noqa: F401 - a fixture
from tests.edge.workers import deployment, labelled, until_ready
from tests.postgres import children

WORKERS = 3
NODES = [f"n-{number}" for number in range(1, WORKERS + 1)]
EVEN = dict.fromkeys(NODES, 20)
UNEVEN = dict(zip(NODES, (60, 15, 15), strict=True))
SHARES = re.compile(r"connections of the workers: (?:[\d, ]+; shared out [^:]*: )?([\d, ]+), at most")


@pytest_asyncio.fixture
async def crowd():
    """Clients, who go before the servers of the test."""
    crowd = Crowd()
    yield crowd
    await crowd.go()


@pytest_asyncio.fixture
async def server(start, crowd, redis_cluster):  # noqa: F811
    """Three workers of one supervisor."""
    windows = {"reconnect_min_ms": 100, "reconnect_max_ms": 500}
    server = start(workers=WORKERS, node="n", **windows, **deployment(redis_cluster.url))
    await until_ready(server)
    yield server
    await crowd.go()


async def counts(server, total):
    """How many connections each worker has by its /metrics, when they are `total` in all."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = {node: await labelled(server, node, "connections") for node in NODES}
            if sum(found.values()) == total:
                return found


def ratio(found):
    return max(found.values()) * len(found) / sum(found.values())


async def upgrade(server, *options):
    """Upgrade, and wait until the supervisor is the new program, too; return what the command said."""
    began = len(server.log)
    code, said = await server.upgrade(*options)
    assert code == 0, f"{said}\n{server.whole_log()}"
    server.serving = server.process.pid  # of several workers the supervisor's stays
    assert len(re.findall(r"serves: \d+ connections", said)) == WORKERS
    await asyncio.to_thread(server.wait_for_line, "the supervisor goes on", after=began)
    await until(lambda: _open(server))
    return said


def _open(server):
    """Whether the supervisor can be asked again."""
    with socket.socket(socket.AF_UNIX) as end:
        return any(
            end.connect_ex(str(path)) == 0 for path in Path(server.settings["runtime_path"]).glob("*.sock")
        )


@pytest.mark.timeout(600)
async def test_workers_that_are_even_stay_so_and_nobody_notices(server, crowd):
    await crowd.deal(server, EVEN)
    assert await counts(server, 60) == EVEN
    async with crowd.talking():
        said = await upgrade(server)
    assert "connections of the workers: 20, 20, 20, at most 1 times the mean" in said
    after = await counts(server, 60)
    assert ratio(after) <= 1.1
    assert after == EVEN  # each is where it was
    assert sum(client.reconnects for client in crowd.clients) == 0
    assert crowd.said > 0
    # Those whose places were taken have ended, and somebody has taken note of it.
    await until(lambda: len(children(server.pid)) == WORKERS)


@pytest.mark.timeout(600)
async def test_workers_that_are_not_even_are_so_at_the_end(server, crowd):
    await crowd.deal(server, UNEVEN)
    before = await counts(server, 90)
    assert before == UNEVEN
    assert ratio(before) == 2
    async with crowd.talking():
        said = await upgrade(server, "--no-shed")
        assert "connections of the workers" not in said
        assert await counts(server, 90) == UNEVEN
        assert sum(client.reconnects for client in crowd.clients) == 0
        said = await upgrade(server)
        assert "connections of the workers: 60, 15, 15; shared out" in said
        # Who is late, as on a busy machine, comes to whomever the kernel says, when all is over.
        while sum(shares := _shares(said)) != 90:
            said = await upgrade(server)
    assert max(shares) * WORKERS / 90 <= 1.1
    after = await counts(server, 90)
    assert ratio(after) <= 1.1
    assert list(after.values()) == shares
    assert sum(client.reconnects for client in crowd.clients) >= 60 - 33
    codes = await asyncio.to_thread(_codes, server)
    assert codes <= {"4006"}, codes


def _shares(said):
    found = SHARES.search(said)
    assert found is not None, said
    return [int(count) for count in found[1].split(", ")]


def _codes(server):
    """The codes that one of the workers has closed connections with."""
    text = get(f"{server.url}/metrics")[2].decode()
    found = re.findall(r'^realtime_closes_total\{.*code="(\w+)".*\} (\d+)$', text, re.M)
    return {code for code, count in found if int(count)}
