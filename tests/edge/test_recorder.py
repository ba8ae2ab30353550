"""The flight recorder of real servers: what is written when, who may have it, and playing it again."""

import asyncio
import base64
import json
import os
import secrets
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from websockets.asyncio.client import connect

from bench.peer import Peer
from realtime.edge.lone import LonePublisher
from realtime.edge.recorder import RecordAsked, ask_to_record
from realtime.edge.recordings import SUFFIX, UNFINISHED, Folder
from realtime.errors import BadMessage, TooLarge
from realtime.ids import DEFAULT_TENANT
from realtime.protocol.recording import read, write
from realtime.settings import Settings
from tests.conftest import ROOT
from tests.edge.peer import KEY, PATIENCE_S, ask, command, metric, receive, token, upgrade
from tests.edge.upgrading import Upgradable
from tests.edge.workers import deployment, greeted, hang_up  # noqa: F401 - a fixture
from tests.native.test_hub import frame

WRITTEN = r"its last frames are in (\S+)"
ROOM = "events:x"


def recording(path):
    return read(Path(path).read_bytes())


def recorded(serve, folder, module="realtime", **settings):
    """A server that records everybody, and writes what ends badly."""
    how = {"recorder_bytes": 65_536, "recorder_dir": str(folder), **settings}
    return serve(module, control_path=str(folder.parent / "control"), **how)


async def run(server, *arguments):
    return await asyncio.to_thread(command, server, *arguments)


def break_off(server, *frames):
    """Say something on a bare socket, then send an unmasked frame; read to the end."""
    with upgrade(server) as raw:
        for payload in frames:
            raw.sendall(frame(payload))
        raw.sendall(b"\x81\x05Hello")
        while raw.recv(65_536):
            pass


PING = b'{"type":"ping","id":1}'


