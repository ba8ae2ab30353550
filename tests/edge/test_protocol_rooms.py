"""Rooms over a real server: join and recover, history both ways, presence, privacy, limits."""

import json

import msgspec
import pytest
from websockets.asyncio.client import connect

from tests.edge.peer import KEY, MSGPACK, ask, bearer, metric, receive, token


async def enter(server, user, *rooms):
    """Connect `user` and join; use with `async with await enter(...)`."""
    ws = await connect(f"{server.ws_url}/{user}")
    await receive(ws)
    for room in rooms:
        assert (await ask(ws, type="join", id="join", room=room))["type"] == "joined"
    return ws


async def say(ws, room, *numbers):
    """Publish one message for each number; return the last ack's content."""
    for n in numbers:
        ack = await ask(ws, type="publish", id=f"say {n}", room=room, content=n)
        assert ack["type"] == "ack", ack
    return ack["content"]


async def rejoin(ws, room, **since):
    return (await ask(ws, type="join", id="rejoin", room=room, content={"since": since}))["content"]


async def page(ws, room, **asked):
    answer = await ask(ws, type="history", id="page", room=room, content=asked)
    assert (answer["type"], answer["room"]) == ("history", room), answer
    return [push["offset"] for push in answer["content"]["messages"]], answer["content"]["more"]


async def test_joined_says_who_is_there_and_where_the_room_is(server):
    room = "events:joined"
    async with await enter(server, "alice", room) as alice:
        ack = await say(alice, room, 1, 2)
        async with await enter(server, "bob") as bob:
            joined = await ask(bob, type="join", id=7, room=room)
    assert {key: joined[key] for key in joined if key != "content"} == {
        "type": "joined",
        "id": 7,
        "room": room,
    }
    assert joined["content"] == {
        "members": ["alice", "bob"],
        "count": 2,
        **ack,
        "recovered": False,
        "messages": [],
    }


async def test_whoever_was_away_gets_exactly_what_was_missed(server):
    room = "events:away"
    async with await enter(server, "alice", room) as alice:
        seen = await say(alice, room, 1, 2, 3)
        await say(alice, room, 4, 5)
        async with await enter(server, "bob") as bob:
            found = await rejoin(bob, room, **seen)
            assert found["recovered"] is True
            assert [(push["offset"], push["content"]) for push in found["messages"]] == [(4, 4), (5, 5)]
            assert (await rejoin(bob, room, **{**seen, "offset": 5}))["messages"] == []
            assert (await rejoin(bob, room, **{**seen, "offset": 0}))["recovered"] is True


@pytest.mark.parametrize(
    "since", [{"offset": 1, "epoch": "other"}, {"offset": 99}, {"epoch": "other"}, {"offset": 0, "epoch": ""}]
)
async def test_a_position_that_is_none_here_is_refused_whole(server, since):
    room = "events:refused"
    async with await enter(server, "alice", room) as alice:
        await say(alice, room, 1)
        found = await rejoin(alice, room, **since)
    assert (found["recovered"], found["messages"]) == (False, [])
    assert found["offset"] >= 1


async def test_a_position_ahead_of_the_room_is_refused(server):
    room = "events:ahead"
    async with await enter(server, "alice", room) as alice:
        here = await say(alice, room, 1)
        found = await rejoin(alice, room, epoch=here["epoch"], offset=here["offset"] + 1)
    assert (found["recovered"], found["messages"]) == (False, [])


async def test_a_new_epoch_of_a_new_process_is_refused_and_its_own_positions_recover(serve):
    server, room = serve(), "events:restarted"
    async with await enter(server, "alice", room) as alice:
        old = await say(alice, room, 1, 2, 3)
    server.restart()
    async with await enter(server, "alice") as alice, await enter(server, "bob", room) as bob:
        found = await rejoin(alice, room, **old)
        assert (found["recovered"], found["messages"], found["offset"]) == (False, [], 0)
        assert found["epoch"] != old["epoch"]
        await say(bob, room, "new")
        while "offset" not in (push := await receive(alice)):
            pass
        assert (push["offset"], push["epoch"]) == (1, found["epoch"])
        again = await rejoin(alice, room, offset=0, epoch=push["epoch"])
        assert [each["content"] for each in again["messages"]] == ["new"]


async def test_what_the_history_no_longer_reaches_is_refused_and_never_half_recovered(serve):
    server, room = serve(history_messages=3), "events:short"
    async with await enter(server, "alice", room) as alice:
        epoch = (await say(alice, room, *range(1, 11)))["epoch"]
        whole = await rejoin(alice, room, epoch=epoch, offset=7)
        assert [push["offset"] for push in whole["messages"]] == [8, 9, 10]
        assert (await rejoin(alice, room, epoch=epoch, offset=6))["recovered"] is False


