"""Servers that are killed while people talk, edit, delete and react: what was acked is there, once, in the
log and in the tables, which say the same.

A server alone is killed whole, of a cluster one worker after the other: each owns some of the rooms.
"""

import asyncio
import json
import os
import random
import signal

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tests.contract.stores import PostgresPlace, SqlitePlace
from tests.edge.peer import PATIENCE_S, receive
from tests.edge.workers import deployment, until_ready, worker_pids
from tests.features.chat.test_words_projection import Fold

ROOMS = [f"chat:r{number}" for number in range(4)]
KILLS = 3
ACKS = 60  # between two kills
RECONNECT_S = 60.0


class Talker:
    """One user, who does one thing after another in a room, each until it is acked, and knows what is so."""

    def __init__(self, scene, number):
        self.scene = scene
        self.user = f"user{number}"
        self.room = ROOMS[number % len(ROOMS)]
        self.random = random.Random(number)
        self.ws = None
        self.numbers = 0
        self.texts = {}  # by id, of what is not deleted
        self.deleted = set()
        self.reacted = {}  # whether, by id
        self.said = set()  # all texts that were ever sent as messages

    async def talk(self):
        while not self.scene.over:
            await self.act()

    async def act(self):
        what = self.random.choice(("send", "send", "edit", "delete", "react"))
        id = self.random.choice(list(self.texts)) if self.texts else None
        self.numbers += 1
        text = f"{self.user} {self.numbers}"
        if what == "send" or id is None:
            answer = await self.until_acked("chat_message", {"text": text})
            self.texts[answer["id"]] = text
            self.said.add(text)
        elif what == "edit":
            await self.until_acked("chat_edit", {"id": id, "text": text})
            self.texts[id] = text
        elif what == "delete":
            await self.until_acked("chat_delete", {"id": id})
            del self.texts[id]
            self.deleted.add(id)
            self.reacted.pop(id, None)
        else:
            remove = self.reacted.get(id, False)
            await self.until_acked("chat_react", {"id": id, "emoji": "👍", "remove": remove})
            self.reacted[id] = not remove

    async def until_acked(self, type, content):
        """Send one thing, over connections and servers, until it is acked; return the content of the ack."""
        message = {"type": type, "id": self.numbers, "room": self.room, "content": content}
        message["key"] = f"{self.user}-{self.numbers}"
        async with asyncio.timeout(RECONNECT_S):
            while True:
                try:
                    answer = await self.asked(message)
                except (OSError, WebSocketException):
                    self.ws = None
                    await asyncio.sleep(0)
                    continue
                if answer["type"] == "ack":
                    self.scene.count()
                    return answer["content"]
                assert answer["content"]["temporary"], (message, answer)

    async def asked(self, message):
        if self.ws is None:
            self.ws = await connect(f"{self.scene.server.ws_url}/{self.user}", open_timeout=PATIENCE_S)
            await receive(self.ws)
            join = {"type": "join", "id": "join", "room": self.room}
            while (await self.answered(join))["type"] != "joined":
                pass
        return await self.answered(message)

    async def answered(self, message):
        await self.ws.send(json.dumps(message))
        while True:
            told = json.loads(await self.ws.recv())
            if told.get("id") == message["id"]:
                return told


class Scene:
    """What is killed, and when."""

    def __init__(self, server, place, kill):
        self.server = server
        self.place = place
        self.kill = kill
        self.over = False
        self.acks = 0
        self._enough = asyncio.Event()

    def count(self):
        self.acks += 1
        if self.acks % ACKS == 0:
            self._enough.set()

    async def play(self, talkers):
        talking = [asyncio.ensure_future(each.talk()) for each in talkers]
        try:
            for number in range(KILLS):
                self._enough.clear()
                waiting = asyncio.ensure_future(self._enough.wait())
                done, _ = await asyncio.wait([waiting, *talking], return_when=asyncio.FIRST_COMPLETED)
                for task in done - {waiting}:
                    task.result()  # it failed: it goes on until it is over
                await self.kill(number)
            self._enough.clear()
            await asyncio.wait_for(self._enough.wait(), RECONNECT_S)
            self.over = True
            await asyncio.gather(*talking)
        finally:
            for task in talking:
                task.cancel()


