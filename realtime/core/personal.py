"""What is left of a publication when its sender is erased: its place in the room's order, and a pseudonym."""

from __future__ import annotations

import secrets
from typing import Any, Final

import msgspec

KEPT: Final = ("type", "room", "from", "content", "timestamp", "offset", "epoch")
ERASED: Final = {"erased": True}
"""The content of a tombstone."""


def new_pseudonym() -> str:
    """Return a user id that nobody has: what one erasure calls the user, wherever the name stood."""
    return f"erased-{secrets.token_hex(8)}"


def own_room(user: str) -> str:
    """Return the name of the room that is the user's own."""
    return f"user:{user}"


def tombstone(push: bytes, user: str, pseudonym: str) -> bytes:
    """Return a push without what it said, and with `pseudonym` where it named `user`.

    What is no JSON object (it is sealed, and its key is not here) keeps nothing but that it was there.
    """
    try:
        told = msgspec.json.decode(push, type=dict[str, Any])
    except msgspec.MsgspecError:
        told = {"type": "erased", "from": user, "content": None}
    left = {name: told[name] for name in KEPT if name in told} | {"content": ERASED}
    if left.get("from") == user:
        left["from"] = pseudonym
    if left.get("room") == own_room(user):
        left["room"] = own_room(pseudonym)
    return msgspec.json.encode(left)
