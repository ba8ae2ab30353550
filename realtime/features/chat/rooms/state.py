"""A chat room as its owner has it in memory, and what somebody is in it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from realtime.errors import Forbidden, RateLimited

PUBLIC: Final = "public"
PRIVATE: Final = "private"
DIRECT: Final = "direct"
DELETED: Final = "deleted"
"""Nobody may be in it, whatever is still kept of it, and its name is not given again."""
GONE: Final = "you may not join this room"  # the same word for word as of a room that is hidden


class Role(IntEnum):
    """What a member may do, each all that those before may."""

    NONE = 0  # no member
    READER = 1
    MEMBER = 2
    MODERATOR = 3
    OWNER = 4

    @property
    def word(self) -> str:
        """What it is called on the wire."""
        return self.name.lower()


class RoomState(msgspec.Struct, kw_only=True):
    """One room. `created_ms` is 0 for a public room that nobody has created.

    `retention_s` 0 keeps everything, `slow_s` is how long each member waits between two messages. `version`
    names the last change, as the tables have it; empty where they have none.
    """

    number: int  # rooms.id; 0 until something is kept of it
    version: str = ""
    visibility: str = PUBLIC  # or PRIVATE, DIRECT, DELETED
    title: str = ""
    topic: str = ""
    created_ms: int = 0
    created_by: str = ""
    members: int = 0  # as the tables had it when it was read
    archived_ms: int = 0
    slow_s: int = 0
    retention_s: int = 0
    hold: bool = False

    @property
    def hidden(self) -> bool:
        """Whether those who are no members may not know of it."""
        return self.visibility != PUBLIC


class Standing(msgspec.Struct, kw_only=True):
    """What somebody is in one room. Times are Unix ms, 0 for never; `sent_ms` is their last message, and
    `since_ms` when they became a member.
    """

    role: Role = Role.NONE
    since_ms: int = 0
    banned_until_ms: int = 0
    muted_until_ms: int = 0
    sent_ms: int = 0

    def banned(self, now_ms: int) -> bool:
        """Whether they may not be in it now."""
        return self.banned_until_ms > now_ms


def may_enter(
    room: RoomState | None, standing: Standing, now_ms: int, *, open_rooms: bool, hidden: bool
) -> bool:
    """Whether somebody may be in a room; `room` is None where nobody has created it, `hidden` by its name."""
    if standing.banned(now_ms) or (room is not None and room.visibility == DELETED):
        return False
    if room is not None and room.hidden:
        return standing.role > Role.NONE
    if room is None or not room.created_ms:
        return open_rooms and not hidden
    return True


def check_send(room: RoomState, standing: Standing, now_ms: int) -> None:
    """Take a message of a member.

    Raises:
        Forbidden: the room is archived, or they may only read, or are muted or banned.
        RateLimited: the room is slow, and they sent one a moment ago.
    """
    gone = room.visibility == DELETED or (room.hidden and standing.role is Role.NONE)
    if gone or standing.banned(now_ms):
        raise Forbidden(GONE)
    if room.archived_ms:
        raise Forbidden("this room is archived: it takes no messages")
    if standing.role is Role.READER:
        raise Forbidden("you may only read here")
    if standing.muted_until_ms > now_ms:
        raise Forbidden(f"you are muted for {(standing.muted_until_ms - now_ms + 999) // 1000} s more")
    wait_ms = standing.sent_ms + room.slow_s * 1000 - now_ms
    if room.slow_s and wait_ms > 0 and standing.role < Role.MODERATOR:
        raise RateLimited(
            f"this room is slow: one message in {room.slow_s} s",
            retry_after_s=wait_ms / 1000,
            limit="slow_mode",
            allowed=room.slow_s,
        )
