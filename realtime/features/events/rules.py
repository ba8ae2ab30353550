"""The rooms that events go to, and who may be in them."""

from realtime.core.auth import Identity
from realtime.core.kinds import RoomKind, SlowReader
from realtime.protocol.priority import Priority


def is_own_room(identity: Identity, id: str) -> bool:
    """Whether `user:<id>` is the room of this very user: nobody else may be in it."""
    return id == identity.user


# Durable is what somebody looks for tomorrow: the making of a playlist, what was sent to a user who
# was away. A session's play and seek and an application's own events are over when they are over, and worth
# their speed: in a durable room nobody hears of anything before it is on the disk.
#
# Whoever reads too slowly is disconnected, comes back and recovers: nothing is lost to it that the history
# still has, where a drop would be a loss. Only of a listening session the state is what counts: there it gets
# the newest of each type, and asks `history` where a gap matters to it.
KINDS = (
    RoomKind(name="events"),
    RoomKind(name="session", slow_reader=SlowReader.LATEST),
    RoomKind(name="playlist", durable=True),
    RoomKind(name="user", durable=True, may_join=is_own_room, presence=False, priority=Priority.HIGH),
)
