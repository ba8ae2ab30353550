"""The envelope over a real server: ids, keys, several messages a frame, both codecs, and what breaks them."""

import json
import re

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import JSON, MSGPACK, ask, closed, receive

CODECS = {JSON: json.dumps, MSGPACK: msgspec.msgpack.encode}


async def push_of(ws, *types):
    """Return the next message that is of one of `types`."""
    while (message := await receive(ws))["type"] not in types:
        pass
    return message


@pytest.fixture
async def alice(server):
    async with connect(f"{server.ws_url}/alice") as ws:
        await receive(ws)
        yield ws


async def test_the_plainest_message_there_is_reaches_the_room_that_its_content_names(alice):
    await ask(alice, type="join", id=1, room="chat:room123")
    sent = {
        "type": "chat_message",
        "content": {"text": "Great song!", "chat_room_id": "room123"},
        "timestamp": "2001-01-01T00:00:00Z",
    }
    await alice.send(json.dumps(sent))
    push = await push_of(alice, "chat_message", "error")
    assert (push["room"], push["content"]) == ("chat:room123", sent["content"])
    # The server orders it, so the server says when.
    assert re.fullmatch(r"20[2-9]\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", push["timestamp"])


async def test_what_the_server_sets_cannot_be_set_by_a_client(alice):
    await ask(alice, type="join", id=1, room="events:forged")
    forged = {"from": "root", "offset": 999, "epoch": "mine", "timestamp": "2001-01-01T00:00:00Z", "extra": 1}
    await alice.send(json.dumps({"type": "publish", "room": "events:forged", "content": 1, **forged}))
    push = await push_of(alice, "publish", "error")
    assert set(push) == {"type", "room", "from", "offset", "epoch", "content", "timestamp"}
    assert (push["from"], push["offset"]) == ("alice", 1)
    assert push["epoch"] != "mine"


@pytest.mark.parametrize("id", [0, -1, 2**53, -(2**53), "a", 'q"\\é\n', "x" * 64])
async def test_an_id_comes_back_as_it_was_sent(alice, id):
    assert (await ask(alice, type="ping", id=id))["id"] == id
    assert (await ask(alice, type="nonsense", id=id))["type"] == "error"


@pytest.mark.parametrize("id", [2**53 + 1, 1.5, True, [], {}, "x" * 65])
async def test_an_id_that_is_none_is_a_bad_message(alice, id):
    await alice.send(json.dumps({"type": "ping", "id": id}))
    error = await receive(alice)
    assert (error["type"], error["content"]["name"]) == ("error", "bad_message")
    assert "id" not in error


@pytest.mark.parametrize("codec", CODECS)
async def test_messages_of_one_frame_are_answered_in_order_and_a_bad_one_harms_no_other(server, codec):
    room = f"events:frame-{codec}"
    messages = [
        {"type": "join", "id": 1, "room": room},
        {"type": "publish", "id": 2, "room": room, "content": {"n": 1}},
        {"type": 5, "id": 3},
        {"type": "nonsense", "id": 4},
        {"type": "publish", "room": room, "content": {"n": 2}},  # nobody waits for an answer
        {"type": "publish", "id": 5, "room": room, "content": {"n": 3}},
        {"type": "leave", "id": 6, "room": room},  # and what came before it is still delivered
    ]
    async with connect(f"{server.ws_url}/alice", subprotocols=[codec]) as ws:
        await receive(ws)
        await ws.send(
            "\n".join(map(json.dumps, messages)) if codec == JSON else msgspec.msgpack.encode(messages)
        )
        answers, pushes = [], []
        while len(answers) < 6:
            message = await receive(ws)
            if "id" in message:
                answers.append((message["id"], message["type"]))
            elif message["type"] == "publish":
                pushes.append((message["offset"], message["content"]["n"]))
    expected = ["joined", "ack", "error", "error", "ack", "ack"]
    assert answers == list(zip([1, 2, 3, 4, 5, 6], expected, strict=True))
    assert pushes == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
