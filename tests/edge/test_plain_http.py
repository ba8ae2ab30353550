"""What a real server says to plain HTTP on its port."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import get, receive


def test_the_root_is_the_demo_page_and_what_it_needs_is_served(server):
    status, headers, body = get(f"{server.url}/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b"<title>" in body
    for name, type_ in (("realtime.js", "text/javascript"), ("style.css", "text/css")):
        status, headers, body = get(f"{server.url}/{name}")
        assert status == 200
        assert headers["Content-Type"].startswith(type_)
        assert body


@pytest.mark.parametrize("path", ["/nowhere", "/../cli.py", "/%2e%2e/cli.py", "/__init__.py", "/.", "/%00"])
def test_nothing_else_is_served(server, path):
    assert get(f"{server.url}{path}")[0] in (400, 404)


def test_plain_http_on_the_endpoint_is_told_to_upgrade(server):
    for path in ("/ws", "/ws/alice"):
        status, headers, _ = get(f"{server.url}{path}")
        assert (status, headers["Upgrade"]) == (426, "websocket")


def test_health_and_ready_and_metrics(server):
    assert get(f"{server.url}/health")[0] == 200
    status, headers, body = get(f"{server.url}/ready")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert json.loads(body)["ok"] is True
    status, headers, body = get(f"{server.url}/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_metrics_count_connections(server):
    def value(name):
        lines = get(f"{server.url}/metrics")[2].decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name
        )

    async def look():
        async with connect(server.ws_url) as ws:
            await receive(ws)
            return await asyncio.to_thread(value, "realtime_connections")

    assert asyncio.run(look()) >= 1
    assert value("realtime_handshakes_total") >= 1


def test_a_method_that_makes_no_sense_is_405(server):
    assert get(f"{server.url}/health", "POST")[0] == 405
