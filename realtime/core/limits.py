"""How much one peer may take: the numbers, and the meters that hold them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, Literal, Protocol

import msgspec

from realtime.core.auth import Identity
from realtime.core.contracts import Clock
from realtime.core.quotas import CONNECTIONS, RATES, ROOMS, STORAGE, Quota, QuotaBook
from realtime.core.session import Session
from realtime.errors import RateLimited
from realtime.ids import TenantId, UserId
from realtime.native.ratelimit import Allowance, KeyedLimiter, Tariff

# Connections whose buckets are remembered; those of silent ones are full again and forgotten by themselves.
METERED_CONNECTIONS: Final = 1_000_000
# Messages paid for at once: one call of the limiter (0.2 us) a chunk, not a message. It lets nobody send
# more than the rate, only up to a chunk of it later than it was paid for.
CREDIT_CHUNK: Final = 64
# Users and tenants whose allowances are remembered while they are gone; at 100 to 300 bytes each.
ALLOWANCES_MAX: Final = 200_000
# Looked at when one is added: two for one, so that what is full again goes by itself.
FORGET_CHECKS: Final = 2
# What an error or a close can name as its limit. Each is a setting, but for the backlog.
LIMITS: Final = (
    "messages_per_second",
    "bytes_per_second",
    "messages_per_second_per_user",
    "bytes_per_second_per_user",
    "deliveries_per_second_per_user",
    "messages_per_second_per_address",
    "messages_per_second_per_subnet",
    "messages_per_second_per_tenant",
    "bytes_per_second_per_tenant",
    "deliveries_per_second_per_tenant",
    "errors_per_second",
    "max_connections_per_user",
    "max_rooms_per_connection",
    "max_message_bytes",
    "messages_per_frame",
    "backlog_messages",
    CONNECTIONS,
    ROOMS,
    STORAGE,
)
ShareOf = Callable[[TenantId], float]
"""Returns which part of a tenant's rates is this worker's, above 0 up to 1."""


Buckets = list[tuple[Any, int]]
"""What a `KeyedLimiter` exports: keys, and when their buckets are full again (monotonic ns)."""

Owing = tuple[tuple[int, int, int], tuple[float, float, float], float, tuple[int, int]]
"""What an `Allowance` exports."""


def whole(tenant: TenantId) -> float:
    """The share of a worker that is alone."""
    return 1.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Every limit of the core. The edge fills them from the settings of the same names."""

    connections_per_user: int = 5
    connection_limit_policy: Literal["reject", "replace"] = "reject"  # what the one too many meets
    rooms_per_connection: int = 100
    messages_per_frame: int = 100
    messages_per_second: float = 100_000
    messages_burst: float = 100_000
    # All connections of a user, and of a tenant, together; 0 does not limit. A publish makes as many
    # deliveries as its room has members here, at least one.
    messages_per_second_per_user: float = 0
    messages_per_second_per_tenant: float = 0
    bytes_per_second_per_user: float = 0
    bytes_per_second_per_tenant: float = 0
    deliveries_per_second_per_user: float = 0
    deliveries_per_second_per_tenant: float = 0
    rate_burst_s: float = 2.0  # seconds of those six rates that may come at once
    # Of each tenant that the policy says nothing else of; 0 does not limit.
    connections_per_tenant: int = 0
    rooms_per_tenant: int = 0
    storage_bytes_per_tenant: int = 0
    tenant_metrics: tuple[str, ...] = ()  # tenants that /metrics has series for
    content_bytes: int = 64 * 1024
    errors_per_second: float = 1.0  # a connection that keeps causing more is closed (4509)
    errors_burst: float = 100
    history_page: int = 100  # publications in a `history` answer that names no limit
    history_page_max: int = 1000
    # Messages in one answer. More would not fit the peer's queue, and cut it off: a `history` stops there and
    # has more, a recovery over it is refused.
    answer_bytes: int = 512 * 1024
    presence_members: int = 100  # most members that are named; above it they are only counted
    presence_interval_s: float = 0.2
    presence_count_interval_s: float = 1.0
    presence_grace_s: float = 0.0  # who lost the connection counts as present for so long
    presence_lingering: int = 50_000  # users who do, in all rooms; above it those are gone who went first
    # Who left one worker is told as gone so much later, because it may be on another: an interval for the
    # move, one until the other worker shares it, one for ticks and the way. 0: there is no other worker, and
    # nothing is shared.
    presence_move_s: float = 0.0
    backlog_messages: int = 1000  # waiting for a join of their session to finish

    @property
    def quota(self) -> Quota:
        """What a tenant may take that the policy says nothing of."""
        return Quota(
            connections=self.connections_per_tenant,
            rooms=self.rooms_per_tenant,
            messages_per_second=self.messages_per_second_per_tenant,
            bytes_per_second=self.bytes_per_second_per_tenant,
            deliveries_per_second=self.deliveries_per_second_per_tenant,
            storage_bytes=self.storage_bytes_per_tenant,
            burst_s=self.rate_burst_s,
        )