@pytest_asyncio.fixture(params=["embedded", "cluster"])
async def scene(request, serve, tmp_path):
    common = {"max_connections_per_user": 1000, "errors_burst": 100_000}
    if request.param == "embedded":
        place = SqlitePlace(tmp_path)
        server = serve(**common, sqlite_path=str(place.path))

        async def kill(number):
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    else:
        place = PostgresPlace(await request.getfixturevalue("postgres").new_database())
        redis = request.getfixturevalue("redis_cluster")
        server = serve(workers=2, node="n", **deployment(redis.url, postgres_url=place.url, **common))
        await until_ready(server)

        async def kill(number):
            before = worker_pids(server)
            os.kill(before[1 + number % 2], signal.SIGKILL)
            async with asyncio.timeout(RECONNECT_S):
                while len(now := await asyncio.to_thread(worker_pids, server)) < 2 or now == before:
                    pass

    yield Scene(server, place, kill)


async def history(ws, room):
    """All messages of a room as they are shown."""
    found, asked = [], {"limit": 100}
    while True:
        await ws.send(json.dumps({"type": "chat_history", "id": 1, "room": room, "content": asked}))
        while (told := await receive(ws)).get("id") != 1:
            pass
        page = told["content"]
        found = page["messages"] + found
        if not page["more"]:
            return found
        asked = {"limit": 100, "before": page["messages"][0]["id"]}


@pytest.mark.timeout(240)
async def test_what_was_acked_is_there_once_and_the_tables_say_what_the_log_says(scene):
    talkers = [Talker(scene, number) for number in range(8)]
    await scene.play(talkers)
    ws = await connect(f"{scene.server.ws_url}/judge")
    await receive(ws)
    for room in ROOMS:
        shown = {each["id"]: each for each in await history(ws, room)}
        here = [each for each in talkers if each.room == room]
        for talker in here:
            assert {id: shown[id].get("text") for id in talker.texts} == talker.texts
            assert all(shown[id].get("deleted") for id in talker.deleted)
            reacted = {id: "👍" in shown[id].get("reactions", {}) for id in talker.reacted}
            assert reacted == talker.reacted
        assert shown.keys() == {id for each in here for id in (*each.texts, *each.deleted)}, (
            "and nothing twice"
        )
    await ws.close()
    for talker in talkers:
        await talker.ws.close()
    assert await asyncio.to_thread(scene.server.stop) == 0
    for room in ROOMS:
        assert await tables(scene.place, room) == folded(await log_of(scene.place, room))
    print(f"{scene.acks} acks, {KILLS} kills")


# -- the log and the tables ---------------------------------------------------------------------------------


async def log_of(place, room):
    """(offset, push, key) of a room, by offset; no key is there twice."""
    rows = await place.execute(
        'SELECT p."offset", p.push, p.sender, p.key FROM publications p JOIN rooms r ON r.id = p.room '
        f"WHERE r.name = '{room}' ORDER BY p.\"offset\""
    )
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "the log has no hole"
    keys = [(row[2], row[3]) for row in rows if row[3] is not None]
    assert len(keys) == len(set(keys)), "what was repeated is there once"
    return [(row[0], json.loads(row[1])) for row in rows]


def folded(log):
    """What a fold of the log says of the tables, without times; of what is deleted its edits are gone."""
    fold = Fold(None)
    for offset, push in log:
        content = push["content"]
        if push["type"] == "chat_message":
            content = {"text": ""} | content  # of what is deleted no word is left
        elif push["type"] == "chat_edit" and "text" not in content:
            continue
        fold.take(offset, push["type"], push.get("from"), content)
    said = fold.tables()
    return {
        "messages": [(*row[:5], bool(row[6] and not row[7]), bool(row[7])) for row in said["messages"]],
        "edits": [row[:3] for row in said["edits"]],
        "reactions": [row[:3] for row in said["reactions"]],
    }


async def tables(place, room):
    """The same as the tables have it."""

    async def rows(table, *columns):
        listed = ", ".join(f't."{column}"' for column in columns)
        found = await place.execute(
            f"SELECT {listed} FROM {table} t JOIN rooms r ON r.id = t.room WHERE r.name = '{room}'"
        )
        return sorted(tuple(row) for row in found)

    messages = await rows(
        "chat_messages", "id", "offset", "sender", "text", "lang", "edited_ms", "deleted_ms"
    )
    return {
        "messages": [(*row[:5], bool(row[5] and not row[6]), bool(row[6])) for row in messages],
        "edits": await rows("chat_edits", "message", "offset", "text"),
        "reactions": await rows("chat_reactions", "message", "emoji", "user_id"),
    }
