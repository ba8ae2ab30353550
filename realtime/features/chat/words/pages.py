"""Questions about what was said: pages of messages as they are now, their edits, what is pinned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from realtime.core.database import Cells
from realtime.core.personal import stamp
from realtime.core.sealed import refuse_reader
from realtime.core.session import Session
from realtime.errors import BadMessage, Forbidden
from realtime.features.chat import ids
from realtime.features.chat.asking import identity_of
from realtime.features.chat.rooms.rooms import Look
from realtime.features.chat.rooms.state import Role
from realtime.features.chat.words.draft import Edits, History, Nothing
from realtime.features.chat.words.shown import Row, columns, shown
from realtime.ids import RoomId

if TYPE_CHECKING:
    from realtime.features.chat.chat import Chat

PAGE_CHARS: Final = 200_000  # of messages in one answer, about; there is one in any case
PINS_SHOWN: Final = 100
NO_ID: Final = 2**63 - 1


async def history(chat: Chat, session: Session, room: RoomId | None, asked: History) -> dict[str, Any]:
    """Return a page of a room's messages as they are now, oldest first."""
    room, look = await reading(chat, session, room)
    if asked.before is not None and asked.after is not None:
        raise BadMessage("content: `before` and `after` exclude each other")
    forward = asked.after is not None
    bound = NO_ID if asked.before is None else ids.read_id(asked.before)
    if asked.after is not None:
        bound = ids.read_id(asked.after)
    values: list[Any] = [look.room.number, bound, identity_of(session).user, asked.limit + 1]
    where = f"m.room = $1 AND m.id {'>' if forward else '<'} $2"
    if asked.thread is not None:
        where += " AND m.thread = $5"
        values.append(ids.read_id(asked.thread))
    rows = await chat.services.database.read(
        f"SELECT {columns(chat.services.database.dialect, '$3')} FROM chat_messages m "
        f"JOIN rooms r ON r.id = m.room WHERE {where} ORDER BY m.id{'' if forward else ' DESC'} LIMIT $4",
        *values,
    )
    page = fitted(rows[: asked.limit])
    more = len(page) < len(rows)
    return {"messages": _shown(page if forward else reversed(page), look), "more": more}


async def edits(chat: Chat, session: Session, room: RoomId | None, asked: Edits) -> dict[str, Any]:
    """Return what a message said before it was edited, oldest first, each with when it was written."""
    room, look = await reading(chat, session, room)
    id = ids.read_id(asked.id)
    found = await chat.services.database.read(
        "SELECT e.text AS text, e.at_ms AS at_ms FROM chat_edits e "
        "JOIN chat_messages m ON m.room = e.room AND m.id = e.message "
        "WHERE e.room = $1 AND e.message = $2 AND m.deleted_ms = 0 AND (m.hidden_ms = 0 OR $3 = 1) "
        'ORDER BY e."offset", e.epoch LIMIT 1000',
        look.room.number,
        id,
        int(look.role >= Role.MODERATOR),
    )
    return {"edits": [{"text": text, "at": stamp(at_ms)} for text, at_ms in found]}


async def pins(chat: Chat, session: Session, room: RoomId | None, asked: Nothing) -> dict[str, Any]:
    """Return what is pinned in a room, what was pinned last first."""
    room, look = await reading(chat, session, room)
    rows = await chat.services.database.read(
        f"SELECT {columns(chat.services.database.dialect, '$2')} FROM chat_pins p "
        "JOIN chat_messages m ON m.room = p.room AND m.id = p.message JOIN rooms r ON r.id = m.room "
        "WHERE p.room = $1 ORDER BY p.at_ms DESC, m.id DESC LIMIT $3",
        look.room.number,
        identity_of(session).user,
        PINS_SHOWN,
    )
    return {"messages": _shown(fitted(rows), look)}


async def reading(chat: Chat, session: Session, room: RoomId | None) -> tuple[RoomId, Look]:
    """Return a room whose messages are asked for, to a session that may read them.

    Raises:
        BadMessage: none is named, or nobody can read its messages here: they are sealed.
        Forbidden: as `Rooms.look`; or its history is not for them.
    """
    if room is None:
        raise BadMessage("`room` has to name a chat room")
    look = await chat.rooms.look(session, room)
    if not chat.may_read(session, room):
        raise Forbidden("you may not read what was said here")
    flags = chat.core.rules.of(room)
    if flags.end_to_end:
        raise refuse_reader("page of messages; ask for its `history`")
    if flags.encrypted:
        raise BadMessage("this room is encrypted where it is kept: ask for its `history`")
    return room, look


def fitted(rows: list[Cells]) -> list[Cells]:
    """Return the first of some rows, as many as one answer takes; of others the first."""
    room = PAGE_CHARS
    for count, row in enumerate(rows):
        room -= len(Row(*row).content)
        if room < 0 and count:
            return rows[:count]
    return rows


def _shown(rows: Iterable[Cells], look: Look) -> list[dict[str, Any]]:
    return [shown(row, sees_hidden=look.role >= Role.MODERATOR) for row in rows]
