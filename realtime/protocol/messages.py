"""The protocol's own messages: what their contents hold. The reference in docs/ is made from this page.

`Content` structs describe; only the small ones that clients send (`Join`, `History`, `Token`) are also what
the server decodes with. What it sends is spliced from bytes where it is hot, and tests hold that to the
types here. The contents of the features' event types are the features' own.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from realtime.protocol.priority import Priority

Sender = Literal["client", "server"]
Room = Literal["named", "none", "of what failed"]

Offset = Annotated[int, Meta(ge=0, le=2**53, description="Place of a publication in its room, from 1 on.")]
Epoch = Annotated[str, Meta(max_length=64, description="The order that the offset belongs to.")]
Timestamp = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds: `2025-07-15T10:30:00.123Z`.")]
UserId = Annotated[str, Meta(description="The token's `sub`.")]
Count = Annotated[int, Meta(ge=0)]
Milliseconds = Annotated[int, Meta(ge=0)]


class Content(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of one message type. Keys that it does not declare are ignored."""


class Token(Content, frozen=True):
    token: Annotated[str, Meta(description="A JSON Web Token.")]


class Since(Content, frozen=True):
    """The last publication that a client has seen. Half of it is no position, and no mistake either."""

    offset: Offset | None = None
    epoch: Epoch | None = None


class Join(Content, frozen=True):
    token: (
        Annotated[str, Meta(max_length=8192, description="The room token that a private room asks for.")]
        | None
    ) = None
    since: Annotated[Since | None, Meta(description="Asks for all that was published after it.")] = None


class History(Content, frozen=True):
    """`before` and `after` exclude each other; with neither the newest are meant."""

    before: Annotated[Offset | None, Meta(description="Only publications below this offset.")] = None
    after: Annotated[Offset | None, Meta(description="Only publications above this offset.")] = None
    limit: Annotated[int, Meta(ge=1, description="At most so many; the server may lower it.")] | None = None


class ConnectionLimits(Content, frozen=True):
    message_bytes: Annotated[int, Meta(ge=1, description="Of one frame that the client sends.")]
    messages_per_second: Annotated[float, Meta(gt=0)]
    rooms: Annotated[int, Meta(ge=1, description="That one connection may be in.")]
    bytes_per_second: (
        Annotated[float, Meta(gt=0, description="Absent where they are not limited.")] | None
    ) = None


class ReconnectWindow(Content, frozen=True):
    """A client that lost its connection waits a random time from this window, then backs off."""

    min_ms: Milliseconds
    max_ms: Milliseconds


class Connected(Content, frozen=True):
    connection_id: Annotated[str, Meta(description="Unique among all workers.")]
    user_id: UserId
    tenant: str
    node: Annotated[str, Meta(description="The worker that holds the connection.")]
    server_time: Timestamp
    heartbeat_s: Annotated[float, Meta(gt=0, description="Interval of the server's pings.")]
    limits: ConnectionLimits
    reconnect: ReconnectWindow


class Joined(Content, frozen=True):
    members: Annotated[list[UserId], Meta(description="Who is there, first come first; a crowd not in full.")]
    count: Annotated[Count, Meta(description="How many users are in the room.")]
    offset: Offset
    epoch: Epoch
    recovered: Annotated[bool, Meta(description="Whether `messages` is all that was missed; never a part.")]
    messages: Annotated[list[dict[str, Any]], Meta(description="The pushes that were missed, by offset.")]
    end_to_end: Annotated[
        bool, Meta(description="Members seal what they say for each other; nothing else is taken here.")
    ] = False


class Presence(Content, frozen=True):
    """An answer has `members`; a push has `joined` and `left`, or `members` after a crowd has thinned."""

    count: Annotated[Count, Meta(description="How many users are in the room.")]
    members: list[UserId] | None = None
    joined: list[UserId] | None = None
    left: list[UserId] | None = None


class HistoryPage(Content, frozen=True):
    messages: Annotated[list[dict[str, Any]], Meta(description="Pushes, oldest first.")]
    more: Annotated[bool, Meta(description="There are others in the direction asked for.")]


class Pong(Content, frozen=True):
    server_time: Timestamp


class Ack(Content, frozen=True):
    """Kept, at this place; of `passive`: where the room is. What stands in no order comes without one."""

    offset: Offset | None = None
    epoch: Epoch | None = None
    duplicate: Annotated[bool, Meta(description="The `key` came before; this is its first answer.")] = False
    expires_at: Annotated[int, Meta(description="Of a `refresh`: Unix seconds.")] | None = None


class Error(Content, frozen=True):
    code: Annotated[int, Meta(description="The HTTP status of the same meaning.")]
    name: Annotated[str, Meta(description="Stable; clients match on it.")]
    message: Annotated[str, Meta(description="One sentence for a human.")]
    temporary: Annotated[bool, Meta(description="Whether a retry may succeed.")]
    retry_after: Annotated[float, Meta(ge=0, description="Seconds to wait before it.")] | None = None
    limit: Annotated[str, Meta(description="The limit that was met: its setting's name.")] | None = None
    allowed: Annotated[float, Meta(ge=0, description="What that limit allows.")] | None = None


class Gap(Content, frozen=True):
    """Publications that will not come, so that received and gaps together are all that was published.

    Without offsets the room goes on in a new epoch, and nobody can say how many are missing.
    """

    first: Annotated[Offset | None, Meta(description="The first one missing.")] = msgspec.field(name="from")
    last: Annotated[Offset | None, Meta(description="The last one missing.")] = msgspec.field(name="to")
    reason: Annotated[
        str, Meta(description="`slow_consumer`, `unrecoverable`, or without offsets `epoch_changed`.")
    ]


