"""Vault's transit engine over HTTP: encrypt, decrypt and rewrap (API version 1).

A question is one connection: data keys are asked for once a tenant and process, and a kept connection that
went stale would cost more than it saves. No error has the token, or more of an answer than Vault's own words.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from realtime.backends.sealing.masters import KeyLost
from realtime.errors import SettingsError, Unavailable

ANSWER_BYTES_MAX: Final = 1024 * 1024
LINE_BYTES_MAX: Final = 16 * 1024
RETRY_S: Final = 1.0
SAID_CHARS_MAX: Final = 200
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
AT_ONCE: Final = 16
"""Questions at the same time: after a restart all tenants' keys are asked for at once."""


class VaultTransit:
    """A key of the engine, as `masters.Vault`."""

    def __init__(
        self,
        url: str,
        *,
        token: Callable[[], str],
        key: str = "realtime",
        mount: str = "transit",
        ca_file: str = "",
        timeout_s: float = 5.0,
    ) -> None:
        """`token` is asked for each question. Raises SettingsError: something of it will not do."""
        parts = urlsplit(url)
        _checked(token())
        if parts.username is not None or parts.hostname is None:
            raise SettingsError("vault_url is not https://host[:port][/prefix]; the token is vault_token's")
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise SettingsError(
                f"vault_url http://{parts.hostname}: without TLS the keys are for all to read"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise SettingsError(f"vault_url: {error}") from error
        self.key = key
        self._token = token
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._prefix = f"{parts.path.rstrip('/')}/v1/{mount}"
        self._tls = _context(ca_file) if parts.scheme == "https" else None
        self._timeout_s = timeout_s
        self._turn = asyncio.Semaphore(AT_ONCE)

    def __repr__(self) -> str:
        return f"VaultTransit({self._host}:{self._port}, {self.key})"

    async def encrypt(self, plain: bytes) -> str:
        """See `masters.Vault`."""
        return await self._ask("encrypt", "ciphertext", plaintext=base64.b64encode(plain).decode())

    async def decrypt(self, ciphertext: str) -> bytes:
        """See `masters.Vault`."""
        try:
            return base64.b64decode(
                await self._ask("decrypt", "plaintext", ciphertext=ciphertext), validate=True
            )
        except binascii.Error:
            raise self._away("an answer that is no base64") from None

    async def rewrap(self, ciphertext: str) -> str:
        """See `masters.Vault`."""
        return await self._ask("rewrap", "ciphertext", ciphertext=ciphertext)

    async def _ask(self, verb: str, wanted: str, **body: str) -> str:
        try:
            token = _checked(self._token())
        except SettingsError as error:  # it was there at the start
            raise self._away(error.message) from error
        try:
            async with self._turn, asyncio.timeout(self._timeout_s):
                status, answer = await self._post(
                    token, f"{self._prefix}/{verb}/{self.key}", msgspec.json.encode(body)
                )
        except TimeoutError:
            raise self._away(f"no answer in {self._timeout_s:g} s") from None
        except (OSError, ValueError, EOFError) as error:
            raise self._away(_said_by(error)) from error
        return self._read(verb, wanted, status, answer.replace(token.encode(), b"***"))

    def _read(self, verb: str, wanted: str, status: int, answer: bytes) -> str:
        try:
            page: Any = msgspec.json.decode(answer) if answer else {}
        except msgspec.DecodeError:
            page = {}
        page = page if isinstance(page, dict) else {}
        if status != 200:
            raise self._refusal(verb, status, page.get("errors"))
        data = page.get("data")
        found = data.get(wanted) if isinstance(data, dict) else None
        if not isinstance(found, str) or not found:
            raise self._away(f"an answer without {wanted}")
        return found

    def _refusal(self, verb: str, status: int, errors: Any) -> Exception:
        """400, 403 and 404 are for an operator to mend; all else passes (429, 5xx, sealed, standby)."""
        listed = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
        said = "; ".join(listed)
        said = "".join(each if each.isprintable() else " " for each in said)[:SAID_CHARS_MAX].strip()
        why = f"{status}{f' ({said})' if said else ''}"
        if status in (400, 403, 404):
            return KeyLost(f"vault key {self.key}: Vault does not {verb}: {why}")
        return self._away(why)

    def _away(self, why: str) -> Unavailable:
        return Unavailable(f"vault key {self.key}: Vault cannot be asked: {why}", retry_after_s=RETRY_S)

    # -- HTTP/1.1, as much of it as one answer takes --------------------------------------------------------

    async def _post(self, token: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body. Raises OSError, EOFError, ValueError."""
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=LINE_BYTES_MAX
        )
        try:
            host = f"[{self._host}]" if ":" in self._host else self._host
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}:{self._port}\r\nX-Vault-Token: {token}\r\n"
                f"X-Vault-Request: true\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                f"Connection: close\r\n\r\n"
            )
            writer.write(head.encode("ascii") + body)
            return await _read_answer(reader)
        finally:
            writer.transport.abort()


def _checked(token: str) -> str:
    """Return a token that may stand in a header. Raises SettingsError, without it."""
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError("vault_url needs vault_token or vault_token_file: one line of ASCII")
    return token


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    status = 100
    while status < 200:  # interim answers
        words = (await reader.readline()).split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            raise ValueError("an answer that is not HTTP")
        status = int(words[1])
        fields = await _read_fields(reader)
    if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
        return status, await _read_chunks(reader)
    if b"content-length" in fields:
        return status, await reader.readexactly(_size(fields[b"content-length"], 10))
    body = await reader.read(ANSWER_BYTES_MAX)
    return status, body


async def _read_fields(reader: asyncio.StreamReader) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for _ in range(100):
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the connection ended within an answer")
        if not line.strip():
            return fields
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    raise ValueError("an answer with over 100 header fields")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := _size((await reader.readline()).partition(b";")[0].strip(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
        _size(b"%d" % len(body), 10)
    await _read_fields(reader)
    return body


def _size(text: bytes, base: int) -> int:
    size = int(text, base)
    if not 0 <= size <= ANSWER_BYTES_MAX:
        raise ValueError("an answer that is too large")
    return size


def _said_by(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _context(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(Path(ca_file)) if ca_file else None)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"vault_ca_file {ca_file}: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
