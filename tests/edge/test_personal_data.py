"""A user's data is handed out and erased, wherever it is kept, and what is left still verifies."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from websockets.asyncio.client import connect

from tests.conftest import ROOT
from tests.edge.peer import KEY, ask, bearer, receive, token
from tests.edge.workers import deployment, until_ready

MARKER = "planted-7f3a2b"
ROOM = "chat:lobby"


async def realtime(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a deployment that environment variables name."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "realtime", *arguments],
        env={**kept, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def exported(variables: dict[str, str], user: str = "alice") -> dict[str, list[dict]]:
    done = await realtime(variables, "user", "export", user, "--tenant", "acme")
    assert (done.returncode, done.stderr) == (0, ""), done
    found: dict[str, list[dict]] = {}
    for line in map(json.loads, done.stdout.splitlines()):
        found.setdefault(line["kept"], []).append(line)
    return found


async def erased(variables: dict[str, str], user: str = "alice") -> dict:
    done = await realtime(variables, "user", "erase", user, "--tenant", "acme")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


async def entered(server, user: str, room: str = ROOM):
    """Connect and join; return the connection and what `joined` said."""
    ws = await connect(server.ws_url, additional_headers=bearer(token(user, tenant="acme")))
    await receive(ws)
    return ws, (await ask(ws, type="join", room=room, id="join"))["content"]


async def say(ws, text: str, room: str = ROOM) -> None:
    content = {"text": text}
    answer = await ask(ws, type="chat_message", room=room, id=text, content=content, key=text)
    assert answer["type"] == "ack", answer


async def history(ws, room: str = ROOM) -> list[dict]:
    return (await ask(ws, type="history", room=room, id="history", content={"limit": 100}))["content"][
        "messages"
    ]


async def talk(server) -> None:
    """Alice and Bob talk in a room, and Alice is refused something."""
    (alice, _), (bob, _) = await entered(server, "alice"), await entered(server, "bob")
    for number in range(3):
        await say(alice, f"{MARKER} {number}")
        await say(bob, f"bob's {number}")
    await alice.close()
    await bob.close()


def check_tombstones(messages: list[dict], pseudonym: str) -> None:
    """Every second message was Alice's: it has its place, and nothing of her."""
    assert [message["offset"] for message in messages] == [1, 2, 3, 4, 5, 6]
    assert [message["from"] for message in messages] == [pseudonym, "bob"] * 3
    assert [message["content"] for message in messages[::2]] == [{"erased": True}] * 3
    assert [message["content"]["text"] for message in messages[1::2]] == ["bob's 0", "bob's 1", "bob's 2"]
    assert {message["type"] for message in messages} == {"chat_message"}


async def test_a_server_alone_keeps_a_user_in_two_files_and_both_are_erased(serve, tmp_path: Path):
    files = {"sqlite_path": str(tmp_path / "rooms.sqlite"), "audit_path": str(tmp_path / "audit.sqlite")}
    variables = {f"REALTIME_{name.upper()}": value for name, value in files.items()}
    server = serve(jwt_secret=KEY, **files)
    await talk(server)
    found = await exported(variables)
    assert [line["message"]["content"]["text"] for line in found["publication"]] == [
        f"{MARKER} {number}" for number in range(3)
    ]
    refused = await realtime(variables, "user", "erase", "alice", "--tenant", "acme")
    assert refused.returncode == 1
    assert "in use by another server" in refused.stderr, "its memory has them too"
    server.stop()
    found = await exported(variables)
    assert {line["entry"]["actor"] for line in found["audit"]} == {"alice", "operator"}
    done = await erased(variables)
    assert (done["publications"], done["rooms"]) == (3, 1)
    assert done["audit_entries"] >= 2
    content = b"".join(path.read_bytes() for path in map(Path, _files(tmp_path)))
    assert b"bob's 2" in content
    assert MARKER.encode() not in content
    assert b"alice" not in content
    assert (await realtime(variables, "audit", "verify")).returncode == 0
    assert (await exported(variables)).keys() <= {"audit"}, "of the export itself"
    server.start()
    bob, _ = await entered(server, "bob")
    check_tombstones(await history(bob), done["pseudonym"])
    await bob.close()


def _files(folder: Path) -> list[str]:
    return [os.path.join(folder, name) for name in os.listdir(folder)]


