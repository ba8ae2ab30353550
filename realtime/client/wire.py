"""The envelope as the client sees it, in both codecs, and the types its users hold in their hands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import msgspec

JSON_SUBPROTOCOL = "realtime.v1.json"
MSGPACK_SUBPROTOCOL = "realtime.v1.msgpack"


class Position(msgspec.Struct, frozen=True):
    """A message's place in its room. `duplicate`: the server had this publication already."""

    offset: int
    epoch: str
    duplicate: bool = False


class Message(msgspec.Struct, frozen=True):
    """One message of the server. `offset` and `epoch` are None on what has no order, such as typing.

    `id` is None on everything but answers, which users never see.
    """

    type: str
    content: Any = None
    room: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    offset: int | None = None
    epoch: str | None = None
    timestamp: str | None = None
    id: int | str | None = None


class Gap(msgspec.Struct, frozen=True):
    """Messages of a room that will not come: offsets `first` to `last`, both included.

    Both are None where the room has started anew (`reason` "epoch_changed"): then the loss cannot be
    counted. The reason is the server's, or "slow_reader" for what this process did not take in time.
    """

    first: int | None
    last: int | None
    reason: str


class MembersChanged(msgspec.Struct, frozen=True):
    """User ids that came to the room and that left it; `Room.members` has the whole."""

    joined: tuple[str, ...]
    left: tuple[str, ...]


class Resumed(msgspec.Struct, frozen=True):
    """The room was joined again, after a reconnect or to be active, and what was missed is here.

    Not `recovered`: a Gap has told what is not.
    """

    recovered: bool


class Unread(msgspec.Struct, frozen=True):
    """Told to a passive room: `count` publications since it turned passive, the last one at `position`."""

    count: int
    position: Position


class Page(NamedTuple):
    """Publications by offset, oldest first; `more` says that there are others in the asked direction."""

    messages: list[Message]
    more: bool


class Ping(NamedTuple):
    """`clock_offset_s`: what to add to our clock to have the server's, right to half the round trip."""

    round_trip_s: float
    clock_offset_s: float


class Codec(Protocol):
    """One of the two encodings."""

    subprotocol: str

    def encode(self, message: dict[str, Any]) -> bytes:
        """Return one message, encoded."""
        ...

    def frame(self, messages: Sequence[bytes]) -> str | bytes:
        """Return one frame's payload with all `messages`, in that order."""
        ...

    def decode(self, frame: str | bytes) -> list[Message]:
        """Return the messages of one frame.

        Raises:
            msgspec.DecodeError: the frame is not what the protocol says.
        """
        ...


class JsonCodec:
    """Text frames, one message a line."""

    subprotocol = JSON_SUBPROTOCOL

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decoder = msgspec.json.Decoder(Message)

    def encode(self, message: dict[str, Any]) -> bytes:
        return self._encode(message)

    def frame(self, messages: Sequence[bytes]) -> str | bytes:
        return b"\n".join(messages).decode()

    def decode(self, frame: str | bytes) -> list[Message]:
        return self._decoder.decode_lines(frame)


class MsgpackCodec:
    """Binary frames, one map or one array of maps."""

    subprotocol = MSGPACK_SUBPROTOCOL

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder = msgspec.msgpack.Decoder(Message | list[Message])

    def encode(self, message: dict[str, Any]) -> bytes:
        return self._encode(message)

    def frame(self, messages: Sequence[bytes]) -> str | bytes:
        if len(messages) == 1:
            return messages[0]
        return b"\xdc" + len(messages).to_bytes(2, "big") + b"".join(messages)

    def decode(self, frame: str | bytes) -> list[Message]:
        decoded = self._decoder.decode(frame.encode() if isinstance(frame, str) else frame)
        return decoded if isinstance(decoded, list) else [decoded]


def unix_s(timestamp: object) -> float | None:
    """Return an RFC 3339 time as Unix seconds, None where it is none."""
    if not isinstance(timestamp, str):
        return None
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def user_ids(members: object) -> tuple[str, ...]:
    """Return the user ids of a roster, each once, in its order."""
    if not isinstance(members, list):
        return ()
    names = (one if isinstance(one, str) else _user_of(one) for one in members)
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _user_of(member: object) -> str | None:
    if not isinstance(member, dict):
        return None
    for key in ("user_id", "user", "id"):
        if isinstance(member.get(key), str):
            return str(member[key])
    return None
