"""The contract of the workers that serve together: who there is, who owns what, and how they talk.

A worker alone is a cluster of one. Ownership is a hint for locality: what two owners at once must not both
do is decided by the fence that each of their publications carries (`Terms.fence`).
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Collection
from typing import Final, NamedTuple, NewType, Protocol

from realtime.errors import Unavailable
from realtime.ids import RoomId, TenantId, UserId

SLOTS: Final = 16_384
BODY_BYTES_MAX: Final = 96 * 1024
"""What one worker may say to another at once, and answer."""

WorkerId = NewType("WorkerId", str)
"""One run of one worker process: it never comes back under the same name."""

Answer = Callable[[WorkerId, bytes], "bytes | Awaitable[bytes | None] | None"]
"""Takes (who asks, the request) and gives the answer, now or later; None where nobody waits for one. A
RealtimeError that it raises reaches whoever asked as the same error."""


class NotServed(Unavailable):
    """Nothing was done: the worker is gone, or it is not the one who does this any more."""


class Change(NamedTuple):
    """What is different in the ring: who came, who is gone, and the slots that this worker won and lost.

    A slot may be in both `disowned` and `owned`: it may have been another's in between.
    """

    version: int
    joined: Collection[WorkerId]
    left: Collection[WorkerId]
    owned: Collection[int]
    disowned: Collection[int]


class Cluster(Protocol):
    """The ring of workers. Rooms are dealt out by slot, as `room_slot` says."""

    @property
    def worker(self) -> WorkerId:
        """This one."""
        ...

    @property
    def workers(self) -> Collection[WorkerId]:
        """All that are alive as far as is known here, this one included."""
        ...

    @property
    def ok(self) -> bool:
        """Whether the ring is known and this worker is in it, by its own monotonic clock."""
        ...

    def fence(self, room: RoomId) -> int | None:
        """Return the ring version under which this worker owns the room; None where it does not.

        A worker that could not beat for the ring's TTL owns nothing, by its own monotonic clock.
        """
        ...

    def owner(self, room: RoomId) -> WorkerId | None:
        """Return who owns the room; None while that is not known."""
        ...

    def watch(self, on_change: Callable[[Change], None]) -> None:
        """Call `on_change` after each change of the ring; now too, where the ring is known already."""
        ...

    def answer(self, verb: str, answer: Answer) -> None:
        """Let `answer` take what other workers, and this one, `ask` and `tell` under `verb`. Once a verb."""
        ...

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        """Return what `worker` answers.

        Raises:
            TooLarge: the body, or the answer, has over `BODY_BYTES_MAX`.
            NotServed: nobody there took it; nothing was done.
            Unavailable: no answer in time, or it is gone; it may or may not have done it.
            RealtimeError: what it answered with.
        """
        ...

    def tell(self, verb: str, body: bytes, worker: WorkerId | None = None) -> None:
        """Let `worker` know, or on None all, this one included. Nobody answers, and it may be lost.

        Raises:
            TooLarge: the body has over `BODY_BYTES_MAX`.
        """
        ...

    def tick(self) -> None:
        """Do what is due by the clock. Called about ten times a second; never blocks."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...


def room_slot(room: RoomId) -> int:
    """Return the room's slot, 0 to `SLOTS` - 1: that of its keys in Redis Cluster, so one number names both.

    There, what counts of a name ends at the first `}`.
    """
    return crc_hqx(f"{room.tenant}/{room.room}".encode().partition(b"}")[0], 0) % SLOTS


Evict = Callable[[TenantId, UserId, int], None]
"""Takes the number of a connection of this worker, and whose it is: it is one too many. It may be gone."""


class Whereabouts(Protocol):
    """Which users are connected to which workers, and the limit of connections over all of them.

    Without a cluster there is none of this: a worker's own registry knows. While nobody can be asked, nobody
    is one too many.
    """

    def open(self, evict: Evict) -> None:
        """Begin: `evict` closes the connections of this worker that are one too many."""
        ...

    def arrived(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count connection `number` of this worker; whoever is one too many is closed, here or elsewhere."""
        ...

    def left(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Count it no longer."""
        ...

    async def find(self, tenant: TenantId, user: UserId) -> dict[WorkerId, int]:
        """Return how many connections the user has on which workers.

        Raises:
            Unavailable: no answer in time.
        """
        ...

    def tick(self) -> None:
        """Tell again what is due. Called about ten times a second; never blocks."""
        ...

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        ...
