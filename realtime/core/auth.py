"""Who a connection is: the identity a token gives, and the contract of what turns tokens into identities."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

import msgspec

from realtime.ids import DEFAULT_TENANT, TenantId, UserId

NO_ROLES: frozenset[str] = frozenset()


class Identity(msgspec.Struct, frozen=True, gc=False):
    """One authenticated user of one tenant. Immutable, so that connections of one token can share it."""

    user: UserId
    tenant: TenantId = DEFAULT_TENANT
    roles: frozenset[str] = NO_ROLES
    expires_at: float | None = None  # Unix seconds, leeway included; None never expires
    token_id: str = ""
    issued_at: float | None = None  # Unix seconds; None where the token does not say


class Authenticator(Protocol):
    """Turns a token into an identity. Knows keys, never connections."""

    def authenticate(self, token: str) -> Identity | Awaitable[Identity]:
        """Return who the bearer of `token` is; at once where no key has to be fetched.

        Raises:
            TokenExpired: its time has passed.
            Unauthorized: it is no token of ours.
            Unavailable: its key could not be fetched.
        """
        ...
