"""The control socket of a server that is alone: commands over it, who may speak there, what it withstands."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys

import pytest
from websockets.asyncio.client import connect

from realtime.backends.cluster.parcels import ANSWER, ASK, ERROR, TELL, Parcel, decode_error, decode_parcel
from realtime.core.cluster import NotServed, WorkerId
from realtime.core.outside import MEMBERS
from realtime.edge.control_client import LoneWorker
from realtime.edge.control_socket import FRAME_BYTES_MAX, LENGTH, framed
from realtime.edge.lone import LonePublisher
from realtime.errors import BadMessage, SettingsError, TooLarge, Unavailable
from realtime.settings import Settings
from tests.conftest import ROOT
from tests.edge.peer import KEY, PATIENCE_S, ask, bearer, closed, command, receive, token

ASKER = WorkerId("tests")


@pytest.fixture
def lone(serve, tmp_path):
    """A server with a socket, and its path."""
    path = tmp_path / "control"
    settings = {"sqlite_path": str(tmp_path / "rooms.sqlite"), "jwt_secret": KEY}
    return serve(control_path=str(path), **settings), path


async def told(server, *arguments):
    done = await asyncio.to_thread(command, server, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


async def test_commands_reach_a_server_without_redis(lone):
    server, _ = lone
    headers = bearer(token("alice"))
    async with connect(server.ws_url, additional_headers=headers) as ws:
        assert (await receive(ws))["type"] == "connected"
        assert (await ask(ws, type="join", id=1, room="events:x"))["type"] == "joined"
        receipt = await told(server, "publish", "events:x", '{"n":1}', "--type", "publish", "--key", "k")
        again = await told(server, "publish", "events:x", '{"n":1}', "--type", "publish", "--key", "k")
        assert (receipt["offset"], again) == (1, {**receipt, "duplicate": True})
        while (push := await receive(ws))["type"] != "publish":
            pass
        assert push["content"] == {"n": 1}
        assert (await told(server, "notify", "alice", "Dinner"))["connections"] == 1
        assert await told(server, "kick", "alice", "--reason", "spam") == {"connections": 1}
        assert await closed(ws) == (4503, '{"r":"spam"}')
    old = token("alice", iat=1)
    async with connect(server.ws_url, additional_headers=bearer(old)) as ws:
        assert (await receive(ws))["type"] == "connected"
        assert (await told(server, "revoke", "--user", "alice"))["until"] > 0
        assert (await closed(ws))[0] == 4500


async def test_a_command_without_a_server_says_so_in_one_line(lone):
    server, _ = lone
    server.stop()
    done = await asyncio.to_thread(command, server, "kick", "alice")
    assert done.returncode == 1
    assert done.stderr == "realtime: 1 of 1 workers gave no answer\n"


def test_the_socket_is_its_users_alone_and_goes_with_the_server(lone):
    server, path = lone
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()
    server.stop()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_heard_even_where_the_file_lets_them(lone):
    _, path = lone
    path.chmod(0o666)
    for folder in [path.parent, *path.parent.parents][:-1]:
        folder.chmod(folder.stat().st_mode | 0o011)
    code = f"""
import os, socket
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect({str(path)!r})
try:
    s.sendall({framed(Parcel(ASK, ASKER, 1, MEMBERS, b""))!r})
    print(s.recv(1000))
except (BrokenPipeError, ConnectionResetError):
    print(b"")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == ("b''\n", "")


def test_who_comes_later_has_the_path_and_keeps_it(lone, serve, tmp_path):
    server, path = lone
    first = path.stat().st_ino
    other = serve(control_path=str(path), sqlite_path=str(tmp_path / "other.sqlite"), jwt_secret=KEY)
    second = path.stat().st_ino
    assert second != first
    server.stop()
    assert path.stat().st_ino == second
    assert command(other, "kick", "alice").returncode == 0


def test_a_socket_that_a_killed_server_left_is_taken_over(lone):
    server, path = lone
    server.kill()
    assert path.exists()
    server.start()
    assert command(server, "kick", "alice").returncode == 0


def test_a_deep_folder_is_no_obstacle(serve, tmp_path):
    deep = tmp_path.joinpath(*["d" * 60] * 4)
    deep.mkdir(parents=True)
    server = serve(control_path=str(deep / "control"), sqlite_path=str(tmp_path / "rooms.sqlite"))
    assert command(server, "kick", "alice").returncode == 0


def test_a_path_that_cannot_be_had_ends_the_start_where_it_was_asked_for(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "realtime", "serve", "--port", "0", "--sqlite-path", ""),
            *("--audit-path", "", "--control-path", str(tmp_path / "no" / "where")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "control_path" in done.stderr.splitlines()[-1]


# ---------------------------------------------------------------- over the bare socket


def dial(path):
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(PATIENCE_S)
    made.connect(str(path))
    return made


def read(made):
    head = b""
    while len(head) < LENGTH.size and (some := made.recv(LENGTH.size - len(head))):
        head += some
    if not head:
        return None
    (length,), body = LENGTH.unpack(head), b""
    while len(body) < length:
        body += made.recv(length - len(body))
    return decode_parcel(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 100,
        LENGTH.pack(FRAME_BYTES_MAX + 1),
        LENGTH.pack(3) + b"abc",
        framed(Parcel(TELL, ASKER, 1, MEMBERS, b"")),
        framed(Parcel(ANSWER, ASKER, 1, MEMBERS, b"")),
    ],
)
def test_what_is_no_question_ends_its_connection_and_no_other(lone, sent):
    _, path = lone
    with dial(path) as other, dial(path) as made:
        made.sendall(sent)
        assert read(made) is None
        other.sendall(framed(Parcel(ASK, ASKER, 1, "nonsense", b"")))
        answer = read(other)
        assert answer.kind == ERROR
        assert isinstance(decode_error(answer.body), NotServed)


def test_many_questions_at_once_are_all_answered(lone):
    _, path = lone
    with dial(path) as made:
        questions = b"".join(framed(Parcel(ASK, ASKER, n, MEMBERS, b"x")) for n in range(1000))
        made.sendall(questions)
        answers = [read(made) for _ in range(1000)]
    assert sorted(each.number for each in answers) == list(range(1000))
    assert {type(decode_error(each.body)) for each in answers} == {BadMessage}


async def test_a_question_that_nobody_answers_ends_in_time(tmp_path):
    path = tmp_path / "control"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    lone = LoneWorker(path, ASKER, 0.05)
    (worker,) = lone.workers
    try:
        with pytest.raises(Unavailable, match="in time"):
            await lone.ask(worker, MEMBERS, b"")
        with pytest.raises(TooLarge):
            await lone.ask(worker, MEMBERS, b"x" * FRAME_BYTES_MAX)
        with pytest.raises(NotServed):
            await lone.ask(WorkerId("other"), MEMBERS, b"")
    finally:
        await lone.close()
        listening.close()


async def test_a_server_that_is_killed_is_told_at_once_and_its_successor_is_found(lone):
    server, path = lone
    asking = LoneWorker(path, ASKER, PATIENCE_S)
    (worker,) = asking.workers
    server.process.send_signal(signal.SIGSTOP)
    try:
        pending = asyncio.create_task(asking.ask(worker, "nonsense", b""))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable):
            await pending
        await asyncio.to_thread(server.start)
        with pytest.raises(NotServed, match="does not know"):
            await asking.ask(worker, "nonsense", b"")
    finally:
        await asking.close()


def test_without_redis_and_without_a_path_there_is_no_way():
    with pytest.raises(SettingsError, match="control_path"):
        LonePublisher(Settings(control_path=""))
