"""What the core hands over when another process takes its place, and takes over itself (`edge.handover`).

Each part exports and adopts its own state, next to its code; here stand the order in which that is done and
what is all of it. Who adds state that a client would miss adds it to its part's `export` and `adopt`, and to
`CoreState` where the part has none yet. What is not here is made anew: what the policy and the settings say,
and what others keep (the store, Redis).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import msgspec

from realtime.core.auth import Identity
from realtime.core.contracts import Broker, Connection, Position, StreamState
from realtime.core.entry import Entry, SessionState
from realtime.core.limits import Buckets, Owing
from realtime.core.membership import Membership
from realtime.core.revocations import Revocation
from realtime.core.room import Room, RoomState
from realtime.core.rosters import RostersState
from realtime.core.router import Router
from realtime.core.session import Session
from realtime.errors import BadMessage
from realtime.ids import RoomId, TenantId, UserId

if TYPE_CHECKING:
    from realtime.core.core import Core

log: Final = logging.getLogger("realtime.core")


class CoreState(msgspec.Struct, array_like=True):
    """What is nobody's session and no room's. Rooms in it are numbered in the order of their export."""

    messages: Buckets
    errors: Buckets
    owing: list[tuple[TenantId, UserId | None, Owing]]
    revocations: list[Revocation]
    features: dict[str, bytes]


@runtime_checkable
class HandsOver(Protocol):
    """What a feature that runs (`Running`) may do besides, where it keeps in memory what clients would miss.

    One that does not begins anew in the other process, by its tables.
    """

    async def settle(self) -> None:
        """Write now what waits to be written, however young; it goes on afterwards."""
        ...

    def export(self) -> bytes:
        """Return what is in memory alone."""
        ...

    def adopt(self, state: bytes) -> None:
        """Take over what another process exported, before any connection is there.

        Raises:
            ValueError: it is none, or of another version.
        """
        ...


class HandOver:
    """Both sides of one core. What is exported stays as it was, so the core may go on with it."""

    def __init__(
        self, core: Core, broker: Broker, entry: Entry, membership: Membership, router: Router
    ) -> None:
        self._core = core
        self._broker = broker
        self._entry = entry
        self._membership = membership
        self._router = router
        self._identities: dict[Identity, Identity] = {}
        self._rooms: list[Room] = []
        self._numbers: dict[Room, int] = {}

    # -- of the one who goes --------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Have features write what they gather."""
        for name, feature in self._core.running.items():
            if isinstance(feature, HandsOver):
                try:
                    await feature.settle()
                except Exception:  # whatever it is, it is this feature's alone
                    log.exception("feature %r did not settle", name)

    @property
    def busy(self) -> int:
        """How much is under way that cannot be handed over: acks that are owed, commands, writes."""
        return self._router.owed + self._broker.busy + self._core.under_way

    def streams(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return what the broker has in memory alone, beyond what is `known`."""
        return self._broker.export(known)

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """Which rooms the broker has."""
        return self._broker.kept_rooms

    def state(self) -> CoreState:
        """Return what is nobody's session and no room's."""
        features = {
            name: feature.export()
            for name, feature in self._core.running.items()
            if isinstance(feature, HandsOver)
        }
        messages, errors = self._router.meters.export()
        return CoreState(
            messages, errors, self._entry.allowances.export(), self._core.control.export(), features
        )

    def session(self, session: Session) -> SessionState:
        """Return one session."""
        return self._entry.export(session)

    def rooms(self, moving: Collection[Session], staying: Collection[Session]) -> Iterator[RoomState]:
        """Return the live rooms, with those of their members that move and those that do not."""
        members: dict[Room, tuple[list[Session], list[Session]]] = {}
        for sessions, place in ((moving, 0), (staying, 1)):
            for session in sessions:
                for room in session.rooms:
                    members.setdefault(room, ([], []))[place].append(session)
        self._numbers = {}
        for room in self._membership.live_rooms():
            self._numbers[room] = len(self._numbers)
            yield room.export(*members.get(room, ((), ())))

    def rosters(self) -> RostersState:
        """Return who is waited for, after the rooms."""
        return self._membership.rosters.export(self._numbers)

    # -- of the one who comes -------------------------------------------------------------------------------

    def adopt_stream(self, state: StreamState) -> None:
        """Take over a part of the broker's. A room of a kind that there is no more is forgotten.

        Raises:
            ValueError: it does not follow what was adopted before.
        """
        try:
            kind = self._core.catalog.kind_of(state.room)
        except BadMessage:
            log.warning("room %s is of no kind that there is now: it is forgotten", state.room)
            return
        self._broker.adopt(state, kind)

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget what was adopted of other rooms."""
        self._broker.keep_only(rooms)

    def adopt_state(self, state: CoreState) -> None:
        """Take over what is nobody's session and no room's, before all sessions."""
        self._router.meters.adopt(state.messages, state.errors)
        self._entry.allowances.adopt(state.owing)
        self._core.control.adopt(state.revocations)
        for name, kept in state.features.items():
            feature = self._core.running.get(name)
            if isinstance(feature, HandsOver):
                feature.adopt(kept)

    def adopt_session(self, connection: Connection, state: SessionState) -> Session:
        """Make the session that a connection had, without its rooms."""
        if state.identity is not None:
            state.identity = self.shared(state.identity)
        return self._entry.adopt(connection, state)

    def adopt_silent(self, connection: Connection, identity: Identity) -> None:
        """Count a connection that was admitted and has no session."""
        self._entry.adopt_silent(connection, identity)

    def shared(self, identity: Identity) -> Identity:
        """Return the one object that connections of one token share."""
        return self._identities.setdefault(identity, identity)

    def adopt_room(self, state: RoomState, sessions: Mapping[int, Session]) -> None:
        """Make a live room, with its members: `sessions` by connection.

        Raises:
            BadMessage: there are no such rooms here.
            ValueError: a log of it is none.
        """
        self._rooms.append(self._membership.adopt(state, sessions))

    def adopt_rosters(self, state: RostersState, stayed: Sequence[Sequence[bytes]]) -> None:
        """Take over who is waited for, after the rooms; then wait for those who `stayed`, by room."""
        self._membership.rosters.adopt(state, self._rooms)
        for room, users in zip(self._rooms, stayed, strict=True):
            self._membership.strand(room, users)
        self._rooms, self._identities = [], {}
