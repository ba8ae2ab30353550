"""The server inside an ASGI application: what its connections share with native ones, and how they end."""

import asyncio
import contextlib
import json

import msgspec
import pytest
from websockets.asyncio.client import connect

from realtime import NotificationPriority
from realtime.edge.asgi_hub import RealtimeHub
from realtime.errors import BadMessage, StartupError, TooLarge
from realtime.settings import Settings
from tests.edge.asgi_peer import PATIENCE_S, Peer, serving
from tests.edge.peer import JSON, KEY, MSGPACK, closed, receive, token

ROOM = "chat:lobby"


def settings_of(**settings):
    """Without a store, unless the test names one."""
    return Settings(**{"port": 0, "sqlite_path": "", "audit_path": "", "presence_grace_s": 0, **settings})


@contextlib.asynccontextmanager
async def running(*, listen=False, **settings):
    hub = RealtimeHub()
    async with asyncio.timeout(60):
        await hub.initialize(settings_of(**settings), listen=listen)
        try:
            yield hub
        finally:
            await hub.shutdown()


async def join(peer, room=ROOM):
    answer = await peer.ask("join", room=room, content={})
    assert answer["type"] == "joined", answer


def over_limit(reason, allowed):
    return f'{{"r":"{reason}","limit":"max_connections_per_user","allowed":{allowed}}}'


def stats(hub):
    return hub._here().worker.hub.stats()


async def test_a_client_is_greeted_joins_and_talks():
    async with running() as hub, serving(hub, "alice") as alice, serving(hub, "bob") as bob:
        hello = await alice.read()
        assert alice.got[0] == {"type": "websocket.accept", "subprotocol": None, "headers": []}
        assert (hello["type"], hello["content"]["user_id"]) == ("connected", "alice")
        await join(alice)
        await join(bob)
        ack = await alice.ask("chat_message", room=ROOM, content={"text": "hi"})
        assert ack["content"]["offset"] == 1
        push = await bob.read_until(type="chat_message")
        assert (push["from"], push["offset"], push["content"]) == ("alice", 1, {"text": "hi"})


async def test_a_passive_member_gets_a_count_and_catches_up():
    async with running() as hub, serving(hub, "alice") as alice, serving(hub, "bob") as bob:
        await join(alice)
        await join(bob)
        ack = await alice.ask("passive", room=ROOM)
        for number in range(3):
            await bob.ask("chat_message", room=ROOM, content=number)
        unread = await alice.read_until(type="unread")
        assert unread["content"]["count"] == unread["content"]["offset"] <= 3
        joined = await alice.ask("join", room=ROOM, content={"since": ack["content"]})
        assert [each["content"] for each in joined["content"]["messages"]] == [0, 1, 2]
        await bob.ask("chat_message", room=ROOM, content=3)
        assert (await alice.read_until(type="chat_message"))["offset"] == 4


async def test_the_subprotocol_decides_the_encoding():
    async with running() as hub:
        async with serving(hub, "alice", offers=[MSGPACK, JSON]) as alice:
            assert (await alice.read())["type"] == "connected"
            assert alice.got[0]["subprotocol"] == MSGPACK
            assert "bytes" in alice.got[1]
            alice.say_bytes(msgspec.msgpack.encode({"type": "ping", "id": 1}))
            assert (await alice.read())["type"] == "pong"
            alice.say_text("{}")
            assert (await alice.closed())[0] == 1003
        async with serving(hub, "alice", offers=[JSON]) as alice:
            await alice.read()
            assert alice.got[0]["subprotocol"] == JSON


