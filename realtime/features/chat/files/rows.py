"""Attachments as their table has them, and what is asked and written there. SQL of both dialects."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from realtime.core.database import Cells, Statement
from realtime.features.chat.files.about import About
from realtime.features.chat.ids import text_of
from realtime.ids import RoomId, RoomName, TenantId, UserId

_COLUMNS: Final = (
    "f.id AS id, f.tenant AS tenant, f.room AS room, f.user_id AS user_id, f.name AS name, f.bytes AS bytes, "
    "f.wanted AS wanted, f.about AS about, f.claim_key AS claim_key, f.expires_ms AS expires_ms, "
    "f.used_ms AS used_ms, f.message AS message, f.removed_ms AS removed_ms"
)
BY_ID: Final = f"SELECT {_COLUMNS} FROM chat_files f WHERE f.tenant = $1 AND f.id = $2"

# $3 is now: what has expired is not shown, though it may still be there.
SHOWN: Final = (
    f"SELECT {_COLUMNS} FROM chat_files f JOIN rooms r ON r.tenant = f.tenant AND r.name = f.room "
    "JOIN chat_messages m ON m.room = r.id AND m.id = f.message "
    "WHERE f.tenant = $1 AND f.id = $2 AND f.removed_ms = 0 AND m.deleted_ms = 0 AND m.hidden_ms = 0 "
    "AND coalesce(m.expires_ms, $3) >= $3"
)
OF_USER: Final = (
    "SELECT coalesce((SELECT bytes FROM chat_files_usage WHERE tenant = $1 AND user_id = $2), 0) AS own, "
    "coalesce((SELECT bytes FROM chat_files_usage WHERE tenant = $1 AND user_id = ''), 0) AS everyone, "
    "(SELECT count(*) FROM chat_files WHERE tenant = $1 AND user_id = $2 AND used_ms = 0) AS awaited"
)
AWAITED: Final = (
    "SELECT id AS id FROM chat_files WHERE tenant = $1 AND user_id = $2 AND used_ms = 0 LIMIT 1000"
)
FORGET: Final = "DELETE FROM chat_files WHERE id = $1 AND used_ms = 0 RETURNING id"
_AGAIN: Final = (
    "INSERT INTO chat_files_usage (tenant, user_id, bytes) VALUES ($1, $2, 0) "
    "ON CONFLICT (tenant, user_id) DO UPDATE SET bytes = chat_files_usage.bytes"
)
_BEGIN: Final = (
    "INSERT INTO chat_files (id, tenant, folder, room, user_id, name, bytes, wanted, created_ms, expires_ms) "
    "SELECT CAST($1 AS bigint), CAST($2 AS text), CAST($3 AS text), CAST($4 AS text), CAST($5 AS text), "
    "CAST($6 AS text), CAST($7 AS bigint), CAST($8 AS text), CAST($9 AS bigint), CAST($10 AS bigint) "
    "WHERE (CAST($11 AS bigint) = 0 "
    "OR (SELECT bytes FROM chat_files_usage WHERE tenant = $2 AND user_id = $5) + $7 <= $11) "
    "AND (CAST($12 AS bigint) = 0 "
    "OR (SELECT bytes FROM chat_files_usage WHERE tenant = $2 AND user_id = '') + $7 <= $12) "
    "AND (SELECT count(*) FROM chat_files WHERE tenant = $2 AND user_id = $5 AND used_ms = 0) < $13 "
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_TOUCH: Final = (
    "INSERT INTO chat_blobs (folder, sha256, touched_ms) VALUES ($1, $2, $3) ON CONFLICT (folder, sha256) "
    "DO UPDATE SET touched_ms = excluded.touched_ms WHERE chat_blobs.going = 0 RETURNING sha256"
)
_USE: Final = (
    "UPDATE chat_files SET used_ms = $2, claim_key = $3, about = $4, sha256 = $5, thumbnail = $6, bytes = $7 "
    "WHERE id = $1 AND message IS NULL AND removed_ms = 0 RETURNING id"
)
ERASE: Final = (
    "UPDATE chat_files SET removed_ms = $3 WHERE tenant = $1 AND user_id = $2 AND removed_ms = 0 RETURNING id"
)


class File(msgspec.Struct, frozen=True, array_like=True):
    """One attachment. Times are Unix ms, 0 for not yet."""

    id: int
    tenant: TenantId
    room: RoomName
    user: UserId
    name: str
    bytes: int
    wanted: str
    about: str
    claim_key: str
    expires_ms: int
    used_ms: int
    message: int | None
    removed_ms: int

    @property
    def place(self) -> RoomId:
        """The room that it is for."""
        return RoomId(self.tenant, self.room)

    def described(self, about: About) -> dict[str, Any]:
        """Return what a message says of it."""
        told: dict[str, Any] = {
            "id": text_of(self.id),
            "name": self.name,
            "type": about.file.type,
            "bytes": about.file.bytes,
        }
        if about.file.width:
            told |= {"width": about.file.width, "height": about.file.height}
        if about.thumbnail is not None:
            small = about.thumbnail
            told["thumbnail"] = {"width": small.width, "height": small.height, "bytes": small.bytes}
        return told


def file_of(row: Cells) -> File:
    """Return a row of BY_ID or SHOWN."""
    return File(*row)


def beginning(
    file: File, folder: str, created_ms: int, *, user_bytes: int, tenant_bytes: int, awaited: int
) -> tuple[Statement, ...]:
    """Return what keeps an upload that is awaited, where that is within the limits (0: none): the last gives
    its id, or nothing. The usage is locked first, so that two at once cannot both take what is left.
    """
    return (
        Statement(_AGAIN, (file.tenant, "")),
        Statement(_AGAIN, (file.tenant, file.user)),
        Statement(
            _BEGIN,
            (
                *(file.id, file.tenant, folder, file.room, file.user, file.name, file.bytes, file.wanted),
                *(created_ms, file.expires_ms, user_bytes, tenant_bytes, awaited),
            ),
        ),
    )


def touching(folder: str, hashes: set[str], now_ms: int) -> list[Statement]:
    """Return what says that files are in use from now on: each gives a row, unless it is being deleted."""
    return [Statement(_TOUCH, (folder, each, now_ms)) for each in sorted(hashes)]


def using(id: int, about: About, told: str, key: str, now_ms: int) -> Statement:
    """Return what puts an attachment to use; it gives its id, or nothing where a message has it already."""
    small = "" if about.thumbnail is None else about.thumbnail.sha256
    kept = about.file.bytes + (0 if about.thumbnail is None else about.thumbnail.bytes)
    return Statement(_USE, (id, now_ms, key, told, about.file.sha256, small, kept))
