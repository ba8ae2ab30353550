"""`realtime publish`, `notify`, `kick` and `revoke`, as one runs them against real servers on one Redis."""

import asyncio
import io
import json
import os
import subprocess
import sys
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime import cli
from tests.conftest import ROOT
from tests.edge.peer import KEY, PATIENCE_S, ask, bearer, receive, token
from tests.edge.workers import deployment, enter, greeted, labelled, until_counted, until_ready

ROOM = "chat:lobby"


def variables(settings):
    """What names a deployment in the environment."""
    names = {"redis_url": "REDIS_URL", "redis_prefix": "REALTIME_REDIS_PREFIX"}
    return {variable: settings[name] for name, variable in names.items() if name in settings}


async def realtime(settings, *arguments, stdin=""):
    """Run a command against a deployment; return how it ended."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "realtime", *arguments],
        env={**kept, **variables(settings)},
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def told(settings, *arguments, stdin=""):
    """Run a command that succeeds; return what it says, line by line."""
    done = await realtime(settings, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, ""), done
    return [json.loads(line) for line in done.stdout.splitlines()]


async def closed(ws):
    """Read to the end; return the close code and what the reason says."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                await ws.recv()
        except ConnectionClosed:
            return ws.close_code, json.loads(ws.close_reason)


async def two_servers(serve, url, **settings):
    common = deployment(url, **settings)
    servers = serve(**common), serve(**common)
    for server in servers:
        await until_ready(server)
    return common, *servers


async def until_pushed(ws, type):
    while (push := await receive(ws))["type"] != type:
        pass
    return push


async def test_what_is_published_is_in_the_room_and_its_place_is_printed(serve, redis_cluster):
    settings, one, other = await two_servers(serve, redis_cluster.url)
    ws, _ = await greeted(one)
    there, _ = await greeted(other, "bob")
    async with ws, there:
        await enter(ws, ROOM)
        await enter(there, ROOM)
        command = (
            "publish",
            ROOM,
            '{"text":"hello"}',
            "--type",
            "chat_message",
            "--key",
            "k",
            "--from",
            "carol",
        )
        (first,) = await told(settings, *command)
        (again,) = await told(settings, *command)
        assert (first["offset"], first["duplicate"]) == (1, False)
        assert again == {**first, "duplicate": True}
        pushes = [await until_pushed(each, "chat_message") for each in (ws, there)]
        assert pushes[0] == pushes[1]
        assert (pushes[0]["from"], pushes[0]["content"]) == ("carol", {"text": "hello"})
        lines = "".join(f'{{"n":{number}}}\n' for number in range(3)) + "\n"
        receipts = await told(settings, "publish", ROOM, "-", "--type", "chat_message", stdin=lines)
        assert [each["offset"] for each in receipts] == [2, 3, 4]
        assert [(await until_pushed(ws, "chat_message"))["content"]["n"] for _ in range(3)] == [0, 1, 2]


async def test_a_user_is_notified_kicked_and_kept_out_on_all_servers(serve, redis_cluster):
    settings, one, other = await two_servers(serve, redis_cluster.url, jwt_secret=KEY)
    old = bearer(token("alice", jti="t1", iat=time.time() - 10))
    async with (
        connect(one.ws_url, additional_headers=old) as ws,
        connect(other.ws_url, additional_headers=old) as there,
    ):
        for each in (ws, there):
            assert (await receive(each))["type"] == "connected"
            await ask(each, type="ping", id=1)
        for server in (one, other):
            await until_counted(server)
        (sent,) = await told(settings, "notify", "alice", "Dinner", "at eight", "--data", '{"n":1}')
        assert sent["connections"] == 2
        for each in (ws, there):
            push = await until_pushed(each, "notification")
            assert (push["content"]["id"], push["content"]["data"]) == (sent["id"], {"n": 1})
        assert await told(settings, "kick", "alice", "--reason", "spam") == [{"connections": 2}]
        assert [await closed(each) for each in (ws, there)] == [(4503, {"r": "spam"})] * 2
    async with connect(other.ws_url, additional_headers=old) as ws:
        await told(settings, "revoke", "--jti", "t1")
        assert await closed(ws) == (4500, {"r": "revoked"})
    fresh = bearer(token("alice", jti="t2", iat=time.time() - 5))
    async with connect(one.ws_url, additional_headers=fresh) as ws:
        ((until),) = await told(settings, "revoke", "--user", "alice", "--keep", "60")
        assert 50 < until["until"] - time.time() < 61
        assert await closed(ws) == (4500, {"r": "revoked"})
    late = serve(**settings)
    await until_ready(late)
    with pytest.raises(Exception, match="401"):
        await connect(late.ws_url, additional_headers=fresh)


