"""One room with members on this worker: its logs, its roster, and its stream at the broker.

A room exists while it has members here, or one is on its way in or may come back. Its order and history
belong to the broker's stream and outlive it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

import msgspec

from realtime.core.contracts import Broker, Fanout, Log
from realtime.core.kinds import RoomKind, SlowReader, by_type
from realtime.core.passive import Rest, RestState, epoch_of
from realtime.core.presence import Roster, RosterState
from realtime.core.session import Session
from realtime.core.slow import Newest, catch_up, gap
from realtime.ids import RoomId, RoomName, TenantId
from realtime.native.encode import encode_reply, json_string
from realtime.native.relay import RoomBase
from realtime.protocol.codecs import to_msgpack

NO_TYPES: frozenset[str] = frozenset()
NOBODY: frozenset[Session] = frozenset()
Hear = Callable[["Room", str, "bytes | None"], None]
"""Takes (room, worker, entry): what another worker shares of the room, as `Others`."""
BINARY = 1  # the bit of a variant that says MessagePack
FOREIGN = 1 << 5  # above all variants of the hub's own connections: deflate window bits << 1 | binary
BLIND = 1 << 16  # above all bits of a variant: of a lane whose members are not told who is here


class RoomState(msgspec.Struct, array_like=True, gc=False):
    """A live room, handed over. Members are the ids of their connections.

    `lanes` are its logs by their lanes' numbers, `members` those who moved, `stayed` the users (JSON) of
    sessions that did not: they have lost their connections.
    """

    tenant: TenantId
    name: RoomName
    lanes: list[tuple[int, bytes]]
    members: list[int]
    stayed: list[bytes]
    passive: list[RestState]
    blind: list[int]
    limited: list[int]
    roster: RosterState
    delivered: int
    turns: int
    newest: list[tuple[int, bytes]]


class Lane:
    """The members of one room that share a variant, and the log they read. It `moves` where they can be
    handed over: those of the hub, and no foreign ones.
    """

    __slots__ = ("binary", "blind", "log", "members", "moves")

    def __init__(self, variant: int, log: Log, *, blind: bool) -> None:
        self.binary = bool(variant & BINARY)
        self.moves = not variant & FOREIGN
        self.blind = blind
        self.log = log
        self.members = 0


class Room(RoomBase):
    """A live room. `members` counts sessions, `roster` the users that they are; `passive` are the members
    that are in none of its logs, `blind` those who are not told who is here. `kept` counts the reasons why it
    stays without members: who may come back.

    In one that is `end_to_end` members seal what they say for each other.

    What the relay reads stands in `RoomBase`: `json`, `types`, `sequence`, `log`, `members`, and
    `arriving`, which counts the joins that wait for the broker.
    """

    __slots__ = (
        "_all_types",
        "_delivered",
        "_fanout",
        "alone",
        "blind",
        "end_to_end",
        "kept",
        "key",
        "kind",
        "lanes",
        "newest",
        "passive",
        "readers",
        "recent",
        "roster",
        "stream",
        "turns",
    )

    def __init__(
        self,
        key: RoomId,
        kind: RoomKind,
        types: frozenset[str],
        broker: Broker,
        fanout: Fanout,
        presence_members: int,
        hear: Hear,
        newest_bytes: int = 256 * 1024,
        *,
        end_to_end: bool = False,
    ) -> None:
        self.key = key
        self.kind = kind
        self._all_types = types
        self.json = json_string(key.room)
        self.roster = Roster(presence_members)
        self.members = 0
        self.kept = 0
        self.lanes: dict[int, Lane] = {}
        self.passive: dict[Session, Rest] = {}
        self.blind: set[Session] | frozenset[Session] = NOBODY
        self._delivered = 0  # the last offset, where nobody here knows it otherwise and somebody is passive
        # (offset, push) of what was delivered while joins wait for the broker; an empty push ends a gap.
        self.recent: list[tuple[int, bytes]] = []
        self.turns = 0  # how many epochs have ended since the room is live
        # Of a kind whose slow readers get the latest alone; `newest_bytes` bounds what one gets at once.
        self.newest: Newest | None = None
        if kind.slow_reader is SlowReader.LATEST:
            self.newest = Newest(kind.conflate, newest_bytes)
        self.seal(end_to_end)
        self._fanout = fanout
        self.alone: tuple[Room, ...] = (self,)  # the rooms of a session that is in this one only
        self.stream = broker.open(
            key, kind, self.deliver, self.tell_lost, partial(hear, self) if kind.presence else None
        )
        self.sequence = self.stream.sequence
        # Of a kind whose slow readers skip, where the order is given elsewhere: who reads the logs.
        self.readers: set[Session] | None = None
        if self.sequence is None and kind.slow_reader is not SlowReader.DISCONNECT:
            self.readers = set()

    def seal(self, end_to_end: bool) -> None:
        """Take what is sealed end to end alone, or anything."""
        self.end_to_end = end_to_end
        # What every member may publish; nothing where the kind has to be asked who and what each time, or
        # each content has to be looked at.
        self.take(NO_TYPES if end_to_end or self.kind.may_publish is not None else self._all_types)
        if self.newest is not None:  # a kind that looks into contents finds nothing in them
            self.newest.conflate = by_type if end_to_end else self.kind.conflate

    def deliver_to_all(self, push: bytes, offset: int) -> None:
        """Give one publication of the broker to all members, where `log` alone does not do it."""
        self.broadcast(push, offset)
        if not offset:
            return  # a signal: it has no place in the order
        self._delivered = offset
        if self.passive:
            self._count(push, offset)
        if self.arriving:
            self.recent.append((offset, push))
        if self.newest is not None:  # last, because a kind's own `conflate` runs in there
            self.newest.keep(push, offset)

    def broadcast(self, payload: bytes, offset: int = 0) -> None:
        """Give one message, as JSON, to all members; transcoded once, however many read MessagePack.

        `offset` is a publication's; what has none may be dropped without a gap.
        """
        self._append_to(payload, offset, self.lanes.values())

    def _append_to(self, payload: bytes, offset: int, lanes: Iterable[Lane]) -> None:
        packed: bytes | None = None
        for lane in lanes:
            if not lane.binary:
                lane.log.append(payload, offset)
            else:
                if packed is None:
                    packed = to_msgpack(payload)
                lane.log.append(packed, offset)

    def tell_presence(self, payload: bytes) -> None:
        """Give news of who is here to all members but the blind."""
        self._append_to(payload, 0, [lane for lane in self.lanes.values() if not lane.blind])

    def blindfold(self, session: Session, *, blind: bool) -> None:
        """Tell a member no longer who is here, or again; where it makes a difference, it changes its log."""
        blind = blind and self.kind.presence
        if (session in self.blind) == blind:
            return
        listens = session not in self.passive
        if listens:
            self._unlisten(session)
        self._note_blind(session, blind=blind)
        if listens:
            self._listen(session)

    def enter(self, session: Session, *, blind: bool = False) -> None:
        """Let one session in: it gets what is delivered from now on; `blind`: but not who is here."""
        if blind and self.kind.presence:
            self._note_blind(session, blind=True)
        self._listen(session)
        self.members += 1

    def exit(self, session: Session) -> None:
        """Let one session out; its connection may be gone."""
        if self.passive.pop(session, None) is None:
            self._unlisten(session)
        elif not self.passive:
            self._choose_log()
        if self.blind:
            self._note_blind(session, blind=False)
        self.members -= 1

    def rest(self, session: Session, rest: Rest) -> None:
        """Make a member passive at the room's present position: what was delivered before still comes."""
        self._unlisten(session)
        self.passive[session] = rest
        self._delivered = rest.since
        self._choose_log()

    def wake(self, session: Session) -> None:
        """Make a passive member active: it gets what is delivered from now on."""
        del self.passive[session]
        self._listen(session)
        self._choose_log()

    @property
    def offset(self) -> int:
        """The last offset that was delivered; kept up where somebody is passive."""
        return self._delivered if self.sequence is None else self.sequence.offset

    def tell_lapse(self, session: Session, after: int, last: int) -> int:
        """Tell a slow member what it has missed above offset `after` up to `last`, before the room goes on.

        Return how many publications it does not get. What has no offset was dropped without a gap: who is
        here is told anew, and news of before that still come say the same again.
        """
        newest = () if self.newest is None else self.newest.above(after)
        lost = catch_up(session, self.json, newest, after, last)
        if self.kind.presence and session not in self.blind:
            session.send(encode_reply("presence", None, self.json, self.roster.content()))
        return lost

    def tell_lost(self, first: int | None, last: int | None, reason: str) -> None:
        """Tell all members what none of them will get, in its place in the order.

        Where both are None the epoch has ended: who is passive is told too, because its count is of it.
        """
        told = gap(self.json, first, last, reason)
        if self.readers is None:
            self.broadcast(told)
        else:
            self._begin_logs(self.readers, told)
        if last is not None:
            if self.arriving:
                self.recent.append((last, b""))
            return
        self.turns += 1
        self.recent.clear()  # those who arrive ask again where the room is
        if self.newest is not None:
            self.newest.clear()
        for session, rest in self.passive.items():
            rest.end_epoch()
            session.send(told)

    def export(self, moving: Collection[Session], staying: Collection[Session]) -> RoomState:
        """Return all of it, for another process: with the members that move there, and those that do not."""
        moves = {session for session in moving if session in self.passive} if self.passive else NOBODY
        return RoomState(
            self.key.tenant,
            self.key.room,
            [(number, lane.log.export()) for number, lane in self.lanes.items() if lane.moves],
            [session.connection.id for session in moving],
            [session.user_json for session in staying],
            [self.passive[session].export() for session in moves],
            [session.connection.id for session in moving if session in self.blind] if self.blind else [],
            [each.connection.id for each in moving if each.limited is not None and self in each.limited],
            self.roster.export(),
            self._delivered,
            self.turns,
            [] if self.newest is None else self.newest.export(),
        )

    def adopt(self, state: RoomState, sessions: Mapping[int, Session]) -> list[Rest]:
        """Take over what another process had of the room, which is new here, with those of its members that
        are in `sessions`; return those of them that are passive.
        """
        self._delivered, self.turns = state.delivered, state.turns
        self.roster.adopt(state.roster)
        if self.newest is not None:
            for offset, push in state.newest:
                self.newest.keep(push, offset)
        for number in state.blind:
            self._note_blind(sessions[number], blind=True)
        rests = [Rest.adopted(sessions[each.connection], self, each) for each in state.passive]
        self.passive = {rest.session: rest for rest in rests}
        for variant, log in state.lanes:
            adopted = self._fanout.adopt_room(log, on_gap=self._on_gap)
            self.lanes[variant] = Lane(variant, adopted, blind=bool(variant & BLIND))
        for number in state.members:
            session = sessions[number]
            session.add_room(self)
            self.members += 1
            if session not in self.passive:
                self._count_in(session)
        for number in state.limited:
            sessions[number].limit(self, limited=True)
        for variant in [variant for variant, lane in self.lanes.items() if not lane.members]:
            del self.lanes[variant]
        self._choose_log()
        return rests

    def _count_in(self, session: Session) -> None:
        """Count a member that its log has already; one whose log is not there begins at the end of one."""
        lane = self.lanes.get(self._lane_of(session))
        if lane is None:
            self._listen(session)
            return
        lane.members += 1
        if self.readers is not None:
            self.readers.add(session)

    def close(self) -> None:
        """Let go of what would keep it: nobody is in it any more."""
        self.alone = ()
        self.stream.close()

    @property
    def empty(self) -> bool:
        """Nobody is in it, nobody on the way in, and nobody is waited for."""
        return not self.members and not self.arriving and not self.kept

    def _count(self, push: bytes, offset: int) -> None:
        """Where an epoch has ended, count for passive members in the one of this push."""
        ended = [rest for rest in self.passive.values() if rest.epoch is None]
        if ended:
            epoch = epoch_of(push)
            for rest in ended:
                rest.begin_epoch(offset - 1, epoch)

    def _begin_logs(self, readers: set[Session], told: bytes) -> None:
        """Give all members new logs, and what is `told` between the two.

        A log that slow members skip in counts in offsets that rise by one, of one epoch. Whoever leaves one
        is told what it has skipped, and gets the rest of it before all that follows.
        """
        sessions = tuple(readers)
        for session in sessions:
            self._unlisten(session)
            session.send(told)
        for session in sessions:
            self._listen(session)

    def _note_blind(self, session: Session, *, blind: bool) -> None:
        if blind and isinstance(self.blind, set):
            self.blind.add(session)
        elif blind:
            self.blind = {session}
        elif isinstance(self.blind, set):
            self.blind.discard(session)
            self.blind = self.blind or NOBODY

    def _lane_of(self, session: Session) -> int:
        return session.variant | BLIND if session in self.blind else session.variant

    def _listen(self, session: Session) -> None:
        variant = self._lane_of(session) if self.blind else session.variant
        lane = self.lanes.get(variant)
        if lane is None:
            log = self._new_log(session.variant)
            lane = self.lanes[variant] = Lane(variant, log, blind=bool(variant & BLIND))
            self._choose_log()
        session.connection.join(lane.log)
        lane.members += 1
        if self.readers is not None:
            self.readers.add(session)

    def _unlisten(self, session: Session) -> None:
        variant = self._lane_of(session) if self.blind else session.variant
        lane = self.lanes[variant]
        session.connection.leave(lane.log)
        lane.members -= 1
        if self.readers is not None:
            self.readers.discard(session)
        if not lane.members:
            del self.lanes[variant]
            self._choose_log()

    def _new_log(self, variant: int) -> Log:
        kind = self.kind
        return self._fanout.room(
            variant,
            lag_limit_bytes=kind.lag_limit_bytes or 0,
            lag_limit_messages=kind.lag_limit_messages or 0,
            slow_reader=kind.slow_reader.value,
            priority=kind.priority,
            on_gap=self._on_gap,
        )

    @property
    def _on_gap(self) -> Callable[[Session, int, int], int] | None:
        return None if self.kind.slow_reader is SlowReader.DISCONNECT else self.tell_lapse

    def _choose_log(self) -> None:
        """With one log of uncompressed JSON, as nearly every room is, a publication costs it one call.

        Where the order is given elsewhere, `deliver_to_all` has to count it for passive members.
        """
        lane = self.lanes.get(0)
        counting = self.passive and self.sequence is None
        alone = lane is not None and len(self.lanes) == 1 and self.newest is None and not counting
        self.log = lane.log if lane is not None and alone else None
