"""What a generator process can do by itself: it sends to, and reads from, other ends that are its own too.

No server is in it. Both ends are sockets of this process, over TCP on the loopback, so that sending and
reading cost what they cost in a run; what the other ends take is timed and taken off. In a run under load one
read brings several deliveries, which then cost less each: this is what the generator can do at least. TLS is
not in it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from realtime.client.bench.link import Link
from realtime.client.bench.plan import MARKERS_BYTES, Plan
from realtime.native.tally import Peer, Tally, now_ns

CONNECTIONS: Final = 64
ROUND_BYTES: Final = 1 << 20  # of all connections together, where messages are so large
PART_CPU_NS: Final = 200_000_000  # of sending, and of reading
PART_WALL_S: Final = 2.0  # and so long at most, where others have the cores
READ_BYTES: Final = 1 << 18

Begin = Callable[[list[Link]], Callable[[], None]]
"""Takes connections, and returns what sends one message on each."""


class Ends:
    """Connections of ours, ready to publish, and their other ends."""

    def __init__(self, plan: Plan, links: list[Link], others: list[socket.socket], tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._others = others
        self._buffer = bytearray(READ_BYTES)
        self.links = links

    @classmethod
    async def open(cls, plan: Plan, peer: Callable[[int], Peer], tally: Tally) -> Ends:
        """Connect them.

        Raises:
            OSError: there is no room for them.
        """
        count = max(1, min(CONNECTIONS, ROUND_BYTES // plan.payload_bytes))
        links: list[Link] = []
        others: list[socket.socket] = []
        with socket.socket() as listener:  # for a moment, and for nobody but us
            listener.bind(("127.0.0.1", 0))
            listener.listen(CONNECTIONS)
            for number in range(count):
                ours, other = _pair(listener)
                others.append(other)
                link = Link(number, plan.room(number), peer(number), _nobody, _nobody, _nobody)
                link.upgraded_ns = link.joined_ns = link.began_ns
                link.peer.joined = True
                await asyncio.get_running_loop().create_connection(partial(_same, link), sock=ours)
                links.append(link)
        return cls(plan, links, others, tally)

    def close(self) -> None:
        """End all of them."""
        for link in self.links:
            link.close()
        for other in self._others:
            other.close()

    async def sending(self, send: Callable[[], None], message_bytes: int) -> float:
        """Return the µs of processor time that a message sent takes; 0 where there was no time for any."""
        due = 0

        async def one() -> int:
            nonlocal due
            send()
            due += len(self.links) * message_bytes
            others_ns = 0
            while due > 0:
                await asyncio.sleep(0)  # the loop writes what it has been given
                began = time.thread_time_ns()
                due -= self._drain()
                others_ns += time.thread_time_ns() - began
            return others_ns

        return await self._measured(one)

    async def reading(self) -> float:
        """Return the µs of processor time that a delivery read and counted takes; 0 as `sending`."""
        offset = 0

        async def one() -> int:
            nonlocal offset
            offset += 1
            wanted = self._tally.delivered + len(self.links)
            began = time.thread_time_ns()
            frame = push(self._plan, offset)
            left = {other: memoryview(frame) for other in self._others}
            others_ns = time.thread_time_ns() - began
            while self._tally.delivered < wanted:
                began = time.thread_time_ns()
                left = _fed(left)
                others_ns += time.thread_time_ns() - began
                await asyncio.sleep(0)
            return others_ns

        return await self._measured(one)

    async def _measured(self, one: Callable[[], Awaitable[int]]) -> float:
        """Repeat a round, which returns what the other ends have taken of it; return a message's µs."""
        spent_ns = rounds = 0
        try:
            async with asyncio.timeout(PART_WALL_S):
                while spent_ns < PART_CPU_NS:
                    began = time.thread_time_ns()
                    others_ns = await one()
                    spent_ns += max(1, time.thread_time_ns() - began - others_ns)
                    rounds += 1
        except TimeoutError:
            if not rounds:
                return 0.0
        return spent_ns / 1e3 / (rounds * len(self.links))

    def _drain(self) -> int:
        """Read what there is at the other ends; return how much that was."""
        found = 0
        for other in self._others:
            try:
                found += other.recv_into(self._buffer)
            except BlockingIOError:
                continue
        return found


def push(plan: Plan, offset: int) -> bytes:
    """Return a push as a server sends it, in a frame of its own."""
    pad = "x" * max(0, plan.payload_bytes - MARKERS_BYTES)
    marker = f"~{now_ns():016x}{offset & 0xFFFFFFFF:08x}~"
    room, type = json.dumps(plan.room(0)), json.dumps(plan.type)
    payload = f'{{"type":{type},"room":{room},"offset":{offset},"user":"bench","content":"{marker}{pad}"}}'
    size = len(payload)
    if size < 126:
        head = bytes((0x81, size))
    elif size < 1 << 16:
        head = b"\x81\x7e" + size.to_bytes(2)
    else:
        head = b"\x81\x7f" + size.to_bytes(8)
    return head + payload.encode()


def _pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection of ours to ourselves."""
    ours = socket.create_connection(listener.getsockname())
    while True:
        other, address = listener.accept()
        if address == ours.getsockname():
            break
        other.close()  # somebody else looks who listens here
    other.setblocking(False)
    other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ours, other


def _same(link: Link) -> Link:
    return link


def _fed(left: dict[socket.socket, memoryview]) -> dict[socket.socket, memoryview]:
    """Send what is left for each; return what is left then."""
    rest = {}
    for other, data in left.items():
        try:
            sent = other.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            rest[other] = data[sent:]
    return rest


def _nobody(*told: object) -> None:
    """Nobody wants to know."""
