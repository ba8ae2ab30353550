"""Coming in: in open mode, with a token in every way, from an Origin, with compression."""

import asyncio
import json

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import JSON, KEY, MSGPACK, PATIENCE_S, ask, bearer, closed, receive, refused, token


@pytest.fixture
def locked(serve):
    """A server that wants tokens."""
    return serve(jwt_secret=KEY)


# -- open mode ----------------------------------------------------------------------------------------------


async def test_the_first_message_says_who_one_is_and_what_one_may_do(server):
    async with connect(f"{server.ws_url}/alice") as ws:
        hello = await receive(ws)
    assert hello["type"] == "connected"
    assert "id" not in hello
    content = hello["content"]
    assert content["user_id"] == "alice"
    assert content["tenant"] == "default"
    assert content["connection_id"].startswith(content["node"] + "-")
    assert content["server_time"].endswith("Z")
    assert content["heartbeat_s"] == 30
    assert content["limits"] == {"message_bytes": 65536, "messages_per_second": 100_000, "rooms": 100}
    assert content["reconnect"] == {"min_ms": 500, "max_ms": 15_000}


async def test_who_names_no_user_gets_a_name_of_its_own(server):
    async with connect(server.ws_url) as one, connect(server.ws_url) as two:
        names = {(await receive(ws))["content"]["user_id"] for ws in (one, two)}
    assert len(names) == 2


async def test_a_guest_publishes_under_the_name_it_was_told(server):
    async with connect(server.ws_url) as ws:
        name = (await receive(ws))["content"]["user_id"]
        await ask(ws, type="join", id=1, room="events:guests")
        await ws.send(json.dumps({"type": "publish", "room": "events:guests", "content": 1}))
        while (push := await receive(ws))["type"] != "publish":
            pass
    assert push["from"] == name


async def test_a_user_id_in_the_path_is_percent_decoded(server):
    async with connect(f"{server.ws_url}/Ada%20L%C3%B6velace") as ws:
        assert (await receive(ws))["content"]["user_id"] == "Ada Lövelace"


@pytest.mark.parametrize("user", ["%00", "%20", "a%0Ab", "%ff", "a" * 129, "a/b"])
async def test_a_user_id_that_is_none_is_refused_with_400(server, user):
    response = await refused(f"{server.ws_url}/{user}")
    assert response.status_code == 400
    assert response.body


@pytest.mark.parametrize("path", ["/", "/nowhere", "/ws2", "/wsalice", "/WS"])
async def test_a_websocket_elsewhere_is_404(server, path):
    assert (await refused(server.url.replace("http", "ws") + path)).status_code == 404


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ([JSON], JSON),
        ([MSGPACK], MSGPACK),
        ([MSGPACK, JSON], MSGPACK),
        (["mqtt", JSON], JSON),
        (["mqtt"], None),
    ],
)
async def test_the_first_subprotocol_that_we_speak_is_chosen(server, offered, chosen):
    async with connect(server.ws_url, subprotocols=offered) as ws:
        assert ws.subprotocol == chosen
        hello = await receive(ws)
        assert hello["type"] == "connected"


async def test_messagepack_members_and_json_members_share_a_room(server):
    async with (
        connect(f"{server.ws_url}/m", subprotocols=[MSGPACK]) as packed,
        connect(f"{server.ws_url}/j") as plain,
    ):
        await receive(packed)
        await receive(plain)
        await packed.send(msgspec.msgpack.encode({"type": "join", "id": 1, "room": "events:mixed"}))
        assert (await receive(packed))["type"] == "joined"
        await ask(plain, type="join", id=1, room="events:mixed")
        await packed.send(
            msgspec.msgpack.encode({"type": "publish", "id": 2, "room": "events:mixed", "content": {"n": 1}})
        )
        seen = []
        for ws in (packed, plain):
            while (push := await receive(ws))["type"] != "publish":
                pass
            seen.append((push["from"], push["offset"], push["content"]))
    assert seen == [("m", 1, {"n": 1})] * 2


