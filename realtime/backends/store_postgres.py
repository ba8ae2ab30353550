"""The store in a PostgreSQL database: two writing connections, a few for reading, groups of up to 500 rows.

Publications of a room go over one connection, in order; a group is what has queued while the last one was
committed. No error of the driver leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

from realtime.backends import migrations, postgres_rows
from realtime.backends.groups import Bounds, Episode
from realtime.backends.postgres_claims import Claims
from realtime.backends.postgres_database import (
    ANSWER_TIMEOUT_S,
    DIAL_TIMEOUT_S,
    FAILURES,
    LOCKS,
    Synchronous,
    dial,
    dial_readers,
    epoch_of,
    lock,
    migrate,
    prepare,
    session_settings,
    startup_errors,
)
from realtime.backends.postgres_lane import Lane
from realtime.backends.postgres_rows import Claim, RowWriter, SharedWriter, Used, Wish
from realtime.backends.postgres_tables import PostgresTables
from realtime.core.contracts import Clock, Kept, Page, Position, Remembered, Row
from realtime.errors import Unavailable
from realtime.ids import RoomId, TenantId
from realtime.native.histogram import Histogram
from realtime.settings import mask

log: Final = logging.getLogger("realtime.store")

MB: Final = 1024 * 1024
LANES: Final = 2
READERS: Final = 4
RETRY_S: Final = 1.0
TAKE_WAIT_S: Final = 30.0

T = TypeVar("T")


async def open_postgres(
    url: str,
    *,
    synchronous: Synchronous,
    clock: Clock,
    queue_rows: int = 100_000,
    queue_bytes: int = 64 * MB,
    exclusive: bool = True,
    lock_wait_s: float = 5.0,
    beside: bool = False,
) -> PostgresStore:
    """Open the store in the database `url`, its tables made or brought up to date.

    What is kept outlives kill -9 of any one process, PostgreSQL's included, with either `synchronous`; with
    "full" it has reached the synchronous standbys too. With `exclusive` no other server may use the database;
    one that was killed a moment ago is waited for, `lock_wait_s`. Without, any number may that are not
    exclusive either: the workers of a cluster, which open the epochs of their rooms with `claim`. With
    `beside` it is opened beside the exclusive server whose place is to be taken, which writes until
    `take_over`.

    Raises:
        StartupError: it does not answer, lets us not in, is in use, or is newer than we are.
    """
    store = PostgresStore(
        url,
        session_settings(synchronous),
        clock,
        Bounds(queue_rows, queue_bytes),
        exclusive,
        lock_wait_s,
    )
    if beside:
        store.theirs = asyncio.Event()
    with startup_errors(url):
        await store.start()
    return store


class PostgresStore:
    """A `Store` on a database. `open_postgres` makes it."""

    def __init__(
        self,
        url: str,
        settings: dict[str, str],
        clock: Clock,
        bounds: Bounds,
        exclusive: bool,
        lock_wait_s: float,
    ) -> None:
        self._url = url
        self._name = mask(url)
        self._settings = settings
        self._clock = clock
        self._bounds = bounds
        self._exclusive = exclusive
        self._own_locks = -secrets.randbelow(2**31)  # that only we ask for
        self._lock_wait_s = lock_wait_s
        self.theirs: asyncio.Event | None = None  # until it is set another process writes
        self._lanes: list[Lane] = []
        self._claims = Claims(self._ask)
        self._commits = Histogram()
        self._reads = Histogram()
        self._closing = False
        self.tables = PostgresTables(self)
        self.epoch = b""

    async def start(self) -> None:
        """Connect. Raises FAILURES, ValueError or StartupError."""
        first = await self._session(0)
        try:
            await prepare(first)
            await migrate(first, migrations.CORE, migrations.CORE_FOLDER, int(self._clock.time()))
            self.epoch = await epoch_of(first)
            if await first.fetchval("SHOW fsync") == "off":
                log.warning("%s runs with fsync = off: a power cut may cost what was acked", self._name)
            self._readers = await dial_readers(self._url, self._settings, READERS)
            connections = [first, *[await self._session(number) for number in range(1, LANES)]]
        except BaseException:
            first.terminate()
            raise
        self._lanes = [self._lane(number, connection) for number, connection in enumerate(connections)]

    def hand_over(self) -> None:
        """Let another process write from here on; what is queued here should be nothing."""
        for lane in self._lanes:
            lane.let_go()

    def take_over(self) -> None:
        """Write from here on, where another process did, as soon as it has let go."""
        if self.theirs is not None:
            self.theirs.set()

    @property
    def ok(self) -> bool:
        """Whether all writing connections stand and the last group of each was committed."""
        return all(lane.ok for lane in self._lanes)

    def append(self, row: Row, kept: Kept) -> None:
        """Queue one publication, as `Store.append`; Unavailable also while there is no connection."""
        if self._closing:
            raise Unavailable("the store is closing")
        self._lane_of(row.room).append(row, kept)

    def check(self, room: RoomId) -> None:
        """Raise Unavailable where `append` would refuse a row of the room now."""
        if self._closing:
            raise Unavailable("the store is closing")
        self._lane_of(room).check()
        self._bounds.check()

    async def claim(self, wish: Wish) -> Claim:
        """Open an epoch in a room; return its number, and the offset that it goes on after.

        What others still have in flight of earlier epochs is kept up to what Redis knows (`wish.known`), and
        refused above it (`Superseded`). Workers that ask for the same one at once are given the same.

        Raises:
            Unavailable: nobody knows whether it is opened; a repeat is given the same.
        """
        return await self._claims.claim(wish)

    async def keys_above(self, room: RoomId, after: int, since_ms: int, limit: int) -> list[Used]:
        """Return at most `limit` keys used for publications above offset `after`, from `since_ms` on; newest
        first.
        """
        return await self._ask(postgres_rows.keys_above, room, after, since_ms, limit)

    async def has(self, room: RoomId, position: Position) -> bool:
        """Return whether the publication at `position` is kept."""
        return await self._ask(postgres_rows.has, room, position)

    async def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        """As `Store.remembered`, of what is committed; Unavailable while that is not settled."""
        lane = self._lane_of(room)
        lane.check()
        session = lane.sessions
        found = await self._ask(postgres_rows.remembered, room, since_ms)
        lane.check()
        if lane.sessions != session:
            raise Unavailable("the store was away; try again", retry_after_s=RETRY_S)
        return found

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        """As `Store.read`."""
        return await self._ask(postgres_rows.read, room, after, limit)

    async def read_back(self, room: RoomId, before: int, limit: int) -> list[tuple[Position, bytes]]:
        """Return the last `limit` pushes below offset `before`, by offset."""
        return await self._ask(postgres_rows.read_back, room, before, limit)

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """As `Store.page`."""
        rows, more = await self.placed(room, before, after, limit)
        return Page([push for _, push in rows], more)

    async def placed(
        self, room: RoomId, before: int | None, after: int | None, limit: int
    ) -> tuple[list[tuple[Position, bytes]], bool]:
        """As `page`, each push with its position; and whether the history goes on."""
        return await self._ask(postgres_rows.placed, room, before, after, limit)

    async def run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Have `work` done with a connection that writes nothing else, and return what it returns.

        Raises:
            Unavailable: it failed.
        """
        return await self._ask(work)

    async def usage(self, tenants: list[TenantId] | None) -> dict[TenantId, int]:
        """As `Store.usage`."""
        return await self._ask(postgres_rows.usage, tenants)

    async def migrate(self, feature: str, folder: Path) -> list[str]:
        """As `Store.migrate`."""
        # Not from the pool: what its connections are asked has to be answered in ANSWER_TIMEOUT_S.
        with startup_errors(self._url):
            connection = await dial(self._url, self._settings)
            try:
                return await migrate(connection, feature, folder, int(self._clock.time()))
            finally:
                connection.terminate()

    async def close(self) -> None:
        """Commit what is queued, then close the connections."""
        if self._closing:
            return
        self._closing = True
        await asyncio.gather(*(lane.close() for lane in self._lanes))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await self._readers.close()
        except FAILURES:
            self._readers.terminate()

    def stats(self) -> dict[str, int]:
        """As `Store.stats`."""
        return {
            "store_ok": int(self.ok),
            "store_queued_rows": self._bounds.rows,
            "store_queued_bytes": self._bounds.bytes,
            "store_rows_total": sum(lane.rows for lane in self._lanes),
            "store_groups_total": sum(lane.groups for lane in self._lanes),
            "store_refused_rows_total": sum(lane.refused_rows for lane in self._lanes),
            "store_failed_rows_total": sum(lane.failed_rows for lane in self._lanes),
            "store_reconnects_total": sum(lane.sessions - 1 for lane in self._lanes),
        }

    def timings(self) -> dict[str, Histogram]:
        """Histograms for /metrics, by name."""
        return {"store_commit": self._commits, "store_read": self._reads}

    def _lane_of(self, room: RoomId) -> Lane:
        # Not hash(): it differs between processes, and a room's lane is what one would look for in a log.
        return self._lanes[crc32(f"{room.tenant}\0{room.room}".encode()) % LANES]

    def _lane(self, number: int, connection: Any) -> Lane:
        async def reconnect() -> Any:
            connection = await self._session(number)
            try:
                self.epoch = await epoch_of(connection)
            except BaseException:
                connection.terminate()
                raise
            return connection

        trouble = Episode(f"{self._name} (connection {number + 1})", self._clock)
        writer = RowWriter() if self._exclusive else SharedWriter()
        take = None if self.theirs is None else partial(self._take, self.theirs, number)
        return Lane(connection, reconnect, self._bounds, trouble, writer, self._commits, take)

    async def _take(self, theirs: asyncio.Event, number: int, connection: Any) -> None:
        """Take the lock of lane `number` when it is ours; the other process may be slow to let go of it."""
        await theirs.wait()
        await lock(connection, LOCKS, number, TAKE_WAIT_S)

    async def _session(self, number: int) -> Any:
        """Return a connection that holds the lock of lane `number`: our lost session of before has ended."""
        connection = await dial(self._url, self._settings)
        if self.theirs is not None and not self.theirs.is_set():
            return connection  # the lane takes it, when it may
        try:
            if not self._exclusive:
                await lock(connection, self._own_locks, number, self._lock_wait_s)
            await lock(connection, LOCKS, number, self._lock_wait_s, shared=not self._exclusive)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _ask(self, ask: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        if self._closing:
            raise Unavailable("the store is closing")
        began = self._clock.monotonic()
        try:
            async with self._readers.acquire(timeout=DIAL_TIMEOUT_S) as connection:
                found = await ask(connection, *arguments)
        except FAILURES as error:
            log.warning("%s cannot be read: %s", self._name, error or type(error).__name__)
            raise Unavailable("the store cannot be read; try again", retry_after_s=RETRY_S) from error
        self._reads.observe(self._clock.monotonic() - began)
        return found
