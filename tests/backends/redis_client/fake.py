"""Redis nodes that do as they are told: real sockets, RESP3, and every trouble that a cluster can make.

A `FakeCluster` knows whose each slot is; a `FakeNode` keeps strings, publishes, and answers MOVED for what is
not its own. Tests move slots, put refusals before answers, freeze nodes, and break connections in mid-reply.
"""

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any, Self

import hiredis

from realtime.backends.redis_client.contract import SLOTS, slot_of

OK = b"+OK\r\n"
NIL = b"_\r\n"
WAIT_S = 10.0


class Connection(asyncio.Protocol):
    """One connection of the client under test to a node."""

    def __init__(self, node: "FakeNode") -> None:
        self.node = node
        self.reader = hiredis.Reader(notEnoughData=self)
        self.asking = False
        self.channels: dict[bytes, None] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.node.connections.append(self)
        self.node.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.node.connections:
            self.node.connections.remove(self)
        self.node.changed()

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)
        while (command := self.reader.gets()) is not self:
            verb = command[0].upper().decode()
            self.node.heard[verb] += 1
            self.node.changed()
            if self.node.frozen:
                continue
            answer = self.node.answer(self, verb, command[1:])
            if self.node.withheld is None:
                self.transport.write(answer)
            else:
                self.node.withheld.append((self, answer))

    def break_off(self) -> None:
        """Reset it: what was not written is lost."""
        self.transport.abort()


