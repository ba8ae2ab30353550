"""`realtime upgrade` on a real server with real clients: the process changes, and nobody notices."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time

import msgspec
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bench.handover import measure
from tests.conftest import ROOT
from tests.edge.manager import ServiceManager
from tests.edge.peer import (
    JSON,
    KEY,
    MSGPACK,
    PATIENCE_S,
    ask,
    bearer,
    closed,
    get,
    hang_up_all,
    metric,
    receive,
    token,
)
from tests.edge.upgrading import Upgradable

ROOM = "events:all"
DURABLE = "playlist:all"
TTLS_S = 4.0, 8.0, 16.0, 32.0  # of tokens that are to end after an upgrade, however long that takes


@pytest_asyncio.fixture
async def start(tmp_path):
    """Start servers that can be upgraded; they end after the clients of the test have hung up."""
    started, clients = [], []

    def start(module="realtime", environ=None, **settings):
        started.append(Upgradable(tmp_path, settings, module, **(environ or {})))
        started[-1].clients = clients
        return started[-1]

    yield start
    await hang_up_all(clients)
    for server in started:
        print(server.whole_log())  # shown where the test fails
        await asyncio.to_thread(server.finish)


async def enter(server, user="alice", room=ROOM, subprotocol=JSON, compression=None, headers=None, **content):
    """Connect and join; return the connection and the content of `joined`."""
    ws = await connect(
        f"{server.ws_url}/{user}",
        subprotocols=[subprotocol],
        compression=compression,
        additional_headers=headers or {},
        max_queue=None,  # who does not look at what came would not see a close either
    )
    server.clients.append(ws)
    await receive(ws)
    return ws, (await send(ws, type="join", id="j", room=room, content=content))["content"]


async def send(ws, **message):
    """Ask in the encoding of the connection."""
    if ws.subprotocol != MSGPACK:
        return await ask(ws, **message)
    await ws.send(msgspec.msgpack.encode(message))
    while (answer := await receive(ws)).get("id") != message["id"]:
        pass
    return answer


async def say(ws, text, room=ROOM, **fields):
    """Publish and return the content of the ack."""
    kind = "publish" if room.startswith("events") else "collaboration_edit"
    answer = await send(ws, type=kind, id=f"say {text}", room=room, content={"t": text}, **fields)
    assert answer["type"] == "ack", answer
    return answer["content"]


async def until(is_so):
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await asyncio.to_thread(is_so):
                return
            await asyncio.sleep(0)


async def hear(ws, count):
    """Return (offset, text) of the next publications."""
    heard = []
    while len(heard) < count:
        said = await receive(ws)
        if "offset" in said:
            heard.append((said["offset"], said["content"]["t"]))
    return heard


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_members_rooms_and_history_go_on(start, tmp_path, store):
    path = str(tmp_path / "rooms.sqlite") if store == "sqlite" else ""
    server = start(sqlite_path=path, compression=True)
    room = DURABLE if path else ROOM
    alice, joined = await enter(server, room=room)
    bob, _ = await enter(server, "bob", room, MSGPACK)
    carol, _ = await enter(server, "carol", room, compression="deflate")
    first = await say(alice, "one", room, key="k")
    for number, (connections, rooms) in enumerate([(3, 1), (3, 1)], start=2):
        assert await server.upgraded() == (connections, rooms)
        assert await say(bob, str(number), room) == {"offset": number, "epoch": joined["epoch"]}
    assert await say(alice, "one", room, key="k") == {**first, "duplicate": True}
    expected = [(1, "one"), (2, "2"), (3, "3")]
    assert await hear(carol, 3) == expected
    _, joined = await enter(server, "dave", room, since={"offset": 1, "epoch": first["epoch"]})
    assert joined["recovered"]
    assert [(each["offset"], each["content"]["t"]) for each in joined["messages"]] == expected[1:]
    assert sorted(joined["members"]) == ["alice", "bob", "carol", "dave"]
    assert metric(server, "handovers_total") == 2
    assert metric(server, "handover_connections_adopted_total") == 6
    for pid in server.others:
        await server.ended(pid)


async def test_nothing_is_lost_twice_or_out_of_order_under_traffic():
    found = await asyncio.to_thread(measure, 300, 1, 4.0, {})
    wrong = {name: count for name, count in found["counts"].items() if name != "received"}
    assert not any(wrong.values()), found
    assert found["counts"]["received"] > 300


async def test_frames_and_handshakes_that_are_half_there_are_finished(start):
    server = start(handshake_timeout_s=120)
    alice, _ = await enter(server)
    message = json.dumps(
        {"type": "publish", "id": 9, "room": ROOM, "content": {"t": "halved", "pad": "x" * 100}}
    )
    message = message.encode()
    frame = bytes([0x81, 0x80 | 126]) + len(message).to_bytes(2) + bytes(4) + message
    raw = _raw(server, "bob")
    raw.sendall(_text(json.dumps({"type": "join", "id": 1, "room": ROOM}).encode()))
    _until(raw, b'"joined"')
    raw.sendall(frame[:30])
    head = b"GET /ws/carol HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    late = socket.create_connection((server.host, server.port), PATIENCE_S)
    late.sendall(head)
    assert await server.upgraded() == (3, 1)
    raw.sendall(frame[30:])
    late.sendall(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    assert await hear(alice, 1) == [(1, "halved")]
    _until(raw, b'"ack"')
    _until(late, b'"user_id":"carol"')
    raw.close(), late.close()


async def test_who_does_not_read_gets_all_of_it_later(start):
    server = start()
    alice, _ = await enter(server)
    raw = _raw(server, "bob", buffer=4096)
    raw.sendall(_text(json.dumps({"type": "join", "id": 1, "room": ROOM}).encode()))
    _until(raw, b'"joined"')
    pad = "x" * 8000
    for number in range(40):
        await send(alice, type="publish", id=number, room=ROOM, content={"t": number, "pad": pad})
    await server.upgraded()
    await send(alice, type="publish", id="last", room=ROOM, content={"t": "last"})
    read = _until(raw, b'"t": "last"')
    assert read.count(pad.encode()) == 40
    places = [read.index(b'"t": %d,' % number) for number in range(40)]
    assert places == sorted(places)
    raw.close()


async def test_tokens_end_afterwards_and_later_tokens_are_taken(start):
    server = start(jwt_secret=KEY, jwt_leeway_s=0, handshake_timeout_s=120)
    late = await connect(server.ws_url)
    server.clients.append(late)
    for ttl_s in TTLS_S:
        ends = time.time() + ttl_s
        with contextlib.suppress(InvalidStatus, ConnectionClosed):  # it has ended before we were there
            brief = await connect(server.ws_url, additional_headers=bearer(token("brief", ttl_s=ttl_s)))
            silent = await connect(server.ws_url, additional_headers=bearer(token("silent", ttl_s=ttl_s)))
            server.clients += [brief, silent]
            await receive(brief)
            assert (await ask(brief, type="join", id="j", room=ROOM))["type"] == "joined"
            moved, _ = await server.upgraded()
            if time.time() < ends:
                break
        await asyncio.gather(*(ws.wait_closed() for ws in server.clients if ws is not late))
    else:
        pytest.fail(f"no upgrade within {ttl_s:g} s")
    assert moved == 3
    assert (await ask(late, type="connect", id="c", content={"token": token("late")}))["type"] == "connected"
    async with asyncio.timeout(ttl_s + PATIENCE_S):
        await brief.wait_closed()
        await silent.wait_closed()
    assert brief.close_code == silent.close_code == 4003


async def test_rates_and_limits_go_on(start):
    server = start(messages_per_second_per_user=1, rate_burst_s=500, max_connections_per_user=1)
    alice, _ = await enter(server)

    async def let_through(count):
        answers = [await send(alice, type="publish", id=n, room=ROOM, content={}) for n in range(count)]
        return sum(each["type"] == "ack" for each in answers)

    began = time.monotonic()
    before = await let_through(510)
    await server.upgraded()
    after = await let_through(60)
    assert before + after <= 500 + time.monotonic() - began + 1
    again = await connect(f"{server.ws_url}/alice")
    assert (await closed(again))[0] == 4504


async def test_passive_members_are_told_the_count(start):
    server = start()
    alice, _ = await enter(server)
    bob, _ = await enter(server, "bob")
    assert (await send(bob, type="passive", id="p", room=ROOM))["type"] == "ack"
    await say(alice, "one")
    await server.upgraded()
    await say(alice, "two")
    while (said := await receive(bob)).get("content", {}).get("count") != 2:
        assert said["type"] in ("unread", "presence"), said
    await send(bob, type="join", id="a", room=ROOM)
    await say(alice, "three")
    assert await hear(bob, 1) == [(3, "three")]


async def test_private_rooms_stay_open_to_who_is_in(start, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text('[[rooms]]\nrooms = ["events:all"]\nprivate = true\n')
    server = start(jwt_secret=KEY, policy_path=str(policy))
    pass_ = token("alice", room=ROOM, actions=["join", "publish"])
    ws = await connect(server.ws_url, additional_headers=bearer(token("alice")))
    server.clients.append(ws)
    await receive(ws)
    joined = await ask(ws, type="join", id="j", room=ROOM, content={"token": pass_})
    assert joined["type"] == "joined", joined
    await server.upgraded()
    assert (await say(ws, "in"))["offset"] == 1


async def test_presence_says_nothing_of_it(start):
    server = start(presence_grace_s=30)
    alice, _ = await enter(server)
    await enter(server, "bob")
    gone, _ = await enter(server, "gone")
    while "gone" not in (await receive(alice)).get("content", {}).get("joined", ()):
        pass
    gone.transport.abort()
    await until(lambda: metric(server, "lingering_users") == 1)
    await server.upgraded()
    present = await ask(alice, type="presence", id="p", room=ROOM)
    assert sorted(present["content"]["members"]) == ["alice", "bob", "gone"]
    await enter(server, "gone")
    await enter(server, "dave")
    news = []
    while "dave" not in (said := await receive(alice)).get("content", {}).get("joined", ()):
        news.append(said)
    assert not any(each["content"].get("left") for each in news), news


async def test_http_is_answered_and_the_old_one_ends(start):
    server = start()
    first = server.pid
    await server.upgraded()
    await server.ended(first)
    assert get(f"{server.url}/health")[0] == 200
    assert get(f"{server.url}/ready")[0] == 200


async def test_what_must_not_change_is_refused(start, tmp_path):
    config = tmp_path / "realtime.toml"
    config.write_text(f'sqlite_path = "{tmp_path}/one.sqlite"\n')
    server = start(environ={"REALTIME_CONFIG": str(config)}, sqlite_path=f"{tmp_path}/one.sqlite")
    server.environ.clear()
    alice, _ = await enter(server, room=DURABLE)
    config.write_text('sqlite_path = ""\nmessages_per_second = 5\n')
    assert await server.upgraded() == (1, 1)  # the environment says which file, as before
    assert (await say(alice, "on", DURABLE))["offset"] == 1


async def test_of_two_at_once_one_is_refused(start):
    server = start()
    alice, _ = await enter(server)
    outcomes = await asyncio.gather(server.upgrade(), server.upgrade())
    assert sorted(code for code, _ in outcomes) == [0, 1]
    (refused,) = (said for code, said in outcomes if code)
    assert "under way" in refused or "about to end" in refused or "gives no answer" in refused
    assert (await say(alice, "on"))["offset"] == 1


async def test_sigusr2_upgrades(start):
    server = start()
    alice, _ = await enter(server)
    os.kill(server.pid, signal.SIGUSR2)
    found = await asyncio.to_thread(
        server.wait_for_line, r"process (?P<pid>\d+) serves: 1 connections", timeout_s=60.0
    )
    server.serving = int(found["pid"])
    assert (await say(alice, "on"))["offset"] == 1


async def test_sigterm_while_it_is_under_way_ends_the_service(start):
    server = start()
    alice, _ = await enter(server)
    os.kill(server.pid, signal.SIGUSR2)
    os.kill(server.pid, signal.SIGTERM)
    assert (await closed(alice))[0] == 1012
    assert await asyncio.to_thread(server.process.wait, 30) == 0


PARENT = """
import os
from realtime.edge.handover import leave_parent
leave_parent(os.environ)
print(os.getppid())
"""


@pytest.mark.parametrize("supervised", [True, False])
async def test_under_systemd_a_successor_is_no_child_of_ours(supervised):
    """Else systemd would not wait for its end, and a stop would be SIGTERM and SIGKILL in one breath."""
    environ = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT),
        cwd=ROOT,
        env=environ | ({"NOTIFY_SOCKET": "@nobody"} if supervised else {}),
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        parent = int((await process.communicate())[0])  # until the grandchild's end too
    assert (parent != os.getpid()) is supervised


async def test_systemd_is_told_who_serves_and_hears_it_from_there_on(start, tmp_path):
    with ServiceManager(tmp_path) as manager:
        server = start(environ={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000"})
        first = server.pid
        await enter(server)
        assert await server.upgraded() == (1, 1)
        told = await asyncio.to_thread(manager.wait_for, "MAINPID")
        assert (told.pid, told.fields["MAINPID"]) == (first, str(server.serving))
        await server.ended(first)
        said = {message.pid for message in manager.heard} | {message.pid for message in manager.all()}
        while (beat := await asyncio.to_thread(manager.wait_for, "WATCHDOG")).pid != server.serving:
            assert beat.pid == first
        assert said <= {first, server.serving}
        assert "STOPPING" not in {field for each in manager.heard for field in each.fields}


async def test_without_a_service_there_is_nothing_to_upgrade(tmp_path):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "realtime", "upgrade", "--runtime-path", str(tmp_path)),
        stderr=asyncio.subprocess.PIPE,
    )
    said = (await process.communicate())[1].decode()
    assert process.returncode == 1
    assert "has no socket of a service that runs" in said


DEATHS = [
    ("new", "Hello"),
    ("new", "Ready"),
    ("new", "Rooms"),
    ("new", "Listening"),
    ("new", "State"),
    ("new", "Connections"),
    ("new", "LiveRooms"),
    ("new", "End"),
    ("new", "Adopted"),
]


@pytest.mark.parametrize(("who", "at"), DEATHS)
async def test_a_new_process_that_dies_leaves_the_old_one_serving(start, tmp_path, who, at):
    dies = {"DIES_AS": who, "DIES_AT": at}
    server = start("tests.edge.dying", dies, sqlite_path=str(tmp_path / "rooms.sqlite"))
    alice, _ = await enter(server, room=DURABLE)
    bob, _ = await enter(server, "bob", DURABLE)
    await say(alice, "before", DURABLE)
    code, said = await server.upgrade()
    assert code == 1, said
    assert "serves on: the other process is gone" in said
    await say(alice, "after", DURABLE)
    assert await hear(bob, 2) == [(1, "before"), (2, "after")]
    assert metric(server, "handovers_refused_total") == 1


@pytest.mark.parametrize("at", ["Go", "Go+"])
async def test_an_old_process_that_dies_when_all_is_over_is_not_missed(start, tmp_path, at):
    dies = {"DIES_AS": "old", "DIES_AT": at}
    server = start("tests.edge.dying", dies, sqlite_path=str(tmp_path / "rooms.sqlite"))
    alice, _ = await enter(server, room=DURABLE)
    bob, _ = await enter(server, "bob", DURABLE)
    await say(alice, "before", DURABLE)
    began = len(server.log)
    code, said = await server.upgrade()
    assert code == 1, said
    assert "gives no answer" in said
    await asyncio.to_thread(server.wait_for_line, "is the demo page", after=began, timeout_s=60.0)
    await say(alice, "after", DURABLE)
    assert await hear(bob, 2) == [(1, "before"), (2, "after")]
    (server.serving,) = {int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("*.sock")} - {server.pid}
    server.ends_with = -signal.SIGKILL


@pytest.mark.parametrize("at", ["Rooms", "Connections", "End"])
async def test_an_old_process_that_dies_before_is_an_ordinary_crash(start, tmp_path, at):
    dies = {"DIES_AS": "old", "DIES_AT": at}
    server = start("tests.edge.dying", dies, sqlite_path=str(tmp_path / "rooms.sqlite"))
    alice, joined = await enter(server, room=DURABLE)
    await say(alice, "before", DURABLE)
    await server.upgrade()
    async with asyncio.timeout(PATIENCE_S):
        await alice.wait_closed()
    assert alice.close_code == 1006
    await asyncio.to_thread(server.process.wait, 30)
    server.environ.clear()
    await asyncio.to_thread(server.start)
    _, again = await enter(server, room=DURABLE, since={"offset": 0, "epoch": joined["epoch"]})
    assert [each["content"]["t"] for each in again["messages"]] == ["before"]


@pytest.mark.parametrize("who", ["old", "new"])
async def test_another_format_is_refused_with_the_reason(start, who):
    server = start("tests.edge.dying", {"SPEAKS": who})
    alice, _ = await enter(server)
    code, said = await server.upgrade()
    assert code == 1
    assert "format" in said
    assert "restart instead" in said
    assert (await say(alice, "on"))["offset"] == 1


def _raw(server, user, buffer=0):
    raw = socket.socket()
    if buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.settimeout(PATIENCE_S)
    raw.connect((server.host, server.port))
    head = [
        *(f"GET /ws/{user} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
    ]
    raw.sendall("\r\n".join([*head, "", ""]).encode())
    _until(raw, b'"connected"')
    return raw


def _text(payload):
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


def _until(raw, wanted):
    """Read until something has come; return all."""
    read = bytearray()
    while wanted not in read:
        data = raw.recv(65536)
        assert data, bytes(read[-200:])
        read += data
    return bytes(read)
