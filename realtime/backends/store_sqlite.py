"""The store of one machine: an SQLite file, written by one thread in groups.

A group is whatever has queued while the last one was committed; nothing waits for more to come. Reads have a
connection and a thread of their own: neither blocks the event loop, nor the other.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from realtime.backends.groups import Bounds, Entry, Episode, Queue
from realtime.backends.sqlite_database import Database, Synchronous, machine_boot_id
from realtime.backends.sqlite_rows import GROUP_ROWS, RowReader, RowWriter
from realtime.backends.sqlite_tables import SqliteTables
from realtime.core.contracts import Clock, Kept, Page, Position, Remembered, Row
from realtime.errors import Unavailable
from realtime.ids import RoomId, TenantId
from realtime.native.histogram import Histogram

log: Final = logging.getLogger("realtime.store")

MB: Final = 1024 * 1024
GROUP_BYTES: Final = 8 * MB
RETRY_S: Final = 1.0
# How old what is not synced may become with "normal". SQLite alone syncs nothing until it copies the log into
# the file, which then holds a commit up: 64 publishers waited 44 to 102 ms at the 99th percentile so, with
# this 26 to 34 ms, at 1.5 times the rate.
SYNC_S: Final = 0.1

P = ParamSpec("P")
T = TypeVar("T")


async def open_sqlite(
    path: Path,
    *,
    synchronous: Synchronous,
    clock: Clock,
    queue_rows: int = 100_000,
    queue_bytes: int = 64 * MB,
    boot_id: Callable[[], str] = machine_boot_id,
    inherited: int | None = None,
) -> SqliteStore:
    """Open the store in the file `path`, made if absent, on the running event loop.

    What is kept outlives kill -9 of the process with either `synchronous`; with "full" also a power cut, for
    an fsync a group, and with "normal" all but the last moments before one. At most `queue_rows` rows and
    `queue_bytes` bytes wait to be written. With the lock of a server that has the file, `inherited` from it,
    it is opened beside that one, which writes until `take_over`.

    Raises:
        StartupError: another server has it, it cannot be written, is not ours or is newer than we are.
    """
    writing = ThreadPoolExecutor(1, thread_name_prefix="realtime-store-writer")
    try:
        loop = asyncio.get_running_loop()
        opened = partial(Database, path, synchronous, clock.time, boot_id, inherited)
        database = await loop.run_in_executor(writing, opened)
    except BaseException:
        writing.shutdown(wait=False)
        raise
    lazy = synchronous == "normal"
    return SqliteStore(database, writing, clock, Bounds(queue_rows, queue_bytes), lazy=lazy)


class SqliteStore:
    """A `Store` on an open file. `open_sqlite` makes it."""

    def __init__(
        self,
        database: Database,
        writing: ThreadPoolExecutor,
        clock: Clock,
        bounds: Bounds,
        *,
        lazy: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._database = database
        self._writer = RowWriter(database.db)
        self._writing = writing
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="realtime-store-reader")
        self._reader = RowReader(database.reading)
        self._bounds = bounds
        self._queue = Queue(bounds)
        self._busy = False  # the writer has been asked to write and has not said that it is done
        self._idle = asyncio.Event()
        self._idle.set()
        self._works = 0  # what waits for the writer beside the queue
        self._closing = False
        self._trouble = Episode(str(database.path), clock)
        self._monotonic = clock.monotonic
        self._commits = Histogram()
        self._reads = Histogram()
        self._lazy = lazy  # commits are not synced; that is for us to do
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="realtime-store-syncer")
        self._sync: asyncio.Task[None] | None = None
        self._sync_trouble = Episode(f"{database.path} (fsync)", clock)
        self.tables = SqliteTables(self, database.path)
        self._rows = 0
        self._groups = 0
        self._failed_rows = 0

    @property
    def epoch(self) -> bytes:
        """As `Store.epoch`."""
        return self._database.epoch

    @property
    def ok(self) -> bool:
        """Whether the last group was committed."""
        return self._trouble.over

    @property
    def lock_fd(self) -> int:
        """What the process needs that is to take over: see `open_sqlite`."""
        return self._database.lock_fd

    def hand_over(self) -> None:
        """Let another process write from here on; what is queued here should be nothing."""
        self._database.ours = False

    def take_over(self) -> None:
        """Write from here on, where another process did."""
        self._database.take_over()

    def append(self, row: Row, kept: Kept) -> None:
        """Queue one publication, as `Store.append`."""
        if self._closing:
            raise Unavailable("the store is closing")
        self._queue.append(row, kept)
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # Not at once: what the loop appends in this turn belongs to the same group.
            self._loop.call_soon(self._write)

    async def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        """As `Store.remembered`, of what is committed."""
        return await self._ask(self._reader.remembered, room, since_ms)

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        """As `Store.read`."""
        return await self._ask(self._reader.read, room, after, limit)

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        """As `Store.page`."""
        rows, more = await self.placed(room, before, after, limit)
        return Page([push for _, push in rows], more)

    async def placed(
        self, room: RoomId, before: int | None, after: int | None, limit: int
    ) -> tuple[list[tuple[Position, bytes]], bool]:
        """As `page`, each push with its position; and whether the history goes on."""
        return await self._ask(self._reader.placed, room, before, after, limit)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Have `work` done with the writing connection, between two groups, and return what it returns.

        Raises:
            Unavailable: it failed; what it had not committed is undone.
        """
        if self._closing:
            raise Unavailable("the store is closing")
        self._works += 1
        try:
            return await self._loop.run_in_executor(self._writing, self._run, work)
        except sqlite3.Error as error:
            log.error("%s: %s", self._database.path, error)
            raise Unavailable("the store failed; try again", retry_after_s=RETRY_S) from error
        finally:
            self._works -= 1

    async def usage(self, tenants: list[TenantId] | None) -> dict[TenantId, int]:
        """As `Store.usage`."""
        found = await self._ask(self._reader.usage)
        return found if tenants is None else {each: found[each] for each in tenants if each in found}

    async def migrate(self, feature: str, folder: Path) -> list[str]:
        """As `Store.migrate`."""
        if self._closing:
            raise Unavailable("the store is closing")
        return await self._loop.run_in_executor(self._writing, self._database.migrate, feature, folder)

    async def close(self) -> None:
        """Commit what is queued, mark the file as whole, close it."""
        if self._closing:
            return
        await self.tables.close()
        self._closing = True
        await self._idle.wait()
        if self._sync is not None:
            self._sync.cancel()
        # A file that a thread still uses must not be closed.
        await self._loop.run_in_executor(None, self._syncing.shutdown)
        await self._loop.run_in_executor(None, self._reading.shutdown)
        try:
            await self._loop.run_in_executor(self._writing, self._database.close)
        except sqlite3.Error as error:
            log.error("%s: closed, but not marked as whole: %s", self._database.path, error)
        self._writing.shutdown()

    def stats(self) -> dict[str, int]:
        """As `Store.stats`."""
        return {
            "store_ok": int(self.ok),
            "store_queued_rows": self._bounds.rows,
            "store_queued_bytes": self._bounds.bytes,
            "store_rows_total": self._rows,
            "store_groups_total": self._groups,
            "store_failed_rows_total": self._failed_rows,
        }

    def timings(self) -> dict[str, Histogram]:
        """Histograms for /metrics, by name."""
        return {"store_commit": self._commits, "store_read": self._reads}

    # -- on the loop's thread -------------------------------------------------------------------------------

    def _write(self) -> None:
        self._writing.submit(self._write_groups)

    def _committed(self, group: list[Entry], took_s: float) -> None:
        self._commits.observe(took_s)
        self._rows += len(group)
        self._groups += 1
        self._trouble.end()
        if self._lazy and self._sync is None:
            self._sync = self._loop.create_task(self._sync_log())
        self._queue.kept(group)

    async def _sync_log(self) -> None:
        """Sync every SYNC_S until nothing has been committed since the last time."""
        synced = -1
        while synced != self._groups:
            await asyncio.sleep(SYNC_S)
            synced = self._groups
            try:
                await self._loop.run_in_executor(self._syncing, self._database.sync)
            except OSError as error:
                self._sync_trouble.begin(error)
            else:
                self._sync_trouble.end()
        self._sync = None

    def _failed(self, group: list[Entry], error: Exception) -> None:
        self._trouble.begin(error)
        refused = Unavailable("the store cannot be written; try again", retry_after_s=RETRY_S)
        refused.__cause__ = error
        self._failed_rows += self._queue.failed(group, refused)

    def _wrote(self) -> None:
        """The writer has stopped: nothing was left, or it failed and what hangs on that has been told."""
        if len(self._queue):
            self._write()
            return
        self._busy = False
        self._idle.set()

    async def _ask(self, ask: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closing:
            raise Unavailable("the store is closing")
        began = self._monotonic()
        try:
            found = await self._loop.run_in_executor(self._reading, lambda: ask(*args, **kwargs))
        except sqlite3.Error as error:
            log.error("%s cannot be read: %s", self._database.path, error)
            raise Unavailable("the store cannot be read; try again", retry_after_s=RETRY_S) from error
        self._reads.observe(self._monotonic() - began)
        return found

    # -- on the writer's thread -----------------------------------------------------------------------------

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        db = self._database.db
        try:
            return work(db)
        finally:
            if db.in_transaction:  # it failed, or forgot: the next group has to find none
                db.execute("ROLLBACK")

    def _write_groups(self) -> None:
        tell = self._loop.call_soon_threadsafe
        while group := self._queue.take(GROUP_ROWS, GROUP_BYTES):
            began = self._monotonic()
            try:
                self._writer.commit(group)
            except Exception as error:  # whatever it is: the owners of these rows wait for an answer
                tell(self._failed, group, error)
                break  # what waits for the same rooms must fail first
            tell(self._committed, group, self._monotonic() - began)
            if self._works:
                break  # under load there is always one more group
        tell(self._wrote)