async def test_native_and_asgi_members_of_a_room_see_one_order():
    async with running(listen=True) as hub, contextlib.AsyncExitStack() as stack:
        packed = await stack.enter_async_context(serving(hub, "packed", offers=[MSGPACK]))
        asgi = [packed, await stack.enter_async_context(serving(hub, "text"))]
        native = [
            await stack.enter_async_context(connect(f"{hub.url}/n{number}", subprotocols=[offer]))
            for number, offer in enumerate((JSON, MSGPACK))
        ]

        async def say(member, **message):
            encode = msgspec.msgpack.encode if member in (packed, native[1]) else json.dumps
            if member in native:
                await member.send(encode(message))
            else:
                (member.say_bytes if member is packed else member.say_text)(encode(message))

        async def hear(member, wanted):
            found = []
            while len(found) < wanted:
                message = await (receive(member) if member in native else member.read())
                if message["type"] == "chat_message":
                    found.append((message["offset"], message["from"], message["content"]["n"]))
            return found

        async def enter(member):
            await say(member, type="join", id="j", room=ROOM)
            while (await (receive(member) if member in native else member.read())).get("id") != "j":
                pass

        members = [*asgi, *native]
        for member in members:
            await enter(member)
        for number in range(25):
            for member in members:
                await say(member, type="chat_message", room=ROOM, content={"n": number})
        seen = [await hear(member, 100) for member in members]
        assert [offset for offset, _, _ in seen[0]] == list(range(1, 101))
        assert all(each == seen[0] for each in seen)


async def test_a_notification_reaches_all_connections_of_its_user_and_nobody_else():
    async with (
        running(listen=True) as hub,
        serving(hub, "alice") as first,
        serving(hub, "alice", offers=[MSGPACK]) as second,
        serving(hub, "bob") as bob,
        connect(f"{hub.url}/alice") as silent,  # native, and never says a word
    ):
        for each in (first, second, bob):
            await each.read()
        await receive(silent)
        send = hub.notification_manager.send_notification
        sent = await send(
            user_id="alice",
            title="Hi",
            content="there",
            priority=NotificationPriority.HIGH,
            data={"song": 7},
            id="n1",
        )
        assert sent == ("n1", 3)
        wanted = {"id": "n1", "title": "Hi", "content": "there", "priority": 2, "data": {"song": 7}}
        for got in (await first.read(), await second.read(), await receive(silent)):
            assert (got["type"], got["content"]) == ("notification", wanted)
            assert got["timestamp"].endswith("Z")
        assert (await send(user_id="carol", title="Hi", content="")).connections == 0
        assert (await send(user_id="alice", title="Hi", content="", tenant="other")).connections == 0
        assert (await bob.ask("ping"))["type"] == "pong"
        assert len(bob.got) == 3  # accepted, connected, pong


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"user_id": ""}, BadMessage, "user id is empty"),
        ({"tenant": "no tenant"}, BadMessage, "tenant"),
        ({"title": ""}, BadMessage, "title has to have 1 to 1024 bytes"),
        ({"title": "x" * 1025}, BadMessage, "title"),
        ({"title": 7}, BadMessage, "title is int, not text"),
        ({"content": None}, BadMessage, "content is NoneType"),
        ({"content": "x" * 70_000}, TooLarge, "at most 65536"),
        ({"content": "\ud800"}, BadMessage, "JSON cannot say it"),
        ({"data": [1]}, BadMessage, "data is list, not an object"),
        ({"data": {"when": object()}}, BadMessage, "JSON cannot say it"),
        ({"priority": 4}, BadMessage, "0 LOW, 1 NORMAL, 2 HIGH, 3 CRITICAL"),
        ({"id": "x" * 65}, BadMessage, "id has to have 1 to 64 bytes"),
    ],
)
async def test_a_notification_that_is_none_is_refused_with_what_is_allowed(wrong, error, said):
    async with running() as hub:
        with pytest.raises(error, match=said):
            await hub.notification_manager.send_notification(
                **{"user_id": "alice", "title": "Hi", "content": "there", **wrong}
            )