async def test_workers_that_run_forget_an_erased_user_too(serve, redis_node, postgres, tmp_path: Path):
    url = await postgres.new_database()
    audit = {"audit_path": str(tmp_path / "none.sqlite")}
    common = deployment(redis_node.url, jwt_secret=KEY, postgres_url=url, **audit)
    variables = {
        "REDIS_URL": redis_node.url,
        "REALTIME_REDIS_PREFIX": common["redis_prefix"],
        "POSTGRES_URL": url,
        "REALTIME_AUDIT_PATH": audit["audit_path"],
    }
    servers = [serve(**common) for _ in range(2)]
    for server in servers:
        await until_ready(server)
    listeners = [await entered(server, "carol") for server in servers]
    await talk(servers[0])
    found = await exported(variables)
    assert len(found["publication"]) == 3
    assert [line["room"] for line in found["recent_room"]] == [ROOM]
    assert MARKER.encode() in await _redis_dump(redis_node.url, common["redis_prefix"])
    done = await erased(variables)
    assert (done["publications"], done["renewed_rooms"]) == (3, 1)
    assert MARKER.encode() not in await _redis_dump(redis_node.url, common["redis_prefix"])
    for ws, _ in listeners:
        while (push := await receive(ws))["type"] != "gap":
            pass
        assert push["content"]["reason"] == "epoch_changed"
        check_tombstones(await history(ws), done["pseudonym"])
    await say(listeners[0][0], "goes on")
    assert [message["offset"] for message in await history(listeners[1][0])] == [1, 2, 3, 4, 5, 6, 7]
    for server in servers:
        bob, joined = await entered(server, "bob")
        assert joined["offset"] == 7
        assert MARKER not in json.dumps(await history(bob))
        await bob.close()
    for ws, _ in listeners:
        await ws.close()
    assert (await realtime(variables, "audit", "verify")).returncode == 0
    connection = await asyncpg.connect(url)
    left = await connection.fetch("SELECT * FROM realtime.publications")
    left += await connection.fetch("SELECT * FROM realtime.audit_entries")
    await connection.close()
    assert MARKER not in repr(left)
    assert "alice" not in repr(left)


async def _redis_dump(url: str, prefix: str) -> bytes:
    """All values of the streams of a deployment."""
    import redis.asyncio

    client = redis.asyncio.Redis.from_url(url)
    try:
        streams = [key async for key in client.scan_iter(f"{prefix}:*:s")]
        return b"".join([repr(await client.xrange(key)).encode() for key in streams])
    finally:
        await client.aclose()


async def test_rooms_without_a_store_forget_an_erased_user_in_a_redis_cluster(
    serve, redis_cluster, tmp_path: Path
):
    common = deployment(redis_cluster.url, jwt_secret=KEY, audit_path=str(tmp_path / "audit.sqlite"))
    variables = {
        "REDIS_URL": redis_cluster.url,
        "REALTIME_REDIS_PREFIX": common["redis_prefix"],
        "REALTIME_AUDIT_PATH": common["audit_path"],
    }
    server = serve(**common)
    await until_ready(server)
    await talk(server)
    done = await erased(variables)
    assert (done["publications"], done["renewed_rooms"]) == (0, 1)
    bob, joined = await entered(server, "bob")
    assert MARKER not in json.dumps([joined, await history(bob)])
    await say(bob, "goes on")
    await bob.close()
    assert (await realtime(variables, "audit", "verify")).returncode == 0


async def test_a_users_own_room_is_erased_and_its_name_with_it(serve, tmp_path: Path):
    files = {"sqlite_path": str(tmp_path / "rooms.sqlite"), "audit_path": ""}
    variables = {f"REALTIME_{name.upper()}": value for name, value in files.items()}
    server = serve(**files)
    server.stop()
    db = sqlite3.connect(files["sqlite_path"])
    push = json.dumps({"type": "t", "room": "user:alice", "from": "bob", "content": MARKER, "offset": 1})
    db.execute("INSERT INTO rooms (tenant, name) VALUES ('acme', 'user:alice')")
    db.execute("INSERT INTO publications VALUES (1, 1, 'e', ?, ?, NULL, 0)", (push.encode(), b'"bob"'))
    db.commit()
    done = await erased(variables)
    (left,) = db.execute("SELECT push FROM publications").fetchone()
    (name,) = db.execute("SELECT name FROM rooms").fetchone()
    db.close()
    assert name == f"user:{done['pseudonym']}"
    assert json.loads(left) == {
        "type": "t", "room": name, "from": "bob", "content": {"erased": True}, "offset": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", ""], "empty"),
        (["erase", "alice", "--tenant", "a b"], "must match"),
        (["export", "alice"], "there is no file"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, arguments: list[str], says: str):
    nowhere = {f"REALTIME_{name}_PATH": str(tmp_path / name) for name in ("SQLITE", "AUDIT")}
    done = await realtime(nowhere, "user", *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr
