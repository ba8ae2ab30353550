"""Workers on one Redis, without their sockets: a client with a hole in it, a broker, members of rooms."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from realtime.backends.cluster.broker import RedisBroker
from realtime.backends.cluster.library import source
from realtime.backends.redis_client.client import RedisClient
from realtime.core.contracts import Position, Recovery, Terms
from realtime.core.kinds import RoomKind
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName
from tests.oracles.hub import FakeClock, FakeHub

ALICE = b'"alice"'
CHAT = RoomKind(name="chat")
LOBBY = RoomId(DEFAULT_TENANT, RoomName("chat:lobby"))


async def until(happened: Callable[[], Any], timeout_s: float = 20) -> None:
    """Return when `happened` says so; the event loop does what there is meanwhile."""
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110 - it waits for no time, only lets the others run
            await asyncio.sleep(0)


async def get(answer: Any) -> Any:
    """The answer, now or later."""
    return answer if isinstance(answer, tuple) else await answer


class Ear:
    """A subscriber that does not hear everything: `lost(payload)` says what is lost on the way."""

    def __init__(self, subscriber: Any, seam: Seam) -> None:
        self.on_subscribed = subscriber.on_subscribed
        self.on_unsubscribed = subscriber.on_unsubscribed
        self._subscriber = subscriber
        self._seam = seam

    def on_message(self, payload: bytes) -> None:
        if not self._seam.lost(payload):
            self._subscriber.on_message(payload)


class Seam:
    """A Redis client, as it is but for what a test puts in its way."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.lost: Callable[[bytes], bool] = lambda payload: False
        self.sent: list[tuple[Any, ...]] = []
        self.unanswered: BaseException | None = None  # what who sends gets instead of the answer, once

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    @property
    def ok(self) -> bool:
        return self.client.ok

    def send(self, slot: int, *command: Any, then: Any = None) -> None:
        self.sent.append(command)
        instead, self.unanswered = self.unanswered, None
        if instead is not None:
            answer = then

            def then(reply: Any) -> None:
                answer(instead)

        self.client.send(slot, *command, then=then)

    async def ask(self, slot: int, *command: Any) -> Any:
        self.sent.append(command)
        return await self.client.ask(slot, *command)

    def subscribe(self, channel: bytes, subscriber: Any) -> None:
        self.client.subscribe(channel, Ear(subscriber, self))


class Member:
    """What one subscription gets: `got` are offsets, and what is lost as it is told, in order."""

    def __init__(self, worker: Worker, room: RoomId = LOBBY, kind: RoomKind = CHAT) -> None:
        self.got: list[Any] = []
        self.pushes: list[bytes] = []
        self.signals: list[bytes] = []
        self.others: dict[str, bytes] = {}
        self.stream = worker.broker.open(room, kind, self._deliver, self._lost, self._other)

    @property
    def offsets(self) -> list[int]:
        return [each for each in self.got if isinstance(each, int)]

    @property
    def gaps(self) -> list[tuple[int | None, int | None, str]]:
        return [each for each in self.got if isinstance(each, tuple)]

    @property
    def texts(self) -> list[Any]:
        return [json.loads(push)["content"] for push in self.pushes]

    async def publish(self, content: Any = None, **terms: Any) -> Any:
        return await self.later(content, **terms)

    def later(self, content: Any = None, **terms: Any) -> Any:
        given = Terms(**terms) if terms else None
        return self.stream.publish("chat_message", ALICE, json.dumps(content).encode(), given)

    async def recover(self, since: Position | None = None) -> Recovery:
        found: Recovery = await get(self.stream.recover(since))
        return found

    def _deliver(self, push: bytes, offset: int) -> None:
        if not offset:
            self.signals.append(push)
            return
        self.got.append(offset)
        self.pushes.append(push)

    def _lost(self, first: int | None, last: int | None, reason: str) -> None:
        self.got.append((first, last, reason))

    def _other(self, worker: str, entry: bytes | None) -> None:
        if entry is None:
            del self.others[worker]
        else:
            self.others[worker] = entry


class Worker:
    """One worker: a client and a broker."""

    def __init__(self, name: str, client: RedisClient, clock: FakeClock, **options: Any) -> None:
        self.clock = clock
        self.redis = Seam(client)
        self.broker = RedisBroker(self.redis, clock, FakeHub(clock), worker=name, **options)

    def member(self, room: RoomId = LOBBY, kind: RoomKind = CHAT) -> Member:
        return Member(self, room, kind)

    async def joined(self, room: RoomId = LOBBY, kind: RoomKind = CHAT) -> Member:
        member = self.member(room, kind)
        await member.recover()
        return member

    async def publish(
        self, content: Any = None, room: RoomId = LOBBY, kind: RoomKind = CHAT, **terms: Any
    ) -> Any:
        given = Terms(**terms) if terms else None
        text = json.dumps(content).encode()
        return await self.broker.publish(room, kind, "chat_message", ALICE, text, given)

    def tick(self, seconds: float = 0.0) -> None:
        """Let time pass, then do what is due."""
        self.clock.advance(seconds)
        self.broker.tick()

    async def idle(self) -> None:
        """Return when nothing is asked of Redis."""
        pacer = self.broker.pacer
        await until(lambda: not len(pacer) and not pacer.running)

    async def close(self) -> None:
        await self.broker.close()
        await self.redis.client.close()


class Workers:
    """Makes workers on one Redis, of one prefix; ends them all."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url
        self.prefix = prefix
        self.clock = FakeClock()
        self.all: list[Worker] = []

    async def start(self, name: str = "", *, timeout_s: float = 2.0, **options: Any) -> Worker:
        client = RedisClient(self.url, timeout_s=timeout_s, on_missing_function=source)
        await client.start()
        name = name or f"w{len(self.all) + 1}"
        worker = Worker(name, client, self.clock, prefix=self.prefix, **options)
        self.all.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self.all:
            await worker.close()