async def test_history_is_paged_both_ways_and_says_whether_there_is_more(server):
    room = "events:pages"
    async with await enter(server, "alice", room) as alice:
        await say(alice, room, *range(1, 11))
        assert await page(alice, room) == (list(range(1, 11)), False)
        assert await page(alice, room, limit=4) == ([7, 8, 9, 10], True)
        assert await page(alice, room, before=7, limit=4) == ([3, 4, 5, 6], True)
        assert await page(alice, room, before=3, limit=4) == ([1, 2], False)
        assert await page(alice, room, before=1) == ([], False)
        assert await page(alice, room, after=0, limit=3) == ([1, 2, 3], True)
        assert await page(alice, room, after=7, limit=3) == ([8, 9, 10], False)
        assert await page(alice, room, after=10) == ([], False)


@pytest.mark.parametrize(
    "content", [{"before": 1, "after": 1}, {"limit": 0}, {"limit": "x"}, {"before": -1}, {"after": 1.5}, 7]
)
async def test_a_history_request_that_makes_no_sense_is_a_bad_message(server, content):
    async with await enter(server, "alice", "events:pages-bad") as alice:
        answer = await ask(alice, type="history", id=1, room="events:pages-bad", content=content)
    assert answer["content"]["name"] == "bad_message"


@pytest.mark.parametrize("command", ["publish", "leave", "presence", "history"])
async def test_a_room_is_its_members(server, command):
    async with await enter(server, "alice") as alice:
        answer = await ask(alice, type=command, id=1, room="events:members-only", content={})
        assert (answer["room"], answer["content"]["name"]) == ("events:members-only", "not_joined")
        await ask(alice, type="join", id=2, room="events:members-only")
        assert (await ask(alice, type="leave", id=3, room="events:members-only")) == {
            "type": "ack",
            "id": 3,
            "room": "events:members-only",
            "content": {},
        }
        answer = await ask(alice, type=command, id=4, room="events:members-only", content={})
        assert answer["content"]["name"] == "not_joined"


async def test_members_are_told_who_came_and_who_went(server):
    room = "chat:presence"
    async with await enter(server, "alice", room) as alice:
        told = {"joined": set(), "left": set()}

        async def until(kind, user):
            while user not in told[kind]:
                message = await receive(alice)
                if message["type"] == "presence":
                    assert "id" not in message
                    for each in told:
                        told[each].update(message["content"].get(each, ()))

        async with await enter(server, "bob", room):
            await until("joined", "bob")
            answer = await ask(alice, type="presence", id=1, room=room)
            assert answer["content"] == {"members": ["alice", "bob"], "count": 2}
        await until("left", "bob")
        answer = await ask(alice, type="presence", id=2, room=room)
        assert answer["content"] == {"members": ["alice"], "count": 1}


async def test_the_room_of_a_user_is_that_users_alone(server):
    async with await enter(server, "alice", "user:alice") as alice, await enter(server, "eve") as eve:
        for number, command in enumerate(("join", "chat_message")):
            answer = await ask(eve, type=command, id=number, room="user:alice", content={})
            assert answer["content"]["name"] == "forbidden"
        for number, command in enumerate(("presence", "history", "leave"), 5):
            assert (await ask(eve, type=command, id=number, room="user:alice"))["type"] == "error"
        await ask(alice, type="chat_message", id=1, room="user:alice", content="note to self")
        # Answers stand behind pushes in the order of sending, so eve would have had it before this.
        await eve.send(json.dumps({"type": "ping", "id": "last"}))
        assert (await receive(eve))["id"] == "last"


@pytest.mark.parametrize(
    ("content", "room"),
    [
        ({"chat_room_id": "named"}, "chat:named"),
        ({"chat_room_id": 7}, "chat:7"),
        ({"session_id": "named"}, "session:named"),
        ({"playlist_id": "named"}, "playlist:named"),
        ({"topic": "named"}, "events:named"),
        ({"user_id": "alice"}, "user:alice"),
        ({"user_id": "bob", "chat_room_id": "named"}, "chat:named"),
    ],
)
async def test_where_the_envelope_names_no_room_the_content_does(server, content, room):
    async with await enter(server, "alice") as alice:
        assert (await ask(alice, type="join", id=1, content=content))["room"] == room
        ack = await ask(alice, type="chat_typing", id=2, content=content)
        assert (ack["type"], ack["room"]) == ("ack", room)


async def test_the_room_of_the_envelope_goes_before_the_contents(server):
    async with await enter(server, "alice", "chat:envelope", "chat:content") as alice:
        message = {"type": "chat_message", "room": "chat:envelope", "content": {"chat_room_id": "content"}}
        assert (await ask(alice, id=1, **message))["room"] == "chat:envelope"


@pytest.mark.parametrize("room", ["lobby", ":x", "chat:", "Chat:x", "chat: x", "chat:a\x00", "nokind:x", ""])
async def test_a_room_that_is_none_is_a_bad_message(server, room):
    async with await enter(server, "alice") as alice:
        assert (await ask(alice, type="join", id=1, room=room))["content"]["name"] == "bad_message"