class Crowd(Protocol):
    """Counts what all connections of an address send together, and of its subnet."""

    def over(self, address: str, messages: int) -> tuple[str, float, float] | None:
        """Take so many; or return what allows fewer: its name, its rate, and the seconds to wait."""
        ...


class Meters:
    """The token buckets of connections: messages and errors.

    The hub holds a connection's frames to the same rate, pings and empty ones included, and hands on what is
    within it; here the messages in them are counted, so that packing many into a frame gains nothing. A
    message is refused by one of the two, never by both, and whoever sends one a frame meets the hub's alone:
    the edge makes the burst here a little wider than there.
    """

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._messages = KeyedLimiter(
            limits.messages_per_second, limits.messages_burst, METERED_CONNECTIONS, clock=clock.monotonic_ns
        )
        self._errors = KeyedLimiter(
            limits.errors_per_second, limits.errors_burst, METERED_CONNECTIONS, clock=clock.monotonic_ns
        )
        self._limits = limits
        self.crowd: Crowd | None = None  # where addresses are limited too
        self._chunk = max(1, min(CREDIT_CHUNK, int(limits.messages_burst) // 8))

    def export(self) -> tuple[Buckets, Buckets]:
        """Return what connections owe, of messages and of errors, for another process."""
        return self._messages.export(), self._errors.export()

    def adopt(self, messages: Buckets, errors: Buckets) -> None:
        """Take over what another process exported."""
        self._messages.adopt(messages)
        self._errors.adopt(errors)

    def pay(self, session: Session) -> None:
        """Take what the message at hand costs, and where there is more, for those that follow.

        Raises:
            RateLimited: the connection, or its address, has sent what it may; the error says when to go on.
        """
        key = str(session.connection.id)
        # The connection's own first: what it has paid in vain, where its address may not, is no neighbour's.
        if self._messages.take(key, self._chunk) == 0.0 and self._over(session, self._chunk) is None:
            session.credit = self._chunk - 1
            return
        wait_s = self._messages.take(key)
        if wait_s > 0.0:
            raise rate_limited("messages_per_second", self._limits.messages_per_second, wait_s)
        over = self._over(session, 1)
        if over is not None:
            raise rate_limited(*over)

    def _over(self, session: Session, messages: int) -> tuple[str, float, float] | None:
        return None if self.crowd is None else self.crowd.over(session.connection.address, messages)

    def count_error(self, session: Session) -> bool:
        """Count an error that the peer caused; False when it causes too many to be kept."""
        return bool(self._errors.take(str(session.connection.id)) == 0.0)


class Allowances:
    """The buckets of users and of tenants, which all their connections share: messages, bytes, deliveries.

    A session holds its user's, with the tenant's above it, or the tenant's alone, or none: as the limits and
    the tenant's quota ask. One that nobody holds is remembered until it is full again, so that nobody gets a
    new one by coming back. Each tenant has a tariff of its own, which `adjust` changes for who holds it.
    """

    def __init__(
        self, limits: Limits, clock: Clock, quotas: QuotaBook | None = None, share_of: ShareOf = whole
    ) -> None:
        self._clock = clock
        self._quotas = quotas or QuotaBook(limits.quota)
        self._share_of = share_of
        self._counted = frozenset(limits.tenant_metrics)
        self._user = _user_tariff(limits, clock)
        self._known: OrderedDict[TenantId | tuple[TenantId, UserId], Allowance] = OrderedDict()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    def export(self) -> list[tuple[TenantId, UserId | None, Owing]]:
        """Return what tenants, and users of theirs, owe, for another process."""
        return [
            (*key, each.export()) if isinstance(key, tuple) else (key, None, each.export())
            for key, each in self._known.items()
        ]

    def adopt(self, owing: list[tuple[TenantId, UserId | None, Owing]]) -> None:
        """Take over what another process exported, before anybody holds it; whom nothing limits any more
        owes nothing.
        """
        for tenant, user, state in owing:
            tariff = self._tariff(tenant) if user is None else self._user
            if tariff is not None:
                made = self._new(tenant if user is None else (tenant, user), tariff)
                made.adopt(state)
                made.holders = 0

    def hold(self, identity: Identity) -> Allowance | None:
        """Return what a session of `identity` draws on until `release`; None where nothing is limited."""
        tenant = self._tenant(identity.tenant)
        if self._user is None:
            return tenant
        user = self._held((identity.tenant, identity.user)) or self._new(
            (identity.tenant, identity.user), self._user
        )
        user.above = (
            tenant  # the one of now: while nobody held the user's, the tenant's may have been forgotten
        )
        return user

    def release(self, allowance: Allowance | None) -> None:
        """Hold it no longer."""
        while allowance is not None:
            allowance.holders -= 1
            allowance = allowance.above

    def of_tenant(self, tenant: TenantId) -> Allowance | None:
        """Return what the tenant draws on, None where that is nothing of its own."""
        return self._known.get(tenant)

    def adjust(self, tenant: TenantId | None = None) -> None:
        """Let the quota and the share of now hold for `tenant`, or on None for all that are remembered."""
        for key in tuple(self._known) if tenant is None else (tenant,):
            found = self._known.get(key)
            if found is not None and not isinstance(key, tuple):
                quota = self._quotas.of(key)
                found.tariff.change(quota.rates, quota.burst_s, self._share_of(key))

    def _tenant(self, tenant: TenantId) -> Allowance | None:
        found = self._held(tenant)
        if found is not None:
            return found
        tariff = self._tariff(tenant)
        return None if tariff is None else self._new(tenant, tariff)

    def _tariff(self, tenant: TenantId) -> Tariff | None:
        """Return the rates of a tenant; None where nothing limits it and nobody counts."""
        quota = self._quotas.of(tenant)
        if not any(quota.rates) and tenant not in self._counted:
            return None
        clock = self._clock.monotonic_ns
        share = self._share_of(tenant)
        return Tariff(RATES, quota.rates, quota.burst_s, share=share, clock=clock)

    def _held(self, key: TenantId | tuple[TenantId, UserId]) -> Allowance | None:
        found = self._known.get(key)
        if found is not None:
            found.holders += 1
        return found

    def _new(self, key: TenantId | tuple[TenantId, UserId], tariff: Tariff) -> Allowance:
        self._forget()
        made = self._known[key] = Allowance(tariff)
        made.holders = 1
        return made

    def _forget(self) -> None:
        """Forget of the ones longest not looked at those that nobody holds and that owe nothing.

        Past `ALLOWANCES_MAX` one that owes goes too: its user begins anew, which costs others nothing.
        """
        for _ in range(min(FORGET_CHECKS, len(self._known))):
            key, allowance = next(iter(self._known.items()))
            crowded = len(self._known) >= ALLOWANCES_MAX
            if not allowance.holders and (crowded or allowance.full):
                del self._known[key]
            else:
                self._known.move_to_end(key)


def rate_limited(limit: str, allowed: float, wait_s: float) -> RateLimited:
    """The error for what is over a rate."""
    message = f"{limit} allows {allowed:g}; wait {wait_s:.3f} s"
    return RateLimited(message, retry_after_s=wait_s, limit=limit, allowed=allowed)


def _user_tariff(limits: Limits, clock: Clock) -> Tariff | None:
    """The rates of each user; None where none is limited."""
    messages, octets, deliveries = (
        f"{what}_per_second_per_user" for what in ("messages", "bytes", "deliveries")
    )
    rates = getattr(limits, messages), getattr(limits, octets), getattr(limits, deliveries)
    if not any(rates):
        return None
    return Tariff((messages, octets, deliveries), rates, limits.rate_burst_s, clock=clock.monotonic_ns)
