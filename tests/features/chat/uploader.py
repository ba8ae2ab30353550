"""What tests of attachments share: places that keep files, an S3 server, and a client that speaks tus."""

import asyncio
import contextlib
import http.client
import io
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator

from PIL import Image
from websockets.asyncio.client import connect

from tests.edge.peer import PATIENCE_S, ask, receive

ROOM = "chat:lobby"
BUCKET = "files"
SECRET = "a secret of thirty-two bytes, at least"
TUS = {"Tus-Resumable": "1.0.0"}
PATCH = TUS | {"Content-Type": "application/offset+octet-stream"}


class S3Server:
    """A server of S3's protocol in a process of its own, on a port that the system chose."""

    def __init__(self):
        code = (
            "import sys; from moto.server import ThreadedMotoServer; import threading\n"
            "server = ThreadedMotoServer(ip_address='127.0.0.1', port=0); server.start()\n"
            "print('port', server.get_host_and_port()[1], flush=True); threading.Event().wait()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"MOTO_ALLOW_NONEXISTENT_REGION": "true"},
        )
        said = (re.fullmatch(r"port (\d+)\n", line) for line in self.process.stdout)
        self.port = int(next(match for match in said if match)[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.buckets = 0

    @property
    def settings(self):
        """Settings of a bucket of its own."""
        self.buckets += 1
        name = f"{BUCKET}-{self.buckets}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT"), timeout=PATIENCE_S)
        return {
            "s3_endpoint": self.url,
            "s3_bucket": name,
            "s3_access_key": "key",
            "s3_secret_key": "secret",
        }

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for each in content:
        yield each


def http_ask(url, method="GET", body=None, headers=None):
    """Return (status, headers, body) of one request; nothing is followed, and errors are answers."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        connection.request(method, f"{parts.path}?{parts.query}", body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def patch(url, offset, body, **headers):
    """Send the bytes that belong at `offset`; return (status, headers, body)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http_ask(url, "PATCH", body, PATCH | {"Upload-Offset": str(offset)} | named)


def offset_of(url):
    status, headers, _ = http_ask(url, "HEAD", headers=TUS)
    assert status == 200, status
    return int(headers["Upload-Offset"])


def begin_patch(url, offset, length, body):
    """Return a socket on which a PATCH of `length` bytes was begun, and `body` sent."""
    parts = urllib.parse.urlsplit(url)
    raw = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)
    head = [
        f"PATCH {parts.path}?{parts.query} HTTP/1.1",
        f"Host: {parts.netloc}",
        *(f"{name}: {value}" for name, value in PATCH.items()),
        f"Upload-Offset: {offset}",
        f"Content-Length: {length}",
    ]
    raw.sendall("\r\n".join([*head, "", ""]).encode() + body)
    return raw


def picture(form="JPEG", size=(64, 48), *, orientation=None, place=True, mode="RGB", **options) -> bytes:
    """An image that says where it was taken."""
    image = Image.new(mode, size, "red" if mode != "P" else 1)
    if mode != "P":
        image.paste("blue", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x010F] = "SECRETCAMERA"
    if orientation:
        exif[0x0112] = orientation
    if place:
        exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)})
    written = io.BytesIO()
    image.save(written, form, exif=exif, **options)
    return written.getvalue()


async def until(true):
    """Wait for what somebody else does."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0)


class Peer:
    """Somebody in a room."""

    def __init__(self, server, ws, room):
        self.server, self.ws, self.room = server, ws, room
        self.number = 0

    async def ask(self, command, /, room=None, **content):
        self.number += 1
        return await ask(self.ws, type=command, id=self.number, room=room or self.room, content=content)

    async def begin(self, name="a.bin", content=b"hello", **more):
        """Ask for an upload; return (id, url)."""
        answer = await self.ask("chat_upload", name=name, bytes=len(content), **more)
        assert answer["type"] == "ack", answer
        found = answer["content"]
        return found["id"], urllib.parse.urljoin(self.server.url, found["url"])

    async def upload(self, name, content, **more):
        """Upload all of it; return the id."""
        id, url = await self.begin(name, content, **more)
        status, headers, body = await asyncio.to_thread(patch, url, 0, content)
        assert (status, headers["Upload-Offset"]) == (204, str(len(content))), (status, body)
        return id

    async def say(self, text, *attachments, **envelope):
        """Send a message; return the content of its ack."""
        self.number += 1
        content = {"text": text, "attachments": list(attachments)}
        answer = await ask(
            self.ws, type="chat_message", id=self.number, room=self.room, content=content, **envelope
        )
        return answer["content"] if answer["type"] == "ack" else answer

    async def heard(self):
        """The next chat_message that comes."""
        while True:
            push = await receive(self.ws)
            if push["type"] == "chat_message":
                return push["content"]

    async def link(self, id):
        answer = await self.ask("chat_attachment", id=id)
        assert answer["type"] == "ack", answer
        found = answer["content"]
        for name in ("url", "thumbnail"):
            if name in found:
                found[name] = urllib.parse.urljoin(self.server.url, found[name])
        return found

    async def refused(self, command, /, **content):
        answer = await self.ask(command, **content)
        assert answer["type"] == "error", answer
        return answer["content"]


@contextlib.asynccontextmanager
async def peer(server, user="alice", room=ROOM):
    async with connect(f"{server.ws_url}/{user}") as ws:
        await receive(ws)
        found = Peer(server, ws, room)
        joined = await found.ask("join")
        assert joined["type"] == "joined", joined
        yield found
