"""Tokens on a real server: keys fetched and rotated, cookies, warnings, renewal, revocation everywhere."""

import asyncio
import json
import os
import signal
import time

import msgspec
import pytest
from websockets.asyncio.client import connect

from realtime import Publisher
from realtime.settings import Settings
from tests.edge.peer import (
    KEY,
    MSGPACK,
    PATIENCE_S,
    ask,
    bearer,
    closed,
    metric,
    raw_handshake,
    receive,
    refused,
    send_handshake,
    token,
)
from tests.edge.workers import deployment, until_ready
from tests.tokens import (
    asked_for,
    claims,
    ec_signer,
    issuer_toml,
    jwks,
    key_server,
    rsa_signer,
    secret_signer,
)

ISSUER = "https://issuer.example"
ORIGIN = "https://app.example"
JSON = "realtime.v1.json"


@pytest.fixture
def keys():
    with key_server() as running:
        yield running


@pytest.fixture
def policy(tmp_path):
    """Write a policy of one issuer whose keys are at a URL; return the path."""

    def write(url, **more):
        path = tmp_path / "policy.toml"
        settings = {
            "issuer": ISSUER,
            "audience": ["realtime"],
            "algorithms": ["RS256", "ES256"],
            "jwks_url": url,
            "tenants": ["acme"],
            "jwks_refetch_s": 1,
            **more,
        }
        path.write_text(issuer_toml(**{name: value for name, value in settings.items() if value}))
        return str(path)

    return write


def issued(signer, **more):
    return signer.token(claims(**{"iss": ISSUER, "aud": "realtime", "tenant": "acme", **more}))


async def code_of(server, text):
    """The close code that a token in a subprotocol meets; None where it is greeted."""
    ws = await connect(server.ws_url, subprotocols=[JSON, f"bearer.{text}"])
    async with ws:
        try:
            first = await receive(ws)
            return None if first["type"] == "connected" else first
        except Exception:
            return ws.close_code


# ---------------------------------------------------------------- keys behind a URL


async def test_keys_rotate_without_a_restart(serve, keys, policy):
    old, new = rsa_signer("k1"), ec_signer("k2")
    url = keys.serve("/jwks", jwks(old))
    server = serve(policy_path=policy(url))
    assert await code_of(server, issued(old)) is None
    assert await code_of(server, issued(new)) == 4500  # which asked anew, in vain
    keys.serve("/jwks", jwks(old, new))
    async with asyncio.timeout(PATIENCE_S):
        while await code_of(server, issued(new)) is not None:
            pass  # until a second has passed since the last fetch
    assert await code_of(server, issued(old)) is None  # both are there
    keys.serve("/jwks", jwks(new))
    another = ec_signer("k3")  # whose token has the keys fetched again
    async with asyncio.timeout(PATIENCE_S):
        while await code_of(server, issued(old)) is None:
            await code_of(server, issued(another))
    assert await code_of(server, issued(new)) is None


async def test_a_flood_of_unknown_key_ids_makes_no_flood_of_fetches(serve, keys, policy):
    signer = rsa_signer("k1")
    server = serve(policy_path=policy(keys.serve("/jwks", jwks(signer)), jwks_refetch_s=3600))
    assert await code_of(server, issued(signer)) is None
    fetched = len(keys.asked)
    stranger = ec_signer()
    flood = [stranger.token(claims(iss=ISSUER, aud="realtime"), kid=f"k{n}") for n in range(200)]
    for start in range(0, 200, 20):
        codes = await asyncio.gather(*(code_of(server, each) for each in flood[start : start + 20]))
        assert set(codes) == {4500}
    assert len(keys.asked) == fetched
    assert await code_of(server, issued(signer)) is None


