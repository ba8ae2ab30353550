"""One room with members on this worker: its logs, its roster, and its stream at the broker.

A room exists while it has members here (or one is on its way in). Its order and history belong to the
broker's stream and outlive it.
"""

from __future__ import annotations

from realtime.core.contracts import Broker, Fanout, Log, RoomKey
from realtime.core.kinds import RoomKind
from realtime.core.presence import Roster
from realtime.core.session import Session
from realtime.native.encode import json_string
from realtime.native.relay import RoomBase
from realtime.protocol.codecs import to_msgpack

NO_TYPES: frozenset[str] = frozenset()
BINARY = 1  # the bit of a variant that says MessagePack


class Lane:
    """The members of one room that share a variant, and the log they read."""

    __slots__ = ("binary", "log", "members")

    def __init__(self, variant: int, log: Log) -> None:
        self.binary = bool(variant & BINARY)
        self.log = log
        self.members = 0


class Room(RoomBase):
    """A live room. `members` counts sessions, `roster` the users that they are.

    What the relay reads stands in `RoomBase`: `json`, `types`, `sequence`, `log`, `members`, and
    `arriving`, which counts the joins that wait for the broker.
    """

    __slots__ = (
        "_fanout",
        "alone",
        "key",
        "kind",
        "lanes",
        "recent",
        "roster",
        "stream",
    )

    def __init__(
        self,
        key: RoomKey,
        kind: RoomKind,
        types: frozenset[str],
        broker: Broker,
        fanout: Fanout,
        presence_members: int,
    ) -> None:
        self.key = key
        self.kind = kind
        # What every member may publish; nothing where the kind has to be asked who and what each time.
        self.types = types if kind.may_publish is None else NO_TYPES
        self.json = json_string(key.room)
        self.roster = Roster(presence_members)
        self.members = 0
        self.lanes: dict[int, Lane] = {}
        self.recent: list[tuple[int, bytes]] = []  # pushes delivered while joins wait for the broker
        self._fanout = fanout
        self.alone: tuple[Room, ...] = (self,)  # the rooms of a session that is in this one only
        self.stream = broker.open(key, kind, self.deliver)
        self.sequence = self.stream.sequence

    def deliver_to_all(self, push: bytes, offset: int) -> None:
        """Give one publication of the broker to all members, where `log` alone does not do it."""
        self.broadcast(push)
        if self.arriving:
            self.recent.append((offset, push))

    def broadcast(self, payload: bytes) -> None:
        """Give one message, as JSON, to all members; transcoded once, however many read MessagePack."""
        packed: bytes | None = None
        for lane in self.lanes.values():
            if not lane.binary:
                lane.log.append(payload)
            else:
                if packed is None:
                    packed = to_msgpack(payload)
                lane.log.append(packed)

    def enter(self, session: Session) -> None:
        """Let one session in: it gets what is delivered from now on."""
        variant = session.variant
        lane = self.lanes.get(variant)
        if lane is None:
            lane = self.lanes[variant] = Lane(variant, self._new_log(variant))
            self._choose_log()
        session.connection.join(lane.log)
        lane.members += 1
        self.members += 1

    def exit(self, session: Session) -> None:
        """Let one session out; its connection may be gone."""
        variant = session.variant
        lane = self.lanes[variant]
        session.connection.leave(lane.log)
        lane.members -= 1
        self.members -= 1
        if not lane.members:
            del self.lanes[variant]
            self._choose_log()

    def close(self) -> None:
        """Let go of what would keep it: nobody is in it any more."""
        self.alone = ()
        self.stream.close()

    @property
    def empty(self) -> bool:
        """Nobody is in it and nobody on the way in."""
        return not self.members and not self.arriving

    def _new_log(self, variant: int) -> Log:
        lag_limit_bytes = self.kind.lag_limit_bytes
        if lag_limit_bytes is None:
            return self._fanout.room(variant)
        return self._fanout.room(variant, lag_limit_bytes=lag_limit_bytes)

    def _choose_log(self) -> None:
        """With one log of uncompressed JSON, as nearly every room is, a publication costs it one call."""
        lane = self.lanes.get(0)
        self.log = lane.log if lane is not None and len(self.lanes) == 1 else None
