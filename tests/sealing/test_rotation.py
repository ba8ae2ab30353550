"""`realtime keys`: status, rewrap, rotate and seal, on real stores, beside servers, killed in the middle."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from realtime.backends.sealing.keyring import Keyring
from realtime.backends.sealing.masters import Masters, read_keys
from realtime.backends.sealing.store import Rows, SealedStore
from realtime.backends.sealing.stored import BATCH_ROWS
from realtime.backends.sealing.tables import PostgresKeys, SqliteKeys
from realtime.client import connect
from realtime.core.clock import SystemClock
from realtime.edge.audit import open_reader
from realtime.ids import DEFAULT_TENANT
from realtime.loading import CONFIG_VARIABLE
from realtime.settings import KNOBS, Settings
from tests.contract.stores import LOBBY, Owner, PostgresPlace, SqlitePlace, a_row
from tests.sealing.stage import ALL
from tests.tree import ROOT

KEY = "key.use"
SECRET_ROOM, OPEN_ROOM = "playlist:secret", "playlist:open"
POLICY = '[[rooms]]\nrooms = ["playlist:secret"]\nencrypted = true\n'
ALL_SEALED = '[[rooms]]\nrooms = ["*"]\nencrypted = true\n'


class Deployment:
    """A store and its settings; `keys` runs the command on it, `serve` a server."""

    def __init__(self, place: SqlitePlace | PostgresPlace, folder: Path, serve: Any) -> None:
        self.place = place
        self.policy = folder / "policy.toml"
        self.policy.write_text(POLICY)
        self._serve = serve
        self._names: dict[str, str] = {}
        self.settings: dict[str, str] = {
            "policy_path": str(self.policy),
            "audit_path": str(folder / "audit.sqlite"),
        }
        if isinstance(place, SqlitePlace):
            self.settings["sqlite_path"] = str(place.path)
        else:
            self.settings["postgres_url"] = place.url

    def use(self, *names: str) -> None:
        """Let these be the master keys."""
        for name in names:
            self._names.setdefault(name, base64.b64encode(os.urandom(32)).decode())
        self.settings["encryption_keys"] = ",".join(f"{name}:{self._names[name]}" for name in names)

    def serve(self) -> Any:
        return self._serve(**self.settings)

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        ours = {knob.variable for knob in KNOBS.values()} | {CONFIG_VARIABLE}
        environ = {name: value for name, value in os.environ.items() if name not in ours}
        environ |= {KNOBS[name].variable: value for name, value in self.settings.items()}
        return subprocess.Popen(
            [sys.executable, "-m", "realtime", "keys", *arguments],
            cwd=ROOT,
            env=environ | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def keys(self, *arguments: str, code: int = 0) -> str:
        process = self.popen(*arguments)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == code, said
        for secret in self._names.values():
            assert secret not in said
        return said

    async def talk(self, server: Any, *texts: str, room: str = SECRET_ROOM) -> None:
        async with connect(server.ws_url, user="alice") as client:
            joined = await client.join(room)
            for text in texts:
                await joined.publish("chat_message", text, key=f"key of {text}")

    async def texts(self, server: Any, room: str = SECRET_ROOM) -> list[str]:
        """All that was ever said in a room."""
        found: list[Any] = []
        async with connect(server.ws_url, user="reader") as client:
            joined = await client.join(room)
            more = True
            while more:
                page = await joined.history(after=found[-1].offset if found else 0, limit=100)
                found, more = found + page.messages, page.more
        return [message.content for message in found]

    async def audited(self) -> list[tuple[str, str | None]]:
        """What was done with keys by the audit log, and by whom."""
        reader = await open_reader(Settings(**self.settings))
        try:
            found = reader.entries(DEFAULT_TENANT)
            return [
                (json.loads(each.detail)["what"], each.actor) async for each in found if each.action == KEY
            ]
        finally:
            await reader.close()

    async def marks(self) -> dict[str, int]:
        """How many rows are sealed with which data key; `plain` are those that are not."""
        counted: dict[str, int] = {}
        for (push,) in await self.place.execute("SELECT push FROM publications"):
            name = bytes(push[1:9]).hex() if push[:1] == b"\xf9" else "plain"
            counted[name] = counted.get(name, 0) + 1
        return counted


@pytest.fixture(params=["sqlite", "postgres"])
async def deployment(request, tmp_path, serve) -> Deployment:
    if request.param == "sqlite":
        place: Any = SqlitePlace(tmp_path)
    else:
        place = PostgresPlace(await request.getfixturevalue("postgres").new_database())
    made = Deployment(place, tmp_path, serve)
    made.use("m1")
    return made


async def test_all_of_it_is_sealed_anew_and_read_and_the_old_master_key_is_not_needed(deployment):
    server = deployment.serve()
    await deployment.talk(server, "one", "two", "three")
    await deployment.talk(server, "open", room=OPEN_ROOM)
    server.stop()
    (first,) = set(await deployment.marks()) - {"plain"}
    assert re.search(rf"tenant default: data key 1 \({first}\) seals; opens", deployment.keys("status"))
    deployment.use("m2", "m1")
    assert "data keys rewrapped: 1 of 1 (100 %)" in deployment.keys("rewrap")
    assert (
        f"data key {first} of tenant default was wrapped by master key m2",
        "operator",
    ) in await deployment.audited()
    deployment.use("m2")
    said = deployment.keys("rotate")
    assert "data keys made: 1 of 1 (100 %)" in said
    assert "rows sealed: 3 of 3 (100 %)" in said
    marks = await deployment.marks()
    assert marks.pop("plain") == 1
    assert first not in marks
    assert sum(marks.values()) == 3
    server = deployment.serve()
    assert await deployment.texts(server) == ["one", "two", "three"]
    assert await deployment.texts(server, OPEN_ROOM) == ["open"]
    await deployment.talk(server, "four")
    server.stop()
    assert set(await deployment.marks()) == {"plain", *marks}


async def test_a_repeat_is_known_by_its_key_after_all_was_sealed_anew(deployment):
    server = deployment.serve()
    await deployment.talk(server, "one")
    server.stop()
    deployment.keys("rotate")
    await deployment.talk(deployment.serve(), "one")
    assert len(await deployment.place.execute("SELECT push FROM publications")) == 1


async def test_what_was_plain_before_the_room_was_encrypted_is_sealed_by_order(deployment):
    deployment.policy.write_text("")
    server = deployment.serve()
    await deployment.talk(server, "MARKER one", "MARKER two")
    server.stop()
    assert await deployment.marks() == {"plain": 2}
    deployment.policy.write_text(POLICY)
    said = deployment.keys("seal")
    assert "rows sealed: 2 of 2 (100 %)" in said
    assert "plain" not in await deployment.marks()
    if isinstance(deployment.place, SqlitePlace):
        assert "the file was written anew" in said
        lying = [path for path in deployment.place.path.parent.iterdir() if path.name.startswith("realtime.")]
        assert not [path for path in lying if b"MARKER" in path.read_bytes()], "not in free pages either"
    else:
        assert "VACUUM FULL realtime.publications" in said
    assert await deployment.texts(deployment.serve()) == ["MARKER one", "MARKER two"]


async def test_killed_in_the_middle_it_goes_on_where_it_was(deployment):
    server = deployment.serve()
    await deployment.talk(server, "one")
    server.stop()
    rows = 40 * BATCH_ROWS
    await multiply(deployment, rows)
    (first,) = await deployment.marks()
    run = deployment.popen("rotate")
    await until_some_are_done(deployment, first)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    marks = await deployment.marks()
    left = marks[first]
    assert 0 < left < rows, "it was in the middle"
    assert len(marks) == 2
    said = deployment.keys("seal")
    total = int(re.findall(r"rows sealed: .* of ([\d,]+) \(100 %\)", said)[-1].replace(",", ""))
    assert left - BATCH_ROWS <= total <= left, "what was under way may have been committed after it"
    assert first not in await deployment.marks()


async def multiply(deployment: Deployment, rows: int) -> None:
    """Have so many rows, sealed under the key that there is, in a room of their own beside the one row."""
    plain = await deployment.place.open()
    table = SqliteKeys(plain) if isinstance(deployment.place, SqlitePlace) else PostgresKeys(plain)
    ring = Keyring(Masters(read_keys(deployment.settings["encryption_keys"], None)), table, SystemClock())
    await ring.ensure(LOBBY.tenant)
    store = SealedStore(plain, Rows(ring, ALL))
    await Owner(store).keep(a_row(store, offset) for offset in range(1, rows))
    await store.close()


async def until_some_are_done(deployment: Deployment, first: str) -> None:
    async with asyncio.timeout(60):
        while await done(deployment, first) < 2 * BATCH_ROWS:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0)


async def done(deployment: Deployment, first: str) -> int:
    other = "x'%s'" if deployment.place.dialect == "sqlite" else r"'\x%s'::bytea"
    where = f"substr(push, 2, 8) <> {other % first}"
    return int((await deployment.place.execute(f"SELECT count(*) FROM publications WHERE {where}"))[0][0])


async def test_rows_that_cannot_be_read_stay_and_are_counted(deployment):
    server = deployment.serve()
    await deployment.talk(server, "one", "two", "three")
    server.stop()
    await deployment.place.execute("UPDATE publications SET epoch = 'other' WHERE \"offset\" = 2")
    said = deployment.keys("rotate", code=1)
    assert "offset 2 was tampered with" in said
    assert "rows sealed: 2 of 3 (100 %), 1 that cannot be read" in said
    assert len(await deployment.marks()) == 2


async def test_a_lost_master_key_is_named_by_status_and_by_the_server_and_another_may_take_over(deployment):
    server = deployment.serve()
    await deployment.talk(server, "lost")
    server.stop()
    deployment.use("m2")
    said = deployment.keys("status", code=1)
    assert "master key m1: MISSING; 1 data keys need it, 1 of them their tenants' newest" in said
    assert "needs master key m1, which is not configured" in said
    said = deployment.keys("rotate", code=1)
    assert "rows sealed: 0 of 1 (100 %), 1 that cannot be read" in said
    server = deployment.serve()
    server.wait_for_line("master key m1 IS MISSING: 1 data keys cannot be opened")
    await deployment.talk(server, "found", room=SECRET_ROOM)
    assert "found" not in str(await deployment.place.execute("SELECT push FROM publications"))


async def test_one_tenant_alone(deployment):
    server = deployment.serve()
    await deployment.talk(server, "one")
    server.stop()
    assert "data keys made: 0 of 0" in deployment.keys("rotate", "--tenant", "acme")
    assert "data keys made: 1 of 1" in deployment.keys("rotate", "--tenant", "acme", "--tenant", "default")
    assert "tenant 'a b' must match" in deployment.keys("rotate", "--tenant", "a b", code=1)


async def test_an_sqlite_file_is_its_servers_and_the_command_says_so(tmp_path, serve):
    deployment = Deployment(SqlitePlace(tmp_path), tmp_path, serve)
    deployment.use("m1")
    server = deployment.serve()
    said = deployment.keys("status", code=1)
    assert f"is in use by another server, process {server.pid}; stop that one" in said


async def test_beside_a_running_server_nothing_is_lost(serve, postgres, tmp_path):
    deployment = Deployment(PostgresPlace(await postgres.new_database()), tmp_path, serve)
    deployment.use("m1")
    server = deployment.serve()
    texts = [str(number) for number in range(200)]
    talking = asyncio.create_task(deployment.talk(server, *texts))
    while not talking.done():
        await asyncio.to_thread(deployment.keys, "rotate")
    await talking
    assert await deployment.texts(server) == texts
    assert "rows sealed:" in deployment.keys("seal")
    assert len(await deployment.marks()) == 1
    assert await deployment.texts(server) == texts


def test_nothing_to_hold_keys_is_said(tmp_path):
    deployment = Deployment(SqlitePlace(tmp_path), tmp_path, None)
    assert "there is no file" in deployment.keys("status", code=1)
    deployment.settings["sqlite_path"] = ""
    assert "name a store (sqlite_path or postgres_url), or a redis_url" in deployment.keys("status", code=1)