async def test_a_token_in_the_handshake_waits_for_its_key_and_so_do_the_messages_behind_it(
    serve, keys, policy
):
    signer = rsa_signer("k1")
    url = keys.serve("/jwks", jwks(signer))
    keys.held.clear()
    server = serve(policy_path=policy(url))
    waiting = [
        await connect(server.ws_url, additional_headers=bearer(issued(signer))),
        await connect(server.ws_url, subprotocols=[JSON, f"bearer.{issued(signer, sub='bob')}"]),
        await connect(server.ws_url, additional_headers=bearer(issued(signer, sub="carol"))),  # says nothing
    ]
    for ws in waiting[:2]:
        await ws.send(json.dumps({"type": "join", "id": 1, "room": "events:a"}))
        for n in range(3):
            await ws.send(json.dumps({"type": "publish", "id": f"p{n}", "room": "events:a", "content": n}))
    await asked_for(keys, 1)
    keys.held.set()
    for ws, user in zip(waiting, ("alice", "bob", "carol"), strict=True):
        greeting = await receive(ws)
        assert (greeting["type"], greeting["content"]["user_id"]) == ("connected", user)
    for ws in waiting[:2]:
        answers = []
        while len(answers) < 4:
            message = await receive(ws)
            if "id" in message:
                answers.append((message["id"], message["type"]))
        assert answers == [(1, "joined"), ("p0", "ack"), ("p1", "ack"), ("p2", "ack")]
    assert len(keys.asked) == 1
    for ws in waiting:
        await ws.close()


async def test_who_is_gone_before_the_key_is_there_leaves_nothing_behind(serve, keys, policy):
    signer = rsa_signer("k1")
    url = keys.serve("/jwks", jwks(signer))
    keys.held.clear()
    server = serve(policy_path=policy(url))
    hasty = send_handshake(server, f"Authorization: Bearer {issued(signer)}")
    await asked_for(keys, 1)
    hasty.close()
    spoken = await connect(server.ws_url, additional_headers=bearer(issued(signer, sub="bob")))
    await spoken.send(json.dumps({"type": "join", "id": 1, "room": "events:a"}))
    spoken.transport.abort()
    keys.held.set()
    assert await code_of(server, issued(signer, sub="carol")) is None
    for name in ("sessions", "connections", "rooms", "tenants"):
        await until(lambda name=name: metric(server, name) == 0)


async def until(holds):
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            pass


async def test_in_messagepack_it_waits_and_is_warned_in_messagepack(serve, keys, policy):
    signer = rsa_signer("k1")
    url = keys.serve("/jwks", jwks(signer))
    server = serve(policy_path=policy(url, leeway_s=0.01), token_warning_s=2)
    for ttl_s in (600, 4):  # the first one waits for the key, the second has nothing to wait for
        text = issued(signer, ttl_s=ttl_s)
        ws = await connect(server.ws_url, subprotocols=[MSGPACK], additional_headers=bearer(text))
        assert isinstance(frame := await ws.recv(), bytes)
        assert msgspec.msgpack.decode(frame)["type"] == "connected"
        if ttl_s == 4:
            assert isinstance(frame := await ws.recv(), bytes)
            assert msgspec.msgpack.decode(frame)["type"] == "token_expiring"
            assert (await closed(ws))[0] == 4003
        await ws.close()


async def test_a_bad_token_that_waited_for_a_key_is_closed_with_its_code(serve, keys, policy):
    signer, stranger = rsa_signer("k1"), rsa_signer("k2")
    server = serve(policy_path=policy(keys.serve("/jwks", jwks(signer))))
    async with connect(
        server.ws_url, additional_headers=bearer(issued(stranger, aud="realtime"))
    ) as unknown_key:
        assert (await closed(unknown_key))[0] == 4500
    other_path = f"{server.ws_url}/mallory"
    forged = stranger.token(claims(iss=ISSUER, aud="realtime", tenant="acme"), kid="k1")
    async with connect(server.ws_url, subprotocols=[JSON, f"bearer.{forged}"]) as ws:
        assert (await closed(ws))[0] == 4500
    async with connect(other_path, subprotocols=[JSON, f"bearer.{issued(signer)}"]) as ws:
        assert (await closed(ws))[0] == 4507


async def test_an_issuer_that_gives_no_keys_turns_clients_away_for_a_while(serve, keys, policy):
    signer = rsa_signer("k1")
    url = keys.serve("/jwks", b"gone", status=500)
    server = serve(policy_path=policy(url), jwt_secret=KEY)
    assert await code_of(server, issued(signer)) == 1013
    async with connect(server.ws_url, additional_headers=bearer(token())) as ws:  # the others come in
        assert (await receive(ws))["type"] == "connected"
    keys.serve("/jwks", jwks(signer))
    async with asyncio.timeout(PATIENCE_S):
        while await code_of(server, issued(signer)) is not None:
            pass  # until it is asked again


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (302, {"Location": "/elsewhere"}, b""),
        (200, {}, b"[]"),
        (200, {}, b'{"keys":[]}'),
        (200, {}, b"x" * 600_000),
        (200, {"Content_Encoding": "gzip"}, b"{}"),
        (404, {}, b"{}"),
    ],
)
async def test_what_is_no_plain_set_of_keys_is_not_taken(serve, keys, policy, status, headers, body):
    signer = rsa_signer("k1")
    keys.serve("/elsewhere", jwks(signer))
    server = serve(policy_path=policy(keys.serve("/jwks", body, status, **headers)))
    assert await code_of(server, issued(signer)) == 1013
    assert "/elsewhere" not in keys.asked