async def test_a_token_is_asked_for_as_the_gate_does():
    async with running(jwt_secret=KEY) as hub:
        good, other = token("alice"), token("bob")
        async with serving(hub, "alice", offers=[JSON, f"bearer.{good}"]) as alice:
            assert (await alice.read())["content"]["user_id"] == "alice"
        async with serving(hub, "alice", offers=[JSON, f"bearer.{other}"]) as wrong:
            assert (await wrong.closed())[0] == 4507
        async with serving(hub, "alice", offers=[JSON, "bearer.nonsense"]) as wrong:
            assert await wrong.closed() == (4500, '{"r":"unauthorized"}')
        async with serving(hub, "alice") as late:  # it sends its token as the first message
            late.say(type="connect", id=1, content={"token": good})
            assert (await late.read())["type"] == "connected"
        async with serving(hub, "alice") as late:
            late.say(type="connect", id=1, content={"token": other})
            assert (await late.closed())[0] == 4507
        assert stats(hub)["connections"] == 0


async def test_a_refusal_is_an_http_status_where_the_asgi_server_can_send_one():
    headers = {"authorization": "Bearer nonsense"}
    async with running(jwt_secret=KEY) as hub:
        able = Peer(headers=headers, extensions={"websocket.http.response": {}})
        await hub.serve(able, "alice")
        assert (able.got[0]["type"], able.got[0]["status"]) == ("websocket.http.response.start", 401)
        assert (b"www-authenticate", b'Bearer error="invalid_token"') in able.got[0]["headers"]
        plain = Peer(headers=headers)
        await hub.serve(plain, "alice")
        assert [each["type"] for each in plain.got] == ["websocket.close"]


async def test_another_origin_and_a_user_that_is_none_are_refused():
    able = {"extensions": {"websocket.http.response": {}}}
    async with running(allowed_origins=("https://here",)) as hub:
        peer = Peer(headers={"origin": "https://there"}, **able)
        await hub.serve(peer, "alice")
        assert peer.got[0]["status"] == 403
        peer = Peer(headers={"origin": "https://here"}, **able)
        await hub.serve(peer, "a\nb")
        assert peer.got[0]["status"] == 400


async def test_who_does_not_authenticate_in_time_is_closed():
    async with running(jwt_secret=KEY, handshake_timeout_s=0.05) as hub, serving(hub, "alice") as late:
        assert await late.closed() == (4502, '{"r":"authentication_timeout"}')


async def test_a_message_over_the_limit_closes_the_connection():
    async with running(max_message_bytes=1000) as hub, serving(hub, "alice") as alice:
        alice.say_text("x" * 1001)
        assert (await alice.closed())[0] == 1009


async def test_a_flood_is_refused_and_then_closed():
    async with running(messages_per_second=1, messages_burst=2, errors_burst=3) as hub:
        async with serving(hub, "alice") as alice:
            for number in range(10):
                alice.say(type="ping", id=number)
            assert (await alice.closed())[0] == 4005
        names = [json.loads(each["text"]) for each in alice.got if each["type"] == "websocket.send"]
        assert [each["type"] for each in names[:3]] == ["connected", "pong", "pong"]
        assert names[3]["content"]["name"] == "rate_limited"


async def test_bytes_are_counted_where_they_are_limited():
    limits = {"bytes_per_second": 200, "rate_burst_s": 1.0, "max_message_bytes": 200}
    async with running(**limits) as hub, serving(hub, "alice") as alice:
        alice.say(type="ping", id="x" * 64)
        alice.say(type="ping", id="y" * 64)
        alice.say(type="ping", id="z" * 64)
        assert [(await alice.read())["type"] for _ in range(3)] == ["connected", "pong", "pong"]
        error = (await alice.read())["content"]
        assert (error["name"], error["limit"], error["allowed"]) == ("rate_limited", "bytes_per_second", 200)


async def test_a_connection_that_is_too_old_is_closed_with_a_window_to_come_back_in():
    async with running(max_connection_age_s=0.05) as hub, serving(hub, "alice") as alice:
        code, reason = await alice.closed()
        assert code == 4006
        assert json.loads(reason) == {
            "r": "rebalance",
            "limit": "max_connection_age_s",
            "allowed": 0.05,
            "min": 500,
            "max": 15000,
        }
        assert stats(hub)["aged"] == 1


