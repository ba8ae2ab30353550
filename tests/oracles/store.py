"""A store in plain dicts: what a `Store` promises, with commits and failures when a test says so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from realtime.core.contracts import Kept, Page, Position, Remembered, Row
from realtime.errors import Unavailable
from realtime.ids import RoomId


class FakeStore:
    """Keeps rows in memory, which outlives whoever uses them as a disk would.

    With `commits_itself`, a group is committed as soon as the event loop turns, else by `commit`. Questions
    (`remembered`, `read`, `page`) are answered after one turn; while `answers` is an error they fail with it,
    and while it is an Event they wait for it. `takes` is an error for what `append` refuses.
    """

    def __init__(self, *, commits_itself: bool = False, epoch: bytes = b"epoch1") -> None:
        self.epoch = epoch
        self.commits_itself = commits_itself
        self.rows: dict[RoomId, dict[int, Row]] = {}
        self.queue: deque[tuple[Row, Kept]] = deque()
        self.answers: Unavailable | asyncio.Event | None = None
        self.takes: Unavailable | None = None
        self.asked: list[str] = []
        self.read_rows = 0  # by `read` and `page`
        self.closed = False

    @property
    def ok(self) -> bool:
        return self.takes is None and not isinstance(self.answers, Unavailable)

    def append(self, row: Row, kept: Kept) -> None:
        if self.takes is not None:
            raise self.takes
        if self.commits_itself and not self.queue:
            asyncio.get_running_loop().call_soon(self.commit)
        self.queue.append((row, kept))

    def commit(self, rows: int | None = None) -> None:
        """Commit the oldest `rows` that are queued, or all, and tell."""
        for row, kept in self._taken(rows):
            self.write(row)
            kept(row, None)

    def fail(self, *, written: int = 0, told: int | None = None) -> None:
        """Fail all that is queued, of which the first `written` are kept all the same; tell of `told`."""
        group = list(self._taken(None))
        for row, _ in group[:written]:
            self.write(row)
        for row, kept in group[:told]:
            kept(row, Unavailable("the disk is full", retry_after_s=3.0))
        self.queue.extendleft(reversed(group[told:] if told is not None else []))

    def write(self, row: Row) -> None:
        """Keep a row; one that is there is not changed."""
        self.rows.setdefault(row.room, {}).setdefault(row.position.offset, row)

    def write_oldest(self, rows: int) -> None:
        """Keep the oldest `rows` that are queued, and tell nobody: what a crash may leave behind."""
        for row, _ in islice(self.queue, rows):
            self.write(row)

    async def remembered(self, room: RoomId, since_ms: int) -> Remembered:
        await self._ask("remembered")
        rows = [row for _, row in sorted(self.rows.get(room, {}).items())]
        keys = [
            (row.sender, row.key, row.position.offset, row.at_ms)
            for row in rows
            if row.key is not None and row.at_ms >= since_ms
        ]
        return Remembered(rows[-1].position.offset if rows else 0, keys)

    async def read(self, room: RoomId, after: int, limit: int) -> list[tuple[Position, bytes]]:
        await self._ask("read")
        rows = [row for offset, row in sorted(self.rows.get(room, {}).items()) if offset > after]
        self.read_rows += len(rows[:limit])
        return [(row.position, row.push) for row in rows[:limit]]

    async def page(self, room: RoomId, before: int | None, after: int | None, limit: int) -> Page:
        await self._ask("page")
        offsets = sorted(self.rows.get(room, {}))
        if after is not None:
            within = [offset for offset in offsets if offset > after]
            chosen, more = within[:limit], len(within) > limit
        else:
            within = [offset for offset in offsets if before is None or offset < before]
            chosen, more = within[-limit:], len(within) > limit
        self.read_rows += len(chosen)
        return Page([self.rows[room][offset].push for offset in chosen], more)

    async def migrate(self, feature: str, folder: Path) -> list[str]:
        return []

    async def close(self) -> None:
        self.commit()
        self.closed = True

    def stats(self) -> dict[str, int]:
        return {"store_queued_rows": len(self.queue)}

    def _taken(self, rows: int | None) -> Iterator[tuple[Row, Kept]]:
        """Take what is queued now: what is appended while it is told of belongs to the next group."""
        for _ in range(len(self.queue) if rows is None else rows):
            yield self.queue.popleft()

    async def _ask(self, question: str) -> None:
        self.asked.append(question)
        answers = self.answers
        await asyncio.sleep(0)
        if isinstance(answers, asyncio.Event):
            await answers.wait()
        elif answers is not None:
            raise answers