async def test_keys_are_found_by_discovery(serve, keys, policy):
    signer = rsa_signer("k1")
    found = {"issuer": ISSUER, "jwks_uri": keys.serve("/jwks", jwks(signer))}
    url = keys.serve("/.well-known/openid-configuration", json.dumps(found).encode())
    server = serve(policy_path=policy("", discovery_url=url))
    assert await code_of(server, issued(signer)) is None


async def test_a_discovery_document_of_another_issuer_is_not_taken(serve, keys, policy):
    signer = rsa_signer("k1")
    found = {"issuer": "https://evil.example", "jwks_uri": keys.serve("/jwks", jwks(signer))}
    url = keys.serve("/.well-known/openid-configuration", json.dumps(found).encode())
    server = serve(policy_path=policy("", discovery_url=url))
    assert await code_of(server, issued(signer)) == 1013
    assert "/jwks" not in keys.asked


# ---------------------------------------------------------------- cookies


def cookie_handshake(server, *headers):
    answer = raw_handshake(server, "Sec-WebSocket-Protocol: realtime.v1.json", *headers)
    return int(answer.split(b" ", 2)[1]), answer


async def test_a_cookie_is_taken_from_pages_of_ours_alone(serve):
    server = serve(jwt_secret=KEY, token_cookie="session", allowed_origins=(ORIGIN, "null"))
    cookie = f"Cookie: theme=dark; session={token('alice')}; a=b"
    status, answer = cookie_handshake(server, f"Origin: {ORIGIN}", cookie)
    assert status == 101
    assert b'"user_id":"alice"' in answer
    # Cross-site WebSocket hijacking: somebody else's page connects, and the browser sends the cookie along.
    for origin in ("https://evil.example", "https://app.example.evil.example", "http://app.example"):
        assert cookie_handshake(server, f"Origin: {origin}", cookie)[0] == 403
    assert cookie_handshake(server, cookie)[0] == 403
    # A sandboxed frame of any page is `null`: it may connect here, and the cookie does not count.
    status, answer = cookie_handshake(server, "Origin: null", cookie)
    assert status == 101
    assert b"connected" not in answer


async def test_two_cookies_of_the_name_are_none(serve):
    server = serve(jwt_secret=KEY, token_cookie="session", allowed_origins=(ORIGIN,))
    planted = f"Cookie: session={token('mallory')}; session={token('alice')}"
    _, answer = cookie_handshake(server, f"Origin: {ORIGIN}", planted)
    assert b"connected" not in answer
    assert (4500).to_bytes(2, "big") in answer


async def test_what_is_said_aloud_goes_before_the_cookie(serve):
    server = serve(jwt_secret=KEY, token_cookie="session", allowed_origins=(ORIGIN,))
    cookie = f"Cookie: session={token('alice')}"
    authorization = f"Authorization: Bearer {token('bob')}"
    _, answer = cookie_handshake(server, f"Origin: {ORIGIN}", cookie, authorization)
    assert b'"user_id":"bob"' in answer


# ---------------------------------------------------------------- the end of tokens


@pytest.mark.parametrize("speaks", [True, False])
@pytest.mark.alone
async def test_the_end_of_a_token_is_said_before_and_is_kept_to_the_second(serve, speaks):
    server = serve(jwt_secret=KEY, jwt_leeway_s=0, token_warning_s=2)
    now = time.time()
    ends = int(now) + 6
    async with connect(server.ws_url, additional_headers=bearer(token(exp=ends))) as ws:
        assert (await receive(ws))["type"] == "connected"
        if speaks:
            await ask(ws, type="ping", id=1)
        warning = await receive(ws)
        warned_at = time.time()
        assert warning == {
            "type": "token_expiring",
            "content": {"expires_at": ends, "expires_in_s": warning["content"]["expires_in_s"]},
        }
        assert ends - 2 <= warned_at <= ends - 2 + 1
        assert await closed(ws) == (4003, '{"r":"token_expired"}')  # and nothing in between: it is said once
        late_s = time.time() - ends
    print(f"warned {ends - warned_at:.2f} s before, closed {late_s:.2f} s after the end")
    assert 0 <= late_s <= 1


