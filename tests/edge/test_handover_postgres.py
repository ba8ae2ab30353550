"""`realtime upgrade` of a server that is alone with a PostgreSQL database: one writes, then the other."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.edge.peer import metric
from tests.edge.test_handover import DURABLE, enter, hear, say, start, until  # noqa: F401 - a fixture


async def test_what_each_process_took_is_kept(start, postgres):  # noqa: F811
    server = start(postgres_url=await postgres.new_database())
    alice, joined = await enter(server, room=DURABLE)
    bob, _ = await enter(server, "bob", DURABLE)
    first = await say(alice, "1", DURABLE, key="k")
    for number in range(2, 5):
        assert await server.upgraded() == (2, 1)
        assert await say(alice, str(number), DURABLE) == {"offset": number, "epoch": joined["epoch"]}
    expected = [(number, str(number)) for number in range(1, 5)]
    assert await hear(bob, 4) == expected
    assert await say(alice, "1", DURABLE, key="k") == {**first, "duplicate": True}
    for pid in server.others:
        await server.ended(pid)
    assert await say(alice, "5", DURABLE) == {"offset": 5, "epoch": joined["epoch"]}
    assert metric(server, "store_ok") == 1
    await asyncio.gather(alice.close(), bob.close())
    await asyncio.to_thread(server.finish)
    server.ends_with = 0
    await asyncio.to_thread(server.start)
    _, joined = await enter(server, "carol", DURABLE, since={"offset": 0, "epoch": joined["epoch"]})
    kept = [(each["offset"], each["content"]["t"]) for each in joined["messages"]]
    assert kept == [*expected, (5, "5")]


async def test_nobody_else_may_have_the_database_afterwards_either(start, postgres):  # noqa: F811
    url = await postgres.new_database()
    server = start(postgres_url=url)
    alice, _ = await enter(server, room=DURABLE)
    assert await server.upgraded() == (1, 1)
    assert (await say(alice, "1", DURABLE))["offset"] == 1  # it has the locks by then
    command = [sys.executable, "-m", "realtime", "check"]
    check = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, "POSTGRES_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await check.communicate())[0].decode()
    assert check.returncode == 1, said
    assert "another server" in said, said
    assert (await say(alice, "2", DURABLE))["offset"] == 2


@pytest.mark.parametrize("at", ["Hello", "Listening", "Adopted"])
async def test_when_the_new_process_dies_the_old_one_writes_on(start, postgres, at):  # noqa: F811
    dies = {"DIES_AS": "new", "DIES_AT": at}
    server = start("tests.edge.dying", dies, postgres_url=await postgres.new_database())
    alice, _ = await enter(server, room=DURABLE)
    bob, _ = await enter(server, "bob", DURABLE)
    assert (await say(alice, "before", DURABLE))["offset"] == 1
    code, said = await server.upgrade()
    assert code == 1, said
    assert (await say(alice, "after", DURABLE))["offset"] == 2
    assert await hear(bob, 2) == [(1, "before"), (2, "after")]


@pytest.mark.parametrize("at", ["Go", "Go+"])
async def test_when_the_old_process_dies_in_the_end_the_new_one_writes(start, postgres, tmp_path, at):  # noqa: F811
    dies = {"DIES_AS": "old", "DIES_AT": at}
    server = start("tests.edge.dying", dies, postgres_url=await postgres.new_database())
    alice, _ = await enter(server, room=DURABLE)
    assert (await say(alice, "before", DURABLE))["offset"] == 1
    began = len(server.log)
    await server.upgrade()
    await asyncio.to_thread(server.wait_for_line, "is the demo page", after=began)
    assert (await say(alice, "after", DURABLE))["offset"] == 2
    (server.serving,) = {int(path.stem.rpartition("-")[2]) for path in tmp_path.glob("*.sock")} - {server.pid}
    server.ends_with = -9
