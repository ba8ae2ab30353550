"""The contracts around the core: what it stands on and never implements itself.

Below it the edge's sockets (`Connection`, `Log`, `Fanout`) and time (`Clock`); beside it the backends
(`Broker` with its `Stream`s, `Store`). A call that a backend can answer at once returns the answer, and else
an awaitable of it: the memory broker costs no coroutine, the Redis broker no second contract.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from realtime.ids import RoomId, RoomName, TenantId
from realtime.native.sequence import Sequence

if TYPE_CHECKING:
    from realtime.core.kinds import RoomKind
    from realtime.errors import Unavailable
    from realtime.native.ratelimit import Allowance


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in a room's order. Offsets count from 1; 0 is before the first publication of the epoch."""

    offset: int
    epoch: bytes


STATE_BYTES: Final = 256 * 1024
"""About so much of what is handed over goes in one piece."""

Receipt = tuple[int, bytes, bool]
"""(offset, epoch, duplicate) of an accepted publication. A plain tuple: one is made per message, in 20 ns."""

Deliver = Callable[[bytes, int], None]
"""Takes (push as JSON bytes, offset): one room's publications, by offset, without gaps, each once."""


Lost = Callable[["int | None", "int | None", str], None]
"""Takes (first, last, reason): the publications from offset `first` to `last` will not be delivered. Both are
None where nobody knows how many there were: a new epoch begins, `reason` is then "epoch_changed"."""

Others = Callable[[str, "bytes | None"], None]
"""Takes (worker, entry): what another worker last shared with `Stream.share`; None when that, or the worker,
is gone."""