def test_what_led_to_a_protocol_error_is_written_and_played_again(serve, tmp_path):
    folder, audit = tmp_path / "recordings", str(tmp_path / "audit.sqlite")
    server = recorded(serve, folder, audit_path=audit)
    break_off(server, PING, b'{"type":"join","id":2,"room":"events:x"}', b'{"type":"nonsense","id":3}')
    path = Path(server.wait_for_line(WRITTEN)[1])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    head, frames = recording(path)
    assert (head.why, head.code, head.closed_by, head.lost) == ("protocol_error", 1002, "server", 0)
    assert [(each.way, each.op, *each.types) for each in frames] == [
        ("out", "text", "connected"),
        ("in", "text", "ping"),
        ("out", "text", "pong"),
        ("in", "text", "join"),
        ("out", "text", "joined"),
        ("in", "text", "nonsense"),
        ("out", "text", "error"),
        ("in", "refused"),
        ("out", "close"),
    ]
    assert frames[-2].data == b"\x81\x05", "the payload was not masked, and is not kept"
    shown = command(server, "record", "--show", str(path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "close 30 B  1002  " in shown.stdout
    assert [metric(server, f"recorder_{name}_total") for name in ("files", "dropped", "failures")] == [
        1,
        0,
        0,
    ]
    for fast in ([], ["--fast"]):
        played = command(server, "record", "--play", str(path), "--url", server.ws_url, *fast)
        assert (played.returncode, played.stderr) == (0, ""), played
        assert "the same answers in kind" in played.stdout
    server.stop()
    said = command(server, "audit", "show", "--tenant", "default", "--format", "json").stdout
    entries = [json.loads(line) for line in said.splitlines()]
    assert {(each["action"], each["actor"]) for each in entries} == {("connection.record", "server")}
    assert path.name in said


def test_playing_says_where_answers_differ(serve, tmp_path):
    server = recorded(serve, tmp_path / "recordings")
    break_off(server, PING, b'{"type":"nonsense","id":2}')
    path = Path(server.wait_for_line(WRITTEN)[1])
    head, frames = recording(path)
    changed = [
        msgspec.structs.replace(each, text=each.text.replace("unknown_type", "conflict"))
        if each.types == ("error",)
        else msgspec.structs.replace(each, code=4501)
        if each.op == "close"
        else each
        for each in frames
        if each.types != ("pong",)
    ]
    other = tmp_path / "other"
    other.write_bytes(write(head, changed))
    played = command(server, "record", "--play", str(other), "--url", server.ws_url, "--fast")
    assert played.returncode == 1
    assert "answer to 2: error conflict was recorded, and now error unknown_type" in played.stdout
    assert "close 4501 was recorded, and now close 1002" in played.stdout
    other.write_bytes(b'{"format":"realtime-recording","version":9}\n')
    for how in ("--play", "--show"):
        refused = command(server, "record", how, str(other))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "version 9" in refused.stderr
    gone = command(server, "record", "--play", str(path), "--url", "ws://127.0.0.1:1/ws")
    assert (gone.returncode, gone.stdout) == (1, "")


async def test_a_token_is_neither_recorded_nor_missed_when_it_is_played(serve, tmp_path):
    server = recorded(serve, tmp_path / "recordings", "tests.failing", jwt_secret=KEY)
    server.may_log_tracebacks = True
    secret = token("alice")
    async with connect(server.ws_url) as ws:
        await ask(ws, type="connect", id="in", content={"token": secret})
        assert (await ask(ws, type="fail", id="f"))["type"] == "error"
        path = (await asyncio.to_thread(server.wait_for_line, WRITTEN))[1]
        assert (await ask(ws, type="ping", id="p"))["type"] == "pong", "it goes on"
    head, frames = recording(path)
    assert (head.why, head.code, head.user) == ("failure", 0, "alice")
    assert all(secret.split(".")[1] not in str(each) for each in frames)
    assert "connect" in {type for each in frames for type in each.types}
    played = await run(server, "record", "--play", path, "--url", server.ws_url)
    assert (played.returncode, played.stderr) == (0, ""), played
    assert "sent 2 frames" in played.stdout


POLICY = """
[[rooms]]
rooms = ["events:vault-*"]
encrypted = true
"""


def test_contents_of_encrypted_rooms_are_not_written(serve, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    server = recorded(
        *(serve, tmp_path / "recordings"),
        policy_path=str(policy),
        encryption_keys=f"main:{key}",
        sqlite_path=str(tmp_path / "rooms.sqlite"),
    )
    with upgrade(server) as raw:
        for room in ("events:vault-1", "events:open"):
            text = json.dumps({"text": f"said in {room}"})
            raw.sendall(frame(b'{"type":"join","id":1,"room":"%b"}' % room.encode()))
            said = b'{"type":"publish","id":2,"room":"%b","content":%b}' % (room.encode(), text.encode())
            raw.sendall(frame(said))
        heard = b""
        while heard.count(b'"ack"') < 2 or heard.count(b'"type":"publish"') < 2:
            heard += raw.recv(65_536)
        raw.sendall(b"\x81\x05Hello")
        while raw.recv(65_536):
            pass
    _, frames = recording(server.wait_for_line(WRITTEN)[1])
    said = [each for each in frames if each.types == ("publish",)]
    assert {each.way for each in said} == {"in", "out"}
    assert {each.left_out for each in said if each.rooms == ("events:vault-1",)} == {"encrypted"}
    assert not any("said in events:vault" in (each.text or "") for each in frames)
    assert sum("said in events:open" in (each.text or "") for each in said) == 2


async def test_a_peer_that_names_a_code_itself_is_no_mistake(serve, tmp_path):
    server = recorded(serve, tmp_path / "recordings")
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ws.close(1002)
    await asyncio.to_thread(break_off, server)
    path = (await asyncio.to_thread(server.wait_for_line, WRITTEN))[1]
    await asyncio.to_thread(server.stop)
    assert list((tmp_path / "recordings").iterdir()) == [Path(path)]
    assert recording(path)[0].closed_by == "server"


def test_a_slow_reader_is_written_with_what_it_was_sent(serve, tmp_path):
    limit = 128 * 1024
    server = recorded(
        *(serve, tmp_path / "recordings"),
        room_lag_limit_bytes=limit,
        send_buffer_bytes=8192,
        recorder_bytes=4096,
    )
    publisher, stopped = Peer(server.port, "p"), Peer(server.port, "s", receive_buffer_bytes=4096)
    for peer in (publisher, stopped):
        assert peer.ask("join", room=ROOM)["type"] == "joined"
    while not metric(server, "slow_consumers_total"):
        assert publisher.ask("publish", room=ROOM, content={"pad": "x" * 8000})["type"] == "ack"
    stopped.close()
    head, frames = recording(server.wait_for_line(WRITTEN)[1])
    publisher.close()
    assert (head.why, head.code, head.user) == ("slow_consumer", 4001, "s")
    assert ("out", "publish", "cut") in {(each.way, *each.types, each.left_out) for each in frames}


def test_more_than_may_be_written_is_counted(serve, tmp_path):
    server = recorded(serve, tmp_path / "recordings", recorder_files_per_minute=1)
    for _ in range(2):
        break_off(server)
    server.wait_for_line(WRITTEN)
    server.wait_for_line("was dropped: there are too many")
    assert [metric(server, f"recorder_{name}_total") for name in ("files", "dropped")] == [1, 1]


def test_what_cannot_be_written_is_counted_and_said(serve, tmp_path):
    folder = tmp_path / "recordings"
    server = recorded(serve, folder)
    folder.rmdir()
    break_off(server)
    server.wait_for_line("was not written: FileNotFoundError")
    assert metric(server, "recorder_failures_total") == 1


def test_a_folder_that_cannot_be_had_stops_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "realtime", "serve", "--port", "0", "--sqlite-path", "", "--audit-path", ""],
        env={**os.environ, "REALTIME_RECORDER_DIR": str(tmp_path / "file" / "below")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "recorder_dir" in done.stderr
    assert "Traceback" not in done.stderr


# -- on demand


class Recording:
    """A `realtime record` that has begun."""

    def __init__(self, process):
        self.process = process

    @classmethod
    async def begin(cls, server, *arguments):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "realtime", "record", *arguments),
            cwd=ROOT,
            env=server._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_S):
            said = await process.stderr.readline()
        assert said.startswith(b"recording "), said + await process.stderr.read()
        return cls(process)

    async def end(self, stop=False):
        """Return what it printed; `stop` it first, or wait for its end."""
        if stop:
            self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_S):
            out, errors = await self.process.communicate()
        assert (self.process.returncode, errors) == (0, b"")
        return read(out)