async def test_lines_may_end_as_they_do_on_any_system(alice, ending):
    await alice.send((ending or "\n").join(['{"type":"ping","id":1}', '{"type":"ping","id":2}']) + ending)
    assert [(await receive(alice))["id"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "frame",
    [
        '{"type":"ping","content":{"a":1,"a":2}}',
        '{"type":"ping","id":1,"id":1}',
        '{"type":"ping","content":"\\ud800"}',
        '{"type":"ping","content":[NaN]}',
        '{"type":"ping","content":Infinity}',
        '{"type":"ping","content":01}',
        "{'type':'ping'}",
        '{"type":"ping",}',
        '{"type":"ping"} {"type":"ping"}',
        '{"type":"ping"',
        '"ping"',
        "null",
        "{}",
        '{"type":null}',
        '{"type":""}',
        '{"type":"' + "t" * 65 + '"}',
        '{"type":"ping","key":5}',
        '{"type":"ping","key":"' + "k" * 65 + '"}',
        '{"type":"ping","room":5}',
        "",
        "\n\n",
    ],
)
async def test_what_is_no_message_is_a_bad_message_and_the_connection_stays(alice, frame):
    await alice.send(frame)
    error = await receive(alice)
    assert (error["type"], error["content"]["name"]) == ("error", "bad_message"), error
    assert (await ask(alice, type="ping", id=9))["type"] == "pong"


@pytest.mark.parametrize(
    "frame",
    [
        b"\xc1",  # never used
        b"\x81",  # a map that ends early
        msgspec.msgpack.encode({"type": "ping", "content": b"bytes"}),
        msgspec.msgpack.encode({"type": "ping", "content": float("nan")}),
        msgspec.msgpack.encode({"type": "ping", "content": msgspec.msgpack.Ext(1, b"x")}),
        msgspec.msgpack.encode({"type": "ping", "content": {1: 2}}),
        b"\x82\xa4type\xa4ping\xa4type\xa4ping",
        msgspec.msgpack.encode([[{"type": "ping"}]]),
        msgspec.msgpack.encode("ping"),
    ],
)
async def test_what_json_cannot_say_is_a_bad_message_in_messagepack_too(server, frame):
    async with connect(server.ws_url, subprotocols=[MSGPACK]) as ws:
        await receive(ws)
        await ws.send(frame)
        error = await receive(ws)
        assert (error["type"], error["content"]["name"]) == ("error", "bad_message"), error
        await ws.send(msgspec.msgpack.encode({"type": "ping", "id": 9}))
        assert (await receive(ws))["type"] == "pong"


async def test_a_repeated_key_gets_the_first_answer_again_and_is_not_published_twice(server, alice):
    room = "events:keys"
    joined = await ask(alice, type="join", id=1, room=room)
    message = {"type": "publish", "room": room, "content": "once", "key": "k" * 64}
    first = await ask(alice, id=2, **message)
    again = await ask(alice, id=3, **message)
    assert again["content"] == {**first["content"], "duplicate": True}
    assert "duplicate" not in first["content"]
    async with connect(f"{server.ws_url}/alice") as later:  # the key is the user's, not the connection's
        await receive(later)
        await ask(later, type="join", id=1, room=room)
        assert (await ask(later, id=2, **message))["content"] == again["content"]
    async with connect(f"{server.ws_url}/bob") as bob:
        await receive(bob)
        await ask(bob, type="join", id=1, room=room)
        others = await ask(bob, id=2, **message)
    assert others["content"]["offset"] == first["content"]["offset"] + 1, "another user's key is another key"
    since = {"offset": joined["content"]["offset"], "epoch": joined["content"]["epoch"]}
    missed = (await ask(alice, type="join", id=4, room=room, content={"since": since}))["content"]["messages"]
    assert [(push["from"], push["content"]) for push in missed] == [("alice", "once"), ("bob", "once")]


@pytest.mark.parametrize(
    ("codec", "frame", "code"),
    [
        (JSON, b'{"type":"ping"}', 1003),
        (MSGPACK, '{"type":"ping"}', 1003),
        (JSON, json.dumps({"type": "ping", "content": "x" * 70_000}), 1009),
    ],
)
async def test_a_frame_of_the_wrong_kind_or_size_closes_as_the_rfc_says(server, codec, frame, code):
    async with connect(server.ws_url, subprotocols=[codec]) as ws:
        await receive(ws)
        await ws.send(frame)
        assert (await closed(ws))[0] == code


async def test_a_conversation_is_the_same_in_both_codecs(serve):
    conversation = [
        {"type": "join", "id": "j", "room": "chat:x"},
        {"type": "chat_message", "id": 1, "room": "chat:x", "content": {"é\n": [1, -2.5, True, None, "𝄞"]}},
        {"type": "chat_message", "id": 2, "content": {"chat_room_id": "x", "n": 2**53}, "key": "k"},
        {"type": "chat_message", "id": 3, "content": {"chat_room_id": "x", "n": 2**53}, "key": "k"},
        {"type": "join", "id": 4, "room": "chat:x", "content": {"since": {"offset": 0}}},
        {"type": "history", "id": 5, "room": "chat:x", "content": {"before": 2}},
        {"type": "presence", "id": 6, "room": "chat:x"},
        {"type": "nonsense", "id": 7, "room": "chat:x"},
        {"type": "ping", "id": 8},
        {"type": "leave", "id": 9, "room": "chat:x"},
    ]
    heard = {}
    for codec, encode in CODECS.items():
        async with connect(f"{serve().ws_url}/alice", subprotocols=[codec]) as ws:
            await receive(ws)
            answers = heard[codec] = []
            for message in conversation:
                await ws.send(encode(message))
                while (answer := await receive(ws)).get("id") != message["id"]:
                    pass
                answers.append(_timeless(answer))
    assert heard[JSON] == heard[MSGPACK]
    assert [answer["type"] for answer in heard[JSON]] == [
        *("joined", "ack", "ack", "ack", "joined", "history", "presence", "error", "pong", "ack")
    ]


def _timeless(value):
    """The same without what differs from one server to the next."""
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    if isinstance(value, dict):
        told = {"epoch", "timestamp", "server_time"}
        return {key: _timeless(each) for key, each in value.items() if key not in told}
    return value
