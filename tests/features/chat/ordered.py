"""A server with the chat on either store, for tests of keeping order: members, rows, commands, the log."""

import asyncio
import itertools
import json
import os
import signal
import sqlite3
from pathlib import Path

import asyncpg
from websockets.asyncio.client import connect

from tests.edge.peer import KEY, ask, bearer, receive, token
from tests.edge.test_personal_data import realtime

ROOM = "chat:lobby"
POLICY = """
[access]
default = "allow"
[[access.rules]]
roles = ["mod"]
actions = ["chat_moderate"]
rooms = ["chat:*"]
"""
numbers = itertools.count(1)


class Place:
    """A server on one of the stores, and a look into what it keeps."""

    def __init__(self, serve, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.policy = folder / "policy.toml"
        self.policy.write_text(POLICY)
        self.path = folder / "rooms.sqlite"
        self.url = url
        store = {"sqlite_path": str(self.path)} if url is None else {"postgres_url": url}
        self.audit = folder / "audit.sqlite"
        self.variables = {
            f"REALTIME_{name.upper()}": value for name, value in store.items() if name[0] == "s"
        }
        self.variables |= {"POSTGRES_URL": url} if url else {}
        self.files = folder / "files"
        self.variables |= {
            "REALTIME_AUDIT_PATH": str(self.audit),
            "REALTIME_CHAT_FILES_PATH": str(self.files),
        }
        self.settings = {
            **store,
            "jwt_secret": KEY,
            "policy_path": str(self.policy),
            "audit_path": str(self.audit),
            "chat_files_path": str(self.files),
            "chat_url_secret": KEY,
        }
        self._serve = serve
        self._open: list = []

    def start(self, **settings):
        self.server = self._serve(**{**self.settings, **settings})
        return self

    async def member(self, user: str, *roles: str, room: str | None = ROOM):
        headers = bearer(token(user, tenant="acme", roles=list(roles)))
        ws = await connect(self.server.ws_url, additional_headers=headers)
        self._open.append(ws)
        await receive(ws)
        if room is not None:
            assert (await ask(ws, type="join", room=room, id="join"))["type"] == "joined"
        return ws

    async def rows(self, sql: str) -> list[tuple]:
        if self.url is None:
            db = sqlite3.connect(self.path)
            try:
                return db.execute(sql).fetchall()
            finally:
                db.close()
        connection = await asyncpg.connect(self.url, server_settings={"search_path": "realtime"})
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def change(self, statement: str) -> None:
        """Change what is kept, while no server runs."""
        if self.url is not None:
            await self.rows(statement)
            return
        db = sqlite3.connect(self.path, isolation_level=None)
        db.execute(statement)
        db.close()

    async def pushes(self) -> bytes:
        return b"\n".join(bytes(row[0]) for row in await self.rows("SELECT push FROM publications"))

    async def run(self, *arguments: str):
        """Run a command on its store."""
        return await realtime(self.variables, *arguments)

    def contents(self) -> bytes:
        """All that the files of a store that is one hold."""
        files = [path for path in self.path.parent.glob("*sqlite*") if path.is_file()]
        return b"".join(path.read_bytes() for path in files)

    async def reload(self, text: str) -> None:
        """Give it another policy, and wait until it holds."""
        self.policy.write_text(text)
        began = len(self.server.log)
        os.kill(self.server.pid, signal.SIGHUP)
        await asyncio.to_thread(self.server.wait_for_line, "reloaded|reload refused", after=began)

    async def close(self) -> None:
        for ws in self._open:
            await ws.close()


async def send(ws, text: str, room: str = ROOM, **content) -> dict:
    answer = await ask(
        ws, type="chat_message", room=room, id=next(numbers), content={"text": text, **content}
    )
    return answer["content"]


async def put(ws, type: str, room: str = ROOM, **content) -> dict:
    answer = await ask(ws, type=type, room=room, id=next(numbers), content=content)
    return answer["content"]


async def until(ws, type: str) -> dict:
    while (push := await receive(ws))["type"] != type:
        pass
    return push


async def acts(place: Place) -> list[tuple[str, str, str]]:
    """What the audit log has of acts: (act, actor, outcome)."""
    done = await place.run("audit", "export", "--tenant", "acme")
    assert done.returncode == 0, done
    entries = list(map(json.loads, done.stdout.splitlines()))
    return [
        (entry["detail"]["act"], entry["actor"], entry["outcome"])
        for entry in entries
        if entry["action"] == "room.manage"
    ]
