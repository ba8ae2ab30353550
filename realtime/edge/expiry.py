"""The end of tokens whose connections have not said anything yet.

A connection that speaks has a session, and the core ends sessions with their tokens. One that only listens
for what may come has none, to cost nothing; here it costs shared numbers for all that end in the same second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Final

from realtime.core.auth import Identity, warn_at
from realtime.core.contracts import Clock, Connection
from realtime.core.expiry import close_expired, warn
from realtime.core.token_audit import TokenAudit

# Who is meant is found by a walk over all connections (0.2 us each). The walks may take this share of time: a
# worker of 10,000 looks every second, one of 100,000 every two.
WALK_SHARE: Final = 0.01


class SilentTokens:
    """Counts silent connections by the second in which their tokens end, and in which that is to be said."""

    def __init__(self, clock: Clock, audit: TokenAudit, warning_s: float = 0.0) -> None:
        self._clock = clock
        self._audit = audit
        self._warning_s = warning_s
        self._due: dict[int, int] = {}  # by second: how many end then, or are to be warned
        self._told: set[int] = set()  # ids of silent connections that have been warned
        self._late = False  # somebody has come whose time to be warned was over
        self._looked = 0  # what was due by this second has been seen to
        self._look_at = 0.0

    def add(self, identity: Identity) -> None:
        """One more silent connection of `identity`."""
        due = self._due
        for second in self._seconds(identity):
            if second > self._looked:
                due[second] = due.get(second, 0) + 1
            else:
                self._late = True

    def remove(self, identity: Identity, number: int) -> bool:
        """One less, connection `number`: it has spoken, or is gone. Return whether it has been warned."""
        for second in self._seconds(identity):
            if second > self._looked and second in self._due:
                self._due[second] -= 1
                if not self._due[second]:
                    del self._due[second]
        told = number in self._told
        self._told.discard(number)
        return told

    def export(self) -> list[int]:
        """Return the ids of those who have been warned, for another process."""
        return list(self._told)

    def adopt(self, told: Collection[int]) -> None:
        """Take over who has been warned, beside those who are added one by one."""
        self._told.update(told)

    def tick(self, connections: Callable[[], Collection[Connection]]) -> None:
        """Warn and close those of `connections` that are silent and for whom it is time."""
        now = self._clock.time()
        started = self._clock.monotonic()
        if int(now) <= self._looked or started < self._look_at:
            return
        self._looked = int(now)
        passed = [each for each in self._due if each <= self._looked]
        if not passed and not self._late:
            return
        self._late = False
        for second in passed:
            del self._due[second]
        for connection in connections():
            identity = connection.state
            if isinstance(identity, Identity) and identity.expires_at is not None:
                self._judge(connection, identity, identity.expires_at, now)
        self._look_at = started + (self._clock.monotonic() - started) / WALK_SHARE

    def _judge(self, connection: Connection, identity: Identity, expires_at: float, now: float) -> None:
        if expires_at <= now:
            close_expired(connection, identity, self._audit)
        elif (
            self._warning_s and connection.id not in self._told and warn_at(identity, self._warning_s) <= now
        ):
            self._told.add(connection.id)
            warn(connection, identity, now)

    def _seconds(self, identity: Identity) -> tuple[int, ...]:
        if identity.expires_at is None:
            return ()
        ends = math.ceil(identity.expires_at)
        return (ends, math.ceil(warn_at(identity, self._warning_s))) if self._warning_s else (ends,)
