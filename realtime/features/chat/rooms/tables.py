"""What the tables say of a room and of somebody in it: the question, and how its rows are read."""

from __future__ import annotations

from typing import Any, Final

from realtime.core.database import Cells, Database
from realtime.features.chat.rooms.state import PUBLIC, Role, RoomState, Standing
from realtime.ids import RoomId, UserId

ROOM_COLUMNS: Final = (
    "r.id AS number, c.version AS version, c.visibility AS visibility, c.title AS title, c.topic AS topic, "
    "c.created_ms AS created_ms, c.created_by AS created_by, c.members AS members, "
    "c.archived_ms AS archived_ms, c.slow_s AS slow_s, c.retention_s AS retention_s, c.hold AS hold"
)
STANDING_COLUMNS: Final = (
    "m.role AS role, m.since_ms AS since_ms, m.banned_until_ms AS banned, m.muted_until_ms AS muted"
)
# One row in any case. A room that is hidden takes the same steps as one that is not there.
_LOOK: Final = (
    f"SELECT {ROOM_COLUMNS}, {STANDING_COLUMNS} FROM (SELECT 1 AS one) AS one "
    "LEFT JOIN rooms r ON r.tenant = $1 AND r.name = $2 LEFT JOIN chat_rooms c ON c.room = r.id "
    "LEFT JOIN chat_members m ON m.room = r.id AND m.user_id = $3"
)
ROOM_CELLS: Final = 12
STANDING_CELLS: Final = 4


async def look(database: Database, room: RoomId, user: UserId) -> tuple[RoomState, Standing]:
    """Return a room, whether or not anybody has created it, and what `user` is in it.

    Raises:
        Unavailable: no answer in time.
    """
    (row,) = await database.read(_LOOK, room.tenant, room.room, user)
    return room_of(row[:ROOM_CELLS]), standing_of(row[ROOM_CELLS:])


def room_of(cells: Cells) -> RoomState:
    """Return a room by its ROOM_COLUMNS; what there is no row of is None in all of them."""
    number, version, visibility, title, topic, *rest = cells
    created_ms, created_by, members, archived_ms, slow_s, retention_s, hold = rest
    if visibility is None:
        return RoomState(number=number or 0)
    return RoomState(
        number=number,
        version=version,
        visibility=visibility,
        title=title,
        topic=topic,
        created_ms=created_ms,
        created_by=created_by,
        members=members,
        archived_ms=archived_ms,
        slow_s=slow_s,
        retention_s=retention_s,
        hold=bool(hold),
    )


def standing_of(cells: Cells | list[Any]) -> Standing:
    """Return what somebody is by their STANDING_COLUMNS."""
    role, since_ms, banned, muted = cells
    if role is None:
        return Standing()
    return Standing(role=Role(role), since_ms=since_ms, banned_until_ms=banned, muted_until_ms=muted)


def is_implicit(room: RoomState) -> bool:
    """Whether nobody has created a room, whatever is kept of it."""
    return room.visibility == PUBLIC and not room.created_ms
