"""Chat servers for tests of signs, on both stores, and people who are connected to them."""

import asyncio
import itertools
import json
import uuid

from websockets.asyncio.client import connect

from tests.contract.stores import PostgresPlace, SqlitePlace
from tests.edge.peer import PATIENCE_S, hang_up_all, receive

QUICK = {"chat_signs_interval_s": 0.1, "chat_typing_s": 1.0, "max_connections_per_user": 10_000}
MEMBER, READER = 2, 1
_ids = itertools.count(1)
_open = []


def a_room():
    """The name of a public room that nobody has been in."""
    return f"chat:{uuid.uuid4()}"


async def sqlite_place(tmp_path):
    place = SqlitePlace(tmp_path)
    return place, {"sqlite_path": str(place.path)}


async def postgres_place(postgres):
    url = await postgres.new_database()
    return PostgresPlace(url), {"postgres_url": url}


class Person:
    """One connection of a user. What it is pushed waits until it is asked for, in order."""

    def __init__(self, ws, user):
        self.ws = ws
        self.user = user
        self.waiting = []

    async def ask(self, type, content=None, room=None):
        """Send a command; return the content of its ack."""
        answer = await self.answer(type, content, room)
        assert answer["type"] == "ack", answer
        return answer["content"]

    async def error(self, type, content=None, room=None):
        """Send a command; return the (name, message) of its error."""
        answer = await self.answer(type, content, room)
        assert answer["type"] == "error", answer
        return answer["content"]["name"], answer["content"]["message"]

    async def answer(self, type, content=None, room=None):
        id = next(_ids)
        message = {"type": type, "id": id, "content": {} if content is None else content}
        await self.ws.send(json.dumps(message | ({} if room is None else {"room": room})))
        while True:
            got = await receive(self.ws)
            if got.get("id") == id:
                return got
            self.waiting.append(got)

    async def join(self, room):
        """Join; a worker that has only just begun to subscribe is asked again."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.answer("join", {}, room)
                if answer["type"] == "joined":
                    return answer["content"]
                assert answer["content"]["code"] == 503, answer

    async def say(self, room, text="hello", **more):
        """Send a message; return its id."""
        return (await self.ask("chat_message", {"text": text, **more}, room))["id"]

    async def push(self, type, where=lambda content: True):
        """Return the content of the next push of a type that is as wanted; those before it are gone."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                got = self.waiting.pop(0) if self.waiting else await receive(self.ws)
                if got["type"] == type and where(got["content"]):
                    return got["content"]

    async def pushes_until(self, type, marker_room, sender):
        """Return the contents of a type that come before a message that `sender` sends now."""
        mark = str(uuid.uuid4())
        await sender.say(marker_room, mark)
        found = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                got = self.waiting.pop(0) if self.waiting else await receive(self.ws)
                if got["type"] == type:
                    found.append(got["content"])
                if got["type"] == "chat_message" and got["content"].get("text") == mark:
                    return found

    async def leave(self):
        _open.remove(self.ws)
        await self.ws.close()


async def person(server, user):
    """Connect."""
    ws = await connect(f"{server.ws_url}/{user}")
    _open.append(ws)
    connected = await receive(ws)
    assert connected["type"] == "connected"
    return Person(ws, user)


async def hang_up():
    """Close what a test has connected."""
    await hang_up_all(_open)


async def make_members(place, room, *users, tenant="default", visibility="private", role=MEMBER, since_ms=0):
    """Make a room (which has been published to, or not) one with these members, in the tables."""
    await place.execute(
        f"INSERT INTO rooms (tenant, name) VALUES ('{tenant}', '{room}') ON CONFLICT DO NOTHING"
    )
    number = await number_of(place, room, tenant)
    await place.execute(
        f"INSERT INTO chat_rooms (room, visibility, title, created_ms) "
        f"VALUES ({number}, '{visibility}', 'room', 1) ON CONFLICT DO NOTHING"
    )
    for user in users:
        await place.execute(
            f"INSERT INTO chat_members (room, user_id, role, since_ms) "
            f"VALUES ({number}, '{user}', {role}, {since_ms})"
        )


async def number_of(place, room, tenant="default"):
    """A room's number in the tables."""
    rows = await place.execute(f"SELECT id FROM rooms WHERE tenant = '{tenant}' AND name = '{room}'")
    return rows[0][0]
