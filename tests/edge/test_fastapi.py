"""FastAPI applications with a hub inside, run by a real uvicorn, and real clients."""

import asyncio
import contextlib
import json
import signal
import socket

import pytest
from websockets.asyncio.client import connect as connect_raw

from realtime.client import Closed, connect
from tests.conftest import Server
from tests.edge.peer import JSON, KEY, PATIENCE_S, bearer, closed, get, receive, refused, token

ROOM = "chat:lobby"
REPLACED = '{"r":"replaced","limit":"max_connections_per_user","allowed":1}'


class App(Server):
    command = ("-m", "uvicorn", "tests.edge.fastapi_app:app", "--port", "0")
    ends_with = -signal.SIGTERM  # uvicorn ends by the signal that it was told to end by


class LifespanApp(App):
    command = ("-m", "uvicorn", "tests.edge.fastapi_lifespan_app:app", "--port", "0")


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def start(kind, **settings):
            app = kind(settings)
            stack.callback(app.finish)
            return app

        yield start


def post(server, path):
    status, _, body = get(f"{server.url}{path}", method="POST")
    assert status == 200, body
    return json.loads(body)


async def collect(room, wanted):
    """Return (sender, content, offset) of so many messages of a room."""
    found = []
    async with asyncio.timeout(PATIENCE_S):
        async for message in room:
            found.append((message.sender, message.content, message.offset))
            if len(found) == wanted:
                break
    return found


async def test_the_example_runs_as_it_stands(start):
    app = start(App)
    async with (
        connect(app.ws_url, user="alice") as alice,
        connect(app.ws_url, user="bob", codec="msgpack") as bob,
        connect_raw(f"{app.ws_url}/alice", subprotocols=[JSON]) as raw,
    ):
        assert (await receive(raw))["content"]["user_id"] == "alice"
        hers, his = await alice.join(ROOM), await bob.join(ROOM)
        await hers.publish("chat_message", {"text": "hi"})
        await his.publish("chat_message", {"text": "hello"})
        said = [("alice", {"text": "hi"}, 1), ("bob", {"text": "hello"}, 2)]
        assert await collect(hers, 2) == await collect(his, 2) == said

        await asyncio.to_thread(post, app, "/notify/alice")
        async with asyncio.timeout(PATIENCE_S):
            told = await anext(aiter(alice))
        pushed = await receive(raw)
        assert told.type == pushed["type"] == "notification"
        assert told.content == pushed["content"]
        assert {key: told.content[key] for key in ("title", "content", "priority", "data")} == {
            "title": "Hi",
            "content": "there",
            "priority": 2,
            "data": {},
        }


async def test_native_clients_and_those_of_the_application_share_rooms(start):
    app = start(LifespanApp, asgi_listen=True)
    native_url = json.loads((await asyncio.to_thread(get, f"{app.url}/native"))[2])
    async with contextlib.AsyncExitStack() as stack:
        ways = [(app.ws_url, "json"), (native_url, "json"), (app.ws_url, "msgpack"), (native_url, "msgpack")]
        rooms = []
        for number, (url, codec) in enumerate(ways):
            client = await stack.enter_async_context(connect(url, user=f"u{number}", codec=codec))
            rooms.append(await client.join(ROOM))

        async def talk(room):
            for number in range(50):
                await room.publish("chat_message", number)

        await asyncio.gather(*(talk(room) for room in rooms))
        seen = [await collect(room, 200) for room in rooms]
        assert [offset for _, _, offset in seen[0]] == list(range(1, 201))
        assert all(each == seen[0] for each in seen)
        assert (await asyncio.to_thread(post, app, "/notify/u1"))[1] == 1  # the native one


async def test_the_token_is_looked_at_as_natively(start):
    app = start(LifespanApp, jwt_secret=KEY)
    assert (await refused(f"{app.ws_url}/alice", additional_headers=bearer("nonsense"))).status_code == 401
    other = bearer(token("bob"))
    assert (await refused(f"{app.ws_url}/alice", additional_headers=other)).status_code == 403
    async with connect_raw(f"{app.ws_url}/alice", subprotocols=[JSON, "bearer.nonsense"]) as wrong:
        assert await closed(wrong) == (4500, '{"r":"unauthorized"}')
    async with connect_raw(f"{app.ws_url}/alice", subprotocols=[JSON, f"bearer.{token()}"]) as right:
        assert right.subprotocol == JSON
        assert (await receive(right))["content"]["user_id"] == "alice"
    async with connect(app.ws_url, token=token("carol")) as carol:  # the path names nobody
        assert (await carol.join(ROOM)).members == ("carol",)


async def test_an_application_that_ends_lets_its_clients_know(start):
    app = start(LifespanApp)
    async with connect_raw(f"{app.ws_url}/alice") as alice:
        await receive(alice)
        ending = asyncio.create_task(asyncio.to_thread(app.stop))
        code, _ = await closed(alice)
        assert code == 1012
        assert await ending == app.ends_with
    assert "Application shutdown complete" in app.whole_log()


async def test_a_client_that_does_not_read_is_cut_and_the_others_go_on(start):
    """It is a plain socket, so that nothing reads for it; the room sees it leave."""
    small = {"room_lag_limit_bytes": 131_072, "close_timeout_s": 0.2}
    app = start(LifespanApp, **small, history_bytes=1024)
    with stuck_member(app):
        async with connect(app.ws_url, user="quick") as quick:
            room = await quick.join(ROOM)
            assert set(room.members) == {"slow", "quick"}
            async with asyncio.timeout(60):
                while "slow" in await room.presence():
                    await room.publish("chat_message", {"text": "x" * 30_000})


@contextlib.contextmanager
def stuck_member(app):
    """A member of the room that reads its `joined` and nothing after it."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE_S)
        raw.connect((app.host, app.port))
        head = [
            *("GET /ws/slow HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
        ]
        raw.sendall("\r\n".join([*head, "", ""]).encode())
        read = b""
        while b'"connected"' not in read:
            read += raw.recv(4096)
        payload = json.dumps({"type": "join", "id": 1, "room": ROOM}).encode()
        raw.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
        while b'"joined"' not in read:
            read += raw.recv(4096)
        yield raw


async def test_a_client_that_was_replaced_stays_away(serve):
    """Two windows of one user would else throw each other out for ever."""
    server = serve(max_connections_per_user=1, connection_limit_policy="replace")
    async with connect(server.ws_url, user="alice") as first:
        await first.join(ROOM)
        async with connect(server.ws_url, user="alice") as second:
            room = await second.join(ROOM)
            with pytest.raises(Closed, match="4508 replaced"):
                await asyncio.wait_for(anext(aiter(first)), PATIENCE_S)
            assert (await second.ping()).round_trip_s > 0
            assert room.members == ("alice",)


async def test_replacing_holds_for_those_who_authenticate_by_their_first_message_too(serve):
    server = serve(jwt_secret=KEY, max_connections_per_user=1, connection_limit_policy="replace")
    async with (
        connect_raw(f"{server.ws_url}/alice", additional_headers=bearer(token())) as silent,
        connect_raw(f"{server.ws_url}/alice") as later,
    ):
        await receive(silent)
        await later.send(json.dumps({"type": "connect", "id": 1, "content": {"token": token()}}))
        assert (await receive(later))["type"] == "connected"
        assert await closed(silent) == (4508, REPLACED)
        async with connect_raw(f"{server.ws_url}/alice", additional_headers=bearer(token())) as third:
            assert (await receive(third))["type"] == "connected"
            assert (await closed(later))[0] == 4508
