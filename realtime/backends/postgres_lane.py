"""One writing connection of a PostgreSQL store, with the rows that wait for it.

A room is always on the same lane, so its groups commit in order. A lane writes only while its session holds
the lane's advisory lock. When the connection is lost nobody knows what became of the group under way; the
lock is had again only once the lost session has ended, and from then on what is to be read is settled.
A process that takes over from another one waits for the lock with its first session: rows wait meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from realtime.backends.groups import Bounds, Entry, Episode, Queue
from realtime.backends.postgres_database import ANSWER_TIMEOUT_S, FAILURES
from realtime.backends.postgres_rows import RowWriter
from realtime.core.contracts import Kept, Row
from realtime.errors import Unavailable
from realtime.native.histogram import Histogram

GROUP_ROWS: Final = 500
GROUP_BYTES: Final = 8 * 1024 * 1024
BACK_OFF_MIN_S: Final = 0.1
BACK_OFF_MAX_S: Final = 5.0
RETRY_S: Final = 1.0

Connect = Callable[[], Awaitable[Any]]
"""Dials, takes the lane's lock and sees that the database is in order."""
Take = Callable[[Any], Awaitable[None]]
"""Takes the lane's lock for a session, as soon as another process has let go of it. May raise anything."""


class Lane:
    """A queue, and a task that commits what is in it."""

    def __init__(
        self,
        connection: Any,
        connect: Connect,
        bounds: Bounds,
        trouble: Episode,
        writer: RowWriter,
        commits: Histogram,
        take: Take | None = None,
    ) -> None:
        self._take = take  # None: the first session has the lock
        self._commits = commits  # how long they took, in all lanes of the store
        self._connect = connect
        self._connection: Any | None = None
        self._queue = Queue(bounds)
        self._writer = writer
        self._trouble = trouble
        self._news = asyncio.Event()  # something to write, or the connection is lost
        self._idle = asyncio.Event()
        self._idle.set()
        self._monotonic = asyncio.get_running_loop().time
        self._back_off_s = BACK_OFF_MIN_S
        self.rows = 0
        self.groups = 0
        self.failed_rows = 0
        self.refused_rows = 0
        self.sessions = 0
        self._use(connection)
        self._task = asyncio.create_task(self._run())

    @property
    def up(self) -> bool:
        """Whether rows are taken."""
        return self._connection is not None

    @property
    def ok(self) -> bool:
        """Whether rows are taken and the last group was committed."""
        return self.up and self._trouble.over

    def append(self, row: Row, kept: Kept) -> None:
        """Queue one row. Raises Unavailable: the bounds are reached, or there is no connection."""
        self.check()
        self._queue.append(row, kept)
        self._idle.clear()
        self._news.set()

    def check(self) -> None:
        """Raise Unavailable while there is no connection."""
        if self._connection is None:
            raise Unavailable("the store does not answer; try again", retry_after_s=self._back_off_s)

    def let_go(self) -> None:
        """Write nothing any more: another process does. What it had to write is written."""
        self._task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()  # with its session the lock is free
        self._idle.set()

    async def close(self) -> None:
        """Commit what is queued, then end the connection."""
        await self._idle.wait()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=ANSWER_TIMEOUT_S)
            except FAILURES:
                connection.terminate()

    async def _run(self) -> None:
        if self._take is not None:
            assert self._connection is not None
            try:
                await self._take(self._connection)
            except Exception as error:  # as a session that is lost: the next one waits for the lock, too
                self._trouble.begin(error)
                self._connection.terminate()
        while True:
            assert self._connection is not None
            await self._write(self._connection)
            self._lose("the connection is lost")
            await self._reconnect()

    def _use(self, connection: Any) -> None:
        self._connection = connection
        self._back_off_s = BACK_OFF_MIN_S
        self.sessions += 1
        # An idle lane must hear of it too: the store says that it is not ready, and its lock may be gone.
        connection.add_termination_listener(lambda _: self._news.set())
        if connection.is_closed():
            self._news.set()

    async def _write(self, connection: Any) -> None:
        """Commit groups until the connection is lost."""
        while not connection.is_closed():
            # What has come while the last group was committed; no wait for more. Up to 5 ms of it took one
            # publisher from 0.5 to 8 ms and 64 from 12k rows/s to 7k, and gained nothing with 4096
            # (bench/store.py).
            group = self._queue.take(GROUP_ROWS, GROUP_BYTES)
            if group:
                await self._commit(connection, group)
                continue
            self._idle.set()
            self._news.clear()
            await self._news.wait()

    async def _commit(self, connection: Any, group: list[Entry]) -> None:
        began = self._monotonic()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                refused = await self._writer.commit(connection, group)
        except asyncpg.PostgresError as error:
            self._failed(group, error)
        except Exception as error:  # whatever it is: the owners of these rows wait for an answer
            connection.terminate()  # it cannot be told what the session will still do
            self._failed(group, error)
        else:
            self.rows += len(group) - len(refused)
            self.refused_rows += len(refused)
            self.groups += 1
            self._commits.observe(self._monotonic() - began)
            self._trouble.end()
            self._queue.kept(group, refused)

    def _failed(self, group: list[Entry], error: Exception) -> None:
        self._trouble.begin(error)
        refused = Unavailable("the store cannot be written; try again", retry_after_s=RETRY_S)
        refused.__cause__ = error
        self.failed_rows += self._queue.failed(group, refused)

    def _lose(self, why: object) -> None:
        """Take no more rows, and fail what waits."""
        if self._connection is None:
            return
        self._connection = None
        self._trouble.begin(why)
        self.failed_rows += self._queue.fail_all(
            Unavailable("the store does not answer; try again", retry_after_s=RETRY_S)
        )
        self._idle.set()

    async def _reconnect(self) -> None:
        while True:
            await asyncio.sleep(self._back_off_s * random.uniform(0.5, 1.0))
            try:
                connection = await self._connect()
            except Exception as error:
                self._trouble.begin(error)
                self._back_off_s = min(2 * self._back_off_s, BACK_OFF_MAX_S)
            else:
                self._use(connection)
                self._trouble.end()
                return
