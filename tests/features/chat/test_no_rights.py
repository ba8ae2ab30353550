"""Who has no right to a private room sees nothing of it by any route: each thing that can be asked of it is
answered as for a room that there is not, byte for byte, and nothing of it is ever pushed.

Everything in the catalog is tried, on a server alone and on a cluster of two workers, in JSON and
MessagePack: by somebody who was never in it, was banned, was removed while connected, is invited and has not
come, was put out when it became private, and by a user of the same name in another tenant.
"""

import asyncio
import contextlib
import itertools
import json
import re
import urllib.parse

import msgspec
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from realtime.core.catalog import Catalog
from realtime.features import discover
from realtime.features.chat.rules import new_private_name
from realtime.protocol.messages import FROM_CLIENT
from tests.conftest import Server
from tests.edge.peer import JSON, KEY, MSGPACK, PATIENCE_S, bearer, receive, token
from tests.edge.workers import deployment, until_ready
from tests.features.chat import samples
from tests.features.chat.samples import About
from tests.features.chat.uploader import http_ask, patch

pytest.importorskip("PIL")
CATALOG = Catalog(discover())
TYPES = sorted(FROM_CLIENT.keys() | CATALOG.messages.keys())
SECRET = "marmalade-7f3a2b"
TOLD = re.compile(rf"{SECRET}[ .]")  # what askers say of themselves ends with the word
# They speak of the connection itself, or would end it.
OF_THE_CONNECTION = {"connect", "refresh", "ping"}
# They make something of the asker's own; in their answers there are ids that nobody can foresee.
MAKING = {"chat_room_create", "chat_direct"}
EYES = ("eve", "banned", "removed", "invited", "stayed", "bob@")
_WHEN = re.compile(r'"(timestamp|server_time|at|retry_after)": ?("[^"]*"|[0-9.]+)')


class Voice:
    """One connection, and all that came over it, decoded."""

    def __init__(self, ws, user, node):
        self.ws = ws
        self.user = user
        self.node = node
        self.heard = []
        self.binary = ws.subprotocol == MSGPACK
        self._numbers = itertools.count(1)

    async def answer(self, type, room=None, content=None, key=None):
        """Send one message; return its answer without the id."""
        id = next(self._numbers)
        message = {"type": type, "id": id}
        message |= {} if room is None else {"room": room}
        message |= {} if content is None else {"content": content}
        message |= {} if key is None else {"key": key}
        await self.ws.send(msgspec.msgpack.encode(message) if self.binary else json.dumps(message))
        while True:
            told = await receive(self.ws)
            self.heard.append(told)
            if told.get("id") == id:
                return {name: value for name, value in told.items() if name != "id"}

    async def do(self, type, room=None, **content):
        answer = await self.answer(type, room, content)
        assert answer["type"] != "error", (self.user, type, content, answer)
        return answer["content"]

    async def until(self, type, room):
        """Hear up to a push of a type in a room."""
        seen = 0
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for told in self.heard[seen:]:
                    if told["type"] == type and told.get("room") == room and "id" not in told:
                        return told
                seen = len(self.heard)
                self.heard.append(await receive(self.ws))


@contextlib.asynccontextmanager
async def party(server, workers, tenant):
    """Give what connects users: `(user, number of the worker, protocol)`; `bob@` is in another tenant."""
    async with contextlib.AsyncExitStack() as stack:

        async def come(user, number=0, protocol=JSON):
            whose = f"{tenant}-other" if user.endswith("@") else tenant
            headers = bearer(token(user.rstrip("@"), tenant=whose, ttl_s=600))
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    ws = await connect(server.ws_url, additional_headers=headers, subprotocols=[protocol])
                    node = (await receive(ws))["content"]["node"]
                    if workers == 1 or node == f"n-{1 + number % workers}":
                        stack.push_async_callback(ws.close)
                        return Voice(ws, user, node)
                    await ws.close()

        yield come


