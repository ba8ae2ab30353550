"""Durable rooms of a real server: what was acknowledged is there after kill -9, in the same order."""

import asyncio
import contextlib
import json
import re
import signal

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.edge.telemetry import BACKEND_HELP
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.contract.stores import SqlitePlace
from tests.edge.peer import PATIENCE_S, ask, get, metric, receive

ROOM = "playlist:lobby"


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def start(request, serve, tmp_path):
    """Start servers that keep durable rooms in one store."""
    if request.param == "sqlite":
        store = {"sqlite_path": str(tmp_path / "rooms.sqlite")}
    else:
        store = {"postgres_url": await request.getfixturevalue("postgres").new_database()}
    return lambda **settings: serve(**store, **settings)


async def enter(server, user="alice", room=ROOM, **since):
    """Connect and join; return the connection and the content of `joined`."""
    ws = await connect(f"{server.ws_url}/{user}")
    await receive(ws)
    joined = await ask(ws, type="join", id="j", room=room, content={"since": since} if since else {})
    return ws, joined["content"]


async def say(ws, text, *, room=ROOM, **fields):
    """Publish and return the content of the ack."""
    answer = await ask(ws, type="chat_message", id=f"say {text}", room=room, content=text, **fields)
    assert answer["type"] == "ack", answer
    return answer["content"]


async def contents(ws, room=ROOM):
    """All that the history of a room holds."""
    found, before = [], None
    while True:
        asked = {"limit": 100} | ({} if before is None else {"before": before})
        page = (await ask(ws, type="history", id="h", room=room, content=asked))["content"]
        found = [push["content"] for push in page["messages"]] + found
        if not page["more"]:
            return found
        before = page["messages"][0]["offset"]


async def test_after_kill_9_the_order_goes_on_and_what_was_acked_is_there(start):
    server = start()
    ws, joined = await enter(server)
    async with ws:
        acks = [await say(ws, n, key=f"k{n}") for n in range(5)]
    assert [ack["offset"] for ack in acks] == [1, 2, 3, 4, 5]
    server.kill()
    server.start()
    ws, again = await enter(server, offset=2, epoch=joined["epoch"])
    async with ws:
        assert (again["epoch"], again["offset"], again["recovered"]) == (joined["epoch"], 5, True)
        assert [push["content"] for push in again["messages"]] == [2, 3, 4]
        assert await contents(ws) == [0, 1, 2, 3, 4]
        repeat = await say(ws, 3, key="k3")
        assert repeat == {"offset": 4, "epoch": joined["epoch"], "duplicate": True}
        assert (await say(ws, 5))["offset"] == 6


async def test_kills_in_the_middle_of_publishing_lose_nothing_acked_and_double_nothing(start):
    server = start()
    acked: list[int] = []
    text, epochs = 0, set()
    for _ in range(3):
        ws, joined = await enter(server)
        epochs.add(joined["epoch"])
        async with asyncio.timeout(60):
            for _ in range(300):
                text += 1
                message = {"type": "chat_message", "id": text, "room": ROOM, "content": text}
                await ws.send(json.dumps(message))
            while len(acked) < 100 or acked[-1] < text - 250:
                answer = await receive(ws)
                if answer["type"] == "ack":
                    acked.append(answer["id"])
        server.kill()
        ws.transport.abort()  # `close` would wait for what is in its buffers
        server.start()
    ws, _ = await enter(server)
    async with ws:
        kept = await contents(ws)
    assert kept == sorted(set(kept))
    assert set(acked) <= set(kept)
    assert len(epochs) == 1


async def test_only_durable_kinds_touch_the_disk(start):
    server = start()
    ws, joined = await enter(server, room="events:news")
    async with ws:
        await ask(ws, type="publish", id=1, room="events:news")
        await ask(ws, type="join", id=2, room=ROOM)
        assert (await ask(ws, type="chat_typing", id=3, room=ROOM))["content"] == {}
        await say(ws, "kept")
    assert metric(server, "store_rows_total") == 1
    server.kill()
    server.start()
    ws, again = await enter(server, room="events:news")
    async with ws:
        assert again["epoch"] != joined["epoch"]


