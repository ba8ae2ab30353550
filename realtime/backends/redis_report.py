"""What a Redis, or a cluster of them, says of itself: asked as a worker would ask, changing nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from realtime.backends.cluster import library
from realtime.backends.redis_client.client import RedisClient
from realtime.backends.redis_client.contract import SLOTS, RedisError, Reply
from realtime.errors import StartupError, Unavailable

ROUNDS: Final = 20


class Master(NamedTuple):
    """One master. `functions` is the minor version of our library there, -1 without, None where unknown."""

    name: str
    version: tuple[int, ...]
    replicas: int
    policy: str
    used_bytes: int
    bytes_max: int
    clients: int
    clients_max: int
    functions: int | None
    clock_ahead_s: float


class Report(NamedTuple):
    """All masters; `slots_missing` are ranges (first, last) that nobody has, `state` is cluster_state.

    `latency_s` has the slowest master's answers to PING, sorted.
    """

    masters: tuple[Master, ...]
    clustered: bool
    state: str
    slots_missing: tuple[tuple[int, int], ...]
    latency_s: tuple[float, ...]
    functions_error: str


async def look(redis: RedisClient) -> Report:
    """Ask a started client's masters.

    Raises:
        StartupError: one of them does not answer, or refuses to.
    """
    try:
        return await _look(redis)
    except (RedisError, Unavailable) as error:
        raise StartupError(str(error)) from error


async def _look(redis: RedisClient) -> Report:
    infos = [_fields(reply) for reply in await redis.ask_all("INFO")]
    names = list(map(str, redis.masters))
    clocks = await _clocks(redis)
    functions, error = await _functions(redis)
    clustered = any(info.get("cluster_enabled") == "1" for info in infos)
    state = "ok"
    missing: tuple[tuple[int, int], ...] = ()
    if clustered:
        states = [_fields(reply) for reply in await redis.ask_all("CLUSTER", "INFO")]
        state = next((each["cluster_state"] for each in states if each["cluster_state"] != "ok"), "ok")
        missing = _missing((await redis.ask_all("CLUSTER", "SLOTS"))[0])
    masters = tuple(
        _master(name, info, minor, ahead)
        for name, info, minor, ahead in zip(names, infos, functions, clocks, strict=True)
    )
    return Report(masters, clustered, state, missing, await _latency(redis), error)


async def _functions(redis: RedisClient) -> tuple[Sequence[int | None], str]:
    try:
        return await library.versions(redis), ""
    except StartupError as error:
        return [None] * len(redis.masters), error.message


async def _clocks(redis: RedisClient) -> list[float]:
    """How far each master's clock is before ours, give or take half of the round trip."""
    asked = time.time()
    replies: list[Any] = await redis.ask_all("TIME")
    ours = (asked + time.time()) / 2
    return [int(seconds) + int(micros) / 1e6 - ours for seconds, micros in replies]


async def _latency(redis: RedisClient) -> tuple[float, ...]:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await redis.ask_all("PING")
        took.append(time.perf_counter() - began)
    return tuple(sorted(took))


def _fields(reply: Reply) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _master(name: str, info: dict[str, str], functions: int | None, ahead_s: float) -> Master:
    def number(field: str) -> int:
        value = info.get(field, "0")
        return int(value) if value.isdigit() else 0

    return Master(
        name=name,
        version=tuple(int(part) for part in info.get("redis_version", "0").split(".") if part.isdigit()),
        replicas=number("connected_slaves"),
        policy=info.get("maxmemory_policy", ""),
        used_bytes=number("used_memory"),
        bytes_max=number("maxmemory"),
        clients=number("connected_clients"),
        clients_max=number("maxclients"),
        functions=functions,
        clock_ahead_s=ahead_s,
    )


def _missing(reply: Any) -> tuple[tuple[int, int], ...]:
    """The ranges of slots that no node of CLUSTER SLOTS has."""
    found, next_slot = [], 0
    for first, last in sorted((entry[0], entry[1]) for entry in reply):
        if first > next_slot:
            found.append((next_slot, first - 1))
        next_slot = max(next_slot, last + 1)
    if next_slot < SLOTS:
        found.append((next_slot, SLOTS - 1))
    return tuple(found)
