"""A deployment with its API process, for tests: embedded, or two workers on Redis and PostgreSQL."""

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from realtime.edge.rest.callers import new_key, stanza
from realtime.edge.rest.operations import OPERATIONS
from tests.conftest import Server
from tests.edge.peer import KEY, PATIENCE_S, get
from tests.edge.workers import deployment

METHODS = {each.name: each.method for each in OPERATIONS}
TIMEOUT_S = 3 * PATIENCE_S


class ApiServer(Server):
    """A `realtime api` process."""

    @property
    def command(self):
        return "-m", self.module, "api"

    def start(self):
        """The same port again, where it is started again."""
        super().start()
        self.settings["chat_api_port"] = self.port
        return self


@dataclass
class Keys:
    """Keys, by name, and what the policy says of them."""

    given: dict[str, str] = field(default_factory=dict)
    policy: str = ""

    def add(self, name, powers, tenants=("default",), rooms=("*",), rate=None):
        self.given[name], hash = new_key(name)
        self.policy += "\n" + stanza(name, hash, powers, tenants, rooms)
        if rate is not None:
            self.policy += f"requests_per_second = {rate}\n"
        return self


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def name(self):
        return self.body["name"]


def ask_now(url, path, bearer=None, /, *, method=None, headers=None, raw=None, **body):
    """Ask the API: a GET with a query where there is no body, unless `method` says otherwise."""
    data = raw
    if method is None:
        method = "POST" if body or raw is not None else "GET"
    if method == "GET" and body:
        path, body = f"{path}?{urlencode(body)}", {}
    headers = dict(headers or {})
    if method == "POST" and data is None:
        data = json.dumps(body).encode()
    if data is not None:
        headers.setdefault("Content-Type", "application/json")
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    request = urllib.request.Request(f"{url}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            status, told, content = response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        status, told, content = error.code, dict(error.headers), error.read()
    is_json = "json" in told.get("content-type", "")
    return Answer(status, told, json.loads(content) if is_json else content)


@dataclass
class Stage:
    """Workers and their API."""

    server: Server
    api: Server
    keys: Keys

    @property
    def url(self):
        return self.api.url

    async def ask(self, path, by="ops", /, **how):
        """Ask as the key of that name; one that is no name is given as it is, None is none."""
        given = self.keys.given.get(by, by)
        how = {"method": METHODS.get(path), **how}
        return await asyncio.to_thread(ask_now, self.url, f"/v1/{path}", given, **how)

    async def done(self, path, by="ops", /, **how):
        """The same of what succeeds: return what is told."""
        answer = await self.ask(path, by, **how)
        assert answer.status == 200, answer
        return answer.body

    def finish(self):
        self.api.finish()
        self.server.finish()


def everybody():
    """The keys that most tests ask by."""
    return (
        Keys()
        .add("ops", ["admin:*"], ["default", "*"])
        .add("acme", ["admin:*"], ["acme"])
        .add("reader", ["admin:presence", "admin:history"])
        .add("lobby", ["admin:publish"], rooms=["chat:lobby"])
        .add("slow", ["admin:rooms"], rate=0.001)
    )


def staged(folder: Path, keys: Keys, policy: str = "", **settings) -> Stage:
    """Start both; the API is ready when a worker answers it."""
    (folder / "policy.toml").write_text(policy + keys.policy)
    common = {
        "policy_path": str(folder / "policy.toml"),
        "jwt_secret": KEY,
        "max_connections_per_user": 1000,
        "chat_files_path": "",
        "audit_path": str(folder / "audit.sqlite"),
        "audit_window_s": 0,
        **settings,
    }
    if "redis_url" not in common:
        common["sqlite_path"] = str(folder / "rooms.sqlite")
    server = Server(common)
    api = ApiServer({**common, "port": 8000, "chat_api_port": 0})
    until_ready_now(server, api)
    return Stage(server, api, keys)


def until_ready_now(*servers):
    """Ask until /ready says yes; each answer takes as long as the server does."""
    for server in servers:
        for _ in range(2000):
            status, _, _ = get(f"{server.url}/ready")
            if status == 200:
                break
        else:
            raise AssertionError(f"never ready: {server.whole_log()}")


def staged_cluster(folder, keys, redis_url, postgres_url, policy="", **settings):
    """The same of two workers that share a Redis and a PostgreSQL."""
    common = deployment(redis_url, workers=2, postgres_url=postgres_url)
    return staged(folder, keys, policy, **{**common, **settings})
