"""The kind of rooms that the chat is in, and the names of those that hide."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Final

from realtime.core.kinds import RoomKind
from realtime.ids import RoomName, UserId

KIND: Final = "chat"
# Names of this form are ours to give, so nobody learns by asking whether such a room is there: `~` and a
# random or a hashed rest.
HIDDEN: Final = "~"
NOTICE: Final = "chat_notice"
"""What the server says of a room in its log. It is no message type, so no client may send it."""


KINDS: Final = (RoomKind(name=KIND, durable=True),)


def is_hidden(room: RoomName) -> bool:
    """Whether a room's name is one that we give: it is there only if it was created."""
    return room.startswith(f"{KIND}:{HIDDEN}")


def new_private_name() -> RoomName:
    """Return the name of a new private room, which nobody can guess."""
    return RoomName(f"{KIND}:{HIDDEN}{secrets.token_hex(12)}")


def keyed_name(user: UserId, key: str) -> RoomName:
    """Return the name of the room that a user creates by a key: the same for a repeat, and nobody else's."""
    return _hashed(f"\0{user}\0{key}")  # of no users: their ids are not empty, and have no U+0000


def direct_name(users: Iterable[UserId]) -> RoomName:
    """Return the name of the room of just these users: the same, whoever asks and in whatever order."""
    return _hashed("\0".join(sorted(set(users))))


def _hashed(told: str) -> RoomName:
    return RoomName(f"{KIND}:{HIDDEN}{hashlib.sha256(told.encode()).hexdigest()[:24]}")
