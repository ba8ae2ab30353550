"""The Python client against a real `realtime serve`."""

import asyncio
import signal
import time
import uuid

import jwt
import pytest

from realtime.client import Closed, Gap, Message, Options, Resumed, Room, Unread, connect
from realtime.errors import BadMessage, Forbidden, NotJoined, Unauthorized, UnknownType

AT_ONCE = Options(uniform=lambda: 0.0)
# Whoever tests restarts should not wait as long as thousands of clients would have to.
QUICK = {"reconnect_min_ms": 0, "reconnect_max_ms": 50}


@pytest.fixture
def lobby() -> str:
    return f"chat:{uuid.uuid4()}"


@pytest.fixture(params=["json", "msgpack"])
def codec(request):
    return request.param


async def test_two_people_talk(server, lobby, codec):
    async with (
        connect(server.ws_url, user="Ada Löwe", codec=codec) as ada,
        connect(server.ws_url, user="bo") as bo,
    ):
        hers, his = await ada.join(lobby), await bo.join(lobby)
        first = await hers.publish("chat_message", {"text": "hé 😀"})
        second = await his.publish("chat_message", {"text": "hello"})
        assert (second.offset, second.epoch) == (first.offset + 1, first.epoch)
        for room in (hers, his):
            messages = aiter(room)
            seen = [await anext(messages) for _ in range(2)]
            told = [(message.sender, message.content) for message in seen]
            assert told == [("Ada Löwe", {"text": "hé 😀"}), ("bo", {"text": "hello"})]
            assert [message.offset for message in seen] == [first.offset, second.offset]


async def test_many_publishes_at_once_keep_their_order(server, lobby, codec):
    async with connect(server.ws_url, user="al", codec=codec) as client:
        room = await client.join(lobby)
        positions = await asyncio.gather(*(room.publish("chat_message", number) for number in range(500)))
        assert [position.offset for position in positions] == list(range(1, 501))
        messages = aiter(room)
        assert [(await anext(messages)).content for _ in range(500)] == list(range(500))


async def test_who_is_there_is_known_and_told(server, lobby):
    async with connect(server.ws_url, user="al") as al:
        room = await al.join(lobby)
        assert room.members == ("al",)
        async with connect(server.ws_url, user="bo") as bo:
            theirs = await bo.join(lobby)
            assert set(theirs.members) == {"al", "bo"}
            assert set(await room.presence()) == {"al", "bo"}
            await _until_members(room, {"al", "bo"})
            assert room.member_count == 2
        await _until_members(room, {"al"})


async def test_history_pages_backwards_and_forwards(server, lobby):
    async with connect(server.ws_url, user="al") as client:
        room = await client.join(lobby)
        for number in range(1, 8):
            await room.publish("chat_message", number)
        newest = await room.history(limit=3)
        assert ([message.content for message in newest.messages], newest.more) == ([5, 6, 7], True)
        older = await room.history(before=5, limit=10)
        assert ([message.content for message in older.messages], older.more) == ([1, 2, 3, 4], False)
        later = await room.history(after=2, limit=2)
        assert ([message.content for message in later.messages], later.more) == ([3, 4], True)


async def test_the_round_trip_and_the_clock_are_measured(server):
    async with connect(server.ws_url, user="al") as client:
        measured = await client.ping()
        assert 0 < measured.round_trip_s < 10
        assert abs(measured.clock_offset_s) < 10  # one machine, one clock, and a busy event loop


async def test_a_key_that_is_repeated_keeps_one_message(server, lobby):
    async with connect(server.ws_url, user="al") as client:
        room = await client.join(lobby)
        first = await room.publish("chat_message", 1, key="k1")
        again = await room.publish("chat_message", 1, key="k1")
        assert (again.offset, again.duplicate, first.duplicate) == (first.offset, True, False)


async def test_errors_of_the_server_have_their_classes(server, lobby):
    async with connect(server.ws_url, user="al") as client:
        room = await client.join(lobby)
        with pytest.raises(UnknownType):
            await room.publish("no_such_type", {})
        with pytest.raises(BadMessage):
            await client.join("no kind")
        with pytest.raises(NotJoined):
            await client.request("history", "chat:elsewhere", {})


async def test_a_large_message_passes_whole(server, lobby, codec):
    text = "é" * 20_000
    async with connect(server.ws_url, user="al", codec=codec) as client:
        room = await client.join(lobby)
        await room.publish("chat_message", {"text": text})
        assert (await anext(aiter(room))).content == {"text": text}


async def events_until(room: Room, last: object) -> list[object]:
    """Return what the room tells, up to and with `last`."""
    told: list[object] = []
    async for event in room.events():
        told.append(event)
        if event == last:
            break
    return told


