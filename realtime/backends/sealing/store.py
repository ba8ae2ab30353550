"""Stores whose rows of encrypted rooms are sealed on the way in and opened on the way out.

A row's push and its idempotency key are sealed, bound to tenant, room, epoch and offset; who sent it, when,
and where it is stand there in plain, for a store has to find rows by them. What was kept before its room was
encrypted comes back as it is, and what was sealed is opened whether or not the room still is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Protocol

from realtime.backends.groups import key_column, key_text
from realtime.backends.kept_order import Placed
from realtime.backends.postgres_rows import Claim, Used, Wish
from realtime.backends.sealing.box import Tampered, is_sealed, key_id, place
from realtime.backends.sealing.keyring import Keyring
from realtime.core.audit import Outcome
from realtime.core.contracts import Kept, Page, Position, Remembered, Row, Store
from realtime.core.room_rules import RoomRules
from realtime.errors import Unavailable, Unreadable
from realtime.ids import RoomId, TenantId

log: Final = logging.getLogger("realtime.sealing")


class PlacedStore(Store, Protocol):
    """A store that says where each row of a page is."""

    async def placed(
        self, room: RoomId, before: int | None, after: int | None, limit: int
    ) -> tuple[list[Placed], bool]:
        """As `page`, each push with its position; and whether the history goes on."""
        ...


class SharedStore(Store, Protocol):
    """What the workers of a cluster share; see `PostgresStore`."""

    def check(self, room: RoomId) -> None: ...

    async def claim(self, wish: Wish) -> Claim: ...

    async def keys_above(self, room: RoomId, after: int, since_ms: int, limit: int) -> list[Used]: ...

    async def has(self, room: RoomId, position: Position) -> bool: ...

    async def read_back(self, room: RoomId, before: int, limit: int) -> list[Placed]: ...


class PlacedSharedStore(PlacedStore, SharedStore, Protocol):
    """Both: `PostgresStore`."""


class Rows:
    """Seals and opens rows. What it opens it fetches the keys for."""

    def __init__(self, keyring: Keyring, rules: RoomRules) -> None:
        self.keyring = keyring
        self._rules = rules

    def are_sealed(self, room: RoomId) -> bool:
        """Whether rows of `room` are to be sealed from now on."""
        return self._rules.of(room).encrypted

    def seal(self, row: Row) -> Row:
        """Return the row as the store gets it. Raises Unavailable: its tenant's key is not at hand."""
        data_key = self.keyring.active(row.room.tenant)
        push = data_key.seal(row.push, push_place(row.room, row.position))
        key = None
        if row.key is not None:
            sealed = data_key.seal(key_column(row.key), key_place(row.room, row.position.offset))
            key = key_text(sealed)
        return Row(row.room, row.position, push, row.sender, key, row.at_ms)

    async def open(self, room: RoomId, position: Position, push: bytes) -> bytes:
        """Return the push of a row.

        Raises:
            Unreadable: its key is lost, or it was tampered with; the error says which and where.
            Unavailable: nobody knows; the key cannot be fetched now.
        """
        return await self._open(room, push, push_place(room, position), position.offset)

    async def open_key(self, room: RoomId, offset: int, key: str) -> str | None:
        """Return a row's idempotency key; None where that cannot be read: a repeat of it is taken anew."""
        column = key_column(key)
        if not is_sealed(column):
            return key
        try:
            return key_text(await self._open(room, column, key_place(room, offset), offset))
        except Unreadable:
            return None  # `_open` has told

    async def _open(self, room: RoomId, box: bytes, where: bytes, offset: int) -> bytes:
        try:
            key = await self.keyring.key(room.tenant, key_id(box))
        except Unreadable as error:
            raise Unreadable(
                f"{room.tenant}/{room.room}: offset {offset} cannot be read: {error.message}"
            ) from error
        try:
            return key.open(box, where)
        except Tampered:
            self.keyring.unreadable += 1
            where_it_is = f"{room.tenant}/{room.room}: offset {offset}"
            what = f"{where_it_is} was tampered with: data key {key.name} has not sealed it so"
            self.keyring.note(room.tenant, what, Outcome.FAILED, room.room)
            raise Unreadable(what) from None


def push_place(room: RoomId, position: Position) -> bytes:
    """What a row's push is bound to: the room, eight bytes of the offset, and the epoch."""
    return _room_place("row", room) + position.offset.to_bytes(8, "little") + position.epoch


def key_place(room: RoomId, offset: int) -> bytes:
    """What a row's idempotency key is bound to: the room, and eight bytes of the offset."""
    return _room_place("key", room) + offset.to_bytes(8, "little")


