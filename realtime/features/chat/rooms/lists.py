"""Rooms and members as they are shown: descriptions, lists, search. Asked of the tables, wherever one is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from realtime.core.personal import stamp
from realtime.core.session import Session
from realtime.errors import BadMessage, Forbidden
from realtime.features.chat.acts import record
from realtime.features.chat.asking import Answer, identity_of
from realtime.features.chat.rooms import contents, tables
from realtime.features.chat.rooms.readable import may_enter
from realtime.features.chat.rooms.state import Role, RoomState
from realtime.features.chat.rules import HIDDEN, KIND
from realtime.ids import RoomId, RoomName

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

INVITES_SHOWN: Final = 500
_GIVEN: Final = f"{KIND}:{HIDDEN}"

# $1 tenant, $2 user, $3 now, $4 open rooms, $5 after, $6 pattern, $7 limit
_COLUMNS: Final = f"SELECT r.name AS name, {tables.ROOM_COLUMNS}, {tables.STANDING_COLUMNS}"
_ROOMS: Final = (
    "LEFT JOIN chat_rooms c ON c.room = r.id LEFT JOIN chat_members m ON m.room = r.id AND m.user_id = $2 "
    f"WHERE r.name > $5 AND {may_enter('r', 'c', 'm')} AND ($6 = '' "
    "OR coalesce(c.found, '') LIKE $6 ESCAPE '!' OR (r.name NOT LIKE 'chat:~%' "
    "AND lower(substr(r.name, 6)) LIKE $6 ESCAPE '!'))"
)
_ORDER: Final = "ORDER BY r.name LIMIT $7"
# In order along an index that has no other names: what hides is not walked over.
_NAMED: Final = (
    f"{_COLUMNS} FROM rooms r {_ROOMS} AND r.name LIKE 'chat:%' AND r.name NOT LIKE 'chat:~%' {_ORDER}"
)
# The few first, whatever else there is.
_THEIRS: Final = "SELECT room FROM chat_members WHERE user_id = $2 AND role > 0"
_MINE: Final = (
    f"WITH ours AS MATERIALIZED ({_THEIRS}) "
    f"{_COLUMNS} FROM ours JOIN rooms r ON r.id = ours.room {_ROOMS} {_ORDER}"
)
_OTHERS: Final = (
    f"WITH ours AS MATERIALIZED ({_THEIRS} UNION SELECT room FROM chat_rooms WHERE given = 1 "
    f"AND visibility = 'public') {_COLUMNS} FROM ours JOIN rooms r ON r.id = ours.room {_ROOMS} "
    f"AND r.name LIKE 'chat:~%' {_ORDER}"
)
_MEMBERS: Final = (
    "SELECT user_id, role, since_ms, muted_until_ms, banned_until_ms FROM chat_members "
    "WHERE room = $1 AND {which} AND user_id > $2 ORDER BY user_id LIMIT $3"
)
_INVITES: Final = (
    "SELECT r.name AS name, c.title AS title, i.by_user AS by_user, i.at_ms AS at_ms FROM chat_invites i "
    "JOIN rooms r ON r.id = i.room JOIN chat_rooms c ON c.room = i.room "
    f"WHERE i.user_id = $2 AND r.tenant = $1 AND c.visibility <> 'deleted' "
    f"ORDER BY i.at_ms DESC LIMIT {INVITES_SHOWN}"
)


class Lists:
    """Shows rooms to those who may see them."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def described(self, name: RoomName, room: RoomState, role: Role, unread: int | None) -> Answer:
        """Return a room as members are shown it. `unread` is None where nobody counts."""
        return {
            "room": name,
            "title": room.title,
            "topic": room.topic,
            "visibility": room.visibility,
            "members": room.members,
            "role": role.word,
            "archived": bool(room.archived_ms),
            "slow_s": room.slow_s,
            "retention_s": room.retention_s,
            "created": stamp(room.created_ms) if room.created_ms else None,
            **({} if unread is None else {"unread": unread}),
        }

    async def room(self, session: Session, room: RoomId | None) -> Answer:
        """Return one room: the question `chat_room`. Raises Forbidden, as `Rooms.look`."""
        key = _named(room)
        look = await self._chat.rooms.look(session, key)
        unread = await self._unread(session)
        return self.described(key.room, look.room, look.role, unread.get(key.room))

    async def rooms(self, session: Session, asked: contents.List) -> Answer:
        """Return a page of rooms that the asker may be in: the question `chat_rooms`.

        First those whose names were chosen, by name, then those whose names the server gave.
        """
        identity = identity_of(session)
        pattern = _pattern(asked.query)
        values = (
            identity.tenant,
            identity.user,
            self._chat.rooms.now_ms,
            int(self._chat.rooms.settings.chat_open_rooms),
        )
        rows: list[tuple[Any, ...]] = []
        for statement in [_MINE] if asked.mine else [_NAMED, _OTHERS]:
            wanted = asked.limit + 1 - len(rows)
            if wanted <= 0 or (statement is _NAMED and asked.after.startswith(_GIVEN)):
                continue
            after = "" if statement is _OTHERS and not asked.after.startswith(_GIVEN) else asked.after
            rows += await self._chat.rooms.database.read(statement, *values, after, pattern, wanted)
        more, rows = len(rows) > asked.limit, rows[: asked.limit]
        kind = self._chat.core.catalog.kinds[KIND]
        rights = self._chat.core.membership.rights_in
        shown = [
            (RoomName(row[0]), tables.room_of(row[1 : 1 + tables.ROOM_CELLS]), row[1 + tables.ROOM_CELLS :])
            for row in rows
            if rights(session, kind, row[0]).join
        ]
        unread = await self._unread(session)
        described = []
        for name, found, cells in shown:
            role = self._chat.rooms.role_of(identity, name, found, tables.standing_of(cells))
            described.append(self.described(name, found, role, unread.get(name)))
        return {"rooms": described, "more": more, "after": rows[-1][0] if rows else asked.after}

    async def members(self, session: Session, room: RoomId | None, asked: contents.Members) -> Answer:
        """Return a page of a room's members, by user id: the question `chat_members`."""
        key = _named(room)
        contents.check_text("after", asked.after)
        look = await self._chat.rooms.look(session, key)
        moderates = look.role >= Role.MODERATOR
        if asked.banned and not moderates:
            record(self._chat.core, identity_of(session), "chat_members", key.room, denied=True)
            raise Forbidden(f"who is banned is shown to moderators; you are {look.role.word}")
        now_ms = self._chat.rooms.now_ms
        which = f"banned_until_ms > {now_ms:d}" if asked.banned else "role > 0"
        statement = _MEMBERS.format(which=which)
        rows = await self._chat.rooms.database.read(statement, look.room.number, asked.after, asked.limit + 1)
        more, rows = len(rows) > asked.limit, rows[: asked.limit]
        members: list[dict[str, Any]] = []
        for user, role, since_ms, muted_ms, banned_ms in rows:
            member = {"user": user, "role": Role(role).word, "since": stamp(since_ms)}
            if muted_ms > now_ms and (moderates or user == identity_of(session).user):
                member["muted"] = stamp(muted_ms)
            if asked.banned:
                member = {"user": user, "until": stamp(banned_ms)}
            members.append(member)
        return {"members": members, "more": more, "after": rows[-1][0] if rows else asked.after}

    async def invites(self, session: Session) -> Answer:
        """Return where the asker is asked in, newest first: the question `chat_invites`."""
        identity = identity_of(session)
        rows = await self._chat.rooms.database.read(_INVITES, identity.tenant, identity.user)
        invites = [
            {"room": name, "title": title, "by": by, "at": stamp(at_ms)} for name, title, by, at_ms in rows
        ]
        return {"invites": invites}

    async def _unread(self, session: Session) -> dict[str, int]:
        """Return how many messages somebody has not read, by room, where they are counted."""
        found = await self._chat.signs.unread(session)
        return {each["room"]: each["unread"] for each in found["rooms"]}


def _named(room: RoomId | None) -> RoomId:
    if room is None:
        raise BadMessage("no room: give `room`")
    return room


def _pattern(query: str) -> str:
    contents.check_text("query", query)
    if not query.strip():
        return ""
    text = contents.folded(query.strip())
    for sign in "!%_":
        text = text.replace(sign, "!" + sign)
    return f"%{text}%"