@pytest.mark.alone
async def test_a_renewed_token_is_warned_of_anew_and_no_sooner(serve):
    server = serve(jwt_secret=KEY, jwt_leeway_s=0, token_warning_s=2)
    ends = int(time.time()) + 5
    async with connect(server.ws_url, additional_headers=bearer(token(exp=ends))) as ws:
        await receive(ws)
        assert (await receive(ws))["type"] == "token_expiring"
        later = ends + 4
        answer = await ask(ws, type="refresh", id=1, content={"token": token(exp=later)})
        assert answer["content"]["expires_at"] == later
        warning = await receive(ws)
        assert (warning["type"], warning["content"]["expires_at"]) == ("token_expiring", later)
        assert time.time() >= later - 2


# ---------------------------------------------------------------- secrets of before


async def test_tokens_of_a_previous_secret_are_taken_and_of_an_earlier_one_are_not(serve):
    old, older = "o" * 32, "p" * 32
    server = serve(jwt_secret=KEY, jwt_previous_secrets=(old,))
    for key in (KEY, old):
        async with connect(server.ws_url, additional_headers=bearer(token(key=key))) as ws:
            assert (await receive(ws))["type"] == "connected"
    assert (await refused(server.ws_url, additional_headers=bearer(token(key=older)))).status_code == 401


async def test_a_policy_that_names_an_issuer_locks_a_server_without_a_secret(serve, keys, policy):
    signer = rsa_signer("k1")
    server = serve(policy_path=policy(keys.serve("/jwks", jwks(signer))))
    assert (await refused(server.ws_url, additional_headers=bearer(token()))).status_code == 401
    assert await code_of(server, issued(signer)) is None
    assert "OPEN MODE" not in server.whole_log()


async def test_a_secret_of_an_issuer_comes_from_the_environment(serve, policy, monkeypatch):
    monkeypatch.setenv("ISSUER_SECRET", "s" * 32)
    signer = secret_signer("s" * 32)
    path = policy("", algorithms=["HS256"], secret_env="ISSUER_SECRET")
    server = serve(policy_path=path)
    assert await code_of(server, issued(signer)) is None
    assert "s" * 32 not in server.whole_log()


# ---------------------------------------------------------------- revocation


def outside_of(settings):
    """What reaches the workers of a deployment without a WebSocket."""
    return Publisher(settings["redis_url"], prefix=settings["redis_prefix"], settings=Settings())


@pytest.mark.alone
async def test_revocation_reaches_a_silent_connection_on_another_worker_within_a_second(
    serve, redis_cluster, capsys
):
    settings = deployment(redis_cluster.url, jwt_secret=KEY)
    one, other = serve(**settings), serve(**settings)
    for server in (one, other):
        await until_ready(server)
    took = {}
    async with outside_of(settings) as outside:
        for what, order in (
            ("jti", {"token_id": "t1"}),
            ("user", {"user": "alice"}),
            ("tenant", {"everybody": True}),
        ):
            text = token("alice", jti="t1", iat=time.time() - 10, tenant=f"of-{what}")
            bystander = token("bob", iat=time.time() - 10, tenant="another")
            async with (
                connect(one.ws_url, additional_headers=bearer(text)) as speaking,
                connect(other.ws_url, additional_headers=bearer(text)) as silent,
                connect(other.ws_url, additional_headers=bearer(bystander)) as spared,
            ):
                for ws in (speaking, silent, spared):
                    assert (await receive(ws))["type"] == "connected"
                await ask(speaking, type="ping", id=1)
                began = time.monotonic()
                await outside.revoke(tenant=f"of-{what}", **order)
                for ws in (speaking, silent):
                    assert await closed(ws) == (4500, '{"r":"revoked"}')
                took[what] = time.monotonic() - began
                assert (await ask(spared, type="ping", id=2))["type"] == "pong"
            again = await refused(one.ws_url, additional_headers=bearer(text))
            assert again.status_code == 401
    with capsys.disabled():
        print("\nrevoked on the other worker after", {each: f"{s * 1000:.0f} ms" for each, s in took.items()})
    assert max(took.values()) <= 1.0


