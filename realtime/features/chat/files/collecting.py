"""Collecting: what no message refers to is removed, a little at a time, by one worker of all.

Whoever refers to a file writes its row in `chat_blobs` first and looks for it afterwards; whoever removes one
marks that row as `going` first. So a file is never removed under somebody who has just begun to refer to it,
and two workers that both take themselves for the one do no harm.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from realtime.core.blobs import Blob, Blobs
from realtime.core.database import Statement
from realtime.errors import Unavailable
from realtime.features.chat.files.keys import FILES, PROBE, UPLOADS, file_key_in, parse_file_key
from realtime.ids import DEFAULT_TENANT, RoomId, RoomName, TenantId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

log: Final = logging.getLogger("realtime.chat")

EVERY_S: Final = 60.0
BUSY_S: Final = 1.0  # while there is more than a round takes
AT_ONCE: Final = 200
LISTED_AT_ONCE: Final = 1000
# How long after a row was last touched its file may be removed: longer than any transaction takes.
GRACE_MS: Final = 10 * 60 * 1000
# A file that lies about without a row may be of an upload that is finished just now; so much beyond its time.
LISTED_GRACE_MS: Final = 60 * 60 * 1000
# Its owner collects: one worker, and another one when that is gone.
MARK: Final = RoomId(DEFAULT_TENANT, RoomName("chat:~files"))

# What is in a message that is to be sent later waits for that.
_UNSENT: Final = (
    "UPDATE chat_files SET removed_ms = $1 WHERE id IN (SELECT f.id FROM chat_files f "
    "WHERE f.message IS NULL "
    "AND f.removed_ms = 0 AND f.expires_ms < $1 AND f.used_ms < $2 AND NOT EXISTS (SELECT 1 FROM "
    "chat_scheduled s WHERE s.tenant = f.tenant AND s.user_id = f.user_id AND s.room = f.room "
    "AND s.draft LIKE '%\"' || f.id || '\"%') ORDER BY f.expires_ms LIMIT $3) RETURNING id"
)
_REMOVED: Final = (
    "SELECT id AS id, tenant AS tenant, room AS room FROM chat_files "
    "WHERE removed_ms > 0 AND id > $1 ORDER BY id LIMIT $2"
)
_DROP: Final = "DELETE FROM chat_files WHERE id = $1 AND removed_ms > 0 RETURNING id"
_UNUSED: Final = (
    "NOT EXISTS (SELECT 1 FROM chat_files f WHERE f.folder = b.folder AND f.sha256 = b.sha256) "
    "AND NOT EXISTS (SELECT 1 FROM chat_files f WHERE f.folder = b.folder AND f.thumbnail = b.sha256)"
)
_IDLE: Final = (
    "SELECT b.folder AS folder, b.sha256 AS sha256 FROM chat_blobs b "
    f"WHERE b.touched_ms < $1 AND ({_UNUSED} OR b.going = 1) ORDER BY b.touched_ms LIMIT $2"
)
_GOING: Final = (
    "UPDATE chat_blobs AS b SET going = 1 WHERE b.folder = $1 AND b.sha256 = $2 AND b.touched_ms < $3 "
    f"AND {_UNUSED} RETURNING sha256"
)
_STRAY: Final = (
    "INSERT INTO chat_blobs (folder, sha256, touched_ms, going) VALUES ($1, $2, $3, 1) "
    "ON CONFLICT (folder, sha256) DO NOTHING RETURNING sha256"
)
_GONE: Final = "DELETE FROM chat_blobs WHERE folder = $1 AND sha256 = $2 AND going = 1"


class Collector:
    """Works on one worker at a time; `tick` begins a round now and then."""

    def __init__(self, chat: Chat, blobs: Blobs) -> None:
        self._chat = chat
        self._blobs = blobs
        self._due = chat.services.clock.monotonic() + EVERY_S
        self._running = False
        self._removed_after = 0
        self._listed = {UPLOADS: "", FILES: ""}
        self.rows = 0
        self.files = 0
        self.uploads = 0

    def tick(self) -> None:
        """See whether a round is due, and whether it is this worker's."""
        now = self._chat.services.clock.monotonic()
        if now < self._due or self._running:
            return
        self._due = now + EVERY_S
        self._running = True
        self._chat.services.spawn(self._round(self._chat.core.cluster.fence(MARK) is not None))

    def stats(self) -> dict[str, int]:
        """What was collected here."""
        return {
            "chat_files_collected_total": self.rows,
            "chat_blobs_collected_total": self.files,
            "chat_upload_pieces_collected_total": self.uploads,
        }

    async def _round(self, ours: bool) -> None:
        try:
            await self._blobs.stat(PROBE)  # every worker sees whether files are within reach
            if ours:
                await self.collect()
        except Unavailable as error:
            log.warning("attachments are not collected: %s", error.message)
        finally:
            self._running = False

    async def collect(self) -> None:
        """Do one round of it.

        Raises:
            Unavailable: the store, or what keeps the files, gives no answer; the next round goes on.
        """
        now_ms = self._chat.rooms.now_ms
        full = [
            await self._give_up_unsent(now_ms),
            await self._drop_removed(),
            await self._delete_idle(now_ms),
        ]
        if AT_ONCE in full:
            self._due = self._chat.services.clock.monotonic() + BUSY_S
        await self._look_over(UPLOADS, now_ms)
        await self._look_over(FILES, now_ms)
        for prefix in (UPLOADS, FILES):
            await self._blobs.tidy(prefix, now_ms - self._upload_ms)

    @property
    def _upload_ms(self) -> int:
        return self._chat.services.settings.chat_upload_s * 1000

    async def _give_up_unsent(self, now_ms: int) -> int:
        """What was begun, and is in no message when its time is over, counts as removed. Return how many."""
        unsent = Statement(_UNSENT, (now_ms, now_ms - self._upload_ms, AT_ONCE))
        (given_up,) = await self._chat.services.database.write(unsent)
        return len(given_up)

    async def _drop_removed(self) -> int:
        """Forget what was removed, and is not held. Return how many were looked at."""
        database = self._chat.services.database
        found = await database.read(_REMOVED, self._removed_after, AT_ONCE)
        self._removed_after = found[-1][0] if len(found) == AT_ONCE else 0
        held: dict[RoomId, bool] = {}
        for id, tenant, name in found:
            room = RoomId(TenantId(tenant), RoomName(name))
            if room not in held:
                held[room] = await self._chat.order.held(room)
            if not held[room]:
                (dropped,) = await database.write(Statement(_DROP, (id,)))
                self.rows += len(dropped)
        return len(found)

    async def _delete_idle(self, now_ms: int) -> int:
        """Delete the files that no row refers to any more. Return how many were looked at."""
        database = self._chat.services.database
        found = await database.read(_IDLE, now_ms - GRACE_MS, AT_ONCE)
        for folder, sha256 in found:
            (going,) = await database.write(Statement(_GOING, (folder, sha256, now_ms - GRACE_MS)))
            if going:
                await self._delete(folder, sha256)
        return len(found)

    async def _delete(self, folder: str, sha256: str) -> None:
        await self._blobs.delete(file_key_in(folder, sha256))
        await self._chat.services.database.write(Statement(_GONE, (folder, sha256)))
        self.files += 1

    async def _look_over(self, prefix: str, now_ms: int) -> None:
        """Go on along what lies there, and remove what is old and nobody's: unfinished uploads whose URL has
        expired, and files that were never used.
        """
        before_ms = now_ms - self._upload_ms - LISTED_GRACE_MS
        seen: list[Blob] = []
        async with aclosing(self._blobs.list(prefix, self._listed[prefix])) as listed:  # type: ignore[type-var]
            async for blob in listed:
                seen.append(blob)
                if len(seen) == LISTED_AT_ONCE:
                    break
        self._listed[prefix] = seen[-1].key if len(seen) == LISTED_AT_ONCE else ""
        for blob in seen:
            if blob.at_ms < before_ms:
                await (self._drop_piece(blob) if prefix == UPLOADS else self._drop_stray(blob, now_ms))

    async def _drop_piece(self, blob: Blob) -> None:
        await self._blobs.delete(blob.key)
        self.uploads += 1

    async def _drop_stray(self, blob: Blob, now_ms: int) -> None:
        folder, sha256 = parse_file_key(blob.key)
        (ours,) = await self._chat.services.database.write(Statement(_STRAY, (folder, sha256, now_ms)))
        if ours:
            await self._delete(folder, sha256)
