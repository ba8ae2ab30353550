"""The rooms that events go to, and who may be in them."""

from realtime.core.auth import Identity
from realtime.core.kinds import RoomKind


def is_own_room(identity: Identity, id: str) -> bool:
    """Whether `user:<id>` is the room of this very user: nobody else may be in it."""
    return id == identity.user


KINDS = (
    RoomKind(name="events"),
    RoomKind(name="chat"),
    RoomKind(name="session"),
    RoomKind(name="playlist"),
    RoomKind(name="user", may_join=is_own_room, presence=False),
)
