"""What the server sends, spliced from bytes; `id`, `content` and what ends in `_json` is JSON text."""

def json_string(text: str) -> bytes:
    """Return `text` as a JSON string in its quotes.

    Raises:
        UnicodeEncodeError: `text` holds a lone surrogate.
    """

def encode_push(
    type: str | bytes,
    room_json: bytes,
    from_json: bytes | None,
    offset: int,
    epoch: bytes,
    content: bytes,
    timestamp: bytes,
) -> bytes:
    """Return the push of one publication.

    `type` is the bare name (UTF-8 if bytes); `room_json` and `from_json` are JSON strings in their
    quotes, `content` is JSON text; `epoch` and `timestamp` stand without quotes and need no escape.

    Raises:
        OverflowError: `offset` is not within 0 and 2^64 - 1.
    """

def encode_ack(id: bytes, room_json: bytes, offset: int, epoch: bytes, duplicate: bool = False) -> bytes:
    """Return the ack of a publication; `id` is the raw token of the Envelope, the rest as in `encode_push`.

    Raises:
        OverflowError: `offset` is not within 0 and 2^64 - 1.
    """

def encode_pong(id: bytes, timestamp: bytes) -> bytes:
    """Encode the `pong` that answers the `ping` with this id."""

def encode_reply(type: str | bytes, id: bytes | None, room_json: bytes | None, content: bytes) -> bytes:
    """Return any other answer, or a push outside a room's order; None leaves its key out."""

def encode_error(
    id: bytes | None,
    code: int,
    name: str,
    message: str,
    temporary: bool,
    retry_after: float | None = None,
    room_json: bytes | None = None,
    limit: str | None = None,
    allowed: float | None = None,
) -> bytes:
    """Return an `error`; `retry_after` is in seconds, `limit` the name of a limit that allows `allowed`.

    Raises:
        ValueError: `retry_after` or `allowed` is negative or not finite.
    """
