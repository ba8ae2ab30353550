"""Who is said to be in each room, at each host: at the end exactly those who are. Nobody haunts a room."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from tests.chaos.reader import Reader
from tests.chaos.wire import Joined
from tests.cluster.world import ClusterWorld, after

NAME = "reader"  # as whom Reader connects
AGREES_S = 60.0  # after the last fault: the ring's TTL, the grace period, and time to spare


class Roster(msgspec.Struct):
    """The content of `presence`."""

    members: list[str]
    count: int


async def check_rosters(world: ClusterWorld, expected: Mapping[str, set[str]]) -> None:
    """Ask each host who is in the rooms until it says the expected, and enter a fault where it never does."""
    for host in world.hosts:
        world.reading_at = host
        wrong: dict[str, list[str]] = {}
        try:
            async with asyncio.timeout(AGREES_S):
                while wrong := await _differences(world, expected):
                    await after(0.2)
        except TimeoutError:
            for room, names in wrong.items():
                world.judge.fault(f"{host.name} after {AGREES_S:.0f} s: in {room}: {', '.join(names)}")


async def _differences(world: ClusterWorld, expected: Mapping[str, set[str]]) -> dict[str, list[str]]:
    reader = Reader(world)
    await reader.wire.connect(*world.address, 0)
    found: dict[str, list[str]] = {}
    try:
        for room, names in expected.items():
            await reader.ask("join", room, {}, Joined)
            said = await reader.ask("presence", room, {}, Roster)
            there = set(said.members) - {NAME}
            if there != names or said.count != len(said.members):
                ghosts = [f"{name} haunts" for name in sorted(there - names)]
                found[room] = [
                    *ghosts,
                    *(f"{name} is missing" for name in sorted(names - there)),
                    f"count {said.count}",
                ]
    finally:
        reader.wire.cut("close")
    return found
