"""Publications between workers: records in a row, and the pushes that come of them."""

Record = tuple[str, bytes | None, bytes | None, bytes, bytes]
"""(type, sender, key, timestamp, content)"""

class SealedRecord(ValueError):  # noqa: N818 - what it is
    """A record has to be opened before anything of it can be read."""

def encode_record(
    type: str, sender: bytes | None, key: bytes | None, timestamp: bytes, content: bytes
) -> bytes:
    """Return one record. A blob is one record behind the other.

    Raises:
        ValueError: type, sender, key or timestamp is over 65534 bytes.
        UnicodeEncodeError: `type` holds a lone surrogate.
    """

def count_records(blob: bytes, start: int = 0) -> int:
    """Return how many records there are from byte `start` on.

    Raises:
        ValueError: it is no blob.
    """

def records_of(blob: bytes, start: int = 0) -> list[bytes]:
    """Return the records from byte `start` on one by one, as they stand there, sealed ones too.

    Raises:
        ValueError: it is no blob.
    """

def decode_records(blob: bytes, start: int = 0) -> list[Record]:
    """Return the records from byte `start` on.

    Raises:
        SealedRecord: one of them is sealed.
        ValueError: it is no blob.
    """

def pushes_of(
    blob: bytes, start: int, room_json: bytes, epoch: bytes, first: int, after: int = 0
) -> list[bytes]:
    """Return the pushes of the records from byte `start` on, as JSON, of those above offset `after`.

    `first` is the offset of the first record, the others follow; `room_json` and `epoch` are as in
    `encode_push`.

    Raises:
        SealedRecord: one of them is sealed.
        ValueError: it is no blob.
    """