async def test_a_restart_is_survived_and_told(serve, lobby):
    running = serve(**QUICK)
    async with (
        connect(running.ws_url, user="al", options=AT_ONCE) as al,
        connect(running.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        room, theirs = await al.join(lobby), await bo.join(lobby)
        await room.publish("chat_message", "before")
        await asyncio.to_thread(running.restart)
        for one in (room, theirs):  # who comes back later than "after" is said would not hear it
            told = await events_until(one, Resumed(recovered=False))
            assert [event.content for event in told if isinstance(event, Message)] == ["before"]
            assert Gap(None, None, "epoch_changed") in told
        await room.publish("chat_message", "after")
        for one in (room, theirs):
            assert (await anext(aiter(one))).content == "after"


async def test_a_publish_during_a_kill_is_kept_once_the_server_is_back(serve, lobby):
    running = serve(**QUICK)
    async with connect(running.ws_url, user="al", options=AT_ONCE) as client:
        room = await client.join(lobby)
        await asyncio.to_thread(running.kill)
        publishing = asyncio.ensure_future(room.publish("chat_message", "held"))
        await asyncio.to_thread(running.start)
        position = await publishing
        page = await room.history()
        assert [(message.content, message.offset) for message in page.messages] == [("held", position.offset)]


async def test_a_broken_connection_is_resumed_without_loss(server, lobby):
    async with (
        connect(server.ws_url, user="al", options=AT_ONCE) as al,
        connect(server.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        room, theirs = await al.join(lobby), await bo.join(lobby)
        await theirs.publish("chat_message", 1)
        _cut(al)
        await asyncio.gather(*(theirs.publish("chat_message", number) for number in range(2, 100)))
        messages = aiter(room)
        assert [(await anext(messages)).content for _ in range(99)] == list(range(1, 100))
        assert al.reconnects == 1


async def test_more_than_one_answer_holds_comes_back_whole(server, lobby, codec):
    async with (
        connect(server.ws_url, user="al", codec=codec, options=AT_ONCE) as al,
        connect(server.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        room, theirs = await al.join(lobby), await bo.join(lobby)
        text = (
            "x" * 6000
        )  # 120 of them are more than the server puts into one answer, and fewer than it keeps
        await theirs.publish("chat_message", 0)
        assert (await anext(aiter(room))).content == 0
        await room.passive()
        await asyncio.gather(*(theirs.publish("chat_message", [n, text]) for n in range(1, 121)))
        _cut(al)
        messages = aiter(room)
        assert [(await anext(messages)).content[0] for _ in range(120)] == list(range(1, 121))
        assert al.reconnects == 1


async def test_a_passive_room_tells_counts_and_turns_active_without_loss(server, lobby, codec):
    async with (
        connect(server.ws_url, user="al", codec=codec) as al,
        connect(server.ws_url, user="bo") as bo,
    ):
        room, theirs = await al.join(lobby), await bo.join(lobby)
        await room.passive()
        await asyncio.gather(*(theirs.publish("chat_message", number) for number in range(100)))
        async with asyncio.timeout(60):
            async for event in room.events():
                assert not isinstance(event, Message)
                if isinstance(event, Unread) and event.count == 100:
                    break
        turning = asyncio.ensure_future(room.active())
        await asyncio.gather(*(theirs.publish("chat_message", number) for number in range(100, 200)))
        messages = aiter(room)
        assert [(await anext(messages)).content for _ in range(200)] == list(range(200))
        await turning


async def test_a_token_that_is_wrong_is_refused_for_good(serve):
    running = serve(jwt_secret="s" * 32)
    with pytest.raises(Closed):
        async with connect(running.ws_url, token="nonsense"):
            pytest.fail("connected")


async def test_a_token_lets_one_in_and_a_newer_one_is_taken(serve, lobby):
    secret = "0123456789abcdef0123456789abcdef"
    running = serve(jwt_secret=secret)

    def token(subject: str) -> str:
        return jwt.encode({"sub": subject, "exp": time.time() + 3600}, secret, algorithm="HS256")

    async with connect(running.ws_url, user="al", token=token("al")) as client:
        assert client.user == "al"
        await client.refresh(token("al"))
        with pytest.raises((Unauthorized, Forbidden)):
            await client.refresh(token("bo"))


async def test_a_drained_server_names_a_window_and_the_client_keeps_it(serve, lobby):
    running = serve(reconnect_min_ms=20, reconnect_max_ms=40)
    async with connect(running.ws_url, user="al") as client:
        room = await client.join(lobby)
        assert await asyncio.to_thread(running.stop, signal.SIGTERM) == 0
        publishing = asyncio.ensure_future(room.publish("chat_message", 1))
        await asyncio.to_thread(running.start)
        assert (await publishing).offset == 1
        assert client.greeting["reconnect"] == {"min_ms": 20, "max_ms": 40}


async def _until_members(room, expected: set[str]) -> None:
    async with asyncio.timeout(60):
        async for _ in room.events():
            if set(room.members) == expected:
                return


def _cut(client) -> None:
    """End the socket without a word, as a broken network does."""
    client._link._connection._socket.transport.abort()


async def test_what_is_not_kept_is_for_signals_and_counts_for_nobody(server, lobby, codec):
    async with (
        connect(server.ws_url, user="al", codec=codec) as al,
        connect(server.ws_url, user="bo") as bo,
    ):
        room, theirs = await al.join(lobby), await bo.join(lobby)
        with pytest.raises(BadMessage, match="not kept"):
            await theirs.publish("chat_typing", {})
        theirs.signal("chat_typing", {"n": 1})
        assert (await anext(aiter(room))).content == {"n": 1}
        await room.passive()
        theirs.signal("chat_typing", {"n": 2})
        await theirs.publish("chat_message", "said")
        async with asyncio.timeout(60):
            async for event in room.events():
                if isinstance(event, Unread):
                    break
        assert room.unread == 1
