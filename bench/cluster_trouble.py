"""The part of `bench.cluster` that joins, cuts and kills: how many a second, how long until it is back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import redis
from redis.crc import key_slot

from bench import report
from bench.cluster_scene import redis_nodes, workers
from bench.peer import Peer
from bench.raw import Client, LostError
from realtime.backends.redis_nodes import RedisCluster, RedisNode

BATCH = 100  # joins under way at once
ROOMS_EACH = 1000  # that one connection is in
PUBLISH_EVERY_S = 0.02
# No more under way: what waits while a master is away is refused at once, and a connection may only cause so
# many errors a second (errors_per_second).
UNDER_WAY_MAX = 20
STANDS_S = 30.0
ROOM = "events:failover"
BOUNDS = {"max_rooms_per_connection": str(ROOMS_EACH), "max_connections_per_user": "1000"}


def joins(rounds: int, count: int) -> dict[str, object]:
    """Join so many rooms that nobody is in, and leave them again: each is a subscription and a position."""
    found: dict[str, list[float]] = {"joins/s": [], "leaves/s": []}
    with redis_nodes() as nodes, workers(nodes.url, 1, **BOUNDS) as up:
        for number in range(rounds):
            rooms = [f"events:join-{number}-{room}" for room in range(count)]
            shares = list(_shares(rooms))
            clients = [Client(up[0].port, f"joins-{index}") for index in range(len(shares))]
            for verb, rates in zip(("join", "leave"), found.values(), strict=True):
                began_s = time.perf_counter()
                for client, share in zip(clients, shares, strict=True):
                    _each(client, verb, share)
                rates.append(count / (time.perf_counter() - began_s))
            for client in clients:
                client.__exit__()
    for name, rates in found.items():
        text = f"{report.scaled(statistics.median(rates)):>6}/s, {BATCH} under way"
        print(report.row(name.partition("/")[0], "", text, rates))
    return dict(found)


def resubscribe(rounds: int, count: int) -> dict[str, object]:
    """Cut all subscriptions of a worker that is in so many rooms; until Redis has all of them again."""
    back_s: list[float] = []
    with redis_nodes() as nodes, workers(nodes.url, 1, **BOUNDS) as up:
        shares = list(_shares([f"events:back-{room}" for room in range(count)]))
        clients = [Client(up[0].port, f"back-{index}") for index in range(len(shares))]
        for client, share in zip(clients, shares, strict=True):
            _each(client, "join", share)
        _await(lambda: _subscribed(nodes) >= count, f"{count} rooms are not subscribed to")
        for _ in range(rounds):
            began_s = time.perf_counter()
            for node in nodes.nodes:
                node.ask("CLIENT", "KILL", "TYPE", "pubsub")
            _await(lambda: _subscribed(nodes) >= count, "the subscriptions do not stand again")
            back_s.append(time.perf_counter() - began_s)
        for client in clients:
            client.__exit__()
    text = f"{statistics.median(back_s) * 1e3:.0f} ms until {count:,} rooms are subscribed to again"
    print(report.row("resubscribe", "", text, back_s))
    return {"resubscribed_s": back_s, "rooms": count}


def failover(rounds: int) -> dict[str, object]:
    """Publish every 20 ms while the room's master goes: how long nothing was acked, how many were refused."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in TROUBLES}
    with redis_nodes(3, 1) as nodes, workers(nodes.url, 2, **BOUNDS) as up:
        slot = key_slot(f"rt:{{default/{ROOM}}}".encode())
        for _ in range(rounds):
            for name, (harm, heal) in TROUBLES.items():
                publisher = Publisher(up[0].port)
                publisher.go_on(0.5)
                master = nodes.master_of(slot)
                began_s = time.perf_counter()
                harm(nodes, master, slot)
                publisher.go_on(STANDS_S, until_acked_after=began_s + 0.1)
                publisher.go_on(1.0)
                found[name].append(publisher.stall(began_s))
                publisher.close()
                heal(nodes, master)
                nodes.wait_until_ok()
                _await(lambda: len(nodes.replicas_of(nodes.master_of(slot))) == 1, "no replica follows")
    for name, runs in found.items():
        stalls = [run["stall_ms"] for run in runs]
        refused = statistics.median(run["refused"] for run in runs)
        text = f"nothing acked for {statistics.median(stalls):6.0f} ms, {refused:.0f} refused meanwhile"
        print(report.row(name, "", text, stalls))
    return dict(found)


