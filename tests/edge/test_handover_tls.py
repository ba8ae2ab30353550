"""`realtime upgrade` with clients that came by TLS: they cannot move, and miss nothing; the others move."""

import json
import socket

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from tests.certificates import Authority
from tests.edge.crowd import Crowd
from tests.edge.peer import JSON, PATIENCE_S, closed, metric, receive
from tests.edge.test_handover import start  # noqa: F401 - a fixture
from tests.ports import free_port

BY_TLS, PLAIN = 12, 6
HANDSHAKE = (
    b"GET /ws/silent HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest_asyncio.fixture
async def crowd():
    """Clients, who go before the servers of the test."""
    crowd = Crowd()
    yield crowd
    await crowd.go()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_who_came_by_tls_comes_back_and_misses_nothing(start, crowd, tmp_path, store):  # noqa: F811
    authority = Authority(tmp_path)
    if store == "sqlite":
        crowd.name, crowd.type = "playlist:all", "collaboration_edit"
    server = start(
        tls_port=free_port(),
        reconnect_min_ms=100,
        reconnect_max_ms=500,
        presence_grace_s=300,
        sqlite_path=str(tmp_path / "rooms.sqlite") if store == "sqlite" else "",
        **authority.sign().settings(),
    )
    by_tls = f"wss://localhost:{server.settings['tls_port']}/ws"
    plain = [await crowd.come(server.ws_url, f"plain{n}") for n in range(PLAIN)]
    moving = [await crowd.come(by_tls, f"tls{n}", ssl=authority.trusting()) for n in range(BY_TLS)]
    seen = await connect(f"{by_tls}/seen", ssl=authority.trusting(), subprotocols=[JSON])
    server.clients.append(seen)
    await receive(seen)
    numbers = [client.greeting["connection_id"] for client in plain + moving]
    first = server.pid
    for upgrades in (1, 2):
        async with crowd.talking():
            code, said = await server.upgrade()
        assert code == 0, f"{said}\n{server.whole_log()}"
        await crowd.say()
        await crowd.all_heard()  # in the new process: whoever hears it is there
        assert f"serves: {PLAIN} connections, 1 rooms" in said
        stayed = BY_TLS + (upgrades == 1)
        assert f"{stayed} could not move and come back by themselves" in said
        assert [client.reconnects for client in plain] == [0] * PLAIN
        assert [client.reconnects for client in moving] == [upgrades] * BY_TLS
    code, reason = await closed(seen)
    assert code == 1012
    assert json.loads(reason) == {"r": "drain", "min": 100, "max": 500}
    for pid in {first, *server.others}:
        await server.ended(pid)
    assert metric(server, "connections") == PLAIN + BY_TLS
    assert metric(server, "handover_connections_adopted_total") == 2 * PLAIN
    assert metric(server, "handover_connections_drained_total") == 2 * BY_TLS + 1
    after = [client.greeting["connection_id"] for client in plain + moving]
    assert after[:PLAIN] == numbers[:PLAIN]
    assert len({*numbers, *after}) == PLAIN + 2 * BY_TLS  # nobody has another one's number
    members = await crowd.rooms[0].presence()
    assert sorted(members) == sorted(client.user for client in plain + moving)


async def test_one_that_still_ends_is_no_service_to_upgrade(start, tmp_path):  # noqa: F811
    authority = Authority(tmp_path)
    server = start(
        tls_port=free_port(), close_timeout_s=60, drain_timeout_s=120, **authority.sign().settings()
    )
    with socket.create_connection((server.host, server.settings["tls_port"]), PATIENCE_S) as plain:
        silent = authority.trusting().wrap_socket(plain, server_hostname="localhost")
        silent.sendall(HANDSHAKE)
        assert silent.recv(4096).startswith(b"HTTP/1.1 101 ")
        for _ in range(2):  # it answers no close, so the first process waits for it
            code, said = await server.upgrade()
            assert code == 0, f"{said}\n{server.whole_log()}"
        assert server.process.poll() is None
        silent.close()
