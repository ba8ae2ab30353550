"""Where audit entries are kept and read again: what a store of them promises, whichever database it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from realtime.core.audit import Event
from realtime.core.audit_chain import Entry, Head
from realtime.core.audit_notes import Note
from realtime.ids import TenantId


class AuditStore(Protocol):
    """Appends to the chains. Any number of processes may have one on the same database."""

    async def append(self, notes: Sequence[Note]) -> None:
        """Keep a group of notes as entries, all or none. The same group may be given again after a failure,
        and is kept once.

        Raises:
            Unavailable: it is not kept, or nobody knows.
        """
        ...

    async def retain(self, before_us: int) -> int:
        """Drop a slice of the entries that ended before that time; return how many, 0 once none is left.

        Each chain gets an entry that says what went, and keeps its last one.

        Raises:
            Unavailable: nothing was dropped, or nobody knows.
        """
        ...

    async def erase(self, tenant: TenantId, user: str, told: Event) -> int:
        """Erase a slice of what entries say of a user; return how many entries, 0 once none is left.

        `told` is the entry that says so; its detail gets the number of `entries`. Where there are none it is
        not written.

        Raises:
            Unavailable: nothing was erased, or nobody knows.
        """
        ...

    async def close(self) -> None:
        """End it."""
        ...


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are asked for: all that match whatever is not None.

    `user` matches as actor or as target; times are Unix microseconds, `since_us` included, `until_us` not.
    """

    user: str | None = None
    action: str | None = None
    outcome: str | None = None
    since_us: int | None = None
    until_us: int | None = None


EVERYTHING = Filter()


class AuditReader(Protocol):
    """Reads the chains as they were at the moment it was opened. All of it may raise Unavailable."""

    async def heads(self) -> list[Head]:
        """Return the ends of all chains, by tenant."""
        ...

    async def tenants(self) -> list[TenantId]:
        """Return all that have an entry or the end of a chain: who has only one of both was tampered with."""
        ...

    def entries(self, tenant: TenantId, wanted: Filter = EVERYTHING) -> AsyncIterator[Entry]:
        """Return a chain's entries by seq. However many there are, a few are in memory."""
        ...

    async def newest(self, tenant: TenantId, wanted: Filter, limit: int) -> list[Entry]:
        """Return the last `limit` entries of a chain that match, newest first."""
        ...

    async def close(self) -> None:
        """End it."""
        ...