class FakeNode:
    """A node. `refusals` stand before what it would answer, by verb; each is used once."""

    def __init__(self, cluster: "FakeCluster") -> None:
        self.cluster = cluster
        self.connections: list[Connection] = []
        self.heard: Counter[str] = Counter()
        self.refusals: dict[str, deque[bytes]] = defaultdict(deque)
        self.strings: dict[bytes, bytes] = {}
        self.functions: bytes | None = None
        self.role = "master"
        self.version = "7.0.15"
        self.frozen = False
        self.withheld: list[tuple[Connection, bytes]] | None = None  # answers, where it is slow with them
        self.half = False  # of the next reply to a GET, then the end
        self._waiters: list[tuple[Callable[[], bool], asyncio.Event]] = []

    async def start(self, port: int = 0) -> Self:
        """Listen, on a free port or the one it had."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Connection(self), "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Be gone, connections and all."""
        self.server.close()
        for connection in list(self.connections):
            connection.break_off()
        await self.until(lambda: not self.connections)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at with everything that the node gets."""
        event = asyncio.Event()
        self._waiters.append((condition, event))
        self.changed()
        await asyncio.wait_for(event.wait(), WAIT_S)

    def changed(self) -> None:
        for waiter in [each for each in self._waiters if each[0]()]:
            self._waiters.remove(waiter)
            waiter[1].set()

    def release(self) -> None:
        """Say what was withheld, and withhold nothing more."""
        withheld, self.withheld = self.withheld, None
        for connection, answer in withheld or ():
            connection.transport.write(answer)

    def push(self, kind: bytes, channel: bytes, rest: bytes) -> None:
        """Push to whoever is subscribed to the channel."""
        for connection in self.connections:
            if channel in connection.channels:
                connection.transport.write(b">3\r\n" + bulk(kind) + bulk(channel) + rest)

    def end_subscriptions(self, slots: Iterable[int]) -> None:
        """Say that these slots have moved away, as Redis does."""
        gone = set(slots)
        for connection in self.connections:
            for channel in [each for each in connection.channels if slot_of(each) in gone]:
                del connection.channels[channel]
                connection.transport.write(b">3\r\n" + bulk(b"sunsubscribe") + bulk(channel) + b":0\r\n")

    def answer(self, connection: Connection, verb: str, words: list[bytes]) -> bytes:
        if self.refusals[verb]:
            return self.refusals[verb].popleft()
        asking, connection.asking = connection.asking, verb == "ASKING"
        if verb in ("GET", "SET", "INCR", "FCALL", "SSUBSCRIBE", "SUNSUBSCRIBE", "SPUBLISH"):
            key = words[2] if verb == "FCALL" else words[0]
            if refusal := self.cluster.redirect(self, slot_of(key), asking=asking):
                return refusal
        handler = getattr(self, f"_{verb.lower()}", None)
        return handler(connection, words) if handler else b"-ERR unknown command\r\n"

    def _hello(self, connection: Connection, words: list[bytes]) -> bytes:
        mode = "cluster" if self.cluster.enabled else "standalone"
        said = {"server": "redis", "version": self.version, "mode": mode, "role": self.role}
        pairs = b"".join(bulk(k.encode()) + bulk(v.encode()) for k, v in said.items())
        return b"%%%d\r\n" % (len(said) + 1) + pairs + bulk(b"proto") + b":3\r\n"

    def _ping(self, connection: Connection, words: list[bytes]) -> bytes:
        return bulk(words[0]) if words else b"+PONG\r\n"

    def _asking(self, connection: Connection, words: list[bytes]) -> bytes:
        return OK

    def _select(self, connection: Connection, words: list[bytes]) -> bytes:
        return OK

    def _cluster(self, connection: Connection, words: list[bytes]) -> bytes:
        if not self.cluster.enabled:
            return b"-ERR This instance has cluster support disabled\r\n"
        return self.cluster.slots_reply()

    def _get(self, connection: Connection, words: list[bytes]) -> bytes:
        value = self.strings.get(words[0])
        reply = NIL if value is None else bulk(value)
        if self.half:
            connection.transport.write(reply[: len(reply) // 2])
            asyncio.get_running_loop().call_soon(connection.break_off)
            return b""
        return reply

    def _set(self, connection: Connection, words: list[bytes]) -> bytes:
        self.strings[words[0]] = words[1]
        return OK

    def _incr(self, connection: Connection, words: list[bytes]) -> bytes:
        self.strings[words[0]] = b"%d" % (int(self.strings.get(words[0], b"0")) + 1)
        return b":%s\r\n" % self.strings[words[0]]

    def _fcall(self, connection: Connection, words: list[bytes]) -> bytes:
        if self.functions is None or words[0] not in self.functions:
            return b"-ERR Function not found\r\n"
        return bulk(b"called " + words[0])

    def _function(self, connection: Connection, words: list[bytes]) -> bytes:
        self.functions = words[2]
        return bulk(b"library")

    def _ssubscribe(self, connection: Connection, words: list[bytes]) -> bytes:
        connection.channels.update(dict.fromkeys(words))
        return b"".join(b">3\r\n" + bulk(b"ssubscribe") + bulk(each) + b":1\r\n" for each in words)

    def _sunsubscribe(self, connection: Connection, words: list[bytes]) -> bytes:
        for each in words:
            connection.channels.pop(each, None)
        return b"".join(b">3\r\n" + bulk(b"sunsubscribe") + bulk(each) + b":0\r\n" for each in words)

    def _spublish(self, connection: Connection, words: list[bytes]) -> bytes:
        self.push(b"smessage", words[0], bulk(words[1]))
        return b":1\r\n"


class FakeCluster:
    """Nodes, and who has which slot: at first each an equal share. With `enabled` False one node has all."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.nodes: list[FakeNode] = []
        self.owner: list[FakeNode | None] = []
        self.importing: dict[int, FakeNode] = {}  # slot to where it is on its way: ASK for what is not here

    async def start(self, nodes: int) -> Self:
        self.nodes = [await FakeNode(self).start() for _ in range(nodes)]
        self.owner = [self.nodes[slot * nodes // SLOTS] for slot in range(SLOTS)]
        return self

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def move(self, slots: Iterable[int], to: FakeNode | None) -> None:
        for slot in slots:
            self.owner[slot] = to

    def redirect(self, node: FakeNode, slot: int, *, asking: bool) -> bytes | None:
        """Return what `node` answers to a command of the slot where it does not do it."""
        if not self.enabled or (asking and self.importing.get(slot) is node):
            return None
        owner = self.owner[slot]
        if owner is None:
            return b"-CLUSTERDOWN Hash slot not served\r\n"
        if owner is not node:
            return b"-MOVED %d 127.0.0.1:%d\r\n" % (slot, owner.port)
        if slot in self.importing:
            return b"-ASK %d 127.0.0.1:%d\r\n" % (slot, self.importing[slot].port)
        return None

    def slots_reply(self) -> bytes:
        ranges: list[list[Any]] = []
        for slot, owner in enumerate(self.owner):
            if ranges and ranges[-1][2] is owner:
                ranges[-1][1] = slot
            else:
                ranges.append([slot, slot, owner])
        parts = [
            b"*3\r\n:%d\r\n:%d\r\n*3\r\n%s:%d\r\n%s" % (a, b, bulk(b"127.0.0.1"), o.port, bulk(b"id"))
            for a, b, o in ranges
            if o is not None
        ]
        return b"*%d\r\n%s" % (len(parts), b"".join(parts))

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)
