"""A message as members are shown it: what of it is selected, and its form on the wire.

Whoever selects messages, for a page, a search or an attachment, takes `columns` and gives each row to
`shown`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec

from realtime.core.database import Cells, Dialect
from realtime.core.personal import stamp
from realtime.features.chat import ids

EMOJI_SHOWN: Final = 50  # kinds of reactions
REPLIES_COUNTED: Final = 1000


class Row(NamedTuple):
    """The cells of `columns`, in their order. `reactions` is a JSON array of [emoji, count, whether mine]."""

    id: int
    room: str
    sender: str | None
    offset: int
    epoch: str
    content: str
    thread: int | None
    edited_ms: int
    deleted_ms: int
    hidden_ms: int
    replies: int
    pinned: int
    reactions: str | None


def columns(dialect: Dialect, user: str) -> str:
    """Return what to select of message `m` (chat_messages) in room `r` (rooms) for user `user` ("$2")."""
    # As text: what SQLite knows to be JSON it puts as an array into the row that is read.
    array, cell, end = ("json_group_array", "json_array", " || ''")
    if dialect == "postgres":
        array, cell, end = ("json_agg", "json_build_array", "::text")
    return f"""m.id AS id, r.name AS room, m.sender AS sender, m."offset" AS place, m.epoch AS epoch,
        m.content AS content, m.thread AS thread, m.edited_ms AS edited_ms, m.deleted_ms AS deleted_ms,
        m.hidden_ms AS hidden_ms,
        (SELECT count(*) FROM (SELECT 1 AS one FROM chat_messages reply WHERE reply.room = m.room
            AND reply.thread = m.id AND reply.deleted_ms = 0 LIMIT {REPLIES_COUNTED}) replies) AS replies,
        CASE WHEN EXISTS (SELECT 1 FROM chat_pins pin WHERE pin.room = m.room AND pin.message = m.id)
            THEN 1 ELSE 0 END AS pinned,
        (SELECT {array}({cell}(emoji, given, mine)){end} FROM (
            SELECT emoji, count(*) AS given, max(CASE WHEN user_id = {user} THEN 1 ELSE 0 END) AS mine
            FROM chat_reactions reaction WHERE reaction.room = m.room AND reaction.message = m.id
            GROUP BY emoji ORDER BY min(at_ms), emoji LIMIT {EMOJI_SHOWN}) reactions) AS reactions"""


def shown(cells: Cells, *, sees_hidden: bool = False) -> dict[str, Any]:
    """Return a selected message as it is sent. Of a deleted one its place is left, and of a hidden one for
    whoever is no moderator.
    """
    row = Row(*cells)
    told: dict[str, Any] = {
        "id": ids.text_of(row.id),
        "room": row.room,
        "from": row.sender,
        "at": stamp(ids.at_ms(row.id)),
        "offset": row.offset,
        "epoch": row.epoch,
    }
    if row.thread is not None:
        told["thread"] = ids.text_of(row.thread)
    if row.replies:
        told["replies"] = row.replies
    if row.deleted_ms:
        return told | {"deleted": True}
    if row.hidden_ms:
        told["hidden"] = True
        if not sees_hidden:
            return told
    told |= _content(row.content)
    if row.pinned:
        told["pinned"] = True
    reactions = msgspec.json.decode(row.reactions) if row.reactions else []
    if reactions:
        told["reactions"] = {emoji: {"count": count, "mine": bool(mine)} for emoji, count, mine in reactions}
    return told


def _content(text: str) -> dict[str, Any]:
    """What a content has beside what stands in columns."""
    try:
        content = msgspec.json.decode(text)
    except msgspec.DecodeError:  # of another program's making
        return {"text": ""}
    return {name: value for name, value in content.items() if name not in _NOT_SHOWN}


_NOT_SHOWN: Final = frozenset(
    {"id", "room", "from", "at", "offset", "epoch", "thread", "replies", "pinned", "reactions", "scheduled",
     "deleted", "hidden"}
)  # fmt: skip
