"""Control over users and their connections, on all workers at once: kick, revoke, and what was too many.

Each worker answers for its own connections; whoever asks, asks all of them (`Orders`), so that the answer
counts exactly. Processes outside of the ring send the same orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

import msgspec

from realtime.core.audit import NO_AUDITOR
from realtime.core.auth import Identity
from realtime.core.cluster import Cluster, WorkerId
from realtime.core.contracts import Clock, Connection, Registry
from realtime.core.membership import Membership
from realtime.core.revocations import REVOCATIONS_MAX, Revocation, RevocationList, Revoked
from realtime.core.session import Session
from realtime.core.token_audit import TokenAudit
from realtime.core.users import Users, identity_of
from realtime.errors import BadMessage, CloseCode, TooLarge, Unavailable
from realtime.ids import DEFAULT_TENANT, TenantId, UserId, parse_tenant, parse_user
from realtime.protocol.closing import close_reason, is_for_good, may_be_sent

KICK: Final = "kick"
REVOKE: Final = "revoke"
REVOKED: Final = close_reason("revoked")
TOKEN_ID_CHARS_MAX: Final = 256
KEEP_S: Final = 30 * 86_400.0
KEEP_S_MAX: Final = 10 * 365 * 86_400.0
LOOK_EVERY_S: Final = 0.5  # for those of single tokens and of tenants: a walk over all connections


class Kick(msgspec.Struct, frozen=True, array_like=True):
    """What workers are asked: close all connections of a user, or on None of the whole tenant."""

    tenant: TenantId
    user: UserId | None
    code: int
    reason: bytes


class Revoke(msgspec.Struct, frozen=True, array_like=True):
    """What a worker that is alone is asked: refuse these tokens. Answered with until when, as text."""

    tenant: TenantId
    user: UserId | None
    token_id: str | None
    before: float
    keep_s: float


class Workers(Protocol):
    """Those who are asked; a Cluster is one."""

    @property
    def workers(self) -> Collection[WorkerId]:
        """All that are alive as far as is known."""
        ...

    async def ask(self, worker: WorkerId, verb: str, body: bytes) -> bytes:
        """Return what `worker` answers, as `Cluster.ask`."""
        ...


class Orders:
    """What may be ordered from anywhere that reaches the workers, inside of the ring or outside.

    `find_workers` is awaited before they are asked, where they are not known from the start.
    """

    def __init__(
        self,
        cluster: Workers,
        clock: Clock,
        revocations: RevocationList | None = None,
        find_workers: Callable[[], Awaitable[object]] | None = None,
        audit: TokenAudit | None = None,
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._revocations = revocations
        self._find_workers = find_workers
        self._audit = audit or TokenAudit(NO_AUDITOR)

    async def kick(
        self,
        user: str,
        *,
        tenant: str = DEFAULT_TENANT,
        reason: str = "kicked",
        code: int = CloseCode.DISCONNECTED_BY_SERVER,
    ) -> int:
        """Close all connections of a user with `code` and `reason`; return how many there were.

        It may come back; with a code from 4500 on its clients do not by themselves. `revoke` keeps it out.

        Raises:
            BadMessage: a name that is none, or a code that no close frame may carry.
            Unavailable: not all workers gave an answer; those that did have closed what they had.
        """
        return await self._kick_on_record(parse_tenant(tenant), parse_user(user), reason, code)

    async def kick_tenant(
        self, tenant: str, *, reason: str = "kicked", code: int = CloseCode.DISCONNECTED_BY_SERVER
    ) -> int:
        """Close all connections of all users of a tenant, as `kick`."""
        return await self._kick_on_record(parse_tenant(tenant), None, reason, code)

    async def revoke(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        user: str | None = None,
        token_id: str | None = None,
        everybody: bool = False,
        issued_before: float | None = None,
        keep_s: float = KEEP_S,
    ) -> float:
        """Refuse tokens from now on, and close the connections that they opened (4500); return until when.

        Those of `user`, or of `everybody` in the tenant, that were issued before `issued_before` (Unix
        seconds; now) or do not say when; or the one whose `jti` is `token_id`. After `keep_s` (up to ten
        years) they have to have ended by themselves.

        Raises:
            BadMessage: a name that is none, none or several of `user`, `token_id` and `everybody`, a time
                out of bounds.
            TooLarge: too many are revoked already.
            Unavailable: no answer in time; it may or may not be done.
        """
        if (user is not None) + (token_id is not None) + everybody != 1:
            raise BadMessage("revoke: give either a user, or the id of a token, or everybody")
        if not 0 < keep_s <= KEEP_S_MAX:
            raise BadMessage(f"revoke: keep_s is {keep_s!r}; it has to be above 0, up to {KEEP_S_MAX:g}")
        whose = None if user is None else parse_user(user)
        if token_id is not None:
            _check_token_id(token_id)
        before = self._clock.time() if issued_before is None else issued_before
        if not 0 <= before < 1e12:
            raise BadMessage(f"revoke: issued_before is {before!r}, no time in seconds")
        within = parse_tenant(tenant)
        until = await self._revoke(within, whose, token_id, before, keep_s)
        self._audit.revoked(within, whose, token_id, before)
        return until

    async def _kick_on_record(self, tenant: TenantId, user: UserId | None, reason: str, code: int) -> int:
        try:
            closed = await self._kick(tenant, user, reason, code)
        except Unavailable as error:
            self._audit.kicked(tenant, user, code, None, error.message)
            raise
        self._audit.kicked(tenant, user, code, closed)
        return closed

    async def _kick(self, tenant: TenantId, user: UserId | None, reason: str, code: int) -> int:
        if not (may_be_sent(code) and code >= 1000):
            raise BadMessage(f"kick: {code} is no close code that may be sent")
        try:
            told = close_reason(reason)
        except ValueError as error:
            raise BadMessage(f"kick: the reason is no text: {error}") from None
        order = Kick(tenant, user, code, told)
        if self._find_workers is not None:
            await self._find_workers()
        answers = await ask_all(self._cluster, KICK, msgspec.msgpack.encode(order))
        return sum(map(int, answers))

    async def _revoke(
        self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float, keep_s: float
    ) -> float:
        assert self._revocations is not None, "a worker alone keeps its own"
        return await self._revocations.revoke(tenant, user, token_id, before, keep_s)


class Control(Orders):
    """A worker's own: gives orders, and carries out those of others. `tick` about ten times a second.

    Without `revocations`, which keeps them for all workers, what is revoked is forgotten with the process.
    """

    def __init__(
        self,
        users: Users,
        registry: Registry,
        membership: Membership,
        revoked: Revoked,
        clock: Clock,
        cluster: Cluster,
        revocations: RevocationList | None,
        audit: TokenAudit,
    ) -> None:
        super().__init__(cluster, clock, revocations, audit=audit)
        self._users = users
        self._registry = registry
        self._membership = membership
        self._revoked = revoked
        self._look = False  # tokens of nobody in particular have been revoked since the last look
        self._look_at = clock.monotonic()
        self.kicked = 0
        cluster.answer(KICK, self._on_kick)
        cluster.answer(REVOKE, self._on_revoke)
        if revocations is not None:
            revocations.open(self._on_revoked)

    def tick(self) -> None:
        """Close the connections of revoked tokens, and forget what has ended."""
        self._revoked.tick()
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        # At the same times whether or not there was one before: no tenant's order makes another's wait.
        self._look_at = now + LOOK_EVERY_S
        if self._look:
            self._look = False
            self._close_revoked(self._registry.connections())

    def refuses(self, tenant: TenantId, user: UserId, token_id: str, issued_at: float | None) -> bool:
        """Whether a token that says this is revoked."""
        return self._revoked.covers(Identity(user, tenant, token_id=token_id, issued_at=issued_at))

    def export(self) -> list[Revocation]:
        """Return what is revoked, for another process."""
        return self._revoked.export()

    def adopt(self, revocations: Collection[Revocation]) -> None:
        """Refuse what another process refused. Whom it had still to close is closed soon."""
        for revocation in revocations:
            self._revoked.add(revocation)
        if revocations:
            self._membership.doors.look_again()
            self._look = True

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {"revocations": len(self._revoked), "kicked_total": self.kicked}

    async def _revoke(
        self, tenant: TenantId, user: UserId | None, token_id: str | None, before: float, keep_s: float
    ) -> float:
        if self._revocations is not None:
            return await super()._revoke(tenant, user, token_id, before, keep_s)
        if len(self._revoked) >= REVOCATIONS_MAX:
            raise TooLarge(f"{REVOCATIONS_MAX} revocations are kept already")
        until = self._clock.time() + keep_s
        self._on_revoked([Revocation(tenant, user, token_id, before, until)])
        return until

    async def _on_revoke(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            order = msgspec.msgpack.decode(body, type=Revoke)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{REVOKE}: {error}") from error
        until = await self._revoke(order.tenant, order.user, order.token_id, order.before, order.keep_s)
        return repr(until).encode()

    def _on_revoked(self, revocations: Collection[Revocation]) -> None:
        """Refuse these tokens; whom it concerns is closed now, or with a tick where that takes a search."""
        for revocation in revocations:
            if not self._revoked.add(revocation):
                continue
            self._membership.doors.look_again()
            if revocation.user is None:
                self._look = True
                if revocation.token_id is None:
                    self._membership.rosters.forget(revocation.tenant, None)
            else:
                self._close_revoked(self._users.connections(revocation.tenant, revocation.user))
                self._membership.rosters.forget(revocation.tenant, revocation.user)

    def _close_revoked(self, connections: Collection[Connection]) -> None:
        for connection in connections:
            identity = identity_of(connection)
            if identity is not None and self._revoked.covers(identity):
                if connection.open:
                    self._audit.closed(connection, identity, "revoked")
                self.close(connection, CloseCode.BAD_TOKEN, REVOKED)

    def _on_kick(self, asker: WorkerId, body: bytes) -> bytes:
        try:
            order = msgspec.msgpack.decode(body, type=Kick)
        except msgspec.MsgspecError as error:
            raise BadMessage(f"{KICK}: {error}") from error
        connections: Collection[Connection]
        if order.user is not None:
            connections = self._users.connections(order.tenant, order.user)
        else:
            everybody = ((each, identity_of(each)) for each in self._registry.connections())
            connections = [each for each, whose in everybody if whose and whose.tenant == order.tenant]
        closing = [each for each in connections if each.open]
        for each in closing:
            self.close(each, order.code, order.reason)
        if is_for_good(order.code):
            self._membership.rosters.forget(order.tenant, order.user)
        return b"%d" % len(closing)

    def close(self, connection: Connection, code: int, reason: bytes) -> None:
        """Close a connection; one that is not to come back is out of its rooms before the peer has agreed."""
        self.kicked += connection.open
        connection.close(code, reason)
        session = connection.state
        if is_for_good(code) and isinstance(session, Session):
            self._membership.leave_all(session, lingers=False)


async def ask_all(cluster: Workers, verb: str, body: bytes) -> list[bytes]:
    """Return the answers of all workers there are, in no order.

    Raises:
        Unavailable: some gave none, or none is known to be there; the others have done it.
        RealtimeError: what one of them answered with.
    """
    workers = tuple(cluster.workers)
    if not workers:
        raise Unavailable("no worker is known to run", retry_after_s=1.0)
    answers = await asyncio.gather(
        *(cluster.ask(worker, verb, body) for worker in workers), return_exceptions=True
    )
    given = [each for each in answers if isinstance(each, bytes)]
    for failed in answers:
        if isinstance(failed, BaseException) and not isinstance(failed, Unavailable):
            raise failed
    if len(given) < len(workers):
        missing = len(workers) - len(given)
        raise Unavailable(f"{missing} of {len(workers)} workers gave no answer", retry_after_s=1.0)
    return given


def _check_token_id(token_id: str) -> None:
    if not 0 < len(token_id) <= TOKEN_ID_CHARS_MAX:
        raise BadMessage(f"revoke: the id of a token has 1 to {TOKEN_ID_CHARS_MAX} characters")
    try:
        token_id.encode()
    except UnicodeEncodeError:
        raise BadMessage("revoke: the id of the token is no text") from None
