"""What SQLite's search index still has of what was deleted: words in pages that are of no message any more.

FTS5 only notes down what goes; it is in its pages until they are merged, and of what is seldom said that may
be never. So where something went, all pages are merged into new ones within `every_s`, some at a time beside
all else that is written. What is written over or freed is overwritten (`secure_delete`); at the end so is the
log. PostgreSQL has VACUUM for that.
"""

from __future__ import annotations

import logging
from typing import Final

from realtime.core.contracts import Clock
from realtime.core.database import Database, Statement
from realtime.errors import RealtimeError
from realtime.features.chat.search.forms import prune_some

log: Final = logging.getLogger("realtime.chat")

LOOK_EVERY_S: Final = 10.0
PAGES: Final = 64
"""Pages of 4 KB that are merged in one transaction: others commit between."""

_STATE: Final = "SELECT unsaid AS unsaid, merged AS merged, merged_ms AS merged_ms FROM chat_listing"
_CHANGES: Final = Statement("SELECT total_changes() AS changes")
_MERGE: Final = "INSERT INTO chat_found (chat_found, rank) VALUES ('merge', $1)"
_MERGED: Final = "UPDATE chat_listing SET merged = $1, merged_ms = $2"


class Leftovers:
    """Has them merged away."""

    def __init__(self, database: Database, clock: Clock, every_s: float) -> None:
        self._database = database
        self._clock = clock
        self._every_s = every_s
        self._due = 0.0
        self._running = False
        self._closing = False

    def tick(self) -> bool:
        """Whether it is time to `clear` them."""
        now = self._clock.monotonic()
        if now < self._due or self._running or self._database.dialect != "sqlite":
            return False
        self._due = now + min(LOOK_EVERY_S, self._every_s / 4)
        self._running = True
        return True

    async def clear(self) -> None:
        """Merge all pages, where something was taken out since that was done, and that is long enough ago."""
        try:
            ((unsaid, merged, merged_ms),) = await self._database.read(_STATE)
            now_ms = int(self._clock.time() * 1000)
            # Half of the time for the wait, the other for the work.
            if unsaid != merged and now_ms - merged_ms >= self._every_s / 2 * 1000:
                while await prune_some(self._database):
                    pass
                await self._merge_all()
                if not self._closing:
                    await self._database.scrub()
                    await self._database.write(Statement(_MERGED, (unsaid, now_ms)))
        except RealtimeError as error:
            log.warning("the search index still has what was deleted: %s", error)
        finally:
            self._running = False

    async def _merge_all(self) -> None:
        # Below zero: all that there is now becomes one. Then on with that, whatever comes meanwhile.
        pages, changed = -PAGES, True
        while changed and not self._closing:
            before, _, after = await self._database.write(_CHANGES, Statement(_MERGE, (pages,)), _CHANGES)
            # It counts one change for being asked.
            changed = after[0][0] - before[0][0] > 1
            pages = PAGES

    def close(self) -> None:
        """Merge nothing any more: the next server goes on."""
        self._closing = True
