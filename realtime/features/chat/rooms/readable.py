"""What somebody may read, as a condition of SQL: for questions over many rooms at once."""

from __future__ import annotations


def readable(room: str) -> str:
    """Return the condition that the room with number `room` (an expression) is one that user $2 of tenant $1
    may be in at $3 (Unix ms); $4 is 1 where rooms that nobody has created are open. The same as
    `state.may_enter`; the policy is asked besides (`Chat.may_read`).
    """
    return f"""EXISTS (
        SELECT 1 FROM rooms readable LEFT JOIN chat_rooms about ON about.room = readable.id
        LEFT JOIN chat_members own ON own.room = readable.id AND own.user_id = $2
        WHERE readable.id = {room} AND {may_enter("readable", "about", "own")}
    )"""


def may_enter(rooms: str, about: str, own: str) -> str:
    """Return the same condition for a question that has the tables at hand: a room's rows of `rooms` and
    `chat_rooms`, and the user's of `chat_members`, by these aliases; the latter two need not be there.
    """
    return f"""{rooms}.tenant = $1 AND {rooms}.name LIKE 'chat:%'
        AND coalesce({about}.visibility, 'public') <> 'deleted' AND coalesce({own}.banned_until_ms, 0) <= $3
        AND CASE WHEN coalesce({about}.visibility, 'public') <> 'public' THEN coalesce({own}.role, 0) > 0
            WHEN coalesce({about}.created_ms, 0) = 0 THEN $4 = 1 AND {rooms}.name NOT LIKE 'chat:~%'
            ELSE 1 = 1 END"""
