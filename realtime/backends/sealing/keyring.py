"""The data keys that this process has at hand: found in their table, opened with a master key, remembered.

What seals and opens asks here and is answered at once. What is not at hand is fetched beside it, once for all
who need it; why a key cannot be had is remembered for a moment too, so that a Vault that is away is not asked
for every message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from realtime.backends.sealing.box import DataKey, new_key
from realtime.backends.sealing.masters import KeyLost, Masters
from realtime.backends.sealing.table import KeyTable, WrappedKey
from realtime.core.audit import NO_AUDITOR, Action, Auditor, Event, Outcome
from realtime.core.contracts import Clock
from realtime.errors import Unavailable, Unreadable
from realtime.ids import TenantId

log: Final = logging.getLogger("realtime.sealing")

USES_MAX: Final = 2**32  # of one key, by all processes together: see DataKey.seal
USES_BLOCK: Final = 2**20  # taken at once; what a process has left of it when it ends is never used
TENANTS_MAX: Final = 10_000
KEYS_MAX: Final = 64  # of one tenant at hand, and as many that were looked for and are not to be had
REFRESH_S: Final = 30.0  # so often it is looked whether another process has made a newer key
RETRY_S: Final = 1.0
LOST_S: Final = 30.0  # a key that is not there is looked for so often
QUIET_S: Final = 60.0  # the same trouble is told so often


class Missing(NamedTuple):
    """What a master key that is not configured wraps: so many data keys, so many tenants' newest ones."""

    keys: int
    tenants: int


class Tenant:
    """What is at hand of one tenant's. `lost` says why a key is not to be had, and until when that holds."""

    __slots__ = ("active", "due", "fetching", "keys", "lost", "trouble", "wrapped")

    def __init__(self) -> None:
        self.keys: OrderedDict[bytes, DataKey] = OrderedDict()
        self.lost: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self.wrapped: dict[bytes, WrappedKey] = {}
        self.active: DataKey | None = None
        self.due = 0.0  # when the table is to be looked at again
        self.trouble = ""  # why there is no active key
        self.fetching: asyncio.Task[None] | None = None


