"""POST over HTTP/1.1 (a `core.posting.Post`), with the client of `auth/fetch`: bounded, followed nowhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import lru_cache

from realtime.backends.auth.fetch import FetchError, fetch, tls_context
from realtime.errors import Unavailable


async def post(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, ca_file: str = ""
) -> bytes:
    """See `Post`."""
    try:
        tls = await _tls(ca_file) if url.startswith("https:") else None
        return (await fetch(url, tls=tls, timeout_s=timeout_s, body=body, headers=headers)).body
    except (FetchError, OSError) as error:
        raise Unavailable(f"no use of the answer: {error}") from error


async def notify(
    url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, ca_file: str = ""
) -> bytes:
    """As `post`, where only that it is taken matters: by any status of success, and nothing comes back."""
    try:
        tls = await _tls(ca_file) if url.startswith("https:") else None
        answer = fetch(url, tls=tls, timeout_s=timeout_s, body=body, headers=headers, any_success=True)
        return (await answer).body
    except (FetchError, OSError) as error:
        raise Unavailable(f"not taken: {error}") from error


async def _tls(ca_file: str) -> ssl.SSLContext:
    # Reading the system's certificates takes some 10 ms: once, and not on the event loop.
    return await asyncio.to_thread(_context, ca_file)


@lru_cache(maxsize=16)
def _context(ca_file: str) -> ssl.SSLContext:
    return tls_context(ca_file)
