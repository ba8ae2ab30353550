"""Who is in a room: users with a count of their sessions, and the pushes that tell the others.

A user comes with its first session and goes with its last. Changes are told as one diff per interval, never
one by one: 10,000 members that join at once would cause 50 million messages. Above a number of members only
the count is told. Users are kept as the JSON strings that every message of theirs carries anyway.

Users without a session here are in it as long as something holds them: another worker that names them, or
that they may come back. Who holds whom for how long is `rosters`'.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

import msgspec

from realtime.core.sharing import (
    ENTRY_BYTES_MAX,
    Elsewhere,
    ElsewhereState,
    Entry,
    encode_entry,
    fitting,
)

# Deleted entries at a dict's front stay until it is rebuilt, and listing the first members walks over them.
REBUILD_LEAVES = 64

NO_HOLDS: Final[dict[bytes, int]] = {}
NOBODY: Final[dict[bytes, None]] = {}


class RosterState(msgspec.Struct, array_like=True, gc=False):
    """A `Roster`, handed over: its own fields."""

    users: list[tuple[bytes, int]]
    holds: list[tuple[bytes, int]]
    lingering: list[bytes]
    touched: list[bytes]
    told: int
    told_at: float
    whole: bool
    stale: bool
    elsewhere: ElsewhereState | None


class Roster:
    """The members of one room. `limit` is how many are named at most, in lists and in diffs.

    `users` are all that are seen by name, in the order in which they were, with the count of their sessions
    here: 0 for those who are only held. `here` counts the others. `lingering` are users of this worker
    that may come back. `stale` says that other workers do not know the newest of this one.
    """

    __slots__ = (
        "_gone",
        "_holds",
        "_listed",
        "_told",
        "_touched",
        "_whole",
        "elsewhere",
        "here",
        "limit",
        "lingering",
        "stale",
        "told_at",
        "users",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.users: dict[bytes, int] = {}
        self.here = 0
        self.lingering = NOBODY
        self.elsewhere: Elsewhere | None = None  # until another worker shares something
        self.stale = False
        self.told_at = float("-inf")  # monotonic seconds of the last push
        self._holds = NO_HOLDS
        self._touched: dict[bytes, None] = {}  # users who came or went since then
        self._told = 0  # the count that was told last
        self._whole = True  # everybody was told of everyone; False while only the count was
        self._listed: bytes | None = None
        self._gone = 0

    def __len__(self) -> int:
        if self.elsewhere is None:
            return len(self.users)
        return self.elsewhere.count(len(self.users), len(self.lingering))

    def export(self) -> RosterState:
        """Return all of it, for another process."""
        return RosterState(
            list(self.users.items()),
            list(self._holds.items()),
            list(self.lingering),
            list(self._touched),
            self._told,
            self.told_at,
            self._whole,
            self.stale,
            None if self.elsewhere is None else self.elsewhere.export(),
        )

    def adopt(self, state: RosterState) -> None:
        """Take over what another process knew of the room."""
        self.users = dict(state.users)
        self.here = sum(1 for _, sessions in state.users if sessions)
        self._holds = dict(state.holds) or NO_HOLDS
        self.lingering = dict.fromkeys(state.lingering) or NOBODY
        self._touched = dict.fromkeys(state.touched)
        self._told, self.told_at = state.told, state.told_at
        self._whole, self.stale = state.whole, state.stale
        self._listed = None
        if state.elsewhere is not None:
            self.elsewhere = Elsewhere()
            self.elsewhere.adopt(state.elsewhere)

    def join(self, user: bytes) -> bool:
        """Count one more session of `user`; True when it is the first one here."""
        users = self.users
        sessions = users.get(user)
        if sessions:
            users[user] = sessions + 1
            return False
        users[user] = 1
        self.here += 1
        self.stale = True
        if sessions is None:  # `_appear`, without the calls: each join of a crowd comes here
            if len(users) <= self.limit:
                self._listed = None
            if len(self._touched) <= self.limit:
                self._touched[user] = None
        return True

    def leave(self, user: bytes) -> bool:
        """Count one session of `user` less; True when it was the last one here."""
        users = self.users
        sessions = users[user] - 1
        users[user] = sessions
        if sessions:
            return False
        self.here -= 1
        self.stale = True
        if user not in self._holds:
            self._vanish(user)
        return True

    def hold(self, user: bytes) -> None:
        """Count one more reason but sessions why `user` is here."""
        if self._holds is NO_HOLDS:
            self._holds = {}
        self._holds[user] = self._holds.get(user, 0) + 1
        if user not in self.users:
            self.users[user] = 0
            self._appear(user)

    def release(self, user: bytes) -> None:
        """Count one of them less."""
        holds = self._holds[user] - 1
        if holds:
            self._holds[user] = holds
            return
        del self._holds[user]
        if not self.users[user]:
            self._vanish(user)

    def linger(self, user: bytes) -> None:
        """End the last session of `user` here, who may come back."""
        if self.lingering is NOBODY:
            self.lingering = {}
        self.lingering[user] = None
        self.hold(user)
        self.leave(user)

    def linger_no_more(self, user: bytes) -> None:
        """It has come back, or is not waited for any longer."""
        del self.lingering[user]
        self.stale = True
        self.release(user)

    def listed(self) -> bytes:
        """The members as a JSON array, those first who came first, at most `limit`."""
        if self._listed is None:
            self._listed = b"[%b]" % b",".join(islice(self.users, self.limit))
        return self._listed

    def content(self) -> bytes:
        """The content that says who is here: members, as many as are named, and their count."""
        return b'{"members":%b,"count":%d}' % (self.listed(), len(self))

    def entry(self, left_since: int) -> bytes:
        """Return what other workers are to know of this one, and count it as known to them.

        Who has left with a number below `left_since` is not mentioned any longer.
        """
        self.stale = False
        limit, size = self.limit + 1, ENTRY_BYTES_MAX
        here, size = fitting((user for user, sessions in self.users.items() if sessions), limit, size)
        lingering, size = fitting(self.lingering, limit, size)
        left: list[tuple[int, bytes]] = []
        if self.elsewhere is not None:
            self.elsewhere.forget_left(left_since)
            numbers = self.elsewhere.left
            left = [(numbers[user], user) for user in fitting(numbers, len(numbers), size)[0]]
        return encode_entry(Entry(self.here, len(self.lingering), here, lingering, left))

    @property
    def large(self) -> bool:
        """Whether there are too many to name, or not all are named to us."""
        if len(self.users) > self.limit:
            return True
        elsewhere = self.elsewhere
        return elsewhere is not None and bool(elsewhere.more or elsewhere.more_doubtful)

    @property
    def news(self) -> bool:
        """Whether there is something to tell."""
        if self._touched:
            return True
        return self.elsewhere is not None and (len(self) != self._told or not (self._whole or self.large))

    def due(self, diff_interval_s: float, count_interval_s: float) -> float:
        """Monotonic seconds from which on the next push may go out."""
        return self.told_at + (count_interval_s if self.large else diff_interval_s)

    def tell(self, now: float) -> bytes:
        """Return the content of the push that tells what has changed, and count it as told.

        A user who came and went within the interval, or the other way round, is told by where it ended:
        whoever joined in between has seen something in between, and a diff of the ends would leave it wrong.
        """
        count = self._told = len(self)
        if self.large:
            self._whole = False
            content = b'{"count":%d}' % count
        elif not self._whole or len(self._touched) > self.limit:
            # Diffs were skipped while the room was too large, or this one is: say who is here now.
            self._whole = True
            content = self.content()
        else:
            joined = b",".join(user for user in self._touched if user in self.users)
            left = b",".join(user for user in self._touched if user not in self.users)
            content = b'{"joined":[%b],"left":[%b],"count":%d}' % (joined, left, count)
        self._touched.clear()
        self.told_at = now
        return content

    def _appear(self, user: bytes) -> None:
        if len(self.users) <= self.limit:
            self._listed = None
        self._touch(user)

    def _vanish(self, user: bytes) -> None:
        users = self.users
        del users[user]
        self._gone += 1
        if self._gone > len(users) + REBUILD_LEAVES:
            self.users = dict(users)
            self._gone = 0
        self._listed = None
        self._touch(user)

    def _touch(self, user: bytes) -> None:
        # One above the limit says already that there are too many to name.
        if len(self._touched) <= self.limit:
            self._touched[user] = None