async def test_one_more_than_fits_into_the_process_is_refused():
    async with running(max_connections=1) as hub, serving(hub, "alice") as alice:
        await alice.read()
        peer = Peer(extensions={"websocket.http.response": {}})
        await hub.serve(peer, "bob")
        assert (peer.got[0]["status"], peer.got[1]["body"]) == (
            503,
            b"max_connections: this server has its 1 connections\n",
        )


async def test_frames_without_messages_are_counted_too():
    async with running(messages_per_second=1, messages_burst=2) as hub, serving(hub, "alice") as alice:
        for _ in range(1000):
            alice.say_text("\n")
        assert (await alice.closed())[0] in (4005, 4509)


async def test_a_slow_reader_is_cut_and_holds_up_nobody():
    """It takes nothing at all, not even the close, and is let go when the time for that is up."""
    async with (
        running(room_lag_limit_bytes=131_072, close_timeout_s=0.05) as hub,
        serving(hub, "quick") as quick,
    ):
        slow = Peer(stubborn=True)
        task = asyncio.create_task(hub.serve(slow, "slow"))
        await join(slow)
        await join(quick)
        slow.reading.clear()
        for _ in range(20):
            ack = await quick.ask("chat_message", room=ROOM, content={"text": "x" * 10_000})
            assert ack["type"] == "ack"
        assert stats(hub)["slow_consumers"] == 1
        taken = len(slow.got)
        await asyncio.wait_for(task, PATIENCE_S)
        assert len(slow.got) == taken
        assert stats(hub)["connections"] == 1
        assert (await quick.read_until(type="presence"))["content"]["left"] == ["slow"]


async def test_a_slow_reader_that_reads_on_learns_why_it_was_cut():
    async with (
        running(room_lag_limit_bytes=131_072) as hub,
        serving(hub, "quick") as quick,
        serving(hub, "slow") as slow,
    ):
        await join(slow)
        await join(quick)
        slow.reading.clear()
        for _ in range(20):
            await quick.ask("chat_message", room=ROOM, content={"text": "x" * 10_000})
        slow.reading.set()
        assert await slow.closed() == (
            4001,
            '{"r":"slow_consumer","limit":"room_lag_limit_bytes","allowed":131072}',
        )


async def test_who_sends_much_at_once_and_reads_is_answered_in_full():
    async with running(unicast_limit_bytes=4096) as hub, serving(hub, "alice") as alice:
        for number in range(5000):
            alice.say(type="ping", id=number)
        for number in range(5000):
            assert (await alice.read_until(type="pong"))["id"] == number
        assert stats(hub)["slow_consumers"] == 0


async def test_replies_that_are_not_read_are_bounded_too():
    """It is not read from while they wait; what others send it on top of that cuts it."""
    async with running(close_timeout_s=0.05, unicast_limit_bytes=4096) as hub:
        slow = Peer(stubborn=True)
        task = asyncio.create_task(hub.serve(slow, "slow"))
        await slow.read()
        slow.reading.clear()
        for number in range(4000):
            slow.say(type="ping", id=number)
        await slow.blocked.wait()
        send = hub.notification_manager.send_notification
        connection = next(iter(hub._here().worker.hub.foreign))
        for _ in range(200):  # turns of the loop, of which a few would do to answer all
            await asyncio.sleep(0)
        assert 65_536 < connection.queued_bytes < 65_536 + 32 * 1024
        assert stats(hub)["slow_consumers"] == 0
        while (await send(user_id="slow", title="t", content="x" * 10_000)).connections:
            pass
        await asyncio.wait_for(task, PATIENCE_S)
        assert stats(hub)["slow_consumers"] == 1


async def test_an_urgent_message_goes_ahead_of_what_waits():
    async with running() as hub, serving(hub, "alice") as alice:
        await alice.read()
        connection = next(iter(hub._here().worker.hub.foreign))
        alice.reading.clear()
        connection.send(b'{"n":1}')
        await alice.blocked.wait()
        connection.send(b'{"n":2}')
        connection.send(b'{"n":3}', urgent=True)
        alice.reading.set()
        assert [(await alice.read())["n"] for _ in range(3)] == [1, 3, 2]


