"""What a feature is: plain data that its folder exports as `FEATURE`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from realtime.core.kinds import RoomKind

if TYPE_CHECKING:
    from realtime.core.core import Core
    from realtime.core.session import Session
    from realtime.native.message import Envelope

Handler = Callable[["Core", "Session", "Envelope"], Awaitable[None] | None]
"""Takes one message of its type; answers through the session. Raises RealtimeError to answer with an error.

What has to wait is returned as an awaitable, which the edge runs; a session's later messages do not wait
for it.
"""


class MessageType(msgspec.Struct, frozen=True, kw_only=True):
    """One `type` that clients send.

    `kinds` are the room kinds that it may be published to. `content` is what the body must be, an
    msgspec.Struct or any type msgspec decodes; None takes any JSON. Without a `handler` the message is
    published to its room as it stands; one that is `ephemeral` only to the members who are there now, outside
    of the room's order, and never kept.
    """

    name: str
    kinds: frozenset[str] = frozenset()
    content: Any = None
    handler: Handler | None = None
    ephemeral: bool = False


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: its rooms, its messages, and what it needs from the server.

    `room_keys` says which key of a content names the room where the envelope does not, and the kind of
    that room: {"chat_room_id": "chat"}. `permissions` are the names that roles grant; `migrations` is the
    folder of its numbered SQL files.
    """

    name: str
    kinds: tuple[RoomKind, ...] = ()
    messages: tuple[MessageType, ...] = ()
    room_keys: Mapping[str, str] = {}
    permissions: tuple[str, ...] = ()
    migrations: Path | None = None
