"""Who a connection is: the identity a token gives, and the contract of what turns tokens into identities."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, Protocol

import msgspec

from realtime.ids import DEFAULT_TENANT, RoomName, TenantId, UserId

NO_ROLES: frozenset[str] = frozenset()
ROOM_ACTIONS: Final = ("join", "publish", "history", "presence")
"""What a room token may allow; one that does not say allows all of it."""
ALL_ACTIONS: Final = frozenset(ROOM_ACTIONS)


class Identity(msgspec.Struct, frozen=True, gc=False):
    """One authenticated user of one tenant. Immutable, so that connections of one token can share it."""

    user: UserId
    tenant: TenantId = DEFAULT_TENANT
    roles: frozenset[str] = NO_ROLES
    expires_at: float | None = None  # Unix seconds, leeway included; None never expires
    token_id: str = ""
    issued_at: float | None = None  # Unix seconds; None where the token does not say


class Grant(msgspec.Struct, frozen=True, gc=False):
    """What a room token allows: one user of one tenant, in one private room."""

    user: UserId
    tenant: TenantId
    room: RoomName
    actions: frozenset[str]  # of ROOM_ACTIONS; "join" is one of them
    expires_at: float  # Unix seconds, leeway included
    token_id: str = ""
    issued_at: float | None = None


def warn_at(identity: Identity, warning_s: float) -> float:
    """Return when to say that an identity ends (Unix seconds): `warning_s` before its end.

    A token that lives for less than twice that is warned of in the middle of its life, or a client that
    fetches a new one at each warning would do nothing else.
    """
    assert identity.expires_at is not None, "what never ends has no warning"
    if identity.issued_at is not None:
        warning_s = min(warning_s, max(0.0, identity.expires_at - identity.issued_at) / 2)
    return identity.expires_at - warning_s


class Authenticator(Protocol):
    """Turns a token into an identity. Knows keys, never connections."""

    def authenticate(self, token: str) -> Identity | Awaitable[Identity]:
        """Return who the bearer of `token` is; at once where no key has to be fetched.

        Raises (the awaitable too):
            TokenExpired: its time has passed.
            Unauthorized: it is no token of ours, or one for a room.
            Unavailable: its key could not be fetched.
        """
        ...

    def grant(self, token: str) -> Grant | Awaitable[Grant]:
        """Return what a room token allows; at once where no key has to be fetched.

        Raises (the awaitable too):
            TokenExpired, Unauthorized, Unavailable: as `authenticate`; or it is for no room.
        """
        ...
