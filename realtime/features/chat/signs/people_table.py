"""The table of what users say of themselves, and the rooms that they are members of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from realtime.core.database import Database, Dialect, Statement
from realtime.features.chat.rooms.state import DELETED
from realtime.features.chat.signs.people import INVISIBLE, Key, Said
from realtime.ids import RoomName, TenantId, UserId

ROOMS_MAX: Final = 50_000
"""Rooms of all users in one answer."""

# A room that was created, and is not deleted.
_THERE: Final = f"c.room = m.room AND c.created_ms > 0 AND c.visibility <> '{DELETED}'"

# $1 is a JSON array of arrays.
_GIVEN: Final[dict[Dialect, tuple[str, str, str, str]]] = {
    "sqlite": (
        "SELECT json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS user_id "
        "FROM json_each($1)",
        "SELECT json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS user_id, "
        "json_extract(value, '$[2]') AS status, json_extract(value, '$[3]') AS text, "
        "json_extract(value, '$[4]') AS at_ms FROM json_each($1)",
        "SELECT value FROM json_each($1)",
        "SELECT value FROM json_each($2)",
    ),
    "postgres": (
        "SELECT value ->> 0 AS tenant, value ->> 1 AS user_id FROM json_array_elements($1::json)",
        "SELECT value ->> 0 AS tenant, value ->> 1 AS user_id, value ->> 2 AS status, value ->> 3 AS text, "
        "(value ->> 4)::bigint AS at_ms FROM json_array_elements($1::json)",
        "SELECT value::bigint FROM json_array_elements_text($1::json)",
        "SELECT value FROM json_array_elements_text($2::json)",
    ),
}


class PeopleTable:
    """Asks and writes it, many users at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys, self._said, self._numbers, self._names = _GIVEN[database.dialect]

    async def read(self, keys: Iterable[Key]) -> dict[Key, Said]:
        """Return what is kept of them. Raises Unavailable."""
        if not (given := _json(keys)):
            return {}
        rows = await self._database.read(
            f"SELECT p.tenant, p.user_id, p.status, p.text, p.seen_ms FROM ({self._keys}) g "
            f"JOIN chat_presence p ON p.tenant = g.tenant AND p.user_id = g.user_id",
            given,
        )
        return {(tenant, user): Said(*said) for tenant, user, *said in rows}

    async def say(self, said: Mapping[Key, tuple[str, str]], at_ms: int) -> dict[Key, Said]:
        """Keep (status, text) of users, and return what is kept of them then. Who stays invisible was last
        seen when that began. Raises Unavailable.
        """
        given = _json((*key, status, text, at_ms) for key, (status, text) in said.items())
        (rows,) = await self._database.write(
            Statement(
                f"INSERT INTO chat_presence (tenant, user_id, status, text, seen_ms) "
                f"SELECT tenant, user_id, status, text, at_ms FROM ({self._said}) g WHERE true "
                f"ON CONFLICT (tenant, user_id) DO UPDATE "
                f"SET status = excluded.status, text = excluded.text, "
                f"seen_ms = CASE WHEN chat_presence.status = '{INVISIBLE}' "
                f"AND excluded.status = '{INVISIBLE}' THEN chat_presence.seen_ms ELSE excluded.seen_ms END "
                f"RETURNING tenant, user_id, status, text, seen_ms",
                (given,),
            )
        )
        return {(tenant, user): Said(*rest) for tenant, user, *rest in rows}

    async def see(self, seen: Mapping[Key, int]) -> None:
        """Keep when users were last here (Unix ms); not of invisible ones. Raises Unavailable."""
        given = _json((*key, "online", "", at_ms) for key, at_ms in seen.items())
        await self._database.write(
            Statement(
                f"INSERT INTO chat_presence (tenant, user_id, status, text, seen_ms) "
                f"SELECT tenant, user_id, status, text, at_ms FROM ({self._said}) g WHERE true "
                f"ON CONFLICT (tenant, user_id) DO UPDATE SET seen_ms = excluded.seen_ms "
                f"WHERE chat_presence.status <> '{INVISIBLE}' AND excluded.seen_ms > chat_presence.seen_ms",
                (given,),
            )
        )

    async def rooms(self, keys: Iterable[Key], now_ms: int) -> dict[Key, list[RoomName]]:
        """Return the rooms that they are members of at `now_ms`. Raises Unavailable."""
        if not (given := _json(keys)):
            return {}
        rows = await self._database.read(
            f"SELECT g.tenant, g.user_id, r.name FROM ({self._keys}) g "
            f"JOIN chat_members m ON m.user_id = g.user_id AND m.role > 0 AND m.banned_until_ms <= $2 "
            f"JOIN rooms r ON r.id = m.room AND r.tenant = g.tenant "
            f"JOIN chat_rooms c ON {_THERE} LIMIT {ROOMS_MAX}",
            given,
            now_ms,
        )
        found: dict[Key, list[RoomName]] = {}
        for tenant, user, name in rows:
            found.setdefault((tenant, user), []).append(name)
        return found

    async def numbered_rooms(self, tenant: TenantId, user: UserId, now_ms: int) -> list[tuple[int, RoomName]]:
        """Return the rooms that a user is a member of, by their numbers too. Raises Unavailable."""
        rows = await self._database.read(
            f"SELECT m.room AS room, r.name AS name FROM chat_members m JOIN rooms r ON r.id = m.room "
            f"JOIN chat_rooms c ON {_THERE} "
            f"WHERE m.user_id = $2 AND r.tenant = $1 AND m.role > 0 AND m.banned_until_ms <= $3 "
            f"LIMIT {ROOMS_MAX}",
            tenant,
            user,
            now_ms,
        )
        return [(number, name) for number, name in rows]

    async def members(
        self, rooms: Collection[int], users: Collection[UserId], now_ms: int
    ) -> frozenset[UserId]:
        """Return which of `users` are members of any of `rooms`. Raises Unavailable."""
        if not rooms or not users:
            return frozenset()
        rows = await self._database.read(
            f"SELECT DISTINCT m.user_id FROM chat_members m WHERE m.user_id IN ({self._names}) "
            f"AND m.room IN ({self._numbers}) AND m.role > 0 AND m.banned_until_ms <= $3",
            msgspec.json.encode(list(rooms)).decode(),
            msgspec.json.encode(list(users)).decode(),
            now_ms,
        )
        return frozenset(UserId(user) for (user,) in rows)


def _json(rows: Iterable[tuple[object, ...]]) -> str:
    """Return rows as JSON; nothing where there are none."""
    listed = list(rows)
    return msgspec.json.encode(listed).decode() if listed else ""
