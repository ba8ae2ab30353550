"""Run chaotic clients against a server that is killed under them, and have all that they saw judged.

The seed decides what each client does and at which event the server dies. The kernel and the server decide
when it happens, so that a seed gives the same story with other timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from tests.chaos.judge import Judge
from tests.chaos.member import Member
from tests.chaos.reader import read_all
from tests.chaos.sdk import SdkMember
from tests.chaos.world import BrokenPromiseError, StalledError, World
from tests.conftest import Server

# playlists are durable; a slow reader of a session gets gaps, of the others it is cut.
ROOMS = ["playlist:a", "playlist:b", "playlist:c", "events:a", "events:b", "session:a"]
DURABLE = {"playlist"}  # kinds that outlive the server
ROOMS_PER_MEMBER = 3
RING = 300  # publications that a room keeps in memory: few enough for some to come back too late
RECOVERS = 80  # behind: they are in the ring, and the largest of them together below `answer_bytes`
KILLS_BETWEEN_NEWS = 20
KILLS_AT_START = 0.1  # of the starts
START_TURNS = 50_000  # of the event loop: longer than a start takes
STOPS_PER_KILL = 0.1  # now and then the server is stopped politely


# Small, so that they are met.
BOUNDS: dict[str, object] = {
    "history_messages": RING,
    "max_message_bytes": 16_384,
    "room_lag_limit_bytes": 65_536,
    "send_buffer_bytes": 16_384,
    "max_connections_per_user": 1000,  # those that were cut may be noticed late
    "reconnect_min_ms": 0,
    "reconnect_max_ms": 1,
    "drain_timeout_s": 5,
    "close_timeout_s": 1,
}


def on_sqlite(folder: Path) -> dict[str, object]:
    """Return the settings of a server under test that keeps durable rooms in a file."""
    return {"sqlite_path": str(folder / "chaos.sqlite"), **BOUNDS}


def on_postgres(url: str) -> dict[str, object]:
    """Return the settings of a server under test that keeps durable rooms in this database."""
    return {"postgres_url": url, **BOUNDS}


class Person(Protocol):
    """A client, of whichever make."""

    name: str
    rooms: list[str]
    is_settled: bool
    has_all: bool

    async def live(self) -> None: ...
    def end(self) -> None: ...


async def chaos(
    server: Server,
    seed: int,
    *,
    kills: int,
    members: int = 12,
    sdk: int = 3,
    tell: Callable[[str], None] | None = None,
) -> Counter[str]:
    """Kill the server so many times under load, then let everybody catch up; return what happened.

    `sdk` of the members are our Python SDK, the others bare sockets. `tell` hears now and then how it goes.

    Raises:
        BrokenPromiseError: something was lost, doubled, out of order, or not what was said.
    """
    judge = Judge(DURABLE, keys_last=RING, recovers=RECOVERS)
    world = World(server, judge, f"{seed}:world", members)
    rng = random.Random(f"{seed}:members")
    people: list[Person] = []
    for number in range(members):
        make = SdkMember if number < sdk else Member
        people.append(make(world, f"m{number}", rng.sample(ROOMS, ROOMS_PER_MEMBER), f"{seed}:{number}"))
    tasks = [asyncio.create_task(one.live(), name=one.name) for one in people]
    for task in tasks:
        task.add_done_callback(lambda done: report(world, done))
    try:
        while (done := world.counts["kill"]) < kills:
            await _kill(world, min(kills, done + KILLS_BETWEEN_NEWS), rng)
            if tell is not None:
                tell(_told(world.counts))
        world.up()
        await _end(world, people)
    except BrokenPromiseError as error:
        again = f"--seed {seed} --kills {kills} --members {members} --sdk {sdk}"
        error.add_note(f"again: python -m tests.chaos {again}")
        error.add_note(f"after {_told(world.counts)}")
        error.add_note("\n".join(map(str, people)))
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return world.counts


async def _kill(world: World, kills: int, rng: random.Random) -> None:
    """Let the server die by the fuse until it has so many times; stop it politely now and then."""
    while world.counts["kill"] < kills:
        world.light_fuse()
        world.up()
        await world.until(lambda: world.is_burnt)
        await asyncio.to_thread(world.server.kill)
        world.judge.died()
        world.happened("kill")
        # An fsync makes a commit long enough for a kill to fall into it.
        world.server.settings["store_synchronous"] = rng.choice(("normal", "full"))
        if rng.random() < KILLS_AT_START:
            await _kill_at_start(world.server, rng.randint(0, START_TURNS))
            world.happened("kill at start")
        await asyncio.to_thread(world.server.start)
        if rng.random() < STOPS_PER_KILL:
            await _stop(world)


async def _kill_at_start(server: Server, turns: int) -> None:
    """Start the server, and kill it after so many turns of this event loop, up or not."""
    before = server.process
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    while turns >= 0:
        await asyncio.sleep(0)
        turns -= server.process is not before
    server.process.kill()
    with contextlib.suppress(pytest.fail.Exception):  # it ended before it said where it listens
        await starting
    await asyncio.to_thread(server.kill)


async def _stop(world: World) -> None:
    """Stop the server after a hundred acks, and start it again."""
    world.up()
    goal = world.counts["ack"] + 100
    await world.until(lambda: world.counts["ack"] >= goal)
    world.down()
    code = await asyncio.to_thread(world.server.stop, signal.SIGTERM)
    world.judge.expect(code == 0, f"the server ended with exit code {code} after SIGTERM")
    world.judge.died()
    await asyncio.to_thread(world.server.start)
    world.happened("stop")


async def _end(world: World, people: list[Person]) -> None:
    """No more trouble: wait until everybody has everything, read all there is, and judge."""
    world.is_ending = True
    for one in people:
        one.end()
    world.happened("end is near")
    try:
        await world.until(lambda: all(one.is_settled and one.has_all for one in people))
    except StalledError as stalled:
        world.judge.close()  # it may know what is missing
        stalled.add_note("\n".join(world.judge.faults[:20]))
        raise
    await read_all(world)
    world.judge.close()
    world.check()
    world.is_over = True


def report(world: World, task: asyncio.Task[None]) -> None:
    """Let what broke a client end the run."""
    if not task.cancelled() and (error := task.exception()) is not None:
        world.fail(error)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} x{number}" for name, number in counts.most_common())