class Notification(Content, frozen=True):
    """Something for the user, whatever rooms the connection is in. It has no place in any order."""

    id: Annotated[str, Meta(max_length=64, description="Its own: a repeat of it is the same one again.")]
    title: str
    content: Annotated[str, Meta(description="What it says, as text.")]
    priority: Annotated[Priority, Meta(description="0 LOW, 1 NORMAL, 2 HIGH, 3 CRITICAL.")]
    data: Annotated[dict[str, Any], Meta(description="What the application goes by; empty where nothing.")]


class Unread(Content, frozen=True):
    """What a passive member gets instead of a room's publications, at most once a second."""

    count: Annotated[int, Meta(ge=1, description="Publications since it turned passive.")]
    offset: Annotated[Offset, Meta(description="The last of them.")]
    epoch: Epoch


class TokenExpiring(Content, frozen=True):
    """The connection is closed (4003) when the token ends, unless a `refresh` gives a newer one before."""

    expires_at: Annotated[int, Meta(description="Unix seconds.")]
    expires_in_s: Count


class Left(Content, frozen=True):
    """The client is in the room no longer. It did not ask to leave: who may be there has changed."""

    reason: Annotated[
        str,
        Meta(
            description="`forbidden`: its roles, or the rules for them, have changed. `room_token_expired`, "
            "`room_token_revoked`: what let it into the private room holds no more."
        ),
    ]


class MessageType(msgspec.Struct, frozen=True, kw_only=True):
    """One `type`: who sends it, with which content (None: any or none), and what answers it.

    Every message with an `id` is answered by exactly one message with that id: `answer`, or `error`.
    """

    name: str
    sender: Sender
    description: str
    content: type[Content] | None = None
    room: Room = "none"
    answer: str | None = None


def _index(*types: MessageType) -> dict[str, dict[str, MessageType]]:
    index: dict[str, dict[str, MessageType]] = {"client": {}, "server": {}}
    for each in types:
        index[each.sender][each.name] = each
    return index


_TYPES: Final = _index(
    MessageType(
        name="connect",
        sender="client",
        content=Token,
        answer="connected",
        description="Gives the token as the first message, where the handshake carried none.",
    ),
    MessageType(
        name="refresh",
        sender="client",
        content=Token,
        answer="ack",
        description="Gives a newer token of the same user, before the old one ends.",
    ),
    MessageType(
        name="join",
        sender="client",
        content=Join,
        room="named",
        answer="joined",
        description="Enters a room, and asks for what was missed there.",
    ),
    MessageType(name="leave", sender="client", room="named", answer="ack", description="Leaves a room."),
    MessageType(
        name="passive",
        sender="client",
        room="named",
        answer="ack",
        description="Asks for the count of what is published instead of it, until the next `join`.",
    ),
    MessageType(
        name="publish",
        sender="client",
        room="named",
        answer="ack",
        description="The plain event, with any content, for rooms of kind `events`.",
    ),
    MessageType(
        name="presence",
        sender="client",
        room="named",
        answer="presence",
        description="Asks who is there.",
    ),
    MessageType(
        name="history",
        sender="client",
        content=History,
        room="named",
        answer="history",
        description="Asks for earlier publications of a room.",
    ),
    MessageType(name="ping", sender="client", answer="pong", description="Asks for the server's time."),
    MessageType(
        name="connected",
        sender="server",
        content=Connected,
        description="The first message of every connection: who the client is taken for, what it may do.",
    ),
    MessageType(
        name="joined",
        sender="server",
        content=Joined,
        room="named",
        description="The room as it was.",
    ),
    MessageType(
        name="ack", sender="server", content=Ack, room="named", description="Done; of a publication: kept."
    ),
    MessageType(
        name="presence",
        sender="server",
        content=Presence,
        room="named",
        description="Who is in a room; without an id: who came and went since the last one.",
    ),
    MessageType(
        name="history",
        sender="server",
        content=HistoryPage,
        room="named",
        description="Publications.",
    ),
    MessageType(name="pong", sender="server", content=Pong, description="The server's time."),
    MessageType(
        name="error",
        sender="server",
        content=Error,
        room="of what failed",
        description="Refused; the connection stays. Without an id it is about a message that had none.",
    ),
    MessageType(
        name="gap",
        sender="server",
        content=Gap,
        room="named",
        description="Publications that will not come: dropped by policy, or lost.",
    ),
    MessageType(
        name="notification",
        sender="server",
        content=Notification,
        description="Something for the user, on all of their connections.",
    ),
    MessageType(
        name="left",
        sender="server",
        content=Left,
        room="named",
        description="Puts the client out of a room; nothing more comes from there.",
    ),
    MessageType(
        name="unread",
        sender="server",
        content=Unread,
        room="named",
        description="How much was published since the client turned passive in a room.",
    ),
    MessageType(
        name="token_expiring",
        sender="server",
        content=TokenExpiring,
        description="The token ends soon: time for a `refresh`.",
    ),
)

FROM_CLIENT: Final = _TYPES["client"]
"""By name, what clients send beside the features' event types."""
FROM_SERVER: Final = _TYPES["server"]
"""By name, what the server sends beside the pushes of event types."""
