"""The audit log of real servers: what they record, what the command says of it, and what is not in it."""

import asyncio
import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.conftest import ROOT, Server
from tests.edge.peer import KEY, ask, bearer, closed, get, metric, receive, refused, token
from tests.edge.workers import deployment, until_ready
from tests.oracles.audit import first_bad

FORMULAS = ["=1+1", "+1", "-1", "@SUM(1)", "|calc", "%0A", "＝1", '"=1', "'=1"]  # noqa: RUF001


class Place:
    """Where a log is kept, and the command on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = {"audit_path": str(path)}

    async def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "realtime", *arguments],
            env={**kept, "REALTIME_AUDIT_PATH": str(self.path), **variables},
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=False,
        )

    async def entries(self, *filters: str) -> list[dict]:
        done = await self.run("audit", "export", *filters)
        assert (done.returncode, done.stderr) == (0, b""), done
        return [json.loads(line) for line in done.stdout.splitlines()]

    async def lines(self, *arguments: str, code: int = 0, **variables: str) -> list[str]:
        done = await self.run("audit", *arguments, **variables)
        assert (done.returncode, done.stderr) == (code, b""), done
        return done.stdout.decode().splitlines()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "audit.sqlite")


async def kept(server: Server) -> None:
    """Wait until all that the server was told of is kept."""
    async with asyncio.timeout(60):
        while metric(server, "audit_queued_entries") or not metric(server, "audit_entries_total"):
            await asyncio.to_thread(get, f"{server.url}/health")


async def test_who_came_and_who_was_refused_is_on_record_while_the_server_runs(serve, place: Place):
    server = serve(jwt_secret=KEY, **place.settings)
    async with connect(server.ws_url, additional_headers=bearer(token("alice", tenant="acme"))) as ws:
        await receive(ws)
    bad = token("mallory", key="another key of 32 characters....")
    assert (await refused(server.ws_url, additional_headers=bearer(bad))).status_code == 401
    server.stop()
    came, denied = sorted(await place.entries("--action", "connection.open"), key=lambda one: one["at"])
    assert (came["tenant"], came["actor"], came["outcome"], came["source"]) == (
        *("acme", "alice", "allowed", "127.0.0.1"),
    )
    assert (denied["tenant"], denied["outcome"], denied["source"]) == ("", "denied", "127.0.0.1")
    assert denied["detail"]["reason"] == "unauthorized"
    assert [line[:3] for line in await place.lines("verify")] == ["ok ", "ok "]


async def test_who_is_cut_off_over_a_limit_is_on_record(serve, place: Place):
    server = serve(jwt_secret=KEY, errors_burst=3, room_lag_limit_messages=20, **place.settings)
    nagging = await connect(server.ws_url, additional_headers=bearer(token("nagging", tenant="acme")))
    with suppress(ConnectionClosed):
        for _ in range(10):
            await nagging.send('{"type":"nonsense"}')
    assert (await closed(nagging))[0] == 4509
    slow = await connect(server.ws_url, additional_headers=bearer(token("slow", tenant="acme")), max_queue=1)
    await receive(slow)
    assert (await ask(slow, type="join", room="events:r", id=1))["type"] == "joined"
    async with connect(server.ws_url, additional_headers=bearer(token("loud", tenant="acme"))) as loud:
        await receive(loud)
        assert (await ask(loud, type="join", room="events:r", id="join"))["type"] == "joined"
        content = {"pad": "x" * 60_000}
        while not metric(server, "slow_consumers_total"):
            for number in range(50):
                await ask(loud, type="publish", room="events:r", id=number, content=content)
    slow.transport.abort()
    server.stop()
    over = await place.entries("--action", "limit.exceeded")
    assert [(entry["actor"], entry["target"], entry["detail"]["code"]) for entry in over] == [
        ("nagging", "errors_per_second", 4509),
        ("slow", "room_lag_limit", 4001),
    ]
    assert over[0]["source"] == "127.0.0.1"


async def test_no_token_and_no_key_is_in_the_log(serve, place: Place):
    sealing = "planted-seal-key-5d1c0f4e9a7b3c2d8e6f"
    server = serve(jwt_secret=KEY, audit_key=sealing, **place.settings)
    good, bad = token("alice"), token("mallory", key="another key of 32 characters....")
    async with connect(server.ws_url, additional_headers=bearer(good)) as ws:
        await receive(ws)
        await ask(ws, type="refresh", id=1, content={"token": bad})
    await refused(server.ws_url, additional_headers=bearer(bad))
    server.stop()
    files = b"".join(path.read_bytes() for path in place.path.parent.iterdir())
    assert b"connection.open" in files
    said = server.whole_log().encode() + files
    for secret in (good, bad, *good.split("."), *bad.split("."), sealing, KEY):
        assert secret.encode() not in said
    assert (await place.run("audit", "verify", REALTIME_AUDIT_KEY=sealing)).returncode == 0
    assert (await place.run("audit", "verify", REALTIME_AUDIT_KEY="x" * 32)).returncode == 1


async def test_reloading_is_on_record(serve, place: Place, tmp_path: Path):
    policy = tmp_path / "policy.toml"
    policy.write_text("")
    server = serve(policy_path=str(policy), **place.settings)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_line("reloaded")
    policy.write_text("nonsense = [")
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_line("reload refused")
    server.stop()
    told = [(entry["actor"], entry["outcome"], entry["target"]) for entry in await place.entries()]
    assert told == [("operator", "allowed", "policy.toml"), ("operator", "failed", "policy.toml")]


async def test_a_log_that_was_changed_is_found_by_the_command(serve, place: Place):
    server = serve(jwt_secret=KEY, **place.settings)
    for name in ("alice", "bob", "carol"):
        async with connect(server.ws_url, additional_headers=bearer(token(name))) as ws:
            await receive(ws)
    await kept(server)
    (noted,) = await place.lines("head")
    assert await place.lines("verify", "--expect-head", noted) == [
        f"ok   default: 3 entries, 1 to 3, head {noted}"
    ]
    db = sqlite3.connect(place.path)
    db.executescript("DROP TRIGGER audit_entries_hold; UPDATE audit_entries SET actor = 'eve' WHERE seq = 2")
    db.close()
    found = await place.lines("verify", code=1)
    assert found[1] == (
        "BAD  default: entry 2: its content is not what its hash says: one of the two was changed"
    )


async def test_a_tail_that_was_cut_off_is_found_against_a_noted_head(serve, place: Place, tmp_path: Path):
    server = serve(jwt_secret=KEY, **place.settings)
    for name in ("alice", "bob"):
        async with connect(server.ws_url, additional_headers=bearer(token(name))) as ws:
            await receive(ws)
    server.stop()
    heads = tmp_path / "heads"
    heads.write_text("\n".join(await place.lines("head")))
    db = sqlite3.connect(place.path)
    db.executescript(
        "DROP TRIGGER audit_entries_stay; DELETE FROM audit_entries WHERE seq = 2; UPDATE audit_chains SET "
        "seq = 1, hash = (SELECT hash FROM audit_entries WHERE seq = 1)"
    )
    db.close()
    assert len(await place.lines("verify")) == 1, "a chain alone cannot tell"
    found = await place.lines("verify", "--expect-heads", str(heads), code=1)
    assert "cut off" in found[1]
    db = sqlite3.connect(place.path)
    db.executescript("DELETE FROM audit_entries; DELETE FROM audit_chains")
    db.close()
    assert "cut off" in (await place.lines("verify", "--expect-heads", str(heads), code=1))[1]


async def test_others_verify_an_export_by_what_the_docs_say(serve, place: Place):
    server = serve(jwt_secret=KEY, **place.settings)
    for name in ("alice", 'b\\ö"b', "carol"):
        async with connect(server.ws_url, additional_headers=bearer(token(name))) as ws:
            await receive(ws)
    await refused(server.ws_url, additional_headers=bearer("none"))
    server.stop()
    nothing = {"REALTIME_SQLITE_PATH": ""}
    assert (await place.run("user", "erase", "alice", **nothing)).returncode == 0
    lines = await place.lines("export", "--proofs")
    assert len(lines) == 5
    assert first_bad(lines) is None
    changed = [line.replace('"carol"', '"eve"') for line in lines]
    assert first_bad(changed) == "default:3"
    assert first_bad([*lines[:2], *lines[3:]]) == "default:3"


async def test_a_spreadsheet_runs_nothing_of_what_users_call_themselves(serve, place: Place):
    server = serve(jwt_secret=KEY, **place.settings)
    for name in FORMULAS:
        async with connect(server.ws_url, additional_headers=bearer(token(name))) as ws:
            await receive(ws)
    server.stop()
    exported = (await place.run("audit", "export", "--format", "csv")).stdout.decode()
    assert exported.count("\r\n") == len(FORMULAS) + 1
    records = list(csv.DictReader(io.StringIO(exported, newline="")))
    assert [record["actor"] for record in records] == [f"'{name}" for name in FORMULAS]
    for record in records:
        for cell in record.values():
            assert not cell or cell[0] not in '=+-@\t\r\n"|%＝', cell  # noqa: RUF001
    assert [entry["actor"] for entry in await place.entries()] == FORMULAS, "JSON is as it was recorded"


async def test_what_is_shown_moves_no_cursor(serve, place: Place):
    server = serve(**place.settings)
    server.stop()
    db = sqlite3.connect(place.path)
    db.execute(
        "INSERT INTO audit_entries VALUES ('x', 1, 0, 0, 1, 'room.join', 'denied', ?, '', '', '{}', x'', "
        "NULL, x'', x'')",
        ("\x1b[2J\u202eevil",),
    )
    db.commit()
    db.close()
    shown = "\n".join(await place.lines("show"))
    assert "\\x1b[2J\\u202eevil" in shown
    assert "\x1b" not in shown
    assert (await place.run("audit", "verify")).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "--since", "yesterday"], "no time"),
        (["show", "--limit", "0"], "1 to 1000000"),
        (["show", "--action", "room.dance"], "invalid choice"),
        (["show", "--tenant", "a b"], "must match"),
        (["verify", "--expect-head", "acme:1"], "TENANT:SEQ:HASH"),
        (["verify", "--expect-heads", "/nowhere/heads"], "cannot be read"),
        (["retention"], "give --days"),
        (["verify"], "there is no audit log"),
    ],
)
async def test_what_the_command_cannot_do_is_said_in_one_line(place: Place, arguments: list[str], says: str):
    done = await place.run("audit", *arguments)
    assert done.returncode in (1, 2)
    assert says in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


async def test_no_log_is_kept_where_none_is_wanted(serve, place: Place, tmp_path: Path):
    server = serve(jwt_secret=KEY, audit_path="")
    async with connect(server.ws_url, additional_headers=bearer(token("alice"))) as ws:
        await receive(ws)
    server.stop()
    assert not os.listdir(tmp_path)
    done = await place.run("audit", "show", REALTIME_AUDIT_PATH="")
    assert b"there is no audit log: set audit_path" in done.stderr


async def test_entries_go_for_their_age_by_command(serve, place: Place):
    server = serve(jwt_secret=KEY, **place.settings)
    async with connect(server.ws_url, additional_headers=bearer(token("alice"))) as ws:
        await receive(ws)
    await kept(server)
    assert await place.lines("retention", "--days", "1") == ["dropped 0 entries older than 1 days"]
    assert len(await place.entries()) == 1


# ---------------------------------------------------------------- what operators do, over Redis


async def test_what_an_operator_does_is_on_record_once_and_says_who(serve, redis_node, place: Place):
    common = deployment(redis_node.url, jwt_secret=KEY)
    servers = [serve(**common, **place.settings) for _ in range(2)]  # which share the file
    for server in servers:
        await until_ready(server)
    names = {"REDIS_URL": common["redis_url"], "REALTIME_REDIS_PREFIX": common["redis_prefix"]}
    async with connect(servers[0].ws_url, additional_headers=bearer(token("alice"))) as ws:
        await receive(ws)
        assert (
            await place.run("publish", "chat:lobby", '{"text":"hi"}', "--type", "chat_message", **names)
        ).returncode == 0
        assert (await place.run("notify", "alice", "title", **names)).returncode == 0
        assert (await place.run("kick", "alice", **names)).returncode == 0
        await closed(ws)
    assert (await place.run("revoke", "--user", "bob", **names)).returncode == 0
    for server in servers:
        server.stop()
    acts = [entry for entry in await place.entries() if entry["actor"] == "operator"]
    assert sorted((entry["action"], entry["target"], entry["count"]) for entry in acts) == [
        ("admin.kick", "alice", 1),
        ("admin.notify", "alice", 1),
        ("admin.publish", "chat:lobby", 1),
        ("token.revoke", "bob", 1),
    ]
    assert all("@" in entry["detail"]["by"] for entry in acts)
    kicked = next(entry for entry in acts if entry["action"] == "admin.kick")
    assert kicked["detail"]["connections"] == 1
    assert (await place.run("audit", "verify")).returncode == 0


async def test_workers_of_one_database_write_one_chain(serve, redis_node, postgres, place: Place):
    url = await postgres.new_database()
    common = deployment(redis_node.url, jwt_secret=KEY, postgres_url=url)
    servers = [serve(**common, **place.settings) for _ in range(2)]
    for server in servers:
        await until_ready(server)
    for number in range(10):
        server = servers[number % 2]
        async with connect(server.ws_url, additional_headers=bearer(token(f"user{number}"))) as ws:
            await receive(ws)
    for server in servers:
        server.stop()
    done = await place.run("audit", "verify", POSTGRES_URL=url)
    assert (done.returncode, done.stdout[:26]) == (0, b"ok   default: 10 entries, "), done
    assert not place.path.exists(), "with a database there is no file"