@pytest.fixture(scope="module", params=["embedded", "cluster"])
def serving(request, tmp_path_factory):
    """A server, and how many workers it has; each test has tenants of its own there."""
    folder = tmp_path_factory.mktemp("rights")
    settings = {
        "jwt_secret": KEY,
        "errors_burst": 1_000_000,
        "max_connections_per_user": 100,
        "chat_files_path": str(folder / "files"),
        "chat_url_secret": "a secret of thirty-two bytes, at least",
    }
    workers = 1
    if request.param == "embedded":
        settings["sqlite_path"] = str(folder / "rooms.sqlite")
    else:
        redis, postgres = request.getfixturevalue("redis_cluster"), request.getfixturevalue("postgres")
        workers, settings["postgres_url"] = 2, asyncio.run(postgres.new_database())
        settings = deployment(redis.url, **settings) | {"workers": workers, "node": "n"}
    server = Server(settings)
    asyncio.run(until_ready(server))
    yield server, workers
    server.finish()


class Scene:
    """A private room in use, and those who have no right to it. `there` is what it has, `nowhere` the same
    of what there is not: both have the same length everywhere.
    """

    def __init__(self, server, come):
        self.server = server
        self.come = come
        self.links = []

    async def play(self):
        """Make the room, and let everybody become what they are."""
        come = self.come
        self.alice, self.bob = await come("alice"), await come("bob", 1)
        self.banned, self.removed = await come("banned"), await come("removed", 1)
        made = await self.alice.do(
            "chat_room_create", title=f"{SECRET} title", topic=f"{SECRET} topic", visibility="private",
            members=["bob", "banned", "removed"],
        )  # fmt: skip
        room = self.room = made["room"]
        for voice in (self.alice, self.bob, self.banned, self.removed):
            await voice.do("join", room)
        await self.alice.do("chat_invite", room, user="invited")
        self.there = About(text=SECRET, room=room, **await self._talk())
        self.nowhere = About(text=SECRET, room=new_private_name(), user="ghost")
        assert len(self.nowhere.room) == len(room)
        for voice in (self.banned, self.removed):  # they have read some of it, and that is kept
            await voice.do("chat_read_receipt", room, id=self.there.id)
        for user in ("banned", "removed"):
            await self.alice.do("chat_ban" if user == "banned" else "chat_remove", room, user=user)
        await self.banned.until("left", room)
        await self.removed.until("left", room)
        await self._close_a_public_room()

    async def _talk(self):
        """Do in the room what can be done there; return the ids of what came of it."""
        alice, bob, room = self.alice, self.bob, self.room
        file, upload = await self._files()
        said = await alice.do("chat_message", room, text=f"{SECRET} one", attachments=[file])
        id = said["id"]
        link = (await bob.do("chat_attachment", id=file))["url"]
        self.links.append(urllib.parse.urljoin(self.server.url, link))
        await bob.do("chat_message", room, text=f"{SECRET} @eve @banned @removed @invited @here", reply_to=id)
        await bob.do("chat_message", room, text=f"{SECRET} in the thread", thread=id)
        await alice.do("chat_edit", room, id=id, text=f"{SECRET} edited https://example.org/{SECRET}")
        await bob.do("chat_react", room, id=id, emoji="👍")
        await alice.do("chat_pin", room, id=id)
        report = await bob.do("chat_report", room, id=id, reason=f"{SECRET} is wrong")
        scheduled = await alice.do("chat_schedule", room, at=samples.TOMORROW, text=f"{SECRET} later")
        await bob.do("chat_read_receipt", room, id=id)
        await alice.do("chat_presence", status="busy", text=f"{SECRET} busy")
        await bob.do("chat_typing", room)
        return {
            "user": "alice",
            "id": id,
            "report": str(report["report"]),
            "file": file,
            "upload": upload,
            "scheduled": scheduled["id"],
        }

    async def _files(self):
        """Upload a file, and begin another one; return their ids."""
        content = f"{SECRET} in a file".encode()
        begun = await self.alice.do("chat_upload", self.room, name=f"{SECRET}.txt", bytes=len(content))
        url = urllib.parse.urljoin(self.server.url, begun["url"])
        status, _, _ = await asyncio.to_thread(patch, url, 0, content)
        assert status == 204
        second = await self.alice.do("chat_upload", self.room, name=f"{SECRET}.txt", bytes=len(content))
        self.links = [urllib.parse.urljoin(self.server.url, second["url"])]
        return begun["id"], second["id"]

    async def _close_a_public_room(self):
        """Make a room private that somebody is in who is no member."""
        self.stayed = await self.come("stayed", 1)
        made = await self.alice.do("chat_room_create", name="was-open", title="open")
        self.closed = made["room"]
        await self.alice.do("join", self.closed)
        await self.stayed.do("join", self.closed)
        await self.alice.do("chat_room_update", self.closed, visibility="private", title=f"{SECRET} closed")
        await self.stayed.until("left", self.closed)
        await self.alice.do("chat_message", self.closed, text=f"{SECRET} behind the door @stayed")

    async def go_on(self):
        """Let the members do all that is pushed, while others listen."""
        for voice in (self.alice, self.bob):
            for room in (self.room, self.closed)[: 2 if voice is self.alice else 1]:
                said = await voice.do("chat_message", room, text=f"{SECRET} again @eve @removed")
                await voice.do("chat_edit", room, id=said["id"], text=f"{SECRET} and edited")
                await voice.do("chat_react", room, id=said["id"], emoji="🎉")
                await voice.do("chat_typing", room)
                await voice.do("chat_read_receipt", room, id=said["id"])
        await self.alice.do("chat_presence", status="away", text=f"{SECRET} away")
        await self.alice.do("chat_room_update", self.room, title=f"{SECRET} renamed")
        last = await self.alice.do("chat_message", self.room, text="last")
        await self.bob.until("chat_message", self.room)
        while not any(each.get("offset") == last["offset"] for each in self.bob.heard):
            self.bob.heard.append(await receive(self.bob.ws))