class Publisher:
    """Publishes every PUBLISH_EVERY_S and remembers when each was acked or refused."""

    def __init__(self, port: int) -> None:
        self._peer = Peer(port, "publisher")
        self._peer.ask("join", room=ROOM)
        self._count = 0
        self._acked_s: list[float] = []
        self._refused_s: list[float] = []

    def go_on(self, seconds: float, *, until_acked_after: float | None = None) -> None:
        """Publish for so long, or until there is an ack after that moment.

        Raises:
            LostError: there is none.
        """
        end_s = time.perf_counter() + seconds
        while (now_s := time.perf_counter()) < end_s:
            if self._count - len(self._acked_s) - len(self._refused_s) < UNDER_WAY_MAX:
                self._count += 1
                self._peer.send("publish", id=self._count, room=ROOM, content=self._count)
            due_s = now_s + PUBLISH_EVERY_S
            while (left_s := due_s - time.perf_counter()) > 0:
                try:
                    self._take(self._peer.wait(left_s))
                except TimeoutError:
                    break
            if until_acked_after is not None and self._acked_s and self._acked_s[-1] > until_acked_after:
                return
        if until_acked_after is not None:
            raise LostError(f"nothing was acked within {seconds:.0f} s of the trouble")

    def stall(self, from_s: float) -> dict[str, float]:
        """Return the longest time without an ack that ends after `from_s`, in ms, and the refusals since."""
        times = [at_s for at_s in self._acked_s if at_s < from_s][-1:]
        times += [at_s for at_s in self._acked_s if at_s >= from_s]
        longest = max(b - a for a, b in pairwise(times))
        return {"stall_ms": longest * 1e3, "refused": sum(at_s >= from_s for at_s in self._refused_s)}

    def close(self) -> None:
        """Be gone."""
        self._peer.close()

    def _take(self, messages: Iterator[dict[str, object]]) -> None:
        now_s = time.perf_counter()
        for message in messages:
            if message["type"] == "ack":
                self._acked_s.append(now_s)
            elif message["type"] == "error":
                self._refused_s.append(now_s)


def _kill(nodes: RedisCluster, master: RedisNode, slot: int) -> None:
    master.kill()


def _stop(nodes: RedisCluster, master: RedisNode, slot: int) -> None:
    master.freeze()


def _step_down(nodes: RedisCluster, master: RedisNode, slot: int) -> None:
    nodes.replicas_of(master)[0].ask("CLUSTER", "FAILOVER")


def _start(nodes: RedisCluster, master: RedisNode) -> None:
    master.start()


def _go_on(nodes: RedisCluster, master: RedisNode) -> None:
    master.thaw()


def _nothing(nodes: RedisCluster, master: RedisNode) -> None:
    pass


TROUBLES: dict[
    str,
    tuple[Callable[[RedisCluster, RedisNode, int], None], Callable[[RedisCluster, RedisNode], None]],
] = {"master killed": (_kill, _start), "master stopped": (_stop, _go_on), "planned": (_step_down, _nothing)}


def _shares(rooms: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(rooms), ROOMS_EACH):
        yield rooms[begin : begin + ROOMS_EACH]


def _each(client: Client, verb: str, rooms: Sequence[str]) -> None:
    """Ask for each room, some at once; wait for all answers.

    Raises:
        LostError: one is refused.
    """
    answer = {"join": "joined", "leave": "ack"}[verb]
    for begin in range(0, len(rooms), BATCH):
        batch = rooms[begin : begin + BATCH]
        client.send(*({"type": verb, "id": room, "room": room} for room in batch))
        left = len(batch)
        while left:
            said = client.read()
            if said["type"] == "error":
                raise LostError(f"{verb}: {said}")
            left -= said["type"] == answer


def _subscribed(nodes: RedisCluster) -> int:
    """Return how many sharded channels have a subscriber, as Redis counts them."""
    total = 0
    for node in nodes.nodes:
        try:
            total += int(node.ask("INFO", "stats")["pubsubshard_channels"])
        except redis.RedisError:
            continue
    return total


def _await(holds: Callable[[], bool], otherwise: str) -> None:
    deadline_s = time.perf_counter() + STANDS_S
    while not holds():
        if time.perf_counter() > deadline_s:
            raise LostError(f"{otherwise} within {STANDS_S:.0f} s")
        time.sleep(0.005)
