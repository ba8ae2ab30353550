"""Keeping order on two workers: reports, verdicts and what is hidden, wherever everybody is."""

import json

import pytest_asyncio

from tests.edge.peer import ask
from tests.edge.workers import deployment, until_ready
from tests.features.chat.ordered import ROOM, Place, acts, put, send, until

SECRET = "a secret of alice's"


@pytest_asyncio.fixture
async def places(serve, tmp_path, redis_node, postgres):
    """Two workers of one deployment."""
    url = await postgres.new_database()
    common = deployment(redis_node.url)
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        place = Place(serve, folder, url)
        found.append(place.start(**common))
        await until_ready(place.server)
    yield found
    for place in found:
        await place.close()


async def told(ws) -> str:
    """All that the room's history says."""
    return json.dumps((await put(ws, "history", limit=100))["messages"])


async def test_what_is_hidden_is_hidden_on_both_workers_and_in_redis(places):
    one, two = places
    alice, bob = await one.member("alice"), await two.member("bob")
    listener = await one.member("lea")
    mod = await two.member("mona", "mod")
    said = await send(alice, SECRET)
    await put(alice, "chat_edit", id=said["id"], text=f"{SECRET}, edited")
    await send(alice, "something else")
    assert SECRET in await told(bob)
    report = await put(bob, "chat_report", id=said["id"], reason="private")
    assert (await put(mod, "chat_resolve", report=report["report"], verdict="hide"))["state"] == "hidden"
    assert (await until(listener, "chat_hide"))["content"]["hidden"] is True
    for ws in (alice, bob):
        assert SECRET not in await told(ws)
        assert SECRET not in json.dumps(await put(ws, "chat_history"))
        assert SECRET not in json.dumps(await put(ws, "chat_edits", id=said["id"]))
        assert SECRET not in json.dumps(await put(ws, "chat_search", query="secret"))
    late = await two.member("carol", room=None)
    joined = await ask(
        late, type="join", room=ROOM, id="j", content={"since": {"offset": 0, "epoch": said["epoch"]}}
    )
    assert SECRET not in json.dumps(joined)
    await put(mod, "chat_hide", id=said["id"], hidden=False)
    assert (await until(listener, "chat_hide"))["content"]["hidden"] is False
    (shown, *_) = (await put(bob, "chat_history"))["messages"]
    assert shown["text"] == f"{SECRET}, edited"
    assert f"{SECRET}, edited" in await told(bob)


async def test_a_verdict_may_delete_or_ban(places):
    one, two = places
    alice, bob = await one.member("alice"), await two.member("bob")
    mod = await one.member("mona", "mod")
    first, second = await send(alice, "one"), await send(alice, "two")
    reports = [
        (await put(bob, "chat_report", id=each["id"], reason="r"))["report"] for each in (first, second)
    ]
    deleted = await put(mod, "chat_resolve", report=reports[0], verdict="delete")
    assert deleted["state"] == "deleted"
    assert (await until(bob, "chat_delete"))["content"]["id"] == first["id"]
    banned = await put(mod, "chat_resolve", report=reports[1], verdict="ban")
    assert banned["state"] == "banned"
    refused = await send(alice, "let me in")
    assert refused["name"] in ("forbidden", "not_joined")
    rejoined = await ask(alice, type="join", room=ROOM, id="again")
    assert rejoined["content"]["name"] == "forbidden"
    recorded = [act for act, actor, _ in await acts(one) if actor == "mona"]
    assert recorded.count("chat_resolve") == 2
    assert "chat_ban" in recorded