def contents(type, about):
    """What is sent as `type`, about something."""
    if type in CATALOG.messages:
        found = samples.SAMPLES.get(type)
        return samples.sample(type, about) if found is not None else [{"text": about.text}]
    if type == "join":
        return [{}, {"since": {"offset": 1, "epoch": "another"}}]
    if type == "history":
        return [{}, {"limit": 100, "before": 5}, {"limit": 5, "after": 0}]
    return [{}]


def masked(told, about):
    """An answer without what is asked about: as text, so that every byte counts."""
    text = json.dumps(told, ensure_ascii=False)
    for value in msgspec.structs.astuple(about):
        text = text.replace(value, "X" * len(value)) if value != about.text else text
    return _WHEN.sub("", text)


async def differences(voice, there, nowhere, types):
    """Ask all about both; return where the answers differ, as sentences, and how much was asked."""
    found, asked = [], 0
    for type in types:
        pairs = zip(contents(type, there), contents(type, nowhere), strict=True)
        for content, other in pairs:
            told = await voice.answer(type, there.room, content, key=None)
            absent = await voice.answer(type, nowhere.room, other, key=None)
            asked += 1
            if told["content"].get("name") in ("rate_limited", "internal", "unavailable"):
                found.append(f"{voice.user} is told nothing by {told}")
            if masked(told, there) != masked(absent, nowhere):
                found.append(f"{voice.user} tells by {type} {content}: {told}, and not {absent}")
            if told["type"] not in ("error", "ack"):
                found.append(f"{voice.user} is answered {told}")
            elif told["type"] == "ack" and TOLD.search(json.dumps(told["content"])):
                found.append(f"{voice.user} reads by {type} {content}: {told}")
    return found, asked


_tenants = itertools.count(1)


@pytest_asyncio.fixture
async def scene(serving):
    server, workers = serving
    async with party(server, workers, f"t{next(_tenants)}") as come:
        scene = Scene(server, come)
        await scene.play()
        yield scene


