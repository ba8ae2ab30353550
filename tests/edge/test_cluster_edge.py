"""A worker of a cluster from outside: what it says of itself, and what it does while Redis is away."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import redis
from websockets.asyncio.client import connect

from realtime.edge.asgi_hub import RealtimeHub
from realtime.edge.telemetry import (
    BACKEND_HELP,
    CLUSTER_HELP,
    CORE_COUNTERS,
    CORE_GAUGES,
    GUARD_HELP,
    HANDOVER_HELP,
    HUB_COUNTERS,
    HUB_GAUGES,
    MOVING_HELP,
    RECORDER_HELP,
    TIMINGS,
    features_help,
)
from realtime.settings import Settings
from tests.conftest import ROOT
from tests.edge.peer import PATIENCE_S, ask, get, receive
from tests.edge.workers import (
    deployment,
    enter,
    greeted,
    hang_up,  # noqa: F401 - a fixture
    hear,
    labelled,
    on_each,
    say,
    until_ready,
)

ROOM = "events:lobby"


async def test_it_says_who_it_is_wherever_it_speaks(serve, redis_node):
    server = serve(node="berlin", log_level="info", **deployment(redis_node.url))
    checks = await until_ready(server)
    assert checks == {"listener": "ok", "redis": "ok", "ring": "ok"}
    _, content = await greeted(server)
    assert content["node"] == "berlin"
    worker, _, number = content["connection_id"].rpartition("-")
    assert worker.startswith("berlin-")
    assert number.isdigit()
    text = get(f"{server.url}/metrics")[2].decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line for line in samples if f'node="berlin",worker="{worker}"' not in line] == []
    assert await labelled(server, "berlin", "ring_workers") == 1
    assert "WARNING berlin realtime.edge: OPEN MODE" in server.whole_log()


async def test_every_number_of_a_worker_has_its_meaning(serve, redis_node, postgres):
    server = serve(**deployment(redis_node.url, postgres_url=await postgres.new_database()))
    await until_ready(server)
    said = set(re.findall(r"^# HELP realtime_(\w+)", get(f"{server.url}/metrics")[2].decode(), re.MULTILINE))
    tables = (HUB_COUNTERS, HUB_GAUGES, CORE_COUNTERS, CORE_GAUGES)
    known = {name for table in tables for name, _ in table.values()} | BACKEND_HELP.keys() | GUARD_HELP.keys()
    known |= features_help().keys() | {name for name, _ in TIMINGS.values()}
    known |= HANDOVER_HELP.keys() | RECORDER_HELP.keys() | MOVING_HELP.keys()
    # Commands are counted where a feature has any.
    assert {name for name in CLUSTER_HELP if not name.startswith("commands_")} <= said
    assert said - known - CLUSTER_HELP.keys() == {
        "info",
        "errors_total",
        "closes_total",
        "asked_to_leave_total",
        "log_lines_total",
        "log_lines_dropped_total",
        "refusals_total",
        "address_refusals_total",
        "offences_total",
        "http_connections",
        "utilization_ratio",
        "resource_utilization_ratio",
        "loop_lag_recent_seconds",
        "memory_per_connection_bytes",
        "autoscale_signal",
        "autoscale_webhooks_total",
        "autoscale_webhook_failures_total",
    }


async def test_guests_of_two_workers_are_two_users(serve, redis_node):
    common = deployment(redis_node.url)
    names = []
    for server in (serve(**common), serve(**common)):
        async with connect(server.ws_url) as ws:
            names.append((await receive(ws))["content"]["user_id"])
    assert len(set(names)) == 2


async def test_while_redis_is_away_connections_stay_and_everybody_gets_what_was_missed(
    own_redis_cluster, serve
):
    server = serve(workers=2, node="n", errors_burst=10_000, **deployment(own_redis_cluster.url))
    await until_ready(server)
    both = await on_each(server)
    for ws in both.values():
        await enter(ws, ROOM)
    assert (await say(both["n-1"], ROOM, "before"))["type"] == "ack"
    assert await hear(both["n-2"], ROOM, 1) == [(1, "before")]
    for node in own_redis_cluster.nodes:
        node.freeze()
    await until_ready(server, redis="away")
    for message in (
        {"type": "publish", "room": ROOM, "content": 1},
        {"type": "join", "room": "events:other"},
    ):
        answer = await ask(both["n-1"], id=1, **message)
        assert answer["content"]["code"] == 503, answer
        assert answer["content"]["retry_after"] > 0
    assert (await ask(both["n-2"], type="ping", id=2))["type"] == "pong"
    # However much is sent meanwhile, nothing of it is kept.
    for n in range(2000):
        message = {"type": "publish", "id": f"x{n}", "room": ROOM, "content": "x" * 1000}
        await both["n-1"].send(json.dumps(message))
    assert (await answers(both["n-1"], 2000))["error"] == 2000
    for name in ("broker_waiting", "broker_waiting_bytes", "redis_retrying"):
        assert await labelled(server, "n-1", name) == 0, name
    assert await labelled(server, "n-1", "redis_queued_bytes") < 64 * 1024
    for node in own_redis_cluster.nodes:
        node.thaw()
    await asyncio.to_thread(own_redis_cluster.wait_until_ok)
    await until_ready(server)
    said = await repeated(both["n-1"], ROOM, "after")
    # The one that was refused lay in a frozen node's socket: nobody could know whether it will be done.
    last = said["content"]["offset"]
    heard = await hear(both["n-2"], ROOM, last - 1)
    assert [offset for offset, _ in heard] == list(range(2, last + 1))
    assert heard[-1][1] == "after"


async def test_redis_that_is_not_there_at_the_start_is_waited_for(own_redis_node, serve):
    own_redis_node.kill()
    server = serve(**deployment(own_redis_node.url))
    await until_ready(server, redis="away")
    assert "Redis is not there" in server.whole_log()
    ws, _ = await greeted(server)
    answer = await ask(ws, type="join", id=1, room=ROOM)
    assert answer["content"]["code"] == 503
    await asyncio.to_thread(own_redis_node.start)
    assert set((await until_ready(server)).values()) == {"ok"}
    await enter(ws, ROOM)
    assert (await repeated(ws, ROOM, "now"))["type"] == "ack"


def test_redis_that_refuses_us_ends_the_start_in_one_line(own_redis_node):
    own_redis_node.ask("CONFIG", "SET", "requirepass", "secret")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "realtime", "serve", "--port", "0"],
            cwd=ROOT,
            env=os.environ | {"REDIS_URL": f"redis://:wrong@127.0.0.1:{own_redis_node.port}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        with redis.Redis(port=own_redis_node.port, password="secret") as client:
            client.config_set("requirepass", "")
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("realtime: ")
    assert "secret" not in last
    assert "wrong" not in last.replace("WRONGPASS", "")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("url", ["redis://", "redis://h:port", "redis://h/notadb"])
def test_a_url_that_is_none_ends_the_start(url):
    ended = subprocess.run(
        [sys.executable, "-m", "realtime", "serve", "--port", "0"],
        cwd=ROOT,
        env=os.environ | {"REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr


async def answers(ws, count):
    """Return the types of the next `count` answers, counted."""
    types = Counter()
    while types.total() < count:
        message = await receive(ws)
        if "id" in message:
            types[message["type"]] += 1
    return types


async def repeated(ws, room, content):
    """Publish with a key until it is accepted; return the ack."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await say(ws, room, content, key=f"key {content}")
            if answer["type"] == "ack":
                return answer
            assert answer["content"]["code"] == 503, json.dumps(answer)