async def test_what_was_sent_before_sigterm_is_kept_and_acked(start):
    server = start()
    ws, _ = await enter(server)
    for n in range(1, 201):
        await ws.send(json.dumps({"type": "chat_message", "id": n, "room": ROOM, "content": n}))
    acked = []
    while not acked:
        answer = await receive(ws)
        acked += [answer["id"]] if answer["type"] == "ack" else []
    server.process.send_signal(signal.SIGTERM)
    with contextlib.suppress(ConnectionClosed):
        while True:
            answer = await receive(ws)
            acked += [answer["id"]] if answer["type"] == "ack" else []
    assert ws.close_code == 1012
    server.stop()
    server.start()
    ws, _ = await enter(server)
    async with ws:
        kept = await contents(ws)
    assert acked == list(range(1, len(acked) + 1))
    assert kept[: len(acked)] == acked


async def test_ready_and_metrics_tell_of_the_store(start):
    server = start()
    checks = json.loads(get(f"{server.url}/ready")[2])["checks"]
    assert checks.pop("files", "ok") == "ok"  # beside a file of SQLite, the chat's attachments
    assert checks == {"listener": "ok", "broker": "ok", "store": "ok"}
    ws, _ = await enter(server)
    async with ws:
        await say(ws, "x")
    assert metric(server, "store_rows_total") == 1
    assert metric(server, "broker_durable_rooms") == 1
    assert metric(server, "acks_owed") == 0
    page = get(f"{server.url}/metrics")[2].decode()
    of_backends = re.findall(r"^# TYPE realtime_((?:broker|store)_\w+) (\w+)$", page, re.MULTILINE)
    assert of_backends
    assert ("store_commit_seconds", "histogram") in of_backends
    for name, kind in of_backends:
        if kind == "histogram":
            continue
        assert (name in BACKEND_HELP, kind == "counter") == (True, name.endswith("_total")), name


async def test_without_a_store_durable_rooms_live_in_memory_and_the_log_says_so(serve):
    server = serve()
    assert "durable rooms are kept in memory only" in server.whole_log()
    ws, joined = await enter(server)
    async with ws:
        assert (await say(ws, "x"))["offset"] == 1
    server.restart()
    ws, again = await enter(server)
    async with ws:
        assert (again["offset"], again["epoch"] != joined["epoch"]) == (0, True)


async def test_a_second_server_on_the_same_store_is_refused(start):
    start()
    with pytest.raises(pytest.fail.Exception, match="is in use by another server"):
        start()


# ---------------------------------------------------------------- a store that fails while we run


async def until_store_is(state, server):
    """Ask /ready until it says so."""

    def told():
        return json.loads(get(f"{server.url}/ready")[2])["checks"]["store"]

    async with asyncio.timeout(3 * PATIENCE_S):
        while await asyncio.to_thread(told) != state:
            pass


async def test_a_disk_that_takes_nothing_is_told_and_nothing_is_lost_or_doubled_by_it(serve, tmp_path):
    place = SqlitePlace(tmp_path)
    server = serve(sqlite_path=str(place.path))
    ws, joined = await enter(server)
    async with ws:
        await say(ws, "before")
        await place.refuse(RoomId(DEFAULT_TENANT, RoomName(ROOM)))
        answer = await ask(ws, type="chat_message", id=1, room=ROOM, content="lost", key="lost")
        assert (answer["content"]["name"], answer["content"]["temporary"]) == ("unavailable", True)
        assert answer["content"]["retry_after"] > 0
        await until_store_is("failing", server)
        other = await ask(ws, type="join", id=2, room="playlist:other")
        assert (await say(ws, "elsewhere", room="playlist:other"))["offset"] == other["content"]["offset"] + 1
        await place.accept()
        assert await say(ws, "lost", key="lost") == {"offset": 2, "epoch": joined["epoch"]}
        await until_store_is("ok", server)
        assert await contents(ws) == ["before", "lost"]


async def test_postgresql_may_be_killed_and_come_back_under_a_running_server(serve, own_postgres):
    server = serve(postgres_url=await own_postgres.new_database())
    ws, joined = await enter(server)
    async with ws:
        for text in ("one", "two"):
            await say(ws, text)
        await asyncio.to_thread(own_postgres.kill)
        answer = await ask(ws, type="chat_message", id=1, room=ROOM, content="three", key="three")
        assert answer["content"]["name"] == "unavailable"
        await until_store_is("failing", server)
        assert (await ask(ws, type="join", id=2, room="session:x"))["type"] == "joined", "others go on"
        await asyncio.to_thread(own_postgres.start)
        await until_store_is("ok", server)
        assert await say(ws, "three", key="three") == {"offset": 3, "epoch": joined["epoch"]}
        assert (await say(ws, "four"))["offset"] == 4
        assert await contents(ws) == ["one", "two", "three", "four"]
