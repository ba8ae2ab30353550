"""Errors and endings over a real server: every error's shape, what keeps a connection and what closes it."""

import json
import struct

import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import KEY, ask, bearer, closed, metric, receive, token, upgrade


@pytest.fixture
def locked(serve):
    """A server that wants tokens."""
    return serve(jwt_secret=KEY)


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "code", "name"),
    [
        ({"type": "join", "room": "nonsense"}, 400, "bad_message"),
        ({"type": "refresh", "content": {"token": "x"}}, 401, "unauthorized"),
        ({"type": "join", "room": "user:somebody-else"}, 403, "forbidden"),
        ({"type": "no_such_type"}, 404, "unknown_type"),
        ({"type": "leave", "room": "chat:never-joined"}, 412, "not_joined"),
    ],
)
async def test_an_error_says_all_there_is_to_say_and_the_connection_stays(server, message, code, name):
    async with connect(f"{server.ws_url}/alice") as ws:
        await receive(ws)
        error = await ask(ws, id="e", **message)
        assert error.pop("content").pop("message")
        assert error == {"type": "error", "id": "e"} | (
            {"room": message["room"]} if "room" in message else {}
        )
        content = (await ask(ws, id="again", **message))["content"]
        assert content == {"code": code, "name": name, "message": content["message"], "temporary": False}
        assert (await ask(ws, type="ping", id=9))["type"] == "pong"


async def test_an_error_of_a_message_without_an_id_comes_as_a_push(server):
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ws.send('{"type":"no_such_type"}')
        error = await receive(ws)
        assert (error["content"]["name"], "id" in error) == ("unknown_type", False)


async def test_too_many_errors_close_with_4509_and_harm_nobody_else(serve):
    server = serve(errors_burst=5, errors_per_second=0.001)
    async with connect(server.ws_url) as ws, connect(server.ws_url) as other:
        await receive(ws)
        await receive(other)
        for n in range(5):
            assert (await ask(ws, type="no_such_type", id=n))["content"]["name"] == "unknown_type"
        assert (await ask(ws, type="ping", id=8))["type"] == "pong"
        await ws.send('{"type":"no_such_type","id":9}\n{"type":"ping","id":10}')
        assert (await receive(ws))["id"] == 9
        code, reason = await closed(ws)
        told = {"r": "too_many_errors", "limit": "errors_per_second", "allowed": 0.001}
        assert (code, json.loads(reason)) == (4509, told)
        assert (await ask(other, type="ping", id=1))["type"] == "pong"


# -- rates --------------------------------------------------------------------------------------------------


async def test_one_rate_holds_however_messages_are_packed_and_each_is_answered_once(serve):
    server = serve(messages_per_second=1, messages_burst=10, errors_burst=1000)

    async def outcomes(*frames, count):
        async with connect(server.ws_url) as ws:
            await receive(ws)
            for frame in frames:
                await ws.send("\n".join(json.dumps({"type": "ping", "id": n}) for n in frame))
            answers = [await receive(ws) for _ in range(count)]
            assert [answer["id"] for answer in answers] == list(range(count))
            refused = [answer["content"] for answer in answers if answer["type"] == "error"]
            assert all(each["name"] == "rate_limited" and each["temporary"] for each in refused)
            assert all(0 < each["retry_after"] <= 60 for each in refused)
            return count - len(refused)

    # A slow machine may take seconds over this, and each one lets one message more through.
    assert 10 <= await outcomes(*([n] for n in range(40)), count=40) <= 20
    by_hub = metric(server, "rate_limited_total")
    assert by_hub == metric(server, "errors_total"), "one message a frame: only the hub's count speaks"
    assert by_hub >= 20
    assert 10 <= await outcomes(range(40), count=40) <= 20
    assert metric(server, "rate_limited_total") == by_hub, "one frame: only the core's count speaks"
    assert 10 <= await outcomes(*(range(n, n + 4) for n in range(0, 40, 4)), count=40) <= 20


