"""The load generator counts right: what a lying server loses, repeats or reorders is in its report."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.build import BuildError, program
from bench.servers import SERVERS, running

TIMEOUT_S = 60.0
Deliver = Callable[[list[ServerConnection], int, str], list[tuple[ServerConnection, str]]]


@pytest.fixture(scope="module")
def load() -> str:
    """The compiled generator."""
    try:
        return str(program("load"))
    except BuildError as error:
        pytest.skip(str(error))


def honest(members: list[ServerConnection], number: int, text: str) -> list[tuple[ServerConnection, str]]:
    return [(member, text) for member in members]


def forgetful(members: list[ServerConnection], number: int, text: str) -> list[tuple[ServerConnection, str]]:
    """Leaves one member out of every tenth message."""
    return honest(members[1:] if number % 10 == 0 else members, number, text)


def stuttering(members: list[ServerConnection], number: int, text: str) -> list[tuple[ServerConnection, str]]:
    """Sends every tenth message twice to one member."""
    return honest([*members, members[0]] if number % 10 == 0 else members, number, text)


@contextmanager
def room_server(deliver: Deliver) -> Iterator[int]:
    """A room whose deliveries `deliver` decides, in a thread; yields its port."""
    started: threading.Event = threading.Event()
    bound: dict[str, Any] = {}

    async def main() -> None:
        members: list[ServerConnection] = []
        numbers = iter(range(1, 1_000_000))

        async def handler(connection: ServerConnection) -> None:
            members.append(connection)
            async for text in connection:
                for member, said in deliver(members, next(numbers), str(text)):
                    await member.send(said)

        bound["stop"] = asyncio.Event()
        bound["loop"] = asyncio.get_running_loop()
        async with serve(handler, "127.0.0.1", 0, compression=None) as server:
            bound["port"] = server.sockets[0].getsockname()[1]
            started.set()
            await bound["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=[main()], daemon=True)
    thread.start()
    assert started.wait(10)
    yield bound["port"]
    bound["loop"].call_soon_threadsafe(bound["stop"].set)
    thread.join(10)


def report(load: str, port: int, *options: str, mode: str = "fanout") -> tuple[int, dict[str, Any]]:
    command = [load, mode, str(port), "--warmup", "0", "--seconds", "0.3", "--drain", "0.5", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


# At a fixed rate a lost message does not stop the sender, so that each run ends in time.
PACED = ("--connections", "5", "--rate", "100")


def test_an_honest_room_loses_nothing(load: str):
    with room_server(honest) as port:
        code, counted = report(load, port, *PACED)
    assert code == 0
    assert counted["delivered"] == counted["expected"] > 100
    assert (counted["lost"], counted["duplicated"]) == (0, 0)


def test_what_never_comes_is_counted_as_lost(load: str):
    with room_server(forgetful) as port:
        code, counted = report(load, port, *PACED)
    assert code == 1
    assert counted["lost"] == counted["expected"] // 5 // 10


def test_what_comes_twice_is_counted_as_duplicated(load: str):
    with room_server(stuttering) as port:
        code, counted = report(load, port, *PACED)
    assert code == 1
    assert counted["duplicated"] == counted["expected"] // 5 // 10
    assert counted["lost"] == 0


def test_what_comes_out_of_order_is_no_delivery(load: str):
    held: list[str] = []

    def swapping(
        members: list[ServerConnection], number: int, text: str
    ) -> list[tuple[ServerConnection, str]]:
        held.append(text)
        if len(held) < 2:
            return []
        late, early = held
        held.clear()
        return [*honest(members, number, early), *honest(members, number, late)]

    with room_server(swapping) as port:
        code, counted = report(load, port, *PACED)
    assert code == 1
    assert counted["duplicated"] > 0  # a step back in a sender's sequence


def test_a_refused_handshake_is_no_connection(load: str):
    async def nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async def main() -> tuple[int, str]:
        server = await asyncio.start_server(nobody, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            process = await asyncio.create_subprocess_exec(
                load, "idle", str(port), "--connections", "3", stderr=subprocess.PIPE
            )
            _, errors = await process.communicate()
            return process.returncode or 0, errors.decode()

    code, errors = asyncio.run(main())
    assert code == 2
    assert "503" in errors


@pytest.mark.parametrize("name", ["baseline", "baseline-uncoalesced"])
@pytest.mark.parametrize("shape", [(40, 1, 1), (40, 4, 8)], ids=["one-room", "four-rooms"])
def test_the_baseline_delivers_to_every_member_of_the_room(load: str, name: str, shape: tuple[int, int, int]):
    connections, rooms, publishers = map(str, shape)
    with running(SERVERS[name]) as up:
        options = ["--connections", connections, "--rooms", rooms, "--publishers", publishers]
        code, counted = report(load, up.port, "--path", "/room%r", "--window", "8", *options)
    assert code == 0, counted
    assert counted["delivered"] == counted["expected"] > 0
    assert counted["foreign"] == 0


def test_the_baseline_echoes(load: str):
    with running(SERVERS["baseline"]) as up:
        options = ["--path", "/echo", "--window", "4", "--connections", "10", "--size", "70000"]
        code, counted = report(load, up.port, *options, mode="echo")
    assert code == 0, counted
    assert counted["delivered"] == counted["expected"] > 0


def test_an_echo_run_may_begin_with_a_message_of_its_own(load: str):
    """What is said before the load goes out at once, and not with the first request."""
    with running(SERVERS["baseline"]) as up:
        options = ["--path", "/echo", "--init", "hello", "--ready", "hello", "--connections", "10"]
        code, counted = report(load, up.port, *options, mode="echo")
    assert code == 0, counted
    assert counted["delivered"] == counted["expected"] > 0
