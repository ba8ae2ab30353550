"""Gates of features: who may be in a room by what is kept of it, asked at the join and again when that
changes.

The policy and the kind decide at once, from memory. What a feature keeps has to be looked up, so its gate is
awaited: before a join, and by `review` for those who are in a room already, on all workers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.control import ask_all
from realtime.errors import BadMessage
from realtime.ids import RoomId, RoomName, TenantId, UserId

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.cluster import Cluster, WorkerId
    from realtime.core.gates import Gates
    from realtime.core.membership import Membership
    from realtime.core.session import Session
    from realtime.core.users import Users

REVIEW: Final = "review"


class Review(msgspec.Struct, frozen=True, array_like=True):
    """What workers are asked: ask the gate again about those in a room, or about one user."""

    tenant: TenantId
    room: RoomName
    user: UserId | None = None


class Admission:
    """Has the gates asked again about members, and puts out who may not stay."""

    def __init__(
        self,
        gates: Gates,
        membership: Membership,
        users: Users,
        cluster: Cluster,
        reason: str,
    ) -> None:
        self._gates = gates
        self._membership = membership
        self._users = users
        self._cluster = cluster
        self._reason = reason
        cluster.answer(REVIEW, self._on_review)

    async def review(self, room: RoomId, user: UserId | None = None) -> int:
        """Ask the gate again about all who are in `room`, on all workers, or about `user` alone; return how
        many sessions were put out. It is for after what the gate looks at has changed.

        Raises:
            Unavailable: not all workers gave an answer; those that did have done it.
        """
        asked = msgspec.msgpack.encode(Review(room.tenant, room.room, user))
        return sum(int(answer) for answer in await ask_all(self._cluster, REVIEW, asked))

    async def _on_review(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            asked = msgspec.msgpack.decode(body, type=Review)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{REVIEW}: {error}") from error
        self._gates.turn += 1  # joins on their way ask again
        key = RoomId(asked.tenant, asked.room)
        room, gate = self._membership.find(key), self._gates.of(asked.room)
        if room is None or gate is None:
            return b"0"
        out = 0
        answers: dict[Identity, bool] = {}
        for session in [each for each in self._sessions(asked) if room in each.rooms]:
            identity = session.identity
            assert identity is not None  # nobody's sessions are in no rooms
            if identity not in answers:
                answers[identity] = await self._gates.admits(gate, identity, key)
            if not answers[identity] and room in session.rooms:
                self._membership.put_out(session, room, self._reason)
                out += 1
        return b"%d" % out

    def _sessions(self, asked: Review) -> Collection[Session]:
        if asked.user is None:
            return self._users.sessions()
        return self._users.sessions_of(asked.tenant, asked.user)
