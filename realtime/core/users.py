"""Each user's connections on this worker: how many there may be, and who they are.

Limits, notifications and kicks stand on it. The connections themselves are listed at the edge, by a key that
stands for a user as a hash does, because most of them never speak and so have no object of their own here.
"""

from __future__ import annotations

from typing import Final

from realtime.core.auth import Identity
from realtime.core.contracts import Connection, Registry
from realtime.core.limits import Limits
from realtime.core.quotas import CONNECTIONS
from realtime.core.session import Session
from realtime.errors import CloseCode, ConnectionLimit
from realtime.ids import TenantId, UserId
from realtime.protocol.closing import close_reason

KEY_BITS: Final = 0xFFFFFFFF
LIMIT: Final = "max_connections_per_user"


def user_key(tenant: TenantId, user: UserId) -> int:
    """The key of a user's connections: 32 bits, not 0. Seldom that of another user too."""
    return hash((tenant, user)) & KEY_BITS or 1


class Users:
    """The connections of each user, and the limit of them."""

    def __init__(self, registry: Registry, limits: Limits) -> None:
        self._registry = registry
        self._limit = limits.connections_per_user
        self._replace = limits.connection_limit_policy == "replace"
        self._closing = _closing(self._replace, self._limit)

    def connections(self, tenant: TenantId, user: UserId) -> list[Connection]:
        """Return the authenticated connections of a user, oldest first, those closing included."""
        found = self._registry.connections_of(user_key(tenant, user))
        return [each for each in found if _is_of(each, tenant, user)]

    def make_room(self, identity: Identity) -> int:
        """Return the key for one more connection of `identity`, for which the oldest may have to go (4508).

        Raises:
            ConnectionLimit: there are as many as allowed, and none is to be replaced.
        """
        key = user_key(identity.tenant, identity.user)
        if self._registry.count_of(key) >= self._limit:
            self._apply_limit(self.connections(identity.tenant, identity.user))
        return key

    def sessions(self) -> list[Session]:
        """Return the sessions that are somebody's. A walk over all connections."""
        states = (each.state for each in self._registry.connections())
        return [each for each in states if isinstance(each, Session) and each.identity is not None]

    def sessions_of(self, tenant: TenantId, user: UserId) -> list[Session]:
        """Return the sessions of a user."""
        states = (each.state for each in self.connections(tenant, user))
        return [each for each in states if isinstance(each, Session)]

    def evict(self, tenant: TenantId, user: UserId, number: int) -> None:
        """Close connection `number` of a user, who has too many over all workers (4504 or 4508)."""
        self._evict(tenant, user, number, self._closing)

    def evict_of_tenant(self, tenant: TenantId, user: UserId, number: int, allowed: int) -> None:
        """Close connection `number` of a user whose tenant has more than is `allowed` (4504)."""
        reason = close_reason(ConnectionLimit.code, limit=CONNECTIONS, allowed=allowed)
        self._evict(tenant, user, number, (CloseCode.CONNECTION_LIMIT, reason))

    def _evict(self, tenant: TenantId, user: UserId, number: int, closing: tuple[CloseCode, bytes]) -> None:
        for connection in self.connections(tenant, user):
            if connection.id == number:
                connection.close(*closing)

    def _apply_limit(self, theirs: list[Connection]) -> None:
        if len(theirs) < self._limit:
            return  # another user has the same key
        if not self._replace:
            raise ConnectionLimit(
                f"{self._limit} connections of this user are open already", limit=LIMIT, allowed=self._limit
            )
        closing = [each for each in theirs if not each.open]
        still_open = [each for each in theirs if each.open]
        for oldest in still_open[: len(still_open) - self._limit + 1]:
            oldest.close(*self._closing)
        # Who takes part in no closing handshake holds a socket until it times out; not any number of them.
        for oldest in closing[: max(0, len(closing) - self._limit + 1)]:
            oldest.abort()


def identity_of(connection: Connection) -> Identity | None:
    """Return who a connection has authenticated as, whether it has spoken since or not; None for nobody."""
    state = connection.state
    identity = state.identity if isinstance(state, Session) else state
    return identity if isinstance(identity, Identity) else None


def _is_of(connection: Connection, tenant: TenantId, user: UserId) -> bool:
    identity = identity_of(connection)
    return identity is not None and identity.user == user and identity.tenant == tenant


def _closing(replace: bool, limit: int) -> tuple[CloseCode, bytes]:
    """The code and the reason for whoever is one too many."""
    if replace:
        return CloseCode.REPLACED, close_reason("replaced", limit=LIMIT, allowed=limit)
    return CloseCode.CONNECTION_LIMIT, close_reason(ConnectionLimit.code, limit=LIMIT, allowed=limit)
