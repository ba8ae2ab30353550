"""What lies on disks and in Redis of encrypted rooms is no plain text: markers are planted, all is searched.

A marker is a word that is nowhere else. One is planted in encrypted rooms, and another in rooms that are not:
a search that does not find the second would not have found the first.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from realtime.backends.redis_client.contract import slot_of
from realtime.backends.redis_nodes import RedisCluster, RedisNode
from realtime.client import Message, Options, connect
from realtime.errors import Unavailable
from tests.edge.peer import PATIENCE_S
from tests.edge.workers import deployment, until_ready
from tests.postgres import PostgresServer, programs

POLICY = '[[rooms]]\nrooms = ["*:secret"]\nencrypted = true\n'
AT_ONCE = Options(uniform=lambda: 0.0)
WHAT = MESSAGE, SIGNAL, KEY = "sentence", "whisper", "idempotent"


class Markers:
    """Words of this run alone: of the encrypted rooms, and of those that are not."""

    def __init__(self) -> None:
        self.secret = f"XSECRET{os.urandom(8).hex()}"
        self.open = f"XOPEN{os.urandom(8).hex()}"

    def of(self, room: str) -> str:
        return self.secret if room.endswith(":secret") else self.open

    def found(self, data: bytes) -> set[str]:
        """Which are in there, as text or in the hexadecimal of a dump: `secret`, `open sentence` …"""
        words = {"secret": self.secret, "open": self.open}
        words |= {f"{name} {what}": f"{word}-{what}" for name, word in words.items() for what in WHAT}
        written = {name: word.encode() for name, word in words.items()}
        return {name for name, word in written.items() if word in data or word.hex().encode() in data}


@pytest.fixture
def markers() -> Markers:
    return Markers()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    keys = f"m1:{base64.b64encode(os.urandom(32)).decode()}"
    return {"policy_path": policy, "encryption_keys": keys}


async def plant(server: Any, markers: Markers, room: str, name: str, count: int = 20) -> None:
    """Say the marker in a room in every way there is; see that a second member has it, and can page it."""
    word, durable = markers.of(room), room.startswith("playlist:")
    type_ = "chat_message" if durable else "publish"
    async with (
        connect(server.ws_url, user="al", options=AT_ONCE) as al,
        connect(server.ws_url, user="bo", options=AT_ONCE) as bo,
    ):
        speaker, listener = await al.join(room), await bo.join(room)
        heard = asyncio.create_task(until_heard(listener, f"{word}-{MESSAGE} {name} {count - 1}"))
        for number in range(count):
            key = f"{word}-{KEY} {name} {number}" if number % 2 else None
            await persistently(speaker, type_, f"{word}-{MESSAGE} {name} {number}", key)
            if durable:
                speaker.signal("chat_typing", {"word": f"{word}-{SIGNAL} {name}"})
        await heard
        if durable:
            page = await speaker.history(limit=5)
            assert word in str(page.messages[-1].content)


async def persistently(room: Any, type_: str, text: str, key: str | None) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await room.publish(type_, text, key=key or f"again {text[-30:]}")
            except Unavailable:
                continue
            return


async def until_heard(room: Any, text: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        async for item in room:
            if isinstance(item, Message) and item.content == text:
                return


def everything_in(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# ---------------------------------------------------------------- SQLite


async def test_a_file_and_its_log_hold_no_plain_text_whenever_they_are_taken(
    serve, tmp_path, settings, markers
):
    folder = tmp_path / "data"
    folder.mkdir()
    server = serve(sqlite_path=folder / "rooms.sqlite", **settings)
    for room in ("playlist:secret", "playlist:open", "events:secret"):
        await plant(server, markers, room, "before")
    server.kill()
    assert markers.found(everything_in(folder)) >= {f"open {MESSAGE}", f"open {KEY}"}
    assert "secret" not in markers.found(everything_in(folder)), "the log of a server that was killed"
    server.start()
    for room in ("playlist:secret", "playlist:open"):
        await plant(server, markers, room, "after")
    server.stop()
    found = markers.found(everything_in(folder))
    assert f"open {MESSAGE}" in found
    assert "secret" not in found, "the file of a server that was stopped"


# ---------------------------------------------------------------- PostgreSQL


def pg_dump(url: str) -> bytes:
    """The whole database as SQL, where bytes are hexadecimal."""
    done = subprocess.run([programs() / "pg_dump", url], capture_output=True, check=True)
    return done.stdout


def data_files(server: PostgresServer) -> bytes:
    """Tables, indexes and the write-ahead log, as they lie on the disk."""
    return everything_in(server.folder / "data")


# ---------------------------------------------------------------- Redis


def keep_on_disk(nodes: Iterable[RedisNode]) -> None:
    """Let every node write a log, and dumps that are not compressed: a marker could hide in these."""
    for node in nodes:
        node.ask("CONFIG", "SET", "rdbcompression", "no")
        node.ask("CONFIG", "SET", "appendonly", "yes")
        node.ask("CONFIG", "SET", "appendfsync", "always")


def redis_files(nodes: Iterable[RedisNode]) -> bytes:
    """Dumps and logs of all nodes, and every key by DUMP beside them."""
    found = []
    for node in nodes:
        node.ask("SAVE")
        folder = Path(os.fsdecode(next(iter(node.ask("CONFIG", "GET", "dir").values()))))
        found.append(everything_in(folder))
        is_master = node.ask("ROLE")[0] == b"master"  # a replica has the same, and gives it to nobody
        for key in node.ask("KEYS", "*") if is_master else ():
            found += [bytes(key), node.ask("DUMP", key) or b""]
    return b"\n".join(found)


async def test_a_cluster_holds_no_plain_text_over_a_failover(
    serve, own_redis_cluster: RedisCluster, own_postgres, settings, markers
):
    nodes = own_redis_cluster.nodes
    keep_on_disk(nodes)
    url = await own_postgres.new_database()
    server = serve(workers=2, node="n", **deployment(own_redis_cluster.url, postgres_url=url, **settings))
    await until_ready(server)
    rooms = ("playlist:secret", "playlist:open", "events:secret", "events:open")
    for room in rooms:
        await plant(server, markers, room, "before")
    dump = pg_dump(url)
    files = redis_files(nodes)
    slot = slot_of(b"x:{default/playlist:secret}")
    own_redis_cluster.master_of(slot).kill()
    own_redis_cluster.wait_until_ok()
    for room in rooms:
        await plant(server, markers, room, "after")  # in another epoch
    own_postgres.kill()
    own_postgres.start()
    for name, data in {
        "pg_dump": dump + pg_dump(url),
        "PostgreSQL's files": data_files(own_postgres),
        "Redis' files and keys": files + redis_files(node for node in nodes if node.running),
    }.items():
        found = markers.found(data)
        assert f"open {MESSAGE}" in found, f"{name}: the search would have found it"
        assert "secret" not in found, f"{name}: {found}"


async def test_redis_alone_holds_no_plain_text_and_keys_are_there(serve, own_redis_node, settings, markers):
    keep_on_disk([own_redis_node])
    server = serve(**deployment(own_redis_node.url, **settings))
    for room in ("playlist:secret", "playlist:open", "events:secret", "events:open"):
        await plant(server, markers, room, "one")
    data = redis_files([own_redis_node])
    found = markers.found(data)
    assert f"open {MESSAGE}" in found
    assert "secret" not in found
    assert b"local:m1:" in data, "the data key, wrapped"
    key = settings["encryption_keys"].partition(":")[2]
    for secret in (key.encode(), base64.b64decode(key), base64.b64decode(key).hex().encode()):
        assert secret not in data
