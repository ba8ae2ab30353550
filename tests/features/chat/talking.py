"""Members of chat rooms on a real server, for tests: they ask, are answered, and hear what is pushed."""

import asyncio
import json
from collections import deque

import pytest_asyncio
from websockets.asyncio.client import connect

from tests.edge.peer import PATIENCE_S, hang_up_all, receive

LOBBY = "chat:lobby"
_connections = []


async def leave_all():
    """Close what was connected: a server that is told to end waits for it."""
    await hang_up_all(_connections)


@pytest_asyncio.fixture(autouse=True)
async def hang_up(serve):
    """Close what a test has connected, before its servers end."""
    yield
    await leave_all()


class Member:
    """One connection of a user, in one room. What it hears waits in `heard`, in order."""

    def __init__(self, ws, user, room):
        self._ws = ws
        self.user = user
        self.room = room
        self.heard = deque()
        self._asked = 0
        self._answers = {}

    async def send(self, type, content=None, **fields):
        """Send one message with an id, which is returned."""
        self._asked += 1
        message = {"type": type, "id": self._asked, "room": self.room, "content": content or {}, **fields}
        await self._ws.send(json.dumps(message))
        return self._asked

    async def answer(self, id):
        """Return the one answer to a message."""
        while id not in self._answers:
            await self.hear()
        return self._answers.pop(id)

    async def hear(self):
        """Take what comes next."""
        told = await receive(self._ws)
        if "id" in told:
            self._answers[told["id"]] = told
        else:
            self.heard.append(told)

    async def ask(self, type, content=None, **fields):
        """Return the content of the ack."""
        told = await self.answer(await self.send(type, content, **fields))
        assert told["type"] == "ack", told
        return told["content"]

    async def refused(self, type, content=None, **fields):
        """Return (name, message) of the error."""
        told = await self.answer(await self.send(type, content, **fields))
        assert told["type"] == "error", told
        return told["content"]["name"], told["content"]["message"]

    async def say(self, text, **content):
        """Send a message; return its id."""
        return (await self.ask("chat_message", {"text": text, **content}))["id"]

    async def push(self, type):
        """Return the next push of a type; those before it are passed over."""
        while True:
            while self.heard:
                told = self.heard.popleft()
                if told["type"] == type:
                    return told
            await self.hear()

    async def history(self, **asked):
        """Return the messages of a page."""
        return (await self.ask("chat_history", asked))["messages"]

    async def until(self, look):
        """Ask until what `look` gives is true, and return it."""
        async with asyncio.timeout(3 * PATIENCE_S):
            while True:
                found = await look()
                if found:
                    return found


async def member(server, user="alice", room=LOBBY, join=True, **how):
    """Connect, and join the room."""
    ws = await connect(f"{server.ws_url}/{user}", **how)
    _connections.append(ws)
    await receive(ws)
    made = Member(ws, user, room)
    if join:
        told = await made.answer(await made.send("join"))
        assert told["type"] == "joined", told
    return made
