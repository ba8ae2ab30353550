"""The rosters of all rooms, over lost connections and over workers, and who is told of their changes.

Whoever loses the connection lingers for the grace period, on the worker where that was, and counts as
present; a worker that is gone leaves all its users so, on each other worker. That a user is seen elsewhere
meanwhile ends nothing: it may be old, and the connection there lost too. What ends it is that the user says
anywhere that it leaves. What is shared comes in any order between workers, so who is gone by the word of one
stays a moment longer: for the word of another where it may be now.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Final, Generic, TypeVar

import msgspec

from realtime.core.contracts import Clock
from realtime.core.limits import Limits
from realtime.core.room import Room
from realtime.core.sharing import Elsewhere, Entry, Share, decode_entry
from realtime.ids import TenantId, UserId
from realtime.native.encode import encode_reply, json_string

log = logging.getLogger("realtime.core")

# Of each kind in one tick, of which there are ten a second: 5 to 10 ms, beside which the rest is not held up.
ENDS_PER_TICK: Final = 5000

Key = TypeVar("Key", bound=Hashable)


class Spans(Generic[Key]):
    """What ends the same time after it began, in that order. No timers: whoever ticks asks what is over."""

    def __init__(self, clock: Clock, span_s: float) -> None:
        self._clock = clock
        self.span_s = span_s
        self._ends: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, key: Key) -> bool:
        return key in self._ends

    def __iter__(self) -> Iterator[Key]:
        return iter(self._ends)

    def begin(self, key: Key) -> None:
        """Begin a span; anew, where it had begun."""
        self._ends[key] = self._clock.monotonic() + self.span_s
        self._ends.move_to_end(key)

    def cancel(self, key: Key) -> None:
        """End it now."""
        del self._ends[key]

    def export(self) -> list[tuple[Key, float]]:
        """Return them with their ends (monotonic seconds), for another process."""
        return list(self._ends.items())

    def adopt(self, key: Key, end: float) -> None:
        """Take over one that began in another process; each before those that end later."""
        self._ends[key] = end

    def over(self) -> Iterator[Key]:
        """Yield those that are over, which ends them; at most `ENDS_PER_TICK`."""
        now = self._clock.monotonic()
        for _ in range(min(len(self._ends), ENDS_PER_TICK)):
            key = next(iter(self._ends))
            if self._ends[key] > now:
                return
            del self._ends[key]
            yield key


class RostersState(msgspec.Struct, array_like=True):
    """`Rosters`, handed over: rooms by number, times in monotonic seconds, the gone by their place."""

    lingering: list[tuple[int, bytes, float]]
    moving: list[tuple[int, bytes, float]]
    gone: list[tuple[int, int, float]]
    changed: list[int]
    left: int


class Rosters:
    """Keeps the rosters of rooms whose kind has presence, shares them, and tells their members.

    `on_idle` is told of a room that was kept for users who may come back, and is not any longer.
    """

    def __init__(self, clock: Clock, limits: Limits, on_idle: Callable[[Room], None]) -> None:
        self._clock = clock
        self._limits = limits
        self._on_idle = on_idle
        self._shared = limits.presence_move_s > 0
        self._left = 0  # the number of whoever said last that it leaves
        self._changed: set[Room] = set()  # what has to be told, to members or to other workers
        self._lingering: Spans[tuple[Room, bytes]] = Spans(clock, limits.presence_grace_s)
        self._moving: Spans[tuple[Room, bytes]] = Spans(clock, limits.presence_move_s)
        self._gone: Spans[tuple[Room, Share]] = Spans(clock, limits.presence_grace_s)

    @property
    def lingering(self) -> int:
        """How many users this worker waits for, counted in each room."""
        return len(self._lingering)

    def export(self, numbers: Mapping[Room, int]) -> RostersState:
        """Return who is waited for and what is still to be told, for another process; rooms by `numbers`."""
        gone = []
        for (room, share), end in self._gone.export():
            assert room.roster.elsewhere is not None  # it holds the share
            gone.append((numbers[room], room.roster.elsewhere.gone.index(share), end))
        return RostersState(
            [(numbers[room], user, end) for (room, user), end in self._lingering.export()],
            [(numbers[room], user, end) for (room, user), end in self._moving.export()],
            gone,
            [numbers[room] for room in self._changed if room in numbers],
            self._left,
        )

    def adopt(self, state: RostersState, rooms: Sequence[Room]) -> None:
        """Take over what another process knew, after the rosters themselves."""
        for spans, kept in ((self._lingering, state.lingering), (self._moving, state.moving)):
            for number, user, end in kept:
                rooms[number].kept += 1
                spans.adopt((rooms[number], user), end)
        for number, place, end in state.gone:
            elsewhere = rooms[number].roster.elsewhere
            assert elsewhere is not None
            self._gone.adopt((rooms[number], elsewhere.gone[place]), end)
        self._changed.update(rooms[number] for number in state.changed)
        for room in rooms if self._shared else ():
            if room.kind.presence:  # what is shared is told again from time to time: by whom has changed
                room.roster.stale = True
                self._changed.add(room)
        self._left = state.left

    def came(self, room: Room, user: bytes) -> None:
        """Count one more session of `user` in the room."""
        roster = room.roster
        if not roster.join(user):
            return
        if user in roster.lingering:
            self._stop(room, user)
        if roster.elsewhere is not None:
            roster.elsewhere.left.pop(user, None)
        if room.kind.presence:
            self._changed.add(room)

    def went(self, room: Room, user: bytes, *, lingers: bool) -> None:
        """Count one session of `user` less; `lingers` where it did not say so, and may come back."""
        roster = room.roster
        if roster.users[user] > 1 or not room.kind.presence:
            roster.leave(user)
            return
        if lingers and self._limits.presence_grace_s:
            self._linger(room, user)
        else:
            if self._shared and not lingers:
                self._say_left(room, user)
            self._move(room, user)
            roster.leave(user)
        self._note(room)

    def forget(self, tenant: TenantId, user: UserId | None) -> None:
        """Wait for the user in no room of the tenant any longer; on None for nobody."""
        named = None if user is None else json_string(user)
        for room, name in [each for each in self._lingering if each[0].key.tenant == tenant]:
            if named is None or name == named:
                self._stop(room, name)
        for room, share in [each for each in self._gone if each[0].key.tenant == tenant]:
            for name in list(share.users()) if named is None else (named,):
                self._wait_no_more(room, name)
            self._note(room)

    def hear(self, room: Room, worker: str, data: bytes | None) -> None:
        """Take what another worker shares of the room; None when that, or the worker, is gone."""
        elsewhere = room.roster.elsewhere
        if data is None:
            if elsewhere is not None and worker in elsewhere.shares:
                self._lose(room, elsewhere, worker)
        else:
            try:
                entry = decode_entry(data)
            except ValueError as error:  # a bug, or somebody else's: what it said before stands
                log.error("a worker's entry is none: %s", error, extra={"room": room.key, "worker": worker})
                return
            if elsewhere is None:
                elsewhere = room.roster.elsewhere = Elsewhere()
            self._take(room, elsewhere, worker, entry)
        self._note(room)

    def tick(self) -> None:
        """Wait no longer for whom the time is over; then share and tell what is due."""
        for room, user in self._lingering.over():
            room.kept -= 1
            room.roster.linger_no_more(user)
            self._note(room)
        for room, user in self._moving.over():
            room.kept -= 1
            room.roster.release(user)
            self._note(room)
        for room, share in self._gone.over():
            self._bury(room, share)
        self._tell()

    def drop(self, room: Room) -> None:
        """Let go of a room that closes; the others are told that nobody is here before they see it gone."""
        if self._shared and room.kind.presence and room.roster.stale:
            self._share(room)
        self._changed.discard(room)
        if room.roster.elsewhere is not None:
            for share in room.roster.elsewhere.gone:
                self._gone.cancel((room, share))

    def _tell(self) -> None:
        now = self._clock.monotonic()
        limits = self._limits
        for room in tuple(self._changed):
            if room.empty:
                self._on_idle(room)
                continue
            roster = room.roster
            if now < roster.due(limits.presence_interval_s, limits.presence_count_interval_s):
                continue
            self._changed.discard(room)
            if self._shared and roster.stale:
                self._share(room)
                roster.told_at = now
            if roster.news:
                room.tell_presence(encode_reply("presence", None, room.json, roster.tell(now)))

    def _share(self, room: Room) -> None:
        since = self._clock.monotonic_ns() - int(self._limits.presence_grace_s * 1e9)
        room.stream.share(room.roster.entry(since))

    def _note(self, room: Room) -> None:
        if room.kind.presence:
            self._changed.add(room)

    # -- users of this worker -------------------------------------------------------------------------------

    def _linger(self, room: Room, user: bytes) -> None:
        room.roster.linger(user)
        room.kept += 1
        self._lingering.begin((room, user))
        if len(self._lingering) > self._limits.presence_lingering:
            oldest, other = next(iter(self._lingering))
            self._stop(oldest, other)

    def _stop(self, room: Room, user: bytes) -> None:
        """Do not wait for a user of this worker any longer."""
        self._lingering.cancel((room, user))
        room.kept -= 1
        room.roster.linger_no_more(user)
        self._note(room)

    def _say_left(self, room: Room, user: bytes) -> None:
        """Let the others know that `user` says it leaves: whether they wait for it is theirs to know.

        Not in a large room, where who is gone is only counted.
        """
        self._wait_no_more(room, user)
        roster = room.roster
        if roster.large:
            return
        if roster.elsewhere is None:
            roster.elsewhere = Elsewhere()
        self._left = max(self._left + 1, self._clock.monotonic_ns())
        roster.elsewhere.note_left(user, self._left)

    def _move(self, room: Room, user: bytes) -> None:
        """Hold who is gone from one worker until it can be known whether it is on another.

        Not in a large room, where nobody is told of it by name.
        """
        if not self._shared or room.roster.large:
            return
        key = (room, user)
        if key not in self._moving:
            room.kept += 1
            room.roster.hold(user)
        self._moving.begin(key)

    def _wait_no_more(self, room: Room, user: bytes) -> None:
        """The user said that it leaves."""
        roster = room.roster
        if user in roster.lingering:
            self._stop(room, user)
        elsewhere = roster.elsewhere
        if elsewhere is not None and elsewhere.gone:
            for share in elsewhere.gone:
                if user in share:
                    share.discard(user)
                    roster.release(user)
            elsewhere.recount()

    # -- users of other workers -----------------------------------------------------------------------------

    def _take(self, room: Room, elsewhere: Elsewhere, worker: str, entry: Entry) -> None:
        """Replace what `worker` had shared."""
        roster = room.roster
        former = elsewhere.shares.get(worker)
        heard = 0 if former is None else former.heard
        share = elsewhere.shares[worker] = Share(entry, heard)
        for user in dict.fromkeys((*entry.here, *entry.lingering)):
            if former is None or user not in former:
                roster.hold(user)
        elsewhere.recount()
        if former is not None:
            self._let_go(room, [user for user in former.users() if user not in share])
        for number, user in entry.left:
            if number > heard:
                self._wait_no_more(room, user)

    def _lose(self, room: Room, elsewhere: Elsewhere, worker: str) -> None:
        """Let the users of a worker that is gone linger."""
        share = elsewhere.shares.pop(worker)
        if not share.empty:
            elsewhere.gone.append(share)
            self._gone.begin((room, share))
        elsewhere.recount()

    def _bury(self, room: Room, share: Share) -> None:
        """Wait no longer for the users of a worker that is gone."""
        elsewhere = room.roster.elsewhere
        assert elsewhere is not None  # it holds the share
        elsewhere.gone.remove(share)
        elsewhere.recount()
        for user in share.users():
            room.roster.release(user)
        self._note(room)

    def _let_go(self, room: Room, users: Collection[bytes]) -> None:
        for user in users:
            self._move(room, user)
            room.roster.release(user)
