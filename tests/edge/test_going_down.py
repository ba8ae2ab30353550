"""SIGTERM and SIGINT: what clients are told, what is waited for, and that it ends."""

import asyncio
import http.client
import json
import signal
import socket
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.edge.peer import PATIENCE_S, ask, closed, receive, upgrade


async def test_sigterm_closes_with_1012_and_a_reconnect_window_and_exits_0(serve):
    server = serve()
    async with connect(server.ws_url) as one, connect(f"{server.ws_url}/bob") as two:
        for ws in (one, two):
            await receive(ws)
        server.process.send_signal(signal.SIGTERM)
        for ws in (one, two):
            code, reason = await closed(ws)
            assert code == 1012
            assert json.loads(reason) == {"r": "drain", "min": 500, "max": 15_000}
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0


def test_sigterm_with_nobody_there_exits_at_once(serve):
    server = serve()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 15  # of the 20 that a drain may take


def test_sigint_drains_too(serve):
    assert serve().stop(signal.SIGINT) == 0


async def test_what_was_sent_before_the_signal_is_answered(serve):
    server = serve()
    async with connect(server.ws_url) as ws:
        await receive(ws)
        await ask(ws, type="join", id=0, room="events:last")
        for n in range(1, 201):
            await ws.send(json.dumps({"type": "publish", "id": n, "room": "events:last", "content": n}))
        acked = [(await receive(ws)).get("id")]
        server.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE_S):
                async for frame in ws:
                    acked.append(json.loads(frame).get("id"))
        except ConnectionClosed:
            pass
        assert ws.close_code == 1012
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == 0
    acks = [n for n in acked if n is not None]
    assert acks == list(range(1, len(acks) + 1))


def test_while_draining_ready_says_no_and_new_connections_are_refused(serve):
    server = serve(drain_timeout_s=60, close_timeout_s=50)
    kept = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)

    def ready():
        kept.request("GET", "/ready")
        answer = kept.getresponse()
        return answer.status, json.loads(answer.read())

    with upgrade(server):
        assert ready() == (200, {"ok": True, "checks": {"listener": "ok", "broker": "ok"}})
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        assert ready() == (503, {"ok": False, "checks": {"listener": "draining", "broker": "ok"}})
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port), timeout=PATIENCE_S)
    assert server.process.wait(PATIENCE_S) == 0  # the one it waited for is gone


def test_a_second_signal_ends_it_at_once(serve):
    server = serve(drain_timeout_s=60, close_timeout_s=50)
    with upgrade(server):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("draining")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE_S) == -signal.SIGINT


def test_a_client_that_never_answers_does_not_keep_it_up(serve):
    server = serve(drain_timeout_s=0.5, close_timeout_s=50)
    with upgrade(server):
        assert server.stop() == 0
    assert "1 connections had not closed" in server.whole_log()


def test_two_servers_cannot_share_a_port_by_mistake(server):
    with pytest.raises(pytest.fail.Exception, match="another program has it"):
        type(server)({"port": server.port})
