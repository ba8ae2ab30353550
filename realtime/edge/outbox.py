"""What waits for a connection that is not the hub's: what goes first, and what a slow reader meets.

The same rules as natively, in plain Python: urgent messages before all else, then what is for the connection
alone, then its rooms by priority, each in its own order. What waits is bounded, for each room by the kind's
lag limits. No sockets and no event loop: whoever writes takes one message after the other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from realtime.core.contracts import OnGap
from realtime.core.kinds import SlowReader
from realtime.protocol.priority import Priority

# A queued message costs its bytes, which all its readers share, and this for its place in the queue.
ENTRY_BYTES: Final = 100


class ForeignLog:
    """One room in one encoding, for connections that are not the hub's.

    `counts` counts what slow readers meet: `dropped`, `gaps`, `parked`.
    """

    def __init__(
        self,
        *,
        lag_limit_bytes: int,
        lag_limit_messages: int,
        slow_reader: SlowReader,
        priority: Priority,
        on_gap: OnGap | None,
        counts: Counter[str],
    ) -> None:
        self.lag_limit_bytes = lag_limit_bytes
        self.lag_limit_messages = lag_limit_messages  # 0: no limit
        self.slow_reader = slow_reader
        self.priority = priority
        self.on_gap = on_gap
        self.counts = counts
        self.offset = 0  # of the last publication
        self.readers: dict[Backlog, None] = {}  # a set that keeps their order

    def append(self, payload: bytes, offset: int = 0) -> None:
        """Queue one message for every member; `offset` is a publication's, 0 for what has none."""
        self.offset = offset or self.offset
        for backlog in tuple(self.readers):  # one that is too slow leaves meanwhile
            backlog.append(payload, offset)


class Entry(NamedTuple):
    """One message of a room that waits; `offset` is 0 where it has none."""

    payload: bytes
    offset: int


class Backlog:
    """What one connection has not been sent yet of one room, and what it will not be sent at all."""

    __slots__ = ("_outbox", "after", "entries", "lapsed", "last", "log", "parked", "size_bytes")

    def __init__(self, log: ForeignLog, outbox: Outbox) -> None:
        self.log = log
        self.entries: deque[Entry] = deque()
        self.size_bytes = 0
        self.lapsed = False  # something was dropped, and the peer has not been told
        self.parked = False  # it gets nothing until it has been told
        self.after: int | None = None  # the publications above this offset, up to `last`, were dropped
        self.last: int | None = None
        self._outbox = outbox

    def append(self, payload: bytes, offset: int) -> None:
        """Queue one message of the room, or drop what the policy says."""
        if self.parked:
            self._note(offset)
            return
        if not self.entries and not self.lapsed:
            self._outbox.ready(self)
        self.entries.append(Entry(payload, offset))
        self.size_bytes += len(payload) + ENTRY_BYTES
        if self._over(self.log.lag_limit_bytes, self.log.lag_limit_messages):
            self._apply_policy()

    def _over(self, most_bytes: int, most_messages: int) -> bool:
        return self.size_bytes > most_bytes or (bool(most_messages) and len(self.entries) > most_messages)

    def _apply_policy(self) -> None:
        log = self.log
        if log.slow_reader is SlowReader.DISCONNECT:
            if self.size_bytes > log.lag_limit_bytes:
                self._outbox.on_cut("room_lag_limit_bytes", log.lag_limit_bytes)
            else:
                self._outbox.on_cut("room_lag_limit_messages", log.lag_limit_messages)
            return
        # To half of what is allowed, so that the next drop is not the next message's.
        half_bytes, half_messages = log.lag_limit_bytes // 2, (log.lag_limit_messages + 1) // 2
        self.lapsed = True
        if log.slow_reader is SlowReader.LATEST:
            self.parked = True
            log.counts["parked"] += 1
            half_bytes = -1
        while self.entries and self._over(half_bytes, half_messages):
            payload, offset = self.entries.popleft()
            self.size_bytes -= len(payload) + ENTRY_BYTES
            self._note(offset)

    def _note(self, offset: int) -> None:
        if offset:
            self.after = offset - 1 if self.after is None else self.after
            self.last = offset

    def tell(self, state: Any) -> None:
        """Have the peer told what it does not get; the room goes on after that."""
        assert self.log.on_gap is not None  # the core gives one wherever something may be dropped
        last = self.log.offset if self.last is None else self.last
        after = last if self.after is None else self.after
        self.lapsed = self.parked = False
        self.after = self.last = None
        self.log.counts["gaps"] += 1
        self.log.counts["dropped"] += self.log.on_gap(state, after, last)


