"""Room kinds: what all rooms `kind:…` have in common. Features declare them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from realtime.core.auth import Identity

MayJoin = Callable[[Identity, str], bool]
"""(who, the room's id without its kind) -> whether they may."""
MayPublish = Callable[[Identity, str, str], bool]
"""(who, the room's id without its kind, message type) -> whether they may."""


class RoomKind(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one kind of rooms.

    `history_messages` and `history_bytes` bound what a room keeps for recovery, whichever is reached first;
    None takes the server's setting, 0 keeps nothing. A member that reads slower than its room publishes is
    cut (4001) when it lags `lag_limit_bytes` behind; it comes back and recovers. `may_join` and `may_publish`
    decide for who is authenticated, None allows; a publisher has to be a member unless `open_to_publish`.
    """

    name: str
    durable: bool = False
    history_messages: int | None = None
    history_bytes: int | None = None
    lag_limit_bytes: int | None = None  # None: the server's setting
    may_join: MayJoin | None = None
    may_publish: MayPublish | None = None
    open_to_publish: bool = False
    presence: bool = True
    presence_members: int | None = None  # most members whose coming and going is told; None: the setting
