"""The SQL of reading: how far users are, and what they have not read."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from realtime.core.database import Dialect
from realtime.features.chat import ids
from realtime.features.chat.rooms.readable import readable

COUNTED_MAX: Final = 1_000
"""Unread messages of one room that are counted; as many mean: or more."""
ROOMS_MAX: Final = 2_000
"""Rooms in one answer, those first that have the newest messages."""


class Reached(NamedTuple):
    """Up to where somebody has read: the message, 0 for none that the server can see, and its offset."""

    id: int
    offset: int

    def shown(self) -> dict[str, Any]:
        """Return it as clients know it."""
        return {"id": ids.text_of(self.id) if self.id else None, "offset": self.offset}


# $1 is a JSON array of (tenant, room, user, id, offset), each user and room once; 0 for what was not said.
_GIVEN: Final[dict[Dialect, str]] = {
    "sqlite": """SELECT json_extract(value, '$[0]') AS tenant, json_extract(value, '$[1]') AS name,
        json_extract(value, '$[2]') AS user_id, json_extract(value, '$[3]') AS up_to,
        json_extract(value, '$[4]') AS place FROM json_each($1)""",
    "postgres": """SELECT value ->> 0 AS tenant, value ->> 1 AS name, value ->> 2 AS user_id,
        (value ->> 3)::bigint AS up_to, (value ->> 4)::bigint AS place FROM json_array_elements($1::json)""",
}


def advance(dialect: Dialect) -> str:
    """Return the statement that keeps positions ($1) at $2 (Unix ms), and gives (tenant, room, user) of those
    that have risen. None goes beyond what there is.
    """
    larger = "max" if dialect == "sqlite" else "greatest"
    smaller = "min" if dialect == "sqlite" else "least"
    at = "$2" if dialect == "sqlite" else "$2::bigint"
    return f"""
        INSERT INTO chat_reads (room, user_id, read_id, "offset", at_ms)
        SELECT room, user_id, read_id,
            {larger}(place, coalesce(
                (SELECT m."offset" FROM chat_messages m WHERE m.room = found.room AND m.id = read_id), 0
            )), {at}
        FROM (
            SELECT r.id AS room, g.user_id AS user_id,
                {larger}(coalesce((
                    SELECT m.id FROM chat_messages m WHERE m.room = r.id AND m.id <= g.up_to
                    ORDER BY m.id DESC LIMIT 1
                ), 0), coalesce((
                    SELECT m.id FROM chat_messages m WHERE m.room = r.id AND m."offset" <= g.place
                    ORDER BY m."offset" DESC LIMIT 1
                ), 0)) AS read_id,
                {smaller}(g.place, coalesce((
                    SELECT p."offset" FROM publications p WHERE p.room = r.id ORDER BY p."offset" DESC LIMIT 1
                ), 0)) AS place
            FROM ({_GIVEN[dialect]}) g JOIN rooms r ON r.tenant = g.tenant AND r.name = g.name
        ) found
        WHERE read_id > 0 OR place > 0
        ON CONFLICT (room, user_id) DO UPDATE SET
            read_id = {larger}(chat_reads.read_id, excluded.read_id),
            "offset" = {larger}(chat_reads."offset", excluded."offset"), at_ms = excluded.at_ms
        WHERE excluded.read_id > chat_reads.read_id OR excluded."offset" > chat_reads."offset"
        RETURNING (SELECT r.tenant FROM rooms r WHERE r.id = chat_reads.room) AS tenant,
            (SELECT r.name FROM rooms r WHERE r.id = chat_reads.room) AS name, user_id
    """


def positions(dialect: Dialect) -> str:
    """Return the question for the positions of those in $1: (tenant, room, user, id, offset)."""
    return f"""
        SELECT g.tenant, g.name, g.user_id, c.read_id, c."offset" FROM ({_GIVEN[dialect]}) g
        JOIN rooms r ON r.tenant = g.tenant AND r.name = g.name
        JOIN chat_reads c ON c.room = r.id AND c.user_id = g.user_id
    """


def unread(dialect: Dialect) -> str:
    """Return the question for all rooms of user $2 of tenant $1 that they may be in at $3 (Unix ms), with $4
    as in `readable`: (room, read_id, offset, last_id, last offset, unread, mentions).

    A room's members have not read what came since they are members; their own messages count as read.
    """
    since = f"m.since_ms * {1 << ids.RANDOM_BITS}"
    larger = "max" if dialect == "sqlite" else "greatest"
    unseen = "m.room = mine.room AND m.id > mine.after AND m.deleted_ms = 0 AND m.hidden_ms = 0"
    others = f"{unseen} AND (m.sender IS NULL OR m.sender <> $2)"
    return f"""
        SELECT r.name AS room, mine.read_id AS read_id, mine.place AS place, coalesce((
                SELECT m.id FROM chat_messages m WHERE m.room = mine.room ORDER BY m.id DESC LIMIT 1
            ), 0) AS last_id, coalesce((
                SELECT p."offset" FROM publications p WHERE p.room = mine.room
                ORDER BY p."offset" DESC LIMIT 1
            ), 0) AS last_place, (
                SELECT count(*) FROM (SELECT 1 AS one FROM chat_messages m WHERE {others}
                    LIMIT {COUNTED_MAX}) counted
            ) AS unread, (
                SELECT count(*) FROM (SELECT DISTINCT n.message FROM chat_mentions n
                    JOIN chat_messages m ON m.room = n.room AND m.id = n.message
                    WHERE n.room = mine.room AND n.user_id IN ($2, '') AND n.message > mine.after AND {others}
                    LIMIT {COUNTED_MAX}) counted
            ) AS mentions
        FROM (
            SELECT ours.room AS room, coalesce(c.read_id, 0) AS read_id, coalesce(c."offset", 0) AS place,
                {larger}(coalesce(c.read_id, 0), coalesce({since}, 0)) AS after
            FROM (
                SELECT room FROM chat_members WHERE user_id = $2 AND role > 0
                UNION SELECT room FROM chat_reads WHERE user_id = $2
            ) ours
            LEFT JOIN chat_members m ON m.room = ours.room AND m.user_id = $2
            LEFT JOIN chat_reads c ON c.room = ours.room AND c.user_id = $2
        ) mine JOIN rooms r ON r.id = mine.room
        WHERE {readable("mine.room")}
        ORDER BY last_id DESC LIMIT {ROOMS_MAX + 1}
    """
