"""A chaotic client that is our own Python SDK: what it promises its users is judged, not only the server.

The SDK comes back, repeats and drops doubles by itself. This only publishes, reads slowly, leaves and cuts
the socket; what comes out has to be each room in order, once, with a gap for all that is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Literal

import msgspec
from websockets.asyncio.client import ClientConnection

from realtime.client import AckTimeout, Client, Disconnected, Gap, Message, Options, Resumed, Room, connect
from realtime.client.connection import Socket, Target, open_socket
from realtime.client.inbox import Item
from tests.chaos.judge import Attempt, Place, Stay
from tests.chaos.member import BURST_MAX, EPHEMERAL, PENDING_MAX, draw_attempt, type_for
from tests.chaos.wire import SDK, Said
from tests.chaos.world import World

ACTIONS = {"publish": 60, "leave": 2, "cut": 3}
REST = 0.002  # how often, before an item, its reader waits for others


class Seat:
    """A room of an SDK client, and who reads it."""

    def __init__(self, stay: Stay) -> None:
        self.stay = stay
        self.room: Room | None = None
        self.reader: asyncio.Task[None] | None = None


class SdkMember:
    """A client of its own user. `live` runs until the world is over and this member has everything."""

    def __init__(self, world: World, name: str, rooms: list[str], seed: str) -> None:
        self.name = name
        self.rooms = rooms
        self._world = world
        self._judge = world.judge
        self._random = random.Random(seed)
        self._seats = [Seat(world.judge.stay(name, room)) for room in rooms]
        self._numbers = 0
        self._publishing: set[asyncio.Task[None]] = set()
        self._said_goodbye = False
        self._socket: ClientConnection | None = None
        self._news = asyncio.Event()

    def __str__(self) -> str:
        seats = "; ".join(f"{seat.room}, read to {seat.stay.here}" for seat in self._seats)
        return f"{self.name} (SDK), {len(self._publishing)} pending: {seats}"

    @property
    def is_settled(self) -> bool:
        """Whether nothing of its own is under way."""
        return self._said_goodbye and not self._publishing

    @property
    def has_all(self) -> bool:
        """Whether it has received up to the last publication that anybody knows of."""
        heres = [(seat.stay.here, seat.stay.books) for seat in self._seats]
        return all(here is not None and here == books.end(here.epoch) for here, books in heres)

    def end(self) -> None:
        """The world comes to its end: from here on it stays, and is to have everything."""
        for seat in self._seats:
            seat.stay.is_final = True
        self._news.set()

    async def live(self) -> None:
        """Come and go until the world is over and everything is there."""
        rng, options = self._random, self._options()
        await self._world.wait_until_up()
        host, port = self._world.address
        url = f"ws://{host}:{port}/ws"
        try:
            token = self._world.token(self.name)
            codec: Literal["json", "msgpack"] = "json" if rng.random() < 0.5 else "msgpack"
            async with connect(url, user=self.name, token=token, codec=codec, options=options) as client:
                await self._live(client)
        finally:
            for seat in self._seats:
                if seat.reader is not None:
                    seat.reader.cancel()

    def _options(self) -> Options:
        rng = self._random
        return Options(
            uniform=rng.random,
            backoff_base_s=0.01,
            backoff_cap_s=0.05,
            inbox_limit=rng.choice((40, 1000)),
            connector=self._open,
        )

    async def _live(self, client: Client) -> None:
        for seat in self._seats:
            await self._join(client, seat)
        while not self._world.is_ending:
            await self._until(lambda: len(self._publishing) < PENDING_MAX)
            await self._world.turn(self.name)
            (action,) = self._random.choices(list(ACTIONS), list(ACTIONS.values()))
            seat = self._random.choice(self._seats)
            if action == "publish":
                self._publish(seat, self._random.randint(1, BURST_MAX))
            elif action == "leave":
                await self._until(lambda: not self._publishing)
                if not self._publishing:  # those to the room would fail
                    await self._leave(seat)
                    await self._join(client, seat)
            elif self._socket is not None:
                self._socket.transport.abort()
            await asyncio.sleep(0)
        for seat in self._seats:
            self._publish(seat, 1)
        self._said_goodbye = True
        await self._world.until(lambda: self._world.is_over)

    async def _open(self, target: Target) -> Socket:
        """Connect as the SDK does, and keep what is needed to cut it."""
        socket = await open_socket(target)
        assert isinstance(socket, ClientConnection)
        self._socket = socket
        self._world.happened("connected")
        return socket

    def _publish(self, seat: Seat, many: int) -> None:
        for _ in range(many):
            self._numbers += 1
            key = f"k{self._numbers}"
            attempt = draw_attempt(self._random, self.name, self._numbers, seat.stay.books.name, key)
            self._judge.sending(attempt)
            assert seat.room is not None
            task = asyncio.create_task(self._published(seat.room, attempt))
            self._publishing.add(task)
            task.add_done_callback(self._done)
            self._world.happened("sent")

    async def _published(self, room: Room, attempt: Attempt) -> None:
        at = await room.publish(type_for(attempt), attempt.content, key=attempt.key)
        # Over which connection, and whether it had to be repeated, is the SDK's business.
        self._judge.acked(attempt, Place(at.epoch, at.offset), None, self.name)
        self._world.happened("duplicate" if at.duplicate else "ack")

    def _done(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.fail(error)
        self._news.set()
        # Only now is nothing under way: who waits for that was woken by the ack, a moment too early.
        self._world.happened("answered")

    async def _join(self, client: Client, seat: Seat) -> None:
        self._world.happened("join")
        seat.room = await client.join(seat.stay.books.name)
        seat.stay.joined_now = True
        seat.reader = asyncio.create_task(self._read(seat, seat.room))
        seat.reader.add_done_callback(self._read_to_the_end)

    async def _leave(self, seat: Seat) -> None:
        """Leave, and read what has come until then."""
        assert seat.room is not None
        assert seat.reader is not None
        with contextlib.suppress(Disconnected, AckTimeout):  # then it is out anyway
            await seat.room.leave()
        await seat.reader
        seat.stay.offline()
        seat.stay.forget()

    async def _read(self, seat: Seat, room: Room) -> None:
        async for item in room.events():
            self._take(seat.stay, item)
            if self._random.random() < REST and self._world.may_rest():
                await self._world.rest(self._random.choice((50, 500)))

    def _read_to_the_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.fail(error)

    def _take(self, stay: Stay, item: Item) -> None:
        """Enter one item. The SDK does not say where a room begins, so its first message does."""
        if isinstance(item, Message) and item.type == EPHEMERAL:
            told = Said(item.type, sender=item.sender, offset=item.offset, epoch=item.epoch)
            stay.signalled(told, item.content)
        elif isinstance(item, Message):
            assert item.epoch is not None
            assert item.offset is not None
            if stay.here is None:
                stay.begin(Place(item.epoch, item.offset - 1))
            stay.pushed(SDK, _as_sent(item))
            self._world.happened("push")
        elif isinstance(item, Resumed):
            self._world.happened("recovered" if item.recovered else "refused")
        elif not isinstance(item, Gap):
            pass  # who comes and goes
        elif item.first is None or item.last is None:
            self._turned(stay, item)
            self._world.happened("another epoch")
        elif stay.here is not None:
            self._missed(stay, item)
            stay.gap(item.first, item.last)
            self._world.happened(f"gap {item.reason}")

    def _turned(self, stay: Stay, gap: Gap) -> None:
        """A new epoch."""
        lasting = stay.books.durable
        self._judge.expect(not lasting, f"{stay}: the SDK says {gap.reason} of a durable room")
        stay.forget()

    def _missed(self, stay: Stay, gap: Gap) -> None:
        """Some of this epoch will not come."""
        ours = gap.reason == "slow_reader" or not stay.books.durable
        self._judge.expect(ours, f"{stay}: the SDK says {gap.reason} of what the server has kept")

    async def _until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds, or the world comes to its end."""
        while not self._world.is_ending and not holds():
            self._news.clear()
            await self._news.wait()


def _as_sent(message: Message) -> bytes:
    """Return a message in the form in which the server sends it, for the judge."""
    value = msgspec.to_builtins(message)
    del value["id"]
    return msgspec.json.encode(value)