class Keyring:
    """Data keys by tenant, for whom `actor` stands. `uses_block` and `uses_max` are how uses are counted."""

    def __init__(
        self,
        masters: Masters,
        table: KeyTable,
        clock: Clock,
        *,
        audit: Auditor = NO_AUDITOR,
        actor: str = "server",
        uses_block: int = USES_BLOCK,
        uses_max: int = USES_MAX,
    ) -> None:
        self.masters = masters
        self.table = table
        self._clock = clock
        self._audit = audit
        self._actor = actor
        self._block, self._max = uses_block, uses_max
        self._tenants: OrderedDict[TenantId, Tenant] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: OrderedDict[tuple[TenantId, str], float] = OrderedDict()
        self._troubled: dict[TenantId, str] = {}
        self.sealed = self.opened = self.unreadable = 0

    # -- at once --------------------------------------------------------------------------------------------

    def active(self, tenant: TenantId) -> DataKey:
        """Return the key that seals, and count one use of it.

        Raises:
            Unavailable: it is not at hand. Why, where that is known; it is being fetched.
        """
        found = self._tenants.get(tenant)
        key = None if found is None else found.active
        if found is None or key is None or key.left <= 0:
            raise self._not_at_hand(tenant)
        key.left -= 1
        if key.left < self._block // 4 or self._clock.monotonic() >= found.due:
            self._go_on(tenant, found)
        self.sealed += 1
        return key

    def look(self, tenant: TenantId, id: bytes) -> DataKey | str | None:
        """Return the key, why it is lost, or None where it has to be fetched with `key`."""
        found = self._tenants.get(tenant)
        if found is None:
            return None
        key = found.keys.get(id)
        if key is not None:
            self.opened += 1
            return key
        until, why = found.lost.get(id, (0.0, ""))
        return why if until > self._clock.monotonic() else None

    def prepare(self, tenant: TenantId) -> None:
        """Begin to fetch the key that seals, where it is not at hand."""
        self._go_on(tenant, self._tenant(tenant))

    # -- in time --------------------------------------------------------------------------------------------

    async def ensure(self, tenant: TenantId) -> None:
        """Have the key at hand that seals; make one where the tenant has none.

        Raises:
            Unavailable: the table or Vault gives no answer, or the key is lost; it says which.
        """
        found = self._tenant(tenant)
        if found.active is None or found.active.left <= 0 or self._clock.monotonic() >= found.due:
            await self._fetch(tenant, found)
        if found.active is None or found.active.left <= 0:
            raise self._not_at_hand(tenant)

    async def key(self, tenant: TenantId, id: bytes) -> DataKey:
        """Return the key of this id.

        Raises:
            Unreadable: it is lost, and why.
            Unavailable: nobody knows; the table or Vault gives no answer.
        """
        known = self.look(tenant, id)
        if known is None:
            known = await self._find(tenant, id)
        if isinstance(known, DataKey):
            return known
        self.unreadable += 1
        raise Unreadable(known)

    async def rotate(self, tenant: TenantId) -> WrappedKey:
        """Make a new key for a tenant, which seals from now on; other processes follow within REFRESH_S.

        Raises:
            Unavailable: it could not be made.
        """
        kept = await self.table.keys_of(tenant)
        made = await self._make(tenant, kept[-1].number if kept else 0)
        if made is None:
            raise Unavailable("somebody else makes a key now", retry_after_s=RETRY_S)
        await self._fetch(tenant, self._tenant(tenant))
        return made

    async def missing(self) -> dict[str, Missing]:
        """Return which master keys are needed and not configured, by name.

        Raises:
            Unavailable: the table gives no answer.
        """
        keys = await self.table.all_keys()
        newest = {key.tenant: key for key in keys}
        lacking: dict[str, Missing] = {}
        for key in keys:
            name = self.masters.lacks(key)
            if name is not None:
                had = lacking.get(name, Missing(0, 0))
                lacking[name] = Missing(had.keys + 1, had.tenants + (newest[key.tenant] is key))
        return lacking

    def stats(self) -> dict[str, int]:
        """Gauges and counters for /metrics."""
        return {
            "sealing_tenants": len(self._tenants),
            "sealing_tenants_without_key": len(self._troubled),
            "sealing_sealed_total": self.sealed,
            "sealing_opened_total": self.opened,
            "sealing_unreadable_total": self.unreadable,
        }

    def note(self, tenant: TenantId, what: str, outcome: Outcome, target: str = "") -> None:
        """Tell the log and the audit log of a key made, or missing; of the same trouble once in a while."""
        if outcome is not Outcome.ALLOWED:
            now = self._clock.monotonic()
            if self._told.get((tenant, what), 0.0) > now:
                return
            self._told[tenant, what] = now + QUIET_S
            if len(self._told) > TENANTS_MAX:
                self._told.popitem(last=False)
            log.error("%s", what)
        else:
            log.info("%s", what)
        detail = {"what": what}
        self._audit.record(
            Event(
                tenant=tenant,
                action=Action.KEY,
                outcome=outcome,
                actor=self._actor,
                target=target,
                detail=detail,
            )
        )

    async def close(self) -> None:
        """Fetch nothing more, and let go of the keys. Python may keep copies of their bytes until they are
        overwritten: no memory is wiped.
        """
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tenants.clear()

    # -- fetching -------------------------------------------------------------------------------------------

    def _tenant(self, tenant: TenantId) -> Tenant:
        found = self._tenants.get(tenant)
        if found is None:
            found = self._tenants[tenant] = Tenant()
            if len(self._tenants) > TENANTS_MAX:
                self._forget_one()
        else:
            self._tenants.move_to_end(tenant)
        return found

    def _forget_one(self) -> None:
        """Forget who was looked for longest ago and is not being fetched; it is fetched again when needed."""
        for tenant, found in self._tenants.items():
            if found.fetching is None:
                del self._tenants[tenant]
                self._troubled.pop(tenant, None)
                return

    def _not_at_hand(self, tenant: TenantId) -> Unavailable:
        found = self._tenant(tenant)
        self._go_on(tenant, found)
        why = found.trouble or f"the data key of tenant {tenant} is being fetched"
        return Unavailable(why, retry_after_s=RETRY_S)

    def _go_on(self, tenant: TenantId, found: Tenant) -> None:
        """Fetch what is due, beside whoever needs it."""
        low = found.active is not None and found.active.left < self._block // 4
        if self._clock.monotonic() >= found.due or (low and not found.trouble):
            self._begin(tenant, found)

    def _begin(self, tenant: TenantId, found: Tenant) -> asyncio.Task[None]:
        """Look at the table and have the active key at hand: once for all who need it."""
        if found.fetching is None:
            task = asyncio.get_running_loop().create_task(self._load(tenant, found))
            found.fetching = task
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        return found.fetching

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Unavailable):
            log.error("a data key could not be fetched", exc_info=error)

    async def _fetch(self, tenant: TenantId, found: Tenant) -> None:
        """Raises Unavailable: there is no key to seal with. An older one stays in use while it may."""
        task = self._begin(tenant, found)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise Unavailable("the server is closing") from None
            raise

    async def _load(self, tenant: TenantId, found: Tenant) -> None:
        try:
            await self._load_active(tenant, found)
        except (KeyLost, Unavailable) as error:
            found.due = self._clock.monotonic() + RETRY_S
            if found.active is not None and found.active.left > 0:
                log.debug("tenant %s: it could not be looked for a newer key: %s", tenant, error.message)
                return
            found.trouble = f"tenant {tenant} has no key to seal with: {error.message}"
            self._troubled[tenant] = found.trouble
            self.note(tenant, found.trouble, Outcome.FAILED)
            raise Unavailable(found.trouble, retry_after_s=RETRY_S) from error
        else:
            found.due = self._clock.monotonic() + REFRESH_S
            found.trouble = ""
            self._troubled.pop(tenant, None)
        finally:
            found.fetching = None

    async def _load_active(self, tenant: TenantId, found: Tenant) -> None:
        """Raises KeyLost or Unavailable."""
        while True:
            had = None if found.active is None else found.wrapped.get(found.active.id)
            wrapped = await self._wrapped(tenant, found)
            if had is not None and had.id not in found.wrapped and await self._put_back(had):
                continue
            if not wrapped:
                await self._make(tenant, 0)
                continue
            newest = wrapped[-1]
            key = found.keys.get(newest.id) or await self._open(found, newest)
            if key.left < self._block // 2 and not await self._reserve(newest, key):
                await self._make(tenant, newest.number)
                continue
            found.active = key
            return

    async def _put_back(self, key: WrappedKey) -> bool:
        """Keep a key again that its table has lost: a Redis that failed over, or began empty. What it has
        sealed may still be there.
        """
        if not await self.table.add(key):
            return False  # there is another of its number
        self.note(
            key.tenant, f"data key {key.name} of tenant {key.tenant} was lost and put back", Outcome.ALLOWED
        )
        return True

    async def _wrapped(self, tenant: TenantId, found: Tenant) -> Sequence[WrappedKey]:
        wrapped = await self.table.keys_of(tenant)
        found.wrapped = {key.id: key for key in wrapped}
        return wrapped

    async def _open(self, found: Tenant, wrapped: WrappedKey) -> DataKey:
        secret = await self.masters.unwrap(wrapped)
        key = found.keys[wrapped.id] = DataKey(wrapped.tenant, wrapped.number, wrapped.id, secret)
        found.lost.pop(wrapped.id, None)
        while len(found.keys) > KEYS_MAX:
            oldest = next(each for each, its in found.keys.items() if its is not found.active)
            del found.keys[oldest]
        return key

    async def _reserve(self, wrapped: WrappedKey, key: DataKey) -> bool:
        """Take a block of uses; False where they are used up."""
        if await self.table.use(wrapped, self._block) > self._max:
            return False
        key.left += self._block
        return True

    async def _make(self, tenant: TenantId, number: int) -> WrappedKey | None:
        """Make the key after `number`; None where another process was first.

        Raises:
            KeyLost: there is no master key.
            Unavailable: Vault or the table gives no answer.
        """
        id, secret = new_key()
        key = WrappedKey(tenant, number + 1, id, "", int(self._clock.time()))
        key = key._replace(wrapped=await self.masters.wrap(key, secret))
        if not await self.table.add(key):
            return None
        self.note(tenant, f"data key {key.name} of tenant {tenant} was made", Outcome.ALLOWED, key.name)
        return key

    async def _find(self, tenant: TenantId, id: bytes) -> DataKey | str:
        """Return a key that is not at hand, or why it is lost. Raises Unavailable."""
        found = self._tenant(tenant)
        name = id.hex()
        if id not in found.wrapped:
            await self._wrapped(tenant, found)
        wrapped = found.wrapped.get(id)
        try:
            if wrapped is not None:
                return await self._open(found, wrapped)
            why = (
                f"data key {name} of tenant {tenant} is not there: it was lost, or this is of another tenant"
            )
        except KeyLost as error:
            why = (
                error.message
                if name in error.message
                else f"data key {name} of tenant {tenant}: {error.message}"
            )
        found.lost[id] = (self._clock.monotonic() + LOST_S, why)
        while len(found.lost) > KEYS_MAX:
            found.lost.popitem(last=False)
        self.note(tenant, why, Outcome.FAILED, name)
        return why
