"""Planted secrets: every secret setting and every token has a value of its own, and nothing lets it out.

Real servers are given the secrets and provoked in every way that makes them talk: bad tokens by all carriers,
databases that refuse them, handlers that fail, settings that will not do. All that they say is looked through
for each secret, as it is and in the disguises in which it would still be one. A secret setting that is new is
planted by itself, for the list is the one that the server has.
"""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime.protocol.recording import REMOVED
from realtime.settings import KNOBS, Knob
from tests.certificates import Authority
from tests.conftest import ROOT, Server
from tests.edge.peer import JSON, PATIENCE_S, bearer, closed, get, receive, token
from tests.edge.workers import deployment
from tests.ports import free_port
from tests.postgres import children

SECRET_KNOBS = [knob for knob in KNOBS.values() if knob.secret]
ORIGIN = "https://app.example.com"


class Sieve:
    """Knows the secrets, and says which of them stand where."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}
        self.looked: set[str] = set()
        self.found: list[str] = []

    def plant(self, name: str, secret: str) -> str:
        """Look for `secret` from now on."""
        assert len(secret) >= 12, "too short to be told from chance"
        self._secrets[name] = secret
        return secret

    def look(self, where: str, said: str | bytes) -> None:
        """Look through what was said in one place."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        assert text, f"{where} says nothing"
        self.looked.add(where)
        for name, secret in self._secrets.items():
            self.found += [f"{name} ({how}) in {where}" for how, form in disguises(secret) if form in text]


def disguises(secret: str) -> list[tuple[str, str]]:
    """The forms in which a secret is still one."""
    raw = secret.encode()
    forms = [("as it is", secret), ("hex", raw.hex()), ("HEX", raw.hex().upper())]
    forms += [("URL-encoded", quote(secret, safe="")), ("JSON", json.dumps(secret)[1:-1])]
    forms += [("reversed", secret[::-1]), ("repr", repr(secret)[1:-1])]
    for shift in range(3):  # base64 by where it begins: its own digits, without those that neighbours share
        whole = base64.b64encode(bytes(shift) + raw).decode()
        inner = whole[4 if shift else 0 : -4]
        forms += [("base64", inner), ("base64url", inner.translate(str.maketrans("+/", "-_")))]
    return forms


def marker() -> str:
    """A secret that stands nowhere else."""
    return f"planted+{secrets.token_urlsafe(24)}/%=ö"


def plant_knob(sieve: Sieve, knob: Knob, **addresses: str) -> str:
    """Return a value for a secret setting, with a secret in it."""
    if knob.unit == "url":
        password = sieve.plant(knob.name, secrets.token_urlsafe(24))
        return addresses[knob.name].replace("SECRET", password)
    if knob.name == "encryption_keys":
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        return f"main:{sieve.plant(knob.name, key)}"
    return sieve.plant(knob.name, marker().replace(",", ""))


@pytest.fixture
def sieve():
    sieve = Sieve()
    yield sieve
    assert not sieve.found, "\n".join(["secrets were let out:", *sieve.found])


def test_the_sieve_finds_each_disguise():
    """Or the tests below could not fail."""
    sieve = Sieve()
    secret = sieve.plant("key", marker())
    for how, form in disguises(secret):
        sieve.found.clear()
        sieve.look("a page", f"before {form} behind")
        assert any(how in each for each in sieve.found), how
    sieve.found.clear()
    for shift in range(3):
        sieve.look("a page", base64.b64encode(b"x" * shift + secret.encode() + b"tail"))
    assert len(sieve.found) >= 3
    sieve.found.clear()
    sieve.look("a page", "nothing of the kind")
    assert sieve.found == []


# -- what a server says of its settings


