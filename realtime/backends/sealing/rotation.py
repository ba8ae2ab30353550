"""Keys renewed: data keys wrapped by another master key, new data keys, and rows sealed anew with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from realtime.backends.groups import key_column, key_text
from realtime.backends.sealing.box import DataKey, is_sealed
from realtime.backends.sealing.keyring import Keyring
from realtime.backends.sealing.masters import KeyLost
from realtime.backends.sealing.store import Rows, key_place, push_place
from realtime.backends.sealing.stored import START, Change, Due, Stored, StoredRows
from realtime.core.audit import NO_TENANT, Outcome
from realtime.core.contracts import Clock
from realtime.core.room_rules import RoomRules
from realtime.errors import Unavailable, Unreadable
from realtime.ids import RoomId, TenantId

log: Final = logging.getLogger("realtime.sealing")

PROGRESS_S: Final = 1.0


@dataclass(slots=True)
class Progress:
    """How far a run is. `failed` are rows or keys that cannot be read: they stay as they are."""

    what: str
    total: int
    began: float  # by the monotonic clock, in seconds
    done: int = 0
    failed: int = 0

    def line(self, now: float) -> str:
        """Say it: `sealed 1,500 of 4,000 rows (37 %), 20,112 a second`."""
        rate = self.done / max(now - self.began, 1e-3)
        share = 100 * (self.done + self.failed) // self.total if self.total else 100
        failed = f", {self.failed:,} that cannot be read" if self.failed else ""
        return f"{self.what}: {self.done:,} of {self.total:,} ({share} %){failed}, {rate:,.0f} a second"


Say = Callable[[str], object]


class Rotation:
    """What `realtime keys` does. `tenants` are whose it is about; None: everybody's. `say` gets lines."""

    def __init__(
        self, keyring: Keyring, clock: Clock, say: Say, tenants: Collection[TenantId] | None = None
    ) -> None:
        self._keyring = keyring
        self._clock = clock
        self._say = say
        self._tenants = tenants
        self._told_at = 0.0

    async def rewrap(self) -> Progress:
        """Have all data keys wrapped by the master key that comes first now, in its newest version.

        Raises:
            Unavailable: the table or Vault gives no answer. What was done stays; the next run goes on.
        """
        keyring = self._keyring
        stale = [
            key
            for key in await keyring.table.all_keys()
            if self._is_meant(key.tenant) and keyring.masters.is_stale(key)
        ]
        progress = self._begin("data keys rewrapped", len(stale))
        for key in stale:
            try:
                wrapped = await keyring.masters.rewrap(key)
            except KeyLost as error:
                log.error("%s", error.message)
                progress.failed += 1
                continue
            # Where somebody else has wrapped it meanwhile, it is wrapped.
            if wrapped == key.wrapped or await keyring.table.replace(key, wrapped):
                progress.done += 1
                what = f"data key {key.name} of tenant {key.tenant} was wrapped by {keyring.masters.names[0]}"
                keyring.note(key.tenant, what, Outcome.ALLOWED, key.name)
            self._tell(progress)
        return self._end(progress)

    async def renew(self) -> Progress:
        """Make a new data key for each tenant that has one.

        Raises:
            Unavailable: as `rewrap`.
        """
        tenants = sorted(
            {key.tenant for key in await self._keyring.table.all_keys() if self._is_meant(key.tenant)}
        )
        progress = self._begin("data keys made", len(tenants))
        for tenant in tenants:
            await self._keyring.rotate(tenant)
            progress.done += 1
            self._tell(progress)
        return self._end(progress)

    async def seal(self, rows: StoredRows, rules: RoomRules) -> Progress:
        """Seal with the tenants' newest keys what is sealed with older ones, and what is plain in rooms that
        `rules` encrypt.

        Raises:
            Unavailable: as `rewrap`; or a tenant has no key to seal with.
        """
        due = await self._due(rows, rules)
        progress = self._begin("rows sealed", sum(count for _, _, _, count in due))
        opener = Rows(self._keyring, rules)
        for number, room, its, _ in due:
            at = START
            while batch := await rows.batch(number, at, its):
                at = batch[-1].position
                changes = [each for each in [await self._changed(opener, room, row) for row in batch] if each]
                await rows.change(number, changes)  # what another has changed meanwhile is done, or gone
                progress.done += len(changes)
                progress.failed += len(batch) - len(changes)
                self._tell(progress)
        self._end(progress)
        if progress.total:
            done = Outcome.FAILED if progress.failed else Outcome.ALLOWED
            self._keyring.note(NO_TENANT, progress.line(self._clock.monotonic()), done)
        if progress.done:
            self._say(await rows.wipe())
        return progress

    async def _due(self, rows: StoredRows, rules: RoomRules) -> list[tuple[int, RoomId, Due, int]]:
        """Return the rooms with rows that are due, and how many these are."""
        found = []
        sealed = {key.tenant for key in await self._keyring.table.all_keys()}
        for number, room in await rows.rooms():
            plain = rules.of(room).encrypted
            if self._is_meant(room.tenant) and (plain or room.tenant in sealed):
                due = Due((await self._active(room.tenant)).id, plain)
                count = await rows.count(number, due)
                if count:
                    found.append((number, room, due, count))
        return found

    async def _changed(self, opener: Rows, room: RoomId, row: Stored) -> Change | None:
        """Return the row as it is to be; None where it cannot be read."""
        position, push, key = row
        try:
            if is_sealed(push):
                push = await opener.open(room, position, push)
            if key is not None and is_sealed(key):
                opened = await opener.open_key(room, position.offset, key_text(key))
                key = None if opened is None else key_column(opened)
        except Unreadable as error:
            log.error("%s", error.message)
            return None
        data_key = await self._active(room.tenant)
        sealed = data_key.seal(push, push_place(room, position))
        return Change(
            row, sealed, None if key is None else data_key.seal(key, key_place(room, position.offset))
        )

    async def _active(self, tenant: TenantId) -> DataKey:
        await self._keyring.ensure(tenant)
        return self._keyring.active(tenant)

    def _is_meant(self, tenant: TenantId) -> bool:
        return self._tenants is None or tenant in self._tenants

    def _begin(self, what: str, total: int) -> Progress:
        self._told_at = self._clock.monotonic()
        return Progress(what, total, self._told_at)

    def _tell(self, progress: Progress) -> None:
        now = self._clock.monotonic()
        if now - self._told_at >= PROGRESS_S:
            self._told_at = now
            self._say(progress.line(now))

    def _end(self, progress: Progress) -> Progress:
        self._say(progress.line(self._clock.monotonic()))
        return progress


async def status(keyring: Keyring, names: Iterable[str]) -> list[str]:
    """Say which keys there are: master keys, and each tenant's data keys with what is wrong with them.

    Raises:
        Unavailable: the table gives no answer.
    """
    lines = [f"{name}: configured{', seals' if not at else ''}" for at, name in enumerate(names)]
    lines += [
        f"{name}: MISSING; {what.keys} data keys need it, {what.tenants} of them their tenants' newest"
        for name, what in (await keyring.missing()).items()
    ]
    keys = await keyring.table.all_keys()
    newest = {key.tenant: key.number for key in keys}
    for key in keys:
        use = "seals" if newest[key.tenant] == key.number else "reads"
        try:
            await keyring.masters.unwrap(key)
            state = "opens"
        except (KeyLost, Unavailable) as error:
            state = error.message
        lines.append(f"tenant {key.tenant}: data key {key.number} ({key.name}) {use}; {state}")
    return lines
