"""`[[rooms]]`: what holds for rooms by their names."""

from __future__ import annotations

from realtime.policy.section import Patterns, Section


class RoomRule(Section, frozen=True, kw_only=True):
    """What holds for the rooms that one of `rooms` (such as `chat:secret-*`) names, in `tenants`.

    Several rules may speak of a room: what one of them turns on is on. A `private` room is entered with a
    room token alone. Of an `encrypted` one no store, and no Redis, holds a plain text. In an `end_to_end` one
    members seal what they publish for each other, and the server takes nothing that is not sealed.
    """

    rooms: Patterns
    tenants: Patterns = ("*",)
    private: bool = False
    encrypted: bool = False
    end_to_end: bool = False