def realtime(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return subprocess.run(
        [sys.executable, "-m", "realtime", *arguments],
        cwd=ROOT,
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


NOWHERE = {
    "postgres_url": "postgresql://nobody:SECRET@127.0.0.1:1/none?sslpassword=SECRET",
    "redis_url": "redis://nobody:SECRET@127.0.0.1:1",
    "autoscale_webhook_url": "http://127.0.0.1:1/hook?token=SECRET",
}


def planted_environment(sieve: Sieve) -> dict[str, str]:
    return {knob.variable: plant_knob(sieve, knob, **NOWHERE) for knob in SECRET_KNOBS}


@pytest.mark.parametrize(
    "command",
    [
        *(["settings", "--format", how] for how in ("table", "json", "markdown")),
        ["check", "--port", "0"],
        ["serve", "--help"],
        ["serve", "--port", "0", "--workers", "1", "--redis-timeout-s", "0.2"],
        ["migrate", "--status"],
        ["token", "make", "--help"],
        ["publish", "chat:lobby", "{}", "--help"],
    ],
    ids=" ".join,
)
def test_commands_print_no_secret(sieve: Sieve, command: list[str]):
    environ = planted_environment(sieve)
    if "serve" in command and "--help" not in command:
        environ.pop("REDIS_URL")  # Redis that is not there is waited for; PostgreSQL ends the start
    done = realtime(*command, **environ)
    sieve.look("what it printed", done.stdout + done.stderr)


@pytest.mark.parametrize("knob", SECRET_KNOBS, ids=lambda knob: knob.name)
@pytest.mark.parametrize("source", ["environment", "file"])
def test_a_secret_that_will_not_do_is_refused_without_being_quoted(
    sieve: Sieve, knob: Knob, source: str, tmp_path: Path
):
    secret = sieve.plant(knob.name, secrets.token_urlsafe(24))
    if source == "environment":
        done = realtime("settings", **{knob.variable: f"no://{secret} value\n"})
    else:
        path = tmp_path / "realtime.toml"
        path.write_text(f"[{knob.name}]\nof_another_type = '{secret}'\n")
        done = realtime("settings", "--config", str(path))
        assert (done.returncode, knob.name in done.stderr) == (1, True)
    sieve.look("the refusal", done.stdout + done.stderr)


def test_no_secret_has_an_option():
    """A command line is read by everybody on the machine."""
    said = realtime("serve", "--help").stdout
    for knob in SECRET_KNOBS:
        assert f"{knob.option} " not in said, knob.name


# -- what a running server says


class Talk:
    """Collects what clients are told: frames, close reasons, HTTP answers."""

    def __init__(self, sieve: Sieve) -> None:
        self._sieve = sieve
        self.greeted = 0

    async def visit(self, where: str, url: str, *messages: str, **how: object) -> None:
        """Connect, say something, and listen until the server closes, or nothing more has to be said."""
        try:
            async with connect(url, origin=ORIGIN, **how) as ws:
                with contextlib.suppress(ConnectionClosed):
                    for message in (*messages, '{"type":"ping","id":"the end"}'):
                        await ws.send(message)
                await self._listen(where, ws)
        except InvalidStatus as error:
            answer = error.response
            self._sieve.look(
                where, f"{answer.status_code} {list(answer.headers.raw_items())} {answer.body!r}"
            )

    async def _listen(self, where, ws) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    frame = await ws.recv()
                except ConnectionClosed:
                    self._sieve.look(where, f"{ws.close_code} {ws.close_reason}")
                    return
                self._sieve.look(where, frame)
                self.greeted += '"connected"' in frame
                if "the end" in frame:
                    return


async def provoke(sieve: Sieve, server: Server, key: str) -> None:
    """Say everything that a server answers with an error, with tokens that nobody else is to see."""
    talk = Talk(sieve)
    good = sieve.plant("a good token", token("alice", key=key))
    bad = {
        "with another key": token("alice", key=marker()),
        "expired": token("alice", ttl_s=-100, key=key),
        "with claims of another type": token("alice", key=key, tenant=7),
        "of another user": token("bob", key=key),
        "cut": good[:-9],
        "that is none": marker().replace("ö", "o"),
    }
    for how, text in {"good": good, **bad}.items():
        sieve.plant(f"a token {how}", text)
        for path in ("", "/alice"):
            url = f"{server.ws_url}{path}"
            await talk.visit(f"by header, {how}", url, additional_headers=bearer(text))
            await talk.visit(f"by query, {how}", f"{url}?token={quote(text)}")
            cookie = {"Cookie": f"session={text}"}
            await talk.visit(f"by cookie, {how}", url, additional_headers=cookie)
            first = json.dumps({"type": "connect", "id": 1, "content": {"token": text}})
            # A handler that fails has what led there written down, the token before it with it.
            more = '{"type":"fail","id":2}', first[:-9]
            await talk.visit(f"by first message, {how}", url, first, *more, subprotocols=[JSON])
            if not set(text) & set("+/%= "):
                await talk.visit(f"by subprotocol, {how}", url, subprotocols=[JSON, f"bearer.{text}"])
    said = [
        *('{"type":"fail","id":1}', '{"type":"fail_later","id":2}', '{"type":"nonsense","id":3}', "{", "[]"),
        '{"type":"join","id":4,"room":"nokind:x"}',
        '{"type":"join","id":5,"room":"chat:secrets"}',
        '{"type":"chat_message","id":6,"room":"chat:secrets","content":{"text":"hi"}}',
        '{"type":"chat_message","id":7,"room":"chat:elsewhere","content":{}}',
        '{"type":"history","id":8,"room":"chat:secrets","content":{"limit":"many"}}',
        json.dumps({"type": "refresh", "id": 9, "content": {"token": bad["with another key"]}}),
    ]
    await talk.visit("in a conversation", server.ws_url, *said, additional_headers=bearer(good))
    assert talk.greeted >= 5, "the good token was refused: nothing has been said to anybody"


def look_around(sieve: Sieve, server: Server) -> None:
    """Look through all that a server says without being talked to."""
    for path in ("/health", "/ready", "/metrics", "/nothing", "/?token=x", "/ws"):
        status, headers, body = get(f"{server.url}{path}")
        sieve.look(path, f"{status} {headers.items()} {body.decode()}")
    for pid in (server.pid, *children(server.pid)):
        # The environment has them, and is the owner's alone; command line and name are everybody's.
        sieve.look("a command line", Path(f"/proc/{pid}/cmdline").read_bytes())
        sieve.look("a process' name", Path(f"/proc/{pid}/comm").read_text())


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.alone
async def test_a_server_alone_lets_nothing_out(serve, sieve: Sieve, tmp_path: Path, log_format: str):
    authority = Authority(tmp_path)
    pair = authority.sign()
    sieve.plant("the private key", pair.key.read_text().splitlines()[1])
    settings = {knob.name: plant_knob(sieve, knob) for knob in SECRET_KNOBS if knob.unit != "url"}
    server = serve(
        "tests.failing",
        **settings,
        **{"tls_port": free_port(), **pair.settings()},
        log_level="debug",
        log_format=log_format,
        allow_query_token="true",
        token_cookie="session",
        allowed_origins=ORIGIN,
        audit_path=str(tmp_path / "audit.sqlite"),
        penalty_threshold=0,  # so many bad tokens would be punished, and the rest not looked at
        max_connections_per_user=1000,
        handshake_timeout_s=0.5,
        sqlite_path=str(tmp_path / "rooms.sqlite"),
        recorder_bytes=65_536,
        recorder_payload_bytes=200,  # some tokens are cut
        recorder_dir=str(tmp_path / "recordings"),
        recorder_files_per_minute=1000,
    )
    server.may_log_tracebacks = True
    await provoke(sieve, server, settings["jwt_secret"])
    look_around(sieve, server)
    pair.key.write_text(pair.key.read_text().replace("MIG", "MIH"))
    os.kill(server.pid, 1)
    await asyncio.to_thread(server.wait_for_line, "reload refused")
    await asyncio.to_thread(server.stop)
    environ = {"REALTIME_AUDIT_PATH": str(tmp_path / "audit.sqlite"), "REALTIME_SQLITE_PATH": ""}
    environ["REALTIME_AUDIT_KEY"] = settings["audit_key"]
    for command in (["show"], ["export"], ["export", "--format", "csv"], ["export", "--proofs"], ["verify"]):
        done = realtime("audit", *command, **environ)
        assert done.returncode == 0, done.stderr
        sieve.look(f"audit {command}", done.stdout + done.stderr)
    sieve.look("the file of the audit log", (tmp_path / "audit.sqlite").read_bytes())
    sieve.look("the log", server.whole_log())
    recordings = list((tmp_path / "recordings").iterdir())
    for path in recordings:
        sieve.look("a recording", path.read_bytes())
        sieve.look("a recording, shown", realtime("record", "--show", str(path)).stdout)
    assert any(REMOVED in path.read_text() for path in recordings), "no token was said before a failure"
    assert "Traceback" in server.whole_log(), "no handler failed: nothing was provoked"
    assert len(sieve.looked) > 30


@pytest.mark.alone
async def test_workers_of_a_cluster_let_nothing_out(serve, sieve: Sieve, own_redis_node, postgres):
    password = sieve.plant("redis_url", secrets.token_urlsafe(24))
    own_redis_node.ask("CONFIG", "SET", "requirepass", password)
    redis = f"redis://:{password}@127.0.0.1:{own_redis_node.port}"
    database = (await postgres.new_database()).replace(
        "postgres@", f"postgres:{sieve.plant('postgres_url', secrets.token_urlsafe(24))}@"
    )
    settings = {knob.name: plant_knob(sieve, knob) for knob in SECRET_KNOBS if knob.unit != "url"}
    server = serve(
        "tests.failing",
        **deployment(redis, workers=2, node="n", postgres_url=database),
        **settings,
        log_level="debug",
        allow_query_token="true",
        handshake_timeout_s=0.5,
        token_cookie="session",
        allowed_origins=ORIGIN,
        penalty_threshold=0,
    )
    server.may_log_tracebacks = True
    await provoke(sieve, server, settings["jwt_secret"])
    own_redis_node.ask("CONFIG", "SET", "requirepass", "another")  # so it is refused when it comes back
    own_redis_node.redis.connection_pool.connection_kwargs["password"] = "another"
    with contextlib.suppress(Exception):
        own_redis_node.ask("CLIENT", "KILL", "TYPE", "normal")
    own_redis_node.kill()
    await provoke(sieve, server, settings["jwt_secret"])
    look_around(sieve, server)
    await asyncio.to_thread(server.stop)
    sieve.look("the log", server.whole_log())
    assert "Traceback" in server.whole_log(), "no handler failed: nothing was provoked"


async def test_databases_that_refuse_us_are_told_of_without_the_password(
    sieve: Sieve, own_redis_node, postgres, tmp_path: Path
):
    password = secrets.token_urlsafe(24)
    own_redis_node.ask("CONFIG", "SET", "requirepass", password)
    own_redis_node.redis.connection_pool.connection_kwargs["password"] = password
    wrong = sieve.plant("a wrong password", secrets.token_urlsafe(24))
    common = {"REALTIME_PORT": "0", "REALTIME_SQLITE_PATH": "", "REALTIME_LOG_LEVEL": "debug"}
    done = realtime("serve", REDIS_URL=f"redis://:{wrong}@127.0.0.1:{own_redis_node.port}", **common)
    assert done.returncode == 1
    sieve.look("refused by Redis", done.stdout + done.stderr)
    sieve.look(
        "checked with Redis",
        realtime("check", REDIS_URL=f"redis://:{wrong}@127.0.0.1:{own_redis_node.port}", **common).stdout,
    )
    url = postgres.url("nowhere").replace("postgres@", f"nobody:{wrong}@")
    done = realtime("serve", POSTGRES_URL=url, **common)
    assert done.returncode == 1
    sieve.look("refused by PostgreSQL", done.stdout + done.stderr)
    sieve.look("checked with PostgreSQL", realtime("check", POSTGRES_URL=url, **common).stdout)


def test_the_example_of_an_environment_file_has_no_secret():
    """What is copied without being filled in must not open anything."""
    for line in (ROOT / "systemd" / "realtime.env.example").read_text().splitlines():
        name, found, value = line.partition("=")
        knob = next((knob for knob in SECRET_KNOBS if knob.variable == name), None)
        if found and knob is not None and knob.unit != "url":
            assert value == "", f"{name} has a value that many would keep"


async def test_a_session_is_not_told_of_other_secrets(serve, sieve: Sieve):
    """The greeting and the answers name the server's limits, and nothing else of its settings."""
    secret = sieve.plant("jwt_secret", marker())
    server = serve(jwt_secret=secret)
    async with connect(server.ws_url, additional_headers=bearer(token("alice", key=secret))) as ws:
        hello = await receive(ws)
        sieve.look("the greeting", json.dumps(hello))
        await ws.send("x" * 70_000)
        sieve.look("the close", str(await closed(ws)))