# -- tokens -------------------------------------------------------------------------------------------------


async def test_an_authorization_header_lets_in(locked):
    claims = token(tenant="acme", roles=["dj"])
    async with connect(locked.ws_url, additional_headers=bearer(claims)) as ws:
        content = (await receive(ws))["content"]
    assert (content["user_id"], content["tenant"]) == ("alice", "acme")


async def test_a_bearer_subprotocol_lets_in_and_is_not_echoed(locked):
    async with connect(locked.ws_url, subprotocols=[JSON, f"bearer.{token()}"]) as ws:
        assert ws.subprotocol == JSON
        assert (await receive(ws))["content"]["user_id"] == "alice"


@pytest.mark.parametrize(("subprotocol", "encode"), [(JSON, json.dumps), (MSGPACK, msgspec.msgpack.encode)])
async def test_a_first_frame_lets_in(locked, subprotocol, encode):
    async with connect(locked.ws_url, subprotocols=[subprotocol]) as ws:
        await ws.send(encode({"type": "connect", "id": 1, "content": {"token": token()}}))
        hello = await receive(ws)
        assert (hello["type"], hello["id"], hello["content"]["user_id"]) == ("connected", 1, "alice")
        await ws.send(encode({"type": "ping", "id": 2}))
        assert (await receive(ws))["type"] == "pong"


@pytest.mark.parametrize("first", ["ping", "join", "publish"])
async def test_before_the_first_frame_nothing_else_is_answered(locked, first):
    async with connect(locked.ws_url) as ws:
        await ws.send(json.dumps({"type": first, "id": 1, "room": "events:x"}))
        error = await receive(ws)
        assert (error["type"], error["content"]["name"]) == ("error", "unauthorized")


async def test_a_bad_first_frame_closes_with_4500(locked):
    async with connect(locked.ws_url) as ws:
        await ws.send(json.dumps({"type": "connect", "id": 1, "content": {"token": token(key="x" * 32)}}))
        code, _ = await closed(ws)
    assert code == 4500


async def test_who_does_not_authenticate_in_time_is_closed_with_4502(serve):
    server = serve(jwt_secret=KEY, handshake_timeout_s=0.3)
    async with connect(server.ws_url) as ws:
        code, _ = await closed(ws)
    assert code == 4502


async def test_the_token_of_the_query_counts_only_where_it_is_allowed(serve, locked):
    open_to_query = serve(jwt_secret=KEY, allow_query_token=True)
    async with connect(f"{open_to_query.ws_url}?token={token()}") as ws:
        assert (await receive(ws))["content"]["user_id"] == "alice"
    async with connect(f"{locked.ws_url}?token={token()}") as ws:  # not looked at: waits for the first frame
        await ws.send(json.dumps({"type": "ping", "id": 1}))
        assert (await receive(ws))["content"]["name"] == "unauthorized"


@pytest.mark.parametrize(
    ("text", "code"),
    [(token(key="x" * 32), 4500), (token(ttl_s=-60), 4003), ("nonsense", 4500), ("", 4500)],
)
async def test_a_wrong_token_is_401_in_a_header_and_a_close_code_where_a_browser_sent_it(locked, text, code):
    response = await refused(locked.ws_url, additional_headers=bearer(text))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    async with connect(locked.ws_url, subprotocols=[JSON, f"bearer.{text}"]) as ws:
        assert (await closed(ws))[0] == code


async def test_the_user_of_the_path_must_be_the_tokens(locked):
    async with connect(f"{locked.ws_url}/alice", additional_headers=bearer(token())) as ws:
        assert (await receive(ws))["content"]["user_id"] == "alice"
    assert (await refused(f"{locked.ws_url}/bob", additional_headers=bearer(token()))).status_code == 403
    async with connect(f"{locked.ws_url}/bob") as ws:
        await ws.send(json.dumps({"type": "connect", "id": 1, "content": {"token": token()}}))
        assert (await closed(ws))[0] == 4507


