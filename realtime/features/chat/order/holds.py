"""Legal holds: what may not be deleted. Whatever else deletes it, triggers keep a copy (`chat_held`)."""

from __future__ import annotations

from typing import NamedTuple

from realtime.core.database import Database, Statement
from realtime.ids import RoomId, RoomName, TenantId, UserId

_ROOM = (
    "SELECT 1 AS held FROM chat_holds h JOIN rooms r ON r.tenant = h.tenant "
    "WHERE r.tenant = $1 AND r.name = $2 AND (h.room = r.id OR (h.room = 0 AND EXISTS ("
    "SELECT 1 FROM chat_messages m WHERE m.room = r.id AND m.sender = h.user_id))) LIMIT 1"
)
_USER = "SELECT 1 AS held FROM chat_holds WHERE tenant = $1 AND room = 0 AND user_id = $2"
# A hold of a room holds what whoever is to be erased said there.
_ERASING = (
    "SELECT h.id AS id FROM chat_holds h WHERE h.tenant = $1 AND (h.user_id = $2 OR (h.room > 0 AND EXISTS ("
    "SELECT 1 FROM chat_messages m WHERE m.room = h.room AND m.sender = $2))) LIMIT 1"
)
_ALL = (
    "SELECT h.id AS id, coalesce(r.name, '') AS room, h.user_id AS user_id, h.reason AS reason, "
    "h.by_user AS by_user, h.at_ms AS at_ms FROM chat_holds h LEFT JOIN rooms r ON r.id = h.room "
    "WHERE h.tenant = $1 ORDER BY h.id LIMIT 10000"
)


class Hold(NamedTuple):
    """One hold: of `room`, or of `user` wherever they wrote."""

    id: int
    room: str
    user: str
    reason: str
    by: str
    at_ms: int


async def room_held(database: Database, room: RoomId) -> bool:
    """Whether something of a room may not be deleted: it is held, or somebody who wrote in it is."""
    return bool(await database.read(_ROOM, room.tenant, room.room))


async def user_held(database: Database, tenant: TenantId, user: UserId) -> bool:
    """Whether a hold is on somebody."""
    return bool(await database.read(_USER, tenant, user))


async def forbids_erasure(database: Database, tenant: TenantId, user: UserId) -> bool:
    """Whether somebody may not be erased: they are held, or a room is that they wrote in."""
    return bool(await database.read(_ERASING, tenant, user))


async def all_of(database: Database, tenant: TenantId) -> list[Hold]:
    """Return the holds of a tenant, at most 10,000, oldest first."""
    return [Hold(*row) for row in await database.read(_ALL, tenant)]


async def hold_user(
    database: Database, tenant: TenantId, user: UserId, said: tuple[int, str, str, int]
) -> None:
    """Put a hold on somebody; `said` is its id, the reason, who says so, and when (Unix ms)."""
    await database.write(
        Statement(
            "INSERT INTO chat_holds (id, tenant, room, user_id, reason, by_user, at_ms) "
            "VALUES ($1, $2, 0, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            (said[0], tenant, user, *said[1:]),
        )
    )


async def hold_room(database: Database, room: RoomId, said: tuple[int, str, str, int]) -> bool:
    """Put a hold on a room; False where nothing is kept of such a room."""
    (held,) = await database.write(
        Statement(
            "INSERT INTO chat_holds (id, tenant, room, user_id, reason, by_user, at_ms) "
            "SELECT CAST($1 AS bigint), tenant, id, '', CAST($4 AS text), CAST($5 AS text), "
            "CAST($6 AS bigint) FROM rooms WHERE tenant = $2 AND name = $3 "
            "ON CONFLICT (tenant, room, user_id) DO UPDATE SET reason = excluded.reason RETURNING id",
            (said[0], room.tenant, room.room, *said[1:]),
        )
    )
    return bool(held)


async def release(
    database: Database, tenant: TenantId, *, user: UserId | None = None, room: RoomName | None = None
) -> bool:
    """End a hold; False where there was none. Copies that no other hold is about go with it."""
    if user is not None:
        ended = Statement(
            "DELETE FROM chat_holds WHERE tenant = $1 AND room = 0 AND user_id = $2 RETURNING id",
            (tenant, user),
        )
    else:
        ended = Statement(
            "DELETE FROM chat_holds WHERE tenant = $1 AND user_id = '' AND room = "
            "(SELECT id FROM rooms WHERE tenant = $1 AND name = $2) RETURNING id",
            (tenant, room),
        )
    gone, _ = await database.write(
        ended,
        Statement(
            "DELETE FROM chat_held WHERE NOT EXISTS (SELECT 1 FROM chat_holds h JOIN rooms r "
            "ON r.tenant = h.tenant AND r.id = chat_held.room "
            "WHERE h.room = chat_held.room OR (h.room = 0 AND h.user_id = chat_held.sender))"
        ),
    )
    return bool(gone)
