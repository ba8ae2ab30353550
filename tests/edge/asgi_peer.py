"""An ASGI server's side of one WebSocket, in memory: what a client would send and get, frame by frame."""

import asyncio
import contextlib
import itertools
import json

import msgspec

PATIENCE_S = 60.0
CLOSED = "websocket.close"


class Peer:
    """`websocket` of an endpoint. It takes what it is sent while `reading` is set, and answers a close.

    A `stubborn` one never answers it.
    """

    def __init__(self, *, offers=(), headers=None, extensions=None, stubborn=False):
        fields = {"host": "test", **(headers or {})}
        if offers:
            fields["sec-websocket-protocol"] = ", ".join(offers)
        self.scope = {
            "type": "websocket",
            "path": "/ws/alice",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            "subprotocols": list(offers),
            "extensions": extensions,
        }
        self.reading = asyncio.Event()
        self.reading.set()
        self.blocked = asyncio.Event()  # it was sent something that it does not take
        self.got = []
        self._stubborn = stubborn
        self._said = asyncio.Queue()
        self._heard = asyncio.Queue()
        self._ids = itertools.count(1)
        self._said.put_nowait({"type": "websocket.connect"})

    # -- what the endpoint calls

    async def receive(self):
        return await self._said.get()

    async def send(self, message):
        if not self.reading.is_set():
            self.blocked.set()
        await self.reading.wait()
        self.got.append(message)
        self._heard.put_nowait(message)
        if message["type"] == CLOSED and not self._stubborn:
            self.leave(message["code"])

    # -- what the client does

    def say(self, **message):
        self.say_text(json.dumps(message))

    def say_text(self, text):
        self._said.put_nowait({"type": "websocket.receive", "text": text})

    def say_bytes(self, data):
        self._said.put_nowait({"type": "websocket.receive", "bytes": data})

    def leave(self, code=1000):
        self._said.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})

    async def event(self):
        """The next ASGI message it gets."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._heard.get()

    async def read(self):
        """The next message of the protocol."""
        while (event := await self.event())["type"] != "websocket.send":
            assert event["type"] == "websocket.accept", event
        if event.get("text") is not None:
            return json.loads(event["text"])
        return msgspec.msgpack.decode(event["bytes"])

    async def read_until(self, **keys):
        """The next message that has all of these keys so; what comes before it is passed over."""
        while True:
            message = await self.read()
            if keys.items() <= message.items():
                return message

    async def ask(self, type, **keys):
        """Say something with an id and return its answer."""
        id = next(self._ids)
        self.say(type=type, id=id, **keys)
        return await self.read_until(id=id)

    async def closed(self):
        """Read until the close; return (code, reason)."""
        while (event := await self.event())["type"] != CLOSED:
            pass
        return event["code"], event.get("reason")


@contextlib.asynccontextmanager
async def serving(hub, user, peer=None, **how):
    """An endpoint that runs beside the test; at the end the client leaves, and it has to end by itself."""
    peer = peer or Peer(**how)
    task = asyncio.create_task(hub.serve(peer, user))
    try:
        yield peer
    finally:
        peer.reading.set()
        peer.leave()
        async with asyncio.timeout(PATIENCE_S):
            await task
