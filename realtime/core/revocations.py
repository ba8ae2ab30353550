"""Which tokens are refused though they have not ended: a single one, or those of a user or a whole tenant
from before a time.

At most `REVOCATIONS_MAX` of them; whoever keeps them sees to that. Here they are in memory. Who keeps it for
all workers, and tells each of them, is a `RevocationList`; a worker alone keeps its own, until it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, Protocol

from realtime.core.auth import Grant, Identity
from realtime.core.contracts import Clock
from realtime.ids import TenantId, UserId

REVOCATIONS_MAX: Final = 100_000
FORGET_EVERY_S: Final = 60.0


class Revocation(NamedTuple):
    """Tokens of `tenant` that are refused until `until` (Unix seconds), when the last of them has ended.

    The one called `token_id` (the claim `jti`), or those of `user`, or where both are None of everybody, that
    were issued before `before` or do not say when.
    """

    tenant: TenantId
    user: UserId | None
    token_id: str | None
    before: float
    until: float

    def covers(self, identity: Identity | Grant) -> bool:
        """Whether this is about the token that gave `identity`."""
        if identity.tenant != self.tenant:
            return False
        if self.token_id is not None:
            return identity.token_id == self.token_id
        older = identity.issued_at is None or identity.issued_at < self.before
        return older and self.user in (None, identity.user)


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
        self._tenants: dict[TenantId, Revocation] = {}
        self._forget_at = clock.monotonic() + FORGET_EVERY_S

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users) + len(self._tenants)

    def export(self) -> list[Revocation]:
        """Return all of them, for another process."""
        return [*self._tokens.values(), *self._users.values(), *self._tenants.values()]

    def add(self, revocation: Revocation) -> bool:
        """Remember it; False where that changes nothing. Of two of the same the further goes."""
        tenant, user, token_id, before, until = revocation
        if user is not None:
            known = self._users.get((tenant, user))
        elif token_id is not None:
            known = self._tokens.get((tenant, token_id))
        else:
            known = self._tenants.get(tenant)
        if known is not None:
            before, until = max(before, known.before), max(until, known.until)
            if (before, until) == (known.before, known.until):
                return False
        revocation = Revocation(tenant, user, token_id, before, until)
        if user is not None:
            self._users[tenant, user] = revocation
        elif token_id is not None:
            self._tokens[tenant, token_id] = revocation
        else:
            self._tenants[tenant] = revocation
        return True

    def covers(self, identity: Identity | Grant) -> bool:
        """Whether the token that gave `identity` is revoked."""
        if identity.token_id and (identity.tenant, identity.token_id) in self._tokens:
            return True
        of_user = self._users.get((identity.tenant, identity.user))
        of_all = self._tenants.get(identity.tenant)
        return any(each is not None and each.covers(identity) for each in (of_user, of_all))

    def tick(self) -> None:
        """Forget those whose tokens have ended by themselves."""
        now = self._clock.monotonic()
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_EVERY_S
        ended = self._clock.time()
        self._tokens = {key: each for key, each in self._tokens.items() if each.until > ended}
        self._users = {key: each for key, each in self._users.items() if each.until > ended}
        self._tenants = {key: each for key, each in self._tenants.items() if each.until > ended}
