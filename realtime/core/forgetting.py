"""What a durable room has in memory, forgotten on all workers: the rows that it stands for have changed.

Workers, and Redis for all of them, have a room's newest publications beside the store, for those who come
back. Where a row is written over or goes (a message is deleted, a user erased), these still have what it was.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.control import ask_all
from realtime.errors import BadMessage, Unavailable
from realtime.ids import RoomId, RoomName, TenantId

if TYPE_CHECKING:
    from realtime.core.catalog import Catalog
    from realtime.core.cluster import Cluster, WorkerId
    from realtime.core.contracts import Broker, Clock
    from realtime.core.router import Spawn

FORGET: Final = "forget"
AGAIN_S: Final = 2.0  # after which what could not be done everywhere is tried again
AGAIN_MAX: Final = 10_000  # rooms in which it is; of more the oldest are left to the recovery window


class Forget(msgspec.Struct, frozen=True, array_like=True):
    """What workers are asked: have nothing of this room in memory."""

    tenant: TenantId
    room: RoomName


class Forgetting:
    """Has it forgotten, and tries again where that failed."""

    def __init__(
        self, catalog: Catalog, broker: Broker, cluster: Cluster, clock: Clock, spawn: Spawn
    ) -> None:
        self._catalog = catalog
        self._broker = broker
        self._cluster = cluster
        self._clock = clock
        self._spawn = spawn
        self._again: dict[RoomId, int] = {}  # the offsets up to which it has still to be done
        self._again_at = 0.0
        cluster.answer(FORGET, self._on_forget)

    async def forget(self, room: RoomId, upto: int) -> None:
        """Have all workers, and what they share, forget what a durable room has published up to offset
        `upto`. It is for after the rows have changed; where they are removed, for before that too: what
        somebody reads of Redis in a hole of the store would be written there again.

        Raises:
            BadMessage: it is no room's name.
            Unavailable: not all have done it; it is tried again by itself, while this worker lives.
        """
        kind = self._catalog.kind_of(room.room)
        if not kind.durable:
            return
        asked = msgspec.msgpack.encode(Forget(room.tenant, room.room))
        try:
            await self._broker.expunge(room, kind, upto)
            await ask_all(self._cluster, FORGET, asked)
        except Unavailable:
            self._try_again(room, upto)
            raise

    def tick(self) -> None:
        """Try again what is due."""
        if not self._again or self._clock.monotonic() < self._again_at:
            return
        again, self._again = self._again, {}
        for room, upto in again.items():
            self._spawn(self._forget(room, upto))

    def __len__(self) -> int:
        """In how many rooms it has still to be done."""
        return len(self._again)

    def _try_again(self, room: RoomId, upto: int) -> None:
        if not self._again:
            self._again_at = self._clock.monotonic() + AGAIN_S
        self._again[room] = max(upto, self._again.get(room, 0))
        if len(self._again) > AGAIN_MAX:
            del self._again[next(iter(self._again))]

    async def _forget(self, room: RoomId, upto: int) -> None:
        with contextlib.suppress(Unavailable):  # it is noted
            await self.forget(room, upto)

    def _on_forget(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            asked = msgspec.msgpack.decode(body, type=Forget)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{FORGET}: {error}") from error
        self._broker.drop_history(RoomId(asked.tenant, asked.room))
        return b""
