"""Passive members of a real server: counts come instead of messages, and the way back loses nothing."""

import json

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import MSGPACK, ask, receive


class Packed:
    """A MessagePack connection that `ask` can talk over."""

    def __init__(self, ws):
        self._ws = ws

    async def send(self, text):
        await self._ws.send(msgspec.msgpack.encode(json.loads(text)))

    async def recv(self):
        return await self._ws.recv()


@pytest.fixture(params=["json", "msgpack"])
async def bob(server, request):
    protocols = [MSGPACK] if request.param == "msgpack" else None
    async with connect(f"{server.ws_url}/bob", subprotocols=protocols) as ws:
        await receive(ws)
        yield Packed(ws) if protocols else ws


async def test_a_passive_member_is_told_a_count_and_comes_back_to_everything(server, bob, request):
    room = f"events:passive-{request.node.callspec.id}"
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await ask(alice, type="join", id=1, room=room)
        await ask(bob, type="join", id=1, room=room)
        first = (await ask(alice, type="publish", id=2, room=room, content=1))["content"]
        place = (await ask(bob, type="passive", id=2, room=room))["content"]
        assert place == first
        # More than one read or write takes: what is appended just before and just after must not be lost.
        numbers = range(2, 402)
        for number in numbers:
            await alice.send(json.dumps({"type": "publish", "room": room, "content": number}))
        seen = []
        while not seen or seen[-1]["count"] < len(numbers):
            push = await receive(bob)
            assert push["type"] == "unread", push
            seen.append(push["content"])
        assert seen[-1] == {"count": 400, "offset": 401, "epoch": place["epoch"]}
        joined = (await ask(bob, type="join", id=3, room=room, content={"since": place}))["content"]
        assert joined["recovered"] is True
        assert [push["content"] for push in joined["messages"]] == list(numbers)
        await ask(alice, type="publish", id=4, room=room, content="next")
        while (push := await receive(bob))["type"] != "publish":
            pass
        assert (push["content"], push["offset"]) == ("next", 402)


async def test_turns_in_one_frame_lose_and_double_nothing(server, bob, request):
    room = f"events:turns-{request.node.callspec.id}"
    async with connect(f"{server.ws_url}/alice") as alice:
        await receive(alice)
        await ask(alice, type="join", id=1, room=room)
        epoch = (await ask(bob, type="join", id=1, room=room))["content"]["epoch"]
        got = 0
        for turn in range(1, 51):
            await ask(alice, type="publish", id=turn, room=room, content=turn)
            await bob.send(json.dumps({"type": "passive", "id": "p", "room": room}))
            await ask(alice, type="publish", id="q", room=room, content=-turn)
            while (push := await receive(bob)).get("id") != "p":
                if push["type"] == "publish":
                    assert push["offset"] == got + 1
                    got += 1
            since = {"offset": got, "epoch": epoch}
            joined = (await ask(bob, type="join", id="j", room=room, content={"since": since}))["content"]
            assert joined["recovered"] is True
            assert [push["offset"] for push in joined["messages"]] == list(
                range(got + 1, joined["offset"] + 1)
            )
            got = joined["offset"]
        assert got == 100
