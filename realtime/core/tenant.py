"""A tenant: everything of one customer that lives on this worker. No name is looked up outside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realtime.core.quotas import Quota, QuotaBook
from realtime.ids import RoomId, TenantId

if TYPE_CHECKING:
    from realtime.core.room import Room


class Tenant:
    """The live rooms of one tenant, how many connections it has, and what it may take."""

    __slots__ = ("connections", "id", "quota", "rooms")

    def __init__(self, id: TenantId, quota: Quota) -> None:
        self.id = id
        self.quota = quota
        self.rooms: dict[str, Room] = {}  # by name; those with members here
        self.connections = 0


# Where a session is until it has authenticated: it has no rooms, so nothing there can be found.
NOBODY = Tenant(TenantId(""), Quota())


class Tenants:
    """The tenants that have anything here."""

    __slots__ = ("_by_id", "_quotas")

    def __init__(self, quotas: QuotaBook | None = None) -> None:
        self._by_id: dict[TenantId, Tenant] = {}
        self._quotas = quotas or QuotaBook()
        self._quotas.watch(self._requote)

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, id: TenantId) -> Tenant:
        return self._by_id[id]

    def enter(self, id: TenantId) -> Tenant:
        """Return the tenant, made if it is not there. Whoever asks puts something into it."""
        tenant = self._by_id.get(id)
        if tenant is None:
            tenant = self._by_id[id] = Tenant(id, self._quotas.of(id))
        return tenant

    def find(self, id: TenantId) -> Tenant | None:
        """Return the tenant, None where it has nothing here."""
        return self._by_id.get(id)

    def room(self, key: RoomId) -> Room | None:
        """Return the live room of that name in its tenant, None where there is none."""
        tenant = self._by_id.get(key.tenant)
        return None if tenant is None else tenant.rooms.get(key.room)

    def all(self) -> list[Tenant]:
        """Return all of them."""
        return list(self._by_id.values())

    def rooms(self) -> list[Room]:
        """Return all live rooms."""
        return [room for tenant in self._by_id.values() for room in tenant.rooms.values()]

    def forget_if_idle(self, tenant: Tenant) -> None:
        """Forget a tenant that has no connections and no rooms any more."""
        if not tenant.connections and not tenant.rooms:
            self._by_id.pop(tenant.id, None)

    def _requote(self) -> None:
        for tenant in self._by_id.values():
            tenant.quota = self._quotas.of(tenant.id)
