"""Commands and questions of any type by the Python client, against a real server with a chat."""

import asyncio
import uuid

import pytest

from realtime.client import Disconnected, Options, connect
from realtime.errors import BadMessage, NotJoined, UnknownType

AT_ONCE = Options(uniform=lambda: 0.0)


@pytest.fixture
def room():
    return f"chat:{uuid.uuid4()}"


@pytest.fixture
def running(serve, tmp_path):
    """A server that has a chat, and soon has its clients back."""
    path = str(tmp_path / "rooms.sqlite")
    return serve(sqlite_path=path, reconnect_min_ms=0, reconnect_max_ms=50)


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_an_answers_content_comes_back_whatever_the_type(running, room, codec):
    async with connect(running.ws_url, user="al", codec=codec) as client:
        joined = await client.join(room)
        said = await joined.ask("chat_message", {"text": "hi"})
        assert said["offset"] == 1
        reached = await joined.ask("chat_read_receipt", {"id": said["id"]})
        assert reached == {"id": said["id"], "offset": 1}
        assert await client.ask("chat_read_receipt", {"offset": 1}, room=room) == reached
        (unread,) = (await client.ask("chat_unread"))["rooms"]
        assert (unread["room"], unread["unread"]) == (room, 0)


async def test_errors_are_the_classes_of_their_names(running, room):
    async with connect(running.ws_url, user="al") as client:
        with pytest.raises(NotJoined):
            await client.ask("chat_typing", room=room)
        with pytest.raises(BadMessage):
            await client.ask("chat_presence_of", {"users": "al"})
        with pytest.raises(UnknownType):
            await client.ask("chat_nonsense")
        joined = await client.join(room)
        with pytest.raises(BadMessage):
            await joined.ask("chat_message", {"text": 5})


async def test_a_rooms_command_is_done_once_over_reconnects_and_a_question_is_not_asked_again(running, room):
    async with connect(running.ws_url, user="al", options=AT_ONCE) as client:
        joined = await client.join(room)
        await asyncio.to_thread(running.kill)
        asked = [asyncio.ensure_future(joined.ask("chat_message", {"text": str(n)})) for n in range(5)]
        async with asyncio.timeout(60):
            with pytest.raises(Disconnected):
                await ask_on_and_on(client)
        await asyncio.to_thread(running.start)
        offsets = [answer["offset"] for answer in await asyncio.gather(*asked)]
        assert offsets == [1, 2, 3, 4, 5]
        messages = aiter(joined)
        assert [(await anext(messages)).content["text"] for _ in range(5)] == ["0", "1", "2", "3", "4"]


async def ask_on_and_on(client):
    while True:
        await client.ask("chat_unread")