async def test_a_live_connection_is_recorded_on_whichever_worker_it_is(serve, redis_cluster):
    server = serve(**deployment(redis_cluster.url, workers=2, node="n"))
    found = {}
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < 2:
            ws, content = await greeted(server)
            found.setdefault(content["node"], (ws, content["connection_id"]))
    begun = [(ws, id, await Recording.begin(server, id, "--seconds", "600")) for ws, id in found.values()]
    for ws, _, _ in begun:
        assert (await ask(ws, type="ping", id="here"))["type"] == "pong"
        await ws.close()
    for _, id, process in begun:
        head, frames = await process.end()
        assert (head.connection, head.why, head.closed_by, head.user) == (id, "asked", "client", "alice")
        assert [(each.way, each.op, *each.types) for each in frames] == [
            ("in", "text", "ping"),
            ("out", "text", "pong"),
            ("in", "close"),
            ("out", "close"),
        ]


async def test_an_operator_takes_what_there_is_and_the_connection_goes_on(serve, tmp_path):
    audit = str(tmp_path / "audit.sqlite")
    server = serve(control_path=str(tmp_path / "control"), audit_path=audit)
    async with connect(f"{server.ws_url}/alice") as ws:
        id = (await receive(ws))["content"]["connection_id"]
        assert metric(server, "recorder_connections") == 0
        nothing = await run(server, "record", id, "--seconds", "0")
        assert (nothing.returncode, "not being recorded" in nothing.stderr) == (1, True)
        process = await Recording.begin(server, id, "--seconds", "600")
        assert metric(server, "recorder_connections") == 1
        await ask(ws, type="join", id="j", room=ROOM)
        await ask(ws, type="publish", id="p", room=ROOM, content={"text": "hello"})
        head, frames = await process.end(stop=True)
        assert (head.code, head.closed_by) == (0, "")
        assert {"join", "joined", "publish", "ack"} <= {type for each in frames for type in each.types}
        assert [each.rooms for each in frames if each.way == "out" and each.types == ("publish",)] == [
            (ROOM,)
        ]
        assert metric(server, "recorder_connections") == 0
        assert (await ask(ws, type="ping", id="on"))["type"] == "pong"
        path = tmp_path / "there"
        path.write_bytes(write(head, frames))
        played = await run(server, "record", "--play", str(path), "--url", server.ws_url)
        assert (played.returncode, "the same answers in kind" in played.stdout) == (0, True), played
        for wrong in ("n-1", "nonsense", id[:-1] + "99"):
            refused = await run(server, "record", wrong)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
        other = await run(server, "record", id, "--tenant", "other")
        assert other.returncode == 1
    await asyncio.to_thread(server.stop)
    said = await run(server, "audit", "show", "--format", "json")
    entries = [json.loads(line) for line in said.stdout.splitlines()]
    found = [each for each in entries if each["action"] == "connection.record"]
    assert sorted(each["detail"]["what"] for each in found) == ["begin", "take"]
    assert {(each["actor"], each["target"]) for each in found} == {("operator", "alice")}


