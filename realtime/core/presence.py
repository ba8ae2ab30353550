"""Who is in a room: users with a count of their sessions, and the pushes that tell the others.

A user comes with its first session and goes with its last. Changes are told as one diff per interval, never
one by one: 10,000 members that join at once would cause 50 million messages. Above a number of members only
the count is told. Users are kept as the JSON strings that every message of theirs carries anyway.
"""

from __future__ import annotations

from itertools import islice

# Deleted entries at a dict's front stay until it is rebuilt, and listing the first members walks over them.
REBUILD_LEAVES = 64


class Roster:
    """The members of one room. `limit` is how many are named at most, in lists and in diffs."""

    __slots__ = ("_gone", "_listed", "_touched", "_whole", "limit", "told_at", "users")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.users: dict[bytes, int] = {}
        self.told_at = float("-inf")  # monotonic seconds of the last push
        self._touched: set[bytes] = set()  # users who came or went since then
        self._whole = True  # everybody was told of everyone; False while only the count was
        self._listed: bytes | None = None
        self._gone = 0

    def __len__(self) -> int:
        return len(self.users)

    def join(self, user: bytes) -> bool:
        """Count one more session of `user`; True when it is the first one."""
        users = self.users
        sessions = users.get(user, 0)
        users[user] = sessions + 1
        if sessions:
            return False
        if len(users) <= self.limit:
            self._listed = None
        self._touch(user)
        return True

    def leave(self, user: bytes) -> bool:
        """Count one session of `user` less; True when it was the last one."""
        users = self.users
        sessions = users[user] - 1
        if sessions:
            users[user] = sessions
            return False
        del users[user]
        self._gone += 1
        if self._gone > len(users) + REBUILD_LEAVES:
            self.users = dict(users)
            self._gone = 0
        self._listed = None
        self._touch(user)
        return True

    def listed(self) -> bytes:
        """The members as a JSON array, those first who came first, at most `limit`."""
        if self._listed is None:
            self._listed = b"[%b]" % b",".join(islice(self.users, self.limit))
        return self._listed

    def due(self, diff_interval_s: float, count_interval_s: float) -> float:
        """Monotonic seconds from which on the next push may go out."""
        return self.told_at + (count_interval_s if len(self.users) > self.limit else diff_interval_s)

    def tell(self, now: float) -> bytes:
        """Return the content of the push that tells what has changed, and count it as told.

        A user who came and went within the interval, or the other way round, is told by where it ended:
        whoever joined in between has seen something in between, and a diff of the ends would leave it wrong.
        """
        count = len(self.users)
        if count > self.limit:
            self._whole = False
            content = b'{"count":%d}' % count
        elif not self._whole or len(self._touched) > self.limit:
            # Diffs were skipped while the room was too large, or this one is: say who is here now.
            self._whole = True
            content = b'{"members":%b,"count":%d}' % (self.listed(), count)
        else:
            joined = b",".join(user for user in self._touched if user in self.users)
            left = b",".join(user for user in self._touched if user not in self.users)
            content = b'{"joined":[%b],"left":[%b],"count":%d}' % (joined, left, count)
        self._touched.clear()
        self.told_at = now
        return content

    def _touch(self, user: bytes) -> None:
        # One above the limit says already that there are too many to name.
        if len(self._touched) <= self.limit:
            self._touched.add(user)
