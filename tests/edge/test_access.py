"""The rules on a real server: raw frames of a member who may only read, and rules that change under it."""

import json
import os
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import KEY, ask, bearer, receive, token
from tests.edge.workers import deployment

READ_ONLY = """
[access]
default = "deny"
[[access.rules]]
actions = ["*"]
roles = ["staff"]
[[access.rules]]
actions = ["join", "history"]
rooms = ["chat:*", "session:{user}:*"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(READ_ONLY)
    return path


def change(server, path: Path, text: str) -> None:
    """Write another policy, and have the server read it."""
    path.write_text(text)
    os.kill(server.pid, signal.SIGHUP)


def entering(server, user: str, *roles: str):
    return connect(server.ws_url, additional_headers=bearer(token(user, roles=list(roles))))


async def push(ws, type: str) -> dict:
    while True:
        message = await receive(ws)
        if message["type"] == type and "id" not in message:
            return message


def text(type: str, room: str, content: object, **more: object) -> str:
    return json.dumps({"type": type, "room": room, "content": content, **more}, separators=(",", ":"))


async def test_a_reader_writes_by_no_frame_it_can_think_of(serve, path: Path):
    server = serve(jwt_secret=KEY, policy_path=path)
    async with entering(server, "boss", "staff") as boss, entering(server, "eve") as eve:
        for ws in (boss, eve):
            assert (await ask(ws, type="join", id=1, room="chat:news"))["type"] == "joined"
        frames = [
            *[text("chat_message", "chat:news", "no", id=2)] * 3,
            text("chat_message", "chat:news", "no", id=2, key="k"),
            "\n".join([text("chat_message", "chat:news", "no", id=3)] * 4 + ['{"type":"ping","id":2}']),
            '{"type":"chat_message","content":{"chat_room_id":"news","text":"no"},"id":2}',
            '{"type":"chat_\\u006dessage","room":"chat:\\u006eews","content":"no","id":2}',
            text("chat_typing", "chat:news", {}, id=2),
            text("chat_message", "session:boss:car", "no", id=2),
        ]
        for frame in frames:
            await eve.send(frame)
            while (answer := await receive(eve)).get("id") != 2:
                assert answer["type"] in ("error", "presence", "chat_message")
            assert answer["type"] == "pong" or answer["content"]["name"] == "forbidden", (frame, answer)
        await ask(boss, type="chat_message", id=4, room="chat:news", content="the first that anybody hears")
        heard = await push(eve, "chat_message")
        assert (heard["content"], heard["offset"]) == ("the first that anybody hears", 1)


async def test_a_token_of_more_roles_lifts_a_limit_and_one_of_fewer_puts_out(serve, path: Path):
    server = serve(jwt_secret=KEY, policy_path=path)
    async with entering(server, "eve") as eve:
        await ask(eve, type="join", id=1, room="chat:news")
        await ask(eve, type="refresh", id=2, content={"token": token("eve", roles=["staff"])})
        assert (await ask(eve, type="chat_message", id=3, room="chat:news", content=1))["type"] == "ack"
        assert (await ask(eve, type="join", id=4, room="events:board"))["type"] == "joined"
        await eve.send(json.dumps({"type": "refresh", "id": 5, "content": {"token": token("eve")}}))
        left = await push(eve, "left")
        assert (left["room"], left["content"]) == ("events:board", {"reason": "forbidden"})
        refused = await ask(eve, type="chat_message", id=6, room="chat:news", content=2)
        assert refused["content"]["name"] == "forbidden"


async def test_other_rules_put_out_members_on_every_worker(serve, redis_cluster, path: Path):
    server = serve(**deployment(redis_cluster.url, workers=2, node="n", policy_path=path, jwt_secret=KEY))
    members = [entering(server, f"user{number}") for number in range(8)]
    connections = [await each for each in members]
    try:
        for ws in connections:
            assert (await ask(ws, type="join", id=1, room="chat:news"))["type"] == "joined"
        change(server, path, '[access]\ndefault = "deny"\n')
        for ws in connections:
            left = await push(ws, "left")
            assert (left["room"], left["content"]) == ("chat:news", {"reason": "forbidden"})
            assert (await ask(ws, type="join", id=2, room="chat:news"))["content"]["name"] == "forbidden"
    finally:
        for ws in connections:
            await ws.close()


async def test_rules_that_will_not_do_change_nothing_for_anybody(serve, path: Path):
    server = serve(jwt_secret=KEY, policy_path=path)
    async with entering(server, "eve") as eve:
        await ask(eve, type="join", id=1, room="chat:news")
        change(server, path, '[[access.rules]]\neffect = "deny"\nactions = ["jion"]\n')
        server.wait_for_line("reload refused.*no action is called 'jion'")
        refused = await ask(eve, type="chat_message", id=2, room="chat:news", content="no")
        assert refused["content"]["name"] == "forbidden"