class Terms(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a publication is accepted under, where that is more than its order.

    `key`: a repeat by the same sender within the recovery window gets the first receipt with `duplicate`.
    `expect`: the room's last offset as the publisher knows it (compare-and-set).
    `fence`: the ring version under which the publisher owns the room; an older one than the room has seen
    is refused.
    """

    key: str | None = None
    expect: int | None = None
    fence: int | None = None


class Recovery(NamedTuple):
    """Where a room is, and what was missed: all of it, in order, or `recovered` is False and it is empty."""

    offset: int
    epoch: bytes
    recovered: bool
    messages: Collection[bytes]


class Page(NamedTuple):
    """Publications by offset, oldest first; `more` says that the history goes on in the asked direction."""

    messages: Collection[bytes]
    more: bool


class Stream(Protocol):
    """One room at the broker: the order of its publications, and as much of them as its kind keeps."""

    @property
    def sequence(self) -> Sequence | None:
        """The room's order, where this process gives it and a publication without terms needs no more than
        its `publish`: then those take the short way. None everywhere else.
        """
        ...

    def publish(
        self, type: str, sender: bytes | None, content: bytes, terms: Terms | None = None
    ) -> Receipt | Awaitable[Receipt]:
        """Order one publication, keep and deliver it; the receipt says it is kept as the kind promises.

        `sender` is the user id as JSON, None for the server's own; `content` is JSON text.

        Raises:
            Conflict: `terms.expect` or `terms.fence` no longer holds.
            Unavailable: not accepted; whether it was, where an answer got lost, a repeat with the key tells.
        """
        ...

    def recover(self, since: Position | None) -> Recovery | Awaitable[Recovery]:
        """Return the room's position and what was published after `since`: whole, or not recovered.

        It answers when the subscription stands and `deliver` has had everything up to the position: what is
        delivered later continues it, without a gap and without a repeat.

        Raises:
            Unavailable: no answer in time.
        """
        ...

    def history(self, before: int | None, after: int | None, limit: int) -> Page | Awaitable[Page]:
        """Return at most `limit` (1 or more) publications: the last ones below offset `before`, or the
        first ones above `after`, or where both are None the newest.

        Raises:
            Unavailable: no answer in time.
        """
        ...

    def signal(self, push: bytes) -> None:
        """Give one push to the subscribers that there are now, on all workers, outside of the order.

        It comes to `deliver` with offset 0, here too. It is not kept, and may be lost without a gap.
        """
        ...

    def share(self, entry: bytes | None) -> None:
        """Let the room's subscribers on other workers know `entry` of this one, instead of the one before.

        At most 64 KiB. Who subscribes later is told too. It is forgotten with None, with `close`, and with
        this worker. Entries of one worker come in order; in between some may be left out.
        """
        ...

    def close(self) -> None:
        """Deliver nothing more. The broker keeps the room's position and history for the recovery window."""
        ...


class StreamState(msgspec.Struct, array_like=True, gc=False):
    """A part of one room at a broker, handed over.

    `pushes` follow `offset`, which is 0 or of the last one before; `keys` are (sender, key, offset, when).
    """

    tenant: TenantId
    room: RoomName
    epoch: bytes
    offset: int
    pushes: list[bytes]
    fence: int
    keys: list[tuple[bytes | None, str, int, float]]
    used_at: float | None


class Broker(Protocol):
    """Gives every publication its place in its room's order, on one worker or between many."""

    def open(
        self,
        room: RoomId,
        kind: RoomKind,
        deliver: Deliver,
        lost: Lost | None = None,
        others: Others | None = None,
    ) -> Stream:
        """Subscribe this worker to `room`: `deliver` gets what is published from now on, until `close`.

        `lost` is told what `deliver` will never get, before it gets what comes after; `others` what other
        workers share. It never waits: a subscription that takes time is waited for in `recover`. One
        subscription per room and worker; the core sees to that.
        """
        ...

    def publish(
        self,
        room: RoomId,
        kind: RoomKind,
        type: str,
        sender: bytes | None,
        content: bytes,
        terms: Terms | None = None,
    ) -> Receipt | Awaitable[Receipt]:
        """Publish to a room that nobody on this worker may have joined; as `Stream.publish` else."""
        ...

    def signal(self, room: RoomId, kind: RoomKind, push: bytes) -> None:
        """Give one push to a room that nobody on this worker may have joined; as `Stream.signal` else."""
        ...

    async def expunge(self, room: RoomId, kind: RoomKind, upto: int) -> None:
        """Give up what is kept for all workers beside the store of a durable room's publications up to offset
        `upto`: their rows have changed. The order, the epoch and the keys stay as they are.

        Raises:
            Unavailable: no answer in time; a repeat does it.
        """
        ...

    @property
    def busy(self) -> int:
        """How many publications are on their way to their places, or to be kept."""
        ...

    def export(self, known: Mapping[RoomId, Position]) -> Iterator[StreamState]:
        """Return what is in this process' memory alone, for another one, which has what is `known` already.

        In slices of about `STATE_BYTES` where a room keeps much; the first of a room says where it is.
        """
        ...

    def adopt(self, state: StreamState, kind: RoomKind) -> None:
        """Take over a slice that another process exported, before any room is opened; again what is newer.

        Raises:
            ValueError: it does not follow what was adopted before.
        """
        ...

    def keep_only(self, rooms: Collection[RoomId]) -> None:
        """Forget what was adopted of rooms that the other process has forgotten since."""
        ...

    @property
    def kept_rooms(self) -> Collection[RoomId]:
        """Of which rooms something is in this process' memory alone."""
        ...

    def drop_history(self, room: RoomId) -> None:
        """Give up what is in this process' memory of a durable room's publications: the next answers are the
        store's. Members and their order notice nothing.
        """
        ...

    def tick(self) -> None:
        """Forget what is past its time. Called about ten times a second; never blocks."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...


class Row(NamedTuple):
    """One publication as a store keeps it. `at_ms` is Unix time; `sender` is the user id as JSON."""

    room: RoomId
    position: Position
    push: bytes
    sender: bytes | None
    key: str | None
    at_ms: int


Kept = Callable[[Row, "Unavailable | None"], None]
"""Told once a row is committed (None), or is not, or nobody knows (the error)."""


class Remembered(NamedTuple):
    """What a store knows of a room: the last offset, 0 for none, and who has used which key for what."""

    offset: int
    keys: Collection[tuple[bytes | None, str, int, int]]  # (sender, key, offset, at_ms), by offset


class Store(Protocol):
    """Durable rows, written in groups: a broker of durable kinds stands on it (SQLite, PostgreSQL).

    Everything but `append` is a coroutine, and all but `close` may raise Unavailable.
    """

    @property
    def epoch(self) -> bytes:
        """The order that this store's rooms are in. It is made with the store and kept with it; a new one
        is made only where the last writer may have told of rows that are lost (a power cut without fsync, a
        standby that took over). The latter may be met while the store is open: after a failure, look again.
        """
        ...

    @property
    def ok(self) -> bool:
        """Whether what was last asked of the disk or the database was done."""
        ...

    def append(self, row: Row, kept: Kept) -> None:
        """Queue one publication. `kept` is called on the event loop when its group is on disk or is given up:
        in the order of append for the rows of a room, and never before `append` has returned.

        Offsets of a room rise by one. A row that is there already is no error and is not changed. After a
        failure what is queued of the room fails too: its owner looks with `remembered` what is there.

        Raises:
            Unavailable: too much is queued; the error says when to try again.
        """
        ...

    async def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        """Return the room's last offset, and the keys used from `since_ms` on."""
        ...

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        """Return at most `limit` pushes above offset `after`, by offset."""
        ...

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """Return a page of the room's history, as `Stream.history`."""
        ...

    async def migrate(self, feature: str, folder: Path) -> list[str]:
        """Apply the numbered SQL files of `folder` that `feature` has not had yet; return their names.

        Raises:
            StartupError: a file that was applied has changed since, or the database is newer than we are.
        """
        ...

    async def usage(self, tenants: list[TenantId] | None) -> dict[TenantId, int]:
        """Return how many bytes are kept of `tenants`, on None of all; who has nothing may be missing.

        The migrations of `storage_usage` have to be there.
        """
        ...

    async def close(self) -> None:
        """Commit what is queued, then close."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...


class Clock(Protocol):
    """Time, injected. Monotonic time measures spans, wall time is for tokens and people."""

    def monotonic(self) -> float:
        """Seconds, from an arbitrary start."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds, from the same start."""
        ...

    def time(self) -> float:
        """Unix seconds."""
        ...


class Stamp(Protocol):
    """Gives the timestamp of now. The native hub is one: an attribute, formatted once per epoll batch."""

    @property
    def timestamp(self) -> bytes:
        """RFC 3339 UTC with milliseconds, such as 2025-07-15T10:30:00.123Z."""
        ...


class Log(Protocol):
    """One room in one variant: what is appended goes to every member, in order. The hub's `RoomLog`."""

    def append(self, payload: bytes, offset: int = 0) -> None:
        """Queue one message, encoded for the variant, for all members.

        `offset` is a publication's; they rise by one. 0 is for what has none and may be dropped in silence.
        """
        ...

    @property
    def variant(self) -> int:
        """Of all its members."""
        ...

    def export(self) -> bytes:
        """Return it with its members' places in it, for the fan-out of another process (`adopt_room`)."""
        ...


OnGap = Callable[[Any, int, int], int]
"""Takes (session, after, last): it does not get the publications above offset `after` up to `last`, unless
the callee sends them. Returns how many of them are lost."""


class Fanout(Stamp, Protocol):
    """Makes logs. The hub."""

    def room(
        self,
        variant: int = 0,
        *,
        lag_limit_bytes: int = 0,
        lag_limit_messages: int = 0,
        slow_reader: str = "disconnect",
        priority: int = 1,
        on_gap: OnGap | None = None,
    ) -> Log:
        """Return a new log whose members all have `variant` (deflate window bits << 1 | binary).

        A member that lags more than `lag_limit_bytes` or `lag_limit_messages` (0: the fan-out's own limits)
        meets `slow_reader`, the value of a SlowReader. Where that drops, `on_gap` is called once the member
        takes data again, and before the room goes on for it. Logs of a higher `priority` are sent first.
        """
        ...

    def adopt_room(self, blob: bytes, on_gap: OnGap | None = None) -> Log:
        """Return the log that another process exported, with those of its members that are here.

        Raises:
            ValueError: it is none, or one of another version.
        """
        ...


class Registry(Protocol):
    """Finds connections by whose they are. The hub.

    A key stands for a user as a hash does: two users may share one, so whoever is found is asked who it is.
    """

    def count_of(self, user_key: int) -> int:
        """Return how many connections belong to the key, those that are closing included."""
        ...

    def connections_of(self, user_key: int) -> Iterable[Connection]:
        """Return the connections that belong to the key, oldest first, those that are closing included."""
        ...

    def connections(self) -> Collection[Connection]:
        """Return all that have completed their handshake. A walk over as many: never for a message."""
        ...


class Sockets(Fanout, Registry, Protocol):
    """All that the core needs of the hub beside single connections."""


class Connection(Protocol):
    """One socket, as the hub (or an adapter) shows it. Once closed, it takes every call and does nothing."""

    state: Any
    """What stands for it: the identity it was admitted as, its session, or before these the edge's own."""

    @property
    def id(self) -> int:
        """Unique in this process."""
        ...

    def draw_on(self, allowance: Allowance | None) -> None:
        """Let its tenant's rates decide when it is served: after all others while the tenant is over them."""
        ...

    @property
    def address(self) -> str:
        """The client's IP address as text, without a port; empty where it has none, or is gone."""
        ...

    @property
    def binary(self) -> bool:
        """Whether it speaks MessagePack in binary frames; JSON in text frames else."""
        ...

    @property
    def variant(self) -> int:
        """deflate window bits << 1 | binary."""
        ...

    @property
    def open(self) -> bool:
        """False from the first `close` on, of whichever side."""
        ...

    def send(self, payload: bytes, urgent: bool = False) -> bool:
        """Queue one message, in the connection's own encoding; False when it is closed.

        An urgent one overtakes all that waits but a half-sent message and the urgent ones before it.
        """
        ...

    def close(self, code: int, reason: bytes = b"") -> None:
        """Begin the closing handshake. Idempotent."""
        ...

    def abort(self) -> None:
        """Be gone at once, whatever is under way. Idempotent."""
        ...

    def belong(self, user_key: int) -> None:
        """Belong to `user_key` (32 bits, not 0) until it is gone; it is gone before the core hears of it."""
        ...

    def confirm(self) -> None:
        """It has authenticated: stop the handshake deadline."""
        ...

    # A log is only ever given back to the maker of both, so its type is the maker's own.
    def join(self, log: Any) -> None:
        """Become a member of `log`: everything appended from now on. Idempotent."""
        ...

    def leave(self, log: Any) -> None:
        """Get nothing more of `log`. Idempotent."""
        ...