@lru_cache(maxsize=10_000)  # made anew for each row it took 3.4 us, more than to seal 300 bytes
def _room_place(what: str, room: RoomId) -> bytes:
    return place(what, room.tenant.encode(), room.room.encode())


class SealedStore:
    """A `Store` around another. Rows of rooms that are not encrypted pass as they are."""

    def __init__(self, inner: PlacedStore, rows: Rows) -> None:
        self.inner = inner
        self.rows = rows
        if not rows.keyring.masters:
            self.append = inner.append  # type: ignore[method-assign]  # nothing is sealed: no detour

    @property
    def epoch(self) -> bytes:
        """As `Store.epoch`."""
        return self.inner.epoch

    @property
    def ok(self) -> bool:
        """As `Store.ok`."""
        return self.inner.ok

    def append(self, row: Row, kept: Kept) -> None:
        """As `Store.append`; Unavailable also where the tenant's data key is not at hand."""
        if not self.rows.are_sealed(row.room):
            self.inner.append(row, kept)
        else:
            self.inner.append(self.rows.seal(row), partial(_tell, row, kept))

    async def usage(self, tenants: list[TenantId] | None) -> dict[TenantId, int]:
        """As `Store.usage`: sealed rows count with what sealing adds to them."""
        return await self.inner.usage(tenants)

    async def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        """As `Store.remembered`. Who asks will append next, so the key to seal with is fetched too.

        Raises:
            Unavailable: keys of repeats are sealed with a data key that cannot be had now. One that is lost
                stops nobody: repeats of what it has sealed are taken anew.
        """
        found = await self.inner.remembered(room, since_ms)
        if self.rows.are_sealed(room):
            await self._prepare(room)
        keys = []
        for sender, sealed, offset, at_ms in found.keys:
            key = await self.rows.open_key(room, offset, sealed)
            if key is not None:
                keys.append((sender, key, offset, at_ms))
        return Remembered(found.offset, keys)

    async def read(self, room: RoomId, after: int, limit: int) -> list[Placed]:
        """As `Store.read`. Raises Unreadable too."""
        return await self._opened(room, await self.inner.read(room, after, limit))

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """As `Store.page`. Raises Unreadable too."""
        rows, more = await self.inner.placed(room, before, after, limit)
        return Page([push for _, push in await self._opened(room, rows)], more)

    async def migrate(self, feature: str, folder: Path) -> list[str]:
        """As `Store.migrate`."""
        return await self.inner.migrate(feature, folder)

    async def close(self) -> None:
        """As `Store.close`."""
        await self.inner.close()

    def stats(self) -> dict[str, int]:
        """As `Store.stats`."""
        return self.inner.stats()

    async def _prepare(self, room: RoomId) -> None:
        try:
            await self.rows.keyring.ensure(room.tenant)
        except Unavailable as error:
            # The room can be read, and joined; who publishes is told.
            log.debug("%s: %s", room.room, error.message)

    async def _opened(self, room: RoomId, rows: Sequence[Placed]) -> list[Placed]:
        return [
            (position, await self.rows.open(room, position, push) if is_sealed(push) else push)
            for position, push in rows
        ]


class SealedSharedStore(SealedStore):
    """A `SealedStore` around the store that the workers of a cluster share."""

    inner: PlacedSharedStore

    def __init__(self, inner: PlacedSharedStore, rows: Rows) -> None:
        super().__init__(inner, rows)

    def check(self, room: RoomId) -> None:
        """As `PostgresStore.check`. The key is seen to by who orders, before there is a row."""
        self.inner.check(room)

    async def claim(self, wish: Wish) -> Claim:
        """As `PostgresStore.claim`."""
        return await self.inner.claim(wish)

    async def keys_above(self, room: RoomId, after: int, since_ms: int, limit: int) -> list[Used]:
        """As `PostgresStore.keys_above`."""
        found = []
        for used in await self.inner.keys_above(room, after, since_ms, limit):
            key = await self.rows.open_key(room, used.position.offset, used.key)
            if key is not None:
                found.append(used._replace(key=key))
        return found

    async def has(self, room: RoomId, position: Position) -> bool:
        """As `PostgresStore.has`."""
        return await self.inner.has(room, position)

    async def read_back(self, room: RoomId, before: int, limit: int) -> list[Placed]:
        """As `PostgresStore.read_back`. Raises Unreadable too."""
        return await self._opened(room, await self.inner.read_back(room, before, limit))


def _tell(row: Row, kept: Kept, sealed: Row, error: Unavailable | None) -> None:
    kept(row, error)