def test_every_type_that_there_is_is_tried():
    assert samples.missing() == set(), "types that nobody tries"
    assert samples.SAMPLES.keys() <= set(TYPES), "types that there are not"
    for type in TYPES:
        assert contents(type, About()), type


async def test_all_that_can_be_asked_of_it_is_answered_as_of_a_room_that_there_is_not(scene):
    types = [type for type in TYPES if type not in OF_THE_CONNECTION | MAKING]
    asked = 0
    for number, user in enumerate(EYES):
        if user == "stayed":  # its room has a name that anybody may say
            continue
        for protocol in (JSON, MSGPACK):
            voice = await scene.come(user, number, protocol)
            of_invites = {"chat_invites", "chat_accept", "chat_decline"} if user == "invited" else set()
            told, count = await differences(
                voice, scene.there, scene.nowhere, [type for type in types if type not in of_invites]
            )
            asked += count
            assert told == []
            assert scene.room not in json.dumps([each for each in voice.heard if "id" not in each])
    assert asked > 500
    print(f"{asked} questions")


async def test_who_was_in_it_and_is_not_is_answered_so_on_the_connection_that_was(scene):
    types = [type for type in TYPES if type not in OF_THE_CONNECTION | MAKING]
    for voice in (scene.banned, scene.removed):
        assert (await differences(voice, scene.there, scene.nowhere, types))[0] == []


async def test_nothing_of_it_is_pushed_to_who_may_not_be_in_it(scene):
    voices = [await scene.come(user, number) for number, user in enumerate(EYES)] + [
        scene.banned, scene.removed, scene.stayed
    ]  # fmt: skip
    for voice in voices:
        await voice.answer("join", scene.room, {})
        await voice.answer("join", f"user:{voice.user.partition('@')[0]}", {})
        voice.heard.clear()
    await scene.go_on()
    for voice in voices:
        await voice.answer("ping")
        own = await voice.answer("history", f"user:{voice.user.partition('@')[0]}", {"limit": 100})
        words = json.dumps([voice.heard, own])
        assert SECRET not in words, voice.user
        assert scene.room not in words or voice.user == "invited", voice.user


async def test_lists_and_counts_have_nothing_of_it(scene):
    for number, user in enumerate(EYES):
        voice = await scene.come(user, number)
        fresh = await scene.come(f"fresh{number}@" if "@" in user else f"fresh{number}", number)
        for type in ("chat_rooms", "chat_unread", "chat_scheduled", "chat_search"):
            for content in contents(type, scene.there):
                if f"in:{scene.room[:6]}" in str(content):
                    continue
                told, other = [await each.answer(type, None, content) for each in (voice, fresh)]
                assert masked(told, scene.there) == masked(other, scene.there), (user, type, content)
                # Both may be told too much: neither has a right.
                for words in map(json.dumps, (told, other)):
                    assert not TOLD.search(words), (user, type, content, told)
                    assert scene.room not in words, (user, type, content, told)
        for whom in (["alice"], ["alice", "nobody"]):
            told = await voice.do("chat_presence_of", users=whom)
            assert told["users"] == {} or SECRET not in json.dumps(told), user
            assert told == await fresh.do("chat_presence_of", users=whom), user
        invites = await voice.do("chat_invites")
        if user == "invited":
            (invite,) = invites["invites"]
            assert (invite["room"], invite["by"]) == (scene.room, "alice"), "that much an invitation says"
        else:
            assert invites["invites"] == []


async def test_a_room_that_became_private_says_nothing_more_to_who_was_in_it(scene):
    types = [type for type in TYPES if type not in OF_THE_CONNECTION | MAKING]
    about = msgspec.structs.replace(scene.there, room=scene.closed)
    for voice in (scene.stayed, await scene.come("stayed"), await scene.come("eve", 1)):
        for type in types:
            for content in contents(type, about):
                told = await voice.answer(type, scene.closed, content)
                assert told["type"] in ("error", "ack"), told
                assert not TOLD.search(json.dumps(told)), (voice.user, type, content, told)
                if type in ("join", "history", "chat_room", "chat_history", "chat_members", "chat_pins"):
                    assert told["type"] == "error", (voice.user, type, told)


