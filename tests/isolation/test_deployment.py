"""The same of a real deployment: two workers, Redis Cluster, PostgreSQL, every API with the other's names.

A deployment in which `acme` is busy and one in which it never was are asked the same by `globex`: every
message type on both workers, every method of `Publisher`, every command that names a tenant, every page. What
comes back has to be the same but for times, ids and epochs; and nothing of acme's may stand in it.
"""

import asyncio
import contextlib
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

import realtime
from realtime import cli
from realtime.core.catalog import Catalog
from realtime.edge.publisher import Publisher
from realtime.errors import RealtimeError
from realtime.features import discover
from realtime.loading import load
from realtime.settings import KNOBS, as_text
from tests.edge.peer import KEY, PATIENCE_S, bearer, get, receive, token
from tests.edge.workers import deployment, until_ready
from tests.isolation import twins
from tests.isolation.twins import SAMPLES, TYPES

ROOT = Path(realtime.__file__).parent.parent
SECRET = "acme-secret-marker"
ROOMS = ("chat:deals", "events:deals", "session:deals", "playlist:deals", "user:alice")
USERS = ("alice", "bob")
CALLED = ("chat:called", "events:called")  # those that methods and commands are about
PAGES = ("/health", "/ready", "/metrics", "/", "/ws", "/nothing", "/acme", "/chat:deals")
# What a client's own socket or the clock says, and what is random.
_OWN = re.compile(
    r'"(timestamp|server_time|connection_id|node|id)": ?"[^"]*"|'
    r'"(retry_after|until|expires_at)": ?[0-9.]+|\b1[0-9]{9}\.[0-9]+|'
    # Ids of the chat, the names that it gives to rooms, and times in contents.
    r'"[0-9]{19}"|chat:~[0-9a-f]{24}|"[0-9]{4}-[0-9]{2}-[0-9]{2}T[^"]*"'
)
_EPOCH = re.compile(r'"epoch": ?"([^"]*)"')
CATALOG = Catalog(discover())


def masked(said: object) -> str:
    """What was said, without what differs by itself."""
    text = said if isinstance(said, str) else json.dumps(said, sort_keys=True, default=str)
    return _EPOCH.sub('"epoch": 0', _OWN.sub("", text))


class Voice:
    """Somebody's connection, and all that came over it."""

    def __init__(self, ws):
        self.ws = ws
        self.heard = []

    async def ask(self, type, room, **fields):
        """Send one message, then a ping; note all that comes until that is answered."""
        await self.ws.send(json.dumps({"type": type, "id": "q", "room": room, **fields}))
        return await self.until("q")

    async def until_pushed(self, type):
        while True:
            said = await receive(self.ws)
            self.heard.append(said)
            if said["type"] == type and "id" not in said:
                return

    async def until(self, id):
        while True:
            said = await receive(self.ws)
            self.heard.append(said)
            if said.get("id") == id:
                return said


@contextlib.asynccontextmanager
async def voices(server, tenant):
    """A connection of the tenant's on each of two workers, as alice and as bob."""
    found = {}
    async with contextlib.AsyncExitStack() as stack:
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < 2:
                user = USERS[len(found)]
                headers = bearer(token(user, tenant=tenant, jti=f"jti-{user}"))
                ws = await connect(server.ws_url, additional_headers=headers, max_queue=None)
                greeting = await receive(ws)
                if greeting["content"]["node"] in found:
                    await ws.close()
                    continue
                stack.push_async_callback(ws.close)
                found[greeting["content"]["node"]] = voice = Voice(ws)
                voice.heard.append(greeting)
        yield list(found.values())


def content_of(type, secret):
    if type in SAMPLES:
        return {"token": token("alice", tenant="globex")} if type == "refresh" else SAMPLES[type]
    return twins.content_of(type, secret) if type in CATALOG.messages else {}


def rooms_of(number):
    """Each voice has rooms of its own: when others hear who comes and goes is another matter."""
    return tuple(room if room.startswith("user:") and not number else f"{room}{number}" for room in ROOMS)


async def every_type(voice, secret, number):
    """Send every type of message about every room, outside and then inside of it."""
    key, rooms = f"once{number}", rooms_of(number)
    for inside in (False, True):
        for room in rooms:
            if inside:
                await voice.ask("join", room, content={"since": {"offset": 1, "epoch": "another"}})
            for type in TYPES:
                if (type in ("join", "leave") and inside) or is_elsewhere(type, room):
                    continue
                content = content_of(type, secret)
                fields = {} if content is None else {"content": content}
                if type in CATALOG.messages and not CATALOG.messages[type].ephemeral:
                    fields["key"] = f"{key}-{type}"
                answer = await voice.ask(type, room, **fields)
                if type == "chat_typing" and answer["type"] == "ack" and not room.startswith("chat:"):
                    await voice.until_pushed(type)  # it comes by Redis, and nobody passive is told of it
            if inside:
                await voice.ask("history", room, content={"limit": 1000})
                await voice.ask("presence", room)
    for room in rooms:
        await voice.ask("leave", room)


def is_elsewhere(type, room):
    """Whether a type is a feature's own in rooms of another kind: there it is refused by its name alone."""
    message = CATALOG.messages.get(type)
    if message is None or message.plain or CATALOG.feature_of[type].open is None:
        return False
    return not room.startswith(("chat:", "events:"))