@pytest.mark.parametrize("listen", [False, True])
async def test_one_connection_too_many_is_rejected(listen):
    async with running(listen=listen, max_connections_per_user=2) as hub:
        async with serving(hub, "alice") as first, serving(hub, "alice") as second:
            await first.read()
            await second.read()
            async with serving(hub, "alice") as third:
                assert await third.closed() == (4504, over_limit("connection_limit", 2))
            if listen:
                async with connect(f"{hub.url}/alice") as native:
                    assert (await closed(native))[0] == 4504
        async with serving(hub, "alice") as later:
            assert (await later.read())["type"] == "connected"


async def test_one_connection_too_many_replaces_the_oldest_whichever_kind_it_is():
    limits = {"max_connections_per_user": 2, "connection_limit_policy": "replace"}
    async with (
        running(listen=True, **limits) as hub,
        connect(f"{hub.url}/alice") as oldest,
        serving(hub, "alice") as second,
        serving(hub, "alice") as third,
    ):
        await receive(oldest)
        await third.read()
        assert await closed(oldest) == (4508, over_limit("replaced", 2))
        async with connect(f"{hub.url}/alice") as fourth:
            assert (await receive(fourth))["type"] == "connected"
            assert await second.closed() == (4508, over_limit("replaced", 2))
            assert (await third.ask("ping"))["type"] == "pong"


async def test_a_user_is_kicked_whichever_kind_the_connections_are_and_kept_out():
    async with (
        running(listen=True) as hub,
        serving(hub, "alice") as first,
        connect(f"{hub.url}/alice") as native,
        serving(hub, "bob") as bob,
    ):
        for each in (first, bob):
            await each.read()
        await receive(native)
        assert await hub.control.kick("alice", reason="spam") == 2
        assert (await first.closed())[0] == (await closed(native))[0] == 4503
        await hub.control.revoke(user="alice")
        async with serving(hub, "alice") as again, connect(f"{hub.url}/alice") as native_again:
            assert (await again.closed())[0] == (await closed(native_again))[0] == 4500
        assert (await bob.ask("ping"))["type"] == "pong"


async def test_shutting_down_closes_everybody_with_a_window_to_come_back_in():
    hub = RealtimeHub()
    await hub.initialize(settings_of(), listen=True)
    asgi, native = Peer(), await connect(f"{hub.url}/bob")
    task = asyncio.create_task(hub.serve(asgi, "alice"))
    await asgi.read()
    await receive(native)
    stopping = asyncio.create_task(hub.shutdown())
    code, reason = await closed(native)
    assert (code, json.loads(reason)["r"]) == (1012, "drain")
    assert (await asgi.closed())[0] == 1012
    await asyncio.wait_for(asyncio.gather(stopping, task), PATIENCE_S)
    with pytest.raises(RuntimeError, match="not initialized yet"):
        await hub.serve(Peer(), "alice")


async def test_a_client_that_does_not_answer_the_close_is_let_go_in_time():
    hub = RealtimeHub()
    await hub.initialize(settings_of(close_timeout_s=0.05))
    peer = Peer(stubborn=True)
    task = asyncio.create_task(hub.serve(peer, "alice"))
    await peer.read()
    await asyncio.wait_for(hub.shutdown(), PATIENCE_S)
    await asyncio.wait_for(task, PATIENCE_S)


async def test_an_endpoint_that_is_cancelled_leaves_nothing_behind():
    async with running() as hub:
        peer = Peer()
        task = asyncio.create_task(hub.serve(peer, "alice"))
        await join(peer)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stats(hub)["connections"] == 0
        assert hub._here().worker.core.stats()["rooms"] == 0
        assert hub._here().worker.core.stats()["tenants"] == 0