class Taken(NamedTuple):
    """A message on its way: until `Outbox.done` it still counts as waiting, for it is still in memory."""

    payload: bytes
    backlog: Backlog | None  # None: it is for the connection alone


class Outbox:
    """All that waits for one connection.

    `on_work` is called when something begins to wait; `on_cut(limit, allowed)` when the connection reads too
    slowly for what it is sent, and has to be closed.
    """

    def __init__(
        self, unicast_limit_bytes: int, on_work: Callable[[], None], on_cut: Callable[[str, int], None]
    ) -> None:
        self.unicast_bytes = 0  # what is for the connection alone, with the cost of queueing it
        self.on_cut = on_cut
        self._limit = unicast_limit_bytes
        self._on_work = on_work
        self._urgent: deque[bytes] = deque()
        self._unicast: deque[bytes] = deque()
        self._backlogs: dict[ForeignLog, Backlog] = {}
        # By priority, those of the rooms that have something; rooms of one priority take turns.
        self._ready: tuple[deque[Backlog], ...] = tuple(deque() for _ in Priority)

    def send(self, payload: bytes, *, urgent: bool = False) -> None:
        """Queue one message for the connection alone."""
        (self._urgent if urgent else self._unicast).append(payload)
        self.unicast_bytes += len(payload) + ENTRY_BYTES
        self._on_work()
        if self.unicast_bytes > self._limit:
            self.on_cut("unicast_limit_bytes", self._limit)

    def join(self, log: ForeignLog) -> None:
        """Queue what is appended to `log` from now on. Idempotent."""
        if log not in self._backlogs:
            backlog = self._backlogs[log] = Backlog(log, self)
            log.readers[backlog] = None

    def leave(self, log: ForeignLog, state: Any) -> None:
        """Queue nothing more of `log`; what waits of it still goes, before what is sent from now on."""
        backlog = self._backlogs.pop(log, None)
        if backlog is None:
            return
        self._forget(backlog)
        if backlog.lapsed:
            backlog.tell(state)
        for payload, _ in backlog.entries:
            self.send(payload)
        backlog.entries.clear()

    def drop_rooms(self) -> None:
        """Leave all rooms at once: what waits of them does not go any more."""
        for backlog in self._backlogs.values():
            self._forget(backlog)
        self._backlogs.clear()

    def end(self) -> None:
        """Keep nothing and call nobody: what knows its connection goes now, not with the next collection.

        Collections are rare here, and a crowd that comes and goes would fill the memory between two of them.
        """
        self.drop_rooms()
        self._urgent.clear()
        self._unicast.clear()
        self._on_work = _nobody
        self.on_cut = _nobody

    def ready(self, backlog: Backlog) -> None:
        """Let it have its turn: it has something to send, or to tell."""
        self._ready[backlog.log.priority].append(backlog)
        self._on_work()

    def take(self, state: Any) -> Taken | None:
        """Return what goes next, None where nothing waits; `state` is told what it has missed meanwhile."""
        while True:
            if self._urgent or self._unicast:
                return Taken((self._urgent or self._unicast).popleft(), None)
            ready = next((each for each in reversed(self._ready) if each), None)
            if ready is None:
                return None
            backlog = ready.popleft()
            if backlog.lapsed:
                if backlog.entries:
                    ready.appendleft(backlog)
                backlog.tell(state)  # and then what it is told goes first
                continue
            payload, _ = backlog.entries.popleft()
            if backlog.entries:
                ready.append(backlog)
            return Taken(payload, backlog)

    def done(self, taken: Taken) -> None:
        """Count as sent what was taken."""
        size = len(taken.payload) + ENTRY_BYTES
        if taken.backlog is None:
            self.unicast_bytes -= size
        else:
            taken.backlog.size_bytes -= size

    def _forget(self, backlog: Backlog) -> None:
        del backlog.log.readers[backlog]
        ready = self._ready[backlog.log.priority]
        if backlog in ready:
            ready.remove(backlog)


def _nobody(*told: object) -> None:
    """What is called of a connection that is gone."""
