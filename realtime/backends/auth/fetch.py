"""One GET or POST over HTTP/1.1, for documents of keys and answers as small: bounded, followed nowhere.

A client library would bring pools, redirects and proxies, all of which are to be off here. What is fetched is
a document of some KB, once in minutes: a connection each, closed behind it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

BODY_BYTES_MAX: Final = 512 * 1024
HEAD_BYTES_MAX: Final = 16 * 1024
TIMEOUT_S: Final = 5.0


class FetchError(Exception):
    """The document is not to be had. Its text holds nothing of the answer's body."""


class Document(NamedTuple):
    """A body, and for how long it may be kept as its server says (seconds); None where it does not say."""

    body: bytes
    max_age_s: float | None


async def fetch(
    url: str,
    *,
    tls: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
    body: bytes | None = None,
    headers: Mapping[str, str] = {},
    any_success: bool = False,
) -> Document:
    """Return the document at an http or https `url`; `tls` is what https is checked by (None: the system's).
    With a `body` it is what answers a POST of it. `headers` are ours: their names and values are plain. With
    `any_success` 201 to 299 are as good as 200, and nothing is read of what comes with them.

    Raises:
        FetchError: no answer in `timeout_s`, another one than 200, or one that is none or too large.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _fetch(url, tls, body, headers, any_success)
    except TimeoutError:
        raise FetchError(f"no answer in {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise FetchError(f"TLS: {error.reason or 'failed'}") from error
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise FetchError(str(error) or type(error).__name__) from error


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return what checks a server's certificate and name.

    Raises:
        OSError: `ca_file` cannot be read, or holds no certificates.
    """
    return ssl.create_default_context(cafile=str(Path(ca_file)) if ca_file else None)


async def _fetch(
    url: str,
    tls: ssl.SSLContext | None,
    body: bytes | None,
    headers: Mapping[str, str],
    any_success: bool,
) -> Document:
    parts = urlsplit(url)
    assert parts.hostname is not None, "the policy has checked the URL"
    tls = (tls or tls_context("")) if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls, limit=HEAD_BYTES_MAX)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc
        own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if body is not None:
            own += f"Content-Length: {len(body)}\r\n"
        writer.write(
            f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: {host}\r\n"
            f"Accept: application/json\r\nAccept-Encoding: identity\r\nUser-Agent: realtime\r\n{own}"
            "Connection: close\r\n\r\n".encode("ascii")
        )
        if body:
            writer.write(body)
        fields = await _head(reader, any_success)
        if any_success:
            return Document(b"", None)
        return Document(await _body(reader, fields), _max_age(fields.get("cache-control", "")))
    finally:
        writer.transport.abort()  # nothing more is wanted of it, whatever it still says


async def _head(reader: asyncio.StreamReader, any_success: bool) -> dict[str, str]:
    """Read the head of an answer that will do; return its fields by their names in lower case."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise FetchError("what answers does not speak HTTP/1.1")
    status = rest[:3]
    taken = len(status) == 3 and status.isdigit() and status[0] == "2" and any_success
    if status != "200" and not taken:  # a redirect too: whoever moves the keys changes the configuration
        raise FetchError(f"HTTP status {status if status.isdigit() else 'missing'}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or (name.lower() in headers and name.lower() in ("content-length", "transfer-encoding")):
            raise FetchError("an answer whose head is malformed")
        headers[name.lower()] = value.strip()
    return headers


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("content-encoding", "identity") != "identity":
        raise FetchError("an answer that is compressed, though that was not offered")
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if coding.lower() != "chunked" or length is not None:
            raise FetchError("an answer of no length that is understood")
        return await _chunks(reader)
    if length is not None:
        if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > BODY_BYTES_MAX:
            raise FetchError(f"an answer of over {BODY_BYTES_MAX} bytes")
        return await reader.readexactly(int(length))
    body = bytearray()
    while piece := await reader.read(65_536):
        _add(body, piece)
    return bytes(body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """Read chunks to the last one (RFC 9112, 7.1). Trailers are not looked at."""
    body = bytearray()
    while True:
        size_text = (await reader.readuntil(b"\r\n"))[:-2].partition(b";")[0].strip()
        try:
            size = int(size_text, 16) if len(size_text) <= 8 and size_text.isalnum() else -1
        except ValueError:
            size = -1
        if size < 0 or size > BODY_BYTES_MAX:
            raise FetchError("an answer whose chunks are malformed or too large")
        if size == 0:
            return bytes(body)
        _add(body, await reader.readexactly(size))
        if await reader.readexactly(2) != b"\r\n":
            raise FetchError("an answer whose chunks are malformed or too large")


def _add(body: bytearray, piece: bytes) -> None:
    if len(body) + len(piece) > BODY_BYTES_MAX:
        raise FetchError(f"an answer of over {BODY_BYTES_MAX} bytes")
    body += piece


def _max_age(cache_control: str) -> float | None:
    """Seconds that `Cache-Control` allows (RFC 9111, 5.2.2); 0 for `no-store` and `no-cache`."""
    for directive in cache_control.lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return 0.0
        if name == "max-age" and (digits := value.strip('"')).isascii() and digits.isdigit():
            return float(digits[:9])
    return None