METHODS = {
    "publish": lambda p, room, user: p.publish(
        room, "chat_message", "x", tenant="globex", user=user, key="once-m"
    ),
    "signal": lambda p, room, user: p.signal(room, "chat_typing", tenant="globex", user=user),
    "notify": lambda p, room, user: p.notify(user, "title", "text", tenant="globex"),
    "presence": lambda p, room, user: p.presence(room, tenant="globex"),
    "history": lambda p, room, user: p.history(room, tenant="globex"),
    "kick": lambda p, room, user: p.kick(user, tenant="globex"),
    "kick_tenant": lambda p, room, user: p.kick_tenant("globex"),
    "revoke": lambda p, room, user: p.revoke(user=user, tenant="globex", issued_before=1),
}
COMMANDS = {
    "publish": ["publish", "chat:called", '"x"', "--type", "chat_message", "--key", "once-c"],
    "notify": ["notify", "alice", "title"],
    "kick": ["kick", "--everybody"],
    "revoke": ["revoke", "--jti", "jti-alice", "--keep", "5"],
    "record": ["record", "n-1-2", "--seconds", "0"],
}
# They speak of no tenant's rooms, users or connections.
WITHOUT_TENANT = {
    *("serve", "check", "settings", "migrate", "token", "dev-cluster", "replay"),
    *("penalties", "policy", "api", "api-key", "bench", "doctor", "shed", "upgrade"),
    *("install-units", "uninstall-units", "failover-watch"),
}
# They read a store and ask no worker; whose rows they give, test_stores.py holds, of keys tests/sealing, and
# of the chat tests/features/chat.
OF_STORES = {"audit", "keys", "user", "chat"}


async def every_method(redis_url, prefix):
    """Call every method of `Publisher` for globex; return what each said."""
    said = []
    settings = load(environ={}).settings
    async with Publisher(redis_url, prefix=prefix, settings=settings) as publisher:
        for name, call in METHODS.items():
            for room, user in (
                (CALLED[0], "alice"),
                (CALLED[1], "bob"),
                ("chat:nowhere", "nobody"),
            ):
                try:
                    answer = await call(publisher, room, user)
                    answer = answer._asdict() if hasattr(answer, "_asdict") else answer
                except RealtimeError as error:
                    answer = (error.code, error.message)
                said.append((name, room, user, answer))
    return said


def run_command(arguments, settings):
    environ = {KNOBS[name].variable: as_text(value) for name, value in settings.items() if name in KNOBS}
    done = subprocess.run(
        [sys.executable, "-m", "realtime", *arguments, "--tenant", "globex"],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


async def transcript(server, settings):
    """All that globex can find out about the deployment, masked."""
    found = []
    async with voices(server, "globex") as both:
        for number, voice in enumerate(both):
            await every_type(voice, "mine", number)
        heard = [[each for each in voice.heard if "id" in each] for voice in both]
        pushes = [[each for each in voice.heard if "id" not in each] for voice in both]
    found += [masked(each) for each in itertools.chain(*heard)]
    # What is told once in a while comes when it comes, and what has no place in the order anywhere in it.
    ordered = [each for each in itertools.chain(*pushes) if "offset" in each]
    found += [masked(each) for each in ordered]
    typing = [each for each in itertools.chain(*pushes) if each["type"] == "chat_typing"]
    found += sorted(masked(each) for each in typing if not each["room"].startswith("chat:"))
    found += [masked(each) for each in await every_method(settings["redis_url"], settings["redis_prefix"])]
    for name, arguments in COMMANDS.items():
        found.append(f"{name}: {masked(str(await asyncio.to_thread(run_command, arguments, settings)))}")
    return found


async def start(serve, redis_cluster, postgres):
    settings = deployment(
        redis_cluster.url,
        postgres_url=await postgres.new_database(),
        jwt_secret=KEY,
        errors_burst=1_000_000,
    )
    server = serve(workers=2, node="n", **settings)
    await until_ready(server)
    return server, settings


async def test_a_tenant_finds_the_same_in_a_deployment_that_another_uses(serve, redis_cluster, postgres):
    quiet, quiet_settings = await start(serve, redis_cluster, postgres)
    expected = await transcript(quiet, quiet_settings)
    quiet.stop()
    server, settings = await start(serve, redis_cluster, postgres)
    async with voices(server, "acme") as others:
        for number, voice in enumerate(others):
            await every_type(voice, SECRET, number)
            for room in rooms_of(number):
                await voice.ask("join", room)
            for room, key in itertools.product(CALLED, ("once-m", "once-c")):
                await voice.ask("join", room)
                await voice.ask("chat_message", room, content={"text": SECRET}, key=key)
        found = await transcript(server, settings)
        for voice in others:
            await voice.ask("ping", "chat:deals")  # neither kick nor revocation was theirs
    assert SECRET not in "".join(found)
    assert [pair for pair in itertools.zip_longest(found, expected) if pair[0] != pair[1]] == []
    for page in PAGES:
        status, headers, body = await asyncio.to_thread(get, server.url + page)
        text = body.decode() + str(headers)
        assert not re.search(rf"acme|globex|{SECRET}|deals|called|alice", text) or page == "/", (page, status)


def test_every_method_and_command_is_covered():
    public = {
        name for name, _ in inspect.getmembers(Publisher, inspect.isfunction) if not name.startswith("_")
    }
    # Penalties are of addresses, for whoever runs the deployment: no tenant has them. The others say which
    # workers there are, or put on record what was done.
    of_all = {"only_type", "penalties", "pardon", "workers", "owner", "find", "record", "recorded"}
    of_all |= {"shed"}  # between workers: whose connections those are, nobody asks or is told
    assert public - of_all == set(METHODS), "a method that nobody tries with another tenant's names"
    subparsers = next(each for each in cli._parser()._actions if each.choices)
    assert set(subparsers.choices) == set(COMMANDS) | WITHOUT_TENANT | OF_STORES, (
        "a command that nobody tries"
    )


@pytest.mark.parametrize("type", TYPES)
def test_every_type_can_be_played(type):
    content_of(type, SECRET)