async def test_a_connection_ends_with_its_token_unless_it_is_refreshed(serve):
    server = serve(jwt_secret=KEY, jwt_leeway_s=0)
    how = {"additional_headers": bearer(token(ttl_s=5.0))}
    async with (
        connect(server.ws_url, **how) as silent,
        connect(server.ws_url, **how) as spoke,
        connect(server.ws_url, **how) as kept,
    ):
        for ws in (silent, spoke, kept):
            await receive(ws)
        assert (await ask(spoke, type="ping", id=1))["type"] == "pong"
        answer = await ask(kept, type="refresh", id=1, content={"token": token(ttl_s=60)})
        assert answer["type"] == "ack"
        for ws in (silent, spoke):
            code, reason = await closed(ws)
            assert (code, json.loads(reason)["r"]) == (4003, "token_expired")
        assert (await ask(kept, type="ping", id=2))["type"] == "pong"


async def test_tenants_do_not_hear_each_other(locked):
    acme = {"additional_headers": bearer(token(sub="a", tenant="acme"))}
    other = {"additional_headers": bearer(token(sub="b", tenant="other"))}
    async with connect(locked.ws_url, **acme) as one, connect(locked.ws_url, **other) as two:
        for ws in (one, two):
            await receive(ws)
            await ask(ws, type="join", id=1, room="events:shared")
        assert (await ask(one, type="publish", id=2, room="events:shared", content=1))["type"] == "ack"
        # What is sent to `two` stands in order: an answer after a push would come after it.
        await two.send(json.dumps({"type": "ping", "id": 3}))
        assert (await receive(two))["type"] == "pong"


async def test_a_user_may_hold_so_many_connections_and_not_one_more(serve):
    server = serve(jwt_secret=KEY, max_connections_per_user=2)
    how = {"additional_headers": bearer(token())}
    async with connect(server.ws_url, **how), connect(server.ws_url, **how) as second:
        async with connect(server.ws_url, **how) as third:
            assert (await closed(third))[0] == 4504
        await second.close()
        async with connect(server.ws_url, **how) as again:
            assert (await receive(again))["type"] == "connected"


# -- origins ------------------------------------------------------------------------------------------------


async def test_once_origins_are_listed_all_others_and_none_are_refused(serve):
    server = serve(allowed_origins=("https://app.example",))
    async with connect(server.ws_url, origin="https://app.example") as ws:
        assert (await receive(ws))["type"] == "connected"
    for origin in (
        None,
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "http://app.example",
    ):
        assert (await refused(server.ws_url, origin=origin)).status_code == 403


# -- compression and echo -----------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_negotiated_where_it_is_on(serve, compression):
    server = serve(compression=compression)
    async with connect(server.ws_url) as ws:  # the client offers permessage-deflate
        await receive(ws)
        assert bool(ws.protocol.extensions) is compression
        text = "all work and no play " * 200
        await ask(ws, type="join", id=1, room="events:z")
        await ws.send(json.dumps({"type": "publish", "room": "events:z", "content": text}))
        while (push := await receive(ws))["type"] != "publish":
            pass
        assert push["content"] == text


async def test_the_echo_path_answers_with_what_it_got(serve):
    server = serve(echo_path="/echo")
    url = server.ws_url.removesuffix("/ws") + "/echo"
    async with connect(url, max_size=None) as ws:
        for message in ("text", b"\x00\xff", "x" * 1_000_000):
            await ws.send(message)
            async with asyncio.timeout(PATIENCE_S):
                assert await ws.recv() == message


async def test_without_the_setting_there_is_no_echo(server):
    assert (await refused(server.ws_url.removesuffix("/ws") + "/echo")).status_code == 404
