"""Gates of features: who may be in a room by what is kept of it, asked at the join and again when that
changes.

The policy and the kind decide at once, from memory. What a feature keeps has to be looked up, so its gate is
awaited: before a join, and by `review` for those who are in a room already, on all workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from realtime.core.again import Again
from realtime.core.control import ask_all
from realtime.errors import BadMessage, Unavailable
from realtime.ids import RoomId, RoomName, TenantId, UserId

if TYPE_CHECKING:
    from realtime.core.auth import Identity
    from realtime.core.cluster import Cluster, WorkerId
    from realtime.core.contracts import Clock
    from realtime.core.membership import Membership
    from realtime.core.room import Room
    from realtime.core.router import Spawn
    from realtime.core.session import Session
    from realtime.core.users import Users

REVIEW: Final = "review"
AT_ONCE: Final = 64  # questions to a gate


class Review(msgspec.Struct, frozen=True, array_like=True):
    """What workers are asked: ask the gate again about those in a room, or about one user."""

    tenant: TenantId
    room: RoomName
    user: UserId | None = None


class Admission:
    """Has the gates asked again about members, and puts out who may not stay."""

    def __init__(
        self,
        membership: Membership,
        users: Users,
        cluster: Cluster,
        clock: Clock,
        spawn: Spawn,
        reason: str,
    ) -> None:
        self._gates = membership.gates
        self._membership = membership
        self._users = users
        self._cluster = cluster
        self._reason = reason
        self._again = Again(self._ask_all, clock, spawn)
        self.tick = self._again.tick
        cluster.answer(REVIEW, self._on_review)

    def __len__(self) -> int:
        """How many reviews are tried again."""
        return len(self._again)

    async def review(self, room: RoomId, user: UserId | None = None) -> int:
        """Ask the gate again about all who are in `room`, on all workers, or about `user` alone; return how
        many sessions were put out. It is for after what the gate looks at has changed.

        Raises:
            Unavailable: not all workers gave an answer, or a gate did not; those that did have done it. It is
                tried again by itself, while this worker lives.
        """
        return await self._ask_all(Review(room.tenant, room.room, user))

    async def _ask_all(self, review: Review) -> int:
        try:
            answers = await ask_all(self._cluster, REVIEW, msgspec.msgpack.encode(review))
        except Unavailable:
            self._again.note(review)
            raise
        return sum(map(int, answers))

    async def _on_review(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            asked = msgspec.msgpack.decode(body, type=Review)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{REVIEW}: {error}") from error
        key = RoomId(asked.tenant, asked.room)
        self._gates.review(key, asked.user)  # joins on their way ask again
        room = self._membership.find(key)
        if room is None or not self._gates.has(asked.room):
            return b"0"
        members: dict[Identity, list[Session]] = {}
        for session in self._sessions(asked):
            if room in session.rooms:
                assert session.identity is not None  # nobody's sessions are in no rooms
                members.setdefault(session.identity, []).append(session)
        out, failed = 0, None
        left = iter(members)
        while some := tuple(islice(left, AT_ONCE)):
            judging = (self._judge(room, identity, members[identity]) for identity in some)
            judged = await asyncio.gather(*judging, return_exceptions=True)
            out += sum(each for each in judged if isinstance(each, int))
            failed = failed or next((each for each in judged if isinstance(each, BaseException)), None)
        if failed is not None:
            raise failed
        return b"%d" % out

    async def _judge(self, room: Room, identity: Identity, sessions: Collection[Session]) -> int:
        """Ask the gate about one member; return how many sessions were put out."""
        with self._gates.passage(identity, room.key) as passage:
            admitted = await passage.admits()
        gone = [] if admitted else [each for each in sessions if room in each.rooms]
        for session in gone:
            self._membership.put_out(session, room, self._reason)
        return len(gone)

    def _sessions(self, asked: Review) -> Collection[Session]:
        if asked.user is None:
            return self._users.sessions()
        return self._users.sessions_of(asked.tenant, asked.user)
