"""Attachments in S3, and by `realtime api` in a process of its own, over real sockets."""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.parse

import pytest

from realtime.errors import SettingsError
from realtime.loading import load
from tests.conftest import ROOT, Server
from tests.edge.peer import PATIENCE_S, get, metric
from tests.features.chat.uploader import (
    SECRET,
    TUS,
    S3Server,
    begin_patch,
    http_ask,
    offset_of,
    patch,
    peer,
    picture,
    until,
)

PIECE = 8 * 1024 * 1024


class ApiServer(Server):
    """A `realtime api` process."""

    @property
    def command(self):
        return "-m", self.module, "api"


@pytest.fixture(scope="module")
def s3():
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def api():
    started = []

    def start(**settings):
        started.append(ApiServer({"chat_api_port": 0, "chat_url_secret": SECRET, **settings}))
        return started[-1]

    yield start
    for each in started:
        each.finish()


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    """Settings of where files are kept."""
    if request.param == "s3":
        return request.getfixturevalue("s3").settings
    return {"chat_files_path": str(tmp_path / "files")}


@pytest.fixture
def work(serve, tmp_path):
    def start(**settings):
        return serve(sqlite_path=str(tmp_path / "rooms.sqlite"), chat_url_secret=SECRET, **settings)

    return start


async def test_a_process_of_its_own_takes_and_gives_files(work, api, place):
    files = api(**place)
    server = work(chat_files_url=files.url, **place)
    content = os.urandom(3_000_000)
    async with peer(server) as alice, peer(server, "bob") as bob:
        id, url = await alice.begin("a.bin", content)
        assert url.startswith(f"{files.url}/chat/uploads/")
        here = url.replace(files.url, server.url)
        assert (await asyncio.to_thread(http_ask, here, "HEAD", None, TUS))[0] == 404  # not on the worker
        assert (await asyncio.to_thread(patch, url, 0, content[:1_000_000]))[0] == 204
        assert (await asyncio.to_thread(patch, url, 1_000_000, content[1_000_000:]))[0] == 204
        image = await alice.upload("a.png", picture("PNG"))
        assert "offset" in await alice.say("both", id, image)
        assert [told["id"] for told in (await bob.heard())["attachments"]] == [id, image]
        found = await bob.link(id)
        assert (await asyncio.to_thread(http_ask, found["url"]))[2] == content
        part = {"Range": "bytes=1000000-1000009"}
        assert (await asyncio.to_thread(http_ask, found["url"], "GET", None, part))[2] == content[
            10**6 : 10**6 + 10
        ]
        shown = await bob.link(image)
        assert (await asyncio.to_thread(http_ask, shown["thumbnail"]))[0] == 200
    assert json.loads(get(f"{files.url}/ready")[2]) == {"ok": True, "checks": {"files": "ok"}}
    assert get(f"{files.url}/health")[0] == 200
    assert get(f"{files.url}/else")[0] == 404
    assert metric(files, "chat_uploads_finished_total") == 2


async def test_another_process_goes_on_where_a_killed_one_was(work, api, place):
    first, second = api(**place), api(**place)
    server = work(chat_files_url=first.url, **place)
    content = os.urandom(PIECE + 2_000_000)
    async with peer(server) as alice:
        id, url = await alice.begin("a.bin", content)
        there = url.replace(first.url, second.url)
        with begin_patch(url, 0, len(content), content[: PIECE + 1_000_000]):
            await until(lambda: offset_of(there) == PIECE)
            first.kill()
        assert (await asyncio.to_thread(patch, there, PIECE, content[PIECE:]))[0] == 204
        assert "offset" in await alice.say("there", id)
        found = (await alice.link(id))["url"].replace(first.url, second.url)
        assert (await asyncio.to_thread(http_ask, found))[2] == content


async def test_a_process_that_is_told_to_end_keeps_what_came(api, work, place):
    files = api(**place)
    server = work(chat_files_url=files.url, **place)
    content = os.urandom(2_000_000)
    async with peer(server) as alice:
        _, url = await alice.begin("a.bin", content)
        with begin_patch(url, 0, len(content), content[:1_000_000]):
            await until(lambda: metric(files, "chat_upload_bytes_total") >= 512 * 1024)
            assert files.stop() == 0
        files.start()
        url = urllib.parse.urlunsplit(
            urllib.parse.urlsplit(url)._replace(netloc=f"{files.host}:{files.port}")
        )
        assert 512 * 1024 <= await asyncio.to_thread(offset_of, url) <= 1_000_000