async def test_the_connection_one_too_many_over_all_servers_is_closed(serve, redis_cluster):
    _, one, other = await two_servers(serve, redis_cluster.url, max_connections_per_user=2)
    first, _ = await greeted(one)
    second, _ = await greeted(other)
    # Who comes last is one too many, and it is Redis that says who came last.
    for server in (one, other):
        await until_counted(server)
    async with first, second:
        async with connect(f"{one.ws_url}/alice") as third:
            code, reason = await closed(third)
        assert (code, reason["r"], reason["allowed"]) == (4504, "connection_limit", 2)
        assert [(await ask(each, type="ping", id=1))["type"] for each in (first, second)] == ["pong"] * 2


async def test_who_comes_back_from_a_server_that_was_killed_is_let_in_at_once(serve, redis_cluster):
    common = deployment(redis_cluster.url, max_connections_per_user=1)
    one, other = serve(**common), serve(node="other", **common)
    for server in (one, other):
        await until_ready(server)
    first, _ = await greeted(one)
    async with first:
        await ask(first, type="ping", id=1)
        one.kill()
        again, _ = await greeted(other)
        async with again:
            async with asyncio.timeout(PATIENCE_S):
                while await labelled(other, "other", "ring_workers") != 1:
                    assert (await ask(again, type="ping", id=1))["type"] == "pong"
            assert (await ask(again, type="ping", id=2))["type"] == "pong"


def main(monkeypatch, settings, *arguments):
    """Run a command in this process; return its exit code."""
    for name, value in variables(settings).items():
        monkeypatch.setenv(name, value)
    return cli.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["publish", "lobby", "1"], "kind:id"),
        (["publish", "events:x", "hello", "--type", "publish"], "no JSON"),
        (["publish", "events:x", "1"], "several types"),
        (["publish", "events:x", "-", "--type", "publish", "--key", "k"], "one publication"),
        (["publish", "events:x", "1", "--type", "join"], "take no 'join'"),
        (["notify", "alice", ""], "title"),
        (["notify", "alice", "t", "--priority", "9"], "priority"),
        (["kick", "alice", "--code", "7"], "close code"),
        (["revoke", "--jti", ""], "1 to 256"),
        (["publish", "chat:x", "1", "--type", "chat_message"], "no worker is known to run"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line_and_exit_code_1(
    redis_cluster, monkeypatch, capsys, arguments, says
):
    assert main(monkeypatch, deployment(redis_cluster.url), *arguments) == 1
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == ""
    assert line.startswith("realtime: ")
    assert says in line


@pytest.mark.parametrize(
    "arguments", [["kick"], ["kick", "alice", "--everybody"], ["revoke"], ["notify", "alice"]]
)
def test_a_command_of_nobody_is_exit_code_2(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(monkeypatch, {}, *arguments)
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["publish", "events:x"], ["notify", "a", "t"], ["kick", "a"], ["revoke", "--user", "a"]]
)
def test_without_redis_it_is_said_what_is_missing(monkeypatch, capsys, arguments):
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("REALTIME_CONTROL_PATH", "")
    assert main(monkeypatch, {}, *arguments) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("realtime: this needs Redis (REDIS_URL), or the control socket of a server")
    assert len(said.err.splitlines()) == 1


def test_the_first_line_that_is_no_json_ends_it_and_is_named(redis_cluster, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\nhello\n3\n"))
    settings = deployment(redis_cluster.url)
    assert main(monkeypatch, settings, "publish", "events:x", "-", "--type", "publish") == 1
    said = capsys.readouterr()
    assert [json.loads(line)["offset"] for line in said.out.splitlines()] == [1]
    assert "line 2: it is no JSON" in said.err
