"""Clients of the SDK in one room: they come back by themselves, and what each has heard is known."""

import asyncio
import contextlib

from realtime.client import connect
from realtime.client.options import Options
from realtime.client.wire import Message
from tests.edge.peer import PATIENCE_S

# They are many in one process, and a busy machine may let it stand still: nobody is given up for that.
PATIENT = {"open_timeout_s": PATIENCE_S, "handshake_timeout_s": PATIENCE_S, "ack_timeout_s": 4 * PATIENCE_S}
PATIENT |= {"ping_interval_s": PATIENCE_S, "pong_timeout_s": PATIENCE_S}


class Crowd:
    """Everybody who is in the room. The first to come is the one who speaks."""

    name, type = "events:all", "publish"  # of the room, and of what is said there

    def __init__(self):
        self.clients = []
        self.said = 0
        self._heard = []
        self.rooms = []
        self._arrived = asyncio.Event()
        self._listening = []

    async def come(self, url, user, *, wanted=lambda greeting: True, **options):
        """Connect and join, if who greets is `wanted`; return the client, or None."""
        client = await connect(url, user=user, options=Options(**PATIENT, **options)).__aenter__()
        if not wanted(client.greeting):
            await client.close()
            return None
        self.clients.append(client)
        room = await client.join(self.name)
        self.rooms.append(room)
        self._heard.append([])
        self._listening.append(asyncio.create_task(self._listen(room, self._heard[-1])))
        return client

    async def deal(self, server, quotas):
        """Connect as many to each worker as `quotas` say by node: whoever is dealt elsewhere goes again."""
        left = dict(quotas)
        while any(left.values()):
            user = f"u{len(self.clients)}"
            client = await self.come(server.ws_url, user, wanted=lambda greeting: left[greeting["node"]] > 0)
            if client is not None:
                left[client.greeting["node"]] -= 1

    async def say(self):
        """Publish one thing more."""
        self.said += 1
        receipt = await self.rooms[0].publish(self.type, self.said)
        assert receipt.offset == self.said

    async def all_heard(self):
        """Wait until everybody has heard all that was said: in order, once, nothing left out."""
        async with asyncio.timeout(4 * PATIENCE_S):
            while min(map(len, self._heard)) < self.said:
                self._arrived.clear()
                await self._arrived.wait()
        for user, heard in enumerate(self._heard):
            assert heard == list(range(1, len(heard) + 1)), (user, heard)

    @contextlib.asynccontextmanager
    async def talking(self):
        """Meanwhile say one thing after the other, each when everybody has heard the one before."""
        over = asyncio.Event()

        async def talk():
            while not over.is_set():
                await self.say()
                await self.all_heard()

        async with asyncio.TaskGroup() as group:
            group.create_task(talk())
            yield
            over.set()

    async def go(self):
        """Disconnect everybody."""
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self.clients))

    async def _listen(self, room, heard):
        async for item in room:
            heard.append(item.content if isinstance(item, Message) else item)  # a Gap shows as what it is
            self._arrived.set()
