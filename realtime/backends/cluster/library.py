"""The functions that Redis runs for us: one library of Lua, put together from the files in `functions/`.

Its name holds the major version, `realtime_1`, and so do its functions, `rt1_…`: two major versions live in
one Redis side by side. Within one, a later minor version can do all that an earlier one could, so what is
newer stays: workers of several versions share one Redis while they are replaced one by one.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from functools import cache
from importlib import resources
from typing import Final, Protocol

from realtime.backends.redis_client.contract import Argument, Redis, RedisError, Reply, slot_of
from realtime.errors import StartupError

log: Final = logging.getLogger("realtime.broker")

NAME: Final = "realtime_1"
LOCK: Final = b"realtime_1:{library}"
LOCK_MS: Final = 10_000
LOCK_RETRY_S: Final = 0.1
_MINOR: Final = re.compile(rb"^local MINOR = (\d+)$", re.MULTILINE)


class Masters(Redis, Protocol):
    """The client, as far as the library needs it."""

    async def ask_all(self, *command: Argument) -> list[Reply]:
        """Return every master's reply.

        Raises:
            RedisError, Unavailable: one of them refused, or gave none.
        """
        ...


@cache
def source() -> bytes:
    """Return the library's text: what a node is given that says it has no such function."""
    folder = resources.files("realtime.backends.cluster") / "functions"
    parts = sorted(
        (part for part in folder.iterdir() if part.name.endswith(".lua")), key=lambda part: part.name
    )
    return b"#!lua name=%b\n" % NAME.encode() + b"".join(part.read_bytes() for part in parts)


def minor_of(text: bytes) -> int:
    """Return the minor version of a library's text.

    Raises:
        ValueError: it says none.
    """
    found = _MINOR.search(text)
    if found is None:
        raise ValueError("the library says no minor version")
    return int(found[1])


async def ensure(redis: Masters, text: bytes | None = None) -> None:
    """Have the library, or a newer minor version of it, on every master. A master that comes later gets it
    when it is first asked for one of its functions.

    One worker at a time does so: between its look and its loading nobody else loads.

    Raises:
        StartupError: Redis has no functions (before 7.0), or this user may not load them.
        Unavailable: no answer.
    """
    text = source() if text is None else text
    if await _is_everywhere(redis, text):
        return
    slot, token = slot_of(LOCK), secrets.token_hex(8)
    # Another worker's lock ends by itself, and nobody tells when.
    while await redis.ask(slot, "SET", LOCK, token, "NX", "PX", LOCK_MS) is None:  # noqa: ASYNC110
        await asyncio.sleep(LOCK_RETRY_S)
    try:
        there = await versions(redis)
        if max(there) > minor_of(text):
            log.warning("Redis has minor versions %s of %s, we have %d", there, NAME, minor_of(text))
        elif min(there) < minor_of(text):
            await redis.ask_all("FUNCTION", "LOAD", "REPLACE", text)
    finally:
        if await redis.ask(slot, "GET", LOCK) == token.encode():
            await redis.ask(slot, "DEL", LOCK)


async def _is_everywhere(redis: Masters, text: bytes) -> bool:
    return min(await versions(redis)) >= minor_of(text)


async def versions(redis: Masters) -> list[int]:
    """Return the minor version that each master has, -1 for none.

    Raises:
        StartupError: Redis has no functions (before 7.0), or this user may not ask for them.
        Unavailable: no answer.
    """
    try:
        replies = await redis.ask_all("FUNCTION", "LIST", "LIBRARYNAME", NAME, "WITHCODE")
    except RedisError as error:
        raise StartupError(f"Redis must be 7.0 or later and let us load functions: {error}") from error
    return [_version_in(reply) for reply in replies]


def _version_in(reply: Reply) -> int:
    """Return the minor version in an answer of FUNCTION LIST, of RESP2 or 3."""
    assert isinstance(reply, list)
    if not reply:
        return -1
    library = reply[0]
    if isinstance(library, list):
        library = dict(zip(library[::2], library[1::2], strict=True))
    return minor_of(library[b"library_code"])