async def test_files_are_served_to_nobody_without_their_signature(scene):
    content = SECRET.encode()
    for link in scene.links:
        path, _, query = link.partition("?")
        fields = urllib.parse.parse_qsl(query)
        forged = [
            path,
            f"{path}?",
            *(
                f"{path}?{urllib.parse.urlencode(fields[:at] + fields[at + 1 :])}"
                for at in range(len(fields))
            ),
        ]
        forged += [link[:-1] + ("0" if link[-1] != "0" else "1")]
        unknown = path.replace(scene.there.file, scene.nowhere.file).replace(
            scene.there.upload, scene.nowhere.upload
        )
        for method in ("GET", "HEAD", "PATCH", "DELETE"):
            absent = await asyncio.to_thread(http_ask, unknown, method)
            for url in forged:
                status, headers, body = await asyncio.to_thread(http_ask, url, method)
                assert status in (403, 404, 405, 400, 412), (method, url, status)
                assert content not in body
                assert SECRET not in str(headers)
                if url in (path, f"{path}?"):
                    assert (status, body) == (absent[0], absent[2]), (method, url)


async def test_who_is_told_of_it_by_name_makes_rooms_of_their_own_alone(scene):
    for number, user in enumerate(("eve", "bob@")):
        voice = await scene.come(user, number)
        taken = [
            await voice.answer("chat_room_create", None, {"title": "x", "name": about.room[5:]})
            for about in (scene.there, scene.nowhere)
        ]
        assert masked(taken[0], scene.there) == masked(taken[1], scene.nowhere)
        direct = await voice.do("chat_direct", users=["alice", "bob"])
        assert direct["room"] != scene.room
        assert SECRET not in json.dumps(await voice.do("chat_room", direct["room"]))


async def test_a_room_that_is_deleted_is_gone_for_its_members_too(scene):
    await scene.alice.do("chat_room_delete", scene.room)
    await scene.bob.until("left", scene.room)
    types = [type for type in TYPES if type not in OF_THE_CONNECTION | MAKING]
    # What is one's own of it, or lists: said elsewhere.
    own = {"chat_presence_of", "chat_scheduled", "chat_unschedule", "chat_attachment", "chat_upload"}
    told, _ = await differences(
        scene.bob, scene.there, scene.nowhere, [type for type in types if type not in own]
    )
    assert told == []


async def test_what_was_deleted_comes_back_to_nobody_from_any_memory(scene):
    """Workers and Redis have the newest publications beside the store, and members may read them all."""
    room, word = scene.room, "to-be-forgotten-51c9"
    voices = [scene.alice, scene.bob]
    first = await scene.alice.do("chat_message", room, text=f"{word} one")
    await scene.alice.do("chat_edit", room, id=first["id"], text=f"{word} two")
    second = await scene.bob.do("chat_message", room, text=f"{word} three")
    start = {"offset": first["offset"] - 1, "epoch": first["epoch"]}
    for voice in voices:
        assert word in json.dumps(await voice.answer("join", room, {"since": start}))
    await scene.alice.do("chat_delete", room, id=first["id"])
    await scene.alice.do("chat_delete", room, id=second["id"])
    for number in range(2):
        voices.append(await scene.come("bob", number, MSGPACK))
    for voice in voices:
        joined = await voice.answer("join", room, {"since": start})
        assert joined["content"]["recovered"] is True
        told = [joined, await voice.answer("history", room, {"limit": 100})]
        for type in ("chat_history", "chat_edits", "chat_search", "chat_pins"):
            asked = {"id": first["id"]} if type == "chat_edits" else {}
            told.append(await voice.answer(type, room, asked | ({"query": word} if "search" in type else {})))
        assert word not in json.dumps(told).replace(f'"query": "{word}"', "")
