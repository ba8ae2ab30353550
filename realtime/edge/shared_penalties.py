"""Penalties over all workers: who is boxed on one is boxed on all; who reaches them may look, and pardon.

A worker tells the others of each boxing that was earned with it, and a worker that joins is told of all there
are. The news is not kept: a worker that misses it boxes the address itself when it offends there too. Points
are not shared, or every bad frame would cost every worker a message.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

import msgspec

from realtime.core.cluster import Change, Cluster, WorkerId
from realtime.core.control import Workers, ask_all
from realtime.edge.guard import Guard
from realtime.edge.penalties import Boxing
from realtime.errors import BadMessage
from realtime.native.address import pack

BOXED: Final = "penalty"
LIST: Final = "penalties"
FREE: Final = "pardon"
# In one message, and in a list: 40 bytes each, 90 with a name. More than these at once are a worker's own.
PAGE: Final = 800


class Penalty(msgspec.Struct, frozen=True, array_like=True):
    """Who is in the box of a worker: an address, or in IPv6 the network of one."""

    address: str
    seconds: float
    times: int


class SharedPenalties:
    """Keeps the box of `guard` in step with those of the other workers of `cluster`."""

    def __init__(self, guard: Guard, cluster: Cluster) -> None:
        self._guard = guard
        self._cluster = cluster
        cluster.answer(BOXED, self._on_boxed)
        cluster.answer(LIST, self._on_list)
        cluster.answer(FREE, self._on_free)
        guard.follow(self._tell)
        cluster.watch(self._on_change)

    def _tell(self, boxing: Boxing) -> None:
        self._cluster.tell(BOXED, _encode([boxing]))

    def _on_change(self, change: Change) -> None:
        """Let who is new know whom to keep out."""
        for worker in change.joined:
            if worker != self._cluster.worker and (
                known := list(islice(self._guard.box.boxings_now(), PAGE))
            ):
                self._cluster.tell(BOXED, _encode(known), worker)

    def _on_boxed(self, asker: WorkerId, body: bytes) -> None:
        if asker == self._cluster.worker:
            return
        for boxing in _decode(body, list[Boxing]):
            # Settings differ while they are rolled out: what is exempt here stays so.
            if len(boxing.key) in (4, 16) and not self._guard.is_exempt(boxing.key):
                self._guard.box.hold(boxing)

    def _on_list(self, asker: WorkerId, body: bytes) -> bytes:
        name = self._guard.name
        boxings = islice(self._guard.box.boxings_now(), PAGE)
        return _encode([Penalty(name(each.key), each.seconds, each.times) for each in boxings])

    def _on_free(self, asker: WorkerId, body: bytes) -> bytes:
        if len(body) not in (4, 16):
            raise BadMessage(f"{FREE}: an address has 4 or 16 bytes, not {len(body)}")
        return b"1" if self._guard.free(body) else b"0"


async def list_penalties(workers: Workers) -> list[Penalty]:
    """Return who is in the box of any worker, longest first, at most 800 of each worker.

    Raises:
        Unavailable: not all workers gave an answer.
    """
    longest: dict[str, Penalty] = {}
    for answer in await ask_all(workers, LIST, b""):
        for each in _decode(answer, list[Penalty]):
            known = longest.get(each.address)
            if known is None or known.seconds < each.seconds:
                longest[each.address] = each
    return sorted(longest.values(), key=lambda each: -each.seconds)


async def pardon(workers: Workers, address: str) -> int:
    """Let an address out of the box on all workers, and forget what it did; return how many knew of it.

    Raises:
        BadMessage: it is no address.
        Unavailable: not all workers gave an answer; those that did have done it.
    """
    packed = pack(address.partition("/")[0])
    if packed is None:
        raise BadMessage(f"{address!r} is no IPv4 or IPv6 address")
    return sum(map(int, await ask_all(workers, FREE, packed)))


def _encode(what: Iterable[Boxing] | Iterable[Penalty]) -> bytes:
    return msgspec.msgpack.encode(list(what))


def _decode(body: bytes, type: Any) -> Any:
    try:
        return msgspec.msgpack.decode(body, type=type)
    except msgspec.MsgspecError as error:
        raise BadMessage(f"a worker of another version says of penalties: {error}") from error
