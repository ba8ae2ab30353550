"""The REST API as a back-end uses it: a `realtime api` process beside workers, alone and in a cluster."""

import asyncio
import json
import time
from pathlib import Path

import jwt
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from realtime.core import powers
from realtime.edge.rest.operations import OPERATIONS
from tests.edge.peer import KEY, PATIENCE_S, ask, bearer, closed, receive, token
from tests.edge.rest import Keys, everybody, staged, staged_cluster

ROOM = "chat:lobby"
# What a request needs at least, for those that need anything.
ASKED = {
    "publish": {"room": "events:x", "type": "publish"},
    "broadcast": {"rooms": ["events:x"], "type": "publish"},
    "signal": {"room": ROOM, "type": "chat_typing", "content": {"typing": True}},
    "room": {"room": "events:x"},
    "presence": {"room": "events:x"},
    "history": {"room": "events:x"},
    "leave": {"room": "events:x", "user": "nobody"},
    "notify": {"user": "nobody", "title": "t"},
    "disconnect": {"user": "nobody"},
    "revoke": {"token_id": "nobodys"},
    "tokens": {"user": "nobody"},
    "batch": {"commands": [{"publish": {"room": "events:x", "type": "publish"}}]},
    "drain": {"worker": "nobody"},
    "shed": {"worker": "nobody"},
}


def new_stage(how, request, folder, keys=None, policy="", **settings):
    keys = keys or everybody()
    if how == "embedded":
        return staged(folder, keys, policy, **settings)
    redis = request.getfixturevalue("redis_cluster").url
    database = asyncio.run(request.getfixturevalue("postgres").new_database())
    return staged_cluster(folder, keys, redis, database, policy, **settings)


@pytest.fixture(scope="module", params=["embedded", "cluster"])
def stage(request, tmp_path_factory):
    """A deployment for many tests, which use rooms and users of their own."""
    made = new_stage(request.param, request, tmp_path_factory.mktemp("stage"))
    yield made
    made.finish()


