"""What all workers together have: rooms, connections, how they are. Each answers for itself; here it is put
together, page by page.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from typing import TypeVar

import msgspec

from realtime.core.auth import Identity
from realtime.core.cluster import WorkerId
from realtime.core.cluster_local import ALONE
from realtime.core.control import ask_all
from realtime.core.operations import (
    CLOSE,
    CONNECTIONS,
    PUT_OUT,
    REVOKED,
    ROOMS,
    Bearer,
    Close,
    ConnectionHere,
    ConnectionsAsked,
    ConnectionsHere,
    PutOut,
    RoomsAsked,
    RoomsHere,
)
from realtime.edge.outsider import Outsider
from realtime.edge.status import EVENTS, ORDER, STATUS, Recent, Since
from realtime.errors import BadMessage, Unavailable
from realtime.ids import RoomName, TenantId, UserId
from realtime.protocol import admin

Answer = TypeVar("Answer")


class Survey:
    """Asks the workers that an `Outsider` reaches."""

    def __init__(self, outsider: Outsider) -> None:
        self._outsider = outsider

    async def rooms(self, tenant: TenantId, kind: str, after: str, limit: int) -> admin.Rooms:
        """Return a page of the tenant's rooms that have members, by name.

        Raises:
            Unavailable: not all workers gave an answer: a page that lacks some would look whole.
        """
        await self._outsider.workers()
        asked = RoomsAsked(tenant, kind, after, limit)
        answers = await ask_all(self._outsider.reach, ROOMS, msgspec.msgpack.encode(asked))
        pages = [msgspec.msgpack.decode(each, type=RoomsHere) for each in answers]
        # What comes after the last room of a page that goes on is known of the other workers alone.
        horizon = min((page.rooms[-1].room for page in pages if page.more and page.rooms), default=None)
        found: dict[str, admin.RoomSummary] = {}
        for page in pages:
            for each in page.rooms:
                known = found.get(each.room)
                users, connections = (known.users, known.connections) if known else (0, 0)
                found[each.room] = admin.RoomSummary(
                    room=each.room, users=max(users, each.count), connections=connections + each.here
                )
        names = heapq.nsmallest(limit + 1, (name for name in found if horizon is None or name <= horizon))
        more = len(names) > limit or horizon is not None
        names = names[:limit]
        return admin.Rooms(rooms=[found[name] for name in names], next=names[-1] if more and names else None)

    async def connections(
        self, tenant: TenantId, user: UserId | None, after: str, limit: int
    ) -> admin.Connections:
        """Return a page of connections, by worker and number.

        Raises:
            BadMessage: `after` is no position.
            Unavailable: a worker gave no answer.
        """
        begin, number = _position(after) if after else ("", 0)
        workers = await self._outsider.workers() if user is None else await self._outsider.find(tenant, user)
        page: list[admin.ConnectionInfo] = []
        for worker in sorted(each for each in workers if each >= begin):
            since = number if worker == begin else 0
            asked = ConnectionsAsked(tenant, user, since, limit - len(page))
            answer = await self._outsider.reach.ask(worker, CONNECTIONS, msgspec.msgpack.encode(asked))
            here = msgspec.msgpack.decode(answer, type=ConnectionsHere)
            prefix = await self._prefix(worker)
            page += [_info(worker, prefix, each) for each in here.connections]
            if here.more:
                return admin.Connections(
                    connections=page, next=f"{worker}/{here.connections[-1].number}" if page else None
                )
            if len(page) >= limit:
                rest = [each for each in workers if each > worker]
                following = f"{min(rest)}/0" if rest else None
                return admin.Connections(connections=page, next=following)
        return admin.Connections(connections=page)

    async def close(self, tenant: TenantId, connection_id: str, code: int, reason: str) -> int:
        """Close a connection; return 1, or 0 where there is none of the tenant.

        Raises:
            BadMessage: it is no connection's id.
            Unavailable: its worker gives no answer.
        """
        prefix, dash, text = connection_id.rpartition("-")
        if not dash or not text.isascii() or not text.isdigit() or len(text) > 18:
            raise BadMessage(f"{connection_id!r} is no connection's id")
        for worker in await self._outsider.workers():
            if await self._prefix(worker) == prefix:
                order = msgspec.msgpack.encode(Close(tenant, int(text), code, reason))
                return int(await self._outsider.reach.ask(worker, CLOSE, order))
        return 0

    async def put_out(self, tenant: TenantId, room: RoomName, user: UserId) -> int:
        """Put a user out of a room; return how many connections were in it.

        Raises:
            Unavailable: a worker gave no answer.
        """
        await self._outsider.workers()
        order = msgspec.msgpack.encode(PutOut(tenant, room, user))
        return sum(map(int, await ask_all(self._outsider.reach, PUT_OUT, order)))

    async def is_revoked(self, identity: Identity) -> bool:
        """Whether the token that said this is revoked, as one worker knows it.

        Raises:
            Unavailable: none gives an answer.
        """
        bearer = Bearer(identity.tenant, identity.user, identity.token_id, identity.issued_at)
        body = msgspec.msgpack.encode(bearer)
        failed: Unavailable | None = None
        for worker in await self._outsider.workers():
            try:
                return await self._outsider.reach.ask(worker, REVOKED, body) == b"1"
            except Unavailable as error:
                failed = error
        raise failed or Unavailable("no worker is known to run", retry_after_s=1.0)

    # -- workers --------------------------------------------------------------------------------------------

    async def status(self) -> admin.Workers:
        """Return how all workers are, and who gives no answer."""
        workers = await self._outsider.workers()
        found = await asyncio.gather(*map(self._status, workers))
        return admin.Workers(
            workers=[each for each in found if each is not None],
            silent=[worker for worker, each in zip(workers, found, strict=True) if each is None],
        )

    async def events(self, seen: dict[str, int]) -> list[admin.Occurrence]:
        """Return what went on record since `seen`, the last numbers by worker, which it changes."""
        workers = await self._outsider.workers()
        for gone in seen.keys() - set(workers):
            del seen[gone]
        answers = await asyncio.gather(*(self._events(worker, seen) for worker in workers))
        return sorted((each for some in answers for each in some), key=lambda each: each.at)

    async def order(self, worker: str, order: str) -> None:
        """Give a worker an order.

        Raises:
            BadMessage: there is no such worker, or it takes no such order.
            Unavailable: it gives no answer.
        """
        if worker not in await self._outsider.workers():
            raise BadMessage(f"there is no worker {worker!r}")
        status = await self._status(WorkerId(worker))
        if status is None:
            raise Unavailable("the worker gives no answer", retry_after_s=1.0)
        if order not in status.orders:
            takes = ", ".join(status.orders) or "none"
            raise BadMessage(f"worker {worker!r} takes no order {order!r}; it takes: {takes}")
        await self._outsider.reach.ask(WorkerId(worker), ORDER + order, b"")

    async def _status(self, worker: WorkerId) -> admin.WorkerStatus | None:
        began = time.perf_counter()
        try:
            answer = await self._outsider.reach.ask(worker, STATUS, b"")
        except Unavailable:
            return None
        status = msgspec.msgpack.decode(answer, type=admin.WorkerStatus)
        took_ms = round((time.perf_counter() - began) * 1e3, 3)
        return msgspec.structs.replace(status, worker=worker, answered_ms=took_ms)

    async def _events(self, worker: WorkerId, seen: dict[str, int]) -> list[admin.Occurrence]:
        since = seen.get(worker, 0)
        try:
            answer = await self._outsider.reach.ask(worker, EVENTS, msgspec.msgpack.encode(Since(since)))
        except Unavailable:
            return []
        recent = msgspec.msgpack.decode(answer, type=Recent)
        seen[worker] = recent.number
        return [] if recent.number < since else recent.events  # it has begun anew: from the next time on

    async def _prefix(self, worker: WorkerId) -> str:
        """What the ids of its connections begin with: its own id, or of one that is alone its node's name."""
        if worker != ALONE:
            return worker
        answer = await self._outsider.reach.ask(worker, STATUS, b"")
        return msgspec.msgpack.decode(answer, type=admin.WorkerStatus).node


def _info(worker: WorkerId, prefix: str, here: ConnectionHere) -> admin.ConnectionInfo:
    return admin.ConnectionInfo(
        connection_id=f"{prefix}-{here.number}",
        user_id=here.user,
        worker=worker,
        address=here.address,
        encoding="msgpack" if here.binary else "json",
        rooms=list(here.rooms),
        in_rooms=here.in_rooms,
    )


def _position(after: str) -> tuple[str, int]:
    worker, slash, number = after.rpartition("/")
    if not slash or not number.isascii() or not number.isdigit() or len(number) > 18:
        raise BadMessage("after: it is no position; give the `next` of the page before")
    return worker, int(number)
