"""Workers of a ring on a real Redis, all in this process; any of them can be cut off from it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

from realtime.backends.cluster import library
from realtime.backends.cluster.redis_ring import RedisRing, new_worker_id
from realtime.backends.redis_client.client import RedisClient
from realtime.core.clock import SystemClock
from realtime.core.cluster import Change
from realtime.errors import Unavailable
from realtime.ids import RoomId, RoomName, TenantId

TICK_S = 0.01
PATIENCE_S = 60.0
BEAT_S, TTL_S = 0.05, 0.8  # a busy machine may stand still for half of that
ROOMS = [RoomId(TenantId("default"), RoomName(f"counter:{n}")) for n in range(64)]


class Line:
    """The way to Redis. While it is `cut`, nothing is sent or heard; what was on its way is lost.

    While `held` is a list, what is sent waits in it, as in a process that stands still; `let_go` sends it.
    """

    def __init__(self, redis: RedisClient) -> None:
        self.redis = redis
        self.ok = True
        self._cut = False
        self._heard: dict[bytes, Heard] = {}
        self.held: list[tuple[int, tuple[Any, ...], Any]] | None = None

    @property
    def cut(self) -> bool:
        return self._cut

    @cut.setter
    def cut(self, cut: bool) -> None:
        self._cut = cut
        for heard in tuple(self._heard.values()):
            heard.tell()

    def let_go(self) -> None:
        held, self.held = self.held or [], None
        for slot, command, then in held:
            self.send(slot, *command, then=then)

    def held_words(self) -> set[str]:
        words = [word for _, command, _ in self.held or () for word in command if len(str(word)) < 40]
        return {word.decode() if isinstance(word, bytes) else str(word) for word in words}

    def send(self, slot: int, *command: Any, then: Any = None) -> None:
        if self.held is not None:
            self.held.append((slot, command, then))
        elif self.cut:
            if then is not None:
                asyncio.get_running_loop().call_soon(then, Unavailable("the line is cut"))
        else:
            self.redis.send(slot, *command, then=then and self._answered(then))

    async def ask(self, slot: int, *command: Any) -> Any:
        if self.cut:
            raise Unavailable("the line is cut")
        return await self.redis.ask(slot, *command)

    def subscribe(self, channel: bytes, subscriber: Any) -> None:
        self._heard[channel] = Heard(self, subscriber)
        self.redis.subscribe(channel, self._heard[channel])

    def unsubscribe(self, channel: bytes) -> None:
        self._heard.pop(channel, None)
        self.redis.unsubscribe(channel)

    def stats(self) -> dict[str, int]:
        return {}

    def _answered(self, then: Callable[[Any], object]) -> Callable[[Any], object]:
        return lambda reply: then(Unavailable("the line is cut") if self.cut else reply)


class Heard:
    """A subscription over a line."""

    def __init__(self, line: Line, subscriber: Any) -> None:
        self._line = line
        self._subscriber = subscriber
        self._stands = self._told = False

    def on_message(self, payload: bytes) -> None:
        if not self._line.cut:
            self._subscriber.on_message(payload)

    def on_subscribed(self) -> None:
        self._stands = True
        self.tell()

    def on_unsubscribed(self) -> None:
        self._stands = False
        self.tell()

    def tell(self) -> None:
        """Say whether it stands, where that is new."""
        stands = self._stands and not self._line.cut
        if stands != self._told:
            self._told = stands
            (self._subscriber.on_subscribed if stands else self._subscriber.on_unsubscribed)()


class Member:
    """A worker. `changes` are those that its ring told it, in order; `on_tick` is called like a core's."""

    def __init__(self, redis: RedisClient, name: str, prefix: str, **options: Any) -> None:
        self.line = Line(redis)
        self.tasks: list[asyncio.Task[None]] = []
        self.changes: list[Change] = []
        self.paused = False
        self.ring = RedisRing(
            self.line,
            new_worker_id(name),
            SystemClock(),
            lambda coroutine: self.tasks.append(asyncio.get_running_loop().create_task(coroutine)),
            prefix=prefix,
            **{"beat_s": BEAT_S, "ttl_s": TTL_S, **options},
        )
        self.on_tick: Callable[[], None] = self.ring.tick
        self.ring.watch(self.changes.append)

    def start(self) -> Member:
        self.ring.start()
        self._tick()
        return self

    def owned(self) -> set[RoomId]:
        return {room for room in ROOMS if self.ring.fence(room) is not None}

    def stop(self) -> None:
        self._timer.cancel()
        self.ring.close()
        for task in self.tasks:
            task.cancel()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        if not self.paused:
            self.on_tick()


@asynccontextmanager
async def company(url: str):
    """Give `join(name, **options)`, which makes members of one ring; each has a client of its own."""
    prefix = f"t{uuid.uuid4().hex[:8]}"
    members: list[Member] = []
    clients: list[RedisClient] = []

    async def join(name: str, **options: Any) -> Member:
        client = RedisClient(url, ping_interval_s=0.1, on_missing_function=library.source)
        clients.append(client)
        await client.start()
        members.append(Member(client, name, prefix, **options))
        return members[-1]

    try:
        yield join
    finally:
        for member in members:
            member.stop()
        for client in clients:
            await client.close()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what the loop brings."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            turn = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.002, turn.set_result, None)
            await turn
