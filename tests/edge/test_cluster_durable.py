"""Durable rooms of two workers, a cluster of six Redis nodes and PostgreSQL, while each of them is killed."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from realtime.backends.redis_client.contract import slot_of
from realtime.client import Gap, Message, Options, connect
from realtime.client.room import Room
from realtime.errors import Unavailable
from tests.edge.peer import PATIENCE_S
from tests.edge.workers import deployment, until_ready

AT_ONCE = Options(uniform=lambda: 0.0)
ENDED = Gap(None, None, "epoch_changed")


@pytest.fixture
def room() -> str:
    return f"playlist:{uuid.uuid4()}"


class Listener:
    """Reads a room; `seen` are its messages and gaps."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.seen: list[Message | Gap] = []
        self._more = asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for item in self.room:
            self.seen.append(item)
            self._more.set()

    @property
    def texts(self) -> list[str]:
        return [item.content for item in self.seen if isinstance(item, Message)]

    @property
    def gaps(self) -> list[Gap]:
        return [item for item in self.seen if isinstance(item, Gap)]

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not happened():
                self._more.clear()
                await self._more.wait()


async def all_history(room: Room) -> list[Message]:
    found: list[Message] = []
    more = True
    while more:
        page = await room.history(after=found[-1].offset if found else 0, limit=20)
        found, more = found + page.messages, page.more
    return found


async def say_while(room: Room, name: str, over: asyncio.Event) -> dict[str, tuple[int, str]]:
    """Publish one after the other until `over`; return the places that were acked."""
    acked = {}
    number = 0
    while not over.is_set() or number < 20:
        text = f"{name}{number}"
        number += 1
        place = await persistently(room, text)
        acked[text] = (place.offset, place.epoch)
    return acked


async def persistently(room: Room, text: str) -> Any:
    """Publish until it is acked, under one key."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await room.publish("chat_message", text, key=text)
            except Unavailable:
                continue  # at the pace of the answers


def judge(acked: dict[str, tuple[int, str]], kept: list[Message], *listeners: Listener) -> None:
    """What was acked is kept at its place and once; who listened has it all in one order, or was told."""
    places = {message.content: (message.offset, message.epoch) for message in kept}
    assert len(places) == len(kept), "twice"
    assert {text: places.get(text) for text in acked} == acked
    assert [message.offset for message in kept] == sorted({message.offset for message in kept})
    for listener in listeners:
        seen = [(item.offset, item.epoch) for item in listener.seen if isinstance(item, Message)]
        assert len(set(seen)) == len(seen), "twice"
        assert set(acked.values()) <= set(seen), "the SDK has paged for what it missed"


async def play(server: Any, name: str, harm: Callable[[], Any], harms: int = 1) -> list[Listener]:
    """Two members talk while something is harmed; judge what came of it, and return who listened."""
    async with (
        connect(server.ws_url, user="al", options=AT_ONCE) as al,
        connect(server.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        listeners = [Listener(await client.join(name)) for client in (al, bo)]
        over = asyncio.Event()
        talks = [
            asyncio.create_task(say_while(listener.room, who, over))
            for listener, who in zip(listeners, "ab", strict=True)
        ]
        for _ in range(harms):
            before = len(listeners[0].texts)
            await listeners[0].until(lambda before=before: len(listeners[0].texts) > before + 20)
            await asyncio.to_thread(harm)
        over.set()
        acked = {text: place for talk in talks for text, place in (await talk).items()}
        for listener in listeners:
            await listener.until(lambda listener=listener: set(acked) <= set(listener.texts))
        async with connect(server.ws_url, user="cy", options=AT_ONCE) as cy:
            kept = await all_history(await cy.join(name))
        judge(acked, kept, *listeners)
        return listeners


async def started(serve, redis_url: str, postgres_url: str) -> Any:
    settings = deployment(redis_url, postgres_url=postgres_url, messages_per_second=100_000)
    server = serve(workers=2, node="n", **settings)
    await until_ready(server)
    return server


async def test_a_master_that_is_killed_takes_nothing_that_was_acked(serve, own_redis_cluster, postgres, room):
    server = await started(serve, own_redis_cluster.url, await postgres.new_database())

    def kill() -> None:
        own_redis_cluster.master_of(slot_of(f"x:{{default/{room}}}".encode())).kill()
        own_redis_cluster.wait_until_ok()

    for listener in await play(server, room, kill):
        assert listener.gaps == [ENDED]


async def test_a_planned_failover_loses_nothing_at_all(serve, own_redis_cluster, postgres, room):
    server = await started(serve, own_redis_cluster.url, await postgres.new_database())
    slot = slot_of(f"x:{{default/{room}}}".encode())
    for listener in await play(server, room, lambda: own_redis_cluster.failover(slot), harms=2):
        assert set(listener.gaps) <= {ENDED}
        assert len(listener.gaps) == 2


async def test_a_database_that_is_killed_takes_nothing_that_was_acked(serve, redis_node, own_postgres, room):
    server = await started(serve, redis_node.url, await own_postgres.new_database())

    def kill() -> None:
        own_postgres.kill()
        own_postgres.start()

    for listener in await play(server, room, kill):
        assert listener.gaps == [], "Redis has gone on"


async def test_both_at_once_take_nothing_that_was_acked(serve, own_redis_cluster, own_postgres, room):
    server = await started(serve, own_redis_cluster.url, await own_postgres.new_database())

    def kill() -> None:
        own_redis_cluster.master_of(slot_of(f"x:{{default/{room}}}".encode())).kill()
        own_postgres.kill()
        own_redis_cluster.wait_until_ok()
        own_postgres.start()

    for listener in await play(server, room, kill):
        assert listener.gaps == [ENDED]
