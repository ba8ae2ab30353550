"""People in chat rooms of a real server, for tests."""

import itertools
import json

from websockets.asyncio.client import connect

from tests.edge.peer import receive

_numbers = itertools.count(1)


class Person:
    """A connection of one user; `heard` are the pushes that came before the answers."""

    def __init__(self, ws, user):
        self.ws = ws
        self.user = user
        self.heard = []

    @classmethod
    async def come(cls, server, user, **how):
        ws = await connect(f"{server.ws_url}/{user}", **how)
        await receive(ws)
        return cls(ws, user)

    async def ask(self, type, room=None, key=None, **content):
        """Send one message; return the whole answer."""
        id = next(_numbers)
        message = {"type": type, "id": id, "content": content} | ({} if room is None else {"room": room})
        message |= {} if key is None else {"key": key}
        await self.ws.send(json.dumps(message))
        while True:
            answer = await receive(self.ws)
            if answer.get("id") == id:
                return answer
            self.heard.append(answer)

    async def do(self, type, room=None, **content):
        """The same, where it is done: return what it is answered."""
        answer = await self.ask(type, room, **content)
        assert answer["type"] != "error", (self.user, type, room, content, answer)
        return answer["content"]

    async def fail(self, type, room=None, **content):
        """The same, where it is refused: return the name of the error and what it says."""
        answer = await self.ask(type, room, **content)
        assert answer["type"] == "error", (self.user, type, room, content, answer)
        return answer["content"]["name"], answer["content"]["message"]

    async def until(self, type, **content):
        """Read up to a push of a type, with these in its content; return the push."""
        while True:
            for at, push in enumerate(self.heard):
                said = push.get("content")
                if push["type"] == type and isinstance(said, dict) and content.items() <= said.items():
                    return self.heard.pop(at)
            self.heard.append(await receive(self.ws))

    async def close(self):
        await self.ws.close()