@pytest.fixture
def stage_of(request, tmp_path):
    """Make an embedded deployment of one's own."""
    made = []

    def make(**settings):
        made.append(new_stage("embedded", request, tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.finish()


@pytest_asyncio.fixture
async def online(stage):
    """Connect as a user: `await online("alice", room)`, in a room where one is given."""
    opened = []

    async def go(user, *rooms, of=stage):
        ws = await connect(of.server.ws_url, additional_headers=bearer(token(user, ttl_s=3600)))
        opened.append(ws)
        content = (await receive(ws))["content"]
        for room in rooms:
            answer = await ask(ws, type="join", id="in", room=room)
            assert answer["type"] == "joined", answer
        return ws, content

    yield go
    for each in opened:
        await each.close()


async def pushed(ws, type):
    async with asyncio.timeout(PATIENCE_S):
        while (push := await receive(ws))["type"] != type:
            pass
        return push


async def until(ask_again, wanted):
    """Ask until the answer is what is wanted; each answer takes as long as the server does."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while not wanted(answer := await ask_again()):
            pass
        return answer


# ---------------------------------------------------------------- what it does


async def test_what_is_published_reaches_members_once_and_is_found_again(stage, online, own_room):
    room = own_room
    ws, _ = await online("alice", room)
    asked = {"room": room, "type": "chat_message", "content": {"text": "hello"}, "user": "bob", "key": "k1"}
    first = await stage.done("publish", **asked)
    again = await stage.done("publish", **asked)
    assert first["offset"] == 1
    assert again == {**first, "duplicate": True}
    push = await pushed(ws, "chat_message")
    assert (push["from"], push["offset"], push["content"]["text"]) == ("bob", 1, "hello")
    by_header = {name: value for name, value in asked.items() if name != "key"}
    kept = await stage.done("publish", headers={"Idempotency-Key": "k1"}, **by_header)
    assert kept == again
    page = await stage.done("history", room=room)
    assert [each["content"]["text"] for each in page["messages"]] == ["hello"]
    assert (page["more"], page["offset"], page["epoch"]) == (False, 1, first["epoch"])
    info = await stage.done("room", room=room)
    assert (info["kind"], info["durable"], info["offset"]) == ("chat", True, 1)
    presence = await until(lambda: stage.done("presence", room=room), lambda found: found["count"] == 1)
    assert presence["members"] == ["alice"]


@pytest.fixture
def own_room(request):
    """A room that no other test has."""
    return f"chat:{abs(hash(request.node.nodeid))}"


async def test_a_broadcast_says_for_each_room_what_came_of_it(stage):
    rooms = ["events:b1", "nothing:b2", "events:b3"]
    told = (await stage.done("broadcast", rooms=rooms, type="publish", content={"n": 1}))["rooms"]
    assert [each["room"] for each in told] == rooms
    assert [each.get("receipt", {}).get("offset") for each in told] == [1, None, 1]
    assert told[1]["error"]["name"] == "bad_message"


async def test_a_batch_goes_on_after_what_fails_and_keeps_the_order(stage):
    publish = {"room": "events:batch", "type": "publish"}
    told = await stage.done(
        "batch",
        commands=[
            {"publish": {**publish, "content": 1}},
            {"publish": {"room": "events:batch", "type": "no_such"}},
            {"publish": {**publish, "content": 2}},
            {"presence": {"room": "events:batch"}},
            {},
            {"publish": publish, "presence": {"room": "events:batch"}},
        ],
    )
    first, refused, second, presence, empty, both = told["results"]
    assert (first["publish"]["offset"], second["publish"]["offset"]) == (1, 2)
    assert refused["error"]["name"] == "forbidden"
    assert presence["presence"]["count"] == 0
    assert empty["error"]["status"] == both["error"]["status"] == 400


async def test_a_signal_reaches_who_is_there_and_is_not_kept(stage, online, own_room):
    ws, _ = await online("alice", own_room)
    content = {"typing": True}
    await stage.done("signal", room=own_room, type="chat_typing", content=content, user="bob")
    push = await pushed(ws, "chat_typing")
    assert (push["from"], push["content"]) == ("bob", content)
    assert (await stage.done("history", room=own_room))["messages"] == []
    kept = await stage.ask("signal", room=own_room, type="chat_message", content={"text": "x"})
    assert (kept.status, kept.name) == (400, "bad_message")


async def test_a_notification_reaches_all_connections_of_a_user(stage, online):
    ends = [(await online("nina"))[0] for _ in range(3)]
    told = await until(
        lambda: stage.done("notify", user="nina", title="Dinner", content="at eight", data={"n": 1}),
        lambda told: told["connections"] == 3,
    )
    for ws in ends:
        push = await pushed(ws, "notification")
        while push["content"]["id"] != told["id"]:
            push = await pushed(ws, "notification")
        assert push["content"]["data"] == {"n": 1}


async def test_connections_are_listed_page_by_page_with_their_rooms(stage, online, own_room):
    ids = {(await online("paula", own_room))[1]["connection_id"] for _ in range(5)}
    found, after = [], ""
    while True:
        page = await stage.done("connections", user="paula", limit=2, after=after)
        assert len(page["connections"]) <= 2
        found += page["connections"]
        if "next" not in page:
            break
        after = page["next"]
    assert {each["connection_id"] for each in found} == ids
    assert len(found) == 5
    assert {each["user_id"] for each in found} == {"paula"}
    assert all((each["rooms"], each["in_rooms"]) == ([own_room], 1) for each in found)
    assert all(each["address"] == "127.0.0.1" and each["encoding"] == "json" for each in found)
    everybody_in = await stage.done("connections", limit=1000)
    assert ids <= {each["connection_id"] for each in everybody_in["connections"]}


async def test_rooms_are_listed_page_by_page_over_all_workers(stage, online):
    rooms = [f"events:page{number}" for number in range(7)]
    for _ in range(4):
        await online("rita", *rooms)
    found, after = [], "events:page"
    while True:
        page = await stage.done("rooms", kind="events", limit=3, after=after)
        found += [each for each in page["rooms"] if each["room"].startswith("events:page")]
        if "next" not in page:
            break
        after = page["next"]
    assert [each["room"] for each in found] == rooms
    assert {(each["users"], each["connections"]) for each in found} == {(1, 4)}
    assert (await stage.done("rooms", kind="playlist"))["rooms"] == []


async def test_one_connection_is_closed_by_its_id_and_another_goes_on(stage, online):
    (one, about), (other, _) = [await online("dora") for _ in range(2)]
    told = await stage.done("disconnect", connection_id=about["connection_id"], reason="bye", code=4503)
    assert told == {"connections": 1}
    assert await closed(one) == (4503, '{"r":"bye"}')
    assert (await ask(other, type="ping", id=1))["type"] == "pong"
    assert await stage.done("disconnect", connection_id=about["connection_id"]) == {"connections": 0}
    assert await stage.done("disconnect", user="dora") == {"connections": 1}
    assert (await closed(other))[0] == 4503


async def test_who_is_put_out_of_a_room_is_told_and_stays_connected(stage, online, own_room):
    ws, _ = await online("lena", own_room)
    assert await stage.done("leave", room=own_room, user="lena") == {"connections": 1}
    assert (await pushed(ws, "left"))["content"] == {"reason": "removed"}
    answer = await ask(ws, type="presence", id=2, room=own_room)
    assert answer["content"]["name"] == "not_joined"


async def test_a_revoked_token_opens_nothing_more(stage):
    issued = await stage.done("tokens", user="tess", ttl_s=60, roles=["guest"], token_id="tess-1")
    claims = jwt.decode(issued["token"], KEY, algorithms=["HS256"])
    assert (claims["sub"], claims["roles"], claims["jti"]) == ("tess", ["guest"], "tess-1")
    assert claims["exp"] == issued["expires_at"]
    async with connect(stage.server.ws_url, additional_headers=bearer(issued["token"])) as ws:
        assert (await receive(ws))["content"]["user_id"] == "tess"
        until = (await stage.done("revoke", token_id="tess-1", keep_s=120))["until"]
        assert 100 < until - time.time() < 130
        assert (await closed(ws))[0] == 4500


async def test_workers_say_how_they_are(stage, online):
    await online("wanda")
    told = await stage.done("workers")
    assert told["silent"] == []
    assert len(told["workers"]) == (2 if "redis_url" in stage.server.settings else 1)
    assert sum(each["connections"] for each in told["workers"]) >= 1
    for each in told["workers"]:
        assert each["checks"]["listener"] == "ok"
        with_others = ["shed"] if "redis_url" in stage.server.settings else []
        assert sorted(each["orders"]) == ["drain", *with_others]
        assert len(each["lag_counts"]) == len(each["bounds_s"]) + 1
    shed = await stage.ask("shed", worker=told["workers"][0]["worker"])
    if with_others:
        assert shed.status == 200, shed
    else:
        assert (shed.status, shed.name) == (400, "bad_message")


# ---------------------------------------------------------------- who may


def expected(operation):
    """What a key without the power gets."""
    return 200 if operation.name in ("batch", "broadcast") else 403


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
async def test_no_route_answers_who_may_not_ask(stage, operation):
    asked = ASKED.get(operation.name, {})
    wrong = stage.keys.given["ops"][:-1] + ("A" if stage.keys.given["ops"][-1] != "A" else "B")
    nobody = [None, wrong, "rtk.nobody.secret", "rtk.", "x.y.z", token("ops", key="f" * 32), token("ops")]
    how = asked
    answers = [await stage.ask(operation.name, key, **how) for key in nobody[:-1]]
    assert {each.status for each in answers} <= {401, 429}
    assert answers[0].headers.get("www-authenticate", "Bearer") == "Bearer"
    without_power = await stage.ask(operation.name, nobody[-1], **how)
    assert without_power.status == expected(operation), without_power
    key = "lobby" if operation.power != powers.PUBLISH else "reader"
    elsewhere = await stage.ask(operation.name, key, **how)
    assert elsewhere.status == (403 if operation.name not in ("batch", "broadcast") else 200), elsewhere
    if operation.name in ("batch", "broadcast"):
        (first,) = elsewhere.body.get("results") or elsewhere.body["rooms"]
        assert first["error"]["status"] == 403


def in_tenant(asked, name, tenant):
    if name == "batch":
        return {
            "commands": [{"publish": {**each["publish"], "tenant": tenant}} for each in asked["commands"]]
        }
    return {**asked, "tenant": tenant}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
async def test_no_route_lets_a_tenants_key_touch_another(stage, operation):
    asked = ASKED.get(operation.name, {})
    how = {}
    if operation.name in ("workers", "drain", "shed"):  # they are of all tenants
        answers = [await stage.ask(operation.name, "acme", **how, **asked)]
    else:
        tenants = ("default", "globex")
        answers = [
            await stage.ask(operation.name, "acme", **how, **in_tenant(asked, operation.name, tenant))
            for tenant in tenants
        ]
        own = await stage.ask(operation.name, "acme", **how, **in_tenant(asked, operation.name, "acme"))
        assert own.status == 200, own
    for each in answers:
        if operation.name in ("batch", "broadcast"):
            (first,) = each.body.get("results") or each.body["rooms"]
            assert first["error"]["status"] == 403
        else:
            assert each.status == 403, each


async def test_a_tenants_key_sees_its_own_tenant_alone(stage, online, own_room):
    await online("alice", own_room)
    assert (await stage.done("rooms", "acme"))["rooms"] == []
    assert (await stage.done("connections", "acme"))["connections"] == []
    _, about = await online("alice")
    assert await stage.done("disconnect", "acme", connection_id=about["connection_id"]) == {"connections": 0}
    assert await stage.done("disconnect", "acme", everybody=True) == {"connections": 0}
    await stage.done("publish", "acme", room="events:own", type="publish", content="acme's")
    assert (await stage.done("history", room="events:own"))["messages"] == []
    told = await stage.done("history", room="events:own", tenant="acme")
    assert [each["content"] for each in told["messages"]] == ["acme's"]


async def test_a_key_for_some_rooms_touches_no_others(stage, own_room):
    content = {"text": "x"}
    await stage.done("publish", "lobby", room=ROOM, type="chat_message", content=content)
    refused = await stage.ask("publish", "lobby", room=own_room, type="chat_message", content=content)
    assert (refused.status, refused.name) == (403, "forbidden")


async def test_a_token_has_the_powers_of_its_scope_in_its_own_tenant(stage):
    reader = token("ops", scope="chat:x admin:presence", tenant="acme")
    await stage.done("presence", reader, room="events:x")
    assert (await stage.ask("publish", reader, **ASKED["publish"])).status == 403
    assert (await stage.ask("presence", reader, room="events:x", tenant="default")).status == 403
    everything = token("ops", scope="admin:*")
    await stage.done("presence", everything, room="events:x", tenant="globex")
    await stage.done("workers", everything)


async def test_what_a_token_says_of_its_roles_is_no_key_and_no_scope(stage):
    posing = token("eve", roles=["key:ops", "scope:admin:publish", "admin:publish"])
    assert (await stage.ask("publish", posing, **ASKED["publish"])).status == 403


async def test_a_revoked_token_has_no_powers(stage):
    mine = token("mallory", scope="admin:*", jti="mallory-1", iat=time.time() - 5)
    await stage.done("rooms", mine)
    await stage.done("revoke", token_id="mallory-1", keep_s=60)
    refused = await until(lambda: stage.ask("rooms", mine), lambda answer: answer.status != 200)
    assert refused.status in (401, 429)  # where others of this address have guessed too often


async def test_rules_of_the_policy_give_powers_and_denials_win(stage_of):
    policy = """
[[access.rules]]
roles = ["support"]
actions = ["admin:presence", "admin:history"]
rooms = ["chat:help-*"]

[[access.rules]]
effect = "deny"
roles = ["*"]
actions = ["admin:history"]
rooms = ["chat:help-secret"]

[[access.rules]]
roles = ["*"]
actions = ["*"]
"""
    stage = stage_of(policy=policy)
    support = token("sue", roles=["support"])
    await stage.done("presence", support, room="chat:help-1")
    assert (await stage.ask("presence", support, room="chat:other")).status == 403
    assert (await stage.ask("history", support, room="chat:help-secret")).status == 403
    assert (await stage.ask("history", "ops", room="chat:help-secret")).status == 403
    assert (await stage.ask("publish", support, room="chat:help-1", type="chat_message")).status == 403
    making = await stage.ask("tokens", user="eve", roles=["support"])
    assert (making.status, making.name) == (403, "forbidden")
    await stage.done("tokens", user="eve", roles=["guest"])


def append(path, text):
    path.write_text(path.read_text() + text)


async def test_a_policy_that_is_read_again_holds_for_keys_too(stage_of):
    stage = stage_of(keys=everybody())
    late = Keys().add("late", ["admin:rooms"])
    assert (await stage.ask("rooms", late.given["late"])).status == 401
    await asyncio.to_thread(append, Path(stage.api.settings["policy_path"]), late.policy)
    stage.api.process.send_signal(1)
    await asyncio.to_thread(stage.api.wait_for_line, "reloaded policy.toml|reloaded .*policy.toml")
    await stage.done("rooms", late.given["late"])


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("path", "how", "status", "name"),
    [
        ("publish", {"raw": b"{"}, 400, "bad_message"),
        ("publish", {"raw": b"[]"}, 400, "bad_message"),
        ("publish", {"raw": b'{"room":"chat:x","tpye":"x"}'}, 400, "bad_message"),
        ("publish", {"raw": b'{"room":"chat:x","content":NaN}'}, 400, "bad_message"),
        ("publish", {"raw": b'{"room":"' + b"[" * 2000}, 400, "bad_message"),
        ("publish", {"raw": b"[" * 100_000}, 400, "bad_message"),
        ("publish", {"room": "chat:\x00"}, 400, "bad_message"),
        ("publish", {"room": "chat:x", "type": "chat_message", "content": {"text": "x" * 70_000}}, 413, None),
        ("publish", {"raw": b" " * 2_000_000}, 413, "too_large"),
        ("publish", {"raw": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, None),
        ("broadcast", {"rooms": []}, 400, "bad_message"),
        ("broadcast", {"rooms": ["events:x"] * 1001}, 400, "bad_message"),
        ("history", {"room": "chat:x", "limit": 0}, 400, "bad_message"),
        ("history", {"room": "chat:x", "before": 1, "after": 1}, 400, "bad_message"),
        ("history?room=chat:x&room=chat:y", {}, 400, "bad_message"),
        ("history?room=%FF", {}, 400, "bad_message"),
        ("connections", {"after": "nonsense"}, 400, "bad_message"),
        ("disconnect", {"user": "a", "everybody": True}, 400, "bad_message"),
        ("disconnect", {"user": "a", "code": 1005}, 400, "bad_message"),
        ("disconnect", {"connection_id": "nonsense"}, 400, "bad_message"),
        ("drain", {"worker": "nobody"}, 400, "bad_message"),
        ("nothing", {}, 404, "not_found"),
        ("rooms", {"method": "DELETE"}, 405, "method_not_allowed"),
        ("publish", {"method": "GET"}, 405, "method_not_allowed"),
    ],
)
async def test_what_will_not_do_is_a_problem_that_says_why(stage, path, how, status, name):
    answer = await stage.ask(path, **how)
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.body["status"] == answer.body["code"] == status
    assert name in (None, answer.name)
    assert answer.body["type"] == f"urn:realtime:error:{answer.name}"
    assert answer.body["detail"]


async def test_a_key_has_its_rate_and_others_go_on(stage):
    answers = [await stage.ask("rooms", "slow") for _ in range(2)]
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].body["limit"] == "api_requests_per_second"
    await stage.done("rooms")


async def test_who_goes_on_guessing_waits_and_who_has_a_key_does_not(stage_of):
    stage = stage_of()
    answers = await asyncio.gather(*(stage.ask("rooms", f"rtk.ops.{number}") for number in range(100)))
    assert {each.status for each in answers} == {401, 429}
    await stage.done("rooms")


async def test_what_is_done_is_on_record_with_who_did_it(stage_of):
    stage = stage_of()
    await stage.done("publish", room="events:x", type="publish")
    await stage.done("disconnect", user="alice")
    assert (await stage.ask("publish", "reader", room="events:x", type="publish")).status == 403
    assert (await stage.ask("rooms", None)).status == 401
    stage.api.stop()
    stage.server.stop()
    entries = await asyncio.to_thread(audit_entries, stage)
    acts = {(each["action"], each["outcome"], each["target"]): each for each in entries}
    published = acts["admin.publish", "allowed", "events:x"]
    assert (published["actor"], published["source"]) == ("operator", "127.0.0.1")
    assert published["detail"]["by"] == "key:ops"
    assert acts["admin.kick", "allowed", "alice"]["detail"]["by"] == "key:ops"
    denied = acts["admin.act", "denied", "publish"]
    assert (denied["actor"], denied["detail"]["reason"]) == ("key:reader", "forbidden")
    assert acts["connection.open", "denied", "rooms"]["detail"]["carrier"] == "api"
    assert not any(secret in json.dumps(entries) for secret in stage.keys.given.values())


def audit_entries(stage):
    import subprocess
    import sys

    from tests.conftest import ROOT

    shown = subprocess.run(
        [sys.executable, "-m", "realtime", "audit", "export"],
        cwd=ROOT,
        env=stage.server._environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in shown.stdout.splitlines()]


async def test_without_workers_it_says_so_and_goes_on_when_they_are_back(stage_of):
    stage = stage_of()
    stage.server.stop()
    answer = await stage.ask("rooms")
    assert (answer.status, answer.name) == (503, "unavailable")
    assert answer.body["temporary"] is True
    stage.server.start()
    await stage.done("rooms")


async def test_a_worker_that_is_told_to_drain_closes_its_connections_and_ends(stage_of, online):
    stage = stage_of()
    ws, _ = await online("alice", of=stage)
    await stage.done("drain", worker="local")
    assert (await closed(ws))[0] == 1012
    assert await asyncio.to_thread(stage.server.process.wait, PATIENCE_S) == 0
    entries = await asyncio.to_thread(audit_entries, stage)
    drained = next(each for each in entries if each["action"] == "admin.act")
    assert (drained["target"], drained["detail"]["what"]) == ("local", "drain")
    assert drained["detail"]["by"] == "key:ops"
