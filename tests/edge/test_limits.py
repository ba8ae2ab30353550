"""Limits on a real server: what each answers, that a retry in time passes, and what /metrics counts."""

import asyncio
import contextlib
import json
import socket
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from realtime.client import connect as client_connect
from realtime.errors import RateLimited
from tests.edge.peer import (
    KEY,
    PATIENCE_S,
    ask,
    bearer,
    closed,
    get,
    metric,
    receive,
    refused,
    token,
)


def refusals(server, limit):
    """How often /metrics says that this limit was met."""
    start = f'realtime_refusals_total{{limit="{limit}"}} '
    lines = get(f"{server.url}/metrics")[2].decode().splitlines()
    return next(int(line.removeprefix(start)) for line in lines if line.startswith(start))


async def until_refused(ws, **message):
    """Send the message until it is refused; return what the error says."""
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await ask(ws, id=1, **message))["type"] != "error":
            pass
    return answer["content"]


async def later(wait_s):
    """Wait as long as the server has told."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(wait_s + 0.001, done.set)  # its clock is the machine's too
    await done.wait()


@pytest.mark.parametrize(
    ("limit", "allowed", "cost"),
    [
        ("messages_per_second", 50, {"messages_burst": 20}),
        ("bytes_per_second", 20_000, {"rate_burst_s": 0.1, "max_message_bytes": 125}),
        ("messages_per_second_per_user", 50, {}),
        ("messages_per_second_per_tenant", 50, {}),
        ("bytes_per_second_per_user", 5_000, {}),
        ("bytes_per_second_per_tenant", 5_000, {}),
        ("deliveries_per_second_per_user", 50, {}),
        ("deliveries_per_second_per_tenant", 50, {}),
    ],
)
async def test_every_rate_answers_with_its_name_its_number_and_the_time_to_wait(serve, limit, allowed, cost):
    server = serve(**{limit: allowed, "rate_burst_s": 0.5} | cost)
    message = {"type": "publish", "room": "events:limits", "content": "x" * 20}
    async with connect(f"{server.ws_url}/alice") as ws:
        await receive(ws)
        await ask(ws, type="join", id=0, room="events:limits")
        error = await until_refused(ws, **message)
        assert (error["limit"], error["allowed"], error["name"]) == (limit, allowed, "rate_limited")
        assert error["temporary"] is True
        assert limit in error["message"]
        assert 0 < error["retry_after"] <= 0.5
        assert refusals(server, limit) == 1
        await later(error["retry_after"])
        assert (await ask(ws, id=2, **message))["type"] == "ack"


async def test_the_greeting_says_how_many_bytes_a_second_where_they_are_limited(serve):
    async with connect(serve(bytes_per_second=70_000).ws_url) as ws:
        assert (await receive(ws))["content"]["limits"]["bytes_per_second"] == 70_000
    async with connect(serve().ws_url) as ws:
        assert "bytes_per_second" not in (await receive(ws))["content"]["limits"]


async def test_the_clients_take_a_refusal_as_temporary_and_pass_in_time(serve):
    server = serve(messages_per_second_per_user=20, rate_burst_s=0.5)
    async with client_connect(server.ws_url, user="al") as client:
        room = await client.join("chat:limits")
        try:
            for number in range(10_000):
                await room.publish("chat_message", number)
            pytest.fail("nothing was refused")
        except RateLimited as refusal:
            error = refusal
        assert (error.retryable, error.limit, error.allowed) == (True, "messages_per_second_per_user", 20)
        await later(error.retry_after_s)
        await room.publish("chat_message", "late")


# -- connections --------------------------------------------------------------------------------------------


async def test_connections_over_the_number_are_refused_with_its_name_and_when_to_retry(serve):
    server = serve(max_connections=2)
    async with connect(server.ws_url), connect(server.ws_url):
        answer = await refused(server.ws_url)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "5"
        assert answer.body.decode() == "max_connections: this server has its 2 connections\n"


async def test_a_users_connections_over_the_number_are_closed_with_its_name(serve):
    server = serve(max_connections_per_user=1, jwt_secret=KEY)
    told = {"r": "connection_limit", "limit": "max_connections_per_user", "allowed": 1}
    headers = bearer(token("alice"))
    async with connect(server.ws_url, additional_headers=headers):
        async with connect(server.ws_url, additional_headers=headers) as late:
            code, reason = await closed(late)
            assert (code, json.loads(reason)) == (4504, told)
        async with connect(server.ws_url) as late:
            await late.send(json.dumps({"type": "connect", "id": 1, "content": {"token": token("alice")}}))
            error = (await receive(late))["content"]
            assert (error["name"], error["limit"], error["allowed"]) == (
                "connection_limit",
                "max_connections_per_user",
                1,
            )
            code, reason = await closed(late)
            assert (code, json.loads(reason)) == (4504, told)
    assert refusals(server, "max_connections_per_user") == 2


async def test_above_the_accept_rate_everybody_gets_in_but_later(serve):
    server = serve(accepts_per_second=20, rate_burst_s=0.25)
    began = time.monotonic()
    many = await asyncio.gather(*(connect(server.ws_url) for _ in range(25)))
    took_s = time.monotonic() - began
    assert took_s >= (25 - 5) / 20 - 0.1
    for ws in many:
        assert (await receive(ws))["type"] == "connected"
        await ws.close()
    assert metric(server, "accept_rests_total") > 0


async def test_a_connection_of_the_greatest_age_is_closed_to_come_back(serve):
    server = serve(max_connection_age_s=1, reconnect_min_ms=100, reconnect_max_ms=900)
    async with connect(server.ws_url) as ws:
        began = time.monotonic()
        code, reason = await closed(ws)
        assert time.monotonic() - began >= 0.75
        assert code == 4006
        told = {"r": "rebalance", "limit": "max_connection_age_s", "allowed": 1, "min": 100, "max": 900}
        assert json.loads(reason) == told
    assert metric(server, "connections_aged_total") == 1


async def test_a_client_whose_connection_got_too_old_comes_back_and_misses_nothing(serve):
    server = serve(max_connection_age_s=0.5, reconnect_min_ms=1, reconnect_max_ms=50)
    async with client_connect(server.ws_url, user="al") as client:
        room = await client.join("chat:aging")
        async with asyncio.timeout(4 * PATIENCE_S):
            number, pushes = 0, aiter(room)
            while client.reconnects < 3:
                await room.publish("chat_message", number)
                assert (await anext(pushes)).content == number
                number += 1


async def test_a_connection_that_says_nothing_is_closed_with_the_limits_name(serve):
    server = serve(jwt_secret=KEY, handshake_timeout_s=0.5)
    told = {"r": "authentication_timeout", "limit": "handshake_timeout_s", "allowed": 0.5}
    async with connect(server.ws_url) as ws:
        code, reason = await closed(ws)
        assert (code, json.loads(reason)) == (4502, told)


async def test_wrong_messages_do_not_extend_the_time_to_authenticate(serve):
    server = serve(jwt_secret=KEY, handshake_timeout_s=0.5, errors_burst=1_000_000)
    async with connect(server.ws_url) as ws:
        with contextlib.suppress(ConnectionClosed):
            while True:
                assert (await ask(ws, type="ping", id=1))["content"]["name"] == "unauthorized"
        assert ws.close_code == 4502


def test_a_request_that_does_not_end_is_told_the_limit(serve):
    server = serve(handshake_timeout_s=0.5, tcp_defer_accept_s=0)
    with socket.create_connection((server.host, server.port), timeout=PATIENCE_S) as raw:
        raw.sendall(b"GET /ws HTTP/1.1\r\n")
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"handshake_timeout_s: the request took over 0.5 s" in answer
