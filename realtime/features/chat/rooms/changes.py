"""What a command changes of a room: one transaction that does all of it, or nothing where another owner has
changed the room since.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import msgspec

from realtime.core.database import Cells, Database, Statement
from realtime.features.chat.rooms.state import Role, RoomState, Standing
from realtime.features.chat.rules import is_hidden
from realtime.ids import RoomId, UserId

PENDING_MAX: Final = 100  # read at once

# $1, $2: the room, $3: the change. What is written beside the room's own row is written if that was.
_ROOM: Final = (
    "chat_rooms c JOIN rooms r ON r.id = c.room WHERE r.tenant = $1 AND r.name = $2 AND c.version = $3"
)
_ROOM_ID: Final = f"(SELECT c.room FROM {_ROOM})"
_NAME: Final = "INSERT INTO rooms (tenant, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_MEMBER: Final = (
    "INSERT INTO chat_members (room, user_id, role, since_ms, banned_until_ms, muted_until_ms) "
    "SELECT c.room, CAST($4 AS text), CAST($5 AS int), CAST($6 AS bigint), CAST($7 AS bigint), "
    f"CAST($8 AS bigint) FROM {_ROOM} ON CONFLICT (room, user_id) DO UPDATE SET role = excluded.role, "
    "since_ms = excluded.since_ms, banned_until_ms = excluded.banned_until_ms, "
    "muted_until_ms = excluded.muted_until_ms"
)
_NO_MEMBER: Final = f"DELETE FROM chat_members WHERE user_id = $4 AND room = {_ROOM_ID}"
_INVITE: Final = (
    "INSERT INTO chat_invites (room, user_id, by_user, role, at_ms) "
    "SELECT c.room, CAST($4 AS text), CAST($5 AS text), CAST($6 AS int), CAST($7 AS bigint) "
    f"FROM {_ROOM} ON CONFLICT (user_id, room) DO UPDATE SET by_user = excluded.by_user, "
    "role = excluded.role, at_ms = excluded.at_ms"
)
_NO_INVITE: Final = f"DELETE FROM chat_invites WHERE user_id = $4 AND room = {_ROOM_ID}"
_NOTICE: Final = (
    "INSERT INTO chat_notices (room, version, n, at_ms, content, review) SELECT c.room, c.version, "
    f"CAST($4 AS int), CAST($5 AS bigint), CAST($6 AS text), CAST($7 AS text) FROM {_ROOM}"
)
_PENDING: Final = (
    "SELECT version, n, content, review FROM chat_notices WHERE room = $1 "
    f"ORDER BY at_ms, version, n LIMIT {PENDING_MAX}"
)
_TOLD: Final = "DELETE FROM chat_notices WHERE room = $1 AND version = $2 AND n = $3"


class Invite(msgspec.Struct):
    """Who has asked somebody in, and as what."""

    by: UserId
    role: Role


class Change(msgspec.Struct, kw_only=True):
    """What is different after a command.

    `columns` are those of the room's own row, `standings` and `invites` whole ones by user. `notices` are
    what the room's log is told, and `review` whose sessions are to be looked at again: users, None for all.
    """

    columns: dict[str, Any] = {}
    standings: dict[UserId, Standing] = {}
    invites: dict[UserId, Invite] = {}
    uninvited: tuple[UserId, ...] = ()
    notices: list[dict[str, Any]] = []
    review: list[UserId | None] = []


class Notice(msgspec.Struct):
    """What a room still has to say, and whose sessions are still to be looked at. `told`: the first is done,
    or under way.
    """

    version: str
    n: int
    content: bytes
    review: list[UserId | None]
    told: bool = False

    @property
    def key(self) -> str:
        """By which the publication is made once, whoever makes it."""
        return f"notice:{self.version}:{self.n}"


async def write(
    database: Database, room: RoomId, known: RoomState, change: Change, now_ms: int
) -> list[Notice] | None:
    """Write a change of a room that was `known` as that, and let that say it; return what it has to say, or
    None where the room is not as it was known: then nothing is written.

    Raises:
        Unavailable: it may have been written or not.
    """
    version = secrets.token_hex(8)
    notices = _notices(version, change)
    head = _head(room, known, version, change.columns)
    key = (room.tenant, room.room, version)
    rows = await database.write(*head, *_beside(key, change, now_ms), *_outbox(key, notices, now_ms))
    changed: list[Cells] = rows[len(head) - 1]
    if not changed:
        return None
    known.number, known.version = changed[0][0], version
    for name, value in change.columns.items():
        if name in known.__struct_fields__:
            setattr(known, name, value)
    return notices


async def pending(database: Database, number: int) -> list[Notice]:
    """Return what the changes of a room still have to say, oldest first. Raises Unavailable."""
    rows = await database.read(_PENDING, number)
    return [
        Notice(version, n, content.encode(), msgspec.json.decode(review))
        for version, n, content, review in rows
    ]


def told(number: int, notices: list[Notice]) -> list[Statement]:
    """Return what notes that it has been said, all of it."""
    return [Statement(_TOLD, (number, each.version, each.n)) for each in notices]


def _head(room: RoomId, known: RoomState, version: str, columns: dict[str, Any]) -> list[Statement]:
    """Return what changes the room's own row if it is as `known`; the last statement returns its number."""
    names, values = list(columns), list(columns.values())
    if known.version:
        changes = "".join(f", {name} = ${place}" for place, name in enumerate(names, 4))
        return [
            Statement(
                f"UPDATE chat_rooms SET version = $1{changes} WHERE room = $2 AND version = $3 "
                "RETURNING room",
                (version, known.number, known.version, *values),
            )
        ]
    listed = "".join(f", {name}" for name in names)
    places = "".join(f", ${place}" for place in range(5, 5 + len(names)))
    given = int(is_hidden(room.room))
    return [
        Statement(_NAME, (room.tenant, room.room)),
        Statement(
            f"INSERT INTO chat_rooms (room, version, given{listed}) VALUES "
            f"((SELECT id FROM rooms WHERE tenant = $1 AND name = $2), $3, $4{places}) "
            "ON CONFLICT (room) DO NOTHING RETURNING room",
            (room.tenant, room.room, version, given, *values),
        ),
    ]


def _beside(key: tuple[str, str, str], change: Change, now_ms: int) -> list[Statement]:
    statements = []
    for user, it in change.standings.items():
        if it.role or it.banned_until_ms or it.muted_until_ms:
            cells = user, int(it.role), it.since_ms, it.banned_until_ms, it.muted_until_ms
            statements.append(Statement(_MEMBER, (*key, *cells)))
        else:
            statements.append(Statement(_NO_MEMBER, (*key, user)))
    for user, invite in change.invites.items():
        statements.append(Statement(_INVITE, (*key, user, invite.by, int(invite.role), now_ms)))
    statements.extend(Statement(_NO_INVITE, (*key, user)) for user in change.uninvited)
    return statements


def _notices(version: str, change: Change) -> list[Notice]:
    contents = [msgspec.json.encode(each) for each in change.notices]
    if change.review and not contents:
        contents = [b""]  # nothing to say, and somebody to look at
    notices = [Notice(version, n, content, []) for n, content in enumerate(contents)]
    if notices:
        notices[-1].review = change.review
    return notices


def _outbox(key: tuple[str, str, str], notices: list[Notice], now_ms: int) -> list[Statement]:
    return [
        Statement(
            _NOTICE, (*key, each.n, now_ms, each.content.decode(), msgspec.json.encode(each.review).decode())
        )
        for each in notices
    ]
