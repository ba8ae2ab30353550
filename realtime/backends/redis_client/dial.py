"""Dialing a Redis node: TCP or TLS, then HELLO with who we are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from realtime.backends.redis_client.address import Address, Endpoint
from realtime.backends.redis_client.contract import RedisError
from realtime.backends.redis_client.wire import NEVER, Call, Wire, pack

OLDEST: Final = (7, 0)

W = TypeVar("W", bound=Wire)


class Refused(Exception):  # noqa: N818 - what the node did
    """A node was reached and will not have us, or is none that we can use: waiting hardly helps."""


class Hello(NamedTuple):
    """What a node says of itself."""

    cluster: bool
    master: bool


class Dialer:
    """Opens connections with one address' credentials."""

    def __init__(self, address: Address, name: str, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        hello: list[str] = ["HELLO", "3"]
        if address.password is not None:
            hello += ["AUTH", address.user, address.password]
        self._hello = pack((*hello, "SETNAME", name))

    async def dial(self, node: Endpoint, make: Callable[[], W]) -> tuple[W, Hello]:
        """Return a connection that speaks RESP3 and is let in, in at most `timeout_s`.

        Raises:
            OSError: not reached.
            TimeoutError: no answer.
            Refused: wrong credentials or certificates, no database of that number, older than Redis 7.0.
        """
        loop = asyncio.get_running_loop()
        wire: W | None = None
        tls = self._address.tls
        try:
            async with asyncio.timeout(self._timeout_s):
                _, wire = await loop.create_connection(
                    make, node.host, node.port, ssl=tls, server_hostname=node.host if tls else None
                )
                return wire, await self._greet(wire)
        except ssl.SSLError as error:
            raise Refused(f"TLS: {error}") from error
        except BaseException:
            if wire is not None:
                wire.abort("not let in")
            raise

    async def _greet(self, wire: Wire) -> Hello:
        try:
            said = await _ask(wire, self._hello)
            hello = _read_hello(said)
            if self._address.db:
                if hello.cluster:
                    raise Refused("a cluster has only database 0")
                await _ask(wire, pack(("SELECT", self._address.db)))
        except RedisError as error:
            raise Refused(str(error)) from error
        return hello


async def _ask(wire: Wire, command: bytes) -> Any:
    """Return the reply. Raises RedisError, and ConnectionError where the connection ends before one."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def settle(result: Any) -> None:
        if not answer.done():
            answer.set_result(result)

    if wire.transport is not None:
        wire.on_lost = lambda why: settle(ConnectionError(why))
        wire.send(Call(-1, command, settle, NEVER))
        result = await answer
        wire.on_lost = None
        if isinstance(result, Exception):
            raise result
    if wire.transport is None:
        raise ConnectionError(wire.why)
    return result


def _read_hello(said: Any) -> Hello:
    if not isinstance(said, dict) or b"version" not in said:
        raise Refused(f"HELLO 3 was answered with {said!r:.100}")
    version = said[b"version"].decode("ascii", "replace")
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    if not (major.isdigit() and minor.isdigit()) or (int(major), int(minor)) < OLDEST:
        raise Refused(f"Redis 7.0 or later, or Valkey, is needed; this is {version}")
    mode, role = said.get(b"mode"), said.get(b"role")
    if mode == b"sentinel":
        raise Refused("this is a Sentinel; name the Redis nodes themselves")
    return Hello(cluster=mode == b"cluster", master=role == b"master")
