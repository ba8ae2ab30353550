"""Odd values in every content: each is answered with a clear error or done, and none as our own mistake."""

import asyncio
import json

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.edge.peer import receive
from tests.features.chat import samples
from tests.features.chat.samples import SAMPLES, About

ROOM = "chat:odd"
ODD = [
    "\0", "a\0b", "9" * 19, "0" * 19, "-1", "", " ", "\u202e", "👍" * 60, "'; DROP --", "%_*", '"',
    "\\", "1" * 5000, "chat:~" + "0" * 24, 0, -1, 2**53, 2**63, 2**64, -(2**63) - 1, 1e308, 1.5, True, None,
    [], {}, [[]],
    ["\0"], ["9" * 19], {"a": 1}, "2026-02-30T00:00:00Z", "9999-12-31T23:59:59.999Z", "0001-01-01T00:00:00Z",
]  # fmt: skip


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def server(request, serve, tmp_path):
    common = {"errors_burst": 1_000_000, "chat_url_secret": "a secret of thirty-two bytes, at least"}
    if request.param == "sqlite":
        return serve(**common, sqlite_path=str(tmp_path / "rooms.sqlite"))
    url = await request.getfixturevalue("postgres").new_database()
    return serve(**common, postgres_url=url, chat_files_path=str(tmp_path / "files"))


def spoiled(content):
    """The content with each of its values in turn replaced by each odd one; and odd ones in its place."""
    for odd in ODD:
        yield odd
        for name, value in content.items():
            yield content | {name: odd}
            if isinstance(value, list) and value and isinstance(value[0], dict):
                for inner in value[0]:
                    yield content | {name: [value[0] | {inner: odd}]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(3))
async def test_no_value_of_a_peers_is_our_mistake(server, part):
    types = sorted(SAMPLES)[part::3]
    async with connect(f"{server.ws_url}/alice", max_queue=None) as ws:
        await receive(ws)

        async def ask(type, content, room=ROOM):
            await ws.send(json.dumps({"type": type, "id": 1, "room": room, "content": content}))
            while True:
                told = await receive(ws)
                if told.get("id") == 1:
                    return told

        await ask("join", {})
        id = (await ask("chat_message", {"text": "one"}))["content"]["id"]
        found = set()
        for type in types:
            for sample in samples.sample(type, About(id=id, room=ROOM)):
                for content in spoiled(sample):
                    told = await ask(type, content)
                    if told["type"] == "error":
                        name = told["content"]["name"]
                        found.add(name)
                        assert name not in ("internal", "unavailable"), (type, content, told)
                    if type in ("chat_room_delete", "chat_quit", "chat_ban", "chat_remove"):
                        await ask("join", {})
        assert "bad_message" in found
        assert (await ask("ping", {}))["type"] == "pong"
    await asyncio.to_thread(server.stop)
    assert "Traceback" not in server.whole_log()
