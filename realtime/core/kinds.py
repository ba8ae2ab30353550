"""Room kinds: what all rooms `kind:…` have in common. Features declare them."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from realtime.core.auth import Identity
from realtime.protocol.priority import Priority

MayJoin = Callable[[Identity, str], bool]
"""(who, the room's id without its kind) -> whether they may."""
MayPublish = Callable[[Identity, str, str], bool]
"""(who, the room's id without its kind, message type) -> whether they may."""

Conflate = Callable[[str, bytes], str]
"""(message type, content as JSON) -> what it is the newest of."""


class SlowReader(Enum):
    """What a member meets that reads slower than its room publishes."""

    DISCONNECT = "disconnect"  # it is closed with 4001, comes back and recovers
    DROP_OLDEST = "drop_oldest"  # what it lags behind too far is skipped, and a `gap` says so
    LATEST = "latest"  # when it reads again it gets the newest of each, with gaps between


def by_type(type: str, content: bytes) -> str:
    """Every message type is its own."""
    return type


class RoomKind(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one kind of rooms.

    A `durable` room is in the server's store, where there is one: what is published is delivered and acked
    when it is kept there. `history_messages` and `history_bytes` bound what a room keeps in memory for
    recovery, whichever is reached first; None takes the server's setting, 0 keeps nothing. `slow_reader` is
    what happens to a member that lags `lag_limit_bytes` or `lag_limit_messages` behind; `conflate` says for
    LATEST what replaces what. Where a connection is behind, its rooms of a higher `priority` are sent first;
    the order in a room stays.
    `may_join` and `may_publish` decide for who is authenticated, None allows; a publisher has to be a member
    unless `open_to_publish`.
    """

    name: str
    durable: bool = False
    history_messages: int | None = None
    history_bytes: int | None = None
    slow_reader: SlowReader = SlowReader.DISCONNECT
    lag_limit_bytes: int | None = None  # None: the server's setting
    lag_limit_messages: int | None = None  # None: the server's setting
    conflate: Conflate = by_type
    priority: Priority = Priority.NORMAL
    may_join: MayJoin | None = None
    may_publish: MayPublish | None = None
    open_to_publish: bool = False
    presence: bool = True
    presence_members: int | None = None  # most members whose coming and going is told; None: the setting
