"""The relay: the straight way of a message from its frame to its room, which nearly all traffic takes."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from realtime.native.message import Envelope, Malformed
from realtime.native.ratelimit import Allowance
from realtime.native.sequence import Sequence

class SessionBase:
    """What the relay reads of a session.

    `live` are the rooms of its tenant by name, `rooms` those it is in, `limited` those of them where it may
    not send all that their members may, None where there are none; `handlers` are by message type;
    `credit` is how many messages it may send before `pay` is asked; `allowance` what its user and tenant may
    send, None where that is not limited.
    """

    connection: Any
    identity: Any
    tenant: Any
    backlog: Any
    rooms: Any
    limited: set[Any] | None
    handlers: dict[str, Any]
    live: dict[str, Any]
    user_json: bytes
    credit: int
    allowance: Allowance | None
    def __init__(self, connection: Any, handlers: dict[str, Any]) -> None: ...
    @property
    def variant(self) -> int:
        """Of the connection; stays when that is gone."""
    @property
    def binary(self) -> bool: ...

class Log(Protocol):
    """Takes what goes to all members that read it."""

    def append(self, payload: bytes, offset: int = 0) -> None: ...

class RoomBase:
    """What the relay reads of a room.

    `types` are what any member may publish; `sequence` orders it, None when that happens elsewhere. `log` is
    the one log that all its members read, where it is of uncompressed JSON; else it is None, and
    `deliver_to_all(push, offset)` is called, as while `arriving` is not 0. `members` is what a publication
    costs in deliveries.
    """

    json: bytes
    types: frozenset[str]
    sequence: Sequence | None
    log: Log | None
    arriving: int
    members: int
    def take(self, types: frozenset[str]) -> None:
        """Let any member publish `types` from now on, without another look."""
    def deliver(self, push: bytes, offset: int) -> None:
        """Give one publication to the members."""
    def deliver_to_all(self, push: bytes, offset: int) -> None: ...

class Rules(Protocol):
    """Who answers for all that is not straight. What its methods raise is the answer to the message."""

    def pay(self, session: Any) -> None:
        """Take what a message costs from a session without credit."""
    def over(self, limit: str, allowed: float, wait_s: float) -> Exception:
        """Return the error for what is over a rate of its user or tenant."""
    def set_aside(self, session: Any, message: Envelope | Malformed) -> None:
        """Deal with a message that has no handler."""
    def finish(self, session: Any, message: Envelope, outcome: Awaitable[None]) -> None:
        """Have awaited what a handler returned."""
    def fail(self, session: Any, message: Envelope | Malformed, error: Exception) -> bool:
        """Answer a message with its error; False: the connection is closed, drop the rest."""

class Stamp(Protocol):
    """The time of now."""

    @property
    def timestamp(self) -> bytes: ...

class Relay:
    """Takes frames to handlers. Two of them it knows: it does what `ping` does by itself, and what `publish`
    does where the case is straight.
    """

    def __init__(
        self,
        core: Rules,
        stamp: Stamp,
        publish: Callable[[Any, Envelope], Awaitable[None] | None],
        ping: Callable[[Any, Envelope], None],
        on_stranger: Callable[[Any, bytes], object],
        messages_per_frame: int,
        content_bytes: int,
    ) -> None: ...
    def receive(self, state: object, payload: bytes) -> None:
        """Handle one frame: the messages in it, in order. Never raises over what a peer sent.

        It stands directly behind the hub; a `state` that is no session goes to `on_stranger`.
        """