async def test_publish_is_for_events_and_a_kind_takes_its_types_alone(server):
    async with await enter(server, "alice", "chat:types") as alice:
        answer = await ask(alice, type="publish", id=1, room="chat:types", content=1)
        assert answer["content"]["name"] == "forbidden"


async def test_a_connection_may_be_in_so_many_rooms(serve):
    server = serve(max_rooms_per_connection=2)
    async with await enter(server, "alice", "chat:1", "chat:2") as alice:
        assert (await ask(alice, type="join", id=1, room="chat:3"))["content"]["name"] == "room_limit"
        assert (await ask(alice, type="join", id=2, room="chat:2"))["type"] == "joined"
        await ask(alice, type="leave", id=3, room="chat:1")
        assert (await ask(alice, type="join", id=4, room="chat:3"))["type"] == "joined"


async def test_above_the_members_that_are_named_a_room_is_only_counted(serve):
    server, room = serve(presence_members=2), "chat:crowd"
    async with await enter(server, "a", room) as first, await enter(server, "b", room):
        async with await enter(server, "c") as third:
            joined = (await ask(third, type="join", id=1, room=room))["content"]
            assert (joined["members"], joined["count"]) == (["a", "b"], 3)
            while (push := await receive(first))["type"] != "presence" or push["content"]["count"] < 3:
                pass
            assert push["content"] == {"count": 3}
        while (push := await receive(first))["type"] != "presence" or push["content"]["count"] > 2:
            pass
        assert push["content"] == {"members": ["a", "b"], "count": 2}


async def test_a_room_of_one_tenant_has_no_history_or_members_of_anothers(serve):
    server, room = serve(jwt_secret=KEY), "chat:same-name"
    found = []
    for tenant in ("acme", "other"):
        how = {"additional_headers": bearer(token(sub=f"user-of-{tenant}", tenant=tenant))}
        async with connect(server.ws_url, **how) as ws:
            await receive(ws)
            joined = (await ask(ws, type="join", id=1, room=room))["content"]
            await ask(ws, type="chat_message", id=2, room=room, content=tenant)
            history = (await ask(ws, type="history", id=3, room=room))["content"]["messages"]
            found.append((joined["members"], [push["content"] for push in history], joined["epoch"]))
    assert found[0][:2] == (["user-of-acme"], ["acme"])
    assert found[1][:2] == (["user-of-other"], ["other"])
    assert found[0][2] != found[1][2]


async def test_a_content_that_grows_over_the_limit_in_json_is_too_large(serve):
    server, room = serve(max_message_bytes=4096), "events:grown"
    async with connect(server.ws_url, subprotocols=[MSGPACK]) as ws:
        await receive(ws)
        content = [0.1234567890123456] * 400  # 9 bytes each on the wire, 19 as JSON
        frame = [
            {"type": "join", "room": room},
            {"type": "publish", "id": 1, "room": room, "content": content},
            {"type": "publish", "id": 2, "room": room, "content": content[:200]},
        ]
        for message in frame:
            await ws.send(msgspec.msgpack.encode(message))
        answers = {}
        while len(answers) < 2:
            message = await receive(ws)
            if "id" in message:
                answers[message["id"]] = message
    assert answers[1]["content"]["name"] == "too_large"
    assert answers[2]["type"] == "ack"


async def test_an_answer_holds_as_much_as_the_setting_says_and_pages_carry_the_rest(serve):
    server, room = serve(answer_bytes=4096), "events:pages-by-size"
    async with await enter(server, "alice", room) as alice:
        for n in range(6):
            ack = await ask(alice, type="publish", id=n, room=room, content="x" * 1000)
        assert await page(alice, room) == ([4, 5, 6], True)
        assert await page(alice, room, after=0) == ([1, 2, 3], True)
        assert (await rejoin(alice, room, epoch=ack["content"]["epoch"], offset=3))["recovered"] is True
        assert (await rejoin(alice, room, epoch=ack["content"]["epoch"], offset=0))["recovered"] is False


async def test_of_empty_rooms_so_many_are_kept_as_the_setting_says(serve):
    server = serve(idle_rooms=1)
    async with await enter(server, "alice") as alice:
        epochs = {}
        for room in ("events:first", "events:second"):
            epochs[room] = (await ask(alice, type="join", id=1, room=room))["content"]["epoch"]
            await ask(alice, type="leave", id=2, room=room)
        for room, kept in (("events:second", True), ("events:first", False)):
            joined = await ask(alice, type="join", id=3, room=room)
            assert (joined["content"]["epoch"] == epochs[room]) is kept


async def test_all_rooms_together_keep_no_more_than_the_setting_says(serve):
    server = serve(memory_bytes=1 << 20)
    rooms = [f"events:{n}" for n in range(8)]
    async with await enter(server, "alice", *rooms) as alice:
        for n in range(64):
            ack = await ask(alice, type="publish", id=n, room=rooms[n % 8], content="x" * 60_000)
            assert ack["type"] == "ack"
    assert 500_000 < metric(server, "broker_history_bytes") <= 1 << 20
