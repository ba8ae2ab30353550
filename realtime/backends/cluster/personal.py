"""A user in Redis: the tails of rooms that hold what the user sent, and what is kept of the user beside them.

A room's stream cannot be written anew, so a tail that names the user goes as a whole: the room begins a new
epoch, which its members see as a gap, and has its history from the store. That is an administrator's walk
over all rooms of the tenant, with redis-py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from struct import Struct
from typing import Any, Final
from urllib.parse import parse_qsl

import redis.asyncio as redis_py
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisError

from realtime.backends.cluster.names import RoomNames
from realtime.backends.cluster.stream import RUN
from realtime.backends.redis_client.address import YES, Address, Endpoint, parse_url
from realtime.errors import Unavailable
from realtime.ids import RoomId, RoomName, TenantId, UserId
from realtime.native.encode import json_string
from realtime.settings import mask

# A run of no epoch that there ever was: whoever follows the room asks where it is.
LOOK: Final = Struct("<BQQ").pack(RUN, 0, 1)
_SPECIAL: Final = str.maketrans({each: f"\\{each}" for each in "*?[]\\^"})


class RedisTails:
    """What Redis keeps of a tenant's rooms. An async context manager."""

    def __init__(self, url: str, prefix: str) -> None:
        self._url = url
        self._prefix = prefix
        self._client: Any = None

    async def __aenter__(self) -> RedisTails:
        """Connect.

        Raises:
            StartupError: the URL is none.
            Unavailable: nobody answers there, or lets us in.
        """
        address = parse_url(self._url)
        how = _how(self._url, address)
        failed: Exception | None = None
        for seed in address.seeds:
            try:
                self._client = await _dial(seed, address, how)
            except (RedisError, OSError) as error:
                failed = error
            else:
                return self
        assert failed is not None
        raise self._away(failed) from failed

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def naming(self, tenant: TenantId, user: UserId) -> list[RoomName]:
        """Return the rooms whose tails name the user, as sender or in a content."""
        name = json_string(user)
        try:
            return [
                room
                async for room, stream in self._streams(tenant)
                if any(name in value for value in await self._values(stream))
            ]
        except (RedisError, OSError) as error:
            raise self._away(error) from error

    async def drop(self, tenant: TenantId, rooms: Collection[RoomName]) -> None:
        """Have Redis and the workers forget the tails of rooms, which begin a new epoch each.

        Raises:
            Unavailable: not all of them; a repeat does the rest.
        """
        try:
            for room in rooms:
                names = RoomNames(self._prefix, RoomId(tenant, room))
                await self._client.unlink(names.meta, names.stream)
                await self._client.execute_command("SPUBLISH", names.channel, LOOK)
        except (RedisError, OSError) as error:
            raise self._away(error) from error

    async def revocations(self, tenant: TenantId, user: UserId) -> list[tuple[int, int]]:
        """Return which tokens of the user are refused: (issued before, until), Unix milliseconds."""
        try:
            found = await self._client.hget(f"{self._prefix}:{{revoked}}", f"u/{tenant}/{user}")
        except (RedisError, OSError) as error:
            raise self._away(error) from error
        if found is None:
            return []
        before, until = found.split(b" ")
        return [(int(before), int(until))]

    async def _streams(self, tenant: TenantId) -> AsyncIterator[tuple[RoomName, bytes]]:
        begins, ends = f"{self._prefix}:{{{tenant}/", "}:s"
        pattern = f"{begins.translate(_SPECIAL)}*{ends}"
        async for key in self._client.scan_iter(match=pattern, count=1000):
            name = key.decode()
            yield RoomName(name[len(begins) : -len(ends)]), key

    async def _values(self, stream: bytes) -> list[bytes]:
        entries = await self._client.xrange(stream)
        return [value for _, fields in entries for value in fields.values()]

    def _away(self, error: Exception) -> Unavailable:
        return Unavailable(f"{mask(self._url)}: {error or type(error).__name__}", retry_after_s=1.0)


async def _dial(seed: Endpoint, address: Address, how: dict[str, Any]) -> Any:
    single: Any = redis_py.Redis(host=seed.host, port=seed.port, **how)
    try:
        clustered = (await single.info("cluster")).get("cluster_enabled")
    except BaseException:
        await single.aclose()
        raise
    if not clustered:
        return single
    await single.aclose()
    nodes = [ClusterNode(each.host, each.port) for each in address.seeds]
    without_db = {name: value for name, value in how.items() if name != "db"}
    return await RedisCluster(startup_nodes=nodes, **without_db).initialize()


def _how(url: str, address: Address) -> dict[str, Any]:
    """How redis-py is told what the URL says beside the hosts."""
    how: dict[str, Any] = {"username": address.user, "password": address.password, "db": address.db}
    if address.tls is None:
        return how
    options: dict[str, Any] = dict(parse_qsl(url.partition("?")[2]))
    options["ssl_check_hostname"] = YES[options.get("ssl_check_hostname", "true").lower()]
    return how | options | {"ssl": True}