async def test_without_s3_the_chat_goes_on_and_uploads_come_later(work, tmp_path):
    s3 = S3Server()
    server = work(**s3.settings)
    async with peer(server) as alice:
        id, url = await alice.begin("a.txt", b"hello")
        s3.stop()
        status, headers, _ = await asyncio.to_thread(patch, url, 0, b"hello")
        assert (status, "Retry-After" in headers) == (503, True)
        assert "offset" in await alice.say("hello")
        refused = await alice.say("with it", id)
        assert (refused["content"]["name"], refused["content"]["temporary"]) == ("unavailable", True)
        status, _, body = await asyncio.to_thread(get, f"{server.url}/ready")
        assert (status, json.loads(body)["checks"]["files"]) == (200, "failing")
        assert metric(server, "chat_files_ok") == 0


def settings_error(**environ):
    with pytest.raises(SettingsError) as caught:
        load(
            environ={
                f"REALTIME_{name}" if not name.startswith("S3") else name: v for name, v in environ.items()
            }
        )
    return caught.value.message


def test_settings_that_do_not_go_together_say_so():
    several = {"REDIS_URL": "redis://127.0.0.1", "CHAT_FILES_PATH": "files"}
    assert "one chat_url_secret" in settings_error(CHAT_FILES_URL="https://files.example.com")
    assert "32 bytes" in settings_error(CHAT_URL_SECRET="short")
    assert "s3_bucket" in settings_error(S3_ENDPOINT="http://127.0.0.1:9000")
    with pytest.raises(SettingsError, match="one chat_url_secret"):
        load(environ={"REDIS_URL": several["REDIS_URL"], "REALTIME_CHAT_FILES_PATH": "files"})
    load(environ={"REDIS_URL": several["REDIS_URL"]})


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"REALTIME_CONTROL_PATH": ""}, "nothing to serve"),
        (
            {"REALTIME_CONTROL_PATH": "", "REALTIME_CHAT_URL_SECRET": SECRET, "REALTIME_CHAT_FILES_PATH": ""},
            "nothing to serve",
        ),
    ],
)
def test_an_api_that_cannot_serve_says_why(environ, said):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("REALTIME_", "S3_"))}
    ended = subprocess.run(
        [sys.executable, "-m", "realtime", "api", "--chat-api-port", "0"],
        cwd=ROOT,
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 3,
    )
    assert ended.returncode == 1
    assert re.search(said, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr


def test_pages_may_use_the_files_of_another_origin(serve, tmp_path):
    server = serve(
        sqlite_path=str(tmp_path / "rooms.sqlite"),
        chat_url_secret=SECRET,
        chat_files_url="https://files.example.com:8443/below",
    )
    policy = get(f"{server.url}/")[1]["Content-Security-Policy"]
    for kind in ("img-src", "media-src", "connect-src"):
        assert f"{kind} 'self' https://files.example.com:8443" in policy
    assert "script-src 'self';" in policy


class MountedServer(Server):
    """An application of somebody's own with the files mounted in it, under uvicorn."""

    @property
    def command(self):
        return "-c", MOUNTED


MOUNTED = """
import os, socket, uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from realtime import realtime_hub, websocket_endpoint

async def ws(websocket):
    await websocket_endpoint(websocket, websocket.path_params["user"])

routes = [Mount("/chat", realtime_hub.files), WebSocketRoute("/ws/{user}", ws)]
listening = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
app = Starlette(routes=routes, lifespan=realtime_hub.lifespan)
uvicorn.Server(uvicorn.Config(app, log_config=None)).run(sockets=[listening])
"""


async def test_an_application_of_ones_own_mounts_them(tmp_path):
    server = MountedServer({"sqlite_path": str(tmp_path / "rooms.sqlite"), "chat_url_secret": SECRET})
    server.ends_with = -15  # as uvicorn ends
    try:
        async with peer(server) as alice:
            id = await alice.upload("a.png", picture("PNG"))
            assert "offset" in await alice.say("look", id)
            assert (await asyncio.to_thread(http_ask, (await alice.link(id))["thumbnail"]))[0] == 200
            assert (await asyncio.to_thread(get, f"{server.url}/chat/else"))[0] == 404
    finally:
        server.finish()


def test_check_says_where_attachments_go(tmp_path):
    def said(*options):
        ended = subprocess.run(
            [sys.executable, "-m", "realtime", "check", "--port", "0", *options],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "REALTIME_CHAT_URL_SECRET": SECRET},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 3,
        )
        return next(line for line in ended.stdout.splitlines() if "attachments:" in line)

    assert "in realtime.sqlite.files, over HTTP here" in said()
    assert "none are kept" in said("--chat-files-path", "")
    assert "in bucket files, over HTTP by https://f.example" in said(
        "--s3-bucket", "files", "--chat-files-url", "https://f.example"
    )
    assert os.listdir(tmp_path) == []