async def test_whoever_sends_one_message_a_frame_pays_for_it_once(serve):
    server = serve(messages_per_second=200, messages_burst=1, errors_burst=1_000_000)
    async with connect(server.ws_url) as ws:
        await receive(ws)
        answered = 0
        while answered < 40:
            answered += (await ask(ws, type="ping", id=1))["type"] == "pong"
    assert metric(server, "errors_total") == metric(server, "rate_limited_total") > 0


# -- tokens -------------------------------------------------------------------------------------------------


async def test_messages_behind_the_token_wait_for_nothing_and_are_the_users(locked):
    room = "events:first-frame"
    frames = [
        {"type": "connect", "id": 1, "content": {"token": token()}},
        {"type": "join", "id": 2, "room": room},
        {"type": "publish", "id": 3, "room": room, "content": "hi"},
    ]
    for send in (["\n".join(map(json.dumps, frames))], list(map(json.dumps, frames))):
        async with connect(f"{locked.ws_url}/alice") as ws:
            for frame in send:
                await ws.send(frame)
            answers = []
            while len(answers) < 3:
                if "id" in (message := await receive(ws)):
                    answers.append(message)
        assert [answer["type"] for answer in answers] == ["connected", "joined", "ack"]
        assert answers[0]["content"]["user_id"] == "alice"


async def test_messages_behind_another_users_token_are_nobodys(locked):
    room = "events:wrong-user"
    async with connect(locked.ws_url, additional_headers=bearer(token("carol"))) as carol:
        await receive(carol)
        await ask(carol, type="join", id=1, room=room)
        async with connect(f"{locked.ws_url}/bob") as ws:
            await ws.send(
                json.dumps({"type": "connect", "id": 1, "content": {"token": token("alice")}})
                + "\n"
                + json.dumps({"type": "join", "id": 2, "room": room})
            )
            error = await receive(ws)
            assert (error["id"], error["content"]["name"]) == (1, "forbidden")
            code, reason = await closed(ws)
            assert (code, json.loads(reason)) == (4507, {"r": "forbidden"})
        answer = await ask(carol, type="presence", id=2, room=room)
        assert answer["content"] == {"members": ["carol"], "count": 1}


async def test_a_refresh_says_until_when_and_a_bad_one_leaves_things_as_they_are(locked):
    async with connect(locked.ws_url, additional_headers=bearer(token())) as ws:
        await receive(ws)
        for number, (text, name) in enumerate(
            [
                ("nonsense", "unauthorized"),
                (token(key="x" * 32), "unauthorized"),
                (token(ttl_s=-60), "unauthorized"),
                (token("bob"), "forbidden"),
                (token(tenant="acme"), "forbidden"),
            ]
        ):
            answer = await ask(ws, type="refresh", id=number, content={"token": text})
            assert answer["content"]["name"] == name
        answer = await ask(ws, type="refresh", id="good", content={"token": token(ttl_s=3600)})
        assert answer["type"] == "ack"
        assert answer["content"]["expires_at"] > 1_700_000_000


async def test_a_second_connect_may_not_make_somebody_else_of_a_connection(locked, server):
    async with connect(locked.ws_url, additional_headers=bearer(token())) as ws:
        await receive(ws)
        answer = await ask(ws, type="connect", id=1, content={"token": token("bob")})
        assert answer["content"]["name"] == "forbidden"
        assert (await ask(ws, type="connect", id=2))["content"]["user_id"] == "alice"
    async with connect(f"{server.ws_url}/alice") as ws:  # open mode: a client that always sends one
        await receive(ws)
        answer = await ask(ws, type="connect", id=1, content={"token": "any"})
        assert (answer["type"], answer["content"]["user_id"]) == ("connected", "alice")


# -- heartbeat ----------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_who_shows_no_life_is_pinged_and_then_closed_with_4002(serve):
    close = struct.pack("!BBH", 0x88, 22, 4002) + b'{"r":"no_heartbeat"}'
    with upgrade(serve(heartbeat_interval_s=0.3)) as raw:
        received = b""
        while not received.endswith(close):
            more = raw.recv(4096)
            assert more, received
            received += more
    assert received.removesuffix(close).endswith(b"\x89\x00"), "a ping comes first"
