"""How many bytes are kept of each tenant, and the refusal of what goes over its quota.

The store counts, by triggers that it has from the first day on which anybody's storage was limited: what is
committed is counted with it, so that a killed process or another program makes no difference. Here is a
running sum over that: what was read, what has been committed since, and what is on its way. A store of one
process is exact so. Where several workers share one, each reads again every `LOOK_SHARED_S` what the tenants
it serves have, so that a tenant may go over by what the others take within that time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Final, Protocol

from realtime.core.contracts import Clock, Row
from realtime.core.quotas import STORAGE, QuotaBook
from realtime.errors import QuotaExceeded, StartupError, Unavailable
from realtime.ids import TenantId

log: Final = logging.getLogger("realtime.store")

FEATURE: Final = "storage_usage"
FOLDER: Final = Path(__file__).with_suffix("")
LOOK_SHARED_S: Final = 0.25
LOOK_OWN_S: Final = 60.0  # rows may be erased by others
AGAIN_S: Final = 5.0  # after the store could not count, or could not be asked
RETRY_S: Final = 1.0


class CountingStore(Protocol):
    """What the meter needs of a store."""

    async def migrate(self, feature: str, folder: Path) -> list[str]: ...
    async def usage(self, tenants: list[TenantId] | None) -> dict[TenantId, int]: ...


class StorageMeter:
    """Holds tenants to `storage_bytes`. Made on the event loop; `tick` about ten times a second.

    `shared`: other processes write to the store too.
    """

    def __init__(self, store: CountingStore, quotas: QuotaBook, clock: Clock, *, shared: bool) -> None:
        self._store = store
        self._quotas = quotas
        self._clock = clock
        self._shared = shared
        self._used: dict[TenantId, int] = {}  # committed, as far as is known
        self._pending: Counter[TenantId] = Counter()  # on its way
        self._kept_during_look: Counter[TenantId] = Counter()
        self._active: set[TenantId] = set()  # who has published since the last look
        self.ready = False  # it is known what everybody has
        self._task: asyncio.Task[None] | None = None
        self._next_look = clock.monotonic()
        self.refused = 0
        self.tick()

    def check(self, tenant: TenantId, size: int) -> None:
        """Raise where `size` bytes more would be over the tenant's quota.

        Raises:
            QuotaExceeded: they would be.
            Unavailable: it is not known yet what the tenant has.
        """
        allowed = self._quotas.of(tenant).storage_bytes
        if not allowed:
            return
        if not self.ready:
            raise Unavailable("what is stored is being counted; try again", retry_after_s=RETRY_S)
        self._active.add(tenant)
        if self._used.get(tenant, 0) + self._pending[tenant] + size > allowed:
            self.refused += 1
            raise QuotaExceeded(
                f"this tenant may keep {allowed} bytes, and has too many of them to keep {size} more",
                limit=STORAGE,
                allowed=allowed,
            )

    def sent(self, row: Row) -> None:
        """Count a row that is on its way to the store."""
        self.hold(row.room.tenant, size_of(row))

    def hold(self, tenant: TenantId, size: int) -> None:
        """Count what is going to be a row, until `let_go`."""
        self._pending[tenant] += size

    def let_go(self, tenant: TenantId, size: int) -> None:
        """Count it no longer."""
        left = self._pending[tenant] - size
        if left > 0:
            self._pending[tenant] = left
        else:
            del self._pending[tenant]  # below 0: it was on its way before anybody counted

    def done(self, row: Row, *, kept: bool) -> None:
        """Count a row that was on its way as kept, or as given up."""
        tenant, size = row.room.tenant, size_of(row)
        self.let_go(tenant, size)
        if kept:
            self._used[tenant] = self._used.get(tenant, 0) + size
            if self._task is not None:
                self._kept_during_look[tenant] += size

    def tick(self) -> None:
        """Look what is stored, where that is due."""
        if self._task is not None or not self._quotas.limits_storage:
            return
        if self._clock.monotonic() < self._next_look or (self._shared and self.ready and not self._active):
            return
        self._task = asyncio.get_running_loop().create_task(self._look())

    async def close(self) -> None:
        """Look no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics, by name."""
        return {"storage_tenants": len(self._used), "storage_refused_total": self.refused}

    async def _look(self) -> None:
        """Read what tenants have: of all the first time, later of those who publish here."""
        after_s = LOOK_SHARED_S if self._shared else LOOK_OWN_S
        try:
            if not self.ready:
                await self._store.migrate(FEATURE, FOLDER)
            asked = list(self._active) if self.ready and self._shared else None
            self._active.clear()
            self._kept_during_look.clear()
            found = await self._store.usage(asked)
            # What was committed meanwhile may be in there or not; it counts twice until the next look.
            self._used = found if asked is None else {**self._used, **dict.fromkeys(asked, 0), **found}
            for tenant, size in self._kept_during_look.items():
                self._used[tenant] = self._used.get(tenant, 0) + size
            self.ready = True
        except (StartupError, Unavailable) as error:
            after_s = AGAIN_S
            log.warning("tenants' storage could not be counted: %s", error.message)
        finally:
            self._next_look = self._clock.monotonic() + after_s
            self._task = None


def size_of(row: Row) -> int:
    """Return what a row counts as, in bytes: what the triggers count of it."""
    return len(row.push) + len(row.sender or b"") + (0 if row.key is None else len(row.key.encode()))