async def test_a_tenant_whose_tokens_are_revoked_comes_back_with_newer_ones(serve, redis_cluster):
    settings = deployment(redis_cluster.url, jwt_secret=KEY)
    server = serve(**settings)
    await until_ready(server)
    async with outside_of(settings) as outside:
        await outside.revoke(tenant="acme", everybody=True)
    old = token("alice", tenant="acme", iat=time.time() - 10)
    undated = token("alice", tenant="acme")
    for text in (old, undated):
        assert (await refused(server.ws_url, additional_headers=bearer(text))).status_code == 401
    for text in (token("alice", tenant="acme", iat=time.time() + 2), token("alice", iat=time.time() - 10)):
        async with connect(server.ws_url, additional_headers=bearer(text)) as ws:
            assert (await receive(ws))["type"] == "connected"


# ---------------------------------------------------------------- another policy


async def test_issuers_come_and_go_with_a_reload(serve, keys, policy):
    first, second = rsa_signer("k1"), ec_signer("k2")
    path = policy(keys.serve("/first", jwks(first)))
    server = serve(policy_path=path, jwt_secret=KEY)
    assert await code_of(server, issued(first)) is None
    ws = await connect(server.ws_url, additional_headers=bearer(issued(first)))
    assert (await receive(ws))["type"] == "connected"
    policy(keys.serve("/second", jwks(second)), algorithms=["ES256"])
    await reloaded(server)
    assert await code_of(server, issued(second)) is None
    assert await code_of(server, issued(first)) == 4500
    assert (await ask(ws, type="ping", id=1))["type"] == "pong"  # who is there stays
    await ws.close()


async def test_a_reload_neither_opens_a_locked_server_nor_locks_an_open_one(serve, keys, policy, tmp_path):
    signer = rsa_signer("k1")
    path = policy(keys.serve("/jwks", jwks(signer)))
    locked = serve(policy_path=path)
    other = tmp_path / "open.toml"
    other.write_text("")
    open_one = serve(policy_path=str(other))
    issuers = (tmp_path / "policy.toml").read_text()
    (tmp_path / "policy.toml").write_text("")
    other.write_text(issuers)
    for server in (locked, open_one):
        await reloaded(server, "reload refused")
    assert (await refused(locked.ws_url, additional_headers=bearer(token()))).status_code == 401
    assert await code_of(locked, issued(signer)) is None
    async with connect(f"{open_one.ws_url}/alice") as ws:
        assert (await receive(ws))["content"]["user_id"] == "alice"


async def reloaded(server, says="reloaded"):
    """Have a server read its policy again, and wait until it has."""
    seen = len(server.log)
    os.kill(server.pid, signal.SIGHUP)
    await asyncio.to_thread(server.wait_for_line, says, after=seen)


async def test_a_room_that_turns_private_is_left_and_entered_with_its_token(serve, tmp_path):
    path = tmp_path / "rooms.toml"
    path.write_text("")
    server = serve(jwt_secret=KEY, policy_path=str(path))
    async with connect(server.ws_url, additional_headers=bearer(token())) as ws:
        await ask(ws, type="join", id=1, room="chat:board")
        path.write_text('[[rooms]]\nrooms = ["chat:board"]\nprivate = true\n')
        await reloaded(server)
        while (push := await receive(ws))["type"] != "left":
            pass
        assert push == {"type": "left", "room": "chat:board", "content": {"reason": "forbidden"}}
        answer = await ask(ws, type="join", id=2, room="chat:board")
        assert answer["content"]["name"] == "forbidden"
        content = {"token": token(room="chat:board")}
        assert (await ask(ws, type="join", id=3, room="chat:board", content=content))["type"] == "joined"
        # Replayed by somebody else, or for another room, it opens nothing.
        async with connect(server.ws_url, additional_headers=bearer(token("bob"))) as other:
            answer = await ask(other, type="join", id=1, room="chat:board", content=content)
            assert answer["content"]["name"] == "forbidden"
        async with connect(server.ws_url, additional_headers=bearer(token(tenant="acme"))) as elsewhere:
            answer = await ask(elsewhere, type="join", id=1, room="chat:board", content=content)
            assert answer["content"]["name"] == "forbidden"