async def test_what_a_durable_room_acked_is_found_after_redis_has_forgotten_all(
    own_redis_node, postgres, serve
):
    common = deployment(own_redis_node.url, postgres_url=await postgres.new_database())
    server = serve(workers=2, node="n", **common)
    assert (await until_ready(server))["store"] == "ok"
    both = await on_each(server)
    room = "playlist:lobby"
    for ws in both.values():
        await enter(ws, room)
    for n in range(5):
        answer = await ask(both["n-1"], type="chat_message", id=n, room=room, content=f"{n}")
        assert answer["type"] == "ack", answer
    before = answer["content"]
    await asyncio.to_thread(own_redis_node.kill)
    await until_ready(server, redis="away")
    await asyncio.to_thread(own_redis_node.start)
    await until_ready(server)
    gap = await until_type(both["n-2"], "gap")
    assert gap["content"]["reason"] == "epoch_changed"
    async with asyncio.timeout(PATIENCE_S):
        answer = {"type": "error"}
        while answer["type"] == "error":
            answer = await ask(both["n-1"], type="chat_message", id="x", room=room, content="x", key="x")
    assert answer["content"]["epoch"] != before["epoch"]
    assert answer["content"]["offset"] == before["offset"] + 1
    await until_type(both["n-2"], "chat_message")  # there it is known when it has come
    page = await ask(both["n-2"], type="history", id="h", room=room, content={"limit": 10})
    assert [push["content"] for push in page["content"]["messages"]] == [*"01234", "x"]


async def until_type(ws, type):
    """Return the next message of a type."""
    while True:
        message = await receive(ws)
        if message["type"] == type:
            return message


async def test_an_application_s_own_worker_is_one_of_them(serve, redis_node):
    common = deployment(redis_node.url)
    server = serve(**common)
    hub = RealtimeHub()
    await hub.initialize(
        Settings(port=0, sqlite_path="", audit_path="", node="inside", **common), listen=True
    )
    try:
        await until_ready(server)
        outside, _ = await greeted(server)
        async with outside, connect(f"{hub.url}/bob") as inside:
            assert (await receive(inside))["content"]["node"] == "inside"
            await enter(outside, ROOM)
            await enter(inside, ROOM)
            await say(outside, ROOM, "hello")
            assert await hear(inside, ROOM, 1) == [(1, "hello")]
    finally:
        await hub.shutdown()


def test_check_says_what_is_at_redis(redis_cluster, own_redis_node):
    own_redis_node.kill()
    found = check(redis_cluster.url, workers="2")
    assert found.returncode == 0, found.stdout
    assert "ok    workers: 2; redis://" in found.stdout
    assert "answers: 3 masters" in found.stdout
    found = check(own_redis_node.url)
    assert found.returncode == 1
    assert "fail  workers: " in found.stdout
    assert check("", workers="2").returncode == 1


def check(url, **settings):
    """Run `realtime check`."""
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return subprocess.run(
        [sys.executable, "-m", "realtime", "check", "--port", "0", "--sqlite-path", "", *options],
        cwd=ROOT,
        env=os.environ | {"REDIS_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
