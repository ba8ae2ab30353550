"""How much each tenant may take: what the policy says, and where it is silent the settings.

Who holds a tenant to it: `limits.Allowances` the rates, `entry` the connections, `membership` the rooms, the
brokers what is stored. A tenant without any quota costs nobody a look.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from realtime.core.audit import Action, Auditor, Event, Outcome
from realtime.core.contracts import Clock
from realtime.ids import TenantId, UserId
from realtime.policy import Quotas

EVERYBODY: Final = "*"
NO_TABLES: Final[Mapping[str, Quotas]] = {}
# What an error, a close and /metrics call them; the setting that each has for a default, too.
CONNECTIONS: Final = "connections_per_tenant"
ROOMS: Final = "rooms_per_tenant"
STORAGE: Final = "storage_bytes_per_tenant"
RATES: Final = (
    "messages_per_second_per_tenant",
    "bytes_per_second_per_tenant",
    "deliveries_per_second_per_tenant",
)
OF_TENANTS: Final = frozenset((CONNECTIONS, ROOMS, STORAGE, *RATES))
# How often the audit log hears that a tenant meets the same quota: a flood must not fill it.
TOLD_EVERY_S: Final = 60.0
TOLD_MAX: Final = 10_000


class Quota(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may take; 0 does not limit. See `policy.Quotas`."""

    connections: int = 0
    rooms: int = 0
    messages_per_second: float = 0
    bytes_per_second: float = 0
    deliveries_per_second: float = 0
    storage_bytes: int = 0
    burst_s: float = 2.0

    @property
    def rates(self) -> tuple[float, float, float]:
        """Messages, bytes, deliveries a second: in this order everywhere."""
        return self.messages_per_second, self.bytes_per_second, self.deliveries_per_second


class QuotaBook:
    """Finds a tenant's quota. One object for the life of a worker, whose tables may change."""

    def __init__(self, defaults: Quota | None = None, tables: Mapping[str, Quotas] = NO_TABLES) -> None:
        self._defaults = defaults or Quota()
        self._watchers: list[Callable[[], None]] = []
        self._fill(tables)

    def of(self, tenant: TenantId) -> Quota:
        """Return what holds for `tenant`."""
        return self._named.get(tenant, self._others)

    @property
    def limits_storage(self) -> bool:
        """Whether anybody's storage is limited, so that it has to be counted."""
        return any(each.storage_bytes for each in (self._others, *self._named.values()))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever other quotas hold from now on."""
        self._watchers.append(on_change)

    def replace(self, tables: Mapping[str, Quotas]) -> None:
        """Let other tables hold from now on."""
        self._fill(tables)
        for on_change in self._watchers:
            on_change()

    def _fill(self, tables: Mapping[str, Quotas]) -> None:
        self._others = _over(self._defaults, tables.get(EVERYBODY))
        self._named = {
            TenantId(name): _over(self._others, table) for name, table in tables.items() if name != EVERYBODY
        }


def _over(below: Quota, table: Quotas | None) -> Quota:
    """Return `below` with what `table` says instead."""
    if table is None:
        return below
    said = {name: getattr(table, name) for name in Quota.__struct_fields__}
    return msgspec.structs.replace(below, **{name: said[name] for name in said if said[name] is not None})


class QuotaRefusals:
    """Where tenants met their quotas: told to the audit log now and then, counted for who is asked about."""

    def __init__(self, audit: Auditor, clock: Clock, counted: Collection[str] = ()) -> None:
        self._audit = audit
        self._clock = clock
        self._counted = frozenset(counted)
        self._told: OrderedDict[tuple[TenantId, str], float] = OrderedDict()  # longest ago first
        self.counts: Counter[tuple[TenantId, str]] = Counter()

    def note(self, tenant: TenantId, user: UserId, limit: str, source: str = "") -> None:
        """Note that `user` of `tenant`, at the address `source`, was refused something over `limit`."""
        if tenant in self._counted:
            self.counts[tenant, limit] += 1
        now = self._clock.monotonic()
        last = self._told.get((tenant, limit))
        if last is not None and now - last < TOLD_EVERY_S:
            return
        self._told[tenant, limit] = now
        self._told.move_to_end((tenant, limit))
        if len(self._told) > TOLD_MAX:
            self._told.popitem(last=False)
        self._audit.record(
            Event(
                tenant=tenant,
                action=Action.LIMIT,
                outcome=Outcome.DENIED,
                actor=user,
                source=source,
                target=limit,
            )
        )
