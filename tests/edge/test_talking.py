"""Over a real server: order, acks, errors that are the message's alone, and rates."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import PATIENCE_S, ask, closed, raw_handshake, receive


async def test_publications_are_acked_and_reach_every_member_in_order(server):
    room = "events:order"
    async with connect(f"{server.ws_url}/alice") as alice, connect(f"{server.ws_url}/bob") as bob:
        for ws in (alice, bob):
            await receive(ws)
            assert (await ask(ws, type="join", id=1, room=room))["type"] == "joined"
        for n in range(50):
            await alice.send(
                json.dumps({"type": "publish", "id": f"m{n}", "room": room, "content": {"n": n}})
            )
        acks, seen = [], {"alice": [], "bob": []}
        while len(acks) < 50 or len(seen["alice"]) < 50:
            message = await receive(alice)
            if message["type"] == "ack":
                acks.append((message["id"], message["content"]["offset"]))
            elif message["type"] == "publish":
                seen["alice"].append(message)
        while len(seen["bob"]) < 50:
            message = await receive(bob)
            if message["type"] == "publish":
                seen["bob"].append(message)
    assert acks == [(f"m{n}", n + 1) for n in range(50)]
    assert seen["alice"] == seen["bob"]
    assert [push["offset"] for push in seen["bob"]] == list(range(1, 51))
    assert [push["content"]["n"] for push in seen["bob"]] == list(range(50))
    assert {push["from"] for push in seen["bob"]} == {"alice"}


async def test_several_messages_in_one_frame_are_answered_each(server):
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ws.send('{"type":"ping","id":1}\n{"type":"ping","id":"two"}')
        assert [(await receive(ws))["id"] for _ in range(2)] == [1, "two"]


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        ("{", "bad_message"),
        ("[]", "bad_message"),
        ('{"type":"publish","room":"events:errors","content":NaN}', "bad_message"),
        ('{"type":"ping","type":"ping"}', "bad_message"),
        ('{"type":"ping","content":' + "[" * 1000 + "]" * 1000 + "}", "bad_message"),
        ('{"type":"nonsense","id":1}', "unknown_type"),
        ('{"type":"publish","id":1,"room":"events:errors"}', "not_joined"),
        ('{"type":"join","id":1,"room":"nowhere"}', "bad_message"),
    ],
)
async def test_a_wrong_message_gets_a_named_error_and_the_connection_stays(server, frame, name):
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ws.send(frame)
        error = await receive(ws)
        assert error["type"] == "error"
        assert error["content"]["name"] == name
        assert error["content"]["temporary"] is False
        assert error["content"]["message"]
        assert (await ask(ws, type="ping", id=9))["type"] == "pong"


async def test_what_is_over_the_rate_is_answered_so_and_what_follows_in_time_is_handled(serve):
    server = serve(messages_per_second=200, messages_burst=1, errors_burst=10_000)
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ws.send("\n".join(json.dumps({"type": "ping", "id": n}) for n in range(60)))
        answers = [await receive(ws) for _ in range(60)]
        assert [answer["id"] for answer in answers] == list(range(60))
        assert answers[0]["type"] == "pong"
        limited = [answer["content"] for answer in answers if answer["type"] == "error"]
        assert limited
        assert {(each["name"], each["temporary"]) for each in limited} == {("rate_limited", True)}
        assert all(0 < each["retry_after"] <= 1 for each in limited)
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while (await ask(ws, type="ping", id="again"))["type"] != "pong":
            assert asyncio.get_running_loop().time() < deadline


async def test_who_ignores_the_rate_for_long_is_closed_with_4005(serve):
    server = serve(messages_per_second=1, messages_burst=1)
    async with connect(server.ws_url) as ws:
        await receive(ws)
        for n in range(300):
            await ws.send(json.dumps({"type": "ping", "id": n}))
        assert (await closed(ws))[0] == 4005


@pytest.mark.parametrize(
    "header",
    [
        "Sec-WebSocket-Protocol: ,",
        "Sec-WebSocket-Protocol: a b",
        'Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits="',
        "Sec-WebSocket-Extensions: ;",
    ],
)
def test_a_malformed_list_in_the_handshake_is_400_and_named(serve, header):
    server = serve(compression=True)
    answer = raw_handshake(server, header)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert header.partition(":")[0].encode() in answer.partition(b"\r\n\r\n")[2]
