"""Names of things: typed, bounded, and checked once where they enter.

Each is a `NewType` of `str`, so that a name costs nothing after the check and mypy keeps them apart. A room
is named within a tenant: two tenants' `chat:lobby` are two rooms, so a name alone identifies none, and a
`RoomId` cannot be made without its tenant. Every parser raises `BadMessage`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NewType

from realtime.errors import BadMessage

RoomName = NewType("RoomName", str)
"""`kind:id`, such as `chat:lobby`: what a room is called within its tenant."""
UserId = NewType("UserId", str)
"""The token's subject."""
TenantId = NewType("TenantId", str)


class RoomId(NamedTuple):
    """One room of all there are: what brokers, stores and caches know it by."""

    tenant: TenantId
    room: RoomName


DEFAULT_TENANT: Final = TenantId("default")
ROOM_BYTES_MAX: Final = 200
USER_BYTES_MAX: Final = 128

# Kinds are ours (a feature names them), so the alphabet is narrow. Ids are the customers': any printable
# text, which keeps control characters, line breaks and bidirectional overrides out of logs and rosters.
_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def parse_room(text: str) -> RoomName:
    """Return `text` as a room's name.

    Raises:
        BadMessage: it is not `kind:id`, the kind is not [a-z][a-z0-9_]{0,31}, the id is empty or has
            unprintable characters or a space at an end, or it is over 200 bytes of UTF-8.
    """
    kind, colon, name = text.partition(":")
    if not colon:
        raise BadMessage(f"room {text[:64]!r} is not kind:id, such as chat:lobby")
    if not _KIND.fullmatch(kind):
        raise BadMessage(f"room {text[:64]!r}: the kind must match {_KIND.pattern}")
    _check_text("room", name, ROOM_BYTES_MAX - len(kind) - 1)
    return RoomName(text)


def room_kind(room: RoomName) -> str:
    """The part before the first colon: `chat` of `chat:lobby`."""
    return room[: room.index(":")]


def id_in_kind(room: RoomName) -> str:
    """The part after the first colon: `lobby` of `chat:lobby`. It may hold more colons."""
    return room[room.index(":") + 1 :]


def parse_user(text: str) -> UserId:
    """Return `text` as a user's id.

    Raises:
        BadMessage: it is empty, over 128 bytes of UTF-8, or has unprintable characters or a space at an end.
    """
    _check_text("user id", text, USER_BYTES_MAX)
    return UserId(text)


def parse_tenant(text: str) -> TenantId:
    """Return `text` as a tenant's id.

    Raises:
        BadMessage: it does not match [A-Za-z0-9][A-Za-z0-9._-]{0,63}.
    """
    if not _TENANT.fullmatch(text):
        raise BadMessage(f"tenant {text[:64]!r} must match {_TENANT.pattern}")
    return TenantId(text)


def _check_text(what: str, text: str, bytes_max: int) -> None:
    if not text:
        raise BadMessage(f"{what} is empty")
    # isprintable() is false for lone surrogates, so the encoding below cannot fail.
    if not text.isprintable():
        raise BadMessage(f"{what} {text[:64]!r} has unprintable characters")
    if text[0] == " " or text[-1] == " ":
        raise BadMessage(f"{what} {text[:64]!r} begins or ends with a space")
    if len(text) > bytes_max or len(text.encode()) > bytes_max:
        raise BadMessage(f"{what} is over {bytes_max} bytes")
