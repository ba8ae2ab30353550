"""Which tokens are refused though they have not ended: those of a user from before a time, or a single one.

At most `REVOCATIONS_MAX` of them; whoever keeps them sees to that. Here they are in memory. Who keeps it for
all workers, and tells each of them, is a `RevocationList`; a worker alone keeps its own, until it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

from realtime.core.auth import Identity
from realtime.core.contracts import Clock
from realtime.ids import TenantId, UserId

REVOCATIONS_MAX: Final = 100_000
FORGET_EVERY_S: Final = 60.0


class Revocation(NamedTuple):
    """Tokens of `tenant` that are refused until `until` (Unix seconds), when the last of them has ended.

    The one called `token_id` (the claim `jti`), or those of `user` that were issued before `before` or do not
    say when.
    """

    tenant: TenantId
    user: UserId | None
    token_id: str | None
    before: float
    until: float

    def covers(self, identity: Identity) -> bool:
        """Whether this is about the token that gave `identity`."""
        if identity.tenant != self.tenant:
            return False
        if self.user is None:
            return identity.token_id == self.token_id
        return identity.user == self.user and (identity.issued_at is None or identity.issued_at < self.before)


OnRevoked = Callable[[Collection[Revocation]], None]
"""Takes revocations, some of which may be known already."""


class RevocationList(Protocol):
    """Keeps revocations for all workers."""

    def open(self, on_revoked: OnRevoked) -> None:
        """Begin: `on_revoked` is told of all that there are, and of each new one on whichever worker."""
        ...

    async def revoke(
        self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float, keep_s: float
    ) -> float:
        """Keep one for `keep_s`, and have all workers told; return when it ends (Unix seconds).

        Raises:
            TooLarge: there are `REVOCATIONS_MAX` already.
            Unavailable: no answer in time; it may or may not be kept.
        """
        ...


class Revoked:
    """What is revoked, to be asked at every admission. False while nothing is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens: dict[tuple[TenantId, str], Revocation] = {}
        self._users: dict[tuple[TenantId, UserId], Revocation] = {}
        self._forget_at = clock.monotonic() + FORGET_EVERY_S

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def add(self, revocation: Revocation) -> bool:
        """Remember it; False where that changes nothing. Of two of one user the further goes."""
        tenant, user, token_id, before, until = revocation
        if user is not None:
            known = self._users.get((tenant, user))
        else:
            known = self._tokens.get((tenant, token_id or ""))
        if known is not None:
            before, until = max(before, known.before), max(until, known.until)
            if (before, until) == (known.before, known.until):
                return False
        revocation = Revocation(tenant, user, token_id, before, until)
        if user is not None:
            self._users[tenant, user] = revocation
        else:
            self._tokens[tenant, token_id or ""] = revocation
        return True

    def covers(self, identity: Identity) -> bool:
        """Whether the token that gave `identity` is revoked."""
        of_token = self._tokens.get((identity.tenant, identity.token_id)) if identity.token_id else None
        of_user = self._users.get((identity.tenant, identity.user))
        return of_token is not None or (of_user is not None and of_user.covers(identity))

    def tick(self) -> None:
        """Forget those whose tokens have ended by themselves."""
        now = self._clock.monotonic()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_EVERY_S
        ended = self._clock.time()
        self._tokens = {key: each for key, each in self._tokens.items() if each.until > ended}
        self._users = {key: each for key, each in self._users.items() if each.until > ended}
