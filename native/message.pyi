"""What becomes of one message that a client sent."""

class Envelope:
    """One sound message. Immutable.

    `id` is the raw JSON token to echo (`b'7'`, `b'"a1"'`); `content` is validated JSON text on one
    line. What is absent in the message is None.
    """

    type: str
    id: bytes | None
    room: str | None
    key: str | None
    content: bytes | None
    def __init__(
        self,
        type: str,
        id: bytes | None = None,
        room: str | None = None,
        key: str | None = None,
        content: bytes | None = None,
    ) -> None: ...

class Malformed:
    """One message that is refused: `reason` says what, where (byte of the frame) and what is allowed.

    `id` is the raw token of the message's id, where it was read before the fault. `messages_max` is how many
    a frame may have, where it had more; else 0.
    """

    reason: str
    id: bytes | None
    messages_max: int
    def __init__(self, reason: str, id: bytes | None = None) -> None: ...
