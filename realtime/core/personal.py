"""What is left of a publication when its sender is erased: its place in the room's order, and a pseudonym."""

from __future__ import annotations

import secrets
from typing import Any, Final

import msgspec

from realtime.core.audit_chain import rfc3339

KEPT: Final = ("type", "room", "from", "content", "timestamp", "offset", "epoch")
ERASED: Final = {"erased": True}
"""The content of a tombstone."""


def new_pseudonym() -> str:
    """Return a user id that nobody has: what one erasure calls the user, wherever the name stood."""
    return f"erased-{secrets.token_hex(8)}"


def own_room(user: str) -> str:
    """Return the name of the room that is the user's own."""
    return f"user:{user}"


def stamp(at_ms: int) -> str:
    """Return a time as messages carry it: RFC 3339 UTC with milliseconds."""
    whole, rest = rfc3339(at_ms * 1000).split(".")
    return f"{whole}.{rest[:3]}Z"


def tombstone(push: bytes, user: str, pseudonym: str, known: dict[str, Any]) -> bytes:
    """Return a push without what it said, and with `pseudonym` where it named `user`.

    One that is sealed is not opened for it: its tombstone has what is `known` of it, and type `erased`.
    """
    try:
        told = msgspec.json.decode(push, type=dict[str, Any])
    except msgspec.MsgspecError:
        told = {"type": "erased", **known}
    left = {name: told[name] for name in KEPT if name in told} | {"content": ERASED}
    if left.get("from") == user:
        left["from"] = pseudonym
    if left.get("room") == own_room(user):
        left["room"] = own_room(pseudonym)
    return msgspec.json.encode(left)
