"""What a feature keeps of users in tables of its own: handed out, and erased, by the command `user`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from realtime.core.database import Database
from realtime.ids import TenantId, UserId


class PersonalData(Protocol):
    """A feature's answer for one user. Servers may be running; what it does can be repeated at any time."""

    def exported(
        self, database: Database, tenant: TenantId, user: UserId
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]]]:
        """Return all that is kept of a user beside publications that they sent: what kind, and what it says.

        Raises (while it is read):
            Unavailable: the store gives no answer.
        """
        ...

    async def refusal(self, database: Database, tenant: TenantId, user: UserId) -> str | None:
        """Return why a user may not be erased, in a sentence; None: nothing is in the way."""
        ...

    async def erase(
        self, database: Database, tenant: TenantId, user: UserId, pseudonym: str
    ) -> Mapping[str, int]:
        """Put `pseudonym` where the user's name stands, and remove what is the user's alone; return how much
        it was, by what it is called. The publications that the user sent are tombstones already.

        Raises:
            Unavailable: not all of it was done; a repeat does the rest.
        """
        ...