async def test_a_websocket_that_was_accepted_before_is_our_callers_mistake():
    class Accepted(Peer):
        application_state = type("State", (), {"name": "CONNECTED"})

    async with running() as hub:
        with pytest.raises(RuntimeError, match="accepted already"):
            await hub.serve(Accepted(), "alice")
        with pytest.raises(TypeError, match="user_id is int"):
            await hub.serve(Peer(), 7)


async def test_without_initialize_the_error_says_what_to_do():
    hub = RealtimeHub()
    with pytest.raises(RuntimeError, match=r"await realtime_hub\.initialize"):
        await hub.serve(Peer(), "alice")
    with pytest.raises(RuntimeError, match=r"await realtime_hub\.initialize"):
        _ = hub.notification_manager
    await hub.shutdown()  # nothing to stop
    await hub.initialize(settings_of())
    with pytest.raises(RuntimeError, match="initialized already"):
        await hub.initialize(settings_of())
    with pytest.raises(RuntimeError, match="`async def`"):
        await asyncio.to_thread(lambda: hub.notification_manager)
    await hub.shutdown()


def test_every_event_loop_has_a_server_of_its_own():
    """One after the other, with a shutdown and without, and one in a thread beside them."""
    hub = RealtimeHub()

    async def talk(*, shut_down):
        await hub.initialize(settings_of(), listen=True)
        async with serving(hub, "alice") as alice, connect(f"{hub.url}/bob") as bob:
            await alice.read()
            assert (await receive(bob))["type"] == "connected"
            sent = await hub.notification_manager.send_notification(user_id="bob", title="t", content="c")
            assert sent.connections == 1
            await asyncio.to_thread(asyncio.run, elsewhere())
        if shut_down:
            await hub.shutdown()

    async def elsewhere():
        with pytest.raises(RuntimeError, match="not initialized in this event loop"):
            await hub.serve(Peer(), "alice")
        async with contextlib.AsyncExitStack() as stack:
            await hub.initialize(settings_of())
            stack.push_async_callback(hub.shutdown)
            carol = await stack.enter_async_context(serving(hub, "carol"))
            await carol.read()
            sent = await hub.notification_manager.send_notification(user_id="bob", title="t", content="c")
            assert sent.connections == 0

    for shut_down in (False, True, True):
        asyncio.run(talk(shut_down=shut_down))


async def publish_once(hub, path, *, shut_down):
    await hub.initialize(settings_of(sqlite_path=str(path)))
    async with serving(hub, "alice") as alice:
        await join(alice)
        ack = await alice.ask("chat_message", room=ROOM, content={"text": "hi"})
    if shut_down:
        await hub.shutdown()
    return ack["content"]["offset"], ack["content"]["epoch"]


def test_durable_rooms_outlive_the_event_loop_however_it_ended(tmp_path):
    """Nobody has to call `shutdown`: whoever ends the loop, such as `asyncio.run`, ends what runs in it."""
    hub = RealtimeHub()
    kept = [
        asyncio.run(publish_once(hub, tmp_path / "x.sqlite", shut_down=shut_down))
        for shut_down in (False, True, False, False)
    ]
    assert [offset for offset, _ in kept] == [1, 2, 3, 4]
    assert len({epoch for _, epoch in kept}) == 1


async def test_a_start_that_fails_can_be_repeated(tmp_path):
    hub = RealtimeHub()
    with pytest.raises(StartupError):
        await hub.initialize(settings_of(sqlite_path=str(tmp_path / "no" / "such" / "folder" / "x")))
    await hub.initialize(settings_of(sqlite_path=str(tmp_path / "x")), listen=True)
    other = RealtimeHub()
    with pytest.raises(StartupError, match="in use by another server"):
        await other.initialize(settings_of(sqlite_path=str(tmp_path / "x")))
    port = int(hub.url.split(":")[-1].removesuffix("/ws"))
    with pytest.raises(StartupError, match="cannot listen"):
        await other.initialize(settings_of(sqlite_path=str(tmp_path / "y"), port=port), listen=True)
    await hub.shutdown()
    await other.initialize(settings_of(sqlite_path=str(tmp_path / "y"), port=port), listen=True)
    await other.shutdown()