async def test_so_many_are_recorded_at_once_and_for_so_long(serve, tmp_path):
    path = str(tmp_path / "control")
    server = serve(control_path=path)
    sockets = [await connect(f"{server.ws_url}/u{number}") for number in range(17)]
    ids = [(await receive(ws))["content"]["connection_id"] for ws in sockets]
    async with LonePublisher(Settings(control_path=path, audit_path="")) as outsider:
        with pytest.raises(BadMessage, match="0 to 3600 seconds"):
            await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, ids[0], "begin", 3601))
        with pytest.raises(BadMessage, match="there is no 'nonsense'"):
            await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, ids[0], "nonsense"))
        for id in ids[:16]:
            assert (await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, id, "begin", 60))).recording
        with pytest.raises(TooLarge):
            await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, ids[16], "begin", 60))
        await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, ids[0], "take"))
        assert (await ask_to_record(outsider, RecordAsked(DEFAULT_TENANT, ids[16], "begin", 60))).recording
    for ws in sockets:
        await ws.close()


async def test_a_tls_connection_says_that_it_is_not_recorded(serve, tmp_path):
    from tests.certificates import Authority
    from tests.ports import free_port

    authority = Authority(tmp_path)
    pair, port = authority.sign(), free_port()
    server = serve(control_path=str(tmp_path / "control"), tls_port=port, **pair.settings())
    async with connect(f"wss://localhost:{port}/ws", ssl=authority.trusting()) as ws:
        id = (await receive(ws))["content"]["connection_id"]
        refused = await run(server, "record", id)
        assert (refused.returncode, "own sockets" in refused.stderr) == (1, True), refused


async def test_a_connection_stays_recorded_over_a_hand_over(tmp_path):
    control = str(tmp_path / "control")
    server = Upgradable(tmp_path, {"control_path": control})
    try:
        async with connect(f"{server.ws_url}/alice") as ws:
            id = (await receive(ws))["content"]["connection_id"]
            process = await Recording.begin(server, id, "--seconds", "600")
            process.process.kill()  # the command that asked for it; the server goes on
            await process.process.wait()
            await ask(ws, type="ping", id="before")
            await server.upgraded()
            await ask(ws, type="ping", id="after")
            taken = await run(server, "record", id, "--seconds", "0")
            assert taken.returncode == 0, taken.stderr
            _, frames = read(taken.stdout.encode())
            assert ["after" in each.text for each in frames if each.op == "text"] == [True, True]
    finally:
        await asyncio.to_thread(server.finish)


# -- the folder


def test_a_folder_keeps_to_its_bounds_and_lets_the_oldest_go(tmp_path):
    path = tmp_path / "recordings"
    folder = Folder(Settings(recorder_dir=str(path), recorder_files=3, recorder_dir_bytes=1 << 20))
    folder.open()
    (path / "not ours").write_text("stays")
    for number in range(5):
        kept = folder.keep(f"r{number}", b"x" * 1000)
        os.utime(kept, (1000 + number, 1000 + number))
        folder.prune(2000)
    names = sorted(each.name for each in path.iterdir())
    assert names == ["not ours", *(f"r{number}{SUFFIX}" for number in (2, 3, 4))]
    os.utime(folder.keep("large", b"x" * ((1 << 20) - 1500)), (1900, 1900))
    assert folder.prune(2000) == 2
    assert folder.prune(1900 + 8 * 86_400) == 2, "older than seven days"
    assert [each.name for each in path.iterdir()] == ["not ours"]


def test_a_recording_is_written_whole_or_not_at_all(tmp_path):
    folder = Folder(Settings(recorder_dir=str(tmp_path)))
    kept = folder.keep("one", b"data")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    (tmp_path / f"two{UNFINISHED}").mkdir()
    with pytest.raises(OSError, match="two"):
        folder.keep("two", b"data")
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == [kept.name]
