"""Vault's transit engine, as far as the server speaks to it: its HTTP API over a real socket, real AES-GCM.

Paths, bodies, error texts and ciphertexts (`vault:v1:…`) are those of Vault's documentation for
/transit/encrypt, /transit/decrypt and /transit/rewrap. `refuse` answers everything with a status and a text,
as a sealed Vault or a rate limit does; `hold` keeps all answers back.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class FakeVault:
    """One Vault with one transit engine. An async context manager; `stop` and `start` again keep its port."""

    def __init__(
        self, *, key: str = "realtime", tls: ssl.SSLContext | None = None, chunked: bool = False
    ) -> None:
        self.token = f"hvs.{os.urandom(12).hex()}"
        self.keys: dict[str, list[AESGCM]] = {key: [AESGCM(os.urandom(32))]}
        self.asked: list[str] = []  # paths, each once it was asked for with the right token
        self.refuse: tuple[int, str] | None = None
        self.raw: bytes | None = None  # sent instead of an answer
        self.hold: asyncio.Event | None = None
        self.waiting = asyncio.Event()  # somebody waits for an answer that is held back
        self.port = 0
        self._tls = tls
        self._chunked = chunked
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://localhost:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def rotate(self, key: str = "realtime") -> None:
        """As `vault write -f transit/keys/<key>/rotate`."""
        self.keys[key].append(AESGCM(os.urandom(32)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            return  # whoever asked has gone
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, path, _ = (await reader.readline()).decode().split()
        fields = {}
        while (line := (await reader.readline()).decode().strip()) != "":
            name, _, value = line.partition(": ")
            fields[name.lower()] = value
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        if self.hold is not None:
            self.waiting.set()
            await self.hold.wait()
        status, page = self._judge(method, path, fields, body)
        text = json.dumps(page).encode()
        head = f"HTTP/1.1 {status} Whatever\r\nCache-Control: no-store\r\nContent-Type: application/json\r\n"
        if self.raw is not None:
            writer.write(self.raw)
        elif self._chunked:
            writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in (text[:5], text[5:]):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            writer.write(b"0\r\n\r\n")
        else:
            writer.write(f"{head}Content-Length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()

    def _judge(self, method: str, path: str, fields: dict[str, str], body: Any) -> tuple[int, Any]:
        if self.refuse is not None:
            return self.refuse[0], {"errors": [self.refuse[1]]}
        if fields.get("x-vault-token") != self.token:
            return 403, {"errors": ["permission denied"]}
        self.asked.append(path)
        if method != "POST" or not path.startswith("/v1/transit/"):
            route = path.removeprefix("/v1/")
            return 404, {"errors": [f'no handler for route "{route}". route entry not found.']}
        verb, _, name = path.removeprefix("/v1/transit/").partition("/")
        if name not in self.keys:
            return 400, {"errors": ["encryption key not found"]}
        try:
            return 200, {
                "request_id": "00000000-0000-0000-0000-000000000000",
                "data": self._do(verb, name, body),
            }
        except (InvalidTag, ValueError, LookupError):
            return 400, {"errors": ["invalid ciphertext: unable to decrypt"]}

    def _do(self, verb: str, name: str, body: Any) -> dict[str, Any]:
        if verb == "encrypt":
            return self._encrypt(name, base64.b64decode(body["plaintext"], validate=True))
        plain = self._decrypt(name, body["ciphertext"])
        if verb == "rewrap":
            return self._encrypt(name, plain)
        return {"plaintext": base64.b64encode(plain).decode()}

    def _encrypt(self, name: str, plain: bytes) -> dict[str, Any]:
        version, nonce = len(self.keys[name]), os.urandom(12)
        sealed = nonce + self.keys[name][-1].encrypt(nonce, plain, None)
        return {"ciphertext": f"vault:v{version}:{base64.b64encode(sealed).decode()}", "key_version": version}

    def _decrypt(self, name: str, ciphertext: str) -> bytes:
        prefix, version, sealed = ciphertext.split(":")
        if prefix != "vault" or not 1 <= int(version[1:]) <= len(self.keys[name]):
            raise ValueError(ciphertext)
        raw = base64.b64decode(sealed, validate=True)
        return self.keys[name][int(version[1:]) - 1].decrypt(raw[:12], raw[12:], None)
