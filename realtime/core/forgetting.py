"""What a durable room has in memory, forgotten on all workers: the rows that it stands for have changed.

Workers, and Redis for all of them, have a room's newest publications beside the store, for those who come
back. Where a row is written over or goes (a message is deleted, a user erased), these still have what it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.again import Again
from realtime.core.control import ask_all
from realtime.errors import BadMessage, Unavailable
from realtime.ids import RoomId, RoomName, TenantId

if TYPE_CHECKING:
    from realtime.core.catalog import Catalog
    from realtime.core.cluster import Cluster, WorkerId
    from realtime.core.contracts import Broker, Clock
    from realtime.core.router import Spawn

FORGET: Final = "forget"


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
        self._again = Again(self._forget, clock, spawn)
        self.tick = self._again.tick
        cluster.answer(FORGET, self._on_forget)

    def __len__(self) -> int:
        """How many rooms it is tried again for."""
        return len(self._again)

    async def forget(self, room: RoomId, upto: int) -> None:
        """Have all workers, and what they share, forget what a durable room has published up to offset
        `upto`. It is for after the rows have changed; where they are removed, for before that too: what
        somebody reads of Redis in a hole of the store would be written there again.

        Raises:
            BadMessage: it is no room's name.
            Unavailable: not all have done it; it is tried again by itself, while this worker lives.
        """
        await self._forget((room, upto))

    async def _forget(self, what: tuple[RoomId, int]) -> None:
        room, upto = what
        kind = self._catalog.kind_of(room.room)
        if not kind.durable:
            return
        asked = msgspec.msgpack.encode(Forget(room.tenant, room.room))
        try:
            await self._broker.expunge(room, kind, upto)
            await ask_all(self._cluster, FORGET, asked)
        except Unavailable:
            self._again.note(what)
            raise

    def _on_forget(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            asked = msgspec.msgpack.decode(body, type=Forget)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{FORGET}: {error}") from error
        self._broker.drop_history(RoomId(asked.tenant, asked.room))
        return b""
