"""The Python client in durable rooms of a real server: over kills, long absences and a lost tail."""

import asyncio
import sqlite3
import uuid
from typing import Any

import pytest

from realtime.client import Gap, Message, Options, Position, Resumed, Unread, connect

AT_ONCE = Options(uniform=lambda: 0.0)


@pytest.fixture
def room() -> str:
    return f"playlist:{uuid.uuid4()}"


@pytest.fixture
def running(serve, tmp_path):
    """A server that keeps its rooms in a file and little of them in memory, and soon has its clients back."""
    return serve(
        sqlite_path=str(tmp_path / "rooms.sqlite"),
        reconnect_min_ms=0,
        reconnect_max_ms=50,
        history_messages=10,
        recovery_window_s=300,
    )


async def until_resumed(joined) -> list[Any]:
    """Return what the room tells of its order, messages by content, until it has caught up."""
    told: list[Any] = []
    async with asyncio.timeout(60):
        async for event in joined.events():
            if isinstance(event, Message):
                told.append(event.content)
            elif isinstance(event, Gap | Resumed):
                told.append(event)
            if isinstance(event, Resumed):
                return told
    raise AssertionError("the room has ended")


async def test_a_kill_loses_nothing_and_the_epoch_goes_on(running, room):
    async with (
        connect(running.ws_url, user="al", options=AT_ONCE) as al,
        connect(running.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        hers, his = await al.join(room), await bo.join(room)
        seen = []
        messages = aiter(hers)
        for round in range(3):
            publishing = [asyncio.ensure_future(his.publish("chat_message", [round, n])) for n in range(50)]
            await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.to_thread(running.kill)
            await asyncio.to_thread(running.start)
            positions = await asyncio.gather(*publishing)
            assert {position.epoch for position in positions} == {positions[0].epoch}
            for _ in range(50):
                seen.append(await anext(messages))
        assert [message.content for message in seen] == [[round, n] for round in range(3) for n in range(50)]
        assert [message.offset for message in seen] == list(range(1, 151))


async def test_what_no_answer_and_no_memory_holds_comes_from_the_store(running, room):
    async with (
        connect(running.ws_url, user="al", options=AT_ONCE) as al,
        connect(running.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        hers, his = await al.join(room), await bo.join(room)
        await hers.passive()
        text = "x" * 1000
        await asyncio.gather(*(his.publish("chat_message", [n, text]) for n in range(1500)))
        async with asyncio.timeout(60):
            async for event in hers.events():
                assert not isinstance(event, Message)
                if isinstance(event, Unread) and event.count == 1500:
                    break
        await hers.active()
        told = await until_resumed(hers)
        assert [content[0] for content in told[:-1]] == list(range(1500))
        assert told[-1] == Resumed(recovered=True)


@pytest.mark.parametrize("lost", [0, 3])
async def test_a_store_that_lost_its_tail_is_a_gap_between_all_that_it_has(running, room, tmp_path, lost):
    async with (
        connect(running.ws_url, user="al", options=AT_ONCE) as al,
        connect(running.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        hers, his = await al.join(room), await bo.join(room)
        for n in range(20):
            await his.publish("chat_message", n)
        messages = aiter(hers)
        assert [(await anext(messages)).content for _ in range(20)] == list(range(20))
        await hers.passive()
        for n in range(20, 40):
            await his.publish("chat_message", n)
        await asyncio.to_thread(running.kill)
        power_cut(tmp_path / "rooms.sqlite", lost)
        await bo.close()
        await asyncio.to_thread(running.start)
        told = await until_resumed(hers)
        kept = list(range(20, 40 - lost))
        assert told == [*kept, Gap(None, None, "epoch_changed"), Resumed(recovered=False)]
        position = await hers.publish("chat_message", "after")
        assert position == Position(41 - lost, "afterwards")


def power_cut(path, lost: int) -> None:
    """What a power cut may leave of the file: without the last rows, and so with another epoch."""
    with sqlite3.connect(path) as database:
        database.execute(
            "DELETE FROM publications WHERE offset > (SELECT max(offset) FROM publications) - ?", [lost]
        )
        database.execute("UPDATE store SET value = 'afterwards' WHERE name = 'epoch'")
    database.close()
