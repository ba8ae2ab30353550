"""What a room said, or one user in all rooms: as lines of JSON, page by page, while servers run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.database import Database
from realtime.core.personal import stamp
from realtime.features.chat.ids import at_ms, text_of
from realtime.ids import RoomId, TenantId, UserId

PAGE: Final = 200

_ROOM = (
    "SELECT r.id AS number, r.name AS name, c.title AS title, c.topic AS topic, c.visibility AS visibility, "
    "c.created_ms AS created_ms, c.created_by AS created_by, c.retention_s AS retention_s "
    "FROM rooms r LEFT JOIN chat_rooms c ON c.room = r.id WHERE r.tenant = $1 AND {where}"
)
_MEMBERS = (
    "SELECT user_id AS user_id, role AS role, since_ms AS since_ms, banned_until_ms AS banned, "
    "muted_until_ms AS muted FROM chat_members WHERE room = $1 AND user_id > $2 ORDER BY user_id LIMIT $3"
)
_MESSAGES = (
    'SELECT m.id AS id, m."offset" AS place, m.epoch AS epoch, m.sender AS sender, '
    "coalesce(h.content, m.content) AS content, m.edited_ms AS edited, m.deleted_ms AS deleted, "
    "m.hidden_ms AS hidden FROM chat_messages m LEFT JOIN chat_hidden h ON h.room = m.room AND h.id = m.id "
    "WHERE m.room = $1 AND m.id > $2 AND ($3 = '' OR m.sender = $3) ORDER BY m.id LIMIT $4"
)
_OF_MESSAGES = {
    "edits": (
        "SELECT message AS message, text AS text, at_ms AS at_ms FROM chat_edits "
        'WHERE room = $1 AND message BETWEEN $2 AND $3 ORDER BY message, "offset" LIMIT 1000000'
    ),
    "reactions": (
        "SELECT message AS message, emoji AS emoji, user_id AS user_id, at_ms AS at_ms FROM chat_reactions "
        "WHERE room = $1 AND message BETWEEN $2 AND $3 ORDER BY message, at_ms, emoji LIMIT 1000000"
    ),
    "held": (
        "SELECT id AS message, content AS content FROM chat_held "
        "WHERE room = $1 AND id BETWEEN $2 AND $3 ORDER BY id, n LIMIT 1000000"
    ),
}
_HELD_ALONE = (
    "SELECT k.n AS n, k.id AS id, k.sender AS sender, k.content AS content FROM chat_held k "
    "WHERE k.room = $1 AND k.n > $2 AND ($3 = '' OR k.sender = $3) AND NOT EXISTS ("
    "SELECT 1 FROM chat_messages m WHERE m.room = k.room AND m.id = k.id) ORDER BY k.n LIMIT $4"
)
_REPORTS = (
    "SELECT id AS id, message AS message, kind AS kind, reporter AS reporter, reason AS reason, "
    "at_ms AS at_ms, state AS state, decided_by AS decided_by, decided_ms AS decided_ms FROM chat_reports "
    "WHERE room = $1 AND id > $2 AND ($3 = '' OR reporter = $3) ORDER BY id LIMIT $4"
)
_FILES = (
    "SELECT id AS id, name AS name, user_id AS user_id, bytes AS bytes, sha256 AS sha256, message AS message "
    "FROM chat_files WHERE tenant = $1 AND room = $2 AND ($3 = '' OR user_id = $3) AND message IS NOT NULL "
    "AND sha256 <> '' AND id > $4 ORDER BY id LIMIT $5"
)


class Attached(NamedTuple):
    """A file that a message refers to."""

    id: str
    name: str
    user: str
    bytes: int
    sha256: str
    message: str


async def rooms_of(database: Database, tenant: TenantId, room: RoomId | None) -> list[tuple[Any, ...]]:
    """Return the rows of the rooms that are exported: one, or all of a tenant."""
    if room is not None:
        return await database.read(_ROOM.format(where="r.name = $2"), tenant, room.room)
    found: list[tuple[Any, ...]] = []
    where = "r.name LIKE 'chat:%' AND r.id > $2 ORDER BY r.id LIMIT $3"
    while rows := await database.read(
        _ROOM.format(where=where), tenant, found[-1][0] if found else 0, 10_000
    ):
        found += rows
    return found


async def exported(
    database: Database, tenant: TenantId, row: tuple[Any, ...], user: UserId | None
) -> AsyncIterator[tuple[dict[str, Any], Attached | None]]:
    """Return what a room (a row of `rooms_of`) said, or what `user` said there, and each attachment with its
    line. All times are RFC 3339.
    """
    number, name, title, topic, visibility, created_ms, created_by, retention_s = row
    whose = "" if user is None else str(user)
    if user is None:
        about = {"title": title, "topic": topic, "visibility": visibility, "created_by": created_by}
        told = {key: value for key, value in about.items() if value}
        at = {"created": stamp(created_ms)} if created_ms else {}
        yield {"kept": "room", "room": name, **told, **at, "retention_s": retention_s or 0}, None
        async for line in _members(database, number):
            yield {"kept": "member", "room": name, **line}, None
    async for line in _messages(database, number, whose):
        yield {"kept": "message", "room": name, **line}, None
    async for line in _held(database, number, whose):
        yield {"kept": "held", "room": name, **line}, None
    async for line in _reports(database, number, whose):
        yield {"kept": "report", "room": name, **line}, None
    async for file in _files(database, (tenant, name), whose):
        yield {"kept": "attachment", "room": name, **file._asdict()}, file


async def _members(database: Database, room: int) -> AsyncIterator[dict[str, Any]]:
    after = ""
    while rows := await database.read(_MEMBERS, room, after, PAGE):
        for user, role, since, banned, muted in rows:
            told = {"since": since, "banned_until": banned, "muted_until": muted}
            yield {"user": user, "role": role, **{key: stamp(ms) for key, ms in told.items() if ms}}
        after = rows[-1][0]


async def _messages(database: Database, room: int, whose: str) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while rows := await database.read(_MESSAGES, room, after, whose, PAGE):
        more: dict[str, dict[int, list[Any]]] = {}
        for what, sql in _OF_MESSAGES.items():
            found: dict[int, list[Any]] = {}
            for message, *said in await database.read(sql, room, rows[0][0], rows[-1][0]):
                found.setdefault(message, []).append(_extra(what, said))
            more[what] = found
        for id, place, epoch, sender, content, edited, deleted, hidden in rows:
            times = {"edited": edited, "deleted": deleted, "hidden": hidden}
            extras = {what: found[id] for what, found in more.items() if id in found}
            yield {
                "id": text_of(id),
                "at": stamp(at_ms(id)),
                "offset": place,
                "epoch": epoch,
                "from": sender,
                "content": msgspec.Raw(content.encode()),
                **{key: stamp(ms) for key, ms in times.items() if ms},
                **extras,
            }
        after = rows[-1][0]


def _extra(what: str, said: list[Any]) -> Any:
    if what == "edits":
        return {"text": said[0], "at": stamp(said[1])}
    if what == "reactions":
        return {"emoji": said[0], "user": said[1], "at": stamp(said[2])}
    return msgspec.Raw(said[0].encode())


async def _held(database: Database, room: int, whose: str) -> AsyncIterator[dict[str, Any]]:
    """What was kept of messages that are gone."""
    after = 0
    while rows := await database.read(_HELD_ALONE, room, after, whose, PAGE):
        for _, id, sender, content in rows:
            at = stamp(at_ms(id))
            yield {"id": text_of(id), "at": at, "from": sender, "content": msgspec.Raw(content.encode())}
        after = rows[-1][0]


async def _reports(database: Database, room: int, whose: str) -> AsyncIterator[dict[str, Any]]:
    after = 0
    while rows := await database.read(_REPORTS, room, after, whose, PAGE):
        for id, message, kind, reporter, reason, at, state, decided_by, decided_ms in rows:
            told = {"report": text_of(id), "message": text_of(message), "kind": kind, "by": reporter}
            told |= {"reason": reason, "at": stamp(at), "state": state}
            decided = {"decided_by": decided_by, "decided": stamp(decided_ms)} if decided_ms else {}
            yield {**told, **decided}
        after = rows[-1][0]


async def _files(database: Database, where: tuple[TenantId, str], whose: str) -> AsyncIterator[Attached]:
    after = 0
    while rows := await database.read(_FILES, *where, whose, after, PAGE):
        for id, name, user, size, sha256, message in rows:
            yield Attached(text_of(id), name, user, size, sha256, text_of(message))
        after = rows[-1][0]
